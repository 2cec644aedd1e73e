//! `demo`: everything in one process, on real sockets.

mod app;
mod echo;
mod fanout;

use std::io::{self, Write};

use wirestate_core::{
    runtime::Address,
    serve::{Config, Server, ServerHandle},
};

use crate::{
    Failure, Host,
    log::LiveLine,
    server::{RESERVED_FILES, open_files},
};

pub(super) async fn run<R: Host>(runtime: &R) -> Result<(), Failure> {
    let (wanted, limit) = (echo::CONNECTIONS, open_files());
    // Of the client, of the server, and two of the proxy between them: nothing else here has as many.
    let files = (4 * wanted * R::FILES_PER_CONNECTION) as u64 + RESERVED_FILES;
    if files > limit {
        return Err(Failure::OpenFiles { wanted, files, limit });
    }
    echo::run(runtime).await?;
    say("")?;
    app::run(runtime).await?;
    say("")?;
    fanout::run(runtime).await
}

/// A server on a free port.
async fn bind<R: Host>(runtime: &R, config: Config) -> Result<(Server<R>, Address), Failure> {
    let address = "127.0.0.1:0";
    let failed = |error| Failure::Listen { address: address.into(), error };
    let server = runtime.bind(address).await.map_err(failed)?;
    let address = server.addresses().map_err(failed)?.swap_remove(0);
    Ok((server.with_handle(&ServerHandle::new(config)), address))
}

/// The settings of a server whose lines in the log have this name.
fn named(name: &'static str) -> Config {
    Config::default().with_name(name)
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{text}").map_err(Failure::Output)
}
