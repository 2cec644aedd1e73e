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
        Client, ClientConfig, Config, Decoder, FrameLimits, Header, Inbox, Message, Server, service,
    },
};
use wirestate_testkit::message::{bad_frames, frames, golden};

/// The constant under [`FrameLimits::default`]: the buffer (64 KiB), space for more of a content
/// (64 KiB), replies that are being encoded, and parsing a header of 4 KiB (72 bytes for each key;
/// a key takes at least 6 bytes).
const CONSTANT: u64 = 3 * 64 * 1024;

/// Measures the allocated memory at each step.
struct MemoryCheck<'a> {
    name: &'a str,
    constant: u64,
    /// Received bytes.
    received: u64,
    /// Allocated bytes.
    held: i64,
    /// The most memory that was allocated after a step, in bytes.
    max_held: u64,
}

impl<'a> MemoryCheck<'a> {
    fn new(name: &'a str, constant: u64) -> Self {
        Self { name, constant, received: 0, held: 0, max_held: 0 }
    }

    fn step(&mut self, received: usize, step: impl FnOnce()) {
        let AllocationInfo { bytes_max, bytes_current, .. } = measure(step);
        self.received += received as u64;
        let (name, received, constant) = (self.name, self.received, self.constant);
        let peak = u64::try_from(self.held).unwrap() + bytes_max;
        self.held += bytes_current;
        let held = u64::try_from(self.held).unwrap();
        self.max_held = self.max_held.max(held);
        assert!(held <= received + constant, "{name}: {held} bytes are held for {received}");
        assert!(
            peak <= 2 * received + constant,
            "{name}: for a moment, {peak} bytes are held for {received}"
        );
    }
}

/// A function that gets the received pieces, one at a time.
type Receiver = Box<dyn FnMut(&[u8])>;

fn decoder(limits: FrameLimits) -> Receiver {
    let mut decoder = Decoder::new(limits);
    Box::new(move |mut piece| while let Ok(Some(_)) = decoder.decode(&mut piece) {})
}

fn inbox(limits: FrameLimits) -> Receiver {
    let mut inbox =
        Inbox::new(limits, Pool::new((64 * 1024).max(2 + usize::from(limits.max_header)), 1))
            .unwrap();
    let mut failed = false;
    Box::new(move |mut piece| {
        while !piece.is_empty() && !failed {
            let spare = inbox.spare();
            let n = spare.len().min(piece.len());
            spare[..n].copy_from_slice(&piece[..n]);
            piece = &piece[n..];
            inbox.commit(n);
            while let Some(message) = inbox.next_message().unwrap_or_else(|_| {
                failed = true;
                None
            }) {
                drop(message.into_owned());
            }
        }
    })
}

fn connection(limits: FrameLimits) -> Receiver {
    let config = Config::default().with_frame_limits(limits);
    let server = Server::new(config, service::function(|_| Message::binary(""))).unwrap();
    let mut machine = server.machine(Instant::EPOCH);
    let mut output = [0; 4096];
    Box::new(move |mut piece| {
        deliver(&mut machine, &mut piece, Instant::EPOCH);
        while collect_into(&mut machine, &mut output, Instant::EPOCH) > 0 {}
    })
}

fn client(limits: FrameLimits) -> Receiver {
    let config = ClientConfig::default().with_frame_limits(limits);
    let mut machine = Client::new(config).unwrap();
    machine.request(&Message::binary(""), Instant::EPOCH).unwrap();
    collect_into(&mut machine, &mut [0; 1024], Instant::EPOCH);
    Box::new(move |mut piece| {
        deliver(&mut machine, &mut piece, Instant::EPOCH);
        drop(machine.take_reply());
    })
}

type NewReceiver = fn(FrameLimits) -> Receiver;

const RECEIVERS: [(&str, NewReceiver); 4] =
    [("decoder", decoder), ("inbox", inbox), ("connection", connection), ("client", client)];

/// Feeds `bytes` in pieces of `cut` bytes. Returns the most memory that was held after a piece.
fn max_held(name: &str, constant: u64, mut receiver: Receiver, bytes: &[u8], cut: usize) -> u64 {
    let mut check = MemoryCheck::new(name, constant);
    for piece in bytes.chunks(cut) {
        check.step(piece.len(), || receiver(piece));
    }
    check.max_held
}

#[test]
fn invalid_input_takes_at_most_its_size_and_a_constant() {
    for bad in bad_frames() {
        for (name, receiver) in RECEIVERS {
            for cut in [usize::MAX, 100, 1] {
                if bad.bytes.len() < 10_000 || cut > 1 {
                    let name = format!("{name}, {}", bad.name);
                    max_held(&name, CONSTANT, receiver(FrameLimits::default()), &bad.bytes, cut);
                }
            }
        }
    }
}

/// The header declares terabytes, and the content arrives slowly.
#[test]
fn memory_follows_the_content_that_has_arrived_whatever_length_is_declared() {
    for declared in [1 << 20, 1 << 30, 4_000_000_000_000, i64::MAX as u64] {
        let limits = FrameLimits::default().with_max_content(declared);
        let mut bytes = Vec::new();
        let empty = Message::binary("");
        Header { content_length: declared, ..empty.header() }.encode(&mut bytes).unwrap();
        bytes.resize(bytes.len() + 700_000, b'.');
        for (name, receiver) in RECEIVERS {
            let context = format!("{name}, {declared} declared");
            // With limits this large, memory grows by up to 1 MiB at a time.
            let constant = CONSTANT + 1024 * 1024;
            let at_once = max_held(&context, constant, receiver(limits), &bytes, usize::MAX);
            let in_parts = max_held(&context, constant, receiver(limits), &bytes, 997);
            if name == "decoder" {
                assert!(at_once.max(in_parts) < 10_000, "it holds content");
            }
            // The header alone allocates little.
            let head = &bytes[..bytes.len() - 700_000];
            let max = max_held(&context, constant, receiver(limits), head, usize::MAX);
            assert!(max < 70_000, "{context}: {max} bytes are held for a header");
        }
    }
}

/// The default limits allow the smaller constant.
#[test]
fn the_longest_content_under_the_default_limit_takes_at_most_its_size_and_a_constant() {
    let request = frames([&Message::binary(vec![7; 1 << 20])]);
    for (name, receiver) in RECEIVERS {
        for cut in [usize::MAX, 64 * 1024, 4099] {
            max_held(name, CONSTANT, receiver(FrameLimits::default()), &request, cut);
        }
    }
}

/// All bytes but the last arrive, one at a time.
#[test]
fn a_frame_that_arrives_byte_by_byte_takes_only_the_buffer() {
    for (name, receiver) in RECEIVERS {
        let max = max_held(name, CONSTANT, receiver(FrameLimits::default()), &golden()[..145], 1);
        assert!(max < 66_000, "{name}: {max} bytes are held for 145");
    }
}

#[test]
fn a_header_of_many_keys_takes_at_most_13_times_its_size_and_a_constant() {
    let keys: Vec<String> = (0..10_000_u32).map(|i| format!("\"{i:x}\":0")).collect();
    let object = format!("{{{}}}", keys.join(","));
    let length = u16::MAX;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&object.as_bytes()[..usize::from(length)]);
    let limits = FrameLimits::default().with_max_header(length);
    for (name, receiver) in RECEIVERS {
        max_held(name, CONSTANT + 12 * u64::from(length), receiver(limits), &bytes, usize::MAX);
        max_held(name, CONSTANT + 12 * u64::from(length), receiver(limits), &bytes, 1000);
    }
}

/// A service that answers each request with the request itself.
fn itself(request: Message<'_>) -> Message<'static> {
    request.into_owned()
}

/// Many requests on one connection do not make it grow.
#[test]
fn a_connection_holds_nothing_once_it_is_idle() {
    let server =
        Server::new(Config::default().with_idle_buffers(0), service::function(itself)).unwrap();
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
fn the_contents_of_many_connections_take_at_most_max_memory() {
    const CONNECTIONS: u64 = 40;
    let memory = 2 * 1024 * 1024;
    let config = Config::default().with_max_memory(memory).with_idle_buffers(0);
    let server = Server::new(config, service::function(itself)).unwrap();
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
    let max = memory as u64 + CONNECTIONS * 66_000;
    let held = u64::try_from(held.bytes_current).unwrap();
    assert!(held > memory as u64 / 2 && held <= max, "{held} bytes of at most {max} are held");
    let refused = machines.iter().filter(|machine| machine.status().state != "open").count();
    assert!((30..40).contains(&refused), "{refused} connections are refused");
    drop(machines);
    assert_eq!(server.memory(), 0);
}

/// Tests [`MemoryCheck`] itself.
#[test]
fn the_check_fails_for_a_decoder_that_allocates_the_declared_length() {
    let mut content = Vec::<u8>::new();
    let mut check = MemoryCheck::new("credulous", CONSTANT);
    check.step(100, || content.reserve_exact(100_000));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check.step(1, || content.reserve_exact(10 << 20));
    }));
    assert!(result.is_err());
}
