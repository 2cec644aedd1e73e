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

use std::{
    future::Future,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant as SystemInstant,
};

use smol::{Async, Executor, Timer, future::FutureExt, net::resolve};
pub use wirestate_core;
use wirestate_core::{
    Instant, Lost,
    admission::Peer,
    drive::{Clock, Failed, Sink, Source},
    runtime::{AcceptError, Listener, Runtime},
};
use wirestate_std::tcp;

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
        Async::new_nonblocking(tcp::listen(address)?).map(SmolListener::new)
    }

    async fn connect(&self, address: &str) -> io::Result<SmolSocket> {
        let addresses = resolve(address).await?;
        let stream = tcp::first_that_connects(addresses, Async::<TcpStream>::connect).await?;
        tcp::tune(&stream)?;
        Ok(SmolSocket::new(stream))
    }

    fn local_address(&self, socket: &SmolSocket) -> Option<SocketAddr> {
        socket.stream.as_ref()?.get_ref().local_addr().ok()
    }
}

/// A connected TCP socket.
#[derive(Debug)]
pub struct SmolSocket {
    /// Nothing once it was reset.
    stream: Option<Async<TcpStream>>,
    /// The last read found less than it had asked for, so the next one waits for readiness first.
    drained: bool,
}

impl SmolSocket {
    /// Takes over a stream, with the options that it has.
    pub fn new(stream: Async<TcpStream>) -> Self {
        Self { stream: Some(stream), drained: false }
    }

    fn stream(&self) -> Result<&Async<TcpStream>, Failed> {
        self.stream.as_ref().ok_or(Failed::Lost(Lost::Reset))
    }
}

impl Source for SmolSocket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, Failed>> {
        loop {
            if self.drained {
                ready!(self.stream()?.poll_readable(cx)).map_err(Failed::from)?;
            }
            match self.stream()?.get_ref().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.drained = true,
                read => {
                    self.drained = matches!(read, Ok(n) if 0 < n && n < buf.len());
                    return Poll::Ready(read.map_err(Failed::from));
                }
            }
        }
    }
}

impl Sink for SmolSocket {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, Failed>> {
        let stream = self.stream()?;
        loop {
            // One slice is the common case, and send(2) is cheaper than writev(2).
            let written = match bufs {
                [buf] => stream.get_ref().write(buf),
                bufs => stream.get_ref().write_vectored(&tcp::slices(bufs)),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_writable(cx)).map_err(Failed::from)?;
                }
                written => return Poll::Ready(written.map_err(Failed::from)),
            }
        }
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(tcp::finish(self.stream()?).map_err(Failed::from))
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            tcp::reset_on_close(&stream);
        }
    }
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct SmolListener {
    listener: Async<TcpListener>,
}

impl SmolListener {
    /// Takes over a listener, with the options that it has; what it accepts inherits them.
    pub fn new(listener: Async<TcpListener>) -> Self {
        Self { listener }
    }
}

impl Listener for SmolListener {
    type Socket = SmolSocket;

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.get_ref().local_addr()
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(SmolSocket, Peer), AcceptError>> {
        loop {
            match self.listener.get_ref().accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.listener.poll_readable(cx))?;
                }
                accepted => {
                    return Poll::Ready(
                        accepted
                            .and_then(|(stream, peer)| {
                                Ok((SmolSocket::new(Async::new(stream)?), Peer::Ip(peer)))
                            })
                            .map_err(AcceptError::from),
                    );
                }
            }
        }
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
