//! A world: its hosts, its time, and how it is run.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    panic::resume_unwind,
    sync::Arc,
    task::Waker,
    time::Duration,
};

use wirestate_core::{Instant, shared::Lock};

use super::{
    Host, Record, Task, Trace, connection::Connection, executor::Executor, faults::Dice,
    network::Network,
};

/// What does not change in a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a segment is on its way. Each connection draws its own from this range, and each
    /// segment takes up to twice that. Default: 50 µs to 5 ms.
    pub latency: RangeInclusive<Duration>,
    /// Bytes that one direction of a connection holds, on their way and unread; not 0. Default:
    /// 16 KiB.
    pub buffer: usize,
    /// Connections that wait to be accepted, at most; further ones are tried again. Default: 128.
    pub backlog: usize,
    /// Whether a panic ends its task alone, as on a real runtime, and is counted. Default: false,
    /// it ends the run.
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
/// It keeps its trace and every byte of its [`Record`]s. Tasks hold their world, so one that is
/// given up while tasks are left is freed by [`clear`](Self::clear).
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    executor: Executor,
    network: Lock<Network>,
    watches: Lock<Vec<Watch>>,
    order: Lock<Dice>,
    counts: Lock<Counts>,
}

type Watch = Box<dyn FnMut(&Record) + Send>;

#[derive(Default)]
struct Counts {
    polls: u64,
    panics: u64,
    /// Polls of each task since time last went on.
    at_once: BTreeMap<u64, u32>,
}

/// Why a world could not be run any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halted {
    /// Nothing will ever happen again, and tasks have not ended: a wake-up was lost, or they wait
    /// for one another.
    #[error("stalled at {at}: unfinished are {tasks:?}")]
    Stalled {
        /// When.
        at: Instant,
        /// The tasks: their host and number.
        tasks: Vec<String>,
    },
    /// A task had something to do, and nothing had woken it: the world polled it for no reason.
    #[error("{task} has missed a wake-up by {at}, seed {seed}: polled for no reason, {did}")]
    LostWakeUp {
        /// When it was polled.
        at: Instant,
        /// The world's seed.
        seed: u64,
        /// The task: its host and number.
        task: String,
        /// What it then did.
        did: String,
    },
    /// A task was polled over and over, and no time passed.
    #[error("{task} spins at {at}")]
    Spinning {
        /// When.
        at: Instant,
        /// The task: its host and number.
        task: String,
    },
}

/// What is left in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Connected sockets that are not closed.
    pub sockets: usize,
    /// Sockets that listen.
    pub listeners: usize,
    /// Alarms that are set.
    pub alarms: usize,
}

impl World {
    /// A world of the default settings. All chance in it comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Settings::default())
    }

    /// A world of other settings.
    ///
    /// # Panics
    /// If a buffer can't hold anything.
    pub fn with(seed: u64, settings: Settings) -> Self {
        assert!(settings.buffer > 0, "a buffer must hold something");
        let network = Network::new(seed, settings);
        let order = network.dice("order");
        Self {
            inner: Arc::new(Inner {
                executor: Executor::default(),
                network: Lock::new(network),
                watches: Lock::default(),
                order: Lock::new(order),
                counts: Lock::default(),
            }),
        }
    }

    /// A new host. Others connect to it by `name`, or by its address: the first host has 10.0.0.1,
    /// the next one 10.0.0.2.
    ///
    /// # Panics
    /// If there is a host of that name.
    pub fn host(&self, name: &str) -> Host {
        let index = self.network(|network| {
            assert!(network.hosts.iter().all(|host| &*host.name != name), "a second {name}");
            let number = u32::try_from(network.hosts.len() + 1).expect("so many fit no memory");
            let ip = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number));
            network.add_host(name, ip)
        });
        Host::new(self.clone(), index)
    }

    /// Calls `watch` after every step, with the record of each end of a connection at which the
    /// step has changed something. It must not come back to the world. The place for what must
    /// hold at all times; let it panic.
    pub fn watch(&self, watch: impl FnMut(&Record) + Send + 'static) {
        self.inner.watches.with(|watches| watches.push(Box::new(watch)));
    }

    /// Runs until all tasks have ended.
    ///
    /// # Errors
    /// They never will.
    pub fn run(&self) -> Result<(), Halted> {
        self.advance(None, || self.inner.executor.is_done())
    }

    /// Runs until `task` has ended, and answers its result.
    ///
    /// # Errors
    /// It never will.
    ///
    /// # Panics
    /// If its result was taken before.
    pub fn run_until<T>(&self, task: &Task<T>) -> Result<T, Halted> {
        self.advance(None, || task.is_finished())?;
        Ok(task.take().expect("it has just been seen"))
    }

    /// Runs for so long by the world's clock, or until nothing will ever happen again.
    ///
    /// # Errors
    /// A task spins.
    pub fn run_for(&self, duration: Duration) -> Result<(), Halted> {
        let until = self.now() + duration;
        match self.advance(Some(until), || false) {
            Ok(()) | Err(Halted::Stalled { .. }) => {
                self.network(|network| network.now = network.now.max(until));
                Ok(())
            }
            Err(halted @ (Halted::LostWakeUp { .. } | Halted::Spinning { .. })) => Err(halted),
        }
    }

    /// The time by the world's own clock, which no fault touches.
    pub fn now(&self) -> Instant {
        self.network(|network| network.now)
    }

    /// What happened so far.
    pub fn trace(&self) -> Trace {
        self.network(|network| network.trace.clone())
    }

    /// The records of both ends of every connection that was ever made, the client's first.
    pub fn records(&self) -> Vec<Record> {
        self.network(|network| {
            network.connections.iter().flat_map(Connection::records).cloned().collect()
        })
    }

    /// How often a task was polled.
    pub fn polls(&self) -> u64 {
        self.inner.counts.with(|counts| counts.polls)
    }

    /// How many tasks panicked ([`Settings::catch_panics`]).
    pub fn panics(&self) -> u64 {
        self.inner.counts.with(|counts| counts.panics)
    }

    /// What is left now. When a server and all of its peers have ended, nothing is.
    pub fn leftovers(&self) -> Leftovers {
        let tasks = self.inner.executor.unfinished().len();
        self.network(|network| Leftovers {
            tasks,
            sockets: (0..network.hosts.len()).map(|host| network.open_sockets(host)).sum(),
            listeners: network.listeners.len(),
            alarms: network.alarms.len(),
        })
    }

    /// Drops all tasks that have not ended, with all that they hold.
    pub fn clear(&self) {
        self.inner.executor.clear();
    }

    pub(super) fn network<T>(&self, f: impl FnOnce(&mut Network) -> T) -> T {
        self.inner.network.with(f)
    }

    pub(super) fn executor(&self) -> &Executor {
        &self.inner.executor
    }

    /// `name:port` or `address:port`, as `host` sees it.
    pub(super) fn resolve(&self, address: &str, host: usize) -> io::Result<SocketAddr> {
        if let Ok(mut address) = address.parse::<SocketAddr>() {
            if address.ip().is_loopback() {
                address.set_ip(self.network(|network| network.hosts[host].ip));
            }
            return Ok(address);
        }
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let (name, port) = address.rsplit_once(':').ok_or_else(|| invalid("no port"))?;
        let port = port.parse().map_err(|_| invalid("no such port"))?;
        let ip = self.network(|network| {
            network.hosts.iter().find(|host| &*host.name == name).map(|host| host.ip)
        });
        let ip = ip.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))?;
        Ok(SocketAddr::new(ip, port))
    }

    fn advance(&self, until: Option<Instant>, ended: impl Fn() -> bool) -> Result<(), Halted> {
        while !ended() {
            if self.step()? {
                continue;
            }
            let (event, alarm) = self.network(|network| network.next());
            let Some(next) = event.into_iter().chain(alarm).min() else {
                let name = |(task, host)| self.task_name(task, host);
                let tasks = self.inner.executor.unfinished().into_iter().map(name).collect();
                return Err(Halted::Stalled { at: self.now(), tasks });
            };
            if until.is_some_and(|until| next > until) {
                return Ok(());
            }
            if next > self.now() {
                self.inner.counts.with(|counts| counts.at_once.clear());
                self.disturb(next, alarm == Some(next))?;
            }
            // At one and the same moment either may come first.
            let alarms_first = event != alarm || self.inner.order.with(|order| order.strikes(500));
            self.network(|network| {
                if alarm == Some(next) && alarms_first {
                    network.ring(next);
                } else {
                    network.happen();
                }
            });
        }
        Ok(())
    }

    /// Polls one of the tasks that were woken; false where there is none.
    fn step(&self) -> Result<bool, Halted> {
        let stopped = self.network(|network| network.stopped.clone());
        let choose = |count| self.inner.order.with(|order| order.up_to(count)) - 1;
        let Some(task) = self.inner.executor.choose(&stopped, choose) else { return Ok(false) };
        let at = self.now();
        let polls = self.inner.counts.with(|counts| {
            counts.polls += 1;
            let polls = counts.at_once.entry(task).or_default();
            *polls += 1;
            *polls
        });
        if polls > MOST_POLLS {
            let host = self.inner.executor.host(task).unwrap_or_default();
            return Err(Halted::Spinning { at, task: self.task_name(task, host) });
        }
        self.network(|network| network.trace.polled(task, at));
        self.poll(task);
        Ok(true)
    }

    /// Polls the tasks that the next event or `alarms`, at `next`, may wake, while there is no
    /// reason to: no time has passed since all tasks went to sleep. What such a poll gets done, no
    /// waker has announced, and that event or alarm would hide it.
    fn disturb(&self, next: Instant, alarms: bool) -> Result<(), Halted> {
        let executor = &self.inner.executor;
        let done = || {
            let (spawned, unfinished, woken) = executor.counts();
            (self.network(|network| network.trace.entries().len()), spawned, unfinished, woken)
        };
        let stopped = self.network(|network| network.stopped.clone());
        self.network(|network| network.next_wakers(next, alarms))
            .iter()
            .for_each(Waker::wake_by_ref);
        while let Some(task) = executor.choose(&stopped, |_| 0) {
            let Some(host) = executor.host(task) else {
                self.poll(task); // it has ended
                continue;
            };
            let before = done();
            self.poll(task);
            let after = done();
            let did = if after.0 > before.0 {
                self.network(|network| {
                    format!("it did {:?}", network.trace.entries()[before.0].what)
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
            let (at, task) = (self.now(), self.task_name(task, host));
            let seed = self.network(|network| network.seed);
            return Err(Halted::LostWakeUp { at, seed, task, did });
        }
        Ok(())
    }

    fn poll(&self, task: u64) {
        if let Err(panic) = self.inner.executor.poll(task) {
            if !self.network(|network| network.settings.catch_panics) {
                resume_unwind(panic);
            }
            self.inner.counts.with(|counts| counts.panics += 1);
        }
        self.inner.watches.with(|watches| {
            self.network(|network| {
                for end in std::mem::take(&mut network.changed) {
                    let record = &network.end(end).record;
                    for watch in watches.iter_mut() {
                        watch(record);
                    }
                }
            });
        });
    }

    fn task_name(&self, task: u64, host: usize) -> String {
        self.network(|network| format!("{}#{task}", network.hosts[host].name))
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// A task that is polled more often than that while no time passes spins. (A large transfer within
/// one moment takes some hundreds of polls.)
const MOST_POLLS: u32 = 10_000;
