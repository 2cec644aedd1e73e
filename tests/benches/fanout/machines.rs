//! Ours: the fan-out machines with their defaults, except that the upstream waits for the slowest.

use std::{io, net::SocketAddr, num::NonZeroUsize};

use wirestate_core::{
    drive::{Clock, Drive},
    fanout::{Config, Feed, OnLag, Subscriber, Upstream},
    runtime::{Listener, Runtime},
    serve::{self, serve},
};
use wirestate_smol::Smol;
use wirestate_std::Threads;
use wirestate_tokio::Tokio;

use crate::{
    process::{ANY_PORT, announce},
    runtimes,
};

/// On tokio, until it is killed.
pub(crate) fn tokio(upstream: SocketAddr, workers: NonZeroUsize) -> io::Result<()> {
    let runtime = runtimes::tokio(workers)?;
    runtime.block_on(fan_out(Tokio::new(runtime.handle().clone()), upstream))
}

/// On smol, until it is killed.
pub(crate) fn smol(upstream: SocketAddr, workers: NonZeroUsize) -> io::Result<()> {
    runtimes::smol(workers, move |executor| fan_out(Smol::new(executor), upstream))
}

/// On threads, until it is killed.
pub(crate) fn threads(upstream: SocketAddr) -> io::Result<()> {
    wirestate_std::block_on(fan_out(Threads::new(), upstream))
}

async fn fan_out<R: Runtime>(runtime: R, upstream: SocketAddr) -> io::Result<()> {
    let (host, port) = ANY_PORT;
    let listener = runtime.listen(&format!("{host}:{port}"))?;
    announce(listener.local_address()?.ip().expect("a port was asked for"))?;
    let feed = Feed::new(Config { on_lag: OnLag::Block, ..Config::default() });
    let socket = runtime.connect(&upstream.to_string()).await?;
    let clock = runtime.clock();
    let machine = Upstream::new(feed.clone(), None, clock.now());
    runtime.spawn(Drive::new(machine, socket, clock))?;
    serve(&runtime, listener, &serve::Options::default(), |_, now| Subscriber::new(&feed, now))
        .await;
    Ok(())
}
