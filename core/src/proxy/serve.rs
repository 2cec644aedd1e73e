//! A proxy, and serving it on a runtime.

use std::future::Future;

use super::{
    Config, ProxiedConnection, RelayFactory, Upstreams, loop_detection::LoopDetector, pipes::Pipes,
};
use crate::{
    ConfigError,
    admission::Admitted,
    drive::Splice,
    runtime::Runtime,
    serve::{DrainReport, Server},
};

/// A proxy: its settings and its upstreams. Clones are the same proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    relays: RelayFactory,
    upstreams: Upstreams,
}

impl Proxy {
    /// A proxy to `upstreams`.
    ///
    /// # Errors
    /// There is no upstream, a timeout in `config` is zero, or [`Config::buffer`] is below
    /// [`MIN_BUFFER`](super::MIN_BUFFER) with [`Config::accept_proxy`].
    pub fn new(config: Config, upstreams: Upstreams) -> Result<Self, ConfigError> {
        if upstreams.addresses().is_empty() {
            let setting = "the number of upstreams";
            return Err(ConfigError::TooSmall { setting, value: 0, min: 1 });
        }
        Ok(Self { relays: RelayFactory::new(config)?, upstreams })
    }

    /// The factory of the connections' relays, with the settings and the pool of buffers.
    pub fn relays(&self) -> &RelayFactory {
        &self.relays
    }

    /// The upstreams.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }
}

/// Accepts clients and relays each to an upstream, until a shutdown is requested and all
/// connections have ended.
///
/// With [`Config::accept_proxy`], set
/// [`serve::Config::behind_proxies`](crate::serve::Config::behind_proxies) for the server.
/// Otherwise the proxies' own addresses count towards the limit per address until the headers have
/// been read.
pub async fn serve<R: Runtime<Socket: Splice>>(server: Server<R>, proxy: Proxy) -> DrainReport {
    let relay = relays(&server, proxy);
    server.accept(relay).await
}

/// As [`serve`], for clients that begin with a handshake, such as TLS. If `handshake` returns
/// `None`, it has ended the connection. If it has dropped [`Admitted`] without a reason, the
/// connection counts as aborted.
pub async fn serve_after<R, H>(
    server: Server<R>,
    proxy: Proxy,
    mut handshake: impl FnMut(R::Socket, Admitted, R::Clock) -> H + Send,
) -> DrainReport
where
    R: Runtime<Socket: Splice>,
    H: Future<Output = Option<(R::Socket, Admitted, R::Clock)>> + Send + 'static,
{
    let relay = relays(&server, proxy);
    server
        .accept(move |socket, admitted, clock| {
            let (handshake, mut relay) = (handshake(socket, admitted, clock), relay.clone());
            async move {
                let (socket, admitted, clock) = handshake.await?;
                Some(relay(socket, admitted, clock).await)
            }
        })
        .await
}

/// Returns a function that relays a client.
fn relays<R: Runtime<Socket: Splice>>(
    server: &Server<R>,
    proxy: Proxy,
) -> impl FnMut(R::Socket, Admitted, R::Clock) -> ProxiedConnection<R> + Clone + Send + use<R> {
    let pipes = Pipes::new(proxy.relays.config().pipes);
    let listening = server.addresses().ok();
    let loops = listening.and_then(|addresses| LoopDetector::new(addresses, &proxy.upstreams));
    let runtime = server.runtime().clone();
    move |socket, admitted, clock| {
        let (peer, loops) = (admitted.peer(), loops.clone());
        let pipes = Some(pipes.clone());
        ProxiedConnection::with(&runtime, &proxy, socket, peer, clock, loops, pipes)
            .admitted(admitted)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use crate::proxy::Balance;

    #[test]
    fn a_proxy_without_upstreams_is_an_error() {
        let none = Upstreams::new([""; 0], Balance::RoundRobin, 1);
        let error = Proxy::new(Config::default(), none).unwrap_err();
        assert_eq!(error.to_string(), "the number of upstreams is 0, but must be at least 1");
    }
}
