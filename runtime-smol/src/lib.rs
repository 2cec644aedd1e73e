//! Runs Wirestate's machines on smol: one task per connection.
//!
//! ```
//! use std::sync::Arc;
//! use wirestate_core::{drive::Drive, echo, runtime::{Listener, Runtime}, serve::{self, serve}};
//! use wirestate_smol::Smol;
//!
//! let executor = Arc::new(smol::Executor::new());
//! let smol = Smol::new(executor.clone());
//! smol::block_on(executor.run(async {
//!     let listener = smol.listen("127.0.0.1:0")?;
//!     let address = listener.local_address()?.to_string();
//!
//!     // An echo server in your program. Yours to keep: the table of connections, and a way to stop.
//!     let options = serve::Options::default();
//!     let (table, stop) = (options.table.clone(), options.stop.clone());
//!     let server = executor.spawn({
//!         let smol = smol.clone();
//!         async move {
//!             let echo = echo::Server::new(echo::Config::default());
//!             serve(&smol, listener, &options, |_, now| echo.machine(now)).await
//!         }
//!     });
//!
//!     // A client, inline.
//!     let client = echo::Client::new(echo::ClientConfig::default());
//!     let mut drive = Drive::new(client, smol.connect(&address).await?, smol.clock());
//!     drive.until(|client, now| client.say("hello".into(), now).then_some(())).await?;
//!     assert_eq!(drive.until(|client, _| client.take_reply()).await?, "hello");
//!
//!     assert_eq!(table.totals().open, 1);
//!     drop(drive);
//!     stop.drain();
//!     server.await;
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! }))
//! # .unwrap();
//! ```
//!
//! A service that takes its time, and one connection to it that tasks share:
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use wirestate_core::{message::{self, Message, service}, runtime::{Listener, Runtime}, serve::{self, serve}};
//! use wirestate_smol::Smol;
//!
//! let executor = Arc::new(smol::Executor::new());
//! let smol = Smol::new(executor.clone());
//! smol::block_on(executor.run(async {
//!     let listener = smol.listen("127.0.0.1:0")?;
//!     let address = listener.local_address()?.to_string();
//!
//!     let slowly = service::asynchronous(async |request: Message<'static>| {
//!         smol::Timer::after(Duration::from_millis(5)).await;
//!         request
//!     });
//!     let server = message::Server::new(message::Config::default(), slowly);
//!     let runtime = smol.clone();
//!     let serving = executor.spawn(async move {
//!         let options = serve::Options::default();
//!         serve(&runtime, listener, &options, |_, now| server.machine(now)).await
//!     });
//!
//!     let timeout = Some(Duration::from_secs(5));
//!     let config = message::ClientConfig::default();
//!     let handle = message::connect(&smol, &address, timeout, config).await?;
//!     let ask = |text: &'static str| executor.spawn(handle.request(Message::binary(text)));
//!     let (one, two) = (ask("one"), ask("two")); // both are on their way
//!     assert_eq!(&*two.await?.content, b"two");
//!     assert_eq!(&*one.await?.content, b"one");
//!     drop(serving);
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! }))
//! # .unwrap();
//! ```

#![forbid(unsafe_code)]

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant as SystemInstant,
};

use smol::{Async, Executor, Timer, future::FutureExt, net::resolve};
pub use wirestate_core;
use wirestate_core::{
    ConnectionError, Instant,
    admission::Peer,
    drive::{Clock, IoError, Sink, Source, Splice},
    runtime::{AcceptError, Address, Listener, Runtime, unix_path},
};
use wirestate_std::{Listening, pipe::Pipe, stream, tcp, unix};
#[cfg(feature = "command-line")]
use {std::os::unix::net::UnixStream, wirestate_core::command_line::Host};

/// The runtime: an executor, and async-io's reactor.
#[derive(Clone, Debug)]
pub struct Smol {
    executor: Arc<Executor<'static>>,
    epoch: SystemInstant,
}

impl Smol {
    /// A runtime that spawns on `executor`, with the present as epoch.
    pub fn new(executor: Arc<Executor<'static>>) -> Self {
        Self { executor, epoch: SystemInstant::now() }
    }
}

impl Runtime for Smol {
    type Socket = SmolSocket;
    type Listener = SmolListener;
    type Clock = SmolClock;

    fn clock(&self) -> SmolClock {
        SmolClock { epoch: self.epoch, alarm: None }
    }

    fn spawn<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        // The executor would hand a panic on to the thread that runs it, and all its tasks.
        self.executor.spawn(AssertUnwindSafe(task).catch_unwind()).detach();
        Ok(())
    }

    fn listen(&self, address: &str) -> io::Result<SmolListener> {
        SmolListener::new(Listening::new(address)?)
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        resolve(address).await
    }

    async fn connect(&self, address: &str) -> io::Result<SmolSocket> {
        if let Some(path) = unix_path(address) {
            return SmolSocket::nonblocking(unix::connect(path)?);
        }
        let stream = tcp::first_that_connects(self.resolve(address).await?, connect).await?;
        Ok(SmolSocket { stream: Some(stream), drained: false })
    }

    fn local_address(&self, socket: &SmolSocket) -> Option<SocketAddr> {
        stream::local_address(socket.stream.as_ref()?)
    }

    fn dialled_address(&self, socket: &SmolSocket) -> Option<Address> {
        stream::dialled_address(socket.stream.as_ref()?)
    }
}

#[cfg(feature = "command-line")]
impl Host for Smol {
    fn listen_inherited(&self, socket: OwnedFd) -> io::Result<SmolListener> {
        SmolListener::new(Listening::inherited(socket)?)
    }

    fn adopt(&self, stream: UnixStream) -> io::Result<SmolSocket> {
        SmolSocket::new(stream)
    }
}

async fn connect(address: SocketAddr) -> io::Result<Async<OwnedFd>> {
    let stream = Async::new_nonblocking(tcp::begin_connect(address)?)?;
    stream.writable().await?;
    stream::connected(&stream)?;
    Ok(stream)
}

/// A connected socket, TCP or Unix.
#[derive(Debug)]
pub struct SmolSocket {
    /// Nothing once it was reset.
    stream: Option<Async<OwnedFd>>,
    /// The last read found less than it had asked for, so the next one waits for readiness first.
    drained: bool,
}

impl SmolSocket {
    /// Takes over a stream (`TcpStream`, `UnixStream`), with the options that it has.
    ///
    /// # Errors
    /// Its mode could not be set, or the reactor does not take it.
    pub fn new(stream: impl Into<OwnedFd>) -> io::Result<Self> {
        Ok(Self { stream: Some(Async::new(stream.into())?), drained: false })
    }

    /// The same, for one that does not block.
    fn nonblocking(stream: OwnedFd) -> io::Result<Self> {
        Ok(Self { stream: Some(Async::new_nonblocking(stream)?), drained: false })
    }

    fn stream(&self) -> Result<&Async<OwnedFd>, IoError> {
        self.stream.as_ref().ok_or(IoError::Connection(ConnectionError::Reset))
    }
}

impl Source for SmolSocket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        loop {
            if self.drained {
                ready!(self.stream()?.poll_readable(cx)).map_err(IoError::from)?;
            }
            match stream::receive(self.stream()?, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.drained = true,
                read => {
                    self.drained = matches!(read, Ok(n) if 0 < n && n < buf.len());
                    return Poll::Ready(read.map_err(IoError::from));
                }
            }
        }
    }

    fn recheck(&mut self) {
        self.drained = false;
    }
}

impl Sink for SmolSocket {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        let stream = self.stream()?;
        loop {
            match stream::send(stream, bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_writable(cx)).map_err(IoError::from)?;
                }
                written => return Poll::Ready(written.map_err(IoError::from)),
            }
        }
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Poll::Ready(stream::finish(self.stream()?).map_err(IoError::from))
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream::reset_on_close(&stream);
        }
    }

    fn unacknowledged(&self) -> usize {
        self.stream.as_ref().map_or(0, stream::unacknowledged)
    }
}

impl Splice for SmolSocket {
    type Pipe = Pipe;

    fn pipe() -> Option<Pipe> {
        Pipe::new()
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<Result<Option<usize>, IoError>> {
        loop {
            match pipe.fill(self.stream()?, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream()?.poll_readable(cx)).map_err(IoError::from)?;
                }
                filled => return Poll::Ready(filled.map_err(IoError::from)),
            }
        }
    }

    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        held: usize,
    ) -> Poll<Result<usize, IoError>> {
        loop {
            match pipe.drain(self.stream()?, held) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream()?.poll_writable(cx)).map_err(IoError::from)?;
                }
                drained => return Poll::Ready(drained.map_err(IoError::from)),
            }
        }
    }
}

/// A listening socket, TCP or Unix.
#[derive(Debug)]
pub struct SmolListener {
    listening: Async<Listening>,
}

impl SmolListener {
    /// Takes over a socket that listens; what it accepts inherits its options.
    ///
    /// # Errors
    /// The reactor does not take it.
    pub fn new(listening: Listening) -> io::Result<Self> {
        Ok(Self { listening: Async::new_nonblocking(listening)? })
    }
}

impl Listener for SmolListener {
    type Socket = SmolSocket;

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.listening.get_ref().address().clone())
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(SmolSocket, Peer), AcceptError>> {
        loop {
            match self.listening.get_ref().accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.listening.get_ref().awaits_more() {
                        return Poll::Pending;
                    }
                    ready!(self.listening.poll_readable(cx))?;
                }
                accepted => {
                    let accepted = accepted
                        .and_then(|(stream, peer)| Ok((SmolSocket::nonblocking(stream)?, peer)));
                    return Poll::Ready(accepted.map_err(AcceptError::from));
                }
            }
        }
    }

    fn shut_down(&mut self) {
        self.listening.get_ref().shut_down();
    }
}

/// The system's monotonic clock, with an alarm of async-io's.
#[derive(Debug)]
pub struct SmolClock {
    epoch: SystemInstant,
    /// What the alarm is set for, and the alarm; made when it is first set.
    alarm: Option<(Instant, Timer)>,
}

impl Clock for SmolClock {
    const PERSISTENT: bool = true;

    fn now(&self) -> Instant {
        Instant::from_epoch(self.epoch.elapsed())
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // A deadline beyond the system's time never comes.
        let Some(at) = self.epoch.checked_add(deadline.since_epoch()) else {
            return Poll::Pending;
        };
        let (set_for, alarm) = self.alarm.get_or_insert_with(|| (deadline, Timer::at(at)));
        if *set_for != deadline {
            *set_for = deadline;
            alarm.set_at(at);
        }
        ready!(Pin::new(alarm).poll(cx));
        self.alarm = None;
        Poll::Ready(())
    }
}
