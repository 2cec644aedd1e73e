//! Proptest strategies for scripts.

use std::{fmt::Debug, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};
use wirestate_core::{ConnectionError, Direction};

use super::Op;
use crate::cases::Smaller;

/// Scripts of at most `max_len` ops that receive [`garbage`].
///
/// An op accepts at most 32 bytes. Give the machine buffers of that size, so that they fill up and
/// wrap: most errors are there.
pub fn ops(max_len: usize) -> impl Strategy<Value = Vec<Op>> {
    cut(steps(garbage(), op(), max_len, simpler_garbage))
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
/// use wirestate_testkit::{contract::Checked, for_each_case, script};
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
/// for_each_case(256, script::ops_of(input, 50), |ops| {
///     script::play(&mut Checked::new(server.machine(Instant::EPOCH), limit), &ops);
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn ops_of<F: Clone + Debug + Into<Vec<u8>>>(
    frames: impl Strategy<Value = F>,
    max_len: usize,
) -> impl Strategy<Value = Vec<Op>> {
    cut(steps(frames, op(), max_len, simpler_step))
}

/// The ops of a script.
fn cut<F: Debug + Into<Vec<u8>>>(
    steps: impl Strategy<Value = Vec<Step<F>>>,
) -> impl Strategy<Value = Vec<Op>> {
    steps.prop_map(|steps| {
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
/// `simpler` returns steps to try instead of one in a failing script.
pub(super) fn steps<F: Clone + Debug>(
    frames: impl Strategy<Value = F>,
    op: impl Strategy<Value = Op>,
    max_len: usize,
    simpler: fn(&Step<F>) -> Vec<Step<F>>,
) -> impl Strategy<Value = Vec<Step<F>>> {
    // The first alternatives are those that a failing script shrinks to.
    let held = prop_oneof![8 => Just(0), 2 => 1..=3_usize, 2 => size(), 1 => Just(usize::MAX)];
    let step = prop_oneof![
        12 => (frames, held).prop_map(|(frame, held)| Step::Frame { frame, held }),
        25 => op.prop_map(Step::Op),
        3 => size().prop_map(Step::More),
    ];
    Smaller { strategy: vec(step, 0..=max_len), simpler }
}

/// The same step with smaller numbers, and the same frame.
pub(super) fn simpler_step<F: Clone>(step: &Step<F>) -> Vec<Step<F>> {
    match step {
        Step::Frame { held: 0, .. } | Step::More(_) => Vec::new(),
        Step::Frame { frame, .. } => vec![Step::Frame { frame: frame.clone(), held: 0 }],
        Step::Op(op) => simpler_ops(op).into_iter().map(Step::Op).collect(),
    }
}

/// As [`simpler_step`], if any bytes are a frame.
fn simpler_garbage(step: &Step<Vec<u8>>) -> Vec<Step<Vec<u8>>> {
    let mut steps = simpler_step(step);
    if let Step::Frame { frame, held } = step {
        let frames = simpler_bytes(frame).into_iter();
        steps.extend(frames.map(|frame| Step::Frame { frame, held: *held }));
    }
    steps
}

/// Shorter and simpler bytes.
fn simpler_bytes(bytes: &[u8]) -> Vec<Vec<u8>> {
    let shorter = smaller(bytes.len()).into_iter().map(|n| bytes[..n].to_vec());
    let later = smaller(bytes.len()).into_iter().map(|n| bytes[bytes.len() - n..].to_vec());
    let equal = vec![b'a'; bytes.len()];
    let distinct: Vec<u8> = (b'a'..=b'z').cycle().take(bytes.len()).collect();
    let simpler = match bytes {
        bytes if bytes == equal => Vec::new(),
        bytes if bytes == distinct => vec![equal],
        _ => vec![equal, distinct],
    };
    shorter.chain(later).chain(simpler).collect()
}

/// Smaller numbers, but not 0.
fn smaller(n: usize) -> Vec<usize> {
    [1, n / 2, n.saturating_sub(1)].into_iter().filter(|smaller| (1..n).contains(smaller)).collect()
}

/// The same op with smaller or rounder numbers.
pub(crate) fn simpler_ops(op: &Op) -> Vec<Op> {
    match op {
        Op::Accept(n) if *n < usize::MAX => smaller(*n).into_iter().map(Op::Accept).collect(),
        Op::Buffer(n) => smaller(*n).into_iter().map(Op::Buffer).collect(),
        Op::Advance(time) => {
            let smaller = |unit: Duration| {
                let rest = time.as_nanos() % unit.as_nanos();
                let rest = Duration::from_nanos(u64::try_from(rest).unwrap_or(0));
                time.checked_sub(rest).filter(|smaller| smaller < time)
            };
            let units = [1000, 60, 10, 1].map(Duration::from_secs);
            units.into_iter().filter_map(smaller).map(Op::Advance).collect()
        }
        Op::Receive(_)
        | Op::Eof
        | Op::Error(..)
        | Op::Accept(_)
        | Op::Unacknowledged(_)
        | Op::Finished
        | Op::Timeout
        | Op::SpuriousTimeout
        | Op::Release
        | Op::ShutDown => Vec::new(),
    }
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
