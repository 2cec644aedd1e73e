//! A scene: an upstream, the server, and its subscribers.

use std::{future::poll_fn, num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use wirestate_core::{
    admission::{ConnectionTable, Limits},
    drive::{Clock as _, Drive},
    fanout::{
        Config, Counters, Feed, Framing, LagPolicy, MessageSource, MessageSourceConfig, Subscriber,
        Upstream,
    },
    runtime::{Listener as _, Runtime as _},
    serve::{self, DrainReport, ServerHandle},
    shutdown::{Shutdown, ShutdownHandle},
};
use wirestate_testkit::{
    contract::Checked,
    sim::{Act, Host, Leftovers, Received, Settings, Side, Task, World, act},
};

use crate::meter::{Meter, is_paused};

/// The length of a message, in bytes.
pub(crate) const SIZE: usize = 100;
/// The most bytes that a subscriber of these scenes may queue.
const MAX_QUEUED: usize = 4 << 20;

/// A fan-out server in a world.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) server: Host,
    pub(crate) feed: Feed,
    pub(crate) meter: Meter,
    pub(crate) table: ConnectionTable,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) serving: Task<DrainReport>,
}

/// One connection of the upstream: what it sends, and how it ends.
#[derive(Clone, Debug)]
pub(crate) enum Epoch {
    /// A message source runs to its end.
    Source(MessageSourceConfig),
    /// A script of acts.
    Acts(Vec<Act>),
}

/// The configuration of a source of `count` messages at `rate` a second.
pub(crate) fn source(rate: u64, count: u64) -> MessageSourceConfig {
    let size = NonZeroUsize::new(SIZE).unwrap();
    MessageSourceConfig::default().with_size(size).with_rate(rate).with_count(count)
}

/// `count` messages at `rate` a second, and a FIN.
pub(crate) fn whole(rate: u64, count: u64) -> Epoch {
    Epoch::Source(source(rate, count))
}

/// `bytes` bytes of messages, then a pause and a reset. The last message may be incomplete.
pub(crate) fn cut(framing: Framing, bytes: usize) -> Epoch {
    let bytes: Vec<u8> = (0..).flat_map(|number| message(framing, number)).take(bytes).collect();
    Epoch::Acts(vec![Act::Send(bytes.into()), Act::Wait(millis(1000)), Act::Reset])
}

/// `count` messages, a few at a time, and a FIN.
pub(crate) fn trickle(framing: Framing, count: u64) -> Epoch {
    let piece = |first: u64| {
        let numbers = first..count.min(first + 7);
        let bytes: Vec<u8> = numbers.flat_map(|number| message(framing, number)).collect();
        [Act::Send(bytes.into()), Act::Wait(millis(10))]
    };
    Epoch::Acts((0..count).step_by(7).flat_map(piece).collect())
}

pub(crate) const FIXED: Framing = Framing::Fixed(NonZeroUsize::new(SIZE).unwrap());
pub(crate) const LINES: Framing =
    Framing::Delimited { delimiter: b'\n', max: NonZeroUsize::new(SIZE).unwrap() };

pub(crate) fn config() -> Config {
    Config::default().with_framing(FIXED).with_window(256 * 1024)
}

impl Scene {
    /// The upstream listens from 1 s on, so that subscribers that connect before miss nothing.
    pub(crate) fn new(seed: u64, config: Config, epochs: Vec<Epoch>) -> Self {
        let settings = Settings { backlog: 10_000, ..Settings::default() };
        Self::in_world(World::with(seed, settings), config, epochs)
    }

    /// The same, in the given world.
    pub(crate) fn in_world(world: World, config: Config, epochs: Vec<Epoch>) -> Self {
        let (server, upstream) = (world.host("server"), world.host("upstream"));
        let limit = (config.on_lag != LagPolicy::Block).then_some(config.lag_wait);
        let (feed, meter) = (Feed::new(config).unwrap(), Meter::new(limit));
        let limits = Limits { per_address: None, ..Limits::default() };
        let handle = ServerHandle::new(serve::Config::default().with_limits(limits));
        let (table, shutdown) = (handle.table().clone(), handle.shutdown().clone());
        let listener = server.listen("server:1235").unwrap();
        let (runtime, shared, metering) = (server.clone(), feed.clone(), meter.clone());
        let serving = server.run(async move {
            let subscriber = |_: &_, now| {
                metering.subscriber(Checked::new(Subscriber::new(&shared, now), MAX_QUEUED), now)
            };
            serve::Server::new(runtime, listener).with_handle(&handle).serve(subscriber).await
        });
        server.run(reconnect(server.clone(), feed.clone(), meter.clone(), shutdown.clone()));
        upstream.run(serve_epochs(upstream.clone(), epochs));
        Self { world, server, feed, meter, table, shutdown, serving }
    }

    /// Drains the server, and asserts that nothing is left when all tasks have ended.
    pub(crate) fn end(&self) -> DrainReport {
        self.shutdown.drain();
        self.world.run().unwrap();
        assert_eq!(self.world.leftovers(), Leftovers::default());
        let mut records = self.world.records();
        records.retain(|record| (record.side == Side::Client) == (&*record.client == "server"));
        assert_eq!(records.iter().find(|record| record.hides_failure()), None);
        let totals = self.table.totals();
        assert_eq!((totals.open, totals.accepted), (0, totals.ended.values().sum()));
        let counters = self.feed.counters();
        assert_eq!((counters.subscribers, counters.upstream_up), (0, false));
        self.serving.take().expect("all tasks have ended")
    }

    /// How many subscribers have ended with the reason `label`.
    pub(crate) fn ended(&self, label: &str) -> u64 {
        self.table.totals().ended.get(label).copied().unwrap_or(0)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.feed.counters()
    }

    /// A subscriber on a host of its own.
    pub(crate) fn subscriber(&self, name: &str, acts: Vec<Act>) -> Task<Received> {
        subscribe(&self.world.host(name), acts)
    }

    pub(crate) fn run_for(&self, duration: Duration) {
        self.world.run_for(duration).unwrap();
    }

    /// The bytes that the upstream has sent, by connection.
    pub(crate) fn epochs(&self) -> Vec<Vec<u8>> {
        let upstreams = self
            .world
            .records()
            .into_iter()
            .filter(|record| record.side == Side::Client && &*record.client == "server");
        upstreams.map(|record| record.received).collect()
    }

    /// The bytes that were published: the complete messages of each connection.
    pub(crate) fn published(&self) -> Vec<u8> {
        let framing = self.feed.config().framing;
        let whole = |mut epoch: Vec<u8>| {
            epoch.truncate(complete_len(framing, &epoch));
            epoch
        };
        self.epochs().into_iter().flat_map(whole).collect()
    }
}

/// Keeps the upstream connected until the server stops.
pub(crate) async fn reconnect(host: Host, feed: Feed, meter: Meter, shutdown: ShutdownHandle) {
    loop {
        if let Ok(socket) = host.connect("upstream:1234").await {
            let clock = host.clock();
            let upstream = Upstream::new(&feed, clock.now());
            let mut drive = Drive::new(Checked::new(upstream, 0), socket, clock);
            poll_fn(|cx| {
                let stops = shutdown.poll_requested(cx) > Shutdown::None;
                drive.poll_until(cx, |upstream, now| {
                    if stops {
                        wirestate_core::Machine::handle(
                            upstream,
                            now,
                            wirestate_core::Event::ShutDown,
                        );
                    }
                    meter.set_paused(now, is_paused(upstream));
                    None::<()>
                })
            })
            .await
            .unwrap_err();
            meter.set_paused(host.clock().now(), false);
        }
        if shutdown.requested() > Shutdown::None {
            return;
        }
        host.sleep(Duration::from_millis(100)).await;
    }
}

/// Serves the epochs, one connection each, then stops listening.
async fn serve_epochs(host: Host, epochs: Vec<Epoch>) {
    host.sleep(Duration::from_secs(1)).await;
    let mut listener = host.listen("upstream:1234").unwrap();
    for epoch in epochs {
        let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        match epoch {
            Epoch::Acts(acts) => {
                act(host.clone(), socket, acts).await;
            }
            Epoch::Source(source) => {
                let clock = host.clock();
                let source = MessageSource::new(source, clock.now()).unwrap();
                Drive::new(Checked::new(source, 64 * 1024), socket, clock).await;
            }
        }
    }
}

/// A message that begins with its number. The length of a line depends on the number.
pub(crate) fn message(framing: Framing, number: u64) -> Vec<u8> {
    let mut message = format!("{number:020} ").into_bytes();
    let lines = matches!(framing, Framing::Delimited { .. });
    let spread = usize::try_from(number * 31 % 79).unwrap();
    message.resize(if lines { message.len() + spread } else { SIZE - 1 }, b'-');
    message.push(b'\n');
    message
}

/// How many bytes at the beginning of a stream are complete messages.
fn complete_len(framing: Framing, stream: &[u8]) -> usize {
    match framing {
        Framing::Fixed(size) => stream.len() / size * size.get(),
        Framing::Delimited { delimiter, .. } => {
            stream.iter().rposition(|byte| *byte == delimiter).map_or(0, |index| index + 1)
        }
        Framing::LengthPrefixed { .. } => unreachable!("no scene has such messages"),
        Framing::None => stream.len(),
    }
}

/// A subscriber that performs `acts`.
pub(crate) fn subscribe(host: &Host, acts: Vec<Act>) -> Task<Received> {
    let runtime = host.clone();
    host.run(async move {
        let socket = runtime.connect("server:1235").await.unwrap();
        act(runtime, socket, acts).await
    })
}

/// The numbers of the complete messages in `bytes`.
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

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
