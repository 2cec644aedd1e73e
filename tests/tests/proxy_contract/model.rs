//! What a relay must do after the events so far, as its documentation says. The model counts bytes
//! and has no buffers.

use std::time::Duration;

use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Interest, Machine as _, Outbound,
    proxy::{Config, ProxyReason, Relay, Side},
};

/// The model of a relay.
#[derive(Debug)]
pub(crate) struct Model {
    config: Config,
    header: usize,
    connections: [Connection; 2],
    phase: Phase,
    /// Why the relay ends: the first cause. `None`: by two FINs.
    cause: Option<ProxyReason>,
    /// When a byte was last received or sent.
    moved: Instant,
    /// As `moved`, but without bytes that were received behind pending ones.
    progressed: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Dialling,
    /// The upstream can be replaced.
    Replaceable,
    Relaying,
    Draining {
        since: Instant,
    },
    /// There is no upstream. `discarded` bytes of the client were discarded.
    Refused {
        discarded: usize,
        until: Instant,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Input {
    #[default]
    Open,
    /// It has sent a FIN.
    Fin,
    /// It is not read any more, although it has sent no FIN.
    Stopped,
}

/// What ends the output to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A FIN, after the pending bytes.
    Fin,
    /// An RST, after the pending bytes.
    Rst,
    /// An RST that replaces the pending bytes.
    RstAtOnce,
}

/// The connection to one side.
#[derive(Debug, Default)]
struct Connection {
    received: usize,
    sent: usize,
    input: Input,
    /// The last read was large: the next one waits until nothing is pending.
    is_bulk: bool,
    /// A read or a write has failed.
    has_failed: bool,
    /// What is pending for it is discarded.
    discards: bool,
    /// How the output to it must end.
    due: Option<End>,
    /// How the output to it has ended.
    ending: Option<End>,
    /// Why it ended.
    reason: Option<ProxyReason>,
}

impl Connection {
    fn reads(&self) -> bool {
        self.input == Input::Open
    }

    fn stop_reading(&mut self) {
        if self.reads() {
            self.input = Input::Stopped;
        }
    }

    /// Whether nothing more is sent to it.
    fn is_closed(&self) -> bool {
        match self.ending {
            Some(End::Rst | End::RstAtOnce) => true,
            Some(End::Fin) => self.has_failed || self.due == Some(End::Fin),
            None => self.has_failed,
        }
    }

    fn is_open(&self) -> bool {
        self.reads() || !self.is_closed()
    }

    fn reset(&mut self) {
        if self.is_open() {
            self.stop_reading();
            (self.has_failed, self.due) = (false, Some(End::RstAtOnce));
        }
        self.discards = true;
    }
}

impl Model {
    /// A relay that will send a header of `header` bytes to an upstream.
    pub(crate) fn new(config: Config, header: usize) -> Self {
        Self {
            config,
            header,
            connections: Default::default(),
            phase: Phase::Dialling,
            cause: None,
            moved: Instant::EPOCH,
            progressed: Instant::EPOCH,
        }
    }

    pub(crate) fn is_dialling(&self) -> bool {
        self.phase == Phase::Dialling && self.cause.is_none()
    }

    pub(crate) fn connect(&mut self, has_another: bool, now: Instant) {
        self.upstream().reason = None;
        self.phase = if has_another { Phase::Replaceable } else { Phase::Relaying };
        (self.moved, self.progressed) = (now, now);
    }

    /// There will be no upstream.
    pub(crate) fn refuse(&mut self, reason: ProxyReason, now: Instant) {
        *self.upstream() = Connection {
            input: Input::Fin,
            has_failed: true,
            discards: true,
            reason: Some(reason.clone()),
            ..Connection::default()
        };
        let client = self.of_mut(Side::Client);
        (client.due, client.is_bulk) = (Some(End::Fin), false);
        self.phase = Phase::Refused { discarded: 0, until: now + self.config.linger.time };
        self.cause = Some(reason);
        self.settle();
    }

    fn of(&self, side: Side) -> &Connection {
        &self.connections[side as usize]
    }

    fn of_mut(&mut self, side: Side) -> &mut Connection {
        &mut self.connections[side as usize]
    }

    fn upstream(&mut self) -> &mut Connection {
        self.of_mut(Side::Upstream)
    }

    /// How many bytes of the header are pending for `side`, and how many of the other side.
    fn pending(&self, side: Side) -> (usize, usize) {
        let (connection, other) = (self.of(side), self.of(side.other()));
        let header = if side == Side::Upstream { self.header } else { 0 };
        if connection.discards || !connection.is_open() {
            return (0, 0);
        }
        let of_other = connection.sent.saturating_sub(header);
        (header.saturating_sub(connection.sent), other.received - of_other)
    }

    fn queued(&self, side: Side) -> usize {
        let (header, bytes) = self.pending(side);
        header + bytes
    }

    /// The upstream was sent a byte of the client, or has sent a byte or a FIN.
    fn commit(&mut self) {
        if self.phase == Phase::Replaceable {
            self.phase = Phase::Relaying;
            if self.of(Side::Upstream).has_failed {
                self.fail(Side::Upstream, Direction::Write, ConnectionError::Reset);
            }
        }
    }

    pub(crate) fn handle(&mut self, side: Side, now: Instant, event: Event) {
        let is_open = self.of(side).is_open();
        match event {
            Event::Read(n) => self.receive(side, now, n),
            Event::Eof => {
                self.of_mut(side).input = Input::Fin;
                self.of_mut(side.other()).due.get_or_insert(End::Fin);
                if side == Side::Upstream {
                    self.commit();
                }
            }
            Event::Error(direction, error) => self.fail(side, direction, error),
            Event::Written(n) => {
                self.of_mut(side).sent += n;
                (self.moved, self.progressed) = (now, now);
                if side == Side::Upstream && self.of(side).sent > self.header {
                    self.commit();
                }
            }
            Event::Finished => {
                let connection = self.of_mut(side);
                connection.ending = connection.due;
                if connection.due != Some(End::Fin) {
                    connection.stop_reading();
                }
            }
            Event::Timeout { .. } if is_open => self.expire(now),
            Event::ShutDown if is_open && self.cause.is_none() => match self.phase {
                Phase::Dialling => self.refuse(ProxyReason::ShutDown, now),
                Phase::Replaceable | Phase::Relaying => self.phase = Phase::Draining { since: now },
                Phase::Draining { .. } | Phase::Refused { .. } => {}
            },
            Event::Timeout { .. } | Event::ShutDown | Event::Release => {}
        }
        self.settle();
    }

    /// Gives each connection that has ended its reason.
    fn settle(&mut self) {
        let cause = self.cause.as_ref().unwrap_or(&ProxyReason::Finished);
        for connection in &mut self.connections {
            if !connection.is_open() {
                connection.reason.get_or_insert_with(|| cause.clone());
            }
        }
    }

    pub(crate) fn receive(&mut self, side: Side, now: Instant, n: usize) {
        if let Phase::Refused { discarded, .. } = &mut self.phase {
            *discarded += n;
            if *discarded >= self.config.linger.bytes {
                self.of_mut(side).stop_reading();
            }
            return;
        }
        self.moved = now;
        if self.queued(side.other()) == 0 {
            self.progressed = now;
        }
        self.of_mut(side).received += n;
        let capacity = self.config.buffer.get();
        self.of_mut(side).is_bulk = if self.of(side).is_bulk {
            n >= capacity.min(32 * 1024) / 4
        } else {
            self.pending(side.other()).1 == capacity
        };
        if side == Side::Upstream {
            self.commit();
        }
    }

    fn fail(&mut self, side: Side, direction: Direction, error: ConnectionError) {
        let unsent = self.queued(side);
        if side == Side::Client && self.phase == Phase::Dialling {
            self.upstream().has_failed = true;
        }
        // After a reset was reported by a write, input that had arrived can still be read.
        let still_reads = direction == Direction::Write
            && error == ConnectionError::Reset
            && self.of(side).reads()
            && !self.of(side.other()).has_failed;
        self.of_mut(side).has_failed = true;
        if side == Side::Upstream && self.phase == Phase::Replaceable && self.cause.is_none() {
            if !still_reads {
                let due = self.upstream().due;
                let reason = Some(ProxyReason::Lost { side, direction, error, unsent: 0 });
                *self.upstream() = Connection { due, reason, ..Connection::default() };
                self.phase = Phase::Dialling;
            }
            return;
        }
        self.cause.get_or_insert(ProxyReason::Lost { side, direction, error, unsent });
        let [client, upstream] = &mut self.connections;
        let (lost, other) = match side {
            Side::Client => (client, upstream),
            Side::Upstream => (upstream, client),
        };
        lost.discards = true;
        if !still_reads {
            lost.stop_reading();
            if other.is_open() {
                other.due = Some(End::Rst);
            }
        }
        other.stop_reading();
    }

    /// A plan of faults resets both sides, after `after` bytes to the side `to`.
    pub(crate) fn inject_reset(&mut self, to: Side, after: u64) {
        self.cause.get_or_insert(ProxyReason::InjectedReset { to, after });
        self.of_mut(to.other()).reset();
        let connection = self.of_mut(to);
        connection.discards = true;
        if connection.is_open() {
            connection.stop_reading();
            connection.due = connection.due.filter(|due| *due != End::Fin).or(Some(End::Rst));
        }
        self.settle();
    }

    /// When a [`Timeout`](Event::Timeout) has an effect.
    fn deadline(&self) -> Option<Instant> {
        let [client, upstream] = &self.connections;
        let idle = self.progressed + self.config.idle_timeout.unwrap_or(Duration::MAX);
        match self.phase {
            _ if !client.is_open() && !upstream.is_open() => None,
            Phase::Dialling => None,
            Phase::Refused { .. } if client.due == Some(End::RstAtOnce) => None,
            Phase::Refused { until, .. } => Some(until),
            Phase::Draining { since } if self.is_quiet() => {
                Some(idle.min(self.moved.max(since) + self.config.drain_quiet))
            }
            Phase::Replaceable | Phase::Relaying | Phase::Draining { .. } => Some(idle),
        }
    }

    fn is_quiet(&self) -> bool {
        self.cause.is_none() && Side::BOTH.iter().all(|side| self.queued(*side) == 0)
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let is_quiet = self.is_quiet();
        let (to_client, to_upstream) = (self.queued(Side::Client), self.queued(Side::Upstream));
        match self.phase {
            Phase::Refused { .. } => {
                let client = self.of_mut(Side::Client);
                client.stop_reading();
                if !client.is_closed() {
                    client.reset();
                }
            }
            Phase::Draining { .. } if is_quiet => {
                self.cause = Some(ProxyReason::ShutDown);
                for connection in &mut self.connections {
                    connection.stop_reading();
                    connection.due.get_or_insert(End::Fin);
                }
            }
            Phase::Dialling | Phase::Replaceable | Phase::Relaying | Phase::Draining { .. } => {
                let limit = self.config.idle_timeout.unwrap_or_default();
                let idle = ProxyReason::IdleTimeout { limit, to_client, to_upstream };
                self.cause.get_or_insert(idle);
                self.connections.iter_mut().for_each(Connection::reset);
            }
        }
        (self.moved, self.progressed) = (now, now);
        self.settle();
    }

    fn interest(&self, side: Side, other_in_pipe: usize) -> Interest {
        if self.phase == Phase::Dialling && side == Side::Upstream {
            return Interest::DONE;
        }
        let connection = self.of(side);
        let capacity = self.config.buffer.get();
        let has_room = match self.pending(side.other()).1 {
            0 => true,
            len => !connection.is_bulk && other_in_pipe == 0 && len <= capacity / 2,
        };
        let read = connection.reads() && has_room;
        let write = match connection.due {
            _ if connection.is_closed() && connection.reads() && !read => Outbound::Idle,
            _ if connection.is_closed() => Outbound::Finished,
            _ if self.queued(side) > 0 => Outbound::Flush,
            None => Outbound::Idle,
            Some(End::Fin) => Outbound::Finish,
            Some(End::Rst | End::RstAtOnce) => Outbound::Reset,
        };
        Interest { read, write }
    }

    /// Asserts that the relay does what it must do.
    pub(crate) fn check(&self, relay: &mut Relay) {
        for side in Side::BOTH {
            let connection = self.of(side);
            let interest = self.interest(side, relay.side(side.other()).in_pipe());
            assert_eq!(relay.interest(side), interest, "the {side}\n{self:?}");
            assert_eq!(relay.is_open(side), connection.is_open(), "the {side}\n{self:?}");
            assert_eq!(relay.side(side).reason(), connection.reason, "the {side}\n{self:?}");
            let follows = interest.write == Outbound::Reset
                && (connection.due, connection.ending) == (Some(End::Rst), None);
            assert_eq!(relay.forwards_reset(side), follows, "the {side}'s RST\n{self:?}");
            let is_bulk = connection.is_bulk && interest.read;
            let limit = if is_bulk { self.config.buffer.get() } else { 0 };
            assert_eq!(relay.side(side).pipe_limit(), limit, "the {side}\n{self:?}");
        }
        let [client, upstream] = &self.connections;
        let queued = self.queued(Side::Client) + self.queued(Side::Upstream);
        assert_eq!(relay.status().queued, queued, "the bytes that are pending\n{self:?}");
        let is_half_closed = upstream.input == Input::Fin && client.reads();
        assert_eq!(relay.half_closed_by_upstream(), is_half_closed, "half-closed\n{self:?}");
        let reason = (!client.is_open() && !upstream.is_open())
            .then(|| self.cause.clone().unwrap_or(ProxyReason::Finished));
        assert_eq!(relay.reason(), reason, "its reason\n{self:?}");
        match (relay.poll_timeout(), self.deadline()) {
            (None, None) => {}
            (Some(deadline), Some(latest)) if deadline <= latest => {}
            (deadline, latest) => panic!("it wakes at {deadline:?}, not {latest:?}\n{self:?}"),
        }
    }
}
