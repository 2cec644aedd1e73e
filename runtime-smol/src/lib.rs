//! Runs Wirestate's machines on smol: one task per connection.
//!
//! ```no_run
//! use std::sync::Arc;
//! use wirestate_smol::{Runtime, Smol, echo};
//!
//! let executor = Arc::new(smol::Executor::new());
//! smol::block_on(executor.run(async {
//!     let server = Smol::new(executor.clone()).bind("127.0.0.1:65432").await?;
//!     let echo = echo::Server::default();
//!     server.serve(move |_, now| echo.machine(now)).await;
//! #   Ok::<_, std::io::Error>(())
//! }))
//! # .unwrap();
//! ```
//!
//! A server in the background, a client, and a shutdown:
//!
//! ```
//! use std::sync::Arc;
//! use wirestate_smol::{Runtime, Smol, drive::Drive, echo};
//!
//! let executor = Arc::new(smol::Executor::new());
//! let smol = Smol::new(executor.clone());
//! smol::block_on(executor.run(async {
//!     let server = smol.bind("127.0.0.1:0").await?;
//!     let (address, handle) = (server.addresses()?[0].to_string(), server.handle());
//!     let echo = echo::Server::default();
//!     let serving = executor.spawn(server.serve(move |_, now| echo.machine(now)));
//!
//!     let client = echo::Client::new(echo::ClientConfig::default());
//!     let mut drive = Drive::new(client, smol.connect(&address).await?, smol.clock());
//!     drive.until(|client, now| client.send("hello".into(), now).then_some(())).await?;
//!     assert_eq!(drive.until(|client, _| client.take_reply()).await?, "hello");
//!     assert_eq!(handle.table().totals().open, 1);
//!     drive.shut_down().await;
//!
//!     handle.drain();
//!     assert_eq!(serving.await.aborted, 0);
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! }))
//! # .unwrap();
//! ```
//!
//! An async service, and one connection to it that tasks share (feature `message`):
//!
//! ```
//! # #[cfg(feature = "message")] {
//! use std::{sync::Arc, time::Duration};
//! use wirestate_smol::{Runtime, Smol, message::{self, Message, service}};
//!
//! let executor = Arc::new(smol::Executor::new());
//! let smol = Smol::new(executor.clone());
//! smol::block_on(executor.run(async {
//!     let server = smol.bind("127.0.0.1:0").await?;
//!     let address = server.addresses()?[0].to_string();
//!
//!     let pause = Duration::from_millis(5);
//!     let slow_echo = service::asynchronous(async move |request: service::Request| {
//!         smol::Timer::after(pause).await;
//!         request.into_message()
//!     });
//!     let app = message::Server::with_default_config(slow_echo);
//!     let serving = executor.spawn(server.serve(move |_, now| app.machine(now)));
//!
//!     let (timeout, config) = (Duration::from_secs(5), message::ClientConfig::default());
//!     let handle = message::connect(&smol, &address, Some(timeout), config).await?;
//!     let send = |text: &'static str| executor.spawn(handle.request(Message::binary(text)));
//!     let (one, two) = (send("one"), send("two"));
//!     assert_eq!(&*two.await?.content, b"two");
//!     assert_eq!(&*one.await?.content, b"one");
//!     drop(serving);
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! }))
//! # .unwrap();
//! # }
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
pub use wirestate_core::{self, *};
use wirestate_core::{drive::Clock, runtime::Address};
use wirestate_sockets::{RegisteredFd, Socket, SocketListener, receive};
#[cfg(feature = "command-line")]
use {std::os::unix::net::UnixStream, wirestate_command_line::CommandRuntime};

/// The runtime: a smol executor, and async-io's reactor.
#[derive(Clone, Debug)]
pub struct Smol {
    executor: Arc<Executor<'static>>,
    epoch: SystemInstant,
}

impl Smol {
    /// A runtime that spawns tasks on `executor`. The time of its clocks starts now.
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
        // Otherwise a panic would reach the thread that runs the executor, and end all tasks.
        self.executor.spawn(AssertUnwindSafe(task).catch_unwind()).detach();
        Ok(())
    }

    fn listen(&self, address: &str) -> io::Result<SmolListener> {
        SmolListener::bind(address)
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        resolve(address).await
    }

    async fn connect(&self, address: &str) -> io::Result<SmolSocket> {
        SmolSocket::connect(address, self.resolve(address)).await
    }

    fn local_address(&self, socket: &SmolSocket) -> Option<SocketAddr> {
        socket.local_address()
    }

    fn dialled_address(&self, socket: &SmolSocket) -> Option<Address> {
        socket.dialled_address()
    }
}

#[cfg(feature = "command-line")]
impl CommandRuntime for Smol {
    fn listen_inherited(&self, socket: OwnedFd) -> io::Result<SmolListener> {
        SmolListener::inherited(socket)
    }

    fn adopt(&self, stream: UnixStream) -> io::Result<SmolSocket> {
        SmolSocket::new(stream)
    }
}

/// A connected socket, TCP or Unix.
pub type SmolSocket = Socket<SmolFd>;
/// A listening socket, TCP or Unix.
pub type SmolListener = SocketListener<SmolFd>;

/// A socket that is registered with async-io's reactor.
#[derive(Debug)]
pub struct SmolFd {
    fd: Async<OwnedFd>,
    /// The last read has emptied the socket, so the next read waits for readiness first.
    is_drained: bool,
}

impl RegisteredFd for SmolFd {
    fn register(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: Async::new_nonblocking(fd)?, is_drained: false })
    }

    fn get_ref(&self) -> &OwnedFd {
        self.fd.get_ref()
    }

    fn poll_io<T>(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        mut call: impl FnMut(&OwnedFd) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match call(self.fd.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            ready!(match direction {
                Direction::Read => self.fd.poll_readable(cx),
                Direction::Write => self.fd.poll_writable(cx),
            })?;
        }
    }

    #[inline] // into the driver, which is compiled in the user's crate
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.is_drained {
                ready!(self.fd.poll_readable(cx))?;
            }
            match receive(&self.fd, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_drained = true,
                read => {
                    self.is_drained = matches!(read, Ok(n) if 0 < n && n < buf.len());
                    return Poll::Ready(read);
                }
            }
        }
    }

    fn recheck(&mut self) {
        self.is_drained = false;
    }
}

/// The system's monotonic clock, with an alarm of async-io.
#[derive(Debug)]
pub struct SmolClock {
    epoch: SystemInstant,
    /// The alarm and its deadline. It is created when it is first set.
    alarm: Option<(Instant, Timer)>,
}

impl Clock for SmolClock {
    const PERSISTENT: bool = true;

    fn now(&self) -> Instant {
        Instant::from_epoch(self.epoch.elapsed())
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // A deadline that the system's time cannot represent is never reached.
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
