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
    Entry, Faults, Place, Settings, Trace, TraceEvent, Value,
    alarms::Alarms,
    case,
    clock::ClockState,
    connection::{Connection, EndId},
    decisions::{StreamKey, Streams},
    dial::Dial,
    faults::Dice,
    life::Program,
    link::{Bandwidth, Link},
    trace::Digest,
};

pub(super) struct Network {
    pub(super) settings: Settings,
    pub(super) seed: u64,
    /// How many worlds the test has created before with this seed.
    pub(super) number: usize,
    /// Only if the world is recorded or replayed.
    streams: Option<Streams>,
    pub(super) now: Instant,
    pub(super) events: BTreeMap<(Instant, u64), Event>,
    scheduled: u64,
    /// How many events were simulated: polls of woken tasks, alarms, and events of the network.
    pub(super) simulated: u64,
    /// How many of them were polls.
    pub(super) polls: u64,
    /// How many tasks have panicked.
    pub(super) panics: u64,
    pub(super) hosts: Vec<HostState>,
    /// What was set for the segments from one host to another.
    pub(super) links: BTreeMap<(usize, usize), Link>,
    /// The addresses of names that are not those of hosts.
    pub(super) names: BTreeMap<String, Vec<IpAddr>>,
    /// Hosts that are stopped ([`Host::stop_for`](super::Host::stop_for)), and until when.
    pub(super) stopped: BTreeMap<usize, Instant>,
    pub(super) connections: Vec<Connection>,
    pub(super) listeners: BTreeMap<SocketAddr, Backlog>,
    pub(super) listened: u64,
    pub(super) dials: BTreeMap<u64, Dial>,
    pub(super) dialled: u64,
    pub(super) alarms: Alarms,
    pub(super) trace: Trace,
    /// Ends whose records have changed since the watches were called. Empty without watches.
    pub(super) changed: BTreeSet<EndId>,
    pub(super) is_watched: bool,
    /// The task that is polled.
    pub(super) running: Option<u64>,
}

/// The state of a host.
pub(super) struct HostState {
    pub(super) name: Arc<str>,
    pub(super) ip: IpAddr,
    pub(super) faults: Faults,
    /// The limit on open sockets.
    pub(super) max_sockets: usize,
    /// The number of connected sockets that are open, with those in backlogs.
    pub(super) sockets: usize,
    /// How many connections it has dialled so far.
    pub(super) dials: u64,
    next_port: u16,
    pub(super) unplugged: bool,
    pub(super) upload: Bandwidth,
    pub(super) download: Bandwidth,
    /// Readiness to report when the host is resumed.
    pub(super) unreported: Vec<(EndId, Direction)>,
    pub(super) clock: ClockState,
    pub(super) state: State,
    /// What it runs when it is started.
    pub(super) programs: Vec<Program>,
}

/// Whether a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// Its processes were killed, but its kernel runs.
    Killed,
    /// Its power was cut.
    Off,
}

/// A listening socket and its backlog.
pub(super) struct Backlog {
    /// Distinguishes it from an earlier one of the same address.
    pub(super) id: u64,
    pub(super) host: usize,
    /// Indices of the connections that were not accepted yet.
    pub(super) waiting: VecDeque<usize>,
    pub(super) waker: Option<Waker>,
    /// Whether it refuses further connections.
    pub(super) is_shut_down: bool,
    pub(super) dice: Dice,
}

pub(super) enum Event {
    /// The next segment arrives at an end.
    Arrive(EndId),
    /// The reactor of the end's host learns that the end is ready.
    Report(EndId, Direction),
    /// The end learns that the other end has read bytes.
    WindowUpdate(EndId),
    /// The sender repeats what was lost on the way to this end.
    Retransmit(EndId),
    /// The end probes whether the other end is still there (keepalive).
    Probe(EndId),
    /// The SYN of a dial reaches the other host.
    Request(u64),
    /// The answer to a dial reaches the dialling host.
    Answer(u64, Result<usize, io::ErrorKind>),
    /// A stopped host is resumed.
    Resume(usize),
    /// The frozen clock of a host continues.
    Thaw(usize),
    /// A spurious wake-up of the task that uses the end.
    Wake(EndId, Waker),
}

impl Network {
    pub(super) fn new(seed: u64, settings: Settings) -> Self {
        Self {
            settings,
            seed,
            number: case::worlds(),
            streams: case::streams(),
            now: Instant::EPOCH + START,
            events: BTreeMap::new(),
            scheduled: 0,
            simulated: 0,
            polls: 0,
            panics: 0,
            hosts: Vec::new(),
            links: BTreeMap::new(),
            names: BTreeMap::new(),
            stopped: BTreeMap::new(),
            connections: Vec::new(),
            listeners: BTreeMap::new(),
            listened: 0,
            dials: BTreeMap::new(),
            dialled: 0,
            alarms: Alarms::default(),
            trace: Trace::default(),
            changed: BTreeSet::new(),
            is_watched: false,
            running: None,
        }
    }

    pub(super) fn add_host(&mut self, name: &str, ip: IpAddr) -> usize {
        self.hosts.push(HostState {
            name: name.into(),
            ip,
            faults: Faults::NONE,
            max_sockets: usize::MAX,
            sockets: 0,
            dials: 0,
            next_port: FIRST_PORT,
            unplugged: false,
            upload: Bandwidth::default(),
            download: Bandwidth::default(),
            unreported: Vec::new(),
            clock: ClockState::new(self.now),
            state: State::Running,
            programs: Vec::new(),
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

    /// The time, and those of the next event and of the next alarm.
    pub(super) fn next(&self) -> (Instant, Option<Instant>, Option<Instant>) {
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        (self.now, event, self.alarms.next().map(|alarm| alarm.max(self.now)))
    }

    /// Counts a poll of a woken task.
    pub(super) fn count_poll(&mut self, task: u64) {
        self.simulated += 1;
        self.polls += 1;
        self.trace.trace_poll(task, self.now);
    }

    /// Wakes the tasks that the next event may wake, if it is due at `at`. If `alarms`, also those
    /// of the alarms that are due at `at`.
    pub(super) fn wake_next(&self, at: Instant, alarms: bool) {
        let first = self.events.first_key_value().filter(|((time, _), _)| *time == at);
        match first.map(|(_, event)| event) {
            Some(
                Event::Arrive(end)
                | Event::Report(end, _)
                | Event::WindowUpdate(end)
                | Event::Probe(end),
            ) => {
                let end = self.connections[end.connection].peek(end.side);
                if !self.stopped.contains_key(&end.host) {
                    end.wakers().for_each(Waker::wake_by_ref);
                }
            }
            Some(Event::Wake(end, waker)) => {
                let host = self.connections[end.connection].peek(end.side).host;
                if !self.stopped.contains_key(&host) {
                    waker.wake_by_ref();
                }
            }
            Some(
                Event::Retransmit(_)
                | Event::Request(_)
                | Event::Answer(..)
                | Event::Resume(_)
                | Event::Thaw(_),
            )
            | None => {}
        }
        if alarms {
            self.alarms.wake(at);
        }
    }

    /// Advances the time to the next event, and runs it.
    pub(super) fn run_event(&mut self) {
        let Some(((at, _), event)) = self.events.pop_first() else { return };
        self.now = self.now.max(at);
        self.simulated += 1;
        match event {
            Event::Arrive(end) => self.arrive(end),
            Event::Report(end, direction) => self.report(end, direction),
            Event::WindowUpdate(end) => self.update_window(end),
            Event::Retransmit(end) => self.retransmit(end),
            Event::Probe(end) => self.probe(end),
            Event::Request(dial) => self.request(dial),
            Event::Answer(dial, outcome) => self.answer(dial, outcome),
            Event::Resume(host) => {
                if self.stopped.get(&host).is_some_and(|until| *until <= self.now) {
                    self.resume(host);
                    self.trace_host(host, TraceEvent::Healed("stopped", None));
                }
            }
            Event::Thaw(host) => {
                if self.hosts[host].clock.thaw(self.now) {
                    self.trace_host(host, TraceEvent::Healed("clock_frozen", None));
                }
                self.reschedule_alarms(host);
            }
            Event::Wake(end, waker) => {
                if !self.end(end).record.closed {
                    self.trace_fault(end, "spurious_wake", None);
                }
                waker.wake();
            }
        }
    }

    /// Continues the processes of a stopped host.
    pub(super) fn resume(&mut self, host: usize) {
        self.stopped.remove(&host);
        self.reschedule_alarms(host);
        for (end, direction) in std::mem::take(&mut self.hosts[host].unreported) {
            self.after(REPORT_DELAY, Event::Report(end, direction));
        }
    }

    /// Advances the time to `at`, and wakes the tasks of the alarms that are due.
    pub(super) fn fire_alarms(&mut self, at: Instant) {
        self.now = self.now.max(at);
        while let Some(waker) = self.alarms.pop(self.now) {
            self.simulated += 1;
            waker.wake();
        }
    }

    /// When the clock of a host shows `deadline`, by the world's clock; `None` if never, or if the
    /// host is stopped.
    pub(super) fn due(&self, host: usize, deadline: Instant) -> Option<Instant> {
        if self.stopped.contains_key(&host) {
            return None;
        }
        self.hosts[host].clock.when(deadline)
    }

    /// Calculates again when the alarms of a host go off, after its clock was changed.
    pub(super) fn reschedule_alarms(&mut self, host: usize) {
        let mut alarms = std::mem::take(&mut self.alarms);
        alarms.reschedule(host, |deadline| self.due(host, deadline));
        self.alarms = alarms;
    }

    /// Reports to the host's reactor that `end` is ready. A stopped host gets the report when it is
    /// resumed.
    pub(super) fn report(&mut self, end: EndId, direction: Direction) {
        let state = self.connections[end.connection].end(end.side);
        let host = &mut self.hosts[state.host];
        if self.stopped.contains_key(&state.host) {
            host.unreported.push((end, direction));
        } else {
            state.readiness(direction).report();
        }
    }

    pub(super) fn trace(&mut self, end: EndId, event: TraceEvent) {
        let connection = &self.connections[end.connection];
        let (client, dial) = (connection.client.clone(), connection.dial);
        let place = Place::End { client, dial, side: end.side };
        self.trace.push(Entry { at: self.now, place, event });
        if self.is_watched {
            self.changed.insert(end);
        }
    }

    pub(super) fn trace_fault(&mut self, end: EndId, name: &'static str, value: Option<Value>) {
        self.trace(end, TraceEvent::Fault(name, value));
    }

    pub(super) fn trace_host(&mut self, host: usize, event: TraceEvent) {
        let place = Place::Host(self.hosts[host].name.clone());
        self.trace.push(Entry { at: self.now, place, event });
    }

    /// A fault of a host begins or ends: whether it has lasted, and whether it lasts now.
    pub(super) fn trace_lasting(
        &mut self,
        host: usize,
        (before, now): (bool, bool),
        name: &'static str,
        value: Option<Value>,
    ) {
        match (before, now) {
            (_, true) => self.trace_host(host, TraceEvent::Fault(name, value)),
            (true, false) => self.trace_host(host, TraceEvent::Healed(name, value)),
            (false, false) => {}
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
}

/// The time after the epoch at which worlds start. A clock can be set back by at most this much.
const START: Duration = Duration::from_secs(1_000_000);
/// The time from a resumed host's alarms to the reports of its sockets' readiness. This order finds
/// drivers that handle a deadline before they read.
const REPORT_DELAY: Duration = Duration::from_micros(10);
/// The first ephemeral port (RFC 6335, section 6).
const FIRST_PORT: u16 = 49_152;
