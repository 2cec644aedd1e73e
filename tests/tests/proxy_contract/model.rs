//! What a relay must do after the events so far, as its documentation says. The model counts bytes
//! and has no buffers.

use std::time::Duration;

use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Machine as _, Outbound,
    proxy::{Config, ProxyReason, Relay, Side},
};
use wirestate_testkit::script::Ending;

/// The model of a relay that is connected to both of its sides.
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

/// The connection to one side.
#[derive(Clone, Debug, Default)]
struct Connection {
    received: usize,
    sent: usize,
    input: Input,
    /// A read or a write has failed.
    has_failed: bool,
    /// What is pending for it is discarded.
    discards: bool,
    /// What it must be sent, at the end.
    due: Option<Ending>,
    /// What it was sent.
    ending: Option<Ending>,
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
            Some(Ending::Rst) => true,
            Some(Ending::Fin) => self.has_failed || self.due == Some(Ending::Fin),
            None => self.has_failed,
        }
    }

    fn is_open(&self) -> bool {
        self.reads() || !self.is_closed()
    }

    /// Resets it without the bytes that are pending for it.
    fn reset(&mut self) {
        if self.is_open() {
            self.stop_reading();
            (self.has_failed, self.due) = (false, Some(Ending::Rst));
        }
        self.discards = true;
    }
}

impl Model {
    /// A relay that has connected to an upstream, which is sent a header of `header` bytes.
    pub(crate) fn new(config: Config, header: usize, has_another: bool) -> Self {
        Self {
            config,
            header,
            connections: Default::default(),
            phase: if has_another { Phase::Replaceable } else { Phase::Relaying },
            cause: None,
            moved: Instant::EPOCH,
            progressed: Instant::EPOCH,
        }
    }

    /// A lost upstream was replaced.
    pub(crate) fn replace(&mut self, has_another: bool, now: Instant) {
        let due = (self.of(Side::Client).input == Input::Fin).then_some(Ending::Fin);
        *self.of_mut(Side::Upstream) = Connection { due, ..Connection::default() };
        self.phase = if has_another { Phase::Replaceable } else { Phase::Relaying };
        (self.moved, self.progressed) = (now, now);
    }

    /// A lost upstream cannot be replaced.
    pub(crate) fn refuse(&mut self, reason: ProxyReason, now: Instant) {
        *self.of_mut(Side::Upstream) = Connection {
            input: Input::Fin,
            has_failed: true,
            discards: true,
            reason: Some(reason.clone()),
            ..Connection::default()
        };
        self.of_mut(Side::Client).due = Some(Ending::Fin);
        self.phase = Phase::Refused { discarded: 0, until: now + self.config.linger.time };
        self.cause = Some(reason);
    }

    fn of(&self, side: Side) -> &Connection {
        &self.connections[side as usize]
    }

    fn of_mut(&mut self, side: Side) -> &mut Connection {
        &mut self.connections[side as usize]
    }

    /// How many bytes of the other side are pending for `side`.
    fn forwarding(&self, side: Side) -> usize {
        let header = if side == Side::Upstream { self.header } else { 0 };
        self.of(side.other()).received - self.of(side).sent.saturating_sub(header)
    }

    /// How many bytes are pending for `side`, with the header.
    fn pending(&self, side: Side) -> usize {
        let header = if side == Side::Upstream { self.header } else { 0 };
        let discards = self.of(side).discards || !self.of(side).is_open();
        let unsent = self.forwarding(side) + header.saturating_sub(self.of(side).sent);
        if discards { 0 } else { unsent }
    }

    /// The upstream has a byte of the client, or has sent a byte or a FIN.
    fn commit(&mut self) {
        if self.phase == Phase::Replaceable {
            self.phase = Phase::Relaying;
            if self.of(Side::Upstream).has_failed {
                self.fail(Side::Upstream, Direction::Write, ConnectionError::Reset);
            }
        }
    }

    pub(crate) fn handle(&mut self, side: Side, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.receive(side, now, n),
            Event::Eof => {
                self.of_mut(side).input = Input::Fin;
                self.of_mut(side.other()).due.get_or_insert(Ending::Fin);
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
                if connection.ending == Some(Ending::Rst) {
                    connection.stop_reading();
                }
            }
            Event::Timeout { .. } if self.of(side).is_open() => self.expire(now),
            Event::ShutDown if self.of(side).is_open() && self.cause.is_none() => {
                if matches!(self.phase, Phase::Replaceable | Phase::Relaying) {
                    self.phase = Phase::Draining { since: now };
                }
            }
            Event::Timeout { .. } | Event::ShutDown | Event::Release => {}
        }
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
        if self.pending(side.other()) == 0 {
            self.progressed = now;
        }
        self.of_mut(side).received += n;
        if side == Side::Upstream {
            self.commit();
        }
    }

    fn fail(&mut self, side: Side, direction: Direction, error: ConnectionError) {
        // After a reset was reported by a write, input that had arrived can still be read.
        let still_reads = direction == Direction::Write
            && error == ConnectionError::Reset
            && self.of(side).reads()
            && !self.of(side.other()).has_failed;
        let unsent = self.pending(side);
        self.of_mut(side).has_failed = true;
        if side == Side::Upstream && self.phase == Phase::Replaceable && self.cause.is_none() {
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
                other.due = Some(Ending::Rst);
            }
        }
        other.stop_reading();
    }

    /// When a [`Timeout`](Event::Timeout) has an effect.
    fn deadline(&self) -> Option<Instant> {
        let [client, upstream] = &self.connections;
        let idle = self.progressed + self.config.idle_timeout.unwrap_or(Duration::MAX);
        match self.phase {
            _ if !client.is_open() && !upstream.is_open() => None,
            Phase::Refused { .. } if client.due == Some(Ending::Rst) => None,
            Phase::Refused { until, .. } => Some(until),
            Phase::Draining { since } if self.is_quiet() => {
                Some(idle.min(self.moved.max(since) + self.config.drain_quiet))
            }
            Phase::Replaceable | Phase::Relaying | Phase::Draining { .. } => Some(idle),
        }
    }

    fn is_quiet(&self) -> bool {
        self.cause.is_none() && Side::BOTH.iter().all(|side| self.pending(*side) == 0)
    }

    fn expire(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let is_quiet = self.is_quiet();
        let (to_client, to_upstream) = (self.pending(Side::Client), self.pending(Side::Upstream));
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
                    connection.due.get_or_insert(Ending::Fin);
                }
            }
            Phase::Replaceable | Phase::Relaying | Phase::Draining { .. } => {
                let limit = self.config.idle_timeout.unwrap_or_default();
                let idle = ProxyReason::IdleTimeout { limit, to_client, to_upstream };
                self.cause.get_or_insert(idle);
                self.connections.iter_mut().for_each(Connection::reset);
            }
        }
        (self.moved, self.progressed) = (now, now);
    }

    /// Asserts that the relay does what it must do.
    pub(crate) fn check(&self, relay: &mut Relay) {
        for side in Side::BOTH {
            let connection = self.of(side);
            let interest = relay.interest(side);
            let write = match connection.due {
                _ if connection.is_closed() && connection.reads() && !interest.read => {
                    Outbound::Idle
                }
                _ if connection.is_closed() => Outbound::Finished,
                _ if self.pending(side) > 0 => Outbound::Flush,
                None => Outbound::Idle,
                Some(Ending::Fin) => Outbound::Finish,
                Some(Ending::Rst) => Outbound::Reset,
            };
            assert_eq!(interest.write, write, "what the {side} must be sent: {self:?}");
            assert!(connection.reads() || !interest.read, "the {side} is read: {self:?}");
            let is_empty = self.forwarding(side.other()) == 0;
            assert!(
                !connection.reads() || !is_empty || interest.read,
                "the {side} is not read, but nothing is pending: {self:?}"
            );
            assert_eq!(relay.side(side).reason(), connection.reason, "the {side}: {self:?}");
            let follows =
                write == Outbound::Reset && connection.ending.is_none() && !connection.discards;
            assert_eq!(relay.forwards_reset(side), follows, "the {side}'s RST: {self:?}");
        }
        let [client, upstream] = &self.connections;
        assert_eq!(
            relay.status().queued,
            self.pending(Side::Client) + self.pending(Side::Upstream),
            "the bytes that are pending: {self:?}"
        );
        assert_eq!(
            relay.half_closed_by_upstream(),
            upstream.input == Input::Fin && client.reads(),
            "{self:?}"
        );
        assert_eq!(relay.is_done(), !client.is_open() && !upstream.is_open(), "{self:?}");
        assert_eq!(relay.reason().is_some(), relay.is_done());
        match (relay.poll_timeout(), self.deadline()) {
            (None, None) => {}
            (Some(deadline), Some(latest)) if deadline <= latest => {}
            (deadline, latest) => panic!("it wakes at {deadline:?}, not {latest:?}: {self:?}"),
        }
    }
}
