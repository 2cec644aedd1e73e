//! This project's servers: the fan-out machines with their defaults, but with `LagPolicy::Block`.

use std::{io, net::SocketAddr};

use wirestate_core::{
    drive::{Clock, Drive},
    fanout::{Config, Feed, LagPolicy, Subscriber, Upstream},
    runtime::Runtime,
    serve::Server,
};

use crate::measure::runtimes::ProjectServer;

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
pub(crate) struct Raw(pub(crate) SocketAddr);

impl ProjectServer for Raw {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let feed = feed();
        read(&runtime, &feed, self.0).await?;
        fan_out(runtime, listener, feed).await
    }
}

/// The fan-out of the messages of a stream at this broker.
pub(crate) struct Edge(pub(crate) SocketAddr);

impl ProjectServer for Edge {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let feed = feed();
        connect_edge(&runtime, &feed, self.0)?;
        fan_out(runtime, listener, feed).await
    }
}

/// The publisher of the messages of a raw source.
pub(crate) struct Ingest {
    source: SocketAddr,
    broker: SocketAddr,
}

impl Ingest {
    pub(crate) fn new(source: SocketAddr, broker: SocketAddr) -> Self {
        Self { source, broker }
    }
}

impl ProjectServer for Ingest {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let feed = feed();
        connect_ingest(&runtime, &feed, self.broker)?;
        read(&runtime, &feed, self.source).await?;
        fan_out(runtime, listener, feed).await
    }
}

fn connect_edge<R: Runtime>(_: &R, _: &Feed, _: SocketAddr) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn connect_ingest<R: Runtime>(_: &R, _: &Feed, _: SocketAddr) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
