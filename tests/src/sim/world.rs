//! A simulated world: creates hosts, runs tasks and advances the time.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    panic::resume_unwind,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
    thread,
    time::Duration,
};

use wirestate_core::{Instant, shared::Lock};

use super::{
    Entry, Host, Record, Task, Trace, case,
    connection::Connection,
    executor::{Executor, TaskInfo},
    faults::Dice,
    network::Network,
    report::lines,
};
use crate::seeds::is_quiet;

/// The settings of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The range of latencies. Each connection draws one, and each of its segments takes between
    /// one and two times as long. Default: 50 µs to 5 ms.
    pub latency: RangeInclusive<Duration>,
    /// The most bytes that one direction of a connection holds, in flight and unread. Not 0.
    /// Default: 16 KiB.
    pub buffer: usize,
    /// The most connections that wait to be accepted. Dialling retries while the backlog is full.
    /// Default: 128.
    pub backlog: usize,
    /// Whether a panic ends only its task, as on a real runtime, and is counted. Default: false, a
    /// panic ends the run.
    pub catch_panics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(50)..=Duration::from_millis(5),
            buffer: 16 * 1024,
            backlog: 128,
            catch_panics: false,
        }
    }
}

/// A simulated world. Clones are the same world. See the [module](super).
///
/// It keeps its trace and every byte of its [`Record`]s in memory. Tasks own their world: call
/// [`clear`](Self::clear) to free a world with unfinished tasks.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

/// A world that is kept by others.
pub(super) struct WeakWorld {
    inner: Weak<Inner>,
}

impl WeakWorld {
    pub(super) fn upgrade(&self) -> Option<World> {
        Some(World { inner: self.inner.upgrade()? })
    }
}

struct Inner {
    executor: Executor,
    network: Lock<Network>,
    watches: Lock<Vec<Watch>>,
    order: Lock<Dice>,
    counts: Lock<Counts>,
    /// Whether [`World`]'s drop is to report a panic. Not while a task is polled, and not after a
    /// run has failed, since its error or panic has shown the last events.
    reports: AtomicBool,
    /// Until when it may run, in real time.
    deadline: Option<std::time::Instant>,
}

type Watch = Box<dyn FnMut(&Record) + Send>;

#[derive(Default)]
struct Counts {
    polls: u64,
    panics: u64,
    /// Polls of each task since the time last advanced.
    since_advance: BTreeMap<u64, u32>,
}

/// Why a run has halted. Its text, which `unwrap` shows too, ends with the last events of the
/// connections of its tasks, or of all connections if the tasks use none.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halted {
    /// Tasks are unfinished, but no event is left: a wake-up was lost, or tasks wait for each
    /// other.
    #[error("stalled at {at}, unfinished tasks: {}{}", tasks.join(", "), lines(last))]
    Stalled {
        /// The time of the halt.
        at: Instant,
        /// The names of the unfinished tasks.
        tasks: Vec<String>,
        /// The last events, at most 20.
        last: Vec<Entry>,
    },
    /// A task could make progress, but its waker was not woken.
    #[error(
        "{task} was not woken by {at}, seed {seed}: polled without a wake-up, {progress}{}",
        lines(last)
    )]
    LostWakeUp {
        /// When the world polled the task.
        at: Instant,
        /// The world's seed.
        seed: u64,
        /// The name of the task.
        task: String,
        /// The progress that the task made.
        progress: String,
        /// The last events, at most 20.
        last: Vec<Entry>,
    },
    /// A task wakes itself without end, while no time passes.
    #[error("{task} spins at {at}{}", lines(last))]
    Spinning {
        /// The time of the halt.
        at: Instant,
        /// The name of the task.
        task: String,
        /// The last events, at most 20.
        last: Vec<Entry>,
    },
}

impl fmt::Debug for Halted {
    /// Writes the same text as `Display`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The tasks and resources that are left in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Unfinished tasks.
    pub tasks: usize,
    /// Connected sockets that are open.
    pub sockets: usize,
    /// Listening sockets.
    pub listeners: usize,
    /// Alarms.
    pub alarms: usize,
}

impl World {
    /// Creates a world with default settings. `seed` determines all its random choices.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Settings::default())
    }

    /// Creates a world with other settings.
    ///
    /// # Panics
    /// If [`Settings::buffer`] is 0.
    #[track_caller]
    pub fn with(seed: u64, settings: Settings) -> Self {
        assert!(settings.buffer > 0, "the buffer must be at least 1 byte");
        let network = Network::new(seed, settings);
        let order = network.dice("order");
        let inner = Arc::new(Inner {
            executor: Executor::default(),
            network: Lock::new(network),
            watches: Lock::default(),
            order: Lock::new(order),
            counts: Lock::default(),
            reports: AtomicBool::new(true),
            deadline: case::deadline(),
        });
        case::add(WeakWorld { inner: Arc::downgrade(&inner) });
        Self { inner }
    }

    /// Adds a host. Its address is its `name` or its IP address: 10.0.0.1 for the first host,
    /// 10.0.0.2 for the next.
    ///
    /// # Panics
    /// If the world has a host of that name.
    #[track_caller]
    pub fn host(&self, name: &str) -> Host {
        let index = self.network(|network| {
            assert!(
                network.hosts.iter().all(|host| &*host.name != name),
                "the host {name} exists already"
            );
            let number = u32::try_from(network.hosts.len() + 1).expect("hosts are fewer than 2^32");
            let ip = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number));
            network.add_host(name, ip)
        });
        Host::new(self.clone(), index)
    }

    /// Sets the addresses that a name resolves to: those of `hosts`, in this order. Without hosts,
    /// the name is unknown.
    ///
    /// # Panics
    /// If there is no such host, or the name is that of a host.
    pub fn set_name(&self, name: &str, hosts: &[&str]) {
        let known = self.network(|network| {
            let ip = |name: &&str| Some(network.hosts.iter().find(|host| *host.name == **name)?.ip);
            let ips: Option<Vec<_>> = hosts.iter().map(ip).collect();
            let is_free = network.hosts.iter().all(|host| *host.name != *name);
            match ips {
                Some(ips) if ips.is_empty() => drop(network.names.remove(name)),
                Some(ips) => drop(network.names.insert(name.to_owned(), ips)),
                None => return false,
            }
            is_free
        });
        assert!(known, "{hosts:?} are hosts, and {name} is none");
    }

    /// Calls `watch` after every poll of a task, with each [`Record`] that the poll has changed.
    ///
    /// `watch` checks invariants by panicking. It must not call the world.
    pub fn watch(&self, watch: impl FnMut(&Record) + Send + 'static) {
        self.inner.watches.with(|watches| watches.push(Box::new(watch)));
    }

    /// Runs until all tasks have ended.
    ///
    /// # Errors
    /// If the tasks cannot end.
    pub fn run(&self) -> Result<(), Halted> {
        self.advance(None, || self.inner.executor.is_done())
    }

    /// Runs until `task` has ended, and returns its result.
    ///
    /// # Errors
    /// If the task cannot end.
    ///
    /// # Panics
    /// If the task has panicked ([`Settings::catch_panics`]), or its result was taken before.
    #[track_caller]
    pub fn run_until<T>(&self, task: &Task<T>) -> Result<T, Halted> {
        self.advance(None, || task.is_finished())?;
        Ok(task.take().expect("the task has panicked, or its result was taken before"))
    }

    /// Runs for `duration` by the world's clock, or until no event is left.
    ///
    /// # Errors
    /// If a task spins or was not woken.
    pub fn run_for(&self, duration: Duration) -> Result<(), Halted> {
        let until = self.now() + duration;
        self.advance(Some(until), || false)?;
        self.network(|network| network.now = network.now.max(until));
        Ok(())
    }

    /// The time by the world's clock, which faults do not change.
    pub fn now(&self) -> Instant {
        self.network(|network| network.now)
    }

    /// The events so far.
    pub fn trace(&self) -> Trace {
        self.network(|network| network.trace.clone())
    }

    /// The records of all connections so far: for each, the client's and then the server's.
    pub fn records(&self) -> Vec<Record> {
        self.network(|network| {
            network.connections.iter().flat_map(Connection::records).cloned().collect()
        })
    }

    /// How many times tasks were polled.
    pub fn polls(&self) -> u64 {
        self.inner.counts.with(|counts| counts.polls)
    }

    /// How many tasks panicked ([`Settings::catch_panics`]).
    pub fn panics(&self) -> u64 {
        self.inner.counts.with(|counts| counts.panics)
    }

    /// The tasks and resources that are left. After a server and all its peers have ended, there
    /// should be none.
    pub fn leftovers(&self) -> Leftovers {
        let tasks = self.inner.executor.unfinished().len();
        self.network(|network| Leftovers {
            tasks,
            sockets: (0..network.hosts.len()).map(|host| network.open_sockets(host)).sum(),
            listeners: network.listeners.len(),
            alarms: network.alarms.len(),
        })
    }

    /// Drops all unfinished tasks.
    pub fn clear(&self) {
        self.inner.executor.clear();
    }

    pub(super) fn network<T>(&self, f: impl FnOnce(&mut Network) -> T) -> T {
        self.inner.network.with(f)
    }

    pub(super) fn executor(&self) -> &Executor {
        &self.inner.executor
    }

    /// The first address of [`resolve_all`](Self::resolve_all).
    pub(super) fn resolve(&self, address: &str, host: usize) -> io::Result<SocketAddr> {
        let addresses = self.resolve_all(address, host)?;
        addresses.first().copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Resolves `name:port` or `address:port` on `host`. A loopback address is the host itself.
    pub(super) fn resolve_all(&self, address: &str, host: usize) -> io::Result<Vec<SocketAddr>> {
        if let Ok(mut address) = address.parse::<SocketAddr>() {
            if address.ip().is_loopback() {
                address.set_ip(self.network(|network| network.hosts[host].ip));
            }
            return Ok(vec![address]);
        }
        let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
        let (name, port) =
            address.rsplit_once(':').ok_or_else(|| invalid("the address has no port"))?;
        let port = port.parse().map_err(|_| invalid("the port is not a number"))?;
        let ips = self.network(|network| {
            let host = network.hosts.iter().find(|host| &*host.name == name);
            host.map(|host| vec![host.ip]).or_else(|| network.names.get(name).cloned())
        });
        let ips = ips.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))?;
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    fn advance(&self, until: Option<Instant>, ended: impl Fn() -> bool) -> Result<(), Halted> {
        self.inner.reports.store(true, Relaxed);
        while !ended() {
            let is_over = |deadline| std::time::Instant::now() >= deadline;
            assert!(!self.inner.deadline.is_some_and(is_over), "the world has run for too long");
            if self.step()? {
                continue;
            }
            let (event, alarm) = self.network(|network| network.next());
            let next = event.into_iter().chain(alarm).min();
            if until.is_some_and(|until| next.is_none_or(|next| next > until)) {
                return Ok(());
            }
            let Some(next) = next else {
                let unfinished = self.inner.executor.unfinished();
                let (tasks, last) = self.describe(&unfinished);
                return Err(Halted::Stalled { at: self.now(), tasks, last });
            };
            if next > self.now() {
                self.inner.counts.with(|counts| counts.since_advance.clear());
                self.check_wake_ups(next, alarm == Some(next))?;
            }
            // If both are due at the same time, either may come first.
            let alarms_first =
                event != alarm || self.inner.order.with(|order| order.strikes("alarms_first", 500));
            self.network(|network| {
                if alarm == Some(next) && alarms_first {
                    network.fire_alarms(next);
                } else {
                    network.run_event();
                }
            });
        }
        Ok(())
    }

    /// Polls one of the woken tasks. False if there is none.
    fn step(&self) -> Result<bool, Halted> {
        let (at, stopped) = self.network(|network| (network.now, network.stopped.clone()));
        let choose = |count| self.inner.order.with(|order| order.up_to("task", count)) - 1;
        let Some(task) = self.inner.executor.choose(&stopped, choose) else { return Ok(false) };
        let polls = self.inner.counts.with(|counts| {
            counts.polls += 1;
            let polls = counts.since_advance.entry(task).or_default();
            *polls += 1;
            *polls
        });
        if polls > MAX_POLLS {
            let (task, last) = self.describe(self.inner.executor.task(task).as_slice());
            return Err(Halted::Spinning { at, task: task.concat(), last });
        }
        self.network(|network| network.trace.trace_poll(task, at));
        self.poll(task);
        Ok(true)
    }

    /// Polls the tasks that the next event, or the alarms if `alarms`, will wake at `next`.
    ///
    /// All tasks sleep and no time has passed, so such a poll must do nothing. A task that makes
    /// progress has missed a wake-up, which the event or the alarm would hide.
    fn check_wake_ups(&self, next: Instant, alarms: bool) -> Result<(), Halted> {
        let executor = &self.inner.executor;
        let progress = || {
            let (spawned, unfinished, woken) = executor.counts();
            (self.network(|network| network.trace.entries().len()), spawned, unfinished, woken)
        };
        let stopped = self.network(|network| network.stopped.clone());
        self.network(|network| network.next_wakers(next, alarms))
            .iter()
            .for_each(Waker::wake_by_ref);
        while let Some(task) = executor.choose(&stopped, |_| 0) {
            let Some(info) = executor.task(task) else {
                self.poll(task); // a task that has ended
                continue;
            };
            let before = progress();
            self.poll(task);
            let after = progress();
            let made = if after.0 > before.0 {
                self.network(|network| {
                    format!("it did {:?}", network.trace.entries()[before.0].event)
                })
            } else if after.1 > before.1 {
                "it spawned a task".to_owned()
            } else if after.2 < before.2 {
                "it ended".to_owned()
            } else if after.3 + 1 != before.3 {
                "it woke a task".to_owned()
            } else {
                continue;
            };
            let (task, last) = self.describe(&[info]);
            let (at, seed) = self.network(|network| (network.now, network.seed));
            let task = task.concat();
            return Err(Halted::LostWakeUp { at, seed, task, progress: made, last });
        }
        Ok(())
    }

    fn poll(&self, task: u64) {
        self.network(|network| network.running = Some(task));
        let reports = self.inner.reports.swap(false, Relaxed);
        let polled = self.inner.executor.poll(task);
        if let Err((task, panic)) = polled {
            if !self.network(|network| network.settings.catch_panics) {
                let (name, last) = self.describe(&[task]);
                self.report(&format!("{} has panicked", name.concat()), &last);
                resume_unwind(panic);
            }
            self.inner.counts.with(|counts| counts.panics += 1);
        }
        self.inner.reports.store(reports, Relaxed);
        self.inner.watches.with(|watches| {
            self.network(|network| {
                network.running = None;
                for end in std::mem::take(&mut network.changed) {
                    let record = &network.end(end).record;
                    for watch in watches.iter_mut() {
                        watch(record);
                    }
                }
            });
        });
    }

    /// The names of `tasks`, and the last events of their connections.
    fn describe(&self, tasks: &[TaskInfo]) -> (Vec<String>, Vec<Entry>) {
        // The caller's error or panic has them.
        self.inner.reports.store(false, Relaxed);
        self.network(|network| {
            network.write_page();
            let names = tasks.iter().map(|task| network.task_name(task)).collect();
            (names, network.last_events(tasks))
        })
    }

    fn report(&self, what: &str, last: &[Entry]) {
        if is_quiet() {
            return;
        }
        let (now, seed) = self.network(|network| (network.now, network.seed));
        eprintln!("{what} at {now}, seed {seed}{}", lines(last));
    }
}

impl Drop for World {
    /// Reports the last events if the test panics, once for all clones.
    ///
    /// A panic of a task drops its clones, too, but is reported with the task's name.
    fn drop(&mut self) {
        if thread::panicking() && self.inner.reports.swap(false, Relaxed) {
            let last = self.network(|network| network.last_events(&[]));
            self.network(|network| network.write_page());
            self.report("the test has panicked", &last);
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// A task that is polled more often without time passing is [`Halted::Spinning`]. A large transfer
/// without latency takes some hundreds of polls.
const MAX_POLLS: u32 = 10_000;
