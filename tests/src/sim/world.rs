//! A simulated world: creates hosts, runs tasks and advances the time.

mod run;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use wirestate_core::{Instant, shared::Lock};

use super::{
    Entry, Host, Latency, Record, Task, Trace,
    case::{self, Progress},
    connection::Connection,
    executor::Executor,
    faults::Dice,
    network::Network,
    report::lines,
};
use crate::{coverage, pages};

/// The settings of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long segments take, unless [`Host::set_latency`] says otherwise. Default: each
    /// connection draws from 50 µs to 5 ms.
    pub latency: Latency,
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
            latency: Latency::PerConnection(Duration::from_micros(50)..=Duration::from_millis(5)),
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
    /// Whether [`World`]'s drop is to report a panic. Not while a task is polled, and not after a
    /// run has failed, since its error or panic has shown the last events.
    reports: AtomicBool,
    /// How far the worlds of its case have run, if it is in one.
    progress: Option<Arc<Progress>>,
}

type Watch = Box<dyn FnMut(&Record) + Send>;

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
    /// Tasks have not ended within the bound of [`World::finish_within`].
    #[error(
        "not finished within {bound:?}, by {at}, unfinished tasks: {}{}",
        tasks.join(", "),
        lines(last)
    )]
    Unfinished {
        /// The time of the halt.
        at: Instant,
        /// The time that the tasks had.
        bound: Duration,
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
        coverage::record_world();
        let network = Network::new(seed, settings);
        if pages::are_on() && network.number == 0 {
            pages::keep(None);
        }
        let order = network.dice("order");
        let inner = Arc::new(Inner {
            executor: Executor::default(),
            network: Lock::new(network),
            watches: Lock::default(),
            order: Lock::new(order),
            reports: AtomicBool::new(true),
            progress: case::progress(),
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
        self.network(|network| network.is_watched = true);
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

    /// Runs until all tasks of `hosts` have ended, which must take at most `bound` by the world's
    /// clock.
    ///
    /// It is the end of a test with faults: after [`heal`](Self::heal), every healthy client must
    /// finish within a bound.
    ///
    /// # Errors
    /// [`Halted::Unfinished`] names the tasks that are left.
    pub fn finish_within(&self, bound: Duration, hosts: &[&Host]) -> Result<(), Halted> {
        let hosts: Vec<usize> = hosts.iter().map(|host| host.index).collect();
        let executor = &self.inner.executor;
        let until = self.now() + bound;
        self.advance(Some(until), || executor.is_done_on(&hosts))?;
        if executor.is_done_on(&hosts) {
            return Ok(());
        }
        self.network(|network| network.now = until);
        let mut unfinished = executor.unfinished();
        unfinished.retain(|task| hosts.contains(&task.host));
        let (tasks, last) = self.describe(&unfinished);
        Err(Halted::Unfinished { at: until, bound, tasks, last })
    }

    /// Ends all faults: the plans of faults, partitions, unplugged hosts, latencies and bandwidths
    /// of hosts, stopped hosts, and clocks that are frozen or drift. Restarts the hosts that were
    /// killed.
    ///
    /// Connections that have broken stay broken. TCP repeats what was lost at its next timeout
    /// ([`Host::set_blocked`]).
    pub fn heal(&self) {
        self.network(Network::heal);
        self.restart_killed();
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
        self.network(|network| network.polls)
    }

    /// How many events were simulated: polls of woken tasks, alarms, and events of the network,
    /// such as the arrival of a segment or the report of a socket's readiness.
    pub fn events(&self) -> u64 {
        self.network(|network| network.simulated)
    }

    /// How many tasks panicked ([`Settings::catch_panics`]).
    pub fn panics(&self) -> u64 {
        self.network(|network| network.panics)
    }

    /// The tasks and resources that are left. After a server and all its peers have ended, there
    /// should be none.
    pub fn leftovers(&self) -> Leftovers {
        let tasks = self.inner.executor.unfinished().len();
        self.network(|network| Leftovers {
            tasks,
            sockets: network.hosts.iter().map(|host| host.sockets).sum(),
            listeners: network.listeners.len(),
            alarms: network.alarms.len(),
        })
    }

    /// Drops all unfinished tasks, and the programs of [`Host::run_on_start`].
    pub fn clear(&self) {
        self.network(|network| network.hosts.iter_mut().for_each(|host| host.programs.clear()));
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
}

impl Drop for World {
    /// Reports the last events if the test panics, once for all clones.
    ///
    /// A panic of a task drops its clones, too, but is reported with the task's name.
    fn drop(&mut self) {
        if thread::panicking() && self.inner.reports.swap(false, Relaxed) {
            let last = self.network(|network| network.last_events(&[]));
            self.network(|network| network.keep_page());
            pages::write_last();
            self.report("the test has panicked", &last);
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish_non_exhaustive()
    }
}
