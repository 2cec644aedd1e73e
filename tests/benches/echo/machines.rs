//! Ours: the echo machine with its defaults, on each runtime, with as many threads as the echo by
//! hand has there.

use std::{io, num::NonZeroUsize};

use wirestate_core::{
    echo,
    runtime::{Listener, Runtime},
    serve,
};
use wirestate_smol::Smol;
use wirestate_std::Threads;
use wirestate_tokio::Tokio;

use crate::{
    process::{ANY_PORT, announce},
    runtimes,
};

/// On tokio, until it is killed.
pub(crate) fn tokio(workers: NonZeroUsize) -> io::Result<()> {
    let runtime = runtimes::tokio(workers)?;
    runtime.block_on(serve_echo(Tokio::new(runtime.handle().clone())))
}

/// On smol, until it is killed.
pub(crate) fn smol(workers: NonZeroUsize) -> io::Result<()> {
    runtimes::smol(workers, |executor| serve_echo(Smol::new(executor)))
}

/// On threads, until it is killed.
pub(crate) fn threads() -> io::Result<()> {
    wirestate_std::block_on(serve_echo(Threads::new()))
}

async fn serve_echo<R: Runtime>(runtime: R) -> io::Result<()> {
    let (host, port) = ANY_PORT;
    let listener = runtime.listen(&format!("{host}:{port}"))?;
    announce(listener.local_address()?.ip().expect("a port was asked for"))?;
    let server = echo::Server::new(echo::Config::default());
    serve::serve(&runtime, listener, &serve::Options::default(), |_, now| server.machine(now))
        .await;
    Ok(())
}
