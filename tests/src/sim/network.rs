//! The state of a world besides its tasks: what is on its way, and when it arrives.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{Hash, Hasher},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use wirestate_core::{Direction, Instant};

use super::{
    Entry, Faults, Settings, Side, Trace, What,
    connection::{Connection, EndId},
    faults::Dice,
    trace::Digest,
};

pub(super) struct Network {
    pub(super) settings: Settings,
    pub(super) seed: u64,
    pub(super) now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    scheduled: u64,
    pub(super) hosts: Vec<Node>,
    /// The hosts that are stopped.
    pub(super) stopped: BTreeSet<usize>,
    pub(super) connections: Vec<Connection>,
    pub(super) listeners: BTreeMap<SocketAddr, Backlog>,
    pub(super) dials: BTreeMap<u64, Dial>,
    pub(super) dialled: u64,
    pub(super) alarms: BTreeMap<u64, Alarm>,
    pub(super) clocks: u64,
    pub(super) trace: Trace,
    /// The ends whose records have changed since somebody looked.
    pub(super) changed: BTreeSet<EndId>,
}

/// One host.
pub(super) struct Node {
    pub(super) name: Arc<str>,
    pub(super) ip: IpAddr,
    pub(super) faults: Faults,
    /// The most sockets that it can have open.
    pub(super) descriptors: usize,
    /// Connections that it asked for so far.
    pub(super) dials: u64,
    next_port: u16,
    pub(super) unplugged: bool,
    /// Readiness that could not be reported while it was stopped.
    unreported: Vec<(EndId, Direction)>,
    pub(super) clock: Reading,
}

/// What a host's clock shows, against the world's own.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) ahead: Duration,
    pub(super) behind: Duration,
    pub(super) frozen: Option<Instant>,
}

pub(super) struct Alarm {
    pub(super) host: usize,
    /// By the host's clock.
    pub(super) deadline: Instant,
    pub(super) waker: Waker,
}

/// A listening socket.
pub(super) struct Backlog {
    pub(super) host: usize,
    /// Connections (their numbers) that nobody has accepted yet.
    pub(super) waiting: VecDeque<usize>,
    pub(super) waker: Option<Waker>,
    /// It takes no further connections.
    pub(super) is_shut_down: bool,
    pub(super) dice: Dice,
}

/// A connection that is asked for.
pub(super) struct Dial {
    pub(super) host: usize,
    pub(super) number: u64,
    pub(super) to: SocketAddr,
    pub(super) latency: Duration,
    pub(super) dice: Dice,
    pub(super) attempts: u32,
    pub(super) outcome: Option<Result<usize, io::ErrorKind>>,
    pub(super) waker: Option<Waker>,
}

pub(super) enum Event {
    /// The next segment on its way to an end arrives there.
    Arrive(EndId),
    /// The reactor of the end's host learns that it is ready.
    Report(EndId, Direction),
    /// The request for a connection reaches the other host.
    Request(u64),
    /// The answer to it is back.
    Answer(u64, Result<usize, io::ErrorKind>),
    /// A stopped host goes on.
    Resume(usize),
    /// A clock that stood still goes on from where it stood.
    Thaw(usize),
    /// A task of a host is woken for no reason.
    Wake(usize, Waker),
}

impl Network {
    pub(super) fn new(seed: u64, settings: Settings) -> Self {
        Self {
            settings,
            seed,
            now: Instant::EPOCH + START,
            events: BTreeMap::new(),
            scheduled: 0,
            hosts: Vec::new(),
            stopped: BTreeSet::new(),
            connections: Vec::new(),
            listeners: BTreeMap::new(),
            dials: BTreeMap::new(),
            dialled: 0,
            alarms: BTreeMap::new(),
            clocks: 0,
            trace: Trace::default(),
            changed: BTreeSet::new(),
        }
    }

    pub(super) fn add_host(&mut self, name: &str, ip: IpAddr) -> usize {
        self.hosts.push(Node {
            name: name.into(),
            ip,
            faults: Faults::NONE,
            descriptors: usize::MAX,
            dials: 0,
            next_port: FIRST_PORT,
            unplugged: false,
            unreported: Vec::new(),
            clock: Reading::default(),
        });
        self.hosts.len() - 1
    }

    /// Dice that depend on the seed and on `what` alone.
    pub(super) fn dice(&self, what: impl Hash) -> Dice {
        let mut digest = Digest::default();
        (self.seed, what).hash(&mut digest);
        Dice::new(digest.finish())
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.events.insert((self.now + delay, self.scheduled), event);
        self.scheduled += 1;
    }

    /// When something happens next: an event, and an alarm.
    pub(super) fn next(&self) -> (Option<Instant>, Option<Instant>) {
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        let due = |alarm: &Alarm| {
            let stopped = self.stopped.contains(&alarm.host);
            (!stopped).then(|| self.hosts[alarm.host].due(alarm.deadline))?
        };
        let alarm = self.alarms.values().filter_map(due).min();
        (event, alarm.map(|alarm| alarm.max(self.now)))
    }

    /// The wakers that may be woken by what happens next, at `at`: an event, or `alarms`.
    pub(super) fn next_wakers(&self, at: Instant, alarms: bool) -> Vec<Waker> {
        let of_end = |end: &EndId| {
            let end = self.connections[end.connection].peek(end.side);
            (end.host, end.wakers().cloned().collect())
        };
        let first = self.events.first_key_value().filter(|((time, _), _)| *time == at);
        let (host, mut wakers): (usize, Vec<Waker>) = match first.map(|(_, event)| event) {
            Some(Event::Arrive(end) | Event::Report(end, _)) => of_end(end),
            Some(Event::Wake(host, waker)) => (*host, vec![waker.clone()]),
            Some(Event::Request(_) | Event::Answer(..) | Event::Resume(_) | Event::Thaw(_))
            | None => (0, Vec::new()),
        };
        if self.stopped.contains(&host) {
            wakers.clear();
        }
        if alarms {
            let due = |alarm: &&Alarm| {
                !self.stopped.contains(&alarm.host)
                    && self.hosts[alarm.host].due(alarm.deadline) == Some(at)
            };
            wakers.extend(self.alarms.values().filter(due).map(|alarm| alarm.waker.clone()));
        }
        wakers
    }

    /// The first event happens, at its time.
    pub(super) fn happen(&mut self) {
        let Some(((at, _), event)) = self.events.pop_first() else { return };
        self.now = self.now.max(at);
        match event {
            Event::Arrive(end) => self.arrive(end),
            Event::Report(end, way) => self.report(end, way),
            Event::Request(dial) => self.request(dial),
            Event::Answer(dial, outcome) => self.answer(dial, outcome),
            Event::Resume(host) => {
                self.stopped.remove(&host);
                for (end, way) in std::mem::take(&mut self.hosts[host].unreported) {
                    self.after(REPORT, Event::Report(end, way));
                }
            }
            Event::Thaw(host) => {
                let now = self.now;
                let clock = &mut self.hosts[host].clock;
                if let Some(stood) = clock.frozen.take() {
                    clock.behind += clock.at(now).since(stood);
                }
            }
            Event::Wake(_, waker) => waker.wake(),
        }
    }

    /// The alarms that are due by `at` go off.
    pub(super) fn ring(&mut self, at: Instant) {
        self.now = self.now.max(at);
        let (now, hosts, stopped) = (self.now, &self.hosts, &self.stopped);
        self.alarms.retain(|_, alarm| {
            let rings = !stopped.contains(&alarm.host)
                && hosts[alarm.host].due(alarm.deadline).is_some_and(|due| due <= now);
            if rings {
                alarm.waker.wake_by_ref();
            }
            !rings
        });
    }

    /// The host's reactor learns that `end` is ready, now or when the host goes on.
    pub(super) fn report(&mut self, end: EndId, way: Direction) {
        let state = self.connections[end.connection].end(end.side);
        let host = &mut self.hosts[state.host];
        if self.stopped.contains(&state.host) {
            host.unreported.push((end, way));
        } else {
            state.readiness(way).report();
        }
    }

    pub(super) fn note(&mut self, end: EndId, what: What) {
        let connection = &self.connections[end.connection];
        let (client, dial) = (connection.client.clone(), connection.dial);
        self.trace.push(Entry { at: self.now, client, dial, side: end.side, what });
        self.changed.insert(end);
    }

    fn note_dial(&mut self, dial: u64, what: What) {
        let Some(Dial { host, number, .. }) = self.dials.get(&dial) else { return };
        let (client, dial) = (self.hosts[*host].name.clone(), *number);
        self.trace.push(Entry { at: self.now, client, dial, side: Side::Client, what });
    }

    pub(super) fn open_sockets(&self, host: usize) -> usize {
        self.connections.iter().map(|connection| connection.open_ends(host)).sum()
    }

    /// Asks for a connection; answers the dial's number.
    pub(super) fn dial(&mut self, host: usize, to: SocketAddr) -> u64 {
        let number = self.hosts[host].dials;
        self.hosts[host].dials += 1;
        let mut dice = self.dice((&self.hosts[host].name, number));
        let latency = dice.between(&self.settings.latency);
        let id = self.dialled;
        self.dialled += 1;
        let (outcome, waker) = (None, None);
        let dial = Dial { host, number, to, latency, dice, attempts: 0, outcome, waker };
        self.dials.insert(id, dial);
        self.note_dial(id, What::Dialled);
        self.after(latency, Event::Request(id));
        id
    }

    fn request(&mut self, id: u64) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let (latency, to) = (dial.latency, dial.to);
        dial.attempts += 1;
        let answer = match self.listeners.get(&to) {
            _ if !self.hosts.iter().any(|host| host.ip == to.ip()) => {
                Err(io::ErrorKind::HostUnreachable)
            }
            None => Err(io::ErrorKind::ConnectionRefused),
            // Linux drops a request that finds the backlog full, and one that got lost is repeated.
            Some(backlog)
                if backlog.is_shut_down
                    || backlog.waiting.len() >= self.settings.backlog
                    || self.hosts[backlog.host].unplugged
                    || self.hosts[dial.host].unplugged =>
            {
                if dial.attempts < ATTEMPTS {
                    self.after(REPEAT, Event::Request(id));
                    return;
                }
                Err(io::ErrorKind::TimedOut)
            }
            Some(backlog) => {
                let server = backlog.host;
                let (host, number, dice) = (dial.host, dial.number, dial.dice.clone());
                let from = &mut self.hosts[host];
                let local = SocketAddr::new(from.ip, from.take_port());
                let name = from.name.clone();
                let dice = [dice, self.dice((&name, number, Side::Server))];
                let connection =
                    Connection::new((name, number), [(host, local), (server, to)], latency, dice);
                self.connections.push(connection);
                let connection = self.connections.len() - 1;
                if let Some(backlog) = self.listeners.get_mut(&to) {
                    backlog.waiting.push_back(connection);
                    if let Some(waker) = backlog.waker.take() {
                        waker.wake();
                    }
                }
                Ok(connection)
            }
        };
        self.after(latency, Event::Answer(id, answer));
    }

    fn answer(&mut self, id: u64, outcome: Result<usize, io::ErrorKind>) {
        let what = if outcome.is_ok() { What::Connected } else { What::Refused };
        self.note_dial(id, what);
        match self.dials.get_mut(&id) {
            Some(dial) => {
                dial.outcome = Some(outcome);
                if let Some(waker) = dial.waker.take() {
                    waker.wake();
                }
            }
            // Nobody waits for it any more.
            None => {
                if let Ok(connection) = outcome {
                    self.close(EndId { connection, side: Side::Client });
                }
            }
        }
    }
}

impl Node {
    /// A port that nobody asked for by number.
    pub(super) fn take_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        port
    }

    /// When, by the world's clock, this host's clock shows `deadline`; `None` if it never does.
    fn due(&self, deadline: Instant) -> Option<Instant> {
        let due = self.clock.when(deadline);
        (self.clock.frozen.is_none() && due < Instant::NEVER).then_some(due)
    }
}

impl Reading {
    pub(super) fn at(&self, now: Instant) -> Instant {
        let running = || (now.since_epoch() + self.ahead).saturating_sub(self.behind);
        self.frozen.unwrap_or_else(|| Instant::from_epoch(running()))
    }

    fn when(&self, shown: Instant) -> Instant {
        Instant::from_epoch((shown.since_epoch() + self.behind).saturating_sub(self.ahead))
    }
}

/// Worlds begin so long after the epoch, to leave a clock room to go back.
const START: Duration = Duration::from_secs(1_000_000);
/// A host that goes on looks at its alarms first, and learns so much later what has arrived: the
/// worse of the two orders for whoever believes in deadlines.
const REPORT: Duration = Duration::from_micros(10);
/// Where the ports that nobody asked for by number begin (RFC 6335, section 6).
const FIRST_PORT: u16 = 49_152;
/// Linux repeats a request for a connection after 1 s, 3 s, 7 s …, up to 6 times (tcp(7)); evenly
/// here.
const REPEAT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 7;
