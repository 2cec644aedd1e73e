//! The load: one thread with epoll, the upstream and all subscribers in one.
//!
//! Between two calls of its methods no byte is in flight, so the server sleeps and its CPU time
//! does not change.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    num::NonZeroUsize,
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

use crate::{
    measure::socket::not_blocked,
    protocol::{Frame, MESSAGE, Protocol},
};

/// The upstream and the subscribers of one server.
pub(crate) struct Load {
    epoll: OwnedFd,
    events: Vec<Event>,
    protocol: Protocol,
    publisher: Publisher,
    subscribers: Vec<Subscriber>,
    buffer: Vec<u8>,
    /// Each message contains the time since this instant.
    epoch: Instant,
}

struct Publisher {
    stream: TcpStream,
    frame: Frame,
    /// Messages that the kernel has accepted or that are in `batch`.
    published: u64,
    /// Framed messages.
    batch: Vec<u8>,
    /// The bytes of the batch that are filled, and how many of them the kernel has accepted.
    filled: usize,
    sent: usize,
    watched: EventFlags,
}

struct Subscriber {
    stream: TcpStream,
    /// The number of the first message that it has received.
    first: Option<u64>,
    /// Bytes of framed messages.
    received: u64,
    /// Bytes that the server has sent between messages ([`Protocol::ping`]).
    pings: u64,
    /// The beginning of an incomplete message.
    partial: Vec<u8>,
}

/// How the load checks received bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// It compares them with the published messages.
    Bytes,
    /// It only counts them.
    Count,
}

/// The limits of publishing. It ends at the first limit that is reached.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// The longest time.
    pub(crate) time: Duration,
    /// The most messages.
    pub(crate) messages: u64,
    /// The most messages ahead of the slowest subscriber, at which publishing pauses.
    pub(crate) max_ahead: Option<u64>,
}

impl Load {
    /// Opens the connections: to or from `upstream`, depending on the protocol, and to `server`.
    /// The subscribers have a receive buffer of the given size, or the kernel's default.
    pub(crate) fn connect(
        protocol: Protocol,
        upstream: &TcpListener,
        server: SocketAddr,
        count: usize,
        receive_buffer: Option<NonZeroUsize>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let stream = if protocol.publisher_connects {
            let stream = retry(|| TcpStream::connect(server))?;
            protocol.greet_as_publisher(&stream)?;
            stream
        } else {
            upstream.set_nonblocking(true)?;
            retry(|| upstream.accept())?.0
        };
        prepare(&stream)?;
        sockopt::set_socket_send_buffer_size(&stream, PUBLISHER_BUFFER)?;
        epoll::add(&epoll, &stream, EventData::new_u64(PUBLISHER), EventFlags::IN)?;
        let mut subscribers = Vec::new();
        for number in 0..count {
            let stream = TcpStream::connect(server)?;
            protocol.greet_as_subscriber(&stream)?;
            prepare(&stream)?;
            if let Some(size) = receive_buffer {
                sockopt::set_socket_recv_buffer_size(&stream, size.get())?;
            }
            epoll::add(&epoll, &stream, EventData::new_u64(number as u64), EventFlags::IN)?;
            let partial = Vec::new();
            subscribers.push(Subscriber { stream, first: None, received: 0, pings: 0, partial });
            if (number + 1) % BACKLOG == 0 {
                thread::sleep(ACCEPT_TIME);
            }
        }
        let mut load = Self {
            epoll,
            events: Vec::with_capacity(1024),
            protocol,
            publisher: Publisher::new(stream, protocol.published),
            subscribers,
            buffer: vec![0; RECEIVE],
            epoch: Instant::now(),
        };
        load.join()?;
        Ok(load)
    }

    /// Publishes until every subscriber receives messages.
    fn join(&mut self) -> io::Result<()> {
        let end = Instant::now() + RECEIVE_TIMEOUT;
        while self.subscribers.iter().any(|subscriber| subscriber.first.is_none()) {
            if Instant::now() >= end {
                let message = "a subscriber receives no published message";
                return Err(io::Error::new(ErrorKind::TimedOut, message));
            }
            self.publisher.fill(1, self.epoch);
            self.publisher.send()?;
            let pause = Instant::now() + JOIN_INTERVAL;
            while Instant::now() < pause {
                self.wait(Some(Duration::from_millis(1)))?;
                self.receive(Check::Bytes, &mut Vec::new())?;
            }
        }
        self.drain(Check::Bytes)
    }

    /// Publishes as fast as the server reads messages, then waits for all deliveries. Calls
    /// `before_drain` after publishing the last message. Returns the number of deliveries.
    pub(crate) fn saturate(
        &mut self,
        extent: Extent,
        check: Check,
        before_drain: impl FnOnce(),
    ) -> io::Result<u64> {
        let end = Instant::now() + extent.time;
        let last = self.publisher.published + extent.messages;
        let before = self.delivered();
        loop {
            let publishes = Instant::now() < end && self.publisher.published < last;
            if !publishes && !self.publisher.has_unsent() {
                break;
            }
            let limit = extent.max_ahead.map_or(last, |ahead| last.min(self.slowest() + ahead));
            let space = limit.saturating_sub(self.publisher.published);
            let can_send = self.publisher.has_unsent() || (publishes && space > 0);
            self.watch(if can_send { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN })?;
            self.wait(None)?;
            let writable = self.receive(check, &mut Vec::new())?;
            if writable {
                if publishes && !self.publisher.has_unsent() {
                    self.publisher.fill(space, self.epoch);
                }
                self.publisher.send()?;
            }
        }
        self.watch(EventFlags::IN)?;
        before_drain();
        self.drain(check)?;
        Ok(self.delivered() - before)
    }

    /// For `time`, publishes a message at each interval of `every`. Adds the latency of each
    /// delivery, and returns their number.
    pub(crate) fn pace(
        &mut self,
        time: Duration,
        every: Duration,
        latencies: &mut Vec<Duration>,
    ) -> io::Result<u64> {
        let before = self.delivered();
        let start = Instant::now();
        let mut next = start;
        while next < start + time {
            if Instant::now() >= next {
                next += every;
                self.publisher.fill(1, self.epoch);
                while self.publisher.has_unsent() {
                    self.publisher.send()?;
                }
            }
            // Do not sleep: the time to wake up would add to the latencies.
            self.wait(Some(Duration::ZERO))?;
            self.receive(Check::Bytes, latencies)?;
        }
        let end = Instant::now() + RECEIVE_TIMEOUT;
        while self.is_incomplete() {
            if Instant::now() >= end {
                return Err(timed_out());
            }
            self.wait(Some(Duration::ZERO))?;
            self.receive(Check::Bytes, latencies)?;
        }
        self.drain(Check::Bytes)?;
        Ok(self.delivered() - before)
    }

    /// Publishes a message whenever all subscribers have the last one, until `messages` are
    /// published or `time` has passed.
    pub(crate) fn drip(&mut self, messages: u64, time: Duration) -> io::Result<u64> {
        let before = self.delivered();
        let end = Instant::now() + time;
        let last = self.publisher.published + messages;
        while self.publisher.published < last && Instant::now() < end {
            self.publisher.fill(1, self.epoch);
            self.publisher.send()?;
            while self.is_incomplete() {
                self.wait(None)?;
                self.receive(Check::Bytes, &mut Vec::new())?;
            }
        }
        self.drain(Check::Bytes)?;
        Ok(self.delivered() - before)
    }

    /// Waits for all deliveries, and checks that nothing else arrives.
    fn drain(&mut self, check: Check) -> io::Result<()> {
        while self.is_incomplete() {
            self.wait(None)?;
            self.receive(check, &mut Vec::new())?;
        }
        // Read once more, to find bytes that should not arrive.
        self.wait(Some(Duration::ZERO))?;
        self.receive(check, &mut Vec::new())?;
        for number in 0..self.subscribers.len() {
            let expected = self.expected(number);
            let subscriber = &mut self.subscribers[number];
            let surplus = subscriber.received - expected;
            let ping = self.protocol.ping.len() as u64;
            if surplus > 0 && (ping == 0 || !surplus.is_multiple_of(ping)) {
                return Err(wrong(&format!("{surplus} bytes more than were published")));
            }
            subscriber.received -= surplus;
            subscriber.pings += surplus;
            if subscriber.pings > MAX_PINGS * ping {
                return Err(wrong("bytes besides messages and pings"));
            }
        }
        Ok(())
    }

    /// The number of bytes that a subscriber should have received.
    fn expected(&self, number: usize) -> u64 {
        let first = self.subscribers[number].first.unwrap_or(self.publisher.published);
        (self.publisher.published - first) * self.protocol.delivered.len() as u64
    }

    fn is_incomplete(&self) -> bool {
        (0..self.subscribers.len())
            .any(|number| self.subscribers[number].received < self.expected(number))
    }

    /// The total number of deliveries.
    fn delivered(&self) -> u64 {
        let bytes = self.subscribers.iter().map(|subscriber| subscriber.received).sum::<u64>();
        bytes / self.protocol.delivered.len() as u64
    }

    /// The number of the message that the slowest subscriber waits for.
    fn slowest(&self) -> u64 {
        let len = self.protocol.delivered.len() as u64;
        let next =
            |subscriber: &Subscriber| subscriber.first.unwrap_or(0) + subscriber.received / len;
        self.subscribers.iter().map(next).min().unwrap_or(0)
    }

    fn watch(&mut self, flags: EventFlags) -> io::Result<()> {
        if self.publisher.watched != flags {
            self.publisher.watched = flags;
            let data = EventData::new_u64(PUBLISHER);
            epoll::modify(&self.epoll, &self.publisher.stream, data, flags)?;
        }
        Ok(())
    }

    /// Waits for readiness, for at most `limit`. Without a `limit` it fails if no socket becomes
    /// ready for 5 s.
    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let timeout = Timespec::try_from(limit.unwrap_or(RECEIVE_TIMEOUT)).expect("the time fits");
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(0) if limit.is_none() => Err(timed_out()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads from the subscribers that [`wait`](Self::wait) has found ready. Returns true if the
    /// publisher can write.
    fn receive(&mut self, check: Check, latencies: &mut Vec<Duration>) -> io::Result<bool> {
        let mut writable = false;
        for &Event { flags, data } in &self.events {
            let readable = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
            if data.u64() == PUBLISHER {
                writable = flags.contains(EventFlags::OUT);
                if readable && not_blocked(self.publisher.stream.read(&mut self.buffer))? == Some(0)
                {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                continue;
            }
            let number =
                usize::try_from(data.u64()).expect("the token of a subscriber is its index");
            let subscriber = &mut self.subscribers[number];
            match check {
                Check::Count => subscriber.count(&mut self.buffer)?,
                Check::Bytes => {
                    let read = subscriber.stream.read(&mut self.buffer[..COMPARE]);
                    let Some(n) = not_blocked(read)? else { continue };
                    if n == 0 {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                    let now = self.epoch.elapsed();
                    subscriber.compare(&self.buffer[..n], &self.protocol, now, latencies)?;
                }
            }
        }
        Ok(writable)
    }
}

impl Publisher {
    fn new(stream: TcpStream, frame: Frame) -> Self {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            batch.extend_from_slice(frame.before);
            batch.extend_from_slice(&[b'.'; MESSAGE]);
            batch.extend_from_slice(frame.behind);
        }
        let watched = EventFlags::IN;
        Self { stream, frame, published: 0, batch, filled: 0, sent: 0, watched }
    }

    fn has_unsent(&self) -> bool {
        self.sent < self.filled
    }

    /// Fills the empty batch with at most `messages` messages.
    fn fill(&mut self, messages: u64, epoch: Instant) {
        let len = self.frame.len();
        let count = messages.min(BATCH);
        let now =
            u64::try_from(epoch.elapsed().as_nanos()).expect("the time is less than 500 years");
        for frame in self.batch.chunks_exact_mut(len).zip(0..count).map(|(frame, _)| frame) {
            let message = &mut frame[self.frame.before.len()..];
            message[NUMBER..TIME].copy_from_slice(&self.published.to_be_bytes());
            message[TIME..FILLER].copy_from_slice(&now.to_be_bytes());
            self.published += 1;
        }
        self.sent = 0;
        self.filled = usize::try_from(count).expect("the time fits") * len;
    }

    /// Does one write.
    fn send(&mut self) -> io::Result<()> {
        let sent = self.stream.write(&self.batch[self.sent..self.filled]);
        self.sent += not_blocked(sent)?.unwrap_or(0);
        Ok(())
    }
}

impl Subscriber {
    fn count(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let received = recv(&self.stream, buffer, RecvFlags::TRUNC).map_err(io::Error::from);
        match not_blocked(received.map(|(_, n)| n))? {
            Some(0) => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                self.received += n.unwrap_or(0) as u64;
                Ok(())
            }
        }
    }

    /// Checks that the bytes are the next messages.
    fn compare(
        &mut self,
        bytes: &[u8],
        protocol: &Protocol,
        now: Duration,
        latencies: &mut Vec<Duration>,
    ) -> io::Result<()> {
        let mut partial = std::mem::take(&mut self.partial);
        let mut rest = bytes;
        if !partial.is_empty() {
            partial.extend_from_slice(bytes);
            rest = &partial;
        }
        let frame = protocol.delivered;
        loop {
            if !protocol.ping.is_empty()
                && let Some(after) = rest.strip_prefix(protocol.ping)
            {
                self.pings += protocol.ping.len() as u64;
                rest = after;
                continue;
            }
            let Some((next, after)) = rest.split_at_checked(frame.len()) else { break };
            let message = next
                .strip_prefix(frame.before)
                .and_then(|next| next.strip_suffix(frame.behind))
                .ok_or_else(|| wrong("bytes that are no message"))?;
            let number = u64_of(&message[NUMBER..TIME]);
            let first = *self.first.get_or_insert(number);
            let expected = first + self.received / frame.len() as u64;
            if number != expected {
                return Err(wrong(&format!("message {number} instead of {expected}")));
            }
            if message[FILLER..] != [b'.'; MESSAGE - FILLER] {
                return Err(wrong(&format!("message {number} is damaged")));
            }
            latencies
                .push(now.saturating_sub(Duration::from_nanos(u64_of(&message[TIME..FILLER]))));
            self.received += frame.len() as u64;
            rest = after;
        }
        self.partial = rest.to_vec();
        Ok(())
    }
}

fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("the slice has eight bytes"))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    // Closing then leaves no port in TIME_WAIT: there are too few ports.
    sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}

/// Calls `attempt` until it succeeds, for at most 5 s.
fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + RECEIVE_TIMEOUT;
    loop {
        match attempt() {
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

fn timed_out() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "messages are missing, and no more arrive")
}

fn wrong(received: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a subscriber received {received}"))
}

/// The positions of a message's parts: its number, its time and the filler.
const NUMBER: usize = 0;
const TIME: usize = 8;
const FILLER: usize = 16;

/// The publisher's token in epoll.
const PUBLISHER: u64 = u64::MAX;
/// The most messages of one write.
const BATCH: u64 = 256;
/// The most bytes of one read. While bytes are only counted, they are not copied into memory.
const RECEIVE: usize = 1024 * 1024;
/// The most bytes of one read while bytes are compared.
const COMPARE: usize = 256 * 1024;
/// The publisher's send buffer in bytes: small, so that few bytes are in flight at the end.
const PUBLISHER_BUFFER: usize = 256 * 1024;
/// Connections that are opened at the same time. The smallest backlog is that of std, 128.
const BACKLOG: usize = 100;
/// The time in which the server accepts these connections.
const ACCEPT_TIME: Duration = Duration::from_millis(10);
/// The interval at which messages are published until all subscribers have joined.
const JOIN_INTERVAL: Duration = Duration::from_millis(20);
/// The longest wait for expected bytes, after which the load fails.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most pings that a broker may send to a subscriber.
const MAX_PINGS: u64 = 8;
