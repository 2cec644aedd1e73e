//! A content of 1 GiB in pieces: how much memory is held meanwhile, and how long it takes.
//!
//! ```text
//! cargo bench -p wirestate-core --bench message_streaming
//! ```
//!
//! | path | what a content goes through |
//! |---|---|
//! | `decoder` | a [`Decoder`], from a buffer of 64 KiB that a read would fill |
//! | `connection` | a server's [`Connection`](message::Connection) whose service has it [streamed](Delivery::Stream), fed as by a read |
//!
//! Every allocation on the way is counted, that of the buffer included, by an allocator that
//! stands in for the usual one; where memory grows, the old and the new are counted side by side.
//! Each piece is compared with what was sent, and **less than 1 MiB** may be held at any time, or
//! this fails.
//!
//! The time is that of a second pass, which compares nothing; it includes one copy of each byte,
//! which stands for the kernel's.

use std::{
    process::ExitCode,
    time::{Duration, Instant as Stopwatch},
};

use allocation_counter::{AllocationInfo, measure};
use wirestate_core::{
    Instant, drive,
    message::{
        Config, Decoder, Delivery, Event, Header, Limits, Message, Server,
        service::{Reply, Service},
    },
};

const CONTENT: u64 = 1024 * 1024 * 1024;
/// What a read brings at most.
const READ: usize = 64 * 1024;
/// The most that may be held, in bytes.
const MOST: u64 = 1024 * 1024;
/// The content repeats after so many bytes, a prime: no piece looks like the one before.
const PERIOD: usize = 65_521;
const NOW: Instant = Instant::EPOCH;

fn main() -> ExitCode {
    let pattern = pattern();
    let mut modest = true;
    for (name, path) in [("decoder", decoder as fn(Received<'_>)), ("connection", connection)] {
        let AllocationInfo { bytes_max, count_total, .. } =
            measure(|| path(Received { pattern: &pattern, bytes: 0, compare: true }));
        let start = Stopwatch::now();
        path(Received { pattern: &pattern, bytes: 0, compare: false });
        let time = start.elapsed();
        let verdict = if bytes_max < MOST { "reached" } else { "MISSED" };
        println!(
            "{name:<12}{bytes_max:>9} bytes held at most, {count_total} allocations, \
             {:.2} GiB/s  goal: < {MOST} {verdict}",
            Duration::from_secs(1).div_duration_f64(time),
        );
        modest &= bytes_max < MOST;
    }
    if modest { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Two periods, so that a read's worth begins anywhere in the first.
fn pattern() -> Vec<u8> {
    let period = (0..PERIOD).map(|at| (at * at / 251).to_le_bytes()[0]);
    period.clone().chain(period).collect()
}

/// The bytes of the content from `position` on, at most [`READ`].
fn content(pattern: &[u8], position: u64) -> &[u8] {
    let start = usize::try_from(position % PERIOD as u64).expect("below the period");
    let left = usize::try_from(CONTENT - position).unwrap_or(usize::MAX);
    &pattern[start..][..READ.min(PERIOD).min(left)]
}

/// What has come of the content.
#[derive(Clone, Copy)]
struct Received<'p> {
    pattern: &'p [u8],
    bytes: u64,
    compare: bool,
}

impl Received<'_> {
    fn piece(&mut self, piece: &[u8]) {
        if self.compare {
            let expected = content(self.pattern, self.bytes);
            assert!(piece == &expected[..piece.len()], "it differs behind byte {}", self.bytes);
        }
        self.bytes += piece.len() as u64;
    }
}

/// The frame up to its content.
fn head() -> Vec<u8> {
    let Message { byteorder, content_type, content_encoding, .. } = Message::binary("");
    let header = Header { byteorder, content_type, content_encoding, content_length: CONTENT };
    let mut head = Vec::new();
    header.encode(&mut head).expect("it is short");
    head
}

fn decoder(mut received: Received<'_>) {
    let mut decoder = Decoder::new(Limits { content: CONTENT, ..Limits::default() });
    let mut buffer = vec![0; READ];
    let mut over = false;
    let mut decode = |mut input: &[u8], received: &mut Received<'_>| {
        while let Some(event) = decoder.decode(&mut input).expect("it is a frame") {
            match event {
                Event::Header(header) => assert_eq!(header.content_length, CONTENT),
                Event::Content(piece) => received.piece(piece),
                Event::End => over = true,
            }
        }
    };
    decode(&head(), &mut received);
    while received.bytes < CONTENT {
        let sent = content(received.pattern, received.bytes);
        buffer[..sent.len()].copy_from_slice(sent);
        decode(&buffer[..sent.len()], &mut received);
    }
    decode(&[], &mut received);
    assert!(over && received.bytes == CONTENT, "all of it has come");
}

impl Service for Received<'_> {
    type Pending = std::future::Ready<Message<'static>>;

    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending> {
        assert!(request.content.is_empty(), "its content has come in pieces");
        Reply::Now(Message::binary(self.bytes.to_be_bytes().to_vec()))
    }

    fn delivery(&mut self, _header: &Header<'_>) -> Delivery {
        Delivery::Stream { limit: CONTENT }
    }

    fn piece(&mut self, piece: &[u8]) {
        Received::piece(self, piece);
    }
}

fn connection(received: Received<'_>) {
    let mut machine = Server::new(Config::default(), received).machine(NOW);
    drive::deliver(&mut machine, &mut &head()[..], NOW);
    let mut sent = 0;
    while sent < CONTENT {
        let piece = content(received.pattern, sent);
        let mut left = piece;
        drive::deliver(&mut machine, &mut left, NOW);
        assert!(left.is_empty(), "nothing is owed that could hold it up");
        sent += piece.len() as u64;
    }
    let mut reply = [0; 1024];
    let n = drive::collect_into(&mut machine, &mut reply, NOW);
    assert!(reply[..n].ends_with(&CONTENT.to_be_bytes()), "all of it has come");
}
