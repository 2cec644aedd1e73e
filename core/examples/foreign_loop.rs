//! An event loop of your own: any number of servers on one thread, with `poll(2)` and no runtime.
//!
//! The loop provides a socket, the time, and a waker that interrupts its wait. [`Seats`] polls
//! each connection when there is a reason to. A connection that does not wait for its socket is
//! left out of the set of descriptors, because `poll(2)` would report `POLLHUP` and `POLLERR` for
//! it again and again.
//!
//! `cargo run -p wirestate-core --example foreign_loop` serves an echo, requests and a fan-out to
//! clients of its own, and ends. The page `docs/embed.md` explains the loop.

mod demonstration;
mod tcp_socket;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    sync::Arc,
    task::{Context, Wake, Waker},
    time::{Duration, Instant as SystemInstant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use wirestate_core::{
    Instant,
    admission::{ConnectionTable, Peer},
    drive::{Seat, Seats},
    shutdown::{self, ShutdownHandle},
};

use self::{
    demonstration::{Factory, Protocol},
    tcp_socket::Socket,
};

/// Interrupts `poll(2)`, from any thread, by one byte.
struct Interrupt(UnixStream);

impl Wake for Interrupt {
    fn wake(self: Arc<Self>) {
        let _ = (&self.0).write(&[0]);
    }
}

/// Serves the connections of all its listeners on one thread.
pub(crate) struct EventLoop {
    epoch: SystemInstant,
    table: ConnectionTable,
    listeners: Vec<(TcpListener, Factory)>,
    /// Accepting is paused until this time.
    accepts_from: Instant,
    seats: Seats<Protocol, Socket>,
    /// Readable once `interrupt` was woken.
    interrupted: UnixStream,
    interrupt: Waker,
}

impl EventLoop {
    /// A loop whose connections are admitted by `table`.
    pub(crate) fn new(table: ConnectionTable) -> io::Result<Self> {
        let (interrupted, stream) = UnixStream::pair()?;
        interrupted.set_nonblocking(true)?;
        stream.set_nonblocking(true)?;
        let interrupt = Waker::from(Arc::new(Interrupt(stream)));
        Ok(Self {
            epoch: SystemInstant::now(),
            table,
            listeners: Vec::new(),
            accepts_from: Instant::EPOCH,
            seats: Seats::new(interrupt.clone()),
            interrupted,
            interrupt,
        })
    }

    /// Listens on a free port of the loopback interface. `machine` makes the machine of each
    /// connection.
    pub(crate) fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.listeners.push((listener, machine));
        Ok(address)
    }

    /// Runs until a shutdown is requested and the last connection has ended.
    pub(crate) fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
        let waker = self.interrupt.clone();
        loop {
            let requested = shutdown.poll_requested(&mut Context::from_waker(&waker));
            // Only once, because `shut_down` wakes every connection.
            if requested > shutdown::Shutdown::None && !self.listeners.is_empty() {
                self.accept(self.now()); // the backlog
                self.listeners.clear();
                self.table.shut_down();
            }
            if self.listeners.is_empty() && self.seats.is_empty() {
                return Ok(());
            }
            let ready = self.wait()?;
            let now = self.now();
            for (id, read, write) in ready {
                self.seats.ready(id, read, write);
            }
            if self.accepts_from <= now {
                self.accept(now);
            }
            self.seats.poll(now, |_, _, _| ());
        }
    }

    /// Waits for the sockets, the deadlines and the wakers. Returns what each connection is ready
    /// for.
    fn wait(&mut self) -> io::Result<Vec<(usize, bool, bool)>> {
        let now = self.now();
        let pause = (self.accepts_from > now).then(|| self.accepts_from.since(now));
        let timeout = self.seats.timeout(now).into_iter().chain(pause).min();
        // A deadline that is too late for `poll(2)` counts as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());

        let mut fds = vec![PollFd::new(&self.interrupted, PollFlags::IN)];
        let listening = if pause.is_none() { PollFlags::IN } else { PollFlags::empty() };
        fds.extend(self.listeners.iter().map(|(socket, _)| PollFd::new(socket, listening)));
        let mut ids = Vec::new();
        for (id, socket, read, write) in self.seats.waiting() {
            let mut events = PollFlags::empty();
            events.set(PollFlags::IN, read);
            events.set(PollFlags::OUT, write);
            fds.push(PollFd::new(&socket.0, events));
            ids.push(id);
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let broken = PollFlags::HUP | PollFlags::ERR;
        let ready = fds[1 + self.listeners.len()..].iter().zip(ids).filter_map(|(fd, id)| {
            let events = fd.revents();
            let read = events.intersects(PollFlags::IN | broken);
            let write = events.intersects(PollFlags::OUT | broken);
            (read || write).then_some((id, read, write))
        });
        let ready = ready.collect();
        let _ = (&self.interrupted).read(&mut [0; 64]);
        Ok(ready)
    }

    fn accept(&mut self, now: Instant) {
        for (listener, machine) in &mut self.listeners {
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
                self.seats.insert(Seat::new(machine(now), socket).admitted(admitted));
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::from_epoch(self.epoch.elapsed())
    }
}

/// How many connections of one listener are accepted in one round, before other sockets are served.
const ACCEPTS_IN_A_ROW: usize = 64;
/// How long accepting pauses after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn main() -> io::Result<()> {
    demonstration::run(|table, factories, addresses, shutdown| {
        let mut event_loop = EventLoop::new(table)?;
        for machine in factories {
            addresses.send(event_loop.listen(machine)?).map_err(io::Error::other)?;
        }
        event_loop.run(shutdown)
    })
}
