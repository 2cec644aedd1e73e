//! The memory and the time that a streamed content of 1 GiB takes.
//!
//! ```text
//! cargo bench -p wirestate-core --bench message_streaming
//! ```
//!
//! | path | what receives the content |
//! |---|---|
//! | `decoder` | a [`Decoder`], from a buffer of 64 KiB |
//! | `connection` | a server's machine whose service [streams](Delivery::Stream) it |
//!
//! The first pass compares the received content with the sent one, and counts every allocation,
//! including the buffer. While an allocation grows, its old and its new memory both count. The
//! benchmark fails if **1 MiB** or more is held at any time.
//!
//! The second pass is timed, and compares nothing. Like the kernel, it copies each byte once.

use std::{
    process::ExitCode,
    time::{Duration, Instant as Stopwatch},
};

use allocation_counter::{AllocationInfo, measure};
use wirestate_core::{
    Instant, drive,
    message::{
        DecodeEvent, Decoder, Delivery, FrameLimits, Header, Message, Server,
        service::{Reply, Service},
    },
};

const CONTENT: u64 = 1024 * 1024 * 1024;
/// The most bytes that one read returns.
const READ: usize = 64 * 1024;
/// The memory held must stay below this, in bytes.
const MEMORY_LIMIT: u64 = 1024 * 1024;
/// The content repeats after this many bytes. It is a prime, so consecutive reads differ.
const PERIOD: usize = 65_521;
const NOW: Instant = Instant::EPOCH;

fn main() -> ExitCode {
    let pattern = pattern();
    let mut is_within_limit = true;
    for (name, path) in [("decoder", decoder as fn(Received<'_>)), ("connection", connection)] {
        let AllocationInfo { bytes_max, count_total, .. } =
            measure(|| path(Received { pattern: &pattern, bytes: 0, compare: true }));
        let start = Stopwatch::now();
        path(Received { pattern: &pattern, bytes: 0, compare: false });
        let time = start.elapsed();
        let verdict = if bytes_max < MEMORY_LIMIT { "reached" } else { "MISSED" };
        println!(
            "{name:<12}{bytes_max:>9} bytes held at most, {count_total} allocations, \
             {:.2} GiB/s  goal: < {MEMORY_LIMIT} {verdict}",
            Duration::from_secs(1).div_duration_f64(time),
        );
        is_within_limit &= bytes_max < MEMORY_LIMIT;
    }
    if is_within_limit { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Two periods of the content, so that a read can begin anywhere in the first.
fn pattern() -> Vec<u8> {
    let period = (0..PERIOD).map(|at| (at * at / 251).to_le_bytes()[0]);
    period.clone().chain(period).collect()
}

/// The bytes of the content from `position` on, at most [`READ`].
fn content(pattern: &[u8], position: u64) -> &[u8] {
    let start = usize::try_from(position % PERIOD as u64).expect("below the period");
    let remaining = usize::try_from(CONTENT - position).unwrap_or(usize::MAX);
    &pattern[start..][..READ.min(PERIOD).min(remaining)]
}

/// The part of the content that was received.
#[derive(Clone, Copy)]
struct Received<'p> {
    pattern: &'p [u8],
    bytes: u64,
    compare: bool,
}

impl Received<'_> {
    fn receive(&mut self, chunk: &[u8]) {
        if self.compare {
            let expected = content(self.pattern, self.bytes);
            assert!(chunk == &expected[..chunk.len()], "it differs after byte {}", self.bytes);
        }
        self.bytes += chunk.len() as u64;
    }
}

/// The length prefix and the header of the frame.
fn head() -> Vec<u8> {
    let Message { byteorder, content_type, content_encoding, .. } = Message::binary("");
    let header = Header { byteorder, content_type, content_encoding, content_length: CONTENT };
    let mut head = Vec::new();
    header.encode(&mut head).expect("the header is short");
    head
}

fn decoder(mut received: Received<'_>) {
    let mut decoder = Decoder::new(FrameLimits::default().with_max_content(CONTENT));
    let mut buffer = vec![0; READ];
    let mut has_ended = false;
    let mut decode = |mut input: &[u8], received: &mut Received<'_>| {
        while let Some(event) = decoder.decode(&mut input).expect("the input is a frame") {
            match event {
                DecodeEvent::Header(header) => assert_eq!(header.content_length, CONTENT),
                DecodeEvent::Content(chunk) => received.receive(chunk),
                DecodeEvent::End => has_ended = true,
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
    assert!(has_ended && received.bytes == CONTENT, "the frame is not complete");
}

impl Service for Received<'_> {
    type Pending = std::future::Ready<Message<'static>>;

    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending> {
        assert!(request.content.is_empty(), "the content was not streamed");
        Reply::Ready(Message::binary(self.bytes.to_be_bytes().to_vec()))
    }

    fn delivery(&mut self, _header: &Header<'_>) -> Delivery {
        Delivery::Stream { max_content: CONTENT }
    }

    fn chunk(&mut self, chunk: &[u8]) {
        self.receive(chunk);
    }
}

fn connection(received: Received<'_>) {
    let mut machine = Server::with_default_config(received).machine(NOW);
    drive::deliver(&mut machine, &mut &head()[..], NOW);
    let mut sent = 0;
    while sent < CONTENT {
        let read = content(received.pattern, sent);
        let mut rest = read;
        drive::deliver(&mut machine, &mut rest, NOW);
        assert!(rest.is_empty(), "the machine has stopped reading");
        sent += read.len() as u64;
    }
    let mut reply = [0; 1024];
    let n = drive::collect_into(&mut machine, &mut reply, NOW);
    assert!(reply[..n].ends_with(&CONTENT.to_be_bytes()), "the content is not complete");
}
