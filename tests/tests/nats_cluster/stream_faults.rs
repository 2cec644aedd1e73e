//! A stream that is purged, deleted, missing, or not ours, and messages that are too large for it.

use std::time::Duration;

use crate::{
    broker::Broker,
    process::eventually,
    source::Source,
    subscribers::{End, Subscribers},
    tiers::{SMOL, STD, STREAM, TOKIO, edge, ingest, metric, url},
};

/// The purge deletes messages that an edge has not read: it is suspended.
#[test]
fn a_purge_of_unread_messages_is_a_new_epoch() {
    let Some(broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::with_size(200, 1024);
    let ingest = ingest(SMOL, &source.address, &address, &[]);
    let edges = ["continue", "disconnect"].map(|policy| edge(STD, &address, &["--on-gap", policy]));
    let [continued, disconnected] = edges.each_ref().map(|edge| Subscribers::connect(edge, 3));
    continued.await_first();
    disconnected.await_first();
    for edge in &edges {
        edge.suspend();
    }
    let before = broker.last_sequence(STREAM);
    // More than an edge asks for before it has read anything, 4 MiB.
    source.burst(12_000);
    eventually("the stream has the messages", || broker.last_sequence(STREAM) > before + 12_000);
    broker.purge(STREAM, 0);
    for edge in &edges {
        edge.signal(rustix::process::Signal::CONT);
    }
    eventually("a gap is seen", || !continued.sample().gaps.is_empty());
    let last = source.pause();
    continued.await_message(last);
    let [gap] = continued.sample().gaps[..] else { panic!() };
    assert!(gap.0 < gap.1, "{gap:?}");
    for received in disconnected.await_end() {
        assert_eq!((received.gaps, received.end), (vec![], Some(End::Fin)));
        assert!(received.last.unwrap() < gap.1);
    }
    for edge in edges {
        assert_eq!(metric(&edge, "wirestate_fanout_epochs_total"), 1);
        edge.stop();
    }
    for received in continued.await_end() {
        assert_eq!((received.gaps, received.last), (vec![gap], Some(last)));
    }
    ingest.stop();
}

/// A purge of what all edges have read changes nothing, not even if the broker then restarts and
/// the ingest finds no last message.
#[test]
fn a_purge_of_read_messages_is_no_gap() {
    let Some(mut broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::start(200);
    let ingest = ingest(STD, &source.address, &address, &[]);
    let edge = edge(TOKIO, &address, &[]);
    let subscribers = Subscribers::connect(&edge, 3);
    subscribers.await_first();
    let last = source.pause();
    subscribers.await_message(last);
    broker.purge(STREAM, 0);
    broker.kill();
    broker.restart();
    source.set_rate(200);
    subscribers.await_message((1, last.1 + 100));
    let last = source.pause();
    subscribers.await_message(last);
    edge.stop();
    ingest.stop();
    for received in subscribers.await_end() {
        assert_eq!((received.gaps, received.last), (vec![], Some(last)));
    }
}

#[test]
fn a_deleted_stream_is_created_again_in_a_new_epoch() {
    let Some(broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::start(200);
    let ingest = ingest(TOKIO, &source.address, &address, &[]);
    let edges =
        ["continue", "disconnect"].map(|policy| edge(SMOL, &address, &["--on-gap", policy]));
    let [continued, disconnected] = edges.each_ref().map(|edge| Subscribers::connect(edge, 3));
    continued.await_first();
    disconnected.await_first();
    broker.delete_stream(STREAM);
    let after = source.last().unwrap();
    continued.await_message((1, after.1 + 100));
    let last = source.pause();
    continued.await_message(last);
    for received in disconnected.await_end() {
        assert_eq!((received.gaps, received.end), (vec![], Some(End::Fin)));
    }
    for edge in edges {
        assert_eq!(metric(&edge, "wirestate_fanout_epochs_total"), 1);
        edge.stop();
    }
    for received in continued.await_end() {
        // What was not acknowledged may be in both streams.
        assert!(received.gaps.len() <= 1, "{:?}", received.gaps);
        assert_eq!(received.last, Some(last));
    }
    ingest.stop();
}

#[test]
fn an_edge_waits_for_its_stream_which_the_ingest_creates() {
    let Some(broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::start(200);
    let edge = edge(STD, &address, &[]);
    let subscribers = Subscribers::connect(&edge, 3);
    eventually("the edge reports it", || edge.logged("stream not found") > 0);
    assert!(broker.stream(STREAM).is_none());
    let limits = format!("{address}?max-bytes=10MiB&max-age=1h");
    let ingest = ingest(SMOL, &source.address, &limits, &[]);
    subscribers.await_first();
    let config = &broker.stream(STREAM).unwrap()["config"];
    assert_eq!(config["subjects"], serde_json::json!([STREAM]));
    assert_eq!((&config["storage"], &config["num_replicas"]), (&"file".into(), &1.into()));
    assert_eq!(config["max_bytes"], 10 << 20);
    assert_eq!(
        config["max_age"].as_u64(),
        u64::try_from(Duration::from_secs(3600).as_nanos()).ok()
    );
    edge.stop();
    for received in subscribers.await_end() {
        assert_eq!((received.gaps, received.end), (vec![], Some(End::Fin)));
    }
    ingest.stop();
}

#[test]
fn a_stream_with_other_subjects_is_refused() {
    let Some(broker) = Broker::start() else { return };
    let config = serde_json::json!({ "name": STREAM, "subjects": ["feed", "more"] });
    let reply = broker.request(&format!("STREAM.CREATE.{STREAM}"), &config.to_string()).unwrap();
    assert!(reply.get("error").is_none(), "{reply}");
    let address = url(&broker.address());
    let source = Source::start(200);
    // It cannot publish what it has read.
    let ingest = ingest(TOKIO, &source.address, &address, &["--drain-timeout", "100ms"]);
    let edge = edge(SMOL, &address, &[]);
    for server in [&ingest, &edge] {
        eventually("the subjects are reported", || server.logged("subjects") > 0);
    }
    ingest.stop();
    edge.stop();
}

/// The message is dropped, and the next one is in a new epoch.
#[test]
fn a_message_that_is_too_large_for_the_broker_is_a_gap_that_is_seen() {
    let Some(broker) = Broker::with_config("max_payload: 4096") else { return };
    let address = url(&broker.address());
    let source = Source::start(100);
    let ingest = ingest(STD, &source.address, &address, &[]);
    let edges =
        ["continue", "disconnect"].map(|policy| edge(TOKIO, &address, &["--on-gap", policy]));
    let [continued, disconnected] = edges.each_ref().map(|edge| Subscribers::connect(edge, 3));
    continued.await_first();
    disconnected.await_first();
    source.send(&[&[b'x'; 6000][..], b"\n"].concat());
    let after = source.last().unwrap();
    continued.await_message((1, after.1 + 50));
    let last = source.pause();
    continued.await_message(last);
    for received in disconnected.await_end() {
        assert_eq!((received.gaps, received.end), (vec![], Some(End::Fin)));
        assert!(received.last.unwrap() < last);
    }
    for edge in edges {
        assert_eq!(metric(&edge, "wirestate_fanout_epochs_total"), 1);
        edge.stop();
    }
    for received in continued.await_end() {
        // The source gave it no number.
        assert_eq!((received.gaps, received.last), (vec![], Some(last)));
    }
    let log = ingest.stop();
    assert!(log.contains("above the server's limit of 4KiB"), "{log}");
}
