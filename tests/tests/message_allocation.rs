//! Memory grows with the received bytes, not with declared lengths: every allocation is counted.
//!
//! After each received piece, the allocated memory is at most the received bytes of the frame plus
//! a constant. While a content that is larger than the buffer grows, the allocator may hold the old
//! and the new memory for a moment, if it cannot extend in place (the counting one never does). The
//! limit is then twice the received bytes plus the constant.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use allocation_counter::{AllocationInfo, measure};
use wirestate_core::{
    Event, Instant, Machine as _,
    buffer::Pool,
    drive::{collect_into, deliver},
    message::{
        Client, ClientConfig, Config, Decoder, Header, Inbox, Limits, Message, Server, service,
    },
};
use wirestate_testkit::message::{bad_frames, frames, golden};

/// The constant under [`Limits::default`]: the buffer (64 KiB), space for more of a content (64
/// KiB), replies that are being encoded, and parsing a header of 4 KiB (72 bytes for each key; a
/// key takes at least 6 bytes).
const CONSTANT: u64 = 3 * 64 * 1024;

/// Measures the allocated memory at each step.
struct Count<'a> {
    name: &'a str,
    constant: u64,
    /// Received bytes.
    received: u64,
    held: i64,
    /// The most memory that was allocated between two steps.
    most: u64,
}

impl<'a> Count<'a> {
    fn new(name: &'a str, constant: u64) -> Self {
        Self { name, constant, received: 0, held: 0, most: 0 }
    }

    fn step(&mut self, received: usize, step: impl FnOnce()) {
        let AllocationInfo { bytes_max, bytes_current, .. } = measure(step);
        self.received += received as u64;
        let (name, received, constant) = (self.name, self.received, self.constant);
        let peak = u64::try_from(self.held).unwrap() + bytes_max;
        self.held += bytes_current;
        let held = u64::try_from(self.held).unwrap();
        self.most = self.most.max(held);
        assert!(held <= received + constant, "{name}: {held} bytes for {received}");
        assert!(
            peak <= 2 * received + constant,
            "{name}: for a moment {peak} bytes for {received}"
        );
    }
}

/// A receiver of pieces, and what it does after each of them.
type Taker = Box<dyn FnMut(&[u8])>;

fn decoder(limits: Limits) -> Taker {
    let mut decoder = Decoder::new(limits);
    Box::new(move |mut piece| while let Ok(Some(_)) = decoder.decode(&mut piece) {})
}

fn inbox(limits: Limits) -> Taker {
    let mut inbox =
        Inbox::new(limits, Pool::new((64 * 1024).max(2 + usize::from(limits.header)), 1));
    let mut failed = false;
    Box::new(move |mut piece| {
        while !piece.is_empty() && !failed {
            let spare = inbox.spare();
            let n = spare.len().min(piece.len());
            spare[..n].copy_from_slice(&piece[..n]);
            piece = &piece[n..];
            inbox.commit(n);
            while let Some(message) = inbox.take().unwrap_or_else(|_| {
                failed = true;
                None
            }) {
                drop(message.into_owned());
            }
        }
    })
}

fn connection(limits: Limits) -> Taker {
    let config = Config { limits, ..Config::default() };
    let server = Server::new(config, service::function(|_| Message::binary("")));
    let mut machine = server.machine(Instant::EPOCH);
    let mut output = [0; 4096];
    Box::new(move |mut piece| {
        deliver(&mut machine, &mut piece, Instant::EPOCH);
        while collect_into(&mut machine, &mut output, Instant::EPOCH) > 0 {}
    })
}

fn client(limits: Limits) -> Taker {
    let config = ClientConfig { limits, ..ClientConfig::default() };
    let mut machine = Client::new(config);
    machine.request(&Message::binary(""), Instant::EPOCH).unwrap();
    collect_into(&mut machine, &mut [0; 1024], Instant::EPOCH);
    Box::new(move |mut piece| {
        deliver(&mut machine, &mut piece, Instant::EPOCH);
        drop(machine.take_reply());
    })
}

type NewTaker = fn(Limits) -> Taker;

const TAKERS: [(&str, NewTaker); 4] =
    [("decoder", decoder), ("inbox", inbox), ("connection", connection), ("client", client)];

/// Feeds `bytes` in pieces, and counts.
fn count(name: &str, constant: u64, mut taker: Taker, bytes: &[u8], cut: usize) -> u64 {
    let mut count = Count::new(name, constant);
    for piece in bytes.chunks(cut) {
        count.step(piece.len(), || taker(piece));
    }
    count.most
}

#[test]
fn a_bad_input_takes_no_more_memory_than_it_has_bytes_and_a_constant() {
    for bad in bad_frames() {
        for (who, taker) in TAKERS {
            for cut in [usize::MAX, 100, 1] {
                if bad.bytes.len() < 10_000 || cut > 1 {
                    let name = format!("{who}, {}", bad.name);
                    count(&name, CONSTANT, taker(Limits::default()), &bad.bytes, cut);
                }
            }
        }
    }
}

/// The header declares terabytes, and the content arrives slowly.
#[test]
fn memory_follows_what_has_come_of_a_content_whatever_was_declared() {
    for declared in [1 << 20, 1 << 30, 4_000_000_000_000, i64::MAX as u64] {
        let limits = Limits { content: declared, ..Limits::default() };
        let mut bytes = Vec::new();
        let empty = Message::binary("");
        Header { content_length: declared, ..empty.header() }.encode(&mut bytes).unwrap();
        bytes.resize(bytes.len() + 700_000, b'.');
        for (who, taker) in TAKERS {
            let name = format!("{who}, {declared} declared");
            // With limits this large, memory grows by up to 1 MiB at a time.
            let constant = CONSTANT + 1024 * 1024;
            let at_once = count(&name, constant, taker(limits), &bytes, usize::MAX);
            let drips = count(&name, constant, taker(limits), &bytes, 997);
            if who == "decoder" {
                assert!(at_once.max(drips) < 10_000, "it holds no content");
            }
            // The header alone allocates little.
            let head = &bytes[..bytes.len() - 700_000];
            let most = count(&name, constant, taker(limits), head, usize::MAX);
            assert!(most < 70_000, "{name}: {most} bytes for a header");
        }
    }
}

/// With the default limits, against the smaller constant.
#[test]
fn the_longest_content_that_is_allowed_takes_its_bytes_and_a_constant() {
    let request = frames([&Message::binary(vec![7; 1 << 20])]);
    for (who, taker) in TAKERS {
        for cut in [usize::MAX, 64 * 1024, 4099] {
            count(who, CONSTANT, taker(Limits::default()), &request, cut);
        }
    }
}

/// One byte at a time, up to the last but one: every length of the header and the content.
#[test]
fn a_frame_that_comes_in_drips_takes_the_buffer_and_nothing_more() {
    for (who, taker) in TAKERS {
        let most = count(who, CONSTANT, taker(Limits::default()), &golden()[..145], 1);
        assert!(most < 66_000, "{who}: {most} bytes for 145");
    }
}

#[test]
fn a_header_of_nothing_but_keys_takes_some_times_its_size() {
    let keys: Vec<String> = (0..10_000_u32).map(|i| format!("\"{i:x}\":0")).collect();
    let object = format!("{{{}}}", keys.join(","));
    let length = u16::MAX;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&object.as_bytes()[..usize::from(length)]);
    let limits = Limits { header: length, ..Limits::default() };
    for (who, taker) in TAKERS {
        count(who, CONSTANT + 12 * u64::from(length), taker(limits), &bytes, usize::MAX);
        count(who, CONSTANT + 12 * u64::from(length), taker(limits), &bytes, 1000);
    }
}

/// A service that answers each request with the request itself.
fn itself(request: Message<'_>) -> Message<'static> {
    request.into_owned()
}

/// Many requests on one connection do not make it grow.
#[test]
fn a_connection_that_was_used_holds_nothing_once_it_is_idle() {
    let server =
        Server::new(Config { idle_buffers: 0, ..Config::default() }, service::function(itself));
    let mut machine = server.machine(Instant::EPOCH);
    let big = frames([&Message::binary(vec![7; 300_000])]);
    let small = golden().repeat(50);
    let mut held = 0;
    for round in 0..5 {
        for input in [&big, &small] {
            let used = measure(|| {
                let (mut rest, mut output, mut sent) = (&input[..], [0; 4096], 0);
                while sent < input.len() {
                    deliver(&mut machine, &mut rest, Instant::EPOCH);
                    let n = collect_into(&mut machine, &mut output, Instant::EPOCH);
                    assert!(n > 0, "a part of the output is missing");
                    sent += n;
                }
                assert_eq!((sent, rest.len()), (input.len(), 0));
                machine.handle(Instant::EPOCH, Event::Release);
            });
            held += used.bytes_current;
            assert!(held <= 64, "{held} bytes after round {round}");
        }
    }
}

/// Connections that have received most of a large content hold their buffers, and together at most
/// the allowed content. Refused connections hold little.
#[test]
fn contents_of_many_connections_take_no_more_than_the_memory_for_all() {
    const CONNECTIONS: u64 = 40;
    let memory = 2 * 1024 * 1024;
    let config = Config { memory, idle_buffers: 0, ..Config::default() };
    let server = Server::new(config, service::function(itself));
    let request = frames([&Message::binary(vec![7; 700_000])]);
    let mut machines: Vec<_> = (0..CONNECTIONS).map(|_| server.machine(Instant::EPOCH)).collect();
    let held = measure(|| {
        for piece in request[..600_000].chunks(50_000) {
            for machine in &mut machines {
                deliver(machine, &mut &piece[..], Instant::EPOCH);
                machine.handle(Instant::EPOCH, Event::Release);
                assert!(server.memory() <= memory);
            }
        }
    });
    let most = memory as u64 + CONNECTIONS * 66_000;
    let held = u64::try_from(held.bytes_current).unwrap();
    assert!(held > memory as u64 / 2 && held <= most, "{held} bytes, of {most} that are allowed");
    let refused = machines.iter().filter(|machine| machine.status().state != "open").count();
    assert!((30..40).contains(&refused), "{refused} are refused");
    drop(machines);
    assert_eq!(server.memory(), 0);
}

/// The counter itself: the allocated memory, and its maximum.
#[test]
fn a_decoder_that_believes_what_is_declared_would_be_found() {
    let mut believed = Vec::<u8>::new();
    let mut count = Count::new("credulous", CONSTANT);
    count.step(100, || believed.reserve_exact(100_000));
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        count.step(1, || believed.reserve_exact(10 << 20));
    }));
    assert!(found.is_err());
}
