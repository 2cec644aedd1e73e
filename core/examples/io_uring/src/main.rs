//! A loop with [io_uring(7)](https://man7.org/linux/man-pages/man7/io_uring.7.html), which reports
//! completed operations instead of readiness.
//!
//! The kernel owns the buffers of operations in progress. So a read copies what was received into
//! the machine's buffer, and output is taken as [`Bytes`] ([`Sink::poll_write_owned`]), which count
//! as [held](Sink::held) until they are sent.
//!
//! `cargo run -p wirestate-io-uring-example` serves an echo, requests and a fan-out to clients of
//! its own, and ends. Where the kernel refuses `io_uring`, it says so. The page `docs/embed.md`
//! explains the loop.

#[path = "../../demonstration/mod.rs"]
mod demonstration;
mod ring;

use std::{
    io::{self, ErrorKind},
    mem,
    net::{SocketAddr, TcpListener},
    task::{Context, Poll},
    time::{Duration, Instant as SystemInstant},
};

use bytes::Bytes;
use rustix::net::sockopt::set_socket_linger;
use wirestate_core::{
    Instant,
    admission::{ConnectionTable, Peer},
    drive::{IoError, Seat, Seats, Sink, Source},
    shutdown::{self, ShutdownHandle},
};

use self::{
    demonstration::{Factory, Protocol},
    ring::{LOOP, MAX_SEND, Ring, Stream, Watch},
};

struct Socket(Stream);

impl Source for Socket {
    fn poll_read(&mut self, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        self.0.read(buf).map_err(IoError::from)
    }
}

impl Sink for Socket {
    fn poll_write(&mut self, _: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        self.0.write(Bytes::copy_from_slice(bufs[0])).map_err(IoError::from)
    }

    fn max_owned(&self) -> usize {
        MAX_SEND
    }

    fn poll_write_owned(
        &mut self,
        _: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<usize, IoError>> {
        self.0.write(mem::take(&mut bufs[0])).map_err(IoError::from)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        self.0.flush().map_err(IoError::from)
    }

    fn held(&self) -> usize {
        self.0.held()
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        self.0.finish().map_err(IoError::from)
    }

    fn reset(&mut self) {
        // The kernel sends the RST when the socket is closed.
        let _ = set_socket_linger(self.0.socket(), Some(Duration::ZERO));
    }

    fn unacknowledged(&self) -> usize {
        self.0.held()
    }
}

/// Serves the connections of all its listeners on one thread.
pub(crate) struct EventLoop {
    epoch: SystemInstant,
    table: ConnectionTable,
    ring: Ring,
    /// Each watch is dropped before its listener.
    listeners: Vec<(Watch, TcpListener, Factory)>,
    seats: Seats<Protocol, Socket>,
}

impl EventLoop {
    /// A loop whose connections are admitted by `table`. It fails where the kernel refuses
    /// `io_uring`.
    pub(crate) fn new(table: ConnectionTable) -> io::Result<Self> {
        let (epoch, ring) = (SystemInstant::now(), Ring::new()?);
        let seats = Seats::new(ring.interrupt());
        Ok(Self { epoch, table, ring, listeners: Vec::new(), seats })
    }

    /// Listens on a free port of the loopback interface.
    pub(crate) fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.listeners.push((self.ring.watch(LOOP, &listener), listener, machine));
        Ok(address)
    }

    /// Serves until a shutdown is requested and the last connection has ended.
    pub(crate) fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
        let waker = self.ring.interrupt();
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
            let completed = self.ring.wait(timeout)?;
            let now = Instant::from_epoch(self.epoch.elapsed());
            for id in completed {
                self.seats.ready(id, true, true);
            }
            self.accept(now)?;
            self.seats.poll(now, |_, _, _| ());
        }
    }

    fn accept(&mut self, now: Instant) -> io::Result<()> {
        for (_, listener, machine) in &mut self.listeners {
            loop {
                let (stream, peer) = match listener.accept() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    accepted => accepted?,
                };
                // A connection that is not admitted is closed.
                let Ok(admitted) = self.table.admit(Peer::Ip(peer), now) else { continue };
                stream.set_nodelay(true)?;
                let socket = Socket(Stream::new(self.seats.next_id(), stream, &self.ring));
                self.seats.insert(Seat::new(machine(now), socket).admitted(admitted));
            }
        }
        Ok(())
    }
}

fn main() -> io::Result<()> {
    if let Err(error) = Ring::new() {
        println!("NOT TESTED: the kernel refuses io_uring: {error}");
        return Ok(());
    }
    demonstration::run(|table, factories, addresses, shutdown| {
        let mut event_loop = EventLoop::new(table)?;
        for machine in factories {
            addresses.send(event_loop.listen(machine)?).map_err(io::Error::other)?;
        }
        event_loop.run(shutdown)
    })
}

#[cfg(test)]
mod tests {
    use wirestate_core::admission::Limits;
    use wirestate_testkit::event_loop;

    use super::*;

    impl event_loop::EventLoop for EventLoop {
        fn new() -> io::Result<Self> {
            Self::new(ConnectionTable::new(Limits::default()))
        }

        fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
            self.listen(machine)
        }

        fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
            self.run(shutdown)
        }
    }

    #[test]
    fn it_passes_the_scenes() {
        match Ring::new() {
            Ok(_) => event_loop::check::<EventLoop>(),
            Err(error) => println!("NOT TESTED: the kernel refuses io_uring: {error}"),
        }
    }
}
