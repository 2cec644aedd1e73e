//! The load: one thread with epoll. Its connections send bytes and read them back.
//!
//! Between two calls of its methods no byte is in flight, so the server sleeps and its CPU time
//! does not change.

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

use crate::measure::{cpu::CpuUsage, figures::ratio, process::Process, socket::not_blocked};

/// The size of a message in lockstep, in bytes.
pub(crate) const MESSAGE: usize = 64;

/// The longest wait for expected bytes, after which the load fails.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to one server.
pub(crate) struct Load {
    epoll: OwnedFd,
    events: Vec<Event>,
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    /// Total bytes sent.
    sent: u64,
    /// Total bytes received.
    received: u64,
}

impl Client {
    fn in_flight(&self) -> u64 {
        self.sent - self.received
    }
}

/// How the load checks received bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// It compares them with the bytes that were sent.
    Bytes,
    /// It only counts them.
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

    /// Opens `count` further connections.
    pub(crate) fn add(&mut self, server: SocketAddr, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
            // Closing then leaves no port in TIME_WAIT: there are too few ports.
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            let data = EventData::new_u64(self.clients.len() as u64);
            epoll::add(&self.epoll, &stream, data, EventFlags::IN)?;
            self.clients.push(Client { stream, sent: 0, received: 0 });
        }
        Ok(())
    }

    /// For `window`, each connection sends a message whenever the last one is back. It sends at
    /// least one. Returns the number of messages.
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
            let in_window = Instant::now() < end;
            for number in self.ready() {
                if !self.receive_message(number)? {
                    continue;
                }
                if in_window {
                    self.send_message(number)?;
                    messages += 1;
                } else {
                    waiting -= 1;
                }
            }
        }
        Ok(messages)
    }

    /// A message that differs from the last one and from those of other connections.
    fn message(&self, number: usize) -> [u8; MESSAGE] {
        let mut message = [b'.'; MESSAGE];
        message[..8].copy_from_slice(&number.to_be_bytes());
        // While a message is in flight this returns the same message.
        let client = &self.clients[number];
        let index = client.received / MESSAGE as u64;
        message[8..16].copy_from_slice(&index.to_be_bytes());
        message
    }

    fn send_message(&mut self, number: usize) -> io::Result<()> {
        let message = self.message(number);
        let client = &mut self.clients[number];
        // The socket accepts the whole message, since no other is in flight.
        client.stream.write_all(&message)?;
        client.sent += MESSAGE as u64;
        Ok(())
    }

    /// Returns true once the whole message is back.
    fn receive_message(&mut self, number: usize) -> io::Result<bool> {
        let expected = self.message(number);
        let client = &mut self.clients[number];
        let in_flight =
            usize::try_from(client.in_flight()).expect("at most one message is in flight");
        let mut buffer = [0; MESSAGE + 1];
        let Some(n) = not_blocked(client.stream.read(&mut buffer))? else { return Ok(false) };
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let start = MESSAGE - in_flight;
        if expected.get(start..start + n) != Some(&buffer[..n]) {
            return Err(wrong_bytes());
        }
        client.received += n as u64;
        Ok(client.in_flight() == 0)
    }

    /// For `window`, each connection sends as many bytes as its socket accepts, and reads them
    /// back. Returns the number of bytes received, which is the number sent.
    fn streaming(&mut self, window: Duration, check: Check, pattern: &Pattern) -> io::Result<u64> {
        let end = Instant::now() + window;
        let before: u64 = self.clients.iter().map(|client| client.received).sum();
        let mut buffer = vec![0; RECEIVE];
        self.watch(EventFlags::IN | EventFlags::OUT)?;
        let mut sending = true;
        while sending || self.clients.iter().any(|client| client.in_flight() > 0) {
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
                    client.receive(&mut buffer, check, pattern)?;
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

    /// Measures the server's CPU for `streaming`.
    pub(crate) fn stream(
        &mut self,
        server: &Process,
        window: Duration,
        pattern: &Pattern,
    ) -> io::Result<CpuUsage> {
        // Comparing costs CPU, so it is done before the measurement.
        self.streaming(window / 10, Check::Bytes, pattern)?;
        CpuUsage::on(server, || self.streaming(window, Check::Count, pattern))
    }

    /// Opens `count` connections, which send one message each and stay open. Returns the server's
    /// memory for each of them in bytes, and whether the server then sleeps.
    pub(crate) fn memory_per_connection(server: &Process, count: usize) -> io::Result<(f64, bool)> {
        // Memory that only the first connection needs is not counted.
        let mut load = Self::connect(server.address(), 1)?;
        load.lockstep(Duration::ZERO)?;
        thread::sleep(SETTLE);
        let before = server.memory()?;
        let mut remaining = count;
        while remaining > 0 {
            let batch = remaining.min(BACKLOG);
            load.add(server.address(), batch)?;
            load.lockstep(Duration::ZERO)?;
            remaining -= batch;
        }
        thread::sleep(SETTLE);
        let grown = server.memory()?.saturating_sub(before);
        let (_, asleep) = server.wait_until_asleep()?;
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
        let timeout = Timespec::try_from(RECEIVE_TIMEOUT).expect("the time fits");
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(0) => {
                Err(io::Error::new(ErrorKind::TimedOut, "bytes are missing, and no more arrive"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The numbers of the connections that [`wait`](Self::wait) has found ready.
    fn ready(&self) -> Vec<usize> {
        self.events.iter().map(|event| usize_of(event.data)).collect()
    }
}

impl Client {
    fn receive(&mut self, buffer: &mut [u8], check: Check, pattern: &Pattern) -> io::Result<()> {
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
    io::Error::new(ErrorKind::InvalidData, "the received bytes are not those that were sent")
}

/// The bytes of a stream. They repeat with a prime period, which divides no buffer's size.
pub(crate) struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    pub(crate) fn new() -> Self {
        // A linear congruential generator (Knuth's MMIX): no part of a period repeats.
        let mut state = 1_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            })
            .collect();
        Self { bytes: period.iter().copied().cycle().take(PERIOD + SEND).collect() }
    }

    /// The `n` bytes from `position` on; at most [`SEND`].
    fn from(&self, position: u64, n: usize) -> &[u8] {
        let start =
            usize::try_from(position % PERIOD as u64).expect("the remainder is below PERIOD");
        &self.bytes[start..start + n]
    }
}

/// The time without load before the server's memory is measured.
const SETTLE: Duration = Duration::from_millis(200);
/// Connections that are opened at the same time. The smallest backlog is that of std, 128.
const BACKLOG: usize = 100;
/// The period of the [`Pattern`], a prime.
const PERIOD: usize = 65_521;
/// The most bytes of one write.
const SEND: usize = 128 * 1024;
/// The most bytes of one read. While bytes are only counted, they are not copied into memory.
const RECEIVE: usize = 1024 * 1024;
/// The send buffer of each connection, in bytes. With the kernel's default 50 connections have
/// 200 MB in flight, and the memory's speed would dominate the measurement.
const SEND_BUFFER: usize = 256 * 1024;
