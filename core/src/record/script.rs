//! A recorded session as a script of the testkit, which other events of the machine may follow.

use alloc::{collections::VecDeque, string::String, vec::Vec};
use core::{
    fmt,
    task::{Context, Waker},
    time::Duration,
};

use super::{Recording, What};
use crate::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, Reason,
    machine::MAX_SLICES,
};

/// An operation of a script. It means the same as the `Op` of the testkit with the same name.
/// `Display` is its source code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Receive(Vec<u8>),
    Eof,
    Error(Direction, ConnectionError),
    Accept(usize),
    Buffer(usize),
    Finished,
    Advance(Duration),
    Timeout,
    SpuriousTimeout,
    ShutDown,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receive(bytes) => {
                write!(f, "Op::Receive(b\"{}\".to_vec())", bytes.escape_ascii())
            }
            Self::Eof => f.write_str("Op::Eof"),
            Self::Error(direction, ConnectionError::Other { errno }) => {
                let error = format_args!("ConnectionError::Other {{ errno: {errno} }}");
                write!(f, "Op::Error(Direction::{direction:?}, {error})")
            }
            Self::Error(direction, error) => {
                write!(f, "Op::Error(Direction::{direction:?}, ConnectionError::{error:?})")
            }
            Self::Accept(usize::MAX) => f.write_str("Op::Accept(usize::MAX)"),
            Self::Accept(n) => write!(f, "Op::Accept({n})"),
            Self::Buffer(usize::MAX) => f.write_str("Op::Buffer(usize::MAX)"),
            Self::Buffer(n) => write!(f, "Op::Buffer({n})"),
            Self::Finished => f.write_str("Op::Finished"),
            Self::Advance(time) if time.subsec_nanos() == 0 => {
                write!(f, "Op::Advance(Duration::from_secs({}))", time.as_secs())
            }
            Self::Advance(time) => {
                write!(f, "Op::Advance(Duration::from_nanos({}))", time.as_nanos())
            }
            Self::Timeout => f.write_str("Op::Timeout"),
            Self::SpuriousTimeout => f.write_str("Op::SpuriousTimeout"),
            Self::ShutDown => f.write_str("Op::ShutDown"),
        }
    }
}

/// The script of the first `steps` steps of `recording`, without what came from outside. `None` if
/// it has no payloads, or events that a script has not.
pub(super) fn script(recording: &Recording<'_>, steps: usize) -> Option<Vec<Op>> {
    let last = recording.steps().take(steps).filter_map(|step| match step.what {
        What::Event(Event::Timeout { unacknowledged }) => Some(unacknowledged),
        What::Start
        | What::Received { .. }
        | What::Sent { .. }
        | What::Finished { .. }
        | What::Event(_)
        | What::Shared
        | What::Note(_) => None,
    });
    // A peer that has not acknowledged the output in the end is one that acknowledges nothing.
    let is_acknowledged = last.last().is_none_or(|unacknowledged| unacknowledged == 0);
    let (mut ops, mut now) = (Vec::new(), recording.header().started_at);
    for step in recording.steps().take(steps) {
        if step.side != 0 {
            return None;
        }
        if step.at > now {
            ops.push(Op::Advance(step.at.since(now)));
            now = step.at;
        }
        match step.what {
            What::Start | What::Shared => {}
            What::Received { bytes, .. } => ops.push(Op::Receive(bytes?.to_vec())),
            What::Sent { len, .. } if is_acknowledged => ops.push(Op::Accept(len)),
            What::Sent { len, .. } => ops.push(Op::Buffer(len)),
            What::Finished { .. } => ops.push(Op::Finished),
            What::Event(Event::Eof) => ops.push(Op::Eof),
            What::Event(Event::Error(direction, error)) => ops.push(Op::Error(direction, error)),
            What::Event(Event::Timeout { .. }) => ops.push(Op::SpuriousTimeout),
            What::Event(Event::ShutDown) => ops.push(Op::ShutDown),
            What::Event(Event::Read(_) | Event::Written(_) | Event::Finished | Event::Release)
            | What::Note(_) => return None,
        }
    }
    Some(ops)
}

/// What a script leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) input: usize,
    pub(super) output: Vec<u8>,
    /// Whether it has sent a FIN (false) or an RST (true).
    pub(super) ending: Option<bool>,
    pub(super) label: Option<&'static str>,
    pub(super) interest: Interest,
    pub(super) panic: Option<String>,
}

/// Plays `ops` to `machine`.
pub(super) fn play<M: Machine>(machine: M, ops: &[Op]) -> Outcome {
    let mut player = Player {
        machine,
        now: Instant::EPOCH,
        arrived: VecDeque::new(),
        write_error: None,
        unacknowledged: 0,
        input: 0,
        output: Vec::new(),
        ending: None,
    };
    let panic = super::replay::panic_of(|| ops.iter().for_each(|op| player.play(op)));
    let (interest, label) = match panic {
        None => {
            let reason = player.machine.reason();
            (player.machine.interest(), reason.map(|reason| reason.label()))
        }
        Some(_) => (Interest::DONE, None),
    };
    let Player { machine, input, output, ending, .. } = player;
    // After a panic, even its drop may panic.
    super::replay::panic_of(|| drop(machine));
    Outcome { input, output, ending, label, interest, panic }
}

struct Player<M> {
    machine: M,
    now: Instant,
    /// Input that has arrived and was not read yet.
    arrived: VecDeque<Arrived>,
    write_error: Option<ConnectionError>,
    unacknowledged: usize,
    input: usize,
    output: Vec<u8>,
    ending: Option<bool>,
}

enum Arrived {
    Bytes(Vec<u8>),
    /// `None`: the end of the input.
    End(Option<ConnectionError>),
}

impl<M: Machine> Player<M> {
    fn play(&mut self, op: &Op) {
        match op {
            Op::Receive(bytes) if bytes.is_empty() => {}
            Op::Receive(bytes) => self.arrived.push_back(Arrived::Bytes(bytes.clone())),
            Op::Eof => self.arrived.push_back(Arrived::End(None)),
            Op::Error(Direction::Read, error) => {
                self.arrived.push_back(Arrived::End(Some(*error)));
            }
            Op::Error(Direction::Write, error) => {
                let can_fail = match self.machine.interest().write {
                    Outbound::Idle => self.ending.is_none() && self.write_error.is_none(),
                    Outbound::Flush | Outbound::Finish => true,
                    Outbound::Finished | Outbound::Reset => false,
                };
                if can_fail {
                    self.write_error = Some(*error);
                    self.handle(Event::Error(Direction::Write, *error));
                }
            }
            Op::Accept(n) => {
                self.accept(*n);
                self.unacknowledged = 0;
            }
            Op::Buffer(n) => self.unacknowledged += self.accept(*n),
            Op::Finished => match self.machine.interest().write {
                Outbound::Idle | Outbound::Flush | Outbound::Finished => {}
                wanted @ (Outbound::Finish | Outbound::Reset) => {
                    self.ending = Some(wanted == Outbound::Reset);
                    self.handle(Event::Finished);
                }
            },
            Op::Advance(time) => self.now += *time,
            Op::Timeout => self.time_out(),
            Op::SpuriousTimeout => {
                self.handle(Event::Timeout { unacknowledged: self.unacknowledged });
            }
            Op::ShutDown => self.handle(Event::ShutDown),
        }
        self.poll_shared();
        self.read();
    }

    fn handle(&mut self, event: Event) {
        self.machine.handle(self.now, event);
    }

    fn time_out(&mut self) {
        let state = |machine: &M| (machine.interest(), machine.status());
        let before = state(&self.machine);
        for _ in 0..=MAX_OBSERVATIONS {
            let Some(deadline) = self.machine.poll_timeout() else { break };
            self.now = self.now.max(deadline);
            self.handle(Event::Timeout { unacknowledged: self.unacknowledged });
            if state(&self.machine) != before {
                break;
            }
        }
    }

    /// Returns how many bytes were accepted.
    fn accept(&mut self, n: usize) -> usize {
        if n == 0 || self.machine.interest().write != Outbound::Flush {
            return 0;
        }
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = self.machine.write_bufs(&mut bufs);
        let before = self.output.len();
        self.output.extend(bufs[..count].iter().copied().flatten().take(n));
        let accepted = self.output.len() - before;
        self.handle(Event::Written(accepted));
        accepted
    }

    fn poll_shared(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..MAX_POLLS {
            if !self.machine.poll_shared(self.now, cx) {
                return;
            }
        }
    }

    fn read(&mut self) {
        while self.machine.interest().read {
            let event = match self.arrived.pop_front() {
                None => return,
                Some(Arrived::Bytes(mut bytes)) => {
                    let buf = self.machine.read_buf();
                    let n = buf.len().min(bytes.len());
                    let rest = bytes.split_off(n);
                    buf[..n].copy_from_slice(&bytes);
                    self.input += n;
                    if !rest.is_empty() {
                        self.arrived.push_front(Arrived::Bytes(rest));
                    }
                    Event::Read(n)
                }
                Some(Arrived::End(error)) => error
                    .or(self.write_error)
                    .map_or(Event::Eof, |error| Event::Error(Direction::Read, error)),
            };
            self.handle(event);
            self.poll_shared();
        }
    }
}

/// The most timeouts that a machine spends on counting acknowledged bytes before it reports a
/// stall.
const MAX_OBSERVATIONS: usize = 8;
/// The most times in a row that `poll_shared` may return true.
const MAX_POLLS: usize = 10_000;
