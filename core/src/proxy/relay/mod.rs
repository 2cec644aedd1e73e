//! The machine of a proxied connection.

mod config;
mod reason;
mod side;

use alloc::vec::Vec;
use core::time::Duration;

pub use self::{
    config::{Config, RelayFactory},
    reason::ProxyReason,
    side::{RelaySide, Side},
};
use crate::{
    ConnectionError, Direction, Instant, Interest, Outbound, Status, WriteProgress,
    buffer::{Pool, Ring},
    shared::Shared,
    teardown::DiscardBudget,
};

/// Two connections, crossed: what is received on one is sent on the other.
///
/// It is no [`Machine`](crate::Machine) itself, but lends one for each side: [`side`](Self::side).
/// Both share the deadline, and what happens to one changes what the other wants, so a driver asks
/// both again after every turn of either.
///
/// | what a side does | what the other side gets |
/// |---|---|
/// | sends bytes | the same bytes, in order |
/// | sends a FIN | a FIN behind all of them; the way back stays open for as long as it takes |
/// | is lost (a reset, a timeout of the kernel's) | what was received before, then an RST |
/// | can't be written to any more | the same; what had arrived from it is still read first, where the peer reset it |
/// | does not read | nothing is read from it once the buffer is half full, or while [bulk](RelaySide::pipe_limit) waits |
///
/// A side that is lost is never shown to the other one as a clean end (RFC 9293, section 3.5.3,
/// calls a reset an error for the user, so it is passed on as one). The RST waits until the peer
/// has acknowledged all that was sent before it ([`forwards_reset`](Self::forwards_reset)), since
/// the kernel discards the rest; [`Config::idle_timeout`] without an acknowledgement ends the wait.
///
/// An upstream that is lost before a byte of the client's was sent to it, and before anything came
/// from it, is not shown to the client if it was not the last one: another one may take its place
/// ([`upstream_lost`](Self::upstream_lost)), and is sent all from the first byte on.
///
/// It holds at most `2 × Config::buffer` bytes and what it is to [`announce`](Self::announce), and
/// no buffer for a direction in which no byte waits or the bytes are in a pipe.
///
/// ```
/// use wirestate_core::{Event, Instant, Machine, Outbound, drive, proxy::{Config, RelayFactory, Side}};
///
/// let now = Instant::EPOCH;
/// let mut relay = RelayFactory::new(Config::default()).relay(now);
///
/// // The client speaks, and closes its side, before there is an upstream: it waits.
/// drive::deliver(&mut relay.side(Side::Client), &mut &b"hello?"[..], now);
/// relay.side(Side::Client).handle(now, Event::Eof);
///
/// relay.connected(now, false);
/// let mut sent = [0; 64];
/// let n = drive::collect_into(&mut relay.side(Side::Upstream), &mut sent, now);
/// assert_eq!(&sent[..n], b"hello?");
/// assert_eq!(relay.side(Side::Upstream).interest().write, Outbound::Finish);
/// relay.side(Side::Upstream).handle(now, Event::Finished);
///
/// // The answer comes late, and arrives all the same.
/// drive::deliver(&mut relay.side(Side::Upstream), &mut &b"hello."[..], now);
/// let n = drive::collect_into(&mut relay.side(Side::Client), &mut sent, now);
/// assert_eq!(&sent[..n], b"hello.");
/// ```
#[derive(Debug)]
pub struct Relay {
    config: Shared<Config>,
    pool: Pool,
    discards: DiscardBudget,
    /// What was received from each side, and waits to be sent to the other.
    received: Sides<Received>,
    /// Whether bytes from each side come in bulk. Then the next read waits until all are sent.
    bulk: Sides<bool>,
    header: PendingHeader,
    ends: Sides<End>,
    stage: Stage,
    /// Why it ends otherwise than by two FINs: what came first.
    cause: Option<ProxyReason>,
    /// Whether each side acknowledges its output.
    progress: Sides<WriteProgress>,
    /// When a byte last moved, on either side and either way.
    moved: Instant,
}

/// Bytes of one direction that wait to be sent.
#[derive(Debug)]
enum Received {
    Memory(Ring),
    /// So many, at least 1, are in a pipe of the driver.
    Pipe(usize),
}

impl Received {
    fn len(&self) -> usize {
        match self {
            Self::Memory(ring) => ring.len(),
            Self::Pipe(len) => *len,
        }
    }

    /// Gives the buffer back if it holds nothing.
    fn release(&mut self) {
        match self {
            Self::Memory(ring) => ring.release(),
            Self::Pipe(_) => {}
        }
    }
}

/// Something of each side.
#[derive(Debug)]
pub(super) struct Sides<T> {
    pub(super) client: T,
    pub(super) upstream: T,
}

impl<T> Sides<T> {
    fn of(&self, side: Side) -> &T {
        match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        }
    }

    fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }

    /// That of `side`, and the other's.
    pub(super) fn both_mut(&mut self, side: Side) -> (&mut T, &mut T) {
        match side {
            Side::Client => (&mut self.client, &mut self.upstream),
            Side::Upstream => (&mut self.upstream, &mut self.client),
        }
    }
}

/// What each upstream is sent before anything of the client's.
#[derive(Debug, Default)]
struct PendingHeader {
    header: Vec<u8>,
    /// So much of it is with the present one.
    sent: usize,
}

impl PendingHeader {
    fn unsent(&self) -> &[u8] {
        &self.header[self.sent..]
    }

    /// `n` bytes were sent, of it and of what follows: how many were not of it.
    fn consume(&mut self, n: usize) -> usize {
        let own = n.min(self.unsent().len());
        self.sent += own;
        n - own
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is no upstream; the one that there was, if any, got lost in this way.
    Dialling {
        lost: Option<(Direction, ConnectionError)>,
    },
    /// There is an upstream that can be replaced: none of the client's bytes was sent to it, and
    /// nothing came from it.
    Fresh,
    Relaying,
    /// Asked to stop, at this time: it goes on until it is quiet.
    Draining(Instant),
    /// There will be no upstream. The client is told so, and what it still sends is thrown away: so
    /// many bytes up to now, and until this time.
    Refused {
        discarded: usize,
        until: Instant,
    },
}

/// One side's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    input: Input,
    output: Output,
    /// How it was when it was over.
    over: Option<Over>,
}

impl End {
    const OPEN: Self = Self { input: Input::Open, output: Output::Open, over: None };
}

/// What is received from a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    /// It ended by a FIN.
    Fin,
    /// It ended without one, or is not listened to any more: the other side is reset.
    Cut,
}

/// What is sent to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// What was received from the other side; then its end, as that was.
    Open,
    /// Our FIN is out.
    Finished,
    /// An RST is owed, whatever waits to be sent.
    Resetting,
    /// Our RST is out, or the connection is lost.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// By a FIN each way.
    Clean,
    /// By the relay's cause.
    Caused,
}

impl Relay {
    fn new(relays: &RelayFactory, now: Instant) -> Self {
        let empty = || Received::Memory(Ring::new(relays.pool.clone()));
        Self {
            config: relays.config.clone(),
            pool: relays.pool.clone(),
            discards: relays.discards.clone(),
            received: Sides { client: empty(), upstream: empty() },
            bulk: Sides { client: false, upstream: false },
            header: PendingHeader::default(),
            ends: Sides { client: End::OPEN, upstream: End::OPEN },
            stage: Stage::Dialling { lost: None },
            cause: None,
            progress: Sides { client: WriteProgress::new(now), upstream: WriteProgress::new(now) },
            moved: now,
        }
    }

    /// Each upstream is sent `header` before anything of the client's: a PROXY header
    /// ([`crate::proxy_protocol::announce`]). To be called before one is
    /// [`connected`](Self::connected).
    pub fn announce(&mut self, header: Vec<u8>) {
        debug_assert_eq!(self.stage, Stage::Dialling { lost: None }, "a header comes first");
        self.header = PendingHeader { header, sent: 0 };
    }

    /// There is an upstream now, and, if there is `another`, somebody to replace it. Before that
    /// only the client's side is to be driven.
    pub fn connected(&mut self, now: Instant, another: bool) {
        self.restart(now);
        if matches!(self.stage, Stage::Dialling { .. }) {
            self.stage = if another { Stage::Fresh } else { Stage::Relaying };
        }
    }

    /// How the upstream was lost, where that has not touched the client, and there is another one:
    /// its socket is to be reset, and that one to be [`connected`](Self::connected), or the client
    /// to be [`refuse`](Self::refuse)d.
    pub fn upstream_lost(&self) -> Option<ConnectionError> {
        match self.stage {
            Stage::Dialling { lost } => lost.map(|(_, why)| why),
            Stage::Fresh | Stage::Relaying | Stage::Draining(_) | Stage::Refused { .. } => None,
        }
    }

    /// How many bytes of the header were not sent yet to the present upstream.
    #[cfg(feature = "std")]
    pub(super) fn unsent_header(&self) -> usize {
        self.header.unsent().len()
    }

    /// Whether the upstream has sent a FIN that answers none: the client has not sent its own.
    pub fn half_closed_by_upstream(&self) -> bool {
        self.ends.upstream.input == Input::Fin && self.ends.client.input == Input::Open
    }

    /// There will be no upstream: the client is told so by a FIN and a lingering close
    /// ([`Config::linger`]).
    pub fn refuse(&mut self, reason: ProxyReason, now: Instant) {
        if !matches!(self.stage, Stage::Dialling { .. }) || self.cause.is_some() {
            return;
        }
        self.stage = Stage::Refused { discarded: 0, until: now + self.config.linger.time };
        self.cause = Some(reason);
        self.discard(Side::Client);
        self.ends.upstream = End { input: Input::Fin, output: Output::Over, over: None };
        self.settle();
    }

    /// The machine of one side. `Side::Upstream` is to be driven once it is
    /// [`connected`](Self::connected).
    ///
    /// The two share their buffers: between a side's [`read_buf`](crate::Machine::read_buf) and its
    /// [`Read`](crate::Event::Read) nothing is to be called on the other one.
    pub fn side(&mut self, side: Side) -> RelaySide<'_> {
        RelaySide { relay: self, side }
    }

    /// What a side wants.
    pub fn interest(&self, side: Side) -> Interest {
        // It is asked more often than anything else: what differs between the sides is found out
        // once.
        match side {
            Side::Upstream if matches!(self.stage, Stage::Dialling { .. }) => Interest::DONE,
            Side::Upstream => self.wanted(Side::Upstream),
            Side::Client => self.wanted(Side::Client),
        }
    }

    #[inline]
    fn wanted(&self, side: Side) -> Interest {
        let end = self.ends.of(side);
        let read = end.input == Input::Open && self.has_room(side);
        let write = match end.output {
            Output::Open if self.queued(side) > 0 => Outbound::Flush,
            Output::Open => match self.ends.of(side.other()).input {
                Input::Open => Outbound::Idle,
                Input::Fin => Outbound::Finish,
                Input::Cut => Outbound::Reset,
            },
            Output::Resetting => Outbound::Reset,
            // Its end is not the end of the side, which only holds back from reading.
            Output::Finished | Output::Over if end.input == Input::Open && !read => Outbound::Idle,
            Output::Finished | Output::Over => Outbound::Finished,
        };
        Interest { read, write }
    }

    /// Whether both sides are over; then there is a [`reason`](Self::reason).
    pub fn is_done(&self) -> bool {
        Side::BOTH.iter().all(|side| self.ends.of(*side).over.is_some())
    }

    /// Why it ended, once it has.
    pub fn reason(&self) -> Option<ProxyReason> {
        self.is_done().then(|| self.cause.clone().unwrap_or(ProxyReason::Finished))
    }

    /// Asks for a graceful end: where there is no upstream yet, at once; otherwise it goes on until
    /// no byte has moved for [`Config::drain_quiet`] (a proxy can't see where a message ends), and
    /// then sends a FIN both ways. An upstream that is lost meanwhile is not replaced. The caller
    /// limits that ([`serve::Config::drain_timeout`](crate::serve::Config::drain_timeout)).
    pub fn shut_down(&mut self, now: Instant) {
        match self.stage {
            Stage::Dialling { .. } => self.refuse(ProxyReason::ShutDown, now),
            Stage::Fresh | Stage::Relaying if self.cause.is_none() && !self.is_done() => {
                self.stage = Stage::Draining(now);
            }
            Stage::Fresh | Stage::Relaying | Stage::Draining(_) | Stage::Refused { .. } => {}
        }
    }

    /// The deadline of both sides. There is none while there is no upstream: that one is the
    /// dialler's.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_done() {
            return None;
        }
        let idle = self.config.idle_timeout.map(|limit| self.idle_deadline(limit));
        match self.stage {
            Stage::Dialling { .. } => None,
            Stage::Refused { until, .. } => {
                let client = self.ends.client;
                (client.input == Input::Open || client.output == Output::Open).then_some(until)
            }
            Stage::Draining(since) if self.is_quiet() => {
                let quiet = self.moved.max(since) + self.config.drain_quiet;
                Some(idle.map_or(quiet, |idle| idle.min(quiet)))
            }
            Stage::Fresh | Stage::Relaying | Stage::Draining(_) => idle,
        }
    }

    /// When the idle timeout is due, or the acknowledged bytes are to be observed before that.
    fn idle_deadline(&self, limit: Duration) -> Instant {
        let Sides { client, upstream } = &self.progress;
        let idle = client.last_progress().max(upstream.last_progress()) + limit;
        let observations = [client.next_observation(limit), upstream.next_observation(limit)];
        observations.into_iter().flatten().fold(idle, Instant::min)
    }

    /// Restarts the idle time.
    fn restart(&mut self, now: Instant) {
        self.moved = now;
        self.progress.client.restart(now);
        self.progress.upstream.restart(now);
    }

    /// Time has passed; `to_client` and `to_upstream` are the bytes sent to each side that it has
    /// not acknowledged ([`Timeout`](crate::Event::Timeout)). A call before the deadline changes
    /// nothing.
    pub fn handle_timeout(&mut self, now: Instant, to_client: usize, to_upstream: usize) {
        let is_due = |relay: &Self| relay.poll_timeout().is_some_and(|deadline| deadline <= now);
        if !is_due(self) {
            return;
        }
        for (side, unacknowledged) in [(Side::Client, to_client), (Side::Upstream, to_upstream)] {
            let queued = self.queued(side) > 0;
            self.progress.of_mut(side).observe(now, queued, unacknowledged);
        }
        if !is_due(self) {
            return;
        }
        match self.stage {
            Stage::Draining(_) if self.is_quiet() => {
                self.cause = Some(ProxyReason::ShutDown);
                for side in Side::BOTH {
                    let input = &mut self.ends.of_mut(side).input;
                    if *input == Input::Open {
                        *input = Input::Fin;
                    }
                }
            }
            Stage::Refused { .. } => {
                let client = &mut self.ends.client;
                client.input = Input::Cut;
                if client.output == Output::Open {
                    client.output = Output::Resetting; // its FIN is pending still
                }
            }
            Stage::Dialling { .. } | Stage::Fresh | Stage::Relaying | Stage::Draining(_) => {
                let limit = self.config.idle_timeout.unwrap_or_default();
                let (to_client, to_upstream) =
                    (self.queued(Side::Client), self.queued(Side::Upstream));
                self.cause.get_or_insert(ProxyReason::IdleTimeout {
                    limit,
                    to_client,
                    to_upstream,
                });
                for side in Side::BOTH {
                    self.discard(side);
                    let end = self.ends.of_mut(side);
                    if end.over.is_none() {
                        *end = End { input: Input::Cut, output: Output::Resetting, over: None };
                    }
                }
            }
        }
        // For what is left to be done.
        self.restart(now);
        self.settle();
    }

    /// A line for the table of connections.
    pub fn status(&self) -> Status {
        let state = match (self.stage, &self.cause) {
            _ if self.is_done() => "over",
            (Stage::Refused { .. }, _) => "lingering",
            (_, Some(_)) => "closing",
            (Stage::Dialling { .. }, None) => "dialling",
            (Stage::Draining(_), None) => "draining",
            (Stage::Fresh | Stage::Relaying, None) => {
                match (self.ends.client.input, self.ends.upstream.input) {
                    (Input::Open, Input::Open) => "open",
                    (_, Input::Open) => "client_finished",
                    (Input::Open, _) => "upstream_finished",
                    (Input::Fin | Input::Cut, Input::Fin | Input::Cut) => "closing",
                }
            }
        };
        Status { state, queued: self.queued(Side::Client) + self.queued(Side::Upstream), lag: 0 }
    }

    /// Whether a side would be told less than all if its socket were closed now.
    pub fn owes(&self, side: Side) -> bool {
        self.ends.of(side).over.is_none()
    }

    fn has_room(&self, side: Side) -> bool {
        match self.received.of(side) {
            Received::Memory(ring) if *self.bulk.of(side) => ring.is_empty(),
            // Room for a read that is worth its system call.
            Received::Memory(ring) => ring.len() <= ring.capacity() / 2,
            Received::Pipe(_) => false,
        }
    }

    /// How many bytes wait to be sent to `side`.
    fn queued(&self, side: Side) -> usize {
        match side {
            Side::Client => self.received.upstream.len(),
            Side::Upstream => self.header.unsent().len() + self.received.client.len(),
        }
    }

    /// Whether an RST is to follow the output to `side`, since the other side was lost. The driver
    /// does not drive the side before that output is acknowledged
    /// ([`Sink::unacknowledged`](crate::drive::Sink::unacknowledged)). The deadline stays in force.
    pub fn forwards_reset(&self, side: Side) -> bool {
        // It is asked at every turn, and nothing is lost without a cause.
        self.cause.is_some()
            && self.ends.of(side).output == Output::Open
            && self.interest(side).write == Outbound::Reset
    }

    fn is_quiet(&self) -> bool {
        self.cause.is_none() && Side::BOTH.iter().all(|side| self.queued(*side) == 0)
    }

    /// The memory for what is received from `side`.
    fn memory_mut(&mut self, side: Side) -> &mut Ring {
        match self.received.of_mut(side) {
            Received::Memory(ring) => ring,
            Received::Pipe(len) => panic!("the {side}'s {len} bytes are in a pipe, not in memory"),
        }
    }

    /// `n` bytes were received from `side`, and are queued.
    fn has_received(&mut self, side: Side, now: Instant, n: usize) {
        let received = self.received.of(side);
        if received.len() == n {
            self.progress.of_mut(side.other()).queued(now);
        }
        let capacity = self.pool.size();
        let bulk = self.bulk.of_mut(side);
        *bulk = if *bulk { n >= SHORT.min(capacity / 4) } else { received.len() == capacity };
        self.moved = now;
        if side == Side::Upstream {
            self.engage();
        }
    }

    /// `n` bytes were sent to `side`, and are not queued any more. `relayed`: not all of them are
    /// the header's.
    fn has_sent(&mut self, side: Side, now: Instant, n: usize, relayed: bool) {
        self.moved = now;
        self.progress.of_mut(side).written(now, n);
        if relayed && side == Side::Upstream {
            self.engage();
        }
        if self.ends.of(side.other()).input != Input::Open {
            // No read that finds nothing will come by to give it back.
            self.received.of_mut(side.other()).release();
        }
        self.settle();
    }

    /// Something has passed between client and upstream: from now on they have nobody but each
    /// other.
    fn engage(&mut self) {
        if self.header.unsent().is_empty() {
            self.header = PendingHeader::default();
        }
        if self.stage != Stage::Fresh {
            return;
        }
        self.stage = Stage::Relaying;
        if self.ends.upstream.output == Output::Over {
            // It was reset before, and had something to say: that, and then its loss, is the
            // answer.
            self.lost(Side::Upstream, Direction::Write, ConnectionError::Reset);
        }
    }

    fn finished(&mut self, side: Side) {
        let resets = self.interest(side).write == Outbound::Reset;
        let end = self.ends.of_mut(side);
        if resets {
            // Also where it had still something to say: nobody would hear it.
            end.input = Input::Cut;
            end.output = Output::Over;
        } else {
            end.output = Output::Finished;
        }
        self.settle();
    }

    /// The connection to `side` broke.
    fn lost(&mut self, side: Side, way: Direction, why: ConnectionError) {
        if self.ends.of(side).over.is_some() {
            return;
        }
        // What had arrived before the reset is still there to be read. Its end will be a loss.
        let may_have_spoken = way == Direction::Write
            && why == ConnectionError::Reset
            && self.ends.of(side).input == Input::Open;
        if side == Side::Upstream && self.stage == Stage::Fresh && self.cause.is_none() {
            if may_have_spoken {
                self.ends.upstream.output = Output::Over;
            } else {
                self.ends.upstream = End::OPEN;
                self.header.sent = 0;
                self.stage = Stage::Dialling { lost: Some((way, why)) };
            }
            return;
        }
        let unsent = self.queued(side);
        self.cause.get_or_insert(ProxyReason::Lost { side, way, why, unsent });
        let (end, other) = self.ends.both_mut(side);
        end.output = Output::Over;
        if !may_have_spoken {
            end.input = Input::Cut;
            if other.over.is_none() && other.output == Output::Finished {
                other.output = Output::Resetting;
            }
        }
        self.stop_reading(side.other());
        self.settle();
    }

    /// Listens to `side` no more, since nothing can be sent to the other one; what was received
    /// from it is thrown away.
    fn stop_reading(&mut self, side: Side) {
        self.discard(side);
        let end = self.ends.of_mut(side);
        if end.over.is_none() && end.input == Input::Open {
            end.input = Input::Cut;
        }
    }

    /// Throws away what was received from `side`, and what announces it.
    fn discard(&mut self, side: Side) {
        if side == Side::Client {
            self.header = PendingHeader::default();
        }
        *self.bulk.of_mut(side) = false;
        self.clear(side);
    }

    /// Nothing that was received from `side` waits to be sent.
    fn clear(&mut self, side: Side) {
        *self.received.of_mut(side) = Received::Memory(Ring::new(self.pool.clone()));
    }

    /// A side that wants nothing any more is over, and stays as it is. What waits for it is in
    /// vain.
    fn settle(&mut self) {
        let over = if self.cause.is_some() { Over::Caused } else { Over::Clean };
        for side in Side::BOTH {
            let done = self.ends.of(side).input != Input::Open
                && self.interest(side).write == Outbound::Finished;
            if done {
                self.discard(side.other());
                self.ends.of_mut(side).over.get_or_insert(over);
            }
        }
    }
}

/// A read of fewer bytes is no bulk.
const SHORT: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Event, Linger, Machine,
        drive::{collect_into, deliver},
    };

    const NOW: Instant = Instant::EPOCH;

    #[test]
    fn a_direction_in_which_no_byte_waits_holds_no_buffer() {
        let linger = Linger { bytes: 64 * 1024, ..Linger::default() };
        let relays = RelayFactory::new(Config { linger, ..Config::default() });
        let mut relay = relays.relay(NOW);
        relay.connected(NOW, false);
        let holds = |relay: &Relay| {
            let rings = [&relay.received.client, &relay.received.upstream];
            rings.map(|received| matches!(received, Received::Memory(ring) if ring.holds_buffer()))
        };
        deliver(&mut relay.side(Side::Client), &mut &b"hello"[..], NOW);
        let _ = relay.side(Side::Upstream).read_buf();
        assert_eq!(holds(&relay), [true, true]);
        collect_into(&mut relay.side(Side::Upstream), &mut [0; 64], NOW);
        relay.side(Side::Client).handle(NOW, Event::Release);
        relay.side(Side::Upstream).handle(NOW, Event::Release);
        assert_eq!(holds(&relay), [false, false], "idle");

        // One buffer serves both, as long as one of them is empty.
        let first = relay.side(Side::Client).read_buf().as_ptr();
        assert_eq!(relay.side(Side::Upstream).read_buf().as_ptr(), first);
        assert_eq!(holds(&relay), [false, true]);
        relay.side(Side::Upstream).handle(NOW, Event::Release);

        // Behind an end of the input no read comes by that could give it back.
        let _ = relay.side(Side::Client).read_buf();
        relay.side(Side::Client).handle(NOW, Event::Eof);
        assert_eq!(holds(&relay), [false, false], "half-closed");
        deliver(&mut relay.side(Side::Upstream), &mut &b"hello"[..], NOW);
        let _ = relay.side(Side::Upstream).read_buf();
        relay.side(Side::Upstream).handle(NOW, Event::Eof);
        assert_eq!(holds(&relay), [false, true], "it is owed");
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
        assert_eq!(holds(&relay), [false, false], "enough of that");
    }
}
