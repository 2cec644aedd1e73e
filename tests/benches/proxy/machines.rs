//! Ours, with its defaults and one thread that relays, on each runtime.

use std::{io, net::SocketAddr, num::NonZeroUsize};

use wirestate_core::{
    proxy::{Balance, Config, Proxy, Relays, Upstreams, serve},
    runtime::{Listener, Runtime},
    serve::Options,
};
use wirestate_smol::Smol;
use wirestate_std::Threads;
use wirestate_tokio::Tokio;

use crate::{
    process::{ANY_PORT, announce},
    runtimes,
};

/// On tokio, until it is killed.
pub(crate) fn tokio(upstream: SocketAddr) -> io::Result<()> {
    let runtime = runtimes::tokio(NonZeroUsize::MIN)?;
    runtime.block_on(relay(Tokio::new(runtime.handle().clone()), upstream))
}

/// On smol, until it is killed.
pub(crate) fn smol(upstream: SocketAddr) -> io::Result<()> {
    runtimes::smol(NonZeroUsize::MIN, move |executor| relay(Smol::new(executor), upstream))
}

/// On threads, one per pair, until it is killed.
pub(crate) fn threads(upstream: SocketAddr) -> io::Result<()> {
    wirestate_std::block_on(relay(Threads::new(), upstream))
}

async fn relay<R: Runtime>(runtime: R, upstream: SocketAddr) -> io::Result<()> {
    let (host, port) = ANY_PORT;
    let listener = runtime.listen(&format!("{host}:{port}"))?;
    announce(listener.local_address()?.ip().expect("a port was asked for"))?;
    let upstreams = Upstreams::new([upstream.to_string()], Balance::RoundRobin, 1);
    let proxy = Proxy::new(Relays::new(Config::default()), upstreams);
    serve(&runtime, listener, &Options::default(), &proxy).await;
    Ok(())
}
