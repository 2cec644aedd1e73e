//! The whole tier in the simulator: a source, ingests, a cluster with `JetStream`, edges, and their
//! subscribers.
//!
//! Each message names the source's connection that carried it, and has its number there. So a
//! subscriber's bytes show what is missing, and what comes twice.

mod checks;
mod contract;
mod directed;
mod hundred_edges;
mod processes;
mod random;

use std::{sync::Arc, time::Duration};

use wirestate_core::{
    Instant,
    fanout::{Config as FeedConfig, Framing, GapPolicy, LagPolicy, Pace},
    nats::jetstream::{LeaseConfig, StreamConfig},
    serve::ServerHandle,
    shared::Lock,
    shutdown::ShutdownHandle,
};
use wirestate_testkit::sim::{Faults, Host, Settings as WorldSettings, World};

use self::processes::{Edge, Ingest, Subscriber};
use crate::model::{Cluster, Settings as ClusterSettings};

pub(crate) const NODES: [&str; 3] = ["n0:1", "n1:1", "n2:1"];
/// The length of a message, in bytes.
pub(crate) const SIZE: usize = 64;
const FRAMING: Framing = Framing::Fixed(std::num::NonZeroUsize::new(SIZE).unwrap());
/// The stream, and the bucket of its lease.
pub(crate) const STREAM: &str = "F";
pub(crate) const BUCKET: &str = "KV_wirestate_F";

/// How a tier behaves.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) cluster: ClusterSettings,
    pub(crate) world: WorldSettings,
    /// Messages of the source a second.
    pub(crate) rate: u64,
    /// The faults of the source, which break no connection.
    pub(crate) source: Faults,
    pub(crate) pace: Pace,
    /// The window of the ingests' feeds.
    pub(crate) window: usize,
    /// The feeds of the edges.
    pub(crate) edge: FeedConfig,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster: ClusterSettings::default(),
            world: WorldSettings { buffer: 64 * 1024, backlog: 1000, ..WorldSettings::default() },
            rate: 10,
            source: Faults::NONE,
            pace: Pace::Blocks,
            window: 128 * 1024,
            edge: FeedConfig::default()
                .with_framing(FRAMING)
                .with_window(256 * 1024)
                .with_on_lag(LagPolicy::Block)
                .with_on_gap(GapPolicy::Disconnect),
        }
    }
}

/// A message of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Message {
    /// Which of the source's connections has carried it, from 1 on.
    pub(crate) connection: u64,
    /// Its number on the connection, from 0 on.
    pub(crate) number: u64,
}

impl Message {
    /// A message of somebody else.
    pub(crate) const FOREIGN: Self = Self { connection: 0, number: 0 };

    pub(crate) fn text(self) -> String {
        let time = self.connection * PER_CONNECTION;
        format!("{:020} {time:020} {:.<21}\n", self.number, "")
    }

    /// A whole message, and when it was generated.
    pub(crate) fn parse(bytes: &[u8]) -> (Self, Instant) {
        let text = str::from_utf8(bytes).unwrap();
        assert!(text.len() == SIZE && text.ends_with('\n'), "{text:?} is no whole message");
        let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().unwrap();
        let (number, time) = (number(0..20), number(21..41));
        let at = Instant::from_epoch(Duration::from_nanos(time % PER_CONNECTION));
        (Self { connection: time / PER_CONNECTION, number }, at)
    }

    /// Whether `next` follows this message on the same connection of the source.
    pub(crate) fn precedes(self, next: Self) -> bool {
        let is_foreign = self == Self::FOREIGN && next == Self::FOREIGN;
        is_foreign || next == Self { number: self.number + 1, ..self }
    }
}

/// The time in a message of connection `n` is ahead by `n` times this, in nanoseconds.
const PER_CONNECTION: u64 = 10_000_000_000_000_000;

/// The source: it serves each connection from its message 0 on.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its connections, to cut them.
    connections: Arc<Lock<Vec<ShutdownHandle>>>,
    /// Ends them all, and the listener.
    end: ShutdownHandle,
}

pub(crate) struct Tier {
    pub(crate) settings: Settings,
    pub(crate) seed: u64,
    pub(crate) world: World,
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<(Host, ServerHandle)>,
    pub(crate) source: Source,
    pub(crate) ingests: Vec<Ingest>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) subscribers: Vec<Subscriber>,
}

/// The tier as a whole.
impl Tier {
    /// A cluster and a source.
    pub(crate) fn new(seed: u64, mut settings: Settings) -> Self {
        settings.cluster.seed = seed;
        let world = World::with(seed, settings.world.clone());
        let cluster = Cluster::new(settings.cluster.clone());
        let nodes = NODES.map(|address| {
            let host = world.host(address.strip_suffix(":1").unwrap());
            let handle = cluster.start(&host, address);
            (host, handle)
        });
        let host = world.host("source");
        host.set_faults(settings.source.clone());
        let source = Source::start(&host, settings.rate);
        Self {
            settings,
            seed,
            world,
            cluster,
            nodes: nodes.into(),
            source,
            ingests: Vec::new(),
            edges: Vec::new(),
            subscribers: Vec::new(),
        }
    }

    pub(crate) fn run_for(&self, duration: Duration) {
        self.world.run_for(duration).unwrap();
    }

    /// Ends a node: its connections are reset. On a stopped host, it ends when that is resumed.
    pub(crate) fn kill_node(&self, node: usize) {
        self.nodes[node].1.abort();
    }

    /// Starts a node that was killed, after it has ended: waits for at most 10 s.
    pub(crate) fn start_node(&mut self, node: usize) {
        let until = self.world.now() + seconds(10);
        while self.cluster.is_up(NODES[node]) && self.world.now() < until {
            self.run_for(Duration::from_millis(100));
        }
        let (host, handle) = &mut self.nodes[node];
        *handle = self.cluster.start(host, NODES[node]);
    }

    /// The ingest that publishes.
    pub(crate) fn active(&self) -> Option<&Ingest> {
        self.ingests.iter().find(|ingest| ingest.handle.counters().epoch.is_some())
    }

    /// The source has no further message, and everything has time to arrive.
    pub(crate) fn finish(&self) {
        self.source.end.drain();
        self.run_for(Duration::from_secs(30));
    }
}

/// The stream as an ingest creates it.
fn stream() -> StreamConfig {
    let mut stream = StreamConfig::new(STREAM, "feed");
    stream.replicas = NODES.len();
    stream
}

fn lease(holder: &str) -> LeaseConfig {
    LeaseConfig::new("wirestate_F", holder).with_replicas(NODES.len())
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
