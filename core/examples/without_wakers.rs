//! A loop without wakers, deadlines and readiness: it polls every connection every millisecond, as
//! the loop of a game or of a controller does.
//!
//! It serves every machine, also those that share something: each poll lets the machine read its
//! shared state. (A loop that polls only ready sockets would need wakers for that.) It pays by up
//! to a millisecond of latency, and one system call for each idle connection in each round.
//!
//! `cargo run -p wirestate-core --example without_wakers` serves an echo, requests and a fan-out to
//! clients of its own, and ends. The page `docs/embed.md` explains the loop.

mod demonstration;
mod tcp_socket;

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    task::{Context, Waker},
    thread,
    time::{Duration, Instant as SystemInstant},
};

use wirestate_core::{
    Instant,
    admission::{ConnectionTable, Peer},
    drive::{Next, Seat},
    shutdown::{self, ShutdownHandle},
};

use self::{
    demonstration::{Factory, Protocol},
    tcp_socket::Socket,
};

/// Serves the connections of all its listeners on one thread.
pub(crate) struct EventLoop {
    epoch: SystemInstant,
    table: ConnectionTable,
    listeners: Vec<(TcpListener, Factory)>,
    seats: Vec<Seat<Protocol, Socket>>,
}

impl EventLoop {
    /// A loop whose connections are admitted by `table`.
    pub(crate) fn new(table: ConnectionTable) -> Self {
        let epoch = SystemInstant::now();
        Self { epoch, table, listeners: Vec::new(), seats: Vec::new() }
    }

    /// Listens on a free port of the loopback interface.
    pub(crate) fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.listeners.push((listener, machine));
        Ok(address)
    }

    /// Serves until a shutdown is requested and the last connection has ended.
    pub(crate) fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
        while !self.listeners.is_empty() || !self.seats.is_empty() {
            let is_requested = shutdown.requested() > shutdown::Shutdown::None;
            let now = Instant::from_epoch(self.epoch.elapsed());
            self.accept(now)?;
            if is_requested && !self.listeners.is_empty() {
                self.listeners.clear();
                self.table.shut_down();
            }
            let mut again = false;
            self.seats.retain_mut(|seat| {
                let next = seat.poll(now, &mut Context::from_waker(Waker::noop()));
                again |= matches!(next, Next::Again);
                !matches!(next, Next::Done(_))
            });
            if !again {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn accept(&mut self, now: Instant) -> io::Result<()> {
        for (listener, machine) in &mut self.listeners {
            loop {
                let (stream, peer) = match listener.accept() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    accepted => accepted?,
                };
                // A connection that is not admitted is closed.
                let Ok(admitted) = self.table.admit(Peer::Ip(peer), now) else { continue };
                let seat = Seat::new(machine(now), Socket::new(stream)?);
                self.seats.push(seat.admitted(admitted));
            }
        }
        Ok(())
    }
}

pub(crate) fn main() -> io::Result<()> {
    demonstration::run(|table, factories, addresses, shutdown| {
        let mut event_loop = EventLoop::new(table);
        for machine in factories {
            addresses.send(event_loop.listen(machine)?).map_err(io::Error::other)?;
        }
        event_loop.run(shutdown)
    })
}
