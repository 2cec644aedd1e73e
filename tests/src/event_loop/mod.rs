//! Scenes that an event loop of your own must pass, on real sockets.
//!
//! Implement [`EventLoop`] for your loop, and call [`check`] in a test. It plays each [`Scene`]:
//! the loop serves an echo, requests or a fan-out on 127.0.0.1, to clients on other threads. A
//! scene fails if a byte is wrong or missing, if nothing happens for 20 s, or if the loop
//! is busy while it has nothing to do. The panic names the scene and says what to look at.
//!
//! This loop has no wakers: it polls every connection every millisecond.
//!
//! ```no_run
//! use std::{
//!     io::{self, ErrorKind, Read, Write},
//!     net::{Shutdown, SocketAddr, TcpListener, TcpStream},
//!     task::{Context, Poll, Waker},
//!     thread,
//!     time::{Duration, Instant as SystemInstant},
//! };
//! use wirestate_core::{
//!     Instant,
//!     drive::{IoError, Next, Seat, Sink, Source},
//!     shutdown::{self, ShutdownHandle},
//! };
//! use wirestate_testkit::event_loop::{self, EventLoop, Factory, Protocol};
//!
//! struct Socket(TcpStream);
//!
//! fn ready<T>(result: io::Result<T>) -> Poll<Result<T, IoError>> {
//!     match result {
//!         Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
//!         result => Poll::Ready(result.map_err(IoError::from)),
//!     }
//! }
//!
//! impl Source for Socket {
//!     fn poll_read(
//!         &mut self, _: &mut Context<'_>, buf: &mut [u8],
//!     ) -> Poll<Result<usize, IoError>> {
//!         ready(self.0.read(buf))
//!     }
//! }
//!
//! impl Sink for Socket {
//!     fn poll_write(
//!         &mut self, _: &mut Context<'_>, bufs: &[&[u8]],
//!     ) -> Poll<Result<usize, IoError>> {
//!         ready(self.0.write(bufs[0]))
//!     }
//!     fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
//!         ready(self.0.shutdown(Shutdown::Write))
//!     }
//!     fn reset(&mut self) { /* SO_LINGER of 0, with the library of your choice */ }
//! }
//!
//! struct Scanning {
//!     listeners: Vec<(TcpListener, Factory)>,
//!     connections: Vec<Seat<Protocol, Socket>>,
//! }
//!
//! impl EventLoop for Scanning {
//!     fn new() -> io::Result<Self> {
//!         Ok(Self { listeners: Vec::new(), connections: Vec::new() })
//!     }
//!
//!     fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
//!         let listener = TcpListener::bind("127.0.0.1:0")?;
//!         listener.set_nonblocking(true)?;
//!         let address = listener.local_addr()?;
//!         self.listeners.push((listener, machine));
//!         Ok(address)
//!     }
//!
//!     fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
//!         let (start, mut cx) = (SystemInstant::now(), Context::from_waker(Waker::noop()));
//!         while !self.listeners.is_empty() || !self.connections.is_empty() {
//!             let now = Instant::from_epoch(start.elapsed());
//!             let is_requested = shutdown.requested() > shutdown::Shutdown::None;
//!             for (listener, machine) in &mut self.listeners {
//!                 while let Ok((stream, _)) = listener.accept() {
//!                     stream.set_nonblocking(true)?;
//!                     self.connections.push(Seat::new(machine(now), Socket(stream)));
//!                 }
//!             }
//!             if is_requested && !self.listeners.is_empty() {
//!                 self.listeners.clear(); // after the backlog was accepted
//!                 self.connections.iter_mut().for_each(|seat| seat.shut_down(now));
//!             }
//!             let mut again = false;
//!             self.connections.retain_mut(|seat| {
//!                 let next = seat.poll(now, &mut cx);
//!                 again |= next == Next::Again;
//!                 !matches!(next, Next::Done(_))
//!             });
//!             if !again {
//!                 thread::sleep(Duration::from_millis(1));
//!             }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! event_loop::check::<Scanning>();
//! ```

mod observed;
mod scenes;
mod server;

use std::{io, net::SocketAddr};

use wirestate_core::{AnyReason, Instant, Machine, shutdown::ShutdownHandle};

/// A machine of any protocol.
pub type Protocol = Box<dyn Machine<Reason = AnyReason>>;

/// Makes the machine of a new connection.
pub type Factory = Box<dyn FnMut(Instant) -> Protocol + Send>;

/// An event loop under test.
///
/// A scene makes the loop on a thread of its own, and calls [`listen`](Self::listen) once or twice,
/// then [`run`](Self::run).
pub trait EventLoop: Sized {
    /// Makes the loop.
    ///
    /// # Errors
    /// The loop cannot be made; the scene fails.
    fn new() -> io::Result<Self>;

    /// Listens on a free port of 127.0.0.1, and calls `machine` for each connection.
    ///
    /// # Errors
    /// Listening failed; the scene fails.
    fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr>;

    /// Serves until a shutdown is requested and the last connection has ended.
    ///
    /// After the request, the loop accepts what is in the backlog, closes its listeners, and shuts
    /// its connections down, by
    /// [`Seat::shut_down`](wirestate_core::drive::Seat::shut_down) or
    /// [`ConnectionTable::shut_down`](wirestate_core::admission::ConnectionTable::shut_down).
    ///
    /// # Errors
    /// The loop has failed; the scene fails.
    fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()>;
}

/// Plays all scenes, each with a loop of its own. Those in which a loop must not be busy come last,
/// and the others at the same time. It takes about two seconds.
///
/// # Panics
/// If a scene fails: see [`Scene::play`].
pub fn check<L: EventLoop>() {
    let (waits, others): (Vec<_>, Vec<_>) = Scene::ALL.into_iter().partition(|scene| {
        matches!(scene, Scene::ResetDuringRequest | Scene::ShutdownDuringRequest)
    });
    for scenes in [others, waits] {
        server::concurrently(scenes.len(), |index| scenes[index].play::<L>());
    }
}

/// A scene: what a loop serves, and what its clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// A hundred clients at once send to an echo in pieces of 1 to 97 bytes.
    EchoInPieces,
    /// A client sends 8 MiB to an echo and half-closes. It begins to read when the loop's writes
    /// block.
    HalfClose,
    /// Requests in pieces of 1 to 97 bytes are answered by another thread.
    RepliesFromAnotherThread,
    /// Twenty subscribers get what another connection and another thread publish.
    FanOut,
    /// Connections are reset while they send and receive; one that is healthy goes on.
    Resets,
    /// One client sends to an echo without pause, and another one is served at the same time.
    FloodBesideAnother,
    /// A subscriber that sends without pause and reads nothing is reset at its write deadline.
    FloodPastDeadline,
    /// A subscriber that reads nothing is reset at its write deadline, not closed by a FIN.
    ResetAtDeadline,
    /// A connection that does nothing is closed at its idle deadline.
    IdleDeadline,
    /// A client resets its connection while its request is in progress, for 500 ms.
    ResetDuringRequest,
    /// The loop is shut down while a request is in progress, for 500 ms.
    ShutdownDuringRequest,
    /// The loop is shut down while ten connections are idle: each gets a FIN, and may still send.
    ShutdownWhileIdle,
    /// The loop is shut down while connections are in its backlog: they are served first.
    BacklogAtShutdown,
}

impl Scene {
    /// All scenes.
    pub const ALL: [Self; 13] = [
        Self::EchoInPieces,
        Self::HalfClose,
        Self::RepliesFromAnotherThread,
        Self::FanOut,
        Self::Resets,
        Self::FloodBesideAnother,
        Self::FloodPastDeadline,
        Self::ResetAtDeadline,
        Self::IdleDeadline,
        Self::ResetDuringRequest,
        Self::ShutdownDuringRequest,
        Self::ShutdownWhileIdle,
        Self::BacklogAtShutdown,
    ];

    /// Plays the scene with a new loop.
    ///
    /// # Panics
    /// If the loop fails, panics, or does not end, or if a client does not get what it must.
    pub fn play<L: EventLoop>(self) {
        match self {
            Self::EchoInPieces => scenes::echo_in_pieces::<L>(self),
            Self::HalfClose => scenes::half_close::<L>(self),
            Self::RepliesFromAnotherThread => scenes::replies_from_another_thread::<L>(self),
            Self::FanOut => scenes::fan_out::<L>(self),
            Self::Resets => scenes::resets::<L>(self),
            Self::FloodBesideAnother => scenes::flood_beside_another::<L>(self),
            Self::FloodPastDeadline => scenes::flood_past_deadline::<L>(self),
            Self::ResetAtDeadline => scenes::reset_at_deadline::<L>(self),
            Self::IdleDeadline => scenes::idle_deadline::<L>(self),
            Self::ResetDuringRequest => scenes::reset_during_request::<L>(self),
            Self::ShutdownDuringRequest => scenes::shutdown_during_request::<L>(self),
            Self::ShutdownWhileIdle => scenes::shutdown_while_idle::<L>(self),
            Self::BacklogAtShutdown => scenes::backlog_at_shutdown::<L>(self),
        }
    }

    /// What to look at in a loop that fails the scene.
    fn hint(self) -> &'static str {
        match self {
            Self::EchoInPieces => {
                "poll a new connection at once; report each event by `Seat::ready`; give \
                 `poll_write`'s own result back, not the length of its input"
            }
            Self::HalfClose => {
                "report writability too; wait for it while `Next::Sleep` has `write`; a read of 0 \
                 bytes is `Ready(Ok(0))`"
            }
            Self::RepliesFromAnotherThread | Self::FanOut => {
                "the waker of a connection interrupts the wait of the loop, from any thread, and \
                 the loop then polls that connection"
            }
            Self::Resets => {
                "an error of a socket is returned by `poll_read` or `poll_write`, and ends only \
                 this connection"
            }
            Self::FloodBesideAnother => {
                "after `Next::Again`, poll the other connections and look for events first"
            }
            Self::FloodPastDeadline => {
                "read the time in each round; do not skip a connection that always has input; \
                 after `Next::Done`, drop the seat"
            }
            Self::ResetAtDeadline => {
                "a publication wakes the subscriber, which then has a deadline; `Sink::reset` must \
                 lead to an RST: set SO_LINGER to 0, and close the last descriptor of the socket, \
                 also one that your loop's registration shares"
            }
            Self::IdleDeadline => "wait no longer than until the earliest `until`",
            Self::ResetDuringRequest | Self::ShutdownDuringRequest => {
                "while `Next::Sleep` has neither `read` nor `write`, leave the socket out of the \
                 set of descriptors, or register it edge-triggered"
            }
            Self::ShutdownWhileIdle => {
                "a shutdown interrupts the wait (`ShutdownHandle::poll_requested`); shut each \
                 connection down, then poll it; `poll_finish` shuts down only the writable half; \
                 end once no connection is left, also if there was none"
            }
            Self::BacklogAtShutdown => {
                "accept until that would block before you close the listeners: the kernel resets \
                 the connections in the backlog of a socket that is closed"
            }
        }
    }
}
