//! A runtime whose sockets can have TLS, for the proxy.

use core::{
    future::Future,
    task::{Context, Poll},
};
use std::{io, net::SocketAddr};

use wirestate_core::{
    admission::{Admitted, Peer},
    drive::{Clock as _, Drive},
    runtime::{AcceptError, Address, Listener, Runtime},
};

use crate::{Client, MaybeTlsStream, Server, Stream, peer_certificate, server_name};

/// A runtime whose outgoing connections have TLS, if it has a client. Accepted connections have
/// none at first: add it by [`accept`](Self::accept).
///
/// ```no_run
/// use wirestate_core::{Runtime, drive::Splice, proxy::{self, Proxy}};
/// use wirestate_tls::{Client, Server, TlsRuntime};
///
/// /// A proxy that ends TLS of its clients, and speaks TLS to its upstreams.
/// async fn serve<R: Runtime<Socket: Splice>>(
///     runtime: R,
///     (clients, upstreams): (Server, Client),
///     proxy: Proxy,
/// ) -> std::io::Result<()> {
///     let runtime = TlsRuntime::new(runtime, Some(upstreams));
///     let server = runtime.bind("127.0.0.1:9500").await?;
///     let handshake = move |socket, admitted, clock| {
///         runtime.clone().accept(clients.clone(), socket, admitted, clock)
///     };
///     proxy::serve_after(server, proxy, handshake).await;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct TlsRuntime<R> {
    inner: R,
    client: Option<Client>,
    /// Whether the address that is connected to decides on the name in the certificate.
    is_named_by_address: bool,
}

impl<R> TlsRuntime<R> {
    /// The runtime `inner`, whose outgoing connections have the TLS of `client`.
    pub fn new(inner: R, client: Option<Client>) -> Self {
        Self { inner, client, is_named_by_address: false }
    }

    /// Expects the host of each address that is connected to in the certificate, instead of the
    /// client's name. The client's name stays in use for an address without a host.
    #[must_use]
    pub fn named_by_address(self) -> Self {
        Self { is_named_by_address: true, ..self }
    }

    /// The runtime below.
    pub fn inner(&self) -> &R {
        &self.inner
    }
}

impl<R: Runtime> TlsRuntime<R> {
    /// Completes the handshake of a connection that was accepted, and records the subject of the
    /// client's certificate as its [`identity`]. `clock` is passed through.
    ///
    /// Returns `None` if the handshake fails. The reason is counted and logged.
    ///
    /// [`identity`]: wirestate_core::admission::ConnectionEntry::identity
    pub async fn accept(
        self,
        server: Server,
        socket: MaybeTlsStream<R::Socket>,
        admitted: Admitted,
        clock: R::Clock,
    ) -> Option<(MaybeTlsStream<R::Socket>, Admitted, R::Clock)> {
        let MaybeTlsStream::Plain(mut socket) = socket else {
            return Some((socket, admitted, clock));
        };
        let mut handshake = server.handshake(clock.now());
        let mut drive =
            Drive::new(&mut handshake, &mut socket, self.inner.clock()).admitted(admitted);
        drive.until(|handshake, _| handshake.is_complete()).await.ok()?;
        let admitted = drive.hand_over()?;
        if let Some(certificate) = peer_certificate(handshake.connection()) {
            admitted.set_identity(&certificate.subject);
        }
        Some((MaybeTlsStream::Tls(Stream::new(handshake, socket)), admitted, clock))
    }
}

impl<R: Runtime> Runtime for TlsRuntime<R> {
    type Socket = MaybeTlsStream<R::Socket>;
    type Listener = PlainListener<R::Listener>;
    type Clock = R::Clock;

    fn clock(&self) -> R::Clock {
        self.inner.clock()
    }

    fn spawn<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        self.inner.spawn(task)
    }

    fn spawn_connection<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        self.inner.spawn_connection(task)
    }

    fn listen(&self, address: &str) -> io::Result<Self::Listener> {
        self.inner.listen(address).map(PlainListener)
    }

    fn resolve(&self, address: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send {
        self.inner.resolve(address)
    }

    /// Connects, and completes the handshake.
    ///
    /// # Errors
    /// As [`Runtime::connect`]. If the handshake fails, the error has the text of the
    /// [`Failure`](crate::Failure).
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Socket>> + Send {
        self.connect_named(address, address)
    }

    async fn connect_named(&self, address: &str, name: &str) -> io::Result<Self::Socket> {
        let mut socket = self.inner.connect_named(address, name).await?;
        let Some(client) = &self.client else { return Ok(MaybeTlsStream::Plain(socket)) };
        let client = match server_name(name).filter(|_| self.is_named_by_address) {
            Some(name) => &client.with_name(name),
            None => client,
        };
        let clock = self.inner.clock();
        let mut handshake = client.handshake(clock.now());
        let mut drive = Drive::new(&mut handshake, &mut socket, clock);
        match drive.until(|handshake, _| handshake.is_complete()).await {
            Ok(()) => {
                drive.hand_over();
                Ok(MaybeTlsStream::Tls(Stream::new(handshake, socket)))
            }
            Err(ended) => Err(io::Error::other(ended.to_string())),
        }
    }

    fn local_address(&self, socket: &Self::Socket) -> Option<SocketAddr> {
        self.inner.local_address(socket.socket())
    }

    fn dialled_address(&self, socket: &Self::Socket) -> Option<Address> {
        self.inner.dialled_address(socket.socket())
    }
}

/// The listening socket of a [`TlsRuntime`], whose connections have no TLS yet.
#[derive(Debug)]
pub struct PlainListener<L>(pub L);

impl<L: Listener> Listener for PlainListener<L> {
    type Socket = MaybeTlsStream<L::Socket>;

    fn local_address(&self) -> io::Result<Address> {
        self.0.local_address()
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Self::Socket, Peer), AcceptError>> {
        let accepted = self.0.poll_accept(cx);
        accepted.map_ok(|(socket, peer)| (MaybeTlsStream::Plain(socket), peer))
    }

    fn shut_down(&mut self) {
        self.0.shut_down();
    }
}
