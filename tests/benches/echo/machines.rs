//! Ours: the echo machine with its defaults, on each runtime, with as many threads as the echo by
//! hand has there.

use std::{io, num::NonZeroUsize, sync::Arc, thread};

use wirestate_core::{
    echo,
    runtime::{Listener, Runtime},
    serve,
};
use wirestate_smol::Smol;
use wirestate_std::Threads;
use wirestate_tokio::Tokio;

use crate::process::{ANY_PORT, announce};

/// On tokio, until it is killed.
pub(crate) fn tokio(workers: NonZeroUsize) -> io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(workers.get()).enable_all().build()?;
    runtime.block_on(serve_echo(&Tokio::new(runtime.handle().clone())))
}

/// On smol, until it is killed.
pub(crate) fn smol(workers: NonZeroUsize) -> io::Result<()> {
    let executor = Arc::new(smol::Executor::new());
    // As smol's own executor does it: the workers beside the thread that accepts.
    for _ in 0..workers.get() {
        let executor = Arc::clone(&executor);
        thread::Builder::new()
            .spawn(move || smol::block_on(executor.run(smol::future::pending::<()>())))?;
    }
    smol::block_on(serve_echo(&Smol::new(executor)))
}

/// On threads, until it is killed.
pub(crate) fn threads() -> io::Result<()> {
    wirestate_std::block_on(serve_echo(&Threads::new()))
}

async fn serve_echo<R: Runtime>(runtime: &R) -> io::Result<()> {
    let (host, port) = ANY_PORT;
    let listener = runtime.listen(&format!("{host}:{port}"))?;
    announce(listener.local_address()?.ip().expect("a port was asked for"))?;
    let server = echo::Server::new(echo::Config::default());
    serve::serve(runtime, listener, &serve::Options::default(), |_, now| server.machine(now)).await;
    Ok(())
}
