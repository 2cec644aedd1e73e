//! An event loop of your own: any number of servers on one thread, with `poll(2)` and no runtime.
//!
//! The loop provides a [`Socket`] and the time. [`EventLoop`] polls each connection's [`Seat`] when
//! its socket is ready, its deadline has passed, or its waker was woken. Then it waits for what
//! [`Next`] says. A connection that does not wait for its socket is left out of the set of
//! descriptors, because `poll(2)` would report `POLLHUP` and `POLLERR` for it again and again.
//!
//! `cargo run -p wirestate-core --example foreign_loop` serves an echo and a fan-out to a few
//! clients of its own, and ends. The page `docs/embed.md` explains the loop.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant as SystemInstant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt::set_socket_linger,
};
use wirestate_core::{
    AnyReason, Erased, Instant, Machine,
    admission::{ConnectionTable, Limits, Peer},
    drive::{IoError, MAX_SLICES, Next, Seat, Sink, Source},
    echo, fanout,
    shutdown::{self, ShutdownHandle},
};

/// A non-blocking socket.
pub(crate) struct Socket(pub(crate) TcpStream);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }
}

fn ready<T>(result: io::Result<T>) -> Poll<Result<T, IoError>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result.map_err(IoError::from)),
    }
}

impl Source for Socket {
    fn poll_read(&mut self, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        ready(self.0.read(buf))
    }
}

impl Sink for Socket {
    fn poll_write(&mut self, _: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        for (slice, buf) in slices.iter_mut().zip(bufs) {
            *slice = IoSlice::new(buf);
        }
        ready(self.0.write_vectored(&slices[..bufs.len().min(MAX_SLICES)]))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        ready(self.0.shutdown(Shutdown::Write))
    }

    fn reset(&mut self) {
        // The kernel sends the RST when the socket is closed. The seat returns `Next::Done` next,
        // and the loop drops the socket.
        let _ = set_socket_linger(&self.0, Some(Duration::ZERO));
    }
}

/// A machine of any protocol.
pub(crate) type Protocol = Box<dyn Machine<Reason = AnyReason>>;
/// Makes the machine of a new connection.
pub(crate) type Factory = Box<dyn FnMut(Instant) -> Protocol>;

/// Serves all of its listeners' connections on one thread.
pub(crate) struct EventLoop {
    epoch: SystemInstant,
    table: ConnectionTable,
    listeners: Vec<(TcpListener, Factory)>,
    /// Accepting is paused until this time.
    accepts_from: Instant,
    connections: Vec<Connection>,
    /// Readable once `interrupt` was woken.
    interrupted: UnixStream,
    interrupt: Arc<Interrupt>,
}

impl EventLoop {
    /// A loop whose connections are admitted by `table`.
    pub(crate) fn new(table: ConnectionTable) -> io::Result<Self> {
        let (interrupted, stream) = UnixStream::pair()?;
        interrupted.set_nonblocking(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            epoch: SystemInstant::now(),
            table,
            listeners: Vec::new(),
            accepts_from: Instant::EPOCH,
            connections: Vec::new(),
            interrupted,
            interrupt: Arc::new(Interrupt { pending: AtomicBool::new(false), stream }),
        })
    }

    /// Listens on a free port of the loopback interface. `protocol` makes the machine of each
    /// connection.
    pub(crate) fn listen(
        &mut self,
        protocol: impl FnMut(Instant) -> Protocol + 'static,
    ) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.listeners.push((listener, Box::new(protocol)));
        Ok(address)
    }

    /// Runs until a shutdown is requested and the last connection has ended.
    pub(crate) fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
        while self.goes_on(shutdown) {
            self.round()?;
        }
        Ok(())
    }

    /// Applies `shutdown`. Returns false once a shutdown is requested and the last connection has
    /// ended.
    pub(crate) fn goes_on(&mut self, shutdown: &ShutdownHandle) -> bool {
        let waker = Waker::from(self.interrupt.clone());
        let is_requested =
            shutdown.poll_requested(&mut Context::from_waker(&waker)) > shutdown::Shutdown::None;
        // Only once, because `shut_down` wakes every connection.
        if is_requested && !self.listeners.is_empty() {
            self.listeners.clear();
            self.table.shut_down();
        }
        !self.listeners.is_empty() || !self.connections.is_empty()
    }

    /// Waits for events, and polls the connections that they concern.
    pub(crate) fn round(&mut self) -> io::Result<()> {
        let events = self.wait()?;
        let now = self.now();
        if !events[0].is_empty() {
            let _ = self.interrupted.read(&mut [0; 64]);
        }
        // Reset this before the connections' flags are read: a flag that is set later then
        // interrupts the next wait.
        self.interrupt.pending.swap(false, Ordering::AcqRel);

        let mut events = events[1..].iter();
        let listeners: Vec<_> = events.by_ref().take(self.listeners.len()).collect();
        let may_accept = listeners.into_iter().any(|events| !events.is_empty());
        self.connections.retain_mut(|connection| {
            let waits = !connection.events().is_empty();
            let events = if waits { events.next().copied() } else { None };
            connection.poll(events.unwrap_or(PollFlags::empty()), now)
        });
        if may_accept {
            self.accept(now);
        }
        Ok(())
    }

    /// Waits for the sockets, the deadlines and the wakers. Returns the events of the wakers, of
    /// each listener, and of each connection that waits for its socket.
    fn wait(&self) -> io::Result<Vec<PollFlags>> {
        let now = self.now();
        let accepts = self.accepts_from <= now;
        let mut fds = vec![PollFd::new(&self.interrupted, PollFlags::IN)];
        let listening = if accepts { PollFlags::IN } else { PollFlags::empty() };
        fds.extend(self.listeners.iter().map(|(socket, _)| PollFd::new(socket, listening)));
        for connection in self.connections.iter().filter(|each| !each.events().is_empty()) {
            fds.push(PollFd::new(&connection.seat.socket().0, connection.events()));
        }
        let deadlines = self.connections.iter().filter_map(Connection::deadline);
        let deadline = deadlines.chain((!accepts).then_some(self.accepts_from)).min();
        // A deadline that is too late for `poll(2)` counts as none.
        let timeout = deadline.and_then(|at| Timespec::try_from(at.since(now)).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(fds.iter().map(PollFd::revents).collect()),
            Err(error) => Err(error.into()),
        }
    }

    fn accept(&mut self, now: Instant) {
        for (listener, protocol) in &mut self.listeners {
            for _ in 0..ACCEPTS_IN_A_ROW {
                let (stream, peer) = match listener.accept() {
                    Ok(accepted) => accepted,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                    Err(error) => {
                        // If no descriptor is free, the next call would fail as well.
                        eprintln!("cannot accept: {error}");
                        self.accepts_from = now + ACCEPT_PAUSE;
                        break;
                    }
                };
                // A connection that is not admitted is closed.
                let Ok(admitted) = self.table.admit(Peer::Ip(peer), now) else { continue };
                let Ok(socket) = Socket::new(stream) else { continue };
                let seat = Seat::new(protocol(now), socket).admitted(admitted);
                let waker = Waker::from(self.interrupt.clone());
                let woken = Arc::new(Woken { flag: AtomicBool::new(false), event_loop: waker });
                self.connections.push(Connection { seat, next: Next::Again, woken });
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::from_epoch(self.epoch.elapsed())
    }
}

struct Connection {
    seat: Seat<Protocol, Socket>,
    /// The result of its last poll; [`Next::Again`] before the first one.
    next: Next<AnyReason>,
    woken: Arc<Woken>,
}

impl Connection {
    /// The events to wait for; if empty, the socket is left out of `poll(2)`.
    fn events(&self) -> PollFlags {
        let mut events = PollFlags::empty();
        if let Next::Sleep { read, write, .. } = self.next {
            events.set(PollFlags::IN, read);
            events.set(PollFlags::OUT, write);
        }
        events
    }

    /// When to poll it at the latest.
    fn deadline(&self) -> Option<Instant> {
        match self.next {
            Next::Again => Some(Instant::EPOCH),
            Next::Sleep { until, .. } => until,
            Next::Done(_) => None,
        }
    }

    /// Polls the seat if there is a reason to. Returns false once the connection has ended.
    fn poll(&mut self, events: PollFlags, now: Instant) -> bool {
        let was_woken = self.woken.flag.swap(false, Ordering::Acquire);
        let is_due = self.deadline().is_some_and(|deadline| deadline <= now);
        if events.is_empty() && !was_woken && !is_due {
            return true;
        }
        let broken = PollFlags::HUP | PollFlags::ERR;
        let (read, write) = (PollFlags::IN | broken, PollFlags::OUT | broken);
        self.seat.ready(events.intersects(read), events.intersects(write));
        let waker = Waker::from(self.woken.clone());
        self.next = self.seat.poll(now, &mut Context::from_waker(&waker));
        !matches!(self.next, Next::Done(_))
    }
}

/// The waker of one connection.
struct Woken {
    flag: AtomicBool,
    event_loop: Waker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, Ordering::Release);
        self.event_loop.wake_by_ref();
    }
}

/// The waker of the loop: it interrupts `poll(2)`, from any thread, by one byte.
struct Interrupt {
    /// Whether the byte was written and the flags of the connections were not read since.
    pending: AtomicBool,
    stream: UnixStream,
}

impl Wake for Interrupt {
    fn wake(self: Arc<Self>) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            let _ = (&self.stream).write(&[0]);
        }
    }
}

/// Serves an echo and a fan-out of lines, with a few clients of each.
pub(crate) fn main() -> io::Result<()> {
    let (table, shutdown) = (ConnectionTable::new(Limits::default()), ShutdownHandle::new());
    let mut event_loop = EventLoop::new(table.clone())?;

    let echo = echo::Server::default();
    let echo = event_loop.listen(move |now| Box::new(Erased(echo.machine(now))))?;

    let framing =
        fanout::Framing::Delimited { delimiter: b'\n', max: 100.try_into().expect("not 0") };
    let config = fanout::Config::default().with_framing(framing).with_replay(2);
    let feed = fanout::Feed::new(config).map_err(io::Error::other)?;
    let upstream = feed.clone();
    let publish =
        event_loop.listen(move |now| Box::new(Erased(fanout::Upstream::new(&upstream, now))))?;
    let subscribe =
        event_loop.listen(move |now| Box::new(Erased(fanout::Subscriber::new(&feed, now))))?;

    thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|number| scope.spawn(move || echoed(echo, &vec![b'a' + number; 100_000])))
            .chain((0..3).map(|_| scope.spawn(move || subscribed(subscribe, b"one\ntwo\n"))))
            .chain([scope.spawn(move || TcpStream::connect(publish)?.write_all(b"one\ntwo\n"))])
            .collect();
        let shutdown = &shutdown;
        scope.spawn(move || {
            let served: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
            shutdown.drain();
            for client in served {
                client.expect("no client panics").expect("every client is served");
            }
        });
        event_loop.run(shutdown)
    })?;
    println!("connections ended, by reason: {:?}", table.totals().ended);
    Ok(())
}

/// Sends `message`, and checks that the reply equals it.
fn echoed(address: SocketAddr, message: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(message)?;
    stream.shutdown(Shutdown::Write)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    assert!(reply == message, "every byte comes back");
    Ok(())
}

/// Receives `messages`, then closes the connection.
fn subscribed(address: SocketAddr, messages: &[u8]) -> io::Result<()> {
    let mut received = vec![0; messages.len()];
    TcpStream::connect(address)?.read_exact(&mut received)?;
    assert_eq!(received, messages);
    Ok(())
}

/// How many connections of one listener are accepted in one round, before other sockets are served.
const ACCEPTS_IN_A_ROW: usize = 64;
/// How long accepting pauses after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
