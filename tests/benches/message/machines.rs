//! Ours: the machine of `app-server` with its defaults, on each runtime.

use std::{io, num::NonZeroUsize};

use wirestate_core::{
    message::{
        Config, Server,
        search::{self, Table},
    },
    runtime::{Listener, Runtime},
    serve::{self, serve},
};
use wirestate_smol::Smol;
use wirestate_std::Threads;
use wirestate_tokio::Tokio;

use crate::{
    dialogue::table,
    process::{ANY_PORT, announce},
    runtimes,
};

/// On tokio, until it is killed.
pub(crate) fn tokio(workers: NonZeroUsize) -> io::Result<()> {
    let runtime = runtimes::tokio(workers)?;
    runtime.block_on(answer(Tokio::new(runtime.handle().clone())))
}

/// On smol, until it is killed.
pub(crate) fn smol(workers: NonZeroUsize) -> io::Result<()> {
    runtimes::smol(workers, |executor| answer(Smol::new(executor)))
}

/// On threads, until it is killed.
pub(crate) fn threads() -> io::Result<()> {
    wirestate_std::block_on(answer(Threads::new()))
}

async fn answer<R: Runtime>(runtime: R) -> io::Result<()> {
    let (host, port) = ANY_PORT;
    let listener = runtime.listen(&format!("{host}:{port}"))?;
    announce(listener.local_address()?.ip().expect("a port was asked for"))?;
    let table = Table::from_json(&serde_json::to_vec(&table())?).map_err(io::Error::other)?;
    let server = Server::new(Config::default(), search::service(table));
    serve(&runtime, listener, &serve::Options::default(), |_, now| server.machine(now)).await;
    Ok(())
}
