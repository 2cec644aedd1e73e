//! A loop with [mio](https://docs.rs/mio), which is edge-triggered: any number of servers on one
//! thread.
//!
//! A socket is registered once, for both directions. mio reports when it becomes ready after a call
//! has blocked. A [`Seat`] makes calls until one blocks, so it misses nothing; an event that comes
//! while the machine does not read is passed to [`Seat::ready`] all the same.
//!
//! `cargo run -p wirestate-core --example mio_loop` serves an echo, requests and a fan-out to
//! clients of its own, and ends. The page `docs/embed.md` explains the loop.

mod demonstration;

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant as SystemInstant},
};

use mio::{
    Events, Interest, Token,
    net::{TcpListener, TcpStream},
};
use rustix::net::sockopt::set_socket_linger;
use wirestate_core::{
    Instant,
    admission::{ConnectionTable, Peer},
    drive::{IoError, MAX_SLICES, Seat, Seats, Sink, Source},
    shutdown::{self, ShutdownHandle},
};

use self::demonstration::{Factory, Protocol};

struct Socket(TcpStream);

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
        slices.iter_mut().zip(bufs).for_each(|(slice, buf)| *slice = IoSlice::new(buf));
        ready(self.0.write_vectored(&slices[..bufs.len().min(MAX_SLICES)]))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        ready(self.0.shutdown(Shutdown::Write))
    }

    fn reset(&mut self) {
        let _ = set_socket_linger(&self.0, Some(Duration::ZERO));
    }
}

/// Interrupts the wait of the loop, from any thread.
struct Interrupt(mio::Waker);

impl Wake for Interrupt {
    fn wake(self: Arc<Self>) {
        let _ = self.0.wake();
    }
}

/// Serves the connections of all its listeners on one thread.
pub(crate) struct EventLoop {
    epoch: SystemInstant,
    table: ConnectionTable,
    poll: mio::Poll,
    interrupt: Waker,
    listeners: Vec<(TcpListener, Factory)>,
    seats: Seats<Protocol, Socket>,
}

impl EventLoop {
    /// A loop whose connections are admitted by `table`.
    pub(crate) fn new(table: ConnectionTable) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let interrupt = Interrupt(mio::Waker::new(poll.registry(), LOOP)?);
        let interrupt = Waker::from(Arc::new(interrupt));
        let (seats, epoch) = (Seats::new(interrupt.clone()), SystemInstant::now());
        Ok(Self { epoch, table, poll, interrupt, listeners: Vec::new(), seats })
    }

    /// Listens on a free port of the loopback interface.
    pub(crate) fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
        self.poll.registry().register(&mut listener, LOOP, Interest::READABLE)?;
        let address = listener.local_addr()?;
        self.listeners.push((listener, machine));
        Ok(address)
    }

    /// Serves until a shutdown is requested and the last connection has ended.
    pub(crate) fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
        let waker = self.interrupt.clone();
        let mut events = Events::with_capacity(256);
        loop {
            let requested = shutdown.poll_requested(&mut Context::from_waker(&waker));
            if requested > shutdown::Shutdown::None && !self.listeners.is_empty() {
                self.accept(Instant::from_epoch(self.epoch.elapsed()))?; // the backlog
                self.listeners.clear();
                self.table.shut_down(); // wakes every connection
            }
            if self.listeners.is_empty() && self.seats.is_empty() {
                return Ok(());
            }
            let timeout = self.seats.timeout(Instant::from_epoch(self.epoch.elapsed()));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let now = Instant::from_epoch(self.epoch.elapsed());
            for event in &events {
                let read = event.is_readable() || event.is_read_closed() || event.is_error();
                let write = event.is_writable() || event.is_write_closed() || event.is_error();
                self.seats.ready(event.token().0, read, write);
            }
            self.accept(now)?;
            self.seats.poll(now, |_, _, _| ());
        }
    }

    fn accept(&mut self, now: Instant) -> io::Result<()> {
        for (listener, machine) in &mut self.listeners {
            loop {
                let (mut stream, peer) = match listener.accept() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    accepted => accepted?,
                };
                // A connection that is not admitted is closed.
                let Ok(admitted) = self.table.admit(Peer::Ip(peer), now) else { continue };
                stream.set_nodelay(true)?;
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(self.seats.next_id()), both)?;
                self.seats.insert(Seat::new(machine(now), Socket(stream)).admitted(admitted));
            }
        }
        Ok(())
    }
}

/// The token of the loop's own events: those of listeners and of the waker.
const LOOP: Token = Token(usize::MAX);

pub(crate) fn main() -> io::Result<()> {
    demonstration::run(|table, factories, addresses, shutdown| {
        let mut event_loop = EventLoop::new(table)?;
        for machine in factories {
            addresses.send(event_loop.listen(machine)?).map_err(io::Error::other)?;
        }
        event_loop.run(shutdown)
    })
}
