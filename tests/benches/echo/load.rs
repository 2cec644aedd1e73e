//! The load: one thread, epoll, connections that send and take back.
//!
//! Between two calls here no byte is on its way, so that the server is asleep and its time stands
//! still.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    net::{RecvFlags, recv, sockopt},
};

use crate::measure::{figures::ratio, process::Process, socket::not_blocked, spent::Spent};

/// The size of a message in lockstep, in bytes.
pub(crate) const MESSAGE: usize = 64;

/// How long the server may say nothing while it owes something.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections to one server.
pub(crate) struct Load {
    epoll: OwnedFd,
    events: Vec<Event>,
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    /// Bytes sent in all.
    sent: u64,
    /// Bytes that came back in all.
    received: u64,
}

impl Client {
    fn owed(&self) -> u64 {
        self.sent - self.received
    }
}

/// What happens to the bytes that come back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// They are compared with what was sent.
    Bytes,
    /// They are counted.
    Count,
}

impl Load {
    /// Opens `count` connections.
    pub(crate) fn connect(server: SocketAddr, count: usize) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut load = Self { epoll, events: Vec::with_capacity(1024), clients: Vec::new() };
        load.add(server, count)?;
        Ok(load)
    }

    /// Opens `count` more.
    pub(crate) fn add(&mut self, server: SocketAddr, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
            // Closing it then leaves no port behind in TIME_WAIT, of which there are too few.
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            let data = EventData::new_u64(self.clients.len() as u64);
            epoll::add(&self.epoll, &stream, data, EventFlags::IN)?;
            self.clients.push(Client { stream, sent: 0, received: 0 });
        }
        Ok(())
    }

    /// Each connection sends a message whenever the last one is back, for as long as `window`; but
    /// at least one. Answers how many there were.
    pub(crate) fn lockstep(&mut self, window: Duration) -> io::Result<u64> {
        let end = Instant::now() + window;
        let mut messages = 0;
        for number in 0..self.clients.len() {
            self.send_message(number)?;
            messages += 1;
        }
        let mut waiting = self.clients.len();
        while waiting > 0 {
            self.wait()?;
            let going_on = Instant::now() < end;
            for number in self.ready() {
                if !self.receive_message(number)? {
                    continue;
                }
                if going_on {
                    self.send_message(number)?;
                    messages += 1;
                } else {
                    waiting -= 1;
                }
            }
        }
        Ok(messages)
    }

    /// A message of the connection, which differs from the one before and from other connections'.
    fn message(&self, number: usize) -> [u8; MESSAGE] {
        let mut message = [b'.'; MESSAGE];
        message[..8].copy_from_slice(&number.to_be_bytes());
        // A message that has begun to come back is the same as before.
        let client = &self.clients[number];
        let index = client.received / MESSAGE as u64;
        message[8..16].copy_from_slice(&index.to_be_bytes());
        message
    }

    fn send_message(&mut self, number: usize) -> io::Result<()> {
        let message = self.message(number);
        let client = &mut self.clients[number];
        // There is always room for it: nothing else is on its way.
        client.stream.write_all(&message)?;
        client.sent += MESSAGE as u64;
        Ok(())
    }

    /// True once the message is back as a whole.
    fn receive_message(&mut self, number: usize) -> io::Result<bool> {
        let expected = self.message(number);
        let client = &mut self.clients[number];
        let owed = usize::try_from(client.owed()).expect("at most a message");
        let mut buffer = [0; MESSAGE + 1];
        let Some(n) = not_blocked(client.stream.read(&mut buffer))? else { return Ok(false) };
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let start = MESSAGE - owed;
        if expected.get(start..start + n) != Some(&buffer[..n]) {
            return Err(wrong_bytes());
        }
        client.received += n as u64;
        Ok(client.owed() == 0)
    }

    /// Each connection sends as much as the socket takes, and takes back what there is, for as long
    /// as `window`. Answers how many bytes came back, which is what was sent.
    fn streaming(&mut self, window: Duration, check: Check, pattern: &Pattern) -> io::Result<u64> {
        let end = Instant::now() + window;
        let before: u64 = self.clients.iter().map(|client| client.received).sum();
        let mut buffer = vec![0; RECEIVE];
        self.watch(EventFlags::IN | EventFlags::OUT)?;
        let mut sending = true;
        while sending || self.clients.iter().any(|client| client.owed() > 0) {
            if sending && Instant::now() >= end {
                sending = false;
                self.watch(EventFlags::IN)?;
                continue;
            }
            self.wait()?;
            for event in 0..self.events.len() {
                let Event { flags, data, .. } = self.events[event];
                let client = &mut self.clients[usize_of(data)];
                if flags.contains(EventFlags::IN) {
                    client.take_back(&mut buffer, check, pattern)?;
                }
                if sending && flags.contains(EventFlags::OUT) {
                    let sent = client.stream.write(pattern.from(client.sent, SEND));
                    client.sent += not_blocked(sent)?.unwrap_or(0) as u64;
                }
            }
        }
        let after: u64 = self.clients.iter().map(|client| client.received).sum();
        Ok(after - before)
    }

    /// What the server spends on `streaming`.
    pub(crate) fn stream(
        &mut self,
        server: &Process,
        window: Duration,
        pattern: &Pattern,
    ) -> io::Result<Spent> {
        // Comparing is dear, so it happens first and by itself.
        self.streaming(window / 10, Check::Bytes, pattern)?;
        Spent::on(server, || self.streaming(window, Check::Count, pattern))
    }

    /// By how many bytes the server's memory grows with each of `count` connections that are silent
    /// after one message, and whether it sleeps then. All of them are held, and alive at the end.
    pub(crate) fn grow(server: &Process, count: usize) -> io::Result<(f64, bool)> {
        // What only the first connection takes is the server's, not the connection's.
        let mut load = Self::connect(server.address(), 1)?;
        load.lockstep(Duration::ZERO)?;
        thread::sleep(SETTLE);
        let before = server.memory()?;
        let mut left = count;
        while left > 0 {
            let some = left.min(BACKLOG);
            load.add(server.address(), some)?;
            load.lockstep(Duration::ZERO)?;
            left -= some;
        }
        thread::sleep(SETTLE);
        let grown = server.memory()?.saturating_sub(before);
        let (_, asleep) = server.asleep()?;
        load.lockstep(Duration::ZERO)?;
        Ok((ratio(grown, count as u64), asleep))
    }

    fn watch(&self, flags: EventFlags) -> io::Result<()> {
        for (number, client) in self.clients.iter().enumerate() {
            let data = EventData::new_u64(number as u64);
            epoll::modify(&self.epoll, &client.stream, data, flags)?;
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        let patience = Timespec::try_from(PATIENCE).expect("it fits");
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&patience)) {
            Ok(0) => {
                Err(io::Error::new(ErrorKind::TimedOut, "the server owes bytes and is silent"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The connections that [`wait`](Self::wait) has found ready.
    fn ready(&self) -> Vec<usize> {
        self.events.iter().map(|event| usize_of(event.data)).collect()
    }
}

impl Client {
    fn take_back(&mut self, buffer: &mut [u8], check: Check, pattern: &Pattern) -> io::Result<()> {
        let received = match check {
            Check::Bytes => self.stream.read(&mut buffer[..SEND]),
            Check::Count => recv(&self.stream, &mut *buffer, RecvFlags::TRUNC)
                .map(|(_, n)| n)
                .map_err(io::Error::from),
        };
        let Some(n) = not_blocked(received)? else { return Ok(()) };
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if check == Check::Bytes && pattern.from(self.received, n) != &buffer[..n] {
            return Err(wrong_bytes());
        }
        self.received += n as u64;
        if self.received > self.sent {
            return Err(wrong_bytes());
        }
        Ok(())
    }
}

fn usize_of(data: EventData) -> usize {
    usize::try_from(data.u64()).expect("the number of a connection")
}

fn wrong_bytes() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "what came back is not what was sent")
}

/// The bytes that are streamed: at each position of a stream another one, in a period that no
/// buffer's size is a multiple of.
pub(crate) struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    pub(crate) fn new() -> Self {
        // A linear congruential generator (Knuth's MMIX), so that no stretch repeats within.
        let mut state = 1_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            })
            .collect();
        Self { bytes: period.iter().copied().cycle().take(PERIOD + SEND).collect() }
    }

    /// The `n` bytes, at most [`SEND`], from `position` on.
    fn from(&self, position: u64, n: usize) -> &[u8] {
        let start = usize::try_from(position % PERIOD as u64).expect("below the period");
        &self.bytes[start..start + n]
    }
}

/// So long the server is left alone before its memory is looked at.
const SETTLE: Duration = Duration::from_millis(200);
/// Connections that are opened at once; std listens with a backlog of 128 at least.
const BACKLOG: usize = 100;
/// The period of the [`Pattern`], a prime.
const PERIOD: usize = 65_521;
/// The most that one write sends.
const SEND: usize = 128 * 1024;
/// The most that one read takes back. The memory is not touched while bytes are only counted.
const RECEIVE: usize = 1024 * 1024;
/// The send buffer that each connection asks for, in bytes. With the kernel's own choice 50
/// connections have 200 MB on their way: then the memory's speed is what is measured, and noise.
const SEND_BUFFER: usize = 256 * 1024;
