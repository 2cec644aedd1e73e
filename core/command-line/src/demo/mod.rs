//! `demo`: all servers and clients in one process, on real sockets. Every byte is verified.
//!
//! Each part prints a heading, a live line while it runs, and its results.

mod app;
mod echo;
mod fanout;

use core::time::Duration;
use std::io::{self, Write};

use wirestate_core::{
    runtime::Address,
    serve::{Config, Server, ServerHandle},
};

use crate::{
    CommandError, CommandRuntime,
    open_files::{self, RESERVED_FILES},
};

pub(super) async fn run<R: CommandRuntime>(runtime: &R) -> Result<(), CommandError> {
    let (connections, limit) = (echo::CONNECTIONS, open_files::raise_limit());
    // The echo part needs the most files: four sockets for each connection, one of the client, two
    // of the proxy and one of the server.
    let files = (4 * connections * R::FILES_PER_CONNECTION) as u64 + RESERVED_FILES;
    if files > limit {
        return Err(CommandError::TooManyConnections { connections, files, limit });
    }
    echo::run(runtime).await?;
    print("")?;
    app::run(runtime).await?;
    print("")?;
    fanout::run(runtime).await
}

/// Listens on a free port. Returns the server and its address.
async fn bind<R: CommandRuntime>(
    runtime: &R,
    config: Config,
) -> Result<(Server<R>, Address), CommandError> {
    let address = "127.0.0.1:0";
    let failed = |error| CommandError::Listen { address: address.into(), error };
    let server = runtime.bind(address).await.map_err(failed)?;
    let address = server.addresses().map_err(failed)?.swap_remove(0);
    Ok((server.with_handle(&ServerHandle::new(config)), address))
}

/// The settings of a server with this name in its log lines.
fn named(name: &'static str) -> Config {
    Config::default().with_name(name)
}

/// Writes a line to standard output.
fn print(text: &str) -> Result<(), CommandError> {
    writeln!(io::stdout().lock(), "{text}").map_err(CommandError::Output)
}

/// Long, because the machine may be heavily loaded.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const SHOW_INTERVAL: Duration = Duration::from_millis(250);
