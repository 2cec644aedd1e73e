//! The floor: a fan-out with one thread, epoll, one ring for the input, and a cursor into it for
//! each subscriber. Its cost is nearly the kernel's.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
};

use crate::{
    measure::{
        process::{ANY_PORT, announce},
        socket::not_blocked,
    },
    protocol::MESSAGE,
};

/// The size of the ring in bytes: the most that a subscriber may be behind.
const WINDOW: usize = 16 * 1024 * 1024;
/// The most bytes of one read.
const READ: usize = 64 * 1024;
/// The most reads in a row before output is sent to the subscribers.
const READS: usize = 8;

const LISTENER: u64 = u64::MAX;
const UPSTREAM: u64 = u64::MAX - 1;

/// Fans out until it is killed.
pub(crate) fn serve(upstream: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(ANY_PORT)?;
    listener.set_nonblocking(true)?;
    announce(listener.local_addr()?)?;
    let mut upstream = TcpStream::connect(upstream)?;
    upstream.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    // Edge-triggered: readiness is reported once, so it is used or remembered.
    let edge = EventFlags::ET;
    epoll::add(&epoll, &upstream, EventData::new_u64(UPSTREAM), EventFlags::IN | edge)?;

    let mut ring = Ring { bytes: vec![0; WINDOW], head: 0, slowest: 0 };
    let mut subscribers: Vec<Option<Subscriber>> = Vec::new();
    let mut readable = false;
    let mut events: Vec<Event> = Vec::with_capacity(1024);
    loop {
        // Do not wait while the upstream has bytes and the ring has space.
        let space = if readable { ring.space(&subscribers) } else { 0 };
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = (space > 0).then_some(&now);
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), timeout)?;
        for event in &events {
            match event.data.u64() {
                LISTENER => {
                    if let Some((stream, _)) = not_blocked(listener.accept())? {
                        stream.set_nonblocking(true)?;
                        stream.set_nodelay(true)?;
                        let slot = EventData::new_u64(subscribers.len() as u64);
                        epoll::add(&epoll, &stream, slot, EventFlags::OUT | edge)?;
                        let cursor = ring.head.next_multiple_of(MESSAGE);
                        subscribers.push(Some(Subscriber { stream, cursor, blocked: false }));
                    }
                }
                UPSTREAM => readable = true,
                slot => {
                    let slot =
                        usize::try_from(slot).expect("the token of a subscriber is its index");
                    if let Some(subscriber) = &mut subscribers[slot]
                        && subscriber.blocked
                    {
                        subscriber.blocked = false;
                        if subscriber.send(&ring).is_err() {
                            subscribers[slot] = None;
                        }
                    }
                }
            }
        }
        if readable {
            let before = ring.head;
            let space = ring.space(&subscribers);
            readable = ring.fill(&mut upstream, space)?;
            if ring.head > before {
                for slot in &mut subscribers {
                    if let Some(subscriber) = slot
                        && !subscriber.blocked
                        && subscriber.send(&ring).is_err()
                    {
                        *slot = None;
                    }
                }
            }
        }
    }
}

struct Ring {
    bytes: Vec<u8>,
    /// Total bytes read from the upstream.
    head: usize,
    /// The position that all subscribers had reached at the last check.
    slowest: usize,
}

impl Ring {
    /// How many bytes can be read without overwriting bytes of the slowest subscriber.
    fn space(&mut self, subscribers: &[Option<Subscriber>]) -> usize {
        if self.bytes.len() - (self.head - self.slowest) < READ {
            let cursors = subscribers.iter().flatten().map(|subscriber| subscriber.cursor);
            self.slowest = cursors.min().unwrap_or(self.head).min(self.head);
        }
        self.bytes.len() - (self.head - self.slowest)
    }

    /// Reads from the upstream. Returns false once it has no more bytes.
    fn fill(&mut self, upstream: &mut TcpStream, mut space: usize) -> io::Result<bool> {
        for _ in 0..READS {
            let start = self.head % self.bytes.len();
            let end = self.bytes.len().min(start + READ.min(space));
            if start == end {
                break;
            }
            let Some(n) = not_blocked(upstream.read(&mut self.bytes[start..end]))? else {
                return Ok(false);
            };
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.head += n;
            space -= n;
        }
        Ok(true)
    }

    /// The bytes from `cursor` on, in two slices if they wrap around the end of the ring.
    fn from(&self, cursor: usize) -> [&[u8]; 2] {
        let start = cursor % self.bytes.len();
        let len = self.head - cursor;
        let first = len.min(self.bytes.len() - start);
        [&self.bytes[start..start + first], &self.bytes[..len - first]]
    }
}

struct Subscriber {
    stream: TcpStream,
    /// The position of its next byte, which may not have arrived yet.
    cursor: usize,
    /// Whether the socket is full: no readiness was reported since a short write.
    blocked: bool,
}

impl Subscriber {
    /// Does one write.
    fn send(&mut self, ring: &Ring) -> io::Result<()> {
        if self.cursor >= ring.head {
            return Ok(());
        }
        let available = ring.head - self.cursor;
        let [first, second] = ring.from(self.cursor);
        let sent = if second.is_empty() {
            self.stream.write(first)
        } else {
            self.stream.write_vectored(&[IoSlice::new(first), IoSlice::new(second)])
        };
        let n = not_blocked(sent)?.unwrap_or(0);
        self.cursor += n;
        self.blocked = n < available;
        Ok(())
    }
}
