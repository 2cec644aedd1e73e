//! Runs Wirestate's machines on tokio: one task per connection.
//!
//! ```
//! use wirestate_core::{drive::Drive, echo, runtime::{Listener, Runtime}, serve::{self, serve}};
//! use wirestate_tokio::Tokio;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tokio = Tokio::current();
//! let listener = tokio.listen("127.0.0.1:0")?;
//! let address = listener.local_address()?.to_string();
//!
//! // An echo server in your program. Yours to keep: the table of connections, and a way to stop.
//! let options = serve::Options::default();
//! let (table, stop) = (options.table.clone(), options.stop.clone());
//! let server = tokio::spawn({
//!     let tokio = tokio.clone();
//!     async move {
//!         let echo = echo::Server::new(echo::Config::default());
//!         serve(&tokio, listener, &options, |_, now| echo.machine(now)).await
//!     }
//! });
//!
//! // A client, inline.
//! let client = echo::Client::new(echo::ClientConfig::default());
//! let mut drive = Drive::new(client, tokio.connect(&address).await?, tokio.clock());
//! drive.until(|client, now| client.say("hello".into(), now).then_some(())).await?;
//! assert_eq!(drive.until(|client, _| client.take_reply()).await?, "hello");
//!
//! assert_eq!(table.totals().open, 1);
//! drop(drive);
//! stop.drain(); // or when `tokio::signal::ctrl_c` says so
//! server.await?;
//! # Ok(())
//! # }
//! ```

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, lookup_host},
    runtime::Handle,
    time::{Instant as TokioInstant, Sleep, sleep_until},
};
pub use wirestate_core;
use wirestate_core::{
    Instant, Lost,
    admission::Peer,
    drive::{Clock, Failed, Sink, Source},
    runtime::{AcceptError, Listener, Runtime},
};
use wirestate_std::tcp;

/// The runtime: a handle on a tokio runtime whose IO and time drivers are enabled.
#[derive(Clone, Debug)]
pub struct Tokio {
    handle: Handle,
    epoch: TokioInstant,
}

impl Tokio {
    /// The runtime that `handle` belongs to, with the present as epoch.
    pub fn new(handle: Handle) -> Self {
        Self { handle, epoch: TokioInstant::now() }
    }

    /// The runtime that the caller runs on.
    ///
    /// # Panics
    /// If the caller does not run on one.
    pub fn current() -> Self {
        Self::new(Handle::current())
    }
}

impl Runtime for Tokio {
    type Socket = TokioSocket;
    type Listener = TokioListener;
    type Clock = TokioClock;

    fn clock(&self) -> TokioClock {
        TokioClock { epoch: self.epoch, alarm: None }
    }

    fn spawn<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        self.handle.spawn(task);
        Ok(())
    }

    fn listen(&self, address: &str) -> io::Result<TokioListener> {
        let _context = self.handle.enter();
        TcpListener::from_std(tcp::listen(address)?).map(TokioListener::new)
    }

    async fn connect(&self, address: &str) -> io::Result<TokioSocket> {
        let addresses = lookup_host(address).await?.collect();
        let stream = tcp::first_that_connects(addresses, TcpStream::connect).await?;
        tcp::tune(&stream)?;
        Ok(TokioSocket::new(stream))
    }

    fn local_address(&self, socket: &TokioSocket) -> Option<SocketAddr> {
        socket.stream.as_ref()?.local_addr().ok()
    }
}

/// A connected TCP socket.
#[derive(Debug)]
pub struct TokioSocket {
    /// Nothing once it was reset.
    stream: Option<TcpStream>,
}

impl TokioSocket {
    /// Takes over a stream, with the options that it has.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Some(stream) }
    }

    fn stream(&mut self) -> Result<Pin<&mut TcpStream>, Failed> {
        self.stream.as_mut().map(Pin::new).ok_or(Failed::Lost(Lost::Reset))
    }
}

impl Source for TokioSocket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, Failed>> {
        let mut buf = ReadBuf::new(buf);
        self.stream()?.poll_read(cx, &mut buf).map_ok(|()| buf.filled().len()).map_err(Failed::from)
    }
}

impl Sink for TokioSocket {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, Failed>> {
        let stream = self.stream()?;
        // One slice is the common case, and send(2) is cheaper than writev(2).
        let written = match bufs {
            [buf] => stream.poll_write(cx, buf),
            bufs => stream.poll_write_vectored(cx, &tcp::slices(bufs)),
        };
        written.map_err(Failed::from)
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(tcp::finish(&*self.stream()?).map_err(Failed::from))
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            tcp::reset_on_close(&stream);
        }
    }
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct TokioListener {
    listener: TcpListener,
}

impl TokioListener {
    /// Takes over a listener, with the options that it has; what it accepts inherits them.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener }
    }
}

impl Listener for TokioListener {
    type Socket = TokioSocket;

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(TokioSocket, Peer), AcceptError>> {
        self.listener
            .poll_accept(cx)
            .map_ok(|(stream, peer)| (TokioSocket::new(stream), Peer::Ip(peer)))
            .map_err(AcceptError::from)
    }
}

/// Tokio's clock, which can be paused in tests.
#[derive(Debug)]
pub struct TokioClock {
    epoch: TokioInstant,
    /// Made when it is first set.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant::from_epoch(self.epoch.elapsed())
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // A deadline beyond the system's time never comes.
        let Some(deadline) = self.epoch.checked_add(deadline.since_epoch()) else {
            return Poll::Pending;
        };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        alarm.as_mut().poll(cx)
    }
}
