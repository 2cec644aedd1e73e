//! An ingest and an edge with a real server between them.

use std::{
    collections::VecDeque,
    future::poll_fn,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    dial::{Plain, Servers},
    drive::Clock,
    fanout::{
        Capacity, Config as FeedConfig, Feed, Framing, Pace, Reader,
        nats::{Edge, EdgeHandle, Ingest, IngestHandle},
    },
    nats::{
        Config, Connection, Dial,
        jetstream::{ConsumerConfig, LeaseConfig, Start, Storage, StreamConfig},
    },
    runtime::Runtime,
    shutdown::ShutdownHandle,
};

use crate::real_server::Server;

/// A server with a folder for its streams, which is removed at the end.
struct Broker {
    server: Server,
    folder: PathBuf,
}

impl Broker {
    fn start() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("wirestate-fan-out-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let server = Server::start(&["-js", "-sd", folder.to_str().unwrap()])?;
        Some(Self { server, folder })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.server.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const SIZE: usize = 16;

fn feed(window: usize) -> Feed {
    let framing = Framing::Fixed(SIZE.try_into().unwrap());
    Feed::new(FeedConfig::default().with_framing(framing).with_window(window)).unwrap()
}

fn message(number: u64) -> Bytes {
    format!("{number:0SIZE$}").into()
}

/// Publishes the messages with these numbers to a feed, several in a chunk.
async fn publish<R: Runtime>(runtime: &R, feed: &Feed, mut numbers: std::ops::Range<u64>) {
    while !numbers.is_empty() {
        let chunk: Vec<u64> = numbers.by_ref().take(7).collect();
        let bytes: Bytes = chunk.iter().flat_map(|number| message(*number)).collect();
        poll_fn(|cx| match feed.poll_capacity(runtime.clock().now(), bytes.len(), cx) {
            Capacity::Available => Poll::Ready(()),
            Capacity::Paused { .. } => Poll::Pending,
        })
        .await;
        feed.publish(bytes, chunk.len() as u64, runtime.clock().now());
    }
}

/// The next `count` messages of a reader.
async fn read(reader: &mut Reader, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let mut chunks = VecDeque::new();
        poll_fn(|cx| {
            reader.fetch(&mut chunks, 64, cx);
            if chunks.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        for chunk in chunks {
            let messages = chunk.bytes.chunks(SIZE);
            numbers
                .extend(messages.map(|m| std::str::from_utf8(m).unwrap().parse::<u64>().unwrap()));
            reader.acknowledge(&chunk);
        }
    }
    numbers
}

fn dial(address: &str, config: Config, shutdown: &ShutdownHandle) -> Dial {
    let servers = Servers::new([address], 7).unwrap();
    Dial::new(servers, config).unwrap().with_shutdown(shutdown.clone())
}

fn ingest<R: Runtime>(
    runtime: &R,
    address: &str,
    feed: &Feed,
    seed: u64,
) -> (IngestHandle, ShutdownHandle) {
    let mut stream = StreamConfig::new("T", "t");
    stream.storage = Storage::Memory;
    let lease =
        LeaseConfig::new("wirestate_T", format!("ingest {seed}")).with_ttl(Duration::from_secs(2));
    let ingest = Ingest::new(feed, Pace::Blocks, stream, &lease, seed).unwrap();
    let (handle, shutdown) = (ingest.handle(), ShutdownHandle::new());
    let dial = dial(address, Ingest::client_config(Config::default()), &shutdown);
    let (own, mut connection) = (runtime.clone(), Connection::new(ingest));
    let running = async move { dial.keep_connected(&own, &Plain, &mut connection, |_| {}).await };
    runtime.spawn(running).unwrap();
    (handle, shutdown)
}

fn edge<R: Runtime>(runtime: &R, address: &str, feed: &Feed) -> (EdgeHandle, ShutdownHandle) {
    let config = ConsumerConfig::new("T", "t").with_start(Start::Sequence(1));
    let edge = Edge::new(feed, config).unwrap();
    let (handle, shutdown) = (edge.handle(), ShutdownHandle::new());
    let dial = dial(address, Config::default(), &shutdown);
    let (own, mut connection) = (runtime.clone(), Connection::new(edge));
    let running = async move { dial.keep_connected(&own, &Plain, &mut connection, |_| {}).await };
    runtime.spawn(running).unwrap();
    (handle, shutdown)
}

async fn through<R: Runtime>(runtime: R, address: String) {
    let (source, sink) = (feed(16 * 1024), feed(16 * 1024));
    let mut reader = Reader::join(&sink, Pace::Blocks);
    let (ingest, stop_ingest) = ingest(&runtime, &address, &source, 1);
    let (edge, stop_edge) = edge(&runtime, &address, &sink);
    let count = 5000;
    let (own, feed) = (runtime.clone(), source.clone());
    let publishing = async move { publish(&own, &feed, 0..count).await };
    runtime.spawn(publishing).unwrap();
    let numbers = read(&mut reader, usize::try_from(count).unwrap()).await;
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    assert_eq!((edge.counters().gaps, sink.counters().epoch), (0, 0));
    assert_eq!(edge.counters().sequence, count);
    assert!(ingest.counters().epoch.is_some());
    stop_ingest.drain();
    stop_edge.drain();
}

#[test]
fn messages_go_through_a_stream_in_order_on_tokio() {
    let Some(broker) = Broker::start() else { return };
    crate::real_server::on_tokio(async |runtime| {
        through(runtime, broker.server.address.clone()).await;
    });
}

#[test]
fn messages_go_through_a_stream_in_order_on_threads() {
    let Some(broker) = Broker::start() else { return };
    wirestate_std::block_on(through(wirestate_std::Threads::new(), broker.server.address.clone()));
}
