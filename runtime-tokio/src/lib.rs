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

#![forbid(unsafe_code)]

use std::{
    future::Future,
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host},
    runtime::Handle,
    task::coop::unconstrained,
    time::{Instant as TokioInstant, Sleep, sleep_until},
};
pub use wirestate_core;
use wirestate_core::{
    Instant, Lost, Way,
    admission::Peer,
    drive::{Clock, Failed, Sink, Source, Splice},
    runtime::{AcceptError, Address, Listener, Runtime, unix_path},
};
use wirestate_std::{Listening, Origin, pipe::Pipe, stream, tcp, unix};

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
        TokioListener::new(Listening::new(address)?)
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host(address).await?.collect())
    }

    fn listen_inherited(&self, socket: OwnedFd) -> io::Result<TokioListener> {
        let _context = self.handle.enter();
        TokioListener::new(Listening::inherited(socket)?)
    }

    fn adopt(&self, stream: std::os::unix::net::UnixStream) -> io::Result<TokioSocket> {
        let _context = self.handle.enter();
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream).map(TokioSocket::from)
    }

    async fn connect(&self, address: &str) -> io::Result<TokioSocket> {
        if let Some(path) = unix_path(address) {
            return UnixStream::from_std(unix::connect(path)?.into()).map(TokioSocket::from);
        }
        let addresses = self.resolve(address).await?;
        let stream = tcp::first_that_connects(addresses, TcpStream::connect).await?;
        tcp::tune(&stream)?;
        Ok(TokioSocket::new(stream))
    }

    fn local_address(&self, socket: &TokioSocket) -> Option<SocketAddr> {
        match &socket.stream {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) | Stream::Closed => None,
        }
    }

    fn dialled_address(&self, socket: &TokioSocket) -> Option<Address> {
        match &socket.stream {
            Stream::Tcp(tcp) => stream::dialled_address(tcp),
            Stream::Unix(unix) => stream::dialled_address(unix),
            Stream::Closed => None,
        }
    }
}

/// A connected socket, TCP or Unix.
#[derive(Debug)]
pub struct TokioSocket {
    stream: Stream,
    look_again: LookAgain,
}

/// Which of the next calls asks the kernel, whatever tokio knows of the socket's readiness.
#[derive(Clone, Copy, Debug, Default)]
struct LookAgain {
    read: bool,
    write: bool,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// It was reset.
    Closed,
}

impl TokioSocket {
    /// Takes over a stream, with the options that it has.
    pub fn new(stream: impl Into<Self>) -> Self {
        stream.into()
    }

    /// Makes a call that does not block, and again whenever tokio takes the socket for ready.
    fn poll_io<T>(
        &mut self,
        cx: &mut Context<'_>,
        way: Way,
        call: impl Fn(&BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<Result<T, Failed>> {
        if let Some(done) = self.ask(way, &call) {
            return Poll::Ready(done);
        }
        let interest = match way {
            Way::In => Interest::READABLE,
            Way::Out => Interest::WRITABLE,
        };
        loop {
            let done = match &self.stream {
                Stream::Tcp(stream) => stream.try_io(interest, || call(&stream.as_fd())),
                Stream::Unix(stream) => stream.try_io(interest, || call(&stream.as_fd())),
                Stream::Closed => return Poll::Ready(Err(CLOSED)),
            };
            match done {
                // It is not ready, which tokio knows from now on.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done.map_err(Failed::from)),
            }
            let ready = match (&self.stream, way) {
                (Stream::Tcp(stream), Way::In) => stream.poll_read_ready(cx),
                (Stream::Tcp(stream), Way::Out) => stream.poll_write_ready(cx),
                (Stream::Unix(stream), Way::In) => stream.poll_read_ready(cx),
                (Stream::Unix(stream), Way::Out) => stream.poll_write_ready(cx),
                (Stream::Closed, _) => return Poll::Ready(Err(CLOSED)),
            };
            ready!(ready).map_err(Failed::from)?;
        }
    }

    /// What a call comes to that was to be made whether tokio takes the socket for ready or not; `None` where
    /// it was not, or the socket is not ready.
    fn ask<T>(
        &mut self,
        way: Way,
        call: impl FnOnce(&BorrowedFd<'_>) -> io::Result<T>,
    ) -> Option<Result<T, Failed>> {
        let asked = match way {
            Way::In => &mut self.look_again.read,
            Way::Out => &mut self.look_again.write,
        };
        if !mem::take(asked) {
            return None;
        }
        let done = match &self.stream {
            Stream::Tcp(stream) => call(&stream.as_fd()),
            Stream::Unix(stream) => call(&stream.as_fd()),
            Stream::Closed => return None,
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            done => Some(done.map_err(Failed::from)),
        }
    }
}

impl From<TcpStream> for TokioSocket {
    fn from(stream: TcpStream) -> Self {
        Self { stream: Stream::Tcp(stream), look_again: LookAgain::default() }
    }
}

impl From<UnixStream> for TokioSocket {
    fn from(stream: UnixStream) -> Self {
        Self { stream: Stream::Unix(stream), look_again: LookAgain::default() }
    }
}

const CLOSED: Failed = Failed::Lost(Lost::Reset);

impl Source for TokioSocket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, Failed>> {
        if let Some(read) = self.ask(Way::In, |stream| stream::receive(stream, buf)) {
            return Poll::Ready(read);
        }
        let mut buf = ReadBuf::new(buf);
        let read = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            Stream::Closed => return Poll::Ready(Err(CLOSED)),
        };
        read.map_ok(|()| buf.filled().len()).map_err(Failed::from)
    }

    fn look_again(&mut self) {
        self.look_again = LookAgain { read: true, write: true };
    }
}

impl Sink for TokioSocket {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, Failed>> {
        self.poll_io(cx, Way::Out, |stream| stream::send(stream, bufs))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        let finished = match &self.stream {
            Stream::Tcp(stream) => stream::finish(stream),
            Stream::Unix(stream) => stream::finish(stream),
            Stream::Closed => return Poll::Ready(Err(CLOSED)),
        };
        Poll::Ready(finished.map_err(Failed::from))
    }

    fn reset(&mut self) {
        if let Stream::Tcp(stream) = &self.stream {
            stream::reset_on_close(stream);
        }
        self.stream = Stream::Closed;
    }

    fn unacknowledged(&self) -> usize {
        match &self.stream {
            Stream::Tcp(stream) => stream::unacknowledged(stream),
            Stream::Unix(_) | Stream::Closed => 0,
        }
    }
}

impl Splice for TokioSocket {
    type Pipe = Pipe;

    fn pipe() -> Option<Pipe> {
        Pipe::new()
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<Result<Option<usize>, Failed>> {
        self.poll_io(cx, Way::In, |stream| pipe.fill(stream, most))
    }

    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        held: usize,
    ) -> Poll<Result<usize, Failed>> {
        self.poll_io(cx, Way::Out, |stream| pipe.drain(stream, held))
    }
}

/// A listening socket, TCP or Unix.
#[derive(Debug)]
pub struct TokioListener {
    // Dropped before the socket.
    origin: Origin,
    socket: Accepting,
    is_shut_down: bool,
}

#[derive(Debug)]
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl TokioListener {
    /// Takes over a socket that listens; what it accepts inherits its options.
    ///
    /// # Errors
    /// The IO driver does not take it.
    ///
    /// # Panics
    /// If the caller does not run on a runtime whose IO driver is enabled.
    pub fn new(listening: Listening) -> io::Result<Self> {
        let (origin, socket) = listening.into_parts();
        let socket = match origin.address() {
            Address::Ip(_) => Accepting::Tcp(TcpListener::from_std(socket.into())?),
            Address::Unix(_) => Accepting::Unix(UnixListener::from_std(socket.into())?),
        };
        Ok(Self { origin, socket, is_shut_down: false })
    }

    /// Asks the kernel, whatever tokio knows of the socket's readiness.
    fn accept(&self) -> io::Result<(TokioSocket, Peer)> {
        let (stream, peer) = self.origin.accept(&self.socket)?;
        let socket = match &self.socket {
            Accepting::Tcp(_) => TcpStream::from_std(stream.into())?.into(),
            Accepting::Unix(_) => UnixStream::from_std(stream.into())?.into(),
        };
        Ok((socket, peer))
    }
}

impl AsFd for Accepting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Listener for TokioListener {
    type Socket = TokioSocket;

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.origin.address().clone())
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(TokioSocket, Peer), AcceptError>> {
        if self.is_shut_down {
            match self.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => return Poll::Ready(accepted.map_err(AcceptError::from)),
            }
        }
        let accepted = match &self.socket {
            Accepting::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, peer)| (TokioSocket::from(stream), Peer::Ip(peer))),
            Accepting::Unix(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, _)| (TokioSocket::from(stream), Peer::Local)),
        };
        accepted.map_err(AcceptError::from)
    }

    fn shut_down(&mut self) {
        self.origin.shut_down(&self.socket);
        self.is_shut_down = true;
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
    const STAYS: bool = true;

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
        // With tokio's budget for a task used up it would not be set, and it is not set again.
        pin!(unconstrained(alarm)).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::task::coop::{consume_budget, has_budget_remaining};

    use super::*;

    #[tokio::test]
    async fn an_alarm_is_set_although_the_budget_of_the_task_is_used_up() {
        let mut clock = Tokio::current().clock();
        let began = clock.now();
        let deadline = began + Duration::from_millis(20);
        let mut is_set = false;
        let woken = poll_fn(|cx| {
            if !is_set {
                while has_budget_remaining() {
                    let _ = pin!(consume_budget()).poll(cx);
                }
                is_set = clock.poll_until(cx, deadline).is_pending();
            }
            if clock.now() >= deadline { Poll::Ready(()) } else { Poll::Pending }
        });
        let patience = Duration::from_secs(10);
        tokio::time::timeout(patience, woken).await.unwrap();
        assert!(clock.now().since(began) < patience / 2, "only the timeout has woken it");
    }
}
