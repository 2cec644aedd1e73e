//! The time that the NATS client takes for a message of 1 KiB, without a socket.
//!
//! ```text
//! cargo bench -p wirestate-core --features nats --bench nats
//! ```
//!
//! | benchmark | one iteration, for each message |
//! |---|---|
//! | `receive/raw` | a fan-out's upstream receives it in frames of fixed size, and publishes it |
//! | `receive/client` | a client receives it, and it is taken and dropped |
//! | `receive/edge` | a client receives it; it is copied to a block that a feed publishes |
//! | `publish/plain` | it is published, and written |
//! | `publish/headers` | it is published with two headers, and written |
//! | `publish/request` | it is a request with two headers, written, and its reply is taken |
//! | `publish/stream` | a publisher publishes it, and handles its acknowledgement |
//!
//! Input and output are copied once, where a kernel would. The goal of an ingest is 200,000
//! messages of 1 KiB a second of CPU: at most 5 µs for each, with the kernel's part.

use std::{
    hint::black_box,
    num::NonZeroUsize,
    task::{Context, Waker},
};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use wirestate_core::{
    Event, Instant, Machine,
    fanout::{self, Feed, Framing, Upstream},
    nats::{
        Client, Config, HeaderBlock, Incoming, Publish,
        jetstream::{Publisher, PublisherEvent, StreamConfig},
    },
};

const NOW: Instant = Instant::EPOCH;
const SIZE: usize = 1024;
/// The number of messages in an iteration.
const COUNT: usize = 200;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    receive(&mut criterion);
    publish(&mut criterion);
    criterion.final_summary();
}

/// Passes `input` to a machine as a kernel would, and calls `taken` after each read.
fn deliver<M: Machine>(machine: &mut M, mut input: &[u8], mut taken: impl FnMut(&mut M)) {
    let cx = &mut Context::from_waker(Waker::noop());
    while !input.is_empty() {
        machine.poll_shared(NOW, cx);
        let buffer = machine.read_buf();
        let n = buffer.len().min(input.len());
        buffer[..n].copy_from_slice(&input[..n]);
        input = &input[n..];
        machine.handle(NOW, Event::Read(n));
        taken(machine);
    }
}

fn feed() -> Feed {
    let framing = Framing::Fixed(NonZeroUsize::new(SIZE).expect("it is not zero"));
    Feed::new(fanout::Config::default().with_framing(framing)).expect("it is valid")
}

fn connected() -> Client {
    let buffer = NonZeroUsize::new(256 * 1024).expect("it is not zero");
    let config = Config::default().with_buffer(buffer);
    let mut client = Client::new(config, NOW).expect("it is valid");
    let info = b"INFO {\"server_id\":\"S\",\"headers\":true,\"max_payload\":1048576}\r\nPONG\r\n";
    deliver(&mut client, info, |_| {});
    assert!(matches!(client.take_incoming(NOW), Some(Incoming::Connected)));
    client.subscribe("numbers", None, NOW).expect("it is connected");
    write(&mut client, &mut [0; 1024]);
    client
}

/// Copies the output as a kernel would, and returns its length.
fn write(client: &mut Client, kernel: &mut [u8]) -> usize {
    let mut total = 0;
    while client.pending() > 0 {
        let mut bufs = [&[][..]; 64];
        let count = client.write_bufs(&mut bufs);
        let mut n = 0;
        for buf in &bufs[..count] {
            let take = buf.len().min(kernel.len() - n);
            kernel[n..n + take].copy_from_slice(&buf[..take]);
            n += take;
        }
        client.handle(NOW, Event::Written(n));
        total += n;
    }
    total
}

fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("receive");
    group.throughput(Throughput::Elements(COUNT as u64));
    let payload = [b'x'; SIZE];

    let (raw, feed_of_raw) = (payload.repeat(COUNT), feed());
    let mut upstream = Upstream::new(&feed_of_raw, NOW);
    group.bench_function("raw", |b| b.iter(|| deliver(&mut upstream, &raw, |_| {})));

    let mut stream = Vec::new();
    for _ in 0..COUNT {
        stream.extend_from_slice(b"MSG numbers 1 1024\r\n");
        stream.extend_from_slice(&payload);
        stream.extend_from_slice(b"\r\n");
    }
    let mut client = connected();
    group.bench_function("client", |b| {
        b.iter(|| {
            let mut count = 0;
            deliver(&mut client, &stream, |client| {
                while let Some(incoming) = client.take_incoming(NOW) {
                    black_box(incoming);
                    count += 1;
                }
            });
            assert_eq!(count, COUNT);
        });
    });

    let (mut client, feed, mut block) = (connected(), feed(), BytesMut::new());
    group.bench_function("edge", |b| {
        b.iter(|| {
            deliver(&mut client, &stream, |client| {
                let mut count = 0;
                block.reserve(256 * 1024);
                while let Some(incoming) = client.take_incoming(NOW) {
                    let Incoming::Message(message) = incoming else { panic!("no message") };
                    block.extend_from_slice(message.payload());
                    count += 1;
                }
                if count > 0 {
                    feed.publish(block.split().freeze(), count, NOW);
                }
            });
        });
    });
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    group.throughput(Throughput::Elements(COUNT as u64));
    let payload = Bytes::from(vec![b'x'; SIZE]);
    let mut kernel = vec![0; 256 * 1024];
    let mut client = connected();
    group.bench_function("plain", |b| {
        b.iter(|| {
            for _ in 0..COUNT {
                let message = Publish::new("numbers", payload.clone());
                client.publish(&message, NOW).expect("there is room");
            }
            black_box(write(&mut client, &mut kernel))
        });
    });

    let (mut client, mut headers, mut number) = (connected(), HeaderBlock::new(), 0_u64);
    let mut with_headers = |headers: &mut HeaderBlock| {
        headers.clear();
        headers.push("Nats-Msg-Id", format_args!("7-{number}")).expect("it is valid");
        headers.push("Nats-Expected-Last-Sequence", number).expect("it is valid");
        number += 1;
    };
    group.bench_function("headers", |b| {
        b.iter(|| {
            for _ in 0..COUNT {
                with_headers(&mut headers);
                let message = Publish::new("numbers", payload.clone()).with_headers(&headers);
                client.publish(&message, NOW).expect("there is room");
            }
            black_box(write(&mut client, &mut kernel))
        });
    });

    let (mut client, mut next, mut replies) = (connected(), 0_u64, Vec::new());
    group.bench_function("request", |b| {
        b.iter(|| {
            replies.clear();
            for _ in 0..COUNT {
                with_headers(&mut headers);
                let message = Publish::new("numbers", payload.clone()).with_headers(&headers);
                client.request(&message, NOW).expect("there is room");
                let reply = r#"{"stream":"NUMBERS","seq":1234567}"#;
                write_reply(&mut replies, next, reply);
                next += 1;
            }
            black_box(write(&mut client, &mut kernel));
            let mut count = 0;
            deliver(&mut client, &replies, |client| {
                while client.take_incoming(NOW).is_some() {
                    count += 1;
                }
            });
            assert_eq!(count, COUNT);
        });
    });

    let (mut client, mut publisher, mut next) = (connected(), publisher(), 0_u64);
    publisher.connected(&mut client, NOW);
    let info = r#"{"config":{"name":"NUMBERS","subjects":["numbers"],"storage":"file",
        "num_replicas":1,"max_bytes":-1,"max_age":0,"discard":"old"},"created":"A",
        "state":{"messages":0,"first_seq":0,"last_seq":0}}"#;
    let mut input = Vec::new();
    write_reply(&mut input, 0, info);
    group.bench_function("stream", |b| {
        b.iter(|| {
            deliver(&mut client, &input, |client| {
                while let Some(incoming) = client.take_incoming(NOW) {
                    assert!(publisher.handle(client, incoming, NOW).is_none());
                }
            });
            assert_eq!(publisher.position(), next);
            while let Some(event) = publisher.take_event() {
                assert!(!matches!(event, PublisherEvent::Waiting(_)), "{event:?}");
            }
            input.clear();
            for _ in 0..COUNT {
                publisher.publish(&mut client, next, payload.clone(), NOW).expect("there is room");
                next += 1;
                let ack = format!(r#"{{"stream":"NUMBERS","seq":{next}}}"#);
                write_reply(&mut input, next, &ack);
            }
            black_box(write(&mut client, &mut kernel));
        });
    });
}

fn publisher() -> Publisher {
    let mut publisher = Publisher::new(StreamConfig::new("NUMBERS", "numbers"), 0);
    publisher.begin_epoch(1, 0, NOW);
    publisher
}

fn write_reply(input: &mut Vec<u8>, request: u64, json: &str) {
    let head = format!("MSG _INBOX.S.0.{request} 2 {}\r\n", json.len());
    input.extend_from_slice(head.as_bytes());
    input.extend_from_slice(json.as_bytes());
    input.extend_from_slice(b"\r\n");
}
