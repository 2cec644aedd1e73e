//! The load: one thread with epoll. Its connections send requests and compare the replies.
//!
//! Between two calls of its methods no byte is in flight, so the server sleeps and its CPU time
//! does not change.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    net::sockopt,
};

use crate::{
    dialogue::{Dialogue, wrong},
    flood::Flood,
    measure::socket::not_blocked,
};

/// The longest wait for expected bytes, after which the load fails.
pub(crate) const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to one server.
pub(crate) struct Load {
    epoll: OwnedFd,
    events: Vec<Event>,
    clients: Vec<Client>,
    dialogue: Dialogue,
    /// Requests that a connection sends in one write.
    in_flight: usize,
    buffer: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    /// The number of the first request without a reply, or of the next request.
    next: usize,
    /// The received bytes of the replies that it waits for.
    received: usize,
    /// When it sent its requests.
    sent_at: Instant,
}

/// Opens a non-blocking connection.
pub(crate) fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    // Closing then leaves no port in TIME_WAIT: there are too few ports.
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(stream)
}

impl Load {
    /// Opens `count` connections with `in_flight` requests in flight on each.
    pub(crate) fn connect(server: SocketAddr, count: usize, in_flight: usize) -> io::Result<Self> {
        let mut first = TcpStream::connect(server)?;
        first.set_nodelay(true)?;
        first.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        let dialogue = Dialogue::learn(&mut first, in_flight)?;
        // One byte more than expected, to find surplus bytes.
        let buffer = vec![0; dialogue.replies(0, in_flight).len() + 1];
        drop(first);

        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut clients = Vec::new();
        for number in 0..count {
            let stream = connect(server)?;
            epoll::add(&epoll, &stream, EventData::new_u64(number as u64), EventFlags::IN)?;
            clients.push(Client { stream, next: number, received: 0, sent_at: Instant::now() });
        }
        let events = Vec::with_capacity(1024);
        Ok(Self { epoll, events, clients, dialogue, in_flight, buffer })
    }

    /// For `window`, each connection sends its requests whenever the last ones are answered. It
    /// sends them at least once. At the same time `flood` sends without pause. Returns the number
    /// of requests. `latency` gets the times until the replies.
    pub(crate) fn request(
        &mut self,
        window: Duration,
        mut flood: Option<&mut Flood>,
        latency: &mut dyn FnMut(Duration),
    ) -> io::Result<u64> {
        let end = Instant::now() + window;
        for number in 0..self.clients.len() {
            self.send(number)?;
        }
        let mut batches = self.clients.len() as u64;
        let mut waiting = self.clients.len();
        while waiting > 0 {
            match &mut flood {
                Some(flood) => {
                    flood.step()?;
                    self.wait(Duration::ZERO)?;
                }
                None => self.wait(RECEIVE_TIMEOUT)?,
            }
            let in_window = Instant::now() < end;
            for event in 0..self.events.len() {
                let number = usize::try_from(self.events[event].data.u64())
                    .expect("the token of a client is its index");
                if !self.receive(number)? {
                    continue;
                }
                latency(self.clients[number].sent_at.elapsed());
                if in_window {
                    self.send(number)?;
                    batches += 1;
                } else {
                    waiting -= 1;
                }
            }
        }
        if let Some(flood) = flood {
            flood.finish()?;
        }
        Ok(batches * self.in_flight as u64)
    }

    fn send(&mut self, number: usize) -> io::Result<()> {
        let client = &mut self.clients[number];
        client.sent_at = Instant::now();
        // The socket accepts all requests, since no others are in flight.
        client.stream.write_all(self.dialogue.requests(client.next, self.in_flight))
    }

    /// Returns true once all requests are answered.
    fn receive(&mut self, number: usize) -> io::Result<bool> {
        let client = &mut self.clients[number];
        let replies = self.dialogue.replies(client.next, self.in_flight);
        let expected = &replies[client.received..];
        let Some(n) = not_blocked(client.stream.read(&mut self.buffer))? else { return Ok(false) };
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if expected.get(..n) != Some(&self.buffer[..n]) {
            return Err(wrong("it differs from the first reply to the same request"));
        }
        client.received += n;
        if client.received < replies.len() {
            return Ok(false);
        }
        client.received = 0;
        client.next += self.in_flight;
        Ok(true)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let limit = Timespec::try_from(timeout).expect("the time fits");
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&limit)) {
            Ok(0) if !timeout.is_zero() => {
                Err(io::Error::new(ErrorKind::TimedOut, "replies are missing, and no more arrive"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
