//! Proptest strategies for scripts.

use std::{fmt::Debug, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};
use wirestate_core::{ConnectionError, Direction};

use super::Op;

/// Scripts of at most `max_len` ops that receive [`garbage`].
///
/// An op accepts at most 32 bytes. Give the machine buffers of that size, so that they fill up and
/// wrap: most errors are there.
pub fn ops(max_len: usize) -> impl Strategy<Value = Vec<Op>> {
    ops_of(garbage(), max_len)
}

/// Scripts of at most `max_len` ops that receive `frames` of your protocol.
///
/// Most frames arrive whole. The others are cut: the rest of a frame arrives later, alone or with
/// the next frames. The end of the last one may never arrive. A failing script shrinks to few ops
/// with whole frames.
///
/// For other inputs mix your strategy with [`garbage`] and [`truncated`] frames:
///
/// ```
/// use proptest::prelude::*;
/// use wirestate_core::{Instant, echo};
/// use wirestate_testkit::{contract::Checked, script};
///
/// let config = echo::Config::default().with_buffer(8.try_into()?);
/// let limit = config.buffer_size();
/// let server = echo::Server::new(config)?;
///
/// let commands = || "(GET|SET) [a-z]{1,8}\r\n".prop_map(String::into_bytes);
/// let input = prop_oneof![
///     8 => commands(),
///     1 => script::truncated(commands()),
///     1 => script::garbage(),
/// ];
/// proptest!(|(ops in script::ops_of(input, 50))| {
///     script::play(&mut Checked::new(server.machine(Instant::EPOCH), limit), &ops);
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn ops_of<F: Clone + Debug + Into<Vec<u8>>>(
    frames: impl Strategy<Value = F>,
    max_len: usize,
) -> impl Strategy<Value = Vec<Op>> {
    steps(frames, op(), max_len).prop_map(|steps| {
        let mut cutter = Cutter::default();
        steps.into_iter().filter_map(|step| cutter.op(step.into_bytes())).collect()
    })
}

/// Random bytes, 1 to 32.
pub fn garbage() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..=32)
}

/// `frames` without their end: at least the last byte is missing. An empty frame stays empty.
pub fn truncated<F: Debug + Into<Vec<u8>>>(
    frames: impl Strategy<Value = F>,
) -> impl Strategy<Value = Vec<u8>> {
    (frames, any::<prop::sample::Index>()).prop_map(|(frame, at)| {
        let mut frame: Vec<u8> = frame.into();
        frame.truncate(at.index(frame.len().max(1)));
        frame
    })
}

/// A step of a script: an op, or input whose cut depends on the steps before.
#[derive(Clone, Debug)]
pub(super) enum Step<F> {
    /// This frame arrives, behind all bytes held back. The last `held` bytes of all are held back.
    Frame {
        frame: F,
        held: usize,
    },
    /// The next bytes of those held back arrive.
    More(usize),
    Op(Op),
}

impl<F> Step<F> {
    /// The same step with its frame as bytes.
    pub(super) fn into_bytes(self) -> Step<Vec<u8>>
    where
        F: Into<Vec<u8>>,
    {
        match self {
            Self::Frame { frame, held } => Step::Frame { frame: frame.into(), held },
            Self::More(n) => Step::More(n),
            Self::Op(op) => Step::Op(op),
        }
    }
}

/// At most `max_len` steps: three of ten are frames, if `op` has the weight of all other ops.
pub(super) fn steps<F: Clone + Debug>(
    frames: impl Strategy<Value = F>,
    op: impl Strategy<Value = Op>,
    max_len: usize,
) -> impl Strategy<Value = Vec<Step<F>>> {
    // The first alternatives are those that a failing script shrinks to.
    let held = prop_oneof![8 => Just(0), 2 => 1..=3_usize, 2 => size(), 1 => Just(usize::MAX)];
    let step = prop_oneof![
        12 => (frames, held).prop_map(|(frame, held)| Step::Frame { frame, held }),
        25 => op.prop_map(Step::Op),
        3 => size().prop_map(Step::More),
    ];
    vec(step, 0..=max_len)
}

/// Sizes below 64 KiB. Each order of magnitude is equally frequent.
fn size() -> impl Strategy<Value = usize> {
    (any::<u16>(), 0..u16::BITS).prop_map(|(size, shift)| usize::from(size >> shift))
}

/// Cuts frames: holds back the bytes that arrive later.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    held: Vec<u8>,
}

impl Cutter {
    /// The op of `step`, if anything happens now.
    pub(super) fn op(&mut self, step: Step<Vec<u8>>) -> Option<Op> {
        let n = match step {
            Step::Frame { frame, held } => {
                self.held.extend(frame);
                self.held.len().saturating_sub(held)
            }
            Step::More(n) => n.min(self.held.len()),
            Step::Op(op) => return Some(op),
        };
        (n > 0).then(|| Op::Receive(self.held.drain(..n).collect()))
    }
}

fn op() -> impl Strategy<Value = Op> {
    // Ops that end the connection are rare, so that other ops come before them.
    prop_oneof![
        10 => (1..=32_usize).prop_map(Op::Accept),
        4 => (1..=32_usize).prop_map(Op::Buffer),
        4 => Just(Op::Release),
        3 => (0..=120_000_u64).prop_map(|millis| Op::Advance(Duration::from_millis(millis))),
        2 => Just(Op::SpuriousTimeout),
        2 => Just(Op::Finished),
        1 => Just(Op::Timeout),
        1 => Just(Op::Eof),
        1 => Just(Op::ShutDown),
        1 => (direction(), error()).prop_map(|(direction, error)| Op::Error(direction, error)),
    ]
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Read), Just(Direction::Write)]
}

fn error() -> impl Strategy<Value = ConnectionError> {
    prop_oneof![
        5 => select(&CONNECTION_ERRORS[..5]),
        1 => any::<i32>().prop_map(|errno| ConnectionError::Other { errno }),
    ]
}

/// One [`ConnectionError`] of each kind.
pub const CONNECTION_ERRORS: [ConnectionError; 6] = [
    ConnectionError::Reset,
    ConnectionError::TimedOut,
    ConnectionError::Unreachable,
    ConnectionError::WriteZero,
    ConnectionError::Layer,
    ConnectionError::Other { errno: 5 },
];

#[cfg(test)]
mod tests {
    use proptest::{
        strategy::ValueTree as _,
        test_runner::{TestError, TestRunner},
    };

    use super::*;

    fn received(ops: &[Op]) -> Vec<&[u8]> {
        ops.iter()
            .filter_map(|op| if let Op::Receive(bytes) = op { Some(&bytes[..]) } else { None })
            .collect()
    }

    #[test]
    fn frames_arrive_whole_cut_and_joined() {
        let (mut whole, mut cut, mut joined) = (0, 0, 0);
        let mut runner = TestRunner::deterministic();
        for _ in 0..100 {
            let ops = ops_of("<[a-z]{3}>", 50).new_tree(&mut runner).unwrap().current();
            for piece in received(&ops) {
                match (piece.first(), piece.last()) {
                    (Some(b'<'), Some(b'>')) if piece.len() == 5 => whole += 1,
                    (Some(b'<'), Some(b'>')) => joined += 1,
                    _ => cut += 1,
                }
            }
            let input = received(&ops).concat();
            assert!(input.chunks(5).all(|frame| frame[0] == b'<'), "{ops:?}");
        }
        assert!(whole > 200 && cut > 200 && joined > 20, "{whole} {cut} {joined}");
    }

    #[test]
    fn a_failing_script_shrinks_to_few_ops_with_whole_frames() {
        let result = TestRunner::deterministic().run(&ops_of("<[a-z]{0,3}>", 50), |ops| {
            prop_assert!(received(&ops).len() < 2);
            Ok(())
        });
        let Err(TestError::Fail(_, ops)) = result else { panic!("{result:?}") };
        assert_eq!(ops, [Op::Receive(b"<>".into()), Op::Receive(b"<>".into())]);
    }

    proptest! {
        #[test]
        fn a_truncated_frame_lacks_its_end(frame in truncated("[a-z]{0,9}!")) {
            prop_assert!(!frame.contains(&b'!'));
        }
    }
}
