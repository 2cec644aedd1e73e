//! A proxy, and serving it on a runtime.

use core::fmt;
use std::{future::Future, vec::Vec};

use super::{
    Config, ProxiedConnection, RelayFactory, Upstreams, checking::alongside, connection::Additions,
    loop_detection::LoopDetector, pipes::Pipes,
};
use crate::{
    ConfigError, Instant,
    admission::{Admitted, ConnectionEntry},
    drive::{Clock as _, Splice},
    faults::Injector,
    record::Recorder,
    runtime::{Address, Runtime},
    serve::{DrainReport, Server},
    shared::Shared,
};

/// A proxy: its settings and its upstreams. Clones are the same proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    relays: RelayFactory,
    upstreams: Upstreams,
    faults: Option<Injector>,
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
        Ok(Self { relays: RelayFactory::new(config)?, upstreams, faults: None })
    }

    /// Injects faults into the connections that are made from now on. Their numbers are those of
    /// [`ProxiedConnection::admitted`]. All their bytes go through memory.
    ///
    /// Bytes that a fault holds back wait in the relay: at most [`Config::buffer`] in each
    /// direction. They count as pending for [`Config::idle_timeout`].
    pub fn with_faults(self, faults: Injector) -> Self {
        Self { faults: Some(faults), ..self }
    }

    /// The faults that it injects.
    pub fn faults(&self) -> Option<&Injector> {
        self.faults.as_ref()
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
/// connections have ended. Meanwhile it [checks](Proxy::check_upstreams) the upstreams.
///
/// With [`Config::accept_proxy`], set
/// [`serve::Config::behind_proxies`](crate::serve::Config::behind_proxies) for the server.
/// Otherwise the proxies' own addresses count towards the limit per address until the headers have
/// been read.
pub async fn serve<R: Runtime<Socket: Splice>>(server: Server<R>, proxy: Proxy) -> DrainReport {
    let (runtime, relays) = (server.runtime().clone(), relays(&server, proxy.clone()));
    let connection = move |socket, admitted, clock| relays.connection(socket, admitted, clock);
    alongside(server.accept(connection), proxy.check_upstreams(&runtime)).await
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
    let (runtime, relays) = (server.runtime().clone(), relays(&server, proxy.clone()));
    let connection = move |socket, admitted, clock| {
        let (handshake, relays) = (handshake(socket, admitted, clock), relays.clone());
        async move {
            let (socket, admitted, clock) = handshake.await?;
            Some(relays.connection(socket, admitted, clock).await)
        }
    };
    alongside(server.accept(connection), proxy.check_upstreams(&runtime)).await
}

fn relays<R: Runtime<Socket: Splice>>(server: &Server<R>, proxy: Proxy) -> Relays<R> {
    let listening = server.addresses().unwrap_or_default();
    Relays::new(server.runtime().clone(), listening, proxy)
}

/// The connections of one proxy's clients, for a caller that accepts them itself
/// ([`Server::accept`]). Clones share their pipes. Run [`Proxy::check_upstreams`] beside it.
pub struct Relays<R: Runtime> {
    runtime: R,
    proxy: Proxy,
    pipes: Pipes<R::Socket>,
    loops: Option<LoopDetector>,
    recorder: Option<Shared<MakeRecorder>>,
}

/// Makes the recorder of a connection.
type MakeRecorder = dyn Fn(&ConnectionEntry, Instant) -> Recorder + Send + Sync;

impl<R: Runtime> Clone for Relays<R> {
    fn clone(&self) -> Self {
        let Self { runtime, proxy, pipes, loops, recorder } = self;
        let (runtime, proxy, pipes) = (runtime.clone(), proxy.clone(), pipes.clone());
        Self { runtime, proxy, pipes, loops: loops.clone(), recorder: recorder.clone() }
    }
}

impl<R: Runtime> fmt::Debug for Relays<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relays").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

impl<R: Runtime<Socket: Splice>> Relays<R> {
    /// The connections of `proxy`, which dials its upstreams on `runtime`. `listening` is where its
    /// clients connect: a connection that the proxy dials to itself is ended.
    pub fn new(runtime: R, listening: Vec<Address>, proxy: Proxy) -> Self {
        let pipes = Pipes::new(proxy.relays.config().pipes);
        let loops = LoopDetector::new(listening, &proxy.upstreams);
        Self { runtime, proxy, pipes, loops, recorder: None }
    }

    /// Records each connection, both sides of it. All bytes go through memory then.
    pub fn with_recorder(
        self,
        recorder: impl Fn(&ConnectionEntry, Instant) -> Recorder + Send + Sync + 'static,
    ) -> Self {
        Self { recorder: Some(Shared::new(recorder)), ..self }
    }

    /// Relays a client that was admitted.
    pub fn connection(
        &self,
        socket: R::Socket,
        admitted: Admitted,
        clock: R::Clock,
    ) -> ProxiedConnection<R> {
        let Self { runtime, proxy, pipes, loops, recorder } = self;
        let recorder = recorder.as_ref();
        let additions = Additions {
            loops: loops.clone(),
            pipes: Some(pipes.clone()),
            recorder: recorder.map(|recorder| recorder(&admitted.entry(), clock.now())),
        };
        let peer = admitted.peer();
        ProxiedConnection::with(runtime, proxy, socket, peer, clock, additions).admitted(admitted)
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
