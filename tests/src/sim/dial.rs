//! Connection attempts.

use std::{io, net::SocketAddr, task::Waker, time::Duration};

use super::{
    Entry, Place, Side, TraceEvent, Value,
    connection::{Connection, EndId},
    faults::Dice,
    network::{Event, Network},
};

/// A connection attempt.
pub(super) struct Dial {
    pub(super) host: usize,
    number: u64,
    to: SocketAddr,
    /// How long the SYN and its answer take.
    latency: Duration,
    /// The latency of the connection.
    of_connection: Duration,
    dice: Dice,
    attempts: u32,
    pub(super) outcome: Option<Result<usize, io::ErrorKind>>,
    pub(super) waker: Option<Waker>,
}

impl Network {
    /// Starts to connect, and returns the id of the dial.
    pub(super) fn dial(&mut self, host: usize, to: SocketAddr) -> u64 {
        let number = self.hosts[host].dials;
        self.hosts[host].dials += 1;
        let mut dice = self.dice((&self.hosts[host].name, number));
        let server = self.host_of(to).unwrap_or(host);
        let drawn = self.settings.latency.of_connection(&mut dice);
        let of_connection = drawn.0;
        let path = self.links.get(&(host, server)).and_then(|link| link.latency.as_ref());
        let (latency, has_doubled) =
            path.map_or(drawn, |path| path.of_segment(of_connection, &mut dice));
        let id = self.dialled;
        self.dialled += 1;
        let (outcome, waker) = (None, None);
        let dial =
            Dial { host, number, to, latency, of_connection, dice, attempts: 0, outcome, waker };
        self.dials.insert(id, dial);
        self.trace_dial(id, TraceEvent::Dialled);
        if has_doubled {
            self.trace_dial(id, TraceEvent::Fault("latency_doubles", Some(Value::Time(latency))));
        }
        self.after(latency, Event::Request(id));
        id
    }

    /// The SYN of a dial arrives, or is lost.
    pub(super) fn request(&mut self, id: u64) {
        let server = self.dials.get(&id).and_then(|dial| self.host_of(dial.to));
        let Some(dial) = self.dials.get(&id) else { return };
        let (latency, to, host) = (dial.latency, dial.to, dial.host);
        let backlog = self.listeners.get(&to);
        // Linux drops a SYN if the backlog is full, and repeats one without an answer.
        let is_full = backlog.is_some_and(|backlog| {
            backlog.is_shut_down || backlog.waiting.len() >= self.settings.backlog
        });
        let is_listened_on = backlog.is_some();
        let fault = match server {
            Some(server) if !self.is_connected(host, server) => Some("lost"),
            Some(_) if is_full => Some("backlog_full"),
            Some(_) | None => None,
        };
        let answer = match (server, fault) {
            (None, _) => Err(io::ErrorKind::HostUnreachable),
            (Some(_), Some(fault)) => {
                if self.repeats(id, fault) {
                    return self.after(RETRY_INTERVAL, Event::Request(id));
                }
                Err(io::ErrorKind::TimedOut)
            }
            (Some(server), None) if is_listened_on => Ok(self.connect(id, server)),
            (Some(_), None) => Err(io::ErrorKind::ConnectionRefused),
        };
        self.after(latency, Event::Answer(id, answer));
    }

    /// Adds the connection of a dial to the backlog.
    fn connect(&mut self, id: u64, server: usize) -> usize {
        let Dial { host, number, to, of_connection: latency, dice, .. } = &self.dials[&id];
        let (host, number, to, latency, dice) = (*host, *number, *to, *latency, dice.clone());
        let from = &mut self.hosts[host];
        let local = SocketAddr::new(from.ip, from.take_port());
        let name = from.name.clone();
        from.sockets += 1;
        self.hosts[server].sockets += 1;
        let dice = [dice, self.dice((&name, number, Side::Server))];
        let ends = [(host, local), (server, to)];
        self.connections.push(Connection::new((name, number), ends, latency, dice));
        let connection = self.connections.len() - 1;
        if let Some(backlog) = self.listeners.get_mut(&to) {
            backlog.waiting.push_back(connection);
            if let Some(waker) = backlog.waker.take() {
                waker.wake();
            }
        }
        connection
    }

    /// The answer to a dial arrives, or is lost.
    pub(super) fn answer(&mut self, id: u64, mut outcome: Result<usize, io::ErrorKind>) {
        let path = self.dials.get(&id).and_then(|dial| Some((self.host_of(dial.to)?, dial.host)));
        if path.is_some_and(|(server, host)| !self.passes(server, host)) {
            if self.repeats(id, "lost") {
                return self.after(RETRY_INTERVAL, Event::Answer(id, outcome));
            }
            if let Ok(connection) = outcome {
                self.vanish(EndId { connection, side: Side::Client });
            }
            outcome = Err(io::ErrorKind::TimedOut);
        }
        let event = if outcome.is_ok() { TraceEvent::Connected } else { TraceEvent::Refused };
        self.trace_dial(id, event);
        match self.dials.get_mut(&id) {
            Some(dial) => {
                dial.outcome = Some(outcome);
                if let Some(waker) = dial.waker.take() {
                    waker.wake();
                }
            }
            // The dial was abandoned.
            None => {
                if let Ok(connection) = outcome {
                    self.close(EndId { connection, side: Side::Client });
                }
            }
        }
    }

    /// Counts a SYN, or answer, that is lost by `fault`. Returns whether it is sent again.
    fn repeats(&mut self, id: u64, fault: &'static str) -> bool {
        self.trace_dial(id, TraceEvent::Fault(fault, None));
        self.dials.get_mut(&id).is_some_and(|dial| {
            dial.attempts += 1;
            dial.attempts < MAX_ATTEMPTS
        })
    }

    fn host_of(&self, address: SocketAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.ip == address.ip())
    }

    fn trace_dial(&mut self, dial: u64, event: TraceEvent) {
        let Some(Dial { host, number, .. }) = self.dials.get(&dial) else { return };
        let (client, dial) = (self.hosts[*host].name.clone(), *number);
        let place = Place::End { client, dial, side: Side::Client };
        self.trace.push(Entry { at: self.now, place, event });
    }
}

/// The interval between SYNs. Linux waits 1 s, then 2 s, 4 s … and repeats up to 6 times (tcp(7));
/// here the interval is constant.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The most SYNs of a dial.
const MAX_ATTEMPTS: u32 = 7;
