//! A recorded session as a script of the testkit.

use alloc::{collections::VecDeque, string::String, vec::Vec};
use core::{
    fmt,
    task::{Context, Waker},
    time::Duration,
};

use super::{Digest, Recording, ShrinkError, Step, What, replay::panic_of};
use crate::{
    ConnectionError, Direction, Event, Instant, Machine, Outbound, Reason, machine::MAX_SLICES,
};

/// An operation of a script. It means the same as the `Op` of the testkit with the same name.
/// `Display` is its source code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Receive(Vec<u8>),
    Eof,
    Error(Direction, ConnectionError),
    Accept(usize),
    Unacknowledged(usize),
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
            Self::Unacknowledged(n) => write!(f, "Op::Unacknowledged({n})"),
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

/// Translates the steps of a recording to ops, without what came from outside.
///
/// Played to the recorded machine, the ops of each step lead to the step's event at its time: the
/// machine wants to read what it has read, and offers what it has sent.
#[derive(Debug)]
pub(super) struct Translation {
    now: Instant,
    /// What the player counts.
    unacknowledged: usize,
}

impl Translation {
    pub(super) fn new(recording: &Recording<'_>) -> Self {
        Self { now: recording.header().started_at, unacknowledged: 0 }
    }

    /// Appends the ops of the next step.
    ///
    /// # Errors
    /// A script cannot say what happened.
    pub(super) fn add(&mut self, step: &Step<'_>, ops: &mut Vec<Op>) -> Result<(), ShrinkError> {
        if step.side != 0 {
            return Err(ShrinkError::TwoSides);
        }
        if step.at > self.now {
            ops.push(Op::Advance(step.at.since(self.now)));
            self.now = step.at;
        }
        let op = match step.what {
            // The player polls shared state after each op.
            What::Start | What::Shared => return Ok(()),
            What::Received { bytes, .. } => {
                Op::Receive(bytes.ok_or(ShrinkError::NoPayloads)?.to_vec())
            }
            What::Sent { len, .. } => {
                self.unacknowledged = 0;
                Op::Accept(len)
            }
            What::Finished { .. } => Op::Finished,
            What::Event(Event::Eof) => Op::Eof,
            What::Event(Event::Error(direction, error)) => Op::Error(direction, error),
            What::Event(Event::Timeout { unacknowledged }) => {
                if unacknowledged != self.unacknowledged {
                    ops.push(Op::Unacknowledged(unacknowledged));
                    self.unacknowledged = unacknowledged;
                }
                Op::SpuriousTimeout
            }
            What::Event(Event::ShutDown) => Op::ShutDown,
            What::Event(Event::Read(_) | Event::Written(_) | Event::Finished | Event::Release)
            | What::Note(_) => return Err(ShrinkError::TwoSides),
        };
        ops.push(op);
        Ok(())
    }
}

/// What a machine has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) input: usize,
    pub(super) output: u64,
    /// The lower half of the digest of the output.
    pub(super) digest: u32,
    /// Whether it has sent a FIN (false) or an RST (true).
    pub(super) ending: Option<bool>,
    /// Whether it has ended, and the label of its reason. `None`: not known.
    pub(super) end: Option<(bool, Option<String>)>,
}

impl Facts {
    /// Adds what the recorded machine has done in a step.
    pub(super) fn add(&mut self, what: What<'_>) {
        match what {
            What::Received { len, .. } => self.input += len,
            What::Sent { len, digest } => {
                self.output += len as u64;
                self.digest = digest;
            }
            What::Finished { is_reset } => self.ending = Some(is_reset),
            What::Start | What::Event(_) | What::Shared | What::Note(_) => {}
        }
    }
}

/// Plays `ops` to `machine`. An error is the message of its panic.
pub(super) fn play<M: Machine>(machine: M, ops: &[Op]) -> Result<Facts, String> {
    with_player(machine, |player| {
        player.play(ops)?;
        player.facts(true)
    })
}

/// Calls `f` with a player of `machine`.
pub(super) fn with_player<M: Machine, T>(
    mut machine: M,
    f: impl FnOnce(&mut Player<'_, M>) -> T,
) -> T {
    let result = f(&mut Player {
        machine: &mut machine,
        now: Instant::EPOCH,
        arrived: VecDeque::new(),
        write_error: None,
        unacknowledged: 0,
        input: 0,
        output: Vec::new(),
        digest: Digest::default(),
        ending: None,
    });
    // After a panic, even its drop may panic.
    panic_of(|| drop(machine));
    result
}

/// Plays ops to a machine, as the player of the testkit does.
pub(super) struct Player<'a, M> {
    machine: &'a mut M,
    now: Instant,
    /// Input that has arrived and was not read yet.
    arrived: VecDeque<Arrived>,
    write_error: Option<ConnectionError>,
    unacknowledged: usize,
    input: usize,
    output: Vec<u8>,
    digest: Digest,
    ending: Option<bool>,
}

enum Arrived {
    Bytes(Vec<u8>),
    /// `None`: the end of the input.
    End(Option<ConnectionError>),
}

impl<M: Machine> Player<'_, M> {
    /// Plays `ops`. An error is the message of a panic.
    pub(super) fn play(&mut self, ops: &[Op]) -> Result<(), String> {
        panic_of(|| ops.iter().for_each(|op| self.play_op(op))).map_or(Ok(()), Err)
    }

    /// What the machine has done. With `end`, also whether it has ended. An error is the message of
    /// a panic.
    pub(super) fn facts(&self, end: bool) -> Result<Facts, String> {
        let mut facts = Facts {
            input: self.input,
            output: self.digest.len(),
            digest: self.digest.short(),
            ending: self.ending,
            end: None,
        };
        let panic = panic_of(|| {
            let label = || self.machine.reason().map(|reason| reason.label().into());
            facts.end = end.then(|| (self.machine.interest().is_done(), label()));
        });
        panic.map_or(Ok(facts), Err)
    }

    /// The bytes that the machine has sent.
    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    fn play_op(&mut self, op: &Op) {
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
            Op::Unacknowledged(n) => self.unacknowledged = *n,
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
        let before = state(self.machine);
        for _ in 0..=MAX_OBSERVATIONS {
            let Some(deadline) = self.machine.poll_timeout() else { break };
            self.now = self.now.max(deadline);
            self.handle(Event::Timeout { unacknowledged: self.unacknowledged });
            if state(self.machine) != before {
                break;
            }
        }
    }

    fn accept(&mut self, n: usize) {
        if n == 0 || self.machine.interest().write != Outbound::Flush {
            return;
        }
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = self.machine.write_bufs(&mut bufs);
        let before = self.output.len();
        self.output.extend(bufs[..count].iter().copied().flatten().take(n));
        self.digest.write(&self.output[before..]);
        self.handle(Event::Written(self.output.len() - before));
    }

    fn poll_shared(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..MAX_POLLS {
            if !self.machine.poll_shared(self.now, cx) {
                return;
            }
        }
        panic!("poll_shared has returned true {MAX_POLLS} times in a row");
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
