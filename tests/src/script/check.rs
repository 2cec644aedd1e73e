//! Checks the output of a machine against a model of its protocol.

use std::{
    cell::RefCell,
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use wirestate_core::{Instant, Machine, Outbound};

use super::{
    Op, Player, Transcript,
    strategy::{Cutter, Step, simpler_ops, simpler_step, steps},
};
use crate::{
    cases::{Smaller, print_script, search},
    failure::{Failure, Place, is_quiet, quietly},
};

/// Asserts that the output of `machine` for any list of `frames` is the one that `reference`
/// returns. As [`Check::run`], with the defaults of [`Check`].
///
/// # Panics
/// As [`Check::run`].
#[track_caller]
pub fn check<M: Machine, F: Clone + Debug + Into<Vec<u8>>>(
    machine: impl Fn() -> M,
    frames: impl Strategy<Value = F>,
    reference: impl Fn(&[F]) -> Vec<u8>,
) {
    Check::new().run_as("check", machine, frames, reference);
}

/// A check of a machine against a model of its protocol, with options.
///
/// ```
/// use std::time::Duration;
///
/// use proptest::prelude::*;
/// use wirestate_core::{Instant, echo};
/// use wirestate_testkit::{contract::Checked, script::Check};
///
/// let idle = Duration::from_secs(10);
/// let config = echo::Config::default().with_buffer(8.try_into()?).with_idle_timeout(Some(idle));
/// let limit = config.buffer_size();
/// let server = echo::Server::new(config)?;
///
/// Check::new().with_pauses(idle).run(
///     || Checked::new(server.machine(Instant::EPOCH), limit).with_deadlines(),
///     "[a-z]{0,12}\r\n",
///     |lines| lines.concat().into_bytes(),
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Check {
    cases: u32,
    pauses: Option<Duration>,
}

impl Default for Check {
    fn default() -> Self {
        Self { cases: 256, pauses: None }
    }
}

impl Check {
    /// 256 random scripts without pauses.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the number of random scripts. `PROPTEST_CASES` replaces it, too.
    #[must_use]
    pub fn with_cases(self, cases: u32) -> Self {
        Self { cases, ..self }
    }

    /// Lets time pass. The peer is slow, but stays active: less than `limit` passes
    ///
    /// - from the first byte of a frame to its last one;
    /// - from one activity to the next: a whole frame, or output that it accepts;
    /// - while output is pending, until the peer accepts some of it.
    ///
    /// So a machine whose timeouts are all at least `limit` must not time out. Set all of them to
    /// `limit`: a script seldom lasts until a longer one.
    #[must_use]
    pub fn with_pauses(self, limit: Duration) -> Self {
        Self { pauses: Some(limit), ..self }
    }

    /// Asserts that the output of `machine` for any list of `frames` is the one that `reference`
    /// returns, the model of your protocol.
    ///
    /// The frames arrive whole, cut and joined, then a FIN. Meanwhile the kernel accepts much of
    /// the output, little, or none until after the FIN; the driver sends `Release` and spurious
    /// timeouts. One script in 40 begins with a flood: frames arrive, up to 32,767, until the
    /// machine stops reading because its queue is full.
    ///
    /// At the end the rest of the output is accepted. The ending, the reason and the number of
    /// bytes sent before the FIN must be those of the same frames without cuts and delays.
    ///
    /// `machine` returns a new machine each time, with state of its own. Give it small buffers.
    /// Wrap it in [`Checked`](crate::contract::Checked), which asserts the contract. A frame that
    /// ends the connection is fine if `reference` returns no reply to the frames behind it.
    ///
    /// # Panics
    /// If the output, the ending or the reason differs, or if the machine panics. As
    /// [`for_each_case`](crate::for_each_case) does, it prints the smallest script as a test, which
    /// plays [`Op`]s by [`play_out`](super::play_out), and saves it beside the test.
    #[track_caller]
    pub fn run<M: Machine, F: Clone + Debug + Into<Vec<u8>>>(
        self,
        machine: impl Fn() -> M,
        frames: impl Strategy<Value = F>,
        reference: impl Fn(&[F]) -> Vec<u8>,
    ) {
        self.run_as("run", machine, frames, reference);
    }

    /// As [`run`](Self::run), for a call of `callee`.
    #[track_caller]
    fn run_as<M: Machine, F: Clone + Debug + Into<Vec<u8>>>(
        self,
        callee: &str,
        machine: impl Fn() -> M,
        frames: impl Strategy<Value = F>,
        reference: impl Fn(&[F]) -> Vec<u8>,
    ) {
        let Self { cases, pauses } = self;
        let place = Place::of_caller();
        let played = RefCell::new(Vec::new());
        // The transcript and the expected one, if they differ.
        let play = |script: &Script<F>| {
            played.borrow_mut().clear();
            let mut machine_under_test = machine();
            let mut run = Run::new(&mut machine_under_test, pauses, script.max_accept, &played);
            let frames = run.play_input(script);
            let output = reference(&frames);

            // The same frames without cuts and delays. Those of a flood are joined, to save time.
            let joined = if script.flood.is_empty() { 1 } else { 64 };
            let receive = |frames: &[F]| {
                let bytes = frames.iter().cloned().flat_map(Into::into).collect();
                [Op::Receive(bytes), Op::Accept(usize::MAX)]
            };
            let undisturbed = frames.chunks(joined).flat_map(receive).chain([Op::Eof]).collect();
            let disturbed = played.replace(undisturbed);
            let (answered, mut transcript) = play_undisturbed(&mut machine(), &played.borrow());
            let expected = Transcript { output, ..transcript.clone() };
            let mut difference = transcript.difference(&expected);
            if difference.is_none() {
                played.replace(disturbed);
                transcript = run.play_end(script, answered);
                difference = transcript.difference(&expected);
            }
            difference.map(|text| (text, transcript, expected))
        };
        let test = |script: Script<F>| {
            if let Some((difference, ..)) = play(&script) {
                panic!("{difference}");
            }
        };
        let Some(found) = search(&place, cases, &scripts(&frames, pauses), &test) else { return };
        let (result, _) = quietly(|| catch_unwind(AssertUnwindSafe(|| play(&found.case))));
        let differs = result.ok().flatten();
        let failure = match &differs {
            Some((difference, ..)) => Failure::at(place.location, difference),
            None => found.failure.clone(),
        };
        let mut ops = played.take();
        if let Some((_, _, expected)) = &differs {
            // The FIN was to follow output that did not come. It does come from the right machine.
            let with_fin = [&ops[..], &[Op::Accept(usize::MAX), Op::Eof]].concat();
            let plays = || super::play_out(&mut machine(), &with_fin).difference(expected);
            if !ops.contains(&Op::Eof) && is_some_or_panics(plays) {
                ops = with_fin;
            }
        }
        if !is_quiet() {
            let differs = differs.as_ref().map(|(_, actual, expected)| (actual, expected));
            let test = print_script(&place, callee, &failure, &ops, differs);
            eprint!("{}\n\n{test}", found.summary());
        }
        if let Some((difference, ..)) = differs {
            // The page is of this script, which is the last one.
            super::play_out(&mut machine(), &ops);
            panic!("{difference}");
        }
        found.fail(test);
    }
}

/// Whether `find` finds something, or panics.
fn is_some_or_panics<T>(find: impl FnOnce() -> Option<T>) -> bool {
    let (result, _) = quietly(|| catch_unwind(AssertUnwindSafe(find)));
    result.map_or(true, |found| found.is_some())
}

/// Plays `ops`, the last of which is `Eof`. Also returns the number of bytes sent before that.
fn play_undisturbed<M: Machine>(machine: &mut M, ops: &[Op]) -> (usize, Transcript) {
    let mut player = Player::new(machine);
    let mut answered = 0;
    for op in ops {
        answered = player.output().len();
        player.play(op);
    }
    player.play_out();
    (answered, player.transcript())
}

/// A script for [`Check::run`].
#[derive(Clone, Debug)]
struct Script<F> {
    /// Frames that arrive first, again and again, until the machine stops reading.
    flood: Vec<F>,
    /// How many of them arrive at first. Each time, twice as many arrive.
    burst: usize,
    /// The input and what happens meanwhile.
    steps: Vec<Step<F>>,
    /// The most bytes that the kernel accepts at once.
    max_accept: usize,
    /// Whether the FIN follows the input at once, or after its output and `last`.
    early_fin: bool,
    /// What happens after the input.
    last: Vec<Op>,
}

fn scripts<F: Clone + Debug>(
    frames: &impl Strategy<Value = F>,
    pauses: Option<Duration>,
) -> impl Strategy<Value = Script<F>> {
    // A flood takes as long as 40 other scripts.
    let flood = prop_oneof![39 => Just(Vec::new()), 1 => vec(frames, 1..=4)];
    let last = Smaller { strategy: vec(op(pauses), 0..=MAX_STEPS / 4), simpler: simpler_ops };
    let steps = steps(frames, op(pauses), MAX_STEPS, simpler_step);
    let max_accept = prop_oneof![Just(usize::MAX), Just(32), Just(3), Just(0)];
    let flood = (flood, prop_oneof![Just(1), Just(64)]);
    (flood, steps, max_accept, any::<bool>(), last).prop_map(
        |((flood, burst), steps, max_accept, early_fin, last)| Script {
            flood,
            burst,
            steps,
            max_accept,
            early_fin,
            last,
        },
    )
}

/// What happens besides the input.
fn op(pauses: Option<Duration>) -> impl Strategy<Value = Op> {
    let (weight, limit) = pauses.map_or((0, Duration::ZERO), |limit| (8, limit));
    prop_oneof![
        // All, or a part of a small or a large output.
        8 => prop_oneof![Just(usize::MAX), 1..=32_usize, Just(1000), Just(20_000)]
            .prop_map(Op::Accept),
        2 => (1..=32_usize).prop_map(Op::Buffer),
        2 => Just(Op::Release),
        2 => Just(Op::SpuriousTimeout),
        1 => Just(Op::Finished),
        weight => (0..=1000_u32).prop_map(move |share| Op::Advance(limit / 1000 * share)),
    ]
}

/// Plays a [`Script`].
struct Run<'a, 'm, M> {
    player: Player<'m, M>,
    pauses: Option<Duration>,
    max_accept: usize,
    /// The ops that were played.
    ops: &'a RefCell<Vec<Op>>,
    /// Where each frame ends in the input.
    ends: Vec<usize>,
    /// The bytes and whole frames that have arrived.
    arrived: (usize, usize),
    /// When the peer last sent a whole frame or accepted output.
    last_activity: Instant,
    /// When the first byte of a frame arrived whose last one has not.
    frame_since: Option<Instant>,
    /// Since when output is pending, or when the peer last accepted some of it.
    output_since: Option<Instant>,
}

impl<'a, 'm, M: Machine> Run<'a, 'm, M> {
    fn new(
        machine: &'m mut M,
        pauses: Option<Duration>,
        max_accept: usize,
        ops: &'a RefCell<Vec<Op>>,
    ) -> Self {
        Self {
            player: Player::new(machine),
            pauses,
            max_accept,
            ops,
            ends: Vec::new(),
            arrived: (0, 0),
            last_activity: Instant::EPOCH,
            frame_since: None,
            output_since: None,
        }
    }

    /// Plays all input, and returns its frames.
    fn play_input<F: Clone + Into<Vec<u8>>>(&mut self, script: &Script<F>) -> Vec<F> {
        let mut frames = Vec::new();
        let mut flood = script.flood.iter().cycle();
        let mut count = script.burst;
        while self.player.machine().interest().read && frames.len() + count <= MAX_FLOOD {
            let sent: Vec<F> = flood.by_ref().take(count).cloned().collect();
            if sent.is_empty() {
                break;
            }
            let mut bytes = Vec::new();
            for frame in &sent {
                bytes.extend(frame.clone().into());
                self.ends.push(self.arrived.0 + bytes.len());
            }
            frames.extend(sent);
            self.play_op(&Op::Receive(bytes));
            count *= 2;
        }
        let mut cutter = Cutter::default();
        for step in &script.steps {
            if let Step::Frame { frame, .. } = step {
                let len = frame.clone().into().len();
                self.ends.push(self.ends.last().unwrap_or(&0) + len);
                frames.push(frame.clone());
            }
            if let Some(op) = cutter.op(step.clone().into_bytes()) {
                self.play_op(&op);
            }
        }
        if let Some(op) = cutter.op(Step::More(usize::MAX)) {
            self.play_op(&op);
        }
        frames
    }

    /// Plays what follows the input. A late FIN does not arrive if there are fewer than `answered`
    /// bytes of output.
    fn play_end<F>(mut self, script: &Script<F>, answered: usize) -> Transcript {
        if script.early_fin {
            self.play_op(&Op::Eof);
        }
        for op in &script.last {
            self.play_op(op);
        }
        if !script.early_fin {
            while self.player.machine().interest().write == Outbound::Flush {
                self.play_and_record(&Op::Accept(usize::MAX));
            }
            if self.player.output().len() >= answered {
                self.play_op(&Op::Eof);
            }
        }
        self.player.play_out();
        self.player.transcript()
    }

    fn play_op(&mut self, op: &Op) {
        if let Op::Advance(time) = op {
            self.pause(*time);
        } else if let Op::Accept(n) = op {
            self.play_and_record(&Op::Accept(self.max_accept.min(*n)));
        } else if let Op::Buffer(n) = op {
            self.play_and_record(&Op::Buffer(self.max_accept.min(*n)));
        } else {
            self.play_and_record(op);
        }
    }

    fn play_and_record(&mut self, op: &Op) {
        if matches!(op, Op::Accept(0) | Op::Buffer(0)) {
            return;
        }
        let sent = self.player.output().len();
        self.ops.borrow_mut().push(op.clone());
        self.player.play(op);
        let now = self.player.peer.now;

        let accepts = matches!(op, Op::Accept(_)) && self.player.output().len() > sent;
        let (mut bytes, frames) = self.arrived;
        if let Op::Receive(received) = op {
            bytes += received.len();
        }
        let whole = self.ends.partition_point(|end| *end <= bytes);
        let has_frame = whole > frames;
        self.arrived = (bytes, whole);
        if accepts || has_frame {
            self.last_activity = now;
        }
        let restart = |since: &mut Option<Instant>, is_open: bool, restarts: bool| {
            *since = is_open.then(|| since.filter(|_| !restarts).unwrap_or(now));
        };
        let in_frame = bytes > whole.checked_sub(1).map_or(0, |last| self.ends[last]);
        restart(&mut self.frame_since, in_frame, has_frame);
        let waits = match self.player.machine().interest().write {
            Outbound::Flush | Outbound::Finish | Outbound::Reset => true,
            Outbound::Idle | Outbound::Finished => self.player.peer.unacknowledged > 0,
        };
        restart(&mut self.output_since, waits, accepts);
    }

    /// Lets `time` pass, or what is left of the limit. As a driver does, sends `Timeout` at each
    /// deadline.
    fn pause(&mut self, time: Duration) {
        let Some(limit) = self.pauses else { return };
        let since = [self.frame_since, self.output_since].into_iter().flatten();
        let since = since.fold(self.last_activity, Instant::min);
        let spent = self.player.peer.now.since(since) + Duration::from_nanos(1);
        let until = self.player.peer.now + time.min(limit.saturating_sub(spent));
        for _ in 0..MAX_TIMEOUTS {
            let deadline = self.player.machine().poll_timeout().filter(|at| *at <= until);
            let time = deadline.unwrap_or(until).since(self.player.peer.now);
            if time > Duration::ZERO {
                self.play_and_record(&Op::Advance(time));
            }
            if deadline.is_none() {
                return;
            }
            self.play_and_record(&Op::SpuriousTimeout);
        }
        panic!("machine: it passes more than {MAX_TIMEOUTS} deadlines within {time:?}");
    }
}

/// The most frames of a flood, for 64 KiB of replies of 2 bytes.
const MAX_FLOOD: usize = 1 << 15;
/// The most steps of a script.
const MAX_STEPS: usize = 80;
/// The most deadlines of a machine in one pause.
const MAX_TIMEOUTS: usize = 1000;
