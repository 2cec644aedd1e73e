//! Runs Wirestate's machines on tokio: one task per connection.
//!
//! ```no_run
//! use wirestate_tokio::{Runtime, Tokio, echo};
//!
//! # async fn example() -> std::io::Result<()> {
//! let server = Tokio::current().bind("127.0.0.1:65432").await?;
//! let echo = echo::Server::default();
//! server.serve(move |_, now| echo.machine(now)).await;
//! # Ok(())
//! # }
//! ```
//!
//! A server in the background, a client, and a shutdown:
//!
//! ```
//! use wirestate_tokio::{Runtime, Tokio, drive::Drive, echo};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tokio = Tokio::current();
//! let server = tokio.bind("127.0.0.1:0").await?;
//! let (address, handle) = (server.addresses()?[0].to_string(), server.handle());
//! let echo = echo::Server::default();
//! let serving = tokio::spawn(server.serve(move |_, now| echo.machine(now)));
//!
//! let client = echo::Client::new(echo::ClientConfig::default());
//! let mut drive = Drive::new(client, tokio.connect(&address).await?, tokio.clock());
//! drive.until(|client, now| client.send("hello".into(), now).then_some(())).await?;
//! assert_eq!(drive.until(|client, _| client.take_reply()).await?, "hello");
//! assert_eq!(handle.table().totals().open, 1);
//! drive.shut_down().await;
//!
//! handle.drain(); // for example when `tokio::signal::ctrl_c` is ready
//! let report = serving.await?;
//! assert_eq!(report.aborted, 0);
//! # Ok(())
//! # }
//! ```
//!
//! An async service with state, and one connection to it that tasks share (feature
//! `message`):
//!
//! ```
//! # #[cfg(feature = "message")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{collections::BTreeMap, time::Duration};
//! use wirestate_tokio::{Runtime, Tokio, message::{self, Message, service}};
//!
//! let tokio = Tokio::current();
//! let server = tokio.bind("127.0.0.1:0").await?;
//! let address = server.addresses()?[0].to_string();
//!
//! let colours = [(r#""grass""#, r#""green""#), (r#""sky""#, r#""blue""#)];
//! let colours = tokio::sync::RwLock::new(BTreeMap::from(colours)); // shared by all connections
//! let lookup = service::asynchronous(async move |request| {
//!     match request.text() {
//!         Ok(key) => Message::json(colours.read().await.get(&*key).copied().unwrap_or("null")),
//!         Err(error) => Message::error(error),
//!     }
//! });
//! let app = message::Server::with_default_config(lookup);
//! tokio::spawn(server.serve(move |_, now| app.machine(now)));
//!
//! let (timeout, config) = (Duration::from_secs(5), message::ClientConfig::default());
//! let handle = message::connect(&tokio, &address, Some(timeout), config).await?;
//! let send = |key| tokio::spawn(handle.request(Message::json(key)));
//! let (grass, sky) = (send(r#""grass""#), send(r#""sky""#));
//! assert_eq!(sky.await??.text()?, r#""blue""#);
//! assert_eq!(grass.await??.text()?, r#""green""#);
//! # Ok(())
//! # }
//! # #[cfg(feature = "message")]
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

#![forbid(unsafe_code)]

use std::{
    future::Future,
    io, mem,
    net::SocketAddr,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{Interest as TokioInterest, unix::AsyncFd},
    net::lookup_host,
    runtime::Handle,
    task::{coop::unconstrained, yield_now},
    time::{Instant as TokioInstant, Sleep, sleep_until},
};
pub use wirestate_core::{self, *};
use wirestate_core::{drive::Clock, runtime::Address};
use wirestate_sockets::{RegisteredFd, Socket, SocketListener, receive};
#[cfg(feature = "command-line")]
use {std::os::unix::net::UnixStream, wirestate_command_line::CommandRuntime};

/// The runtime: a handle of a tokio runtime. Its IO and time drivers must be enabled.
#[derive(Clone, Debug)]
pub struct Tokio {
    handle: Handle,
    epoch: TokioInstant,
}

impl Tokio {
    /// The runtime that `handle` belongs to. The time of its clocks starts now.
    pub fn new(handle: Handle) -> Self {
        Self { handle, epoch: TokioInstant::now() }
    }

    /// The tokio runtime that the caller runs on.
    ///
    /// # Panics
    /// If the caller does not run on a tokio runtime.
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
        TokioListener::bind(address)
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host(address).await?.collect())
    }

    async fn connect(&self, address: &str) -> io::Result<TokioSocket> {
        TokioSocket::connect(address, self.resolve(address)).await
    }

    fn local_address(&self, socket: &TokioSocket) -> Option<SocketAddr> {
        socket.local_address()
    }

    fn dialled_address(&self, socket: &TokioSocket) -> Option<Address> {
        socket.dialled_address()
    }
}

#[cfg(feature = "command-line")]
impl CommandRuntime for Tokio {
    fn listen_inherited(&self, socket: OwnedFd) -> io::Result<TokioListener> {
        let _context = self.handle.enter();
        TokioListener::inherited(socket)
    }

    fn adopt(&self, stream: UnixStream) -> io::Result<TokioSocket> {
        let _context = self.handle.enter();
        TokioSocket::new(stream)
    }
}

/// A connected socket, TCP or Unix.
pub type TokioSocket = Socket<TokioFd>;
/// A listening socket, TCP or Unix.
pub type TokioListener = SocketListener<TokioFd>;

/// A socket that is registered with tokio's IO driver.
#[derive(Debug)]
pub struct TokioFd {
    fd: AsyncFd<OwnedFd>,
    recheck: Recheck,
}

/// Whether the next call in each direction asks the kernel, regardless of the readiness that tokio
/// has stored.
#[derive(Clone, Copy, Debug)]
struct Recheck {
    read: bool,
    write: bool,
}

impl Recheck {
    const BOTH: Self = Self { read: true, write: true };
}

impl TokioFd {
    /// Makes the call if a recheck is pending in `direction`. `None` if no recheck is pending, or
    /// if the socket is not ready.
    fn recheck_now<T>(
        &mut self,
        direction: Direction,
        call: impl FnOnce(&OwnedFd) -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        let is_pending = match direction {
            Direction::Read => &mut self.recheck.read,
            Direction::Write => &mut self.recheck.write,
        };
        if !mem::take(is_pending) {
            return None;
        }
        let result = call(self.fd.get_ref());
        let is_ready = !matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        is_ready.then_some(result)
    }
}

impl RegisteredFd for TokioFd {
    #[expect(
        deprecated,
        reason = "unsound only for a type that closes or changes its descriptor, unlike OwnedFd"
    )]
    fn register(fd: OwnedFd) -> io::Result<Self> {
        let events = TokioInterest::READABLE | TokioInterest::WRITABLE | TokioInterest::PRIORITY;
        let fd = AsyncFd::with_interest(fd, events)?;
        // Tokio knows whether the socket is ready only after it has polled the sockets.
        Ok(Self { fd, recheck: Recheck::BOTH })
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
        if let Some(result) = self.recheck_now(direction, &mut call) {
            return Poll::Ready(result);
        }
        let interest = match direction {
            Direction::Read => TokioInterest::READABLE,
            Direction::Write => TokioInterest::WRITABLE,
        };
        loop {
            match self.fd.try_io(interest, &mut call) {
                // `try_io` has cleared tokio's readiness.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            let ready = match direction {
                Direction::Read => self.fd.poll_read_ready(cx),
                Direction::Write => self.fd.poll_write_ready(cx),
            };
            ready!(ready)?.retain_ready();
        }
    }

    #[inline] // into the driver, which is compiled in the user's crate
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(read) = self.recheck_now(Direction::Read, |socket| receive(socket, buf)) {
            return Poll::Ready(read);
        }
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            // A short read has emptied the socket. Its readiness is cleared, which saves the next
            // system call. But a read also ends at urgent data, which more bytes may follow
            // (tcp(7)).
            let may_be_urgent = self.fd.try_io(TokioInterest::PRIORITY, |_| Ok(())).is_ok();
            let read = if may_be_urgent {
                // If the read would block, this clears the priority readiness as well.
                self.fd.try_io(TokioInterest::PRIORITY, |socket| receive(socket, buf))
            } else {
                receive(&self.fd, buf)
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                read => {
                    let is_short = matches!(read, Ok(n) if 0 < n && n < buf.len());
                    if is_short && !may_be_urgent {
                        ready.clear_ready();
                    }
                    return Poll::Ready(read);
                }
            }
        }
    }

    fn recheck(&mut self) {
        self.recheck = Recheck::BOTH;
    }
}

/// Tokio's clock, which can be paused in tests.
#[derive(Debug)]
pub struct TokioClock {
    epoch: TokioInstant,
    /// The alarm. It is created when it is first set.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Clock for TokioClock {
    const PERSISTENT: bool = true;

    fn now(&self) -> Instant {
        Instant::from_epoch(self.epoch.elapsed())
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // `Instant::NEVER`, and a deadline that the system's time cannot represent, get no alarm:
        // tokio's paused time would advance to it.
        let at = self.epoch.checked_add(deadline.since_epoch());
        let Some(deadline) = at.filter(|_| deadline < Instant::NEVER) else {
            self.alarm = None;
            return Poll::Pending;
        };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        // Unconstrained: once the task's budget is used up, tokio would not set the alarm, and this
        // clock does not set it again.
        pin!(unconstrained(alarm)).poll(cx)
    }

    /// Wakes the task after tokio has polled the sockets. Tokio polls them once in 61 tasks
    /// (`event_interval`), so a task that is woken at once may run many times before that.
    fn yield_now(&mut self, cx: &mut Context<'_>) {
        if pin!(yield_now()).poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io::Write,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
        time::Duration,
    };

    use tokio::task::coop::{consume_budget, has_budget_remaining};
    use wirestate_core::drive::Source;

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
        assert!(clock.now().since(began) < patience / 2, "only the timeout has woken the task");
    }

    #[tokio::test]
    async fn a_deadline_of_never_sets_no_alarm() {
        let mut clock = Tokio::current().clock();
        let deadlines = [clock.now() + Duration::from_secs(3600), Instant::NEVER];
        poll_fn(|cx| {
            assert_eq!(
                deadlines.map(|deadline| clock.poll_until(cx, deadline)),
                [Poll::Pending; 2]
            );
            Poll::Ready(())
        })
        .await;
        assert!(clock.alarm.is_none());
    }

    /// A task that is woken at once runs about sixty times before tokio polls the sockets.
    #[tokio::test]
    async fn a_task_that_yields_runs_again_behind_those_whose_sockets_became_ready() {
        let (mut peer, stream) = UnixStream::pair().unwrap();
        let mut socket = TokioSocket::new(stream).unwrap();
        let waits = Arc::new(AtomicBool::new(false));
        let reading = tokio::spawn({
            let waits = waits.clone();
            async move {
                let reads = poll_fn(|cx| {
                    let read = socket.poll_read(cx, &mut [0]);
                    waits.store(read.is_pending(), Relaxed);
                    read
                });
                assert_eq!(reads.await, Ok(1));
            }
        });
        while !waits.load(Relaxed) {
            yield_now().await;
        }
        peer.write_all(b"!").unwrap();
        let (mut clock, mut polls) = (Tokio::current().clock(), 0);
        poll_fn(|cx| {
            polls += 1;
            if !waits.load(Relaxed) {
                return Poll::Ready(());
            }
            clock.yield_now(cx);
            Poll::Pending
        })
        .await;
        assert!(polls <= 3, "{polls} polls");
        reading.await.unwrap();
    }
}
