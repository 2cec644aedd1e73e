//! This project's servers, with their defaults.

use std::{io, net::SocketAddr, sync::Arc};

use wirestate_core::{
    Runtime,
    drive::Splice,
    echo,
    proxy::{self, Balance, Proxy, Upstreams, serve_after},
    serve::Server,
};
use wirestate_tls::{self as tls, PlainListener, TlsRuntime, rustls::ServerConfig};

use crate::measure::runtimes::ProjectServer;

/// The echo server with TLS.
pub(crate) struct Echo(pub(crate) Arc<ServerConfig>);

impl ProjectServer for Echo {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let tls = terminator(self.0)?;
        let echo = echo::Server::default();
        let server = Server::new(runtime, listener);
        server.serve(|_, now| tls.machine(echo.machine(now), now)).await;
        Ok(())
    }
}

/// The relays to `upstream`, which end the TLS of the clients.
pub(crate) struct Relay {
    pub(crate) credentials: Arc<ServerConfig>,
    pub(crate) upstream: SocketAddr,
}

impl ProjectServer for Relay {
    async fn serve<R: Runtime<Socket: Splice>>(
        self,
        runtime: R,
        listener: R::Listener,
    ) -> io::Result<()> {
        let tls = terminator(self.credentials)?;
        let upstreams = Upstreams::new([self.upstream.to_string()], Balance::RoundRobin, 1);
        let proxy = Proxy::new(proxy::Config::default(), upstreams);
        let proxy = proxy.expect("the defaults are valid");
        let runtime = TlsRuntime::new(runtime, None);
        let server = Server::new(runtime.clone(), PlainListener(listener));
        let handshake =
            |socket, admitted, clock| runtime.clone().accept(tls.clone(), socket, admitted, clock);
        serve_after(server, proxy, handshake).await;
        Ok(())
    }
}

fn terminator(credentials: Arc<ServerConfig>) -> io::Result<tls::Server> {
    tls::Server::new(tls::Config::default(), credentials).map_err(io::Error::other)
}
