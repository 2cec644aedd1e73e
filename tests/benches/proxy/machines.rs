//! This project's proxies, with their defaults.

use std::{io, net::SocketAddr};

use wirestate_core::{
    drive::Splice,
    proxy::{Balance, Config, Proxy, Upstreams, serve},
    runtime::Runtime,
    serve::Server,
};

use crate::measure::runtimes::ProjectServer;

/// The relays to `upstream`.
pub(crate) struct Relay(pub(crate) SocketAddr);

impl ProjectServer for Relay {
    async fn serve<R: Runtime<Socket: Splice>>(
        self,
        runtime: R,
        listener: R::Listener,
    ) -> io::Result<()> {
        let upstreams = Upstreams::new([self.0.to_string()], Balance::RoundRobin, 1);
        let proxy = Proxy::new(Config::default(), upstreams).expect("the defaults are valid");
        serve(Server::new(runtime, listener), proxy).await;
        Ok(())
    }
}
