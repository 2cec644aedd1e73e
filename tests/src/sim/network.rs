//! The state of a world without its tasks: hosts, connections, and the queue of events.

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
    Entry, Faults, Settings, Side, Trace, TraceEvent, case,
    connection::{Connection, EndId},
    decisions::{StreamKey, Streams},
    faults::Dice,
    trace::Digest,
};

pub(super) struct Network {
    pub(super) settings: Settings,
    pub(super) seed: u64,
    /// Only if the world is recorded or replayed.
    streams: Option<Streams>,
    pub(super) now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    scheduled: u64,
    pub(super) hosts: Vec<HostState>,
    /// The addresses of names that are not those of hosts.
    pub(super) names: BTreeMap<String, Vec<IpAddr>>,
    /// Hosts that are stopped ([`Host::stop_for`](super::Host::stop_for)).
    pub(super) stopped: BTreeSet<usize>,
    pub(super) connections: Vec<Connection>,
    pub(super) listeners: BTreeMap<SocketAddr, Backlog>,
    pub(super) dials: BTreeMap<u64, Dial>,
    pub(super) dialled: u64,
    pub(super) alarms: BTreeMap<u64, Alarm>,
    pub(super) clocks: u64,
    pub(super) trace: Trace,
    /// Ends whose records have changed since the watches were called.
    pub(super) changed: BTreeSet<EndId>,
    /// The task that is being polled.
    pub(super) running: Option<u64>,
}

/// The state of a host.
pub(super) struct HostState {
    pub(super) name: Arc<str>,
    pub(super) ip: IpAddr,
    pub(super) faults: Faults,
    /// The limit on open sockets.
    pub(super) max_sockets: usize,
    /// How many connections it has dialled so far.
    pub(super) dials: u64,
    next_port: u16,
    pub(super) unplugged: bool,
    /// Readiness to report when the host is resumed.
    unreported: Vec<(EndId, Direction)>,
    pub(super) clock: ClockState,
}

/// The offset of a host's clock from the world's clock.
#[derive(Default)]
pub(super) struct ClockState {
    pub(super) ahead: Duration,
    pub(super) behind: Duration,
    pub(super) frozen: Option<Instant>,
}

pub(super) struct Alarm {
    pub(super) host: usize,
    /// In the time of the host's clock.
    pub(super) deadline: Instant,
    pub(super) waker: Waker,
}

/// A listening socket and its backlog.
pub(super) struct Backlog {
    pub(super) host: usize,
    /// Indices of the connections that were not accepted yet.
    pub(super) waiting: VecDeque<usize>,
    pub(super) waker: Option<Waker>,
    /// Whether it refuses further connections.
    pub(super) is_shut_down: bool,
    pub(super) dice: Dice,
}

/// A connection attempt.
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
    /// The next segment arrives at an end.
    Arrive(EndId),
    /// The reactor of the end's host learns that the end is ready.
    Report(EndId, Direction),
    /// The SYN of a dial reaches the other host.
    Request(u64),
    /// The answer to a dial reaches the dialling host.
    Answer(u64, Result<usize, io::ErrorKind>),
    /// A stopped host is resumed.
    Resume(usize),
    /// The frozen clock of a host continues.
    Thaw(usize),
    /// A spurious wake-up of a host's task.
    Wake(usize, Waker),
}

impl Network {
    pub(super) fn new(seed: u64, settings: Settings) -> Self {
        Self {
            settings,
            seed,
            streams: case::streams(),
            now: Instant::EPOCH + START,
            events: BTreeMap::new(),
            scheduled: 0,
            hosts: Vec::new(),
            names: BTreeMap::new(),
            stopped: BTreeSet::new(),
            connections: Vec::new(),
            listeners: BTreeMap::new(),
            dials: BTreeMap::new(),
            dialled: 0,
            alarms: BTreeMap::new(),
            clocks: 0,
            trace: Trace::default(),
            changed: BTreeSet::new(),
            running: None,
        }
    }

    pub(super) fn add_host(&mut self, name: &str, ip: IpAddr) -> usize {
        self.hosts.push(HostState {
            name: name.into(),
            ip,
            faults: Faults::NONE,
            max_sockets: usize::MAX,
            dials: 0,
            next_port: FIRST_PORT,
            unplugged: false,
            unreported: Vec::new(),
            clock: ClockState::default(),
        });
        self.hosts.len() - 1
    }

    /// Random numbers that depend only on the seed and `key`.
    pub(super) fn dice(&self, key: impl Hash + StreamKey) -> Dice {
        let stream = self.streams.as_ref().map(|streams| streams.stream(&key));
        let mut digest = Digest::default();
        (self.seed, key).hash(&mut digest);
        Dice::new(digest.finish(), stream)
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.events.insert((self.now + delay, self.scheduled), event);
        self.scheduled += 1;
    }

    /// The times of the next event and of the next alarm.
    pub(super) fn next(&self) -> (Option<Instant>, Option<Instant>) {
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        let due = |alarm: &Alarm| {
            let stopped = self.stopped.contains(&alarm.host);
            (!stopped).then(|| self.hosts[alarm.host].due(alarm.deadline))?
        };
        let alarm = self.alarms.values().filter_map(due).min();
        (event, alarm.map(|alarm| alarm.max(self.now)))
    }

    /// The wakers that the next event may wake, if it is due at `at`. If `alarms`, also the wakers
    /// of the alarms that are due at `at`.
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

    /// Advances the time to the next event, and runs it.
    pub(super) fn run_event(&mut self) {
        let Some(((at, _), event)) = self.events.pop_first() else { return };
        self.now = self.now.max(at);
        match event {
            Event::Arrive(end) => self.arrive(end),
            Event::Report(end, direction) => self.report(end, direction),
            Event::Request(dial) => self.request(dial),
            Event::Answer(dial, outcome) => self.answer(dial, outcome),
            Event::Resume(host) => {
                self.stopped.remove(&host);
                for (end, direction) in std::mem::take(&mut self.hosts[host].unreported) {
                    self.after(REPORT_DELAY, Event::Report(end, direction));
                }
            }
            Event::Thaw(host) => {
                let now = self.now;
                let clock = &mut self.hosts[host].clock;
                if let Some(frozen_at) = clock.frozen.take() {
                    clock.behind += clock.at(now).since(frozen_at);
                }
            }
            Event::Wake(_, waker) => waker.wake(),
        }
    }

    /// Advances the time to `at`, and wakes the tasks of the alarms that are due.
    pub(super) fn fire_alarms(&mut self, at: Instant) {
        self.now = self.now.max(at);
        let (now, hosts, stopped) = (self.now, &self.hosts, &self.stopped);
        self.alarms.retain(|_, alarm| {
            let is_due = !stopped.contains(&alarm.host)
                && hosts[alarm.host].due(alarm.deadline).is_some_and(|due| due <= now);
            if is_due {
                alarm.waker.wake_by_ref();
            }
            !is_due
        });
    }

    /// Reports to the host's reactor that `end` is ready. A stopped host gets the report when it is
    /// resumed.
    pub(super) fn report(&mut self, end: EndId, direction: Direction) {
        let state = self.connections[end.connection].end(end.side);
        let host = &mut self.hosts[state.host];
        if self.stopped.contains(&state.host) {
            host.unreported.push((end, direction));
        } else {
            state.readiness(direction).report();
        }
    }

    pub(super) fn trace(&mut self, end: EndId, event: TraceEvent) {
        let connection = &self.connections[end.connection];
        let (client, dial) = (connection.client.clone(), connection.dial);
        self.trace.push(Entry { at: self.now, client, dial, side: end.side, event });
        self.changed.insert(end);
    }

    fn trace_dial(&mut self, dial: u64, event: TraceEvent) {
        let Some(Dial { host, number, .. }) = self.dials.get(&dial) else { return };
        let (client, dial) = (self.hosts[*host].name.clone(), *number);
        self.trace.push(Entry { at: self.now, client, dial, side: Side::Client, event });
    }

    pub(super) fn open_sockets(&self, host: usize) -> usize {
        self.connections.iter().map(|connection| connection.open_ends(host)).sum()
    }

    /// Starts to connect, and returns the id of the dial.
    pub(super) fn dial(&mut self, host: usize, to: SocketAddr) -> u64 {
        let number = self.hosts[host].dials;
        self.hosts[host].dials += 1;
        let mut dice = self.dice((&self.hosts[host].name, number));
        let latency = dice.between("latency", &self.settings.latency);
        let id = self.dialled;
        self.dialled += 1;
        let (outcome, waker) = (None, None);
        let dial = Dial { host, number, to, latency, dice, attempts: 0, outcome, waker };
        self.dials.insert(id, dial);
        self.trace_dial(id, TraceEvent::Dialled);
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
            // Linux drops a SYN if the backlog is full, and repeats a SYN without an answer.
            Some(backlog)
                if backlog.is_shut_down
                    || backlog.waiting.len() >= self.settings.backlog
                    || self.hosts[backlog.host].unplugged
                    || self.hosts[dial.host].unplugged =>
            {
                if dial.attempts < MAX_ATTEMPTS {
                    self.after(RETRY_INTERVAL, Event::Request(id));
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
}

impl HostState {
    /// The next ephemeral port.
    pub(super) fn take_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        port
    }

    /// When this host's clock reaches `deadline`, in the world's time; `None` if never.
    fn due(&self, deadline: Instant) -> Option<Instant> {
        let due = self.clock.when(deadline);
        (self.clock.frozen.is_none() && due < Instant::NEVER).then_some(due)
    }
}

impl ClockState {
    pub(super) fn at(&self, now: Instant) -> Instant {
        let running = || (now.since_epoch() + self.ahead).saturating_sub(self.behind);
        self.frozen.unwrap_or_else(|| Instant::from_epoch(running()))
    }

    fn when(&self, shown: Instant) -> Instant {
        Instant::from_epoch((shown.since_epoch() + self.behind).saturating_sub(self.ahead))
    }
}

/// The time after the epoch at which worlds start. A clock can be set back by at most this much.
const START: Duration = Duration::from_secs(1_000_000);
/// The time from a resumed host's alarms to the reports of its sockets' readiness. This order finds
/// drivers that handle a deadline before they read.
const REPORT_DELAY: Duration = Duration::from_micros(10);
/// The first ephemeral port (RFC 6335, section 6).
const FIRST_PORT: u16 = 49_152;
/// The interval between SYNs. Linux waits 1 s, then 2 s, 4 s … and repeats up to 6 times (tcp(7));
/// here the interval is constant.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The most SYNs of a dial.
const MAX_ATTEMPTS: u32 = 7;
