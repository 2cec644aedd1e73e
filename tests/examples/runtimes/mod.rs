//! Runs an example's server on the runtime that the command line names.
//!
//! Every example takes the same arguments, a runtime and an address to listen on:
//!
//! ```sh
//! cargo run -p wirestate-testkit --example socks5 -- tokio 127.0.0.1:1080
//! ```
//!
//! It prints `listening on ADDRESS` to standard error once it can be connected to. The first SIGINT
//! (Ctrl-C) or SIGTERM drains it, the second one ends the process.

#![allow(dead_code, reason = "an example calls one of `serve` and `run`")]

use std::{
    env,
    error::Error,
    future::Future,
    io::{self, Read},
    os::unix::net::UnixStream,
    sync::{Arc, atomic::AtomicBool},
    thread,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};
use smol::Executor;
use wirestate_core::{
    Instant, Machine, Runtime,
    admission::ConnectionEntry,
    serve::{DrainReport, Server, ServerHandle},
    shared::Shared,
};
use wirestate_smol::Smol;
use wirestate_std::Threads;
use wirestate_tokio::Tokio;

/// What an example does with its server, which listens already. For an example that needs more than
/// one machine for each connection; otherwise [`serve`] is enough.
pub(crate) trait Serve: Send + 'static {
    /// Accepts connections until a shutdown is requested and all connections have ended.
    fn serve<R: Runtime>(self, server: Server<R>) -> impl Future<Output = DrainReport> + Send;
}

/// Runs `machine` on each connection, as [`Server::serve`] does, until the process is told to end.
///
/// # Errors
/// The arguments are wrong, or listening fails.
pub(crate) fn serve<M>(
    machine: impl FnMut(&Shared<ConnectionEntry>, Instant) -> M + Send + 'static,
) -> Result<(), Box<dyn Error>>
where
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    run(Machines(machine))
}

/// Runs `example` until the process is told to end.
///
/// # Errors
/// The arguments are wrong, or listening fails.
pub(crate) fn run(example: impl Serve) -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(runtime), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: EXAMPLE tokio|smol|std ADDRESS".into());
    };
    match &*runtime {
        "tokio" => {
            let tokio = tokio::runtime::Runtime::new()?;
            let runtime = Tokio::new(tokio.handle().clone());
            tokio.block_on(listen(runtime, &address, example))?;
        }
        "smol" => {
            let executor = Arc::new(Executor::new());
            let runtime = Smol::new(executor.clone());
            smol::block_on(executor.run(listen(runtime, &address, example)))?;
        }
        "std" => wirestate_std::block_on(listen(Threads::new(), &address, example))?,
        other => return Err(format!("the runtime is tokio, smol or std, not {other}").into()),
    }
    Ok(())
}

async fn listen<R>(runtime: R, address: &str, example: impl Serve) -> io::Result<()>
where
    R: Runtime,
{
    let server = runtime.bind(address).await?;
    drain_on_signals(server.handle())?;
    for address in server.addresses()? {
        eprintln!("listening on {address}");
    }
    let DrainReport { drained, aborted } = example.serve(server).await;
    eprintln!("connections drained: {drained}, reset: {aborted}");
    Ok(())
}

/// Drains the server at the first SIGINT or SIGTERM, and ends the process at the second one.
fn drain_on_signals(server: ServerHandle) -> io::Result<()> {
    let (mut receiver, sender) = UnixStream::pair()?;
    let is_second = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal sets the flag only after this check.
        flag::register_conditional_default(signal, is_second.clone())?;
        flag::register(signal, is_second.clone())?;
        pipe::register(signal, sender.try_clone()?)?;
    }
    let wait = move || {
        if receiver.read_exact(&mut [0]).is_ok() {
            server.drain();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

/// One machine for each connection.
struct Machines<F>(F);

impl<F, M> Serve for Machines<F>
where
    F: FnMut(&Shared<ConnectionEntry>, Instant) -> M + Send + 'static,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    async fn serve<R: Runtime>(self, server: Server<R>) -> DrainReport {
        server.serve(self.0).await
    }
}
