//! The machine of a proxied connection.

mod deadline;
mod ending;
mod factory;
mod forwarding;
mod reason;
mod recorded;
mod side;
mod state;

use alloc::{boxed::Box, vec::Vec};

pub(super) use self::state::PerSide;
pub use self::{
    factory::RelayFactory,
    reason::ProxyReason,
    recorded::{RelayCall, replay, replay_observed},
    side::{RelaySide, Side},
};
use self::{
    forwarding::{Buffered, PendingHeader},
    state::{Outcome, ReadState, SideState, State, WriteState},
};
use super::Config;
use crate::{
    ConnectionError, Instant, Interest, Outbound, Status, WriteProgress,
    buffer::{Pool, Ring},
    record::Recorder,
    shared::Shared,
    teardown::DiscardBudget,
};

/// The machine of a proxied connection. It forwards bytes between two connections, its sides.
///
/// A relay is not a [`Machine`](crate::Machine); [`side`](Self::side) lends the machine of each
/// side. Both sides share one deadline, and an event on one side changes the interest of the other.
/// So a driver checks the interest of both sides after each turn of either.
///
/// | event on one side | the other side |
/// |---|---|
/// | bytes are received | is sent the same bytes, in order |
/// | FIN | is sent a FIN after all bytes; the opposite direction stays open |
/// | a read fails | is sent all bytes received before, then an RST |
/// | a write fails | the same; after a reset, input that has already arrived is read first |
/// | it stops reading | is not read while the buffer is half full or a [bulk] read is pending |
///
/// [bulk]: RelaySide::pipe_limit
///
/// A lost connection is forwarded as a reset, never as a FIN: RFC 9293, section 3.5.3, makes a
/// reset an error for the user. The RST waits until the peer has acknowledged the output before it
/// ([`forwards_reset`](Self::forwards_reset)), since the kernel would discard that output. The wait
/// ends after [`Config::idle_timeout`] without an acknowledgement.
///
/// An upstream is replaceable until it was sent a byte of the client or has sent a byte or a FIN,
/// provided that there is another upstream to try. If a replaceable upstream is lost
/// ([`upstream_lost`](Self::upstream_lost)), the client is not affected: the next upstream is sent
/// all bytes of the client from the first one on.
///
/// It holds at most `2 × Config::buffer` bytes and the [PROXY header](Self::send_proxy_header).
/// A direction holds no buffer while none of its bytes are pending, or while they are in a pipe.
///
/// ```
/// use wirestate_core::{Event, Instant, Machine, Outbound, drive, proxy::{RelayFactory, Side}};
///
/// let now = Instant::EPOCH;
/// let mut relay = RelayFactory::default().relay(now);
///
/// // The client sends a request and a FIN. They wait for an upstream.
/// drive::deliver(&mut relay.side(Side::Client), &mut &b"hello?"[..], now);
/// relay.side(Side::Client).handle(now, Event::Eof);
///
/// relay.handle_connected(now, false);
/// let mut sent = [0; 64];
/// let n = drive::collect_into(&mut relay.side(Side::Upstream), &mut sent, now);
/// assert_eq!(&sent[..n], b"hello?");
/// assert_eq!(relay.side(Side::Upstream).interest().write, Outbound::Finish);
/// relay.side(Side::Upstream).handle(now, Event::Finished);
///
/// // The reply arrives after the FIN, and is forwarded.
/// drive::deliver(&mut relay.side(Side::Upstream), &mut &b"hello."[..], now);
/// let n = drive::collect_into(&mut relay.side(Side::Client), &mut sent, now);
/// assert_eq!(&sent[..n], b"hello.");
/// ```
#[derive(Debug)]
pub struct Relay {
    config: Shared<Config>,
    pool: Pool,
    discards: DiscardBudget,
    /// The bytes that were received from each side and are pending for the other.
    buffered: PerSide<Buffered>,
    /// Whether a bulk transfer from each side is in progress. Then the next read waits until all
    /// bytes are sent.
    is_bulk: PerSide<bool>,
    header: PendingHeader,
    state: State,
    sides: PerSide<SideState>,
    /// Why the relay ends; `None` if by two FINs. The first cause stays.
    cause: Option<ProxyReason>,
    /// Whether each side acknowledges its output.
    progress: PerSide<WriteProgress>,
    /// When a byte was last received or sent, on either side.
    last_activity: Instant,
    /// `None`: the relay is not recorded.
    recorder: Option<Box<Recorder>>,
}

impl Relay {
    fn new(relays: &RelayFactory, now: Instant) -> Self {
        let empty = || Buffered::Memory(Ring::new(relays.pool.clone()));
        Self {
            config: relays.config.clone(),
            pool: relays.pool.clone(),
            discards: relays.discards.clone(),
            buffered: PerSide { client: empty(), upstream: empty() },
            is_bulk: PerSide { client: false, upstream: false },
            header: PendingHeader::default(),
            state: State::Dialling { lost: None },
            sides: PerSide { client: SideState::OPEN, upstream: SideState::OPEN },
            cause: None,
            progress: PerSide {
                client: WriteProgress::new(now),
                upstream: WriteProgress::new(now),
            },
            last_activity: now,
            recorder: None,
        }
    }

    /// Sends `header`, a PROXY header, to each upstream before the client's bytes
    /// ([`proxy_protocol::encode`](crate::proxy_protocol::encode)). Call it before
    /// [`handle_connected`](Self::handle_connected).
    pub fn send_proxy_header(&mut self, header: Vec<u8>) {
        debug_assert_eq!(
            self.state,
            State::Dialling { lost: None },
            "a PROXY header must be set before an upstream is connected"
        );
        // It is not sent before an upstream is connected, so its time does not matter.
        self.recorded(self.last_activity, RelayCall::Header(&header.clone()), |relay| {
            relay.header = PendingHeader { bytes: header, sent: 0 };
        });
    }

    /// Records that an upstream is connected. `has_another`: there is another one to try if this
    /// one is lost while it is replaceable. Before this call, drive the client's side only.
    pub fn handle_connected(&mut self, now: Instant, has_another: bool) {
        self.recorded(now, RelayCall::Connected { has_another }, |relay| {
            relay.restart_idle_timeout(now);
            if !relay.header.unsent().is_empty() {
                relay.progress.upstream.queued(now);
            }
            if matches!(relay.state, State::Dialling { .. }) {
                relay.state = if has_another { State::Replaceable } else { State::Relaying };
            }
        });
    }

    /// The error that lost a replaceable upstream. Reset its socket, and then call
    /// [`handle_connected`](Self::handle_connected) for the next upstream, or
    /// [`refuse`](Self::refuse).
    pub fn upstream_lost(&self) -> Option<ConnectionError> {
        match self.state {
            State::Dialling { lost } => lost.map(|(_, error)| error),
            State::Replaceable
            | State::Relaying
            | State::Draining { .. }
            | State::Refused { .. } => None,
        }
    }

    /// Whether there is no upstream and the client is not refused: before
    /// [`handle_connected`](Self::handle_connected), and after a replaceable upstream was lost.
    pub fn is_dialling(&self) -> bool {
        matches!(self.state, State::Dialling { .. })
    }

    /// Whether an upstream was connected and the relay has not ended.
    pub fn is_connected(&self) -> bool {
        match self.state {
            State::Replaceable | State::Relaying | State::Draining { .. } => !self.is_done(),
            State::Dialling { .. } | State::Refused { .. } => false,
        }
    }

    /// The number of bytes of the header that are pending for the current upstream.
    #[cfg(feature = "std")]
    pub(super) fn unsent_header(&self) -> usize {
        self.header.unsent().len()
    }

    /// Whether the upstream has sent a FIN while the client has not.
    pub fn half_closed_by_upstream(&self) -> bool {
        self.sides.upstream.read == ReadState::Fin && self.sides.client.read == ReadState::Open
    }

    /// The machine of one side. Drive `Side::Upstream` once an upstream is
    /// [connected](Self::handle_connected).
    ///
    /// The sides share their buffers: between [`read_buf`](crate::Machine::read_buf) of one side
    /// and its [`Read`](crate::Event::Read), call nothing on the other side.
    pub fn side(&mut self, side: Side) -> RelaySide<'_> {
        RelaySide { relay: self, side }
    }

    /// The interest of a side.
    pub fn interest(&self, side: Side) -> Interest {
        // This method is called more often than any other. Each call of `connected_interest` is
        // inlined for its side.
        match side {
            Side::Upstream if matches!(self.state, State::Dialling { .. }) => Interest::DONE,
            Side::Upstream => self.connected_interest(Side::Upstream),
            Side::Client => self.connected_interest(Side::Client),
        }
    }

    #[inline]
    fn connected_interest(&self, side: Side) -> Interest {
        let state = &self.sides[side];
        let read = state.read == ReadState::Open && self.has_room(side);
        let write = match state.write {
            WriteState::Open if self.queued(side) > 0 => Outbound::Flush,
            WriteState::Open => match self.sides[side.other()].read {
                ReadState::Open => Outbound::Idle,
                ReadState::Fin => Outbound::Finish,
                ReadState::Aborted => Outbound::Reset,
            },
            WriteState::Resetting => Outbound::Reset,
            // The side only pauses reading; `Finished` without a read would end it.
            WriteState::FinSent | WriteState::Closed if state.read == ReadState::Open && !read => {
                Outbound::Idle
            }
            WriteState::FinSent | WriteState::Closed => Outbound::Finished,
        };
        Interest { read, write }
    }

    /// Whether the connection to `side` has not ended. If its socket were closed now, the peer
    /// would miss bytes, a FIN or an RST.
    pub fn is_open(&self, side: Side) -> bool {
        self.sides[side].outcome.is_none()
    }

    /// Whether both sides have ended. Then there is a [`reason`](Self::reason).
    pub fn is_done(&self) -> bool {
        Side::BOTH.iter().all(|side| !self.is_open(*side))
    }

    /// Why the relay ended; `None` before its end.
    pub fn reason(&self) -> Option<ProxyReason> {
        self.is_done().then(|| self.cause.clone().unwrap_or(ProxyReason::Finished))
    }

    /// The state and the pending bytes, for the table of connections.
    pub fn status(&self) -> Status {
        let state = match (self.state, &self.cause) {
            _ if self.is_done() => "ended",
            (State::Refused { .. }, _) => "lingering",
            (_, Some(_)) => "closing",
            (State::Dialling { .. }, None) => "dialling",
            (State::Draining { .. }, None) => "draining",
            (State::Replaceable | State::Relaying, None) => {
                match (self.sides.client.read, self.sides.upstream.read) {
                    (ReadState::Open, ReadState::Open) => "open",
                    (_, ReadState::Open) => "client_finished",
                    (ReadState::Open, _) => "upstream_finished",
                    (ReadState::Fin | ReadState::Aborted, ReadState::Fin | ReadState::Aborted) => {
                        "closing"
                    }
                }
            }
        };
        Status { state, queued: self.queued(Side::Client) + self.queued(Side::Upstream), lag: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Event, Linger, Machine as _,
        drive::{collect_into, deliver},
    };

    const NOW: Instant = Instant::EPOCH;

    #[test]
    fn a_direction_without_pending_bytes_holds_no_buffer() {
        let linger = Linger { bytes: 64 * 1024, ..Linger::default() };
        let relays = RelayFactory::new(Config::default().with_linger(linger)).unwrap();
        let mut relay = relays.relay(NOW);
        relay.handle_connected(NOW, false);
        let holds = |relay: &Relay| {
            let buffered = [&relay.buffered.client, &relay.buffered.upstream];
            buffered
                .map(|buffered| matches!(buffered, Buffered::Memory(ring) if ring.holds_buffer()))
        };
        deliver(&mut relay.side(Side::Client), &mut &b"hello"[..], NOW);
        let _ = relay.side(Side::Upstream).read_buf();
        assert_eq!(holds(&relay), [true, true]);
        collect_into(&mut relay.side(Side::Upstream), &mut [0; 64], NOW);
        relay.side(Side::Client).handle(NOW, Event::Release);
        relay.side(Side::Upstream).handle(NOW, Event::Release);
        assert_eq!(holds(&relay), [false, false], "idle");

        // Two empty directions share one buffer.
        let first = relay.side(Side::Client).read_buf().as_ptr();
        assert_eq!(relay.side(Side::Upstream).read_buf().as_ptr(), first);
        assert_eq!(holds(&relay), [false, true]);
        relay.side(Side::Upstream).handle(NOW, Event::Release);

        // After the end of the input, no further read releases the buffer.
        let _ = relay.side(Side::Client).read_buf();
        relay.side(Side::Client).handle(NOW, Event::Eof);
        assert_eq!(holds(&relay), [false, false], "half-closed");
        deliver(&mut relay.side(Side::Upstream), &mut &b"hello"[..], NOW);
        let _ = relay.side(Side::Upstream).read_buf();
        relay.side(Side::Upstream).handle(NOW, Event::Eof);
        assert_eq!(holds(&relay), [false, true], "pending");
        collect_into(&mut relay.side(Side::Client), &mut [0; 64], NOW);
        assert_eq!(holds(&relay), [false, false], "closed");

        let mut relay = relays.relay(NOW);
        deliver(&mut relay.side(Side::Client), &mut &b"hello"[..], NOW);
        relay.refuse(ProxyReason::ShutDown, NOW);
        assert_eq!(holds(&relay), [false, false], "refused");
        deliver(&mut relay.side(Side::Client), &mut &b"hello?"[..], NOW);
        relay.side(Side::Client).handle(NOW, Event::Release);
        assert_eq!(holds(&relay), [false, false], "lingering");
        deliver(&mut relay.side(Side::Client), &mut &alloc::vec![0; 64 * 1024][..], NOW);
        assert_eq!(holds(&relay), [false, false], "at the limit");
    }
}
