//! This project's servers: the fan-out machines with their defaults, but with `LagPolicy::Block`.

use std::{future::poll_fn, io, net::SocketAddr, task::Poll};

use wirestate_core::{
    dial::{Plain, Servers},
    drive::{Clock, Drive},
    fanout::{
        Config, Feed, LagPolicy, Pace, Subscriber, Upstream,
        nats::{Edge, Ingest},
    },
    nats::{
        self, Connection, Dial, Session,
        jetstream::{ConsumerConfig, LeaseConfig, Storage, StreamConfig},
    },
    runtime::Runtime,
    serve::Server,
};

use crate::{broker::STREAM, measure::runtimes::ProjectServer};

fn feed() -> Feed {
    Feed::new(Config::default().with_on_lag(LagPolicy::Block)).expect("the configuration is valid")
}

/// Reads the messages of a raw source.
async fn read<R: Runtime>(runtime: &R, feed: &Feed, source: SocketAddr) -> io::Result<()> {
    let socket = runtime.connect(&source.to_string()).await?;
    let clock = runtime.clock();
    let machine = Upstream::new(feed, clock.now());
    runtime.spawn(Drive::new(machine, socket, clock))
}

async fn fan_out<R: Runtime>(runtime: R, listener: R::Listener, feed: Feed) -> io::Result<()> {
    Server::new(runtime, listener).serve(|_, now| Subscriber::new(&feed, now)).await;
    Ok(())
}

/// The fan-out of the messages of a raw source.
pub(crate) struct RawSource(pub(crate) SocketAddr);

impl ProjectServer for RawSource {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let feed = feed();
        read(&runtime, &feed, self.0).await?;
        fan_out(runtime, listener, feed).await
    }
}

/// The fan-out of the messages of a stream at this broker.
pub(crate) struct FromStream(pub(crate) SocketAddr);

impl ProjectServer for FromStream {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let feed = feed();
        let edge = Edge::new(&feed, ConsumerConfig::new(STREAM, STREAM));
        let edge = edge.expect("the configuration is valid");
        let config = Edge::client_config(nats::Config::default());
        connect(&runtime, self.0, config, edge)?;
        fan_out(runtime, listener, feed).await
    }
}

/// The publisher of the messages of a raw source.
pub(crate) struct ToStream {
    pub(crate) source: SocketAddr,
    pub(crate) broker: SocketAddr,
}

impl ProjectServer for ToStream {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let feed = feed();
        let mut stream = StreamConfig::new(STREAM, STREAM);
        (stream.storage, stream.max_bytes) = (Storage::Memory, Some(MAX_BYTES));
        let lease = LeaseConfig::new(format!("wirestate_{STREAM}"), "benchmark");
        let ingest = Ingest::new(&feed, Pace::Blocks, stream, &lease, SEED);
        let ingest = ingest.expect("the configuration is valid");
        let watch = ingest.handle().watch_lease();
        let config = Ingest::client_config(nats::Config::default());
        connect(&runtime, self.broker, config, ingest)?;
        poll_fn(move |cx| if watch.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        read(&runtime, &feed, self.source).await?;
        fan_out(runtime, listener, feed).await
    }
}

fn connect<R: Runtime>(
    runtime: &R,
    broker: SocketAddr,
    config: nats::Config,
    session: impl Session + Send + 'static,
) -> io::Result<()> {
    let servers = Servers::new([broker.to_string()], SEED).expect("there is an address");
    let dial = Dial::new(servers, config).expect("the configuration is valid");
    let (own, mut connection) = (runtime.clone(), Connection::new(session));
    runtime.spawn(async move { dial.keep_connected(&own, &Plain, &mut connection, |_| {}).await })
}

const SEED: u64 = 1;
/// The size of the stream, which is more than the load is ahead of the slowest subscriber.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
