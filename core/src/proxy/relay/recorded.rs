//! The recording of a relay, and its replay.

use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec::Vec,
};
use core::{fmt, mem};

use super::{ProxyReason, Relay, Side, State};
use crate::{
    Event, Instant, Machine as _, Reason as _,
    faults::Strike,
    record::{
        DifferenceKind, Observed, Recorder, Recording, Replay, Sides, Step, What, put_number, run,
        take_number,
    },
};

/// A call of a method of the relay itself, not of one of its sides, as a recording has it
/// ([`What::Note`]). `Display` writes what has happened, in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayCall<'a> {
    /// The PROXY header for the upstream was set ([`Relay::send_proxy_header`]).
    Header(&'a [u8]),
    /// An upstream was connected ([`Relay::handle_connected`]).
    Connected {
        /// Whether there was another one to try.
        has_another: bool,
    },
    /// The client was refused ([`Relay::refuse`]).
    Refuse {
        /// The label of the reason.
        label: &'a str,
        /// The text of the reason.
        text: &'a str,
    },
    /// A deadline was handled ([`Relay::handle_timeout`]).
    Timeout {
        /// The bytes that the client had not acknowledged.
        to_client: usize,
        /// The bytes that the upstream had not acknowledged.
        to_upstream: usize,
    },
    /// A shutdown was requested ([`Relay::shut_down`]).
    ShutDown,
    /// Both sides were reset for a plan of faults ([`Relay::inject_reset`]).
    InjectReset {
        /// The side after whose bytes the fault struck.
        to: Side,
        /// How many bytes that were.
        after: u64,
    },
    /// Another fault of a plan has struck ([`Relay::record_fault`]).
    Fault {
        /// The side whose bytes it concerns.
        to: Side,
        /// The fault in words.
        text: &'a str,
    },
}

impl fmt::Display for RelayCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(header) => {
                write!(f, "the upstream gets the PROXY header {}", header.escape_ascii())
            }
            Self::Connected { has_another: true } => {
                f.write_str("an upstream was connected, and there is another one to try")
            }
            Self::Connected { has_another: false } => f.write_str("an upstream was connected"),
            Self::Refuse { text, .. } => {
                write!(f, "the client is refused: {}", text.escape_debug())
            }
            Self::Timeout { to_client: 0, to_upstream: 0 } => f.write_str("a deadline was handled"),
            Self::Timeout { to_client, to_upstream } => write!(
                f,
                "a deadline was handled; unacknowledged: {to_client} bytes by the client, \
                 {to_upstream} by the upstream"
            ),
            Self::ShutDown => f.write_str("a shutdown was requested"),
            Self::Fault { to, text } => write!(f, "fault to the {to}: {}", text.escape_debug()),
            Self::InjectReset { to, after } => {
                write!(f, "{}", ProxyReason::InjectedReset { to: *to, after: *after })
            }
        }
    }
}

impl Side {
    /// The number of the side in a recording.
    pub(super) fn number(self) -> usize {
        match self {
            Self::Client => 0,
            Self::Upstream => 1,
        }
    }
}

impl<'a> RelayCall<'a> {
    /// Returns the text of the [`What::Note`].
    pub fn encode(self) -> Vec<u8> {
        let mut note = Vec::new();
        match self {
            Self::Header(bytes) => note = [&[0], bytes].concat(),
            Self::Connected { has_another } => note.extend([1, u8::from(has_another)]),
            Self::Refuse { label, text } => {
                note = [&[2], label.as_bytes(), b"\n", text.as_bytes()].concat();
            }
            Self::Timeout { to_client, to_upstream } => {
                note.push(3);
                put_number(&mut note, to_client as u64);
                put_number(&mut note, to_upstream as u64);
            }
            Self::ShutDown => note.push(4),
            Self::InjectReset { to, after } => {
                note.extend([5, u8::from(to == Side::Upstream)]);
                put_number(&mut note, after);
            }
            Self::Fault { to, text } => {
                note = [&[6, u8::from(to == Side::Upstream)], text.as_bytes()].concat();
            }
        }
        note
    }

    /// Reads the text of a [`What::Note`]. `None` if it is invalid.
    pub fn decode(note: &'a [u8]) -> Option<Self> {
        let (code, mut rest) = note.split_first()?;
        let call = match code {
            0 => Self::Header(mem::take(&mut rest)),
            1 => Self::Connected { has_another: take_bit(&mut rest)? == 1 },
            2 => {
                let (label, text) = str::from_utf8(mem::take(&mut rest)).ok()?.split_once('\n')?;
                Self::Refuse { label, text }
            }
            3 => Self::Timeout {
                to_client: take_number(&mut rest).ok()?.try_into().ok()?,
                to_upstream: take_number(&mut rest).ok()?.try_into().ok()?,
            },
            4 => Self::ShutDown,
            5 => Self::InjectReset {
                to: Side::BOTH[take_bit(&mut rest)?],
                after: take_number(&mut rest).ok()?,
            },
            6 => Self::Fault {
                to: Side::BOTH[take_bit(&mut rest)?],
                text: str::from_utf8(mem::take(&mut rest)).ok()?,
            },
            _ => return None,
        };
        rest.is_empty().then_some(call)
    }
}

/// Takes a byte that is 0 or 1.
fn take_bit(bytes: &mut &[u8]) -> Option<usize> {
    match bytes.split_off_first()? {
        bit @ 0..=1 => Some(usize::from(*bit)),
        _ => None,
    }
}

impl Relay {
    /// Records what happens to the relay from now on, to both sides. The driver must not pass bytes
    /// through pipes ([`RelaySide`](super::RelaySide)). The recording ends when the relay is
    /// dropped.
    pub fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(Box::new(recorder));
    }

    /// Calls `handle`, which is recorded as `call`.
    pub(super) fn recorded<T>(
        &mut self,
        now: Instant,
        call: RelayCall<'_>,
        handle: impl FnOnce(&mut Self) -> T,
    ) -> T {
        if let Some(recorder) = &mut self.recorder {
            recorder.note(now, &call.encode());
        }
        let result = handle(self);
        if let Some(recorder) = &mut self.recorder {
            recorder.returned(&[]);
        }
        result
    }

    /// Records that a fault of a plan has struck. That does not change the relay: the fault changes
    /// what passes between the relay and the sockets.
    pub fn record_fault(&mut self, to: Side, fault: &Strike, now: Instant) {
        if self.recorder.is_some() {
            let text = fault.to_string();
            self.recorded(now, RelayCall::Fault { to, text: &text }, |_| ());
        }
    }

    /// Records an event of a side before it is handled.
    pub(super) fn record_event(&mut self, now: Instant, side: Side, event: Event) {
        if let Some(mut recorder) = self.recorder.take() {
            recorder.event(now, side.number(), &mut self.side(side), event);
            self.recorder = Some(recorder);
        }
    }

    /// Records that a side has handled an event.
    pub(super) fn record_returned(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.returned(&[]);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(mut recorder) = self.recorder.take() {
            let reason = if recorder.is_in_call() { None } else { self.reason() };
            recorder.end(reason.as_ref());
        }
    }
}

/// Replays `recording` to a relay of the same settings. Stops at the first difference.
///
/// Upstreams are not dialled: that an upstream was connected, or none could be, is a part of the
/// recording.
pub fn replay(relay: &mut Relay, recording: &Recording<'_>) -> Replay {
    replay_observed(relay, recording, |_, _| ())
}

/// As [`replay`], and calls `observe` after each step that is the same.
pub fn replay_observed(
    relay: &mut Relay,
    recording: &Recording<'_>,
    mut observe: impl FnMut(&Step<'_>, Observed<'_>),
) -> Replay {
    let (mut sides, mut refused) = (Sides::default(), None);
    let run = run(recording, |step| {
        play(relay, &mut sides, &mut refused, step)?;
        let (status, deadline) = (relay.status(), relay.poll_timeout());
        observe(step, Observed { status, deadline, sent: sides.sent(step.what) });
        Ok(())
    });
    let reason = if run.has_panicked() { None } else { relay.reason() };
    let reason = reason.map(|reason| match refused {
        // The reason of a refusal is not made again.
        Some((label, text)) if reason == REFUSED => (label, text),
        Some(_) | None => (reason.label().into(), reason.to_string()),
    });
    run.end(recording, &sides, reason)
}

type Refused = Option<(String, String)>;

fn play(
    relay: &mut Relay,
    sides: &mut Sides,
    refused: &mut Refused,
    step: &Step<'_>,
) -> Result<(), DifferenceKind> {
    let (now, side) = (step.at, Side::BOTH[step.side]);
    let note = match step.what {
        What::Start => return Ok(()),
        What::Note(note) => note,
        What::Received { .. }
        | What::Sent { .. }
        | What::Finished { .. }
        | What::Event(_)
        | What::Shared => {
            let mut side = relay.side(side);
            if side.interest().is_done() {
                return Err(DifferenceKind::HasEnded);
            }
            return sides.play(&mut side, step);
        }
    };
    match RelayCall::decode(note).ok_or(DifferenceKind::Unknown)? {
        RelayCall::Header(header) if relay.state == (State::Dialling { lost: None }) => {
            relay.send_proxy_header(header.to_vec());
        }
        RelayCall::Header(_) => return Err(DifferenceKind::Unknown),
        RelayCall::Connected { has_another } => {
            sides.reopen(Side::Upstream.number());
            relay.handle_connected(now, has_another);
        }
        RelayCall::Refuse { label, text } => {
            refused.get_or_insert((label.into(), text.into()));
            relay.refuse(REFUSED, now);
        }
        RelayCall::Timeout { to_client, to_upstream } => {
            relay.handle_timeout(now, to_client, to_upstream);
        }
        RelayCall::ShutDown => relay.shut_down(now),
        RelayCall::Fault { .. } => {}
        RelayCall::InjectReset { to, after } => match relay.state {
            State::Replaceable | State::Relaying | State::Draining { .. } => {
                relay.inject_reset(to, after, now);
            }
            State::Dialling { .. } | State::Refused { .. } => return Err(DifferenceKind::Unknown),
        },
    }
    Ok(())
}

/// Stands for the reason of a refusal, which is not made again.
const REFUSED: ProxyReason = ProxyReason::ShutDown;
