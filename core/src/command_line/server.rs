//! What all servers have in common: limits, the ready line, signals, the drain.

use std::{net::SocketAddr, thread};

use clap::Args;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level::{emulate_default_handler, signal_name},
};
use tracing::{info, warn};

use super::{
    Failure,
    accept_proxy::AcceptProxyFlags,
    log,
    values::{Limit, Timeout},
};
use crate::{
    Instant, Machine,
    admission::{Conn, Limits},
    runtime::{Listener, Runtime},
    serve::{self, Options, Served},
    stop::Stop,
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub(super) struct Flags {
    /// Open connections at most [default: 10000, or what the limit of open files allows]
    #[arg(long, value_name = "N", env = "WIRESTATE_MAX_CONNECTIONS",
          value_parser = clap::value_parser!(u64).range(1..))]
    max_connections: Option<u64>,
    /// Open connections from one IPv4 address or IPv6 /64 at most, loopback excepted; or `off`
    #[arg(long, value_name = "N", env = "WIRESTATE_MAX_PER_ADDRESS", default_value = "64")]
    max_per_address: Limit,
    #[command(flatten)]
    drain: DrainFlags,
    #[command(flatten)]
    pub(super) proxied: AcceptProxyFlags,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub(super) struct DrainFlags {
    /// How long connections may take to end after SIGTERM or SIGINT before they are reset; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_DRAIN_TIMEOUT", default_value = "10s")]
    drain_timeout: Timeout,
}

impl Flags {
    pub(super) fn options<R: Runtime>(&self) -> Options {
        self.options_of(R::FILES_PER_CONNECTION)
    }

    /// Options for connections that take so many open files each.
    pub(super) fn options_of(&self, files_per_connection: usize) -> Options {
        self.proxied.apply(self.drain.options(limits(self, files_per_connection)))
    }
}

impl DrainFlags {
    pub(super) fn options(&self, limits: Limits) -> Options {
        if self.drain_timeout.0.is_none() {
            warn!("--drain-timeout off: one connection can keep the server from ending");
        }
        Options { drain_timeout: self.drain_timeout.0, ..Options::new(limits) }
    }
}

/// Listens on `address`, says so, and serves until a signal asks for the end.
pub(super) async fn run<R, M>(
    runtime: &R,
    address: &str,
    options: &Options,
    log: &log::Flags,
    machine: impl FnMut(&Conn, Instant) -> M + Send,
) -> Result<(), Failure>
where
    R: Runtime,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    listening(runtime, address, options, log, async |listener| {
        serve::serve(runtime, listener, options, machine).await
    })
    .await
}

/// Listens on `address`, says so, and has `serve` accept until a signal asks for the end.
pub(super) async fn listening<R: Runtime>(
    runtime: &R,
    address: &str,
    options: &Options,
    log: &log::Flags,
    serve: impl AsyncFnOnce(R::Listener) -> Served,
) -> Result<(), Failure> {
    stop_on_signals(options.stop.clone())?;
    let (listener, address) = listen(runtime, address)?;
    log::ready(log, address);
    let served = serve(listener).await;
    let totals = options.table.totals();
    info!(
        connections = totals.accepted,
        drained = served.drained,
        aborted = served.aborted,
        refused = totals.refused.values().sum::<u64>(),
        received = totals.bytes_in,
        sent = totals.bytes_out,
        "stopped"
    );
    Ok(())
}

pub(super) fn listen<R: Runtime>(
    runtime: &R,
    address: &str,
) -> Result<(R::Listener, SocketAddr), Failure> {
    let failed = |error| Failure::Listen { address: address.to_string(), error };
    let listener = runtime.listen(address).map_err(failed)?;
    let address = listener.local_address().map_err(failed)?;
    Ok((listener, address))
}

fn limits(flags: &Flags, files_per_connection: usize) -> Limits {
    let files = open_files();
    let room = files.saturating_sub(RESERVED_FILES) / files_per_connection as u64;
    let connections = match flags.max_connections {
        Some(wanted) => {
            if wanted > room {
                warn!("--max-connections {wanted}: the limit of {files} open files allows {room}");
            }
            wanted
        }
        None => room.clamp(1, Limits::default().connections as u64),
    };
    Limits {
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
        per_address: flags.max_per_address.0,
    }
}

/// Raises the soft limit of open files to the hard one, and answers it (getrlimit(2)).
pub(super) fn open_files() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024)
}

/// Open files that are not connections: the standard streams, listeners, the runtime's own.
pub(super) const RESERVED_FILES: u64 = 64;

/// The first SIGTERM or SIGINT asks for a graceful end, the second one ends the process.
fn stop_on_signals(stop: Stop) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Failure::Signals)?;
    let thread = thread::Builder::new().name("signals".into());
    let wait = move || {
        let mut asked = false;
        for signal in signals.forever() {
            let name = signal_name(signal).unwrap_or("signal");
            if asked {
                warn!("{name} again: ending at once");
                // It does not return: the default is to end the process by this very signal.
                let _ = emulate_default_handler(signal);
            }
            asked = true;
            info!("{name}: no connection is accepted any more; again ends at once");
            stop.drain();
        }
    };
    thread.spawn(wait).map(drop).map_err(Failure::Signals)
}
