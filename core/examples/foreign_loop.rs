//! The machines in an event loop of your own: an echo server on one thread, with `poll(2)` and
//! nothing else.
//!
//! What the loop brings is a socket ([`Source`] and [`Sink`]) and the time. It asks each machine
//! what it waits for, sleeps until the first of that happens, and takes turns. Machines that share
//! something (a log, a queue) would also need a waker; an echo does not.
//!
//! `cargo run -p wirestate-core --example foreign_loop` serves three clients of its own and ends.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant as SystemInstant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wirestate_core::{
    Event, Instant, Machine, Outbound,
    drive::{IoError, Readiness, Sink, Source, Turn, turn},
    echo::{Config, Echo, Server},
};

/// A socket that does not block. `turn` never asks it twice after it was not ready, so there is
/// nothing to remember here.
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
        ready(self.0.write(bufs[0]))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        ready(self.0.shutdown(Shutdown::Write))
    }

    fn reset(&mut self) {
        // The loop closes it right after this, since the machine has ended.
        let _ = rustix::net::sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
    }
}

struct Connection {
    machine: Echo,
    socket: Socket,
    line: Readiness,
}

impl Connection {
    /// What the machine waits for.
    fn events(&self) -> PollFlags {
        let interest = self.machine.interest();
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, interest.read);
        let writes = matches!(interest.write, Outbound::Flush | Outbound::Finish | Outbound::Reset);
        events.set(PollFlags::OUT, writes);
        events
    }

    /// Goes on until nothing moves; false at the connection's end.
    fn advance(&mut self, now: Instant) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.line.clear();
        // Bounded, so that nobody has the loop to themselves; what is left is still ready then.
        for _ in 0..64 {
            match turn(&mut self.machine, &mut self.socket, &mut self.line, now, &mut cx) {
                Turn::Moved { .. } => {}
                Turn::Done => return false,
                // Only now is a deadline believed: what had arrived before it has been read.
                Turn::Blocked if self.machine.poll_timeout().is_some_and(|at| at <= now) => {
                    self.machine.handle(
                        now,
                        Event::Timeout { unacknowledged: self.socket.unacknowledged() },
                    );
                }
                Turn::Blocked => return true,
            }
        }
        true
    }
}

fn serve(listener: &TcpListener, clients: usize) -> io::Result<()> {
    let epoch = SystemInstant::now();
    let server = Server::new(Config::default());
    let mut connections: Vec<Connection> = Vec::new();
    let mut ended = 0;
    listener.set_nonblocking(true)?;
    while ended < clients {
        let now = Instant::from_epoch(epoch.elapsed());
        let deadline = connections.iter().filter_map(|c| c.machine.poll_timeout()).min();
        let timeout = deadline.map(|at| Timespec::try_from(at.since(now)).expect("not so long"));
        let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
        fds.extend(
            connections.iter().map(|c| PollFd::from_borrowed_fd(c.socket.0.as_fd(), c.events())),
        );
        poll(&mut fds, timeout.as_ref())?;

        let now = Instant::from_epoch(epoch.elapsed());
        while let Ok((stream, peer)) = listener.accept() {
            stream.set_nonblocking(true)?;
            println!("{peer} connected");
            let (machine, socket) = (server.machine(now), Socket(stream));
            connections.push(Connection { machine, socket, line: Readiness::default() });
        }
        connections.retain_mut(|connection| {
            let goes_on = connection.advance(now);
            if let Some(reason) = connection.machine.reason() {
                println!("closed: {reason}");
                ended += 1;
            }
            goes_on
        });
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let clients: Vec<_> = (0..3)
        .map(|number| {
            thread::spawn(move || -> io::Result<()> {
                let mut stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                let message = vec![b'a' + number; 100_000];
                stream.write_all(&message)?;
                stream.shutdown(Shutdown::Write)?;
                let mut reply = Vec::new();
                stream.read_to_end(&mut reply)?;
                assert!(reply == message, "every byte comes back");
                Ok(())
            })
        })
        .collect();
    serve(&listener, clients.len())?;
    for client in clients {
        client.join().expect("the client has not panicked")?;
    }
    println!("three clients served");
    Ok(())
}
