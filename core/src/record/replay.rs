//! Replay: a machine gets the events of a recording again.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::task::{Context, Waker};

use super::{Digest, End, Ended, Recordable, Recording, Step, What, recorder::add_output};
use crate::{Event, Instant, Interest, Machine, Outbound, Reason, Status};

/// The result of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The first difference from the recording. `None`: the output and the end are the same.
    pub difference: Option<Difference>,
    /// How many events were replayed.
    pub events: u64,
    /// How many bytes the machine has sent to each side.
    pub sent: [u64; 2],
    /// The [`Digest`] of the bytes sent to each side.
    pub digests: [u64; 2],
    /// The label and the text of the machine's reason, if it has ended.
    pub reason: Option<(String, String)>,
    /// The message of a panic, if the machine has panicked as the recorded one did.
    pub panic: Option<String>,
}

/// The first difference between a recording and its replay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset} of the recording, at {at}: {kind}")]
pub struct Difference {
    /// Where the event is in the recording, in bytes.
    pub offset: usize,
    /// When it happened.
    pub at: Instant,
    /// How many events were the same before it.
    pub events: u64,
    /// What differs.
    pub kind: DifferenceKind,
}

/// What differs between a recording and its replay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// The recording has no payloads.
    #[error("the received bytes are not in the recording")]
    NoPayloads,
    /// The machine does not read, but the recorded one has received something.
    #[error("the recorded machine read, but this one wants {0:?}")]
    ReadsNot(Interest),
    /// The machine accepts fewer bytes in one read than the recorded one.
    #[error("the recorded machine read {recorded} bytes at once, but this one accepts {accepted}")]
    Accepted {
        /// The recorded bytes.
        recorded: usize,
        /// The size of the buffer.
        accepted: usize,
    },
    /// The machine has less output than the recorded one has sent.
    #[error("the recorded machine sent {recorded} bytes, but this one offers {offered}")]
    Offered {
        /// The recorded bytes.
        recorded: usize,
        /// The bytes that the machine offers.
        offered: usize,
    },
    /// The bytes sent differ.
    #[error("the output differs: one of the {len} bytes from byte {from} on")]
    Output {
        /// How many bytes were sent in this event.
        len: usize,
        /// How many bytes were sent before.
        from: u64,
    },
    /// The recorded machine has ended its output, but this one wants something else.
    #[error("the recorded machine sent {recorded}, but this one wants {wanted:?}")]
    Finish {
        /// A FIN or an RST.
        recorded: &'static str,
        /// What the machine wants.
        wanted: Outbound,
    },
    /// A write cannot fail any more: the machine sends nothing more.
    #[error("a write of the recorded machine failed, but this one wants {0:?}")]
    SendsNot(Outbound),
    /// The recorded machine found news in shared state.
    #[error("the recorded machine found news in shared state, but this one found none")]
    NoNews,
    /// What the recorded machine has used from outside cannot be restored.
    #[error("what comes from outside the machine cannot be restored: {0}")]
    Missing(&'static str),
    /// The machine has used something else from outside.
    #[error("the machine has used something else from outside than the recorded one")]
    Outside,
    /// The machine has ended, and the recorded one has not.
    #[error("the machine has ended, but the recorded one has not")]
    HasEnded,
    /// A record is not for this machine.
    #[error("the record is not for this machine")]
    Unknown,
    /// The ends differ.
    #[error("the recorded machine ended with {recorded}, but this one with {actual}")]
    End {
        /// The recorded end: a label, or what has happened instead.
        recorded: String,
        /// That of the machine.
        actual: String,
    },
    /// The machine has panicked.
    #[error("the machine panicked: {0}")]
    Panicked(String),
}

/// Replays `recording` to a machine that was made as the recorded one. Stops at the first
/// difference.
///
/// A machine that panics is a difference (with the feature `std`).
pub fn replay<M: Recordable>(machine: &mut M, recording: &Recording<'_>) -> Replay {
    replay_observed(machine, recording, |_, _| ())
}

/// A machine after a step of a replay that is the same as the recorded one.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Its status.
    pub status: Status,
    /// Its next deadline.
    pub deadline: Option<Instant>,
    /// The bytes of the step if it is [`What::Sent`], otherwise none. The digest of all output so
    /// far is the recorded one.
    pub sent: &'a [u8],
}

/// As [`replay`], and calls `observe` after each step that is the same.
pub fn replay_observed<M: Recordable>(
    machine: &mut M,
    recording: &Recording<'_>,
    mut observe: impl FnMut(&Step<'_>, Observed<'_>),
) -> Replay {
    machine.begin_recording();
    let mut outside = Vec::new();
    let mut player = Sides::default();
    let run = run(recording, |step| {
        machine.restore_outside(step.outside).map_err(DifferenceKind::Missing)?;
        if step.what != What::Start {
            player.play(machine, step)?;
        }
        outside.clear();
        machine.take_outside(&mut outside);
        if outside != step.outside {
            return Err(DifferenceKind::Outside);
        }
        let (status, deadline) = (machine.status(), machine.poll_timeout());
        observe(step, Observed { status, deadline, sent: player.sent(step.what) });
        Ok(())
    });
    let reason = if run.has_panicked() { None } else { reason_of(machine) };
    run.end(recording, &player, reason)
}

/// The reason of a machine that has ended.
fn reason_of(machine: &impl Machine) -> Option<(String, String)> {
    let reason = machine.interest().is_done().then(|| machine.reason()).flatten()?;
    Some((reason.label().into(), reason.to_string()))
}

/// The steps of a recording that were replayed.
pub(crate) struct Run {
    difference: Option<Difference>,
    events: u64,
    last: (usize, Instant),
}

/// Calls `play` for each step until one differs.
pub(crate) fn run(
    recording: &Recording<'_>,
    mut play: impl FnMut(&Step<'_>) -> Result<(), DifferenceKind>,
) -> Run {
    let mut run = Run { difference: None, events: 0, last: (0, recording.header().started_at) };
    for step in recording.steps() {
        run.last = (step.offset, step.at);
        if let Err(kind) = catching(|| play(&step)) {
            run.differs(kind);
            break;
        }
        run.events += u64::from(step.what != What::Start);
    }
    run
}

impl Run {
    fn differs(&mut self, kind: DifferenceKind) {
        let ((offset, at), events) = (self.last, self.events);
        self.difference.get_or_insert(Difference { offset, at, events, kind });
    }

    pub(crate) fn has_panicked(&self) -> bool {
        let kind = self.difference.as_ref().map(|difference| &difference.kind);
        matches!(kind, Some(DifferenceKind::Panicked(_)))
    }

    /// Compares the ends.
    pub(crate) fn end(
        mut self,
        recording: &Recording<'_>,
        sides: &Sides,
        reason: Option<(String, String)>,
    ) -> Replay {
        let end = recording.end().filter(|_| recording.stop().is_none());
        let has_panicked = end.is_some_and(|end| end.ended == Ended::Panicked);
        // The start is a step, and so is the one with the panic.
        let is_last = recording.steps().count() as u64 == self.events + 2;
        let panic = match &mut self.difference {
            Some(Difference { kind: DifferenceKind::Panicked(message), .. })
                if has_panicked && is_last =>
            {
                Some(core::mem::take(message))
            }
            Some(_) | None => None,
        };
        if panic.is_some() {
            self.difference = None;
        } else if let Some(end) = end
            && let Some(kind) = difference_of_ends(&end, reason.as_ref())
        {
            self.differs(kind);
        }
        Replay {
            difference: self.difference,
            events: self.events,
            sent: sides.output.map(|output| output.len()),
            digests: sides.output.map(|output| output.value()),
            reason,
            panic,
        }
    }
}

fn difference_of_ends(end: &End<'_>, reason: Option<&(String, String)>) -> Option<DifferenceKind> {
    let actual = reason.map(|(label, _)| &**label);
    let recorded = match end.ended {
        Ended::Reason(_) if actual == Some(end.label) => return None,
        Ended::Reason(_) => end.label,
        // A machine that is dropped may have ended.
        Ended::Dropped => return None,
        Ended::Panicked => "a panic",
    };
    let actual = actual.unwrap_or("no reason: it has not ended");
    Some(DifferenceKind::End { recorded: recorded.into(), actual: actual.into() })
}

/// What a replay remembers of the sides of a connection.
#[derive(Debug, Default)]
pub(crate) struct Sides {
    output: [Digest; 2],
    /// The bytes of the last [`What::Sent`].
    sent: Vec<u8>,
    /// Whether no write can fail any more.
    sends_no_more: [bool; 2],
}

impl Sides {
    /// The bytes that the last step has sent, which was `what`.
    pub(crate) fn sent(&self, what: What<'_>) -> &[u8] {
        if matches!(what, What::Sent { .. }) { &self.sent } else { &[] }
    }

    /// A new connection has taken the place of a side.
    pub(crate) fn reopen(&mut self, side: usize) {
        self.sends_no_more[side] = false;
    }

    /// Plays a step, if the contract allows it.
    pub(crate) fn play(
        &mut self,
        machine: &mut impl Machine,
        step: &Step<'_>,
    ) -> Result<(), DifferenceKind> {
        let (now, interest) = (step.at, machine.interest());
        let reads = || if interest.read { Ok(()) } else { Err(DifferenceKind::ReadsNot(interest)) };
        let event = match step.what {
            What::Received { len, bytes } => {
                reads()?;
                let bytes = bytes.ok_or(DifferenceKind::NoPayloads)?;
                let buf = machine.read_buf();
                let accepted = buf.len();
                let buf = buf.get_mut(..len).filter(|buf| !buf.is_empty());
                let buf = buf.ok_or(DifferenceKind::Accepted { recorded: len, accepted })?;
                buf.copy_from_slice(bytes);
                Event::Read(len)
            }
            What::Sent { len, digest } => {
                let (output, sent) = (&mut self.output[step.side], &mut self.sent);
                sent.clear();
                let from = output.len();
                let offered = match interest.write {
                    Outbound::Flush => add_output(machine, len, |bytes| {
                        output.write(bytes);
                        sent.extend_from_slice(bytes);
                    }),
                    Outbound::Idle | Outbound::Finish | Outbound::Finished | Outbound::Reset => 0,
                };
                if offered < len || len == 0 {
                    return Err(DifferenceKind::Offered { recorded: len, offered });
                }
                if output.short() != digest {
                    return Err(DifferenceKind::Output { len, from });
                }
                Event::Written(len)
            }
            What::Finished { is_reset } => {
                let recorded = if is_reset { Outbound::Reset } else { Outbound::Finish };
                let shown = if is_reset { "an RST" } else { "a FIN" };
                if interest.write != recorded {
                    let wanted = interest.write;
                    return Err(DifferenceKind::Finish { recorded: shown, wanted });
                }
                self.sends_no_more[step.side] = true;
                Event::Finished
            }
            What::Event(event) => {
                match event {
                    Event::Eof | Event::Error(crate::Direction::Read, _) => reads()?,
                    Event::Error(crate::Direction::Write, _) => {
                        let can_fail = match interest.write {
                            Outbound::Idle => !self.sends_no_more[step.side],
                            Outbound::Flush | Outbound::Finish => true,
                            Outbound::Finished | Outbound::Reset => false,
                        };
                        if !can_fail {
                            return Err(DifferenceKind::SendsNot(interest.write));
                        }
                        self.sends_no_more[step.side] = true;
                    }
                    Event::Read(_)
                    | Event::Written(_)
                    | Event::Finished
                    | Event::Timeout { .. }
                    | Event::ShutDown
                    | Event::Release => {}
                }
                event
            }
            What::Shared => {
                let cx = &mut Context::from_waker(Waker::noop());
                let has_news = machine.poll_shared(now, cx);
                return if has_news { Ok(()) } else { Err(DifferenceKind::NoNews) };
            }
            What::Start | What::Note(_) => return Err(DifferenceKind::Unknown),
        };
        machine.handle(now, event);
        Ok(())
    }
}

/// Calls `f`. A panic in it is a difference.
#[cfg(feature = "std")]
fn catching(f: impl FnOnce() -> Result<(), DifferenceKind>) -> Result<(), DifferenceKind> {
    let mut result = Ok(());
    let panic = panic_of(|| result = f());
    panic.map_or(result, |message| Err(DifferenceKind::Panicked(message)))
}

/// Calls `f`. Returns the message of a panic in it.
#[cfg(feature = "std")]
pub(super) fn panic_of(f: impl FnOnce()) -> Option<String> {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    let panic = catch_unwind(AssertUnwindSafe(f)).err()?;
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
    Some(message.unwrap_or("without a message").to_string())
}

#[cfg(not(feature = "std"))]
fn catching(f: impl FnOnce() -> Result<(), DifferenceKind>) -> Result<(), DifferenceKind> {
    f()
}
