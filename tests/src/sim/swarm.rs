//! Random disturbances of a world with several hosts.

use std::{collections::BTreeSet, fmt, num::NonZeroU64, ops::RangeInclusive, time::Duration};

use wirestate_core::Direction;

use super::{Faults, Halted, Host, Latency, World, faults::Dice};

/// A kind of disturbance that a [`Swarm`] causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Disturbance {
    /// A [harmless](Faults::harmless) plan of faults, with another order of accepts.
    Faults,
    /// A [harmful](Faults::harmful) plan of faults.
    HarmfulFaults,
    /// A path between two hosts is blocked in one direction ([`Host::set_blocked`]).
    Partition,
    /// A host is unplugged ([`Host::set_unplugged`]).
    Unplug,
    /// A path between two hosts has a long-tailed latency ([`Host::set_latency`]).
    Latency,
    /// A host has little bandwidth in one direction ([`Host::set_bandwidth`]).
    Bandwidth,
    /// The processes of a host are stopped for up to 10 s ([`Host::stop_for`]).
    Stop,
    /// The clock of a host is frozen for up to 10 s ([`Host::freeze_clock`]).
    Freeze,
    /// The clock of a host drifts by up to 1 % ([`Host::set_clock_drift`]).
    Drift,
    /// The processes of a host are killed ([`Host::kill`]).
    Kill,
    /// The power of a host is cut ([`Host::cut_power`]).
    PowerCut,
}

impl Disturbance {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Faults,
        Self::HarmfulFaults,
        Self::Partition,
        Self::Unplug,
        Self::Latency,
        Self::Bandwidth,
        Self::Stop,
        Self::Freeze,
        Self::Drift,
        Self::Kill,
        Self::PowerCut,
    ];

    /// The kinds that break no connection, if they last for less than 15 minutes.
    pub const HARMLESS: [Self; 8] = [
        Self::Faults,
        Self::Partition,
        Self::Unplug,
        Self::Latency,
        Self::Bandwidth,
        Self::Stop,
        Self::Freeze,
        Self::Drift,
    ];
}

/// Disturbs the hosts of a world at random.
///
/// The world's seed determines which kinds of disturbances happen at all: each with a chance of one
/// half, so that no kind hides another with every seed. It also determines when they happen, and to
/// which hosts. Each lasts until it is drawn again, or until [`World::heal`].
///
/// A test has two phases. In the first, the swarm disturbs the world, and nothing wrong may happen.
/// Then the world heals, and everything that is healthy must finish within a bound.
///
/// ```
/// use std::time::Duration;
/// use wirestate_core::{echo, runtime::Runtime as _, serve};
/// use wirestate_testkit::{for_each_seed, sim::{Act, Disturbance, Swarm, World, act}};
///
/// for_each_seed(4, |seed| {
///     let world = World::new(seed);
///     let (server, client) = (world.host("server"), world.host("client"));
///     server.run_on_start(|server| {
///         let listener = server.listen("server:7").unwrap();
///         let serving = serve::Server::new(server.clone(), listener);
///         let echo = echo::Server::default();
///         server.run(serving.serve(move |_, now| echo.machine(now)));
///     });
///     let echo = || {
///         let runtime = client.clone();
///         client.run(async move {
///             let socket = runtime.connect("server:7").await.ok()?;
///             let acts = vec![Act::Send("hello".into()), Act::Receive(5), Act::Finish];
///             Some(act(runtime, socket, acts).await.bytes)
///         })
///     };
///
///     let disturbed = echo();
///     let mut swarm = Swarm::new(&world, &[&server, &client], &Disturbance::HARMLESS);
///     swarm.disturb(Duration::from_secs(20)).unwrap();
///
///     world.heal();
///     let late = echo();
///     world.finish_within(Duration::from_secs(60), &[&client]).unwrap();
///     assert_eq!(late.take().unwrap().unwrap(), b"hello");
///     let received = disturbed.take().unwrap();
///     assert!(received.is_none_or(|received| b"hello".starts_with(&received)));
/// });
/// ```
pub struct Swarm {
    world: World,
    dice: Dice,
    hosts: Vec<Host>,
    kinds: Vec<Disturbance>,
    /// The disturbances that last, each with its host, and the other host of a path or 0.
    lasting: BTreeSet<(Disturbance, usize, usize)>,
}

impl Swarm {
    /// A swarm that disturbs `hosts`, by some of `kinds`. Only hosts with a program
    /// ([`Host::run_on_start`]) are killed.
    ///
    /// # Panics
    /// If `hosts` is empty.
    #[track_caller]
    pub fn new(world: &World, hosts: &[&Host], kinds: &[Disturbance]) -> Self {
        assert!(!hosts.is_empty(), "a swarm needs a host");
        let mut dice = world.network(|network| network.dice("swarm"));
        let mut kinds = kinds.to_vec();
        kinds.retain(|_| dice.strikes("kind", 500));
        let hosts = hosts.iter().copied().cloned().collect();
        Self { world: world.clone(), dice, hosts, kinds, lasting: BTreeSet::new() }
    }

    /// The kinds of disturbances that the seed has drawn.
    pub fn kinds(&self) -> &[Disturbance] {
        &self.kinds
    }

    /// Runs the world for `duration` by its clock. Meanwhile, each kind begins or ends about every
    /// two seconds.
    ///
    /// After [`World::heal`] has ended the disturbances, use another swarm: this one would end them
    /// a second time.
    ///
    /// # Errors
    /// If a task spins or was not woken.
    pub fn disturb(&mut self, duration: Duration) -> Result<(), Halted> {
        let until = self.world.now() + duration;
        while self.world.now() < until {
            self.world.run_for(TICK.min(until.since(self.world.now())))?;
            for kind in self.kinds.clone() {
                if self.dice.strikes(kind.name(), CHANCE) {
                    self.toggle(kind);
                }
            }
        }
        Ok(())
    }

    /// Begins a disturbance, or ends it if it lasts.
    fn toggle(&mut self, kind: Disturbance) {
        let count = self.hosts.len();
        let from = self.dice.up_to("host", count) - 1;
        let other = match kind {
            Disturbance::Partition | Disturbance::Latency if count == 1 => return,
            Disturbance::Partition | Disturbance::Latency => {
                (from + self.dice.up_to("other_host", count - 1)) % count
            }
            Disturbance::Bandwidth => self.dice.up_to("direction", 2) - 1,
            Disturbance::Faults
            | Disturbance::HarmfulFaults
            | Disturbance::Unplug
            | Disturbance::Stop
            | Disturbance::Freeze
            | Disturbance::Drift
            | Disturbance::Kill
            | Disturbance::PowerCut => 0,
        };
        let key = (kind, from, other);
        let begins = !self.lasting.remove(&key);
        if begins {
            self.lasting.insert(key);
        }
        let (host, dice) = (&self.hosts[from], &mut self.dice);
        match kind {
            Disturbance::Faults | Disturbance::HarmfulFaults if !begins => {
                host.set_faults(Faults::NONE);
            }
            Disturbance::Faults => {
                let plan = Faults::harmless(dice.up_to("plan", PLANS) as u64);
                host.set_faults(Faults { accept_order: 500, ..plan });
            }
            Disturbance::HarmfulFaults => {
                host.set_faults(Faults::harmful(dice.up_to("plan", PLANS) as u64));
            }
            Disturbance::Partition => host.set_blocked(&self.hosts[other], begins),
            Disturbance::Unplug => host.set_unplugged(begins),
            Disturbance::Latency => {
                host.set_latency(&self.hosts[other], begins.then_some(LONG_TAILED));
            }
            Disturbance::Bandwidth => {
                let direction = [Direction::Read, Direction::Write][other];
                let rate =
                    begins.then(|| NonZeroU64::MIN.saturating_add(dice.up_to("rate", FAST) as u64));
                host.set_bandwidth(direction, rate);
            }
            Disturbance::Stop => host.stop_for(dice.between("stop", &PAUSE)),
            Disturbance::Freeze => host.freeze_clock(dice.between("freeze", &PAUSE)),
            Disturbance::Drift => {
                let drift = i32::try_from(dice.up_to("drift", 20_001)).expect("it is small");
                host.set_clock_drift(if begins { drift - 10_001 } else { 0 });
            }
            Disturbance::Kill | Disturbance::PowerCut if !host.has_program() => {}
            Disturbance::Kill | Disturbance::PowerCut if host.is_down() => host.restart(),
            Disturbance::Kill => host.kill(),
            Disturbance::PowerCut => host.cut_power(),
        }
    }
}

impl Disturbance {
    /// The name of the decision to begin or to end it.
    const fn name(self) -> &'static str {
        match self {
            Self::Faults => "faults",
            Self::HarmfulFaults => "harmful_faults",
            Self::Partition => "partition",
            Self::Unplug => "unplug",
            Self::Latency => "slow_link",
            Self::Bandwidth => "bandwidth",
            Self::Stop => "stop_host",
            Self::Freeze => "freeze_clock",
            Self::Drift => "drift",
            Self::Kill => "kill",
            Self::PowerCut => "power_cut",
        }
    }
}

impl fmt::Debug for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swarm").field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

/// The interval at which disturbances begin and end.
const TICK: Duration = Duration::from_millis(97);
/// The chance of each kind at an interval, in thousandths: once in 2 s.
const CHANCE: u16 = 48;
/// The number of fault plans to choose from.
const PLANS: usize = 1_000_000;
/// The highest bandwidth, in bytes a second.
const FAST: usize = 100_000;
/// How long a host or a clock is stopped.
const PAUSE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
const LONG_TAILED: Latency = Latency::LongTailed {
    usual: Duration::from_millis(1)..=Duration::from_millis(20),
    doubles: 400,
    max: Duration::from_secs(5),
};
