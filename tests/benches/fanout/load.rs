//! The load: one thread with epoll, which is the upstream and all subscribers.
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
    /// The messages carry their time since this instant.
    epoch: Instant,
}

struct Publisher {
    stream: TcpStream,
    frame: Frame,
    /// Messages that the kernel has taken or that are in `batch`.
    published: u64,
    /// Framed messages.
    batch: Vec<u8>,
    /// How many bytes of the batch are filled, and how many of those the kernel has taken.
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
    /// Bytes that the server has sent besides messages.
    aside: u64,
    /// The beginning of an incomplete message.
    begun: Vec<u8>,
}

/// What the load does with the bytes that arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// It compares them with what was published.
    Bytes,
    /// It only counts them.
    Count,
}

/// When publishing ends.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// After this time,
    pub(crate) time: Duration,
    /// or after this number of messages.
    pub(crate) messages: u64,
    /// Publishing pauses when it is this number of messages ahead of the slowest subscriber.
    pub(crate) most_ahead: Option<u64>,
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
            let stream = patiently(|| TcpStream::connect(server))?;
            protocol.greet_as_publisher(&stream)?;
            stream
        } else {
            upstream.set_nonblocking(true)?;
            patiently(|| upstream.accept())?.0
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
            let begun = Vec::new();
            subscribers.push(Subscriber { stream, first: None, received: 0, aside: 0, begun });
            if (number + 1) % BACKLOG == 0 {
                thread::sleep(ACCEPTING);
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
        let end = Instant::now() + PATIENCE;
        while self.subscribers.iter().any(|subscriber| subscriber.first.is_none()) {
            if Instant::now() >= end {
                let message = "a subscriber gets nothing of what is published";
                return Err(io::Error::new(ErrorKind::TimedOut, message));
            }
            self.publisher.fill(1, self.epoch);
            self.publisher.send()?;
            let pause = Instant::now() + JOINING;
            while Instant::now() < pause {
                self.wait(Some(Duration::from_millis(1)))?;
                self.receive(Check::Bytes, &mut Vec::new())?;
            }
        }
        self.drain(Check::Bytes)
    }

    /// Publishes as fast as the server takes messages, then waits for all deliveries. Calls
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
            let going_on = Instant::now() < end && self.publisher.published < last;
            if !going_on && !self.publisher.owes() {
                break;
            }
            let most = extent.most_ahead.map_or(last, |ahead| last.min(self.slowest() + ahead));
            let room = most.saturating_sub(self.publisher.published);
            let can = self.publisher.owes() || (going_on && room > 0);
            self.watch(if can { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN })?;
            self.wait(None)?;
            let writable = self.receive(check, &mut Vec::new())?;
            if writable {
                if going_on && !self.publisher.owes() {
                    self.publisher.fill(room, self.epoch);
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
                while self.publisher.owes() {
                    self.publisher.send()?;
                }
            }
            // Do not sleep: the time to wake up would add to the latencies.
            self.wait(Some(Duration::ZERO))?;
            self.receive(Check::Bytes, latencies)?;
        }
        let end = Instant::now() + PATIENCE;
        while self.owing() {
            if Instant::now() >= end {
                return Err(silent());
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
            while self.owing() {
                self.wait(None)?;
                self.receive(Check::Bytes, &mut Vec::new())?;
            }
        }
        self.drain(Check::Bytes)?;
        Ok(self.delivered() - before)
    }

    /// Waits for all deliveries, and checks that nothing else arrives.
    fn drain(&mut self, check: Check) -> io::Result<()> {
        while self.owing() {
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
            let aside = self.protocol.aside.len() as u64;
            if surplus > 0 && (aside == 0 || !surplus.is_multiple_of(aside)) {
                return Err(wrong(&format!("{surplus} bytes more than were published")));
            }
            subscriber.received -= surplus;
            subscriber.aside += surplus;
            if subscriber.aside > MAX_ASIDES * aside {
                return Err(wrong("more than was published"));
            }
        }
        Ok(())
    }

    /// The total bytes that a subscriber should have received.
    fn expected(&self, number: usize) -> u64 {
        let first = self.subscribers[number].first.unwrap_or(self.publisher.published);
        (self.publisher.published - first) * self.protocol.delivered.len() as u64
    }

    fn owing(&self) -> bool {
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

    /// Waits for readiness. Without a `limit` it fails if nothing becomes ready in time.
    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let timeout = Timespec::try_from(limit.unwrap_or(PATIENCE)).expect("the time fits");
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(0) if limit.is_none() => Err(silent()),
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

    fn owes(&self) -> bool {
        self.sent < self.filled
    }

    /// Fills the empty batch with up to this number of messages.
    fn fill(&mut self, messages: u64, epoch: Instant) {
        let len = self.frame.len();
        let count = messages.min(BATCH);
        let now =
            u64::try_from(epoch.elapsed().as_nanos()).expect("the time is less than 500 years");
        for frame in self.batch.chunks_exact_mut(len).zip(0..count).map(|(frame, _)| frame) {
            let message = &mut frame[self.frame.before.len()..];
            message[NUMBER..TIME].copy_from_slice(&self.published.to_be_bytes());
            message[TIME..REST].copy_from_slice(&now.to_be_bytes());
            self.published += 1;
        }
        self.sent = 0;
        self.filled = usize::try_from(count).expect("the time fits") * len;
    }

    /// One write.
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
        let mut begun = std::mem::take(&mut self.begun);
        let mut left = bytes;
        if !begun.is_empty() {
            begun.extend_from_slice(bytes);
            left = &begun;
        }
        let frame = protocol.delivered;
        loop {
            if !protocol.aside.is_empty()
                && let Some(rest) = left.strip_prefix(protocol.aside)
            {
                self.aside += protocol.aside.len() as u64;
                left = rest;
                continue;
            }
            let Some((next, rest)) = left.split_at_checked(frame.len()) else { break };
            let message = next
                .strip_prefix(frame.before)
                .and_then(|next| next.strip_suffix(frame.behind))
                .ok_or_else(|| wrong("no message"))?;
            let number = u64_of(&message[NUMBER..TIME]);
            let first = *self.first.get_or_insert(number);
            let expected = first + self.received / frame.len() as u64;
            if number != expected {
                return Err(wrong(&format!("message {number} instead of {expected}")));
            }
            if message[REST..] != [b'.'; MESSAGE - REST] {
                return Err(wrong(&format!("message {number} is damaged")));
            }
            latencies.push(now.saturating_sub(Duration::from_nanos(u64_of(&message[TIME..REST]))));
            self.received += frame.len() as u64;
            left = rest;
        }
        self.begun = left.to_vec();
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

/// Connects, and retries for some seconds.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

fn silent() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "the server owes messages and is silent")
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a subscriber got {what}"))
}

/// The parts of a message: its number and its time. The rest is filler.
const NUMBER: usize = 0;
const TIME: usize = 8;
const REST: usize = 16;

/// The token of the publisher in epoll.
const PUBLISHER: u64 = u64::MAX;
/// The most messages of one write.
const BATCH: u64 = 256;
/// The most bytes of one read. While bytes are only counted, they are not copied into memory.
const RECEIVE: usize = 1024 * 1024;
/// The most bytes of one read while bytes are compared.
const COMPARE: usize = 256 * 1024;
/// The publisher's send buffer in bytes: small, so that little is in flight at the end.
const PUBLISHER_BUFFER: usize = 256 * 1024;
/// Connections that are opened at the same time. The smallest backlog is that of std, 128.
const BACKLOG: usize = 100;
const ACCEPTING: Duration = Duration::from_millis(10);
/// The interval of the messages that test whether all subscribers have joined.
const JOINING: Duration = Duration::from_millis(20);
/// How long the load waits for expected bytes before it fails.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes that a broker may send to a subscriber besides messages.
const MAX_ASIDES: u64 = 8;
