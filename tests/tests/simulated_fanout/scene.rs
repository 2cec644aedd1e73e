//! An upstream, the server, and who subscribes.

use std::{future::poll_fn, num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use wirestate_core::{
    admission::{Limits, Table},
    drive::{Clock as _, Drive},
    fanout::{Config, Counters, Feed, Framing, Source, SourceConfig, Subscriber, Upstream},
    runtime::{Listener as _, Runtime as _},
    serve::{Options, Served, serve},
    stop::{Stop, Stopping},
};
use wirestate_testkit::{
    contract::Checked,
    sim::{Act, Heard, Host, Leftovers, Settings, Side, Task, World, act},
};

/// The length of a message, in bytes.
pub(crate) const SIZE: usize = 100;
/// So much may a subscriber queue in these scenes.
const MOST: usize = 4 << 20;

/// A fan-out server in a world.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) server: Host,
    pub(crate) feed: Feed,
    pub(crate) table: Table,
    pub(crate) stop: Stop,
    pub(crate) serving: Task<Served>,
}

/// One connection of the upstream: what it sends, then how it ends.
#[derive(Clone, Debug)]
pub(crate) struct Epoch {
    pub(crate) source: SourceConfig,
    /// Then it is reset after so many bytes, wherever that is in a message; `None`: a source
    /// serves it to its end.
    pub(crate) cut: Option<usize>,
}

pub(crate) fn source(rate: u64, count: u64) -> SourceConfig {
    let size = NonZeroUsize::new(SIZE).unwrap();
    SourceConfig { size, rate, count: Some(count), ..SourceConfig::default() }
}

pub(crate) fn whole(rate: u64, count: u64) -> Epoch {
    Epoch { source: source(rate, count), cut: None }
}

pub(crate) fn config() -> Config {
    let framing = Framing::Fixed(NonZeroUsize::new(SIZE).unwrap());
    Config { framing, window: 256 * 1024, ..Config::default() }
}

impl Scene {
    /// The upstream begins to listen after a second, so that who is there from the start misses
    /// nothing.
    pub(crate) fn new(seed: u64, config: Config, epochs: Vec<Epoch>) -> Self {
        let settings = Settings { backlog: 10_000, ..Settings::default() };
        let world = World::with(seed, settings);
        let (server, upstream) = (world.host("server"), world.host("upstream"));
        let feed = Feed::new(config);
        let limits = Limits { per_address: None, ..Limits::default() };
        let options = Options::new(limits);
        let (table, stop) = (options.table.clone(), options.stop.clone());
        let listener = server.listen("server:1235").unwrap();
        let (runtime, shared) = (server.clone(), feed.clone());
        let serving = server.run(async move {
            let subscriber = |_: &_, now| Checked::new(Subscriber::new(&shared, now), MOST);
            serve(&runtime, listener, &options, subscriber).await
        });
        server.run(reconnect(server.clone(), feed.clone(), stop.clone()));
        upstream.run(be_upstream(upstream.clone(), epochs));
        Self { world, server, feed, table, stop, serving }
    }

    /// Stops the server, and looks at what is left when all has ended: nothing.
    pub(crate) fn end(&self) -> Served {
        self.stop.drain();
        self.world.run().unwrap();
        assert_eq!(self.world.leftovers(), Leftovers::default());
        let totals = self.table.totals();
        assert_eq!((totals.open, totals.accepted), (0, totals.ended.values().sum()));
        let counters = self.feed.counters();
        assert_eq!((counters.subscribers, counters.upstream_up), (0, false));
        self.serving.take().expect("all tasks have ended")
    }

    pub(crate) fn ended(&self, label: &str) -> u64 {
        self.table.totals().ended.get(label).copied().unwrap_or(0)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.feed.counters()
    }

    /// A subscriber on a host of its own.
    pub(crate) fn subscriber(&self, name: &str, acts: Vec<Act>) -> Task<Heard> {
        subscribe(&self.world.host(name), acts)
    }

    pub(crate) fn run_for(&self, duration: Duration) {
        self.world.run_for(duration).unwrap();
    }

    /// All that the upstream has sent, connection by connection.
    pub(crate) fn epochs(&self) -> Vec<Vec<u8>> {
        let upstreams = self
            .world
            .records()
            .into_iter()
            .filter(|record| record.side == Side::Client && &*record.client == "server");
        upstreams.map(|record| record.received).collect()
    }

    /// What was published: the whole messages of each connection.
    pub(crate) fn published(&self) -> Vec<u8> {
        let whole = |epoch: Vec<u8>| epoch[..epoch.len() / SIZE * SIZE].to_vec();
        self.epochs().into_iter().flat_map(whole).collect()
    }
}

/// Connects again and again, until the server stops.
async fn reconnect(host: Host, feed: Feed, stop: Stop) {
    loop {
        if let Ok(socket) = host.connect("upstream:1234").await {
            let clock = host.clock();
            let upstream = Upstream::new(feed.clone(), None, clock.now());
            let mut drive = Drive::new(Checked::new(upstream, 0), socket, clock);
            poll_fn(|cx| {
                let stops = stop.poll_asked(cx) > Stopping::No;
                drive.poll_until(cx, |upstream, now| {
                    if stops {
                        wirestate_core::Machine::shut_down(upstream, now);
                    }
                    None::<()>
                })
            })
            .await
            .unwrap_err();
        }
        if stop.asked() > Stopping::No {
            return;
        }
        host.sleep(Duration::from_millis(100)).await;
    }
}

/// Serves the epochs, one connection each, then listens no more.
async fn be_upstream(host: Host, epochs: Vec<Epoch>) {
    host.sleep(Duration::from_secs(1)).await;
    let mut listener = host.listen("upstream:1234").unwrap();
    for Epoch { source, cut } in epochs {
        let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        let clock = host.clock();
        if let Some(cut) = cut {
            let bytes: Vec<u8> = (0..).flat_map(message).take(cut).collect();
            let acts = vec![Act::Send(bytes.into()), Act::Wait(Duration::from_secs(1)), Act::Reset];
            act(host.clone(), socket, acts).await;
        } else {
            let source = Source::new(source, clock.now());
            Drive::new(Checked::new(source, 64 * 1024), socket, clock).await;
        }
    }
}

fn message(number: u64) -> Vec<u8> {
    let mut message = format!("{number:020} ").into_bytes();
    message.resize(SIZE, b'-');
    message
}

/// A subscriber that does as it is told.
pub(crate) fn subscribe(host: &Host, acts: Vec<Act>) -> Task<Heard> {
    let runtime = host.clone();
    host.run(async move {
        let socket = runtime.connect("server:1235").await.unwrap();
        act(runtime, socket, acts).await
    })
}

/// The numbers of the messages in `bytes`, of which the last one may be cut.
pub(crate) fn numbers(bytes: &[u8]) -> Vec<u64> {
    let number = |message: &[u8]| {
        let text = str::from_utf8(&message[..20]).expect("a message begins with its number");
        text.parse().expect("a message begins with its number")
    };
    bytes.chunks_exact(SIZE).map(number).collect()
}

pub(crate) fn all() -> Vec<Act> {
    vec![Act::ReceiveAll]
}

pub(crate) fn flood() -> Vec<Act> {
    vec![Act::Send(Bytes::from(vec![7; 100_000])), Act::ReceiveAll]
}

pub(crate) fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
