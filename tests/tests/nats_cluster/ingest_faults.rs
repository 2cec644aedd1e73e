//! Ingests that are killed, end, and stand by.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    broker::Broker,
    process::{Server, eventually, word_after},
    source::Source,
    subscribers::{End, Subscribers},
    tiers::{SMOL, STD, STREAM, TOKIO, edge, ingest, metric, url},
};

/// Waits until a server has logged that another one holds the lease.
fn await_standby(server: &Server) {
    eventually("the second ingest stands by", || server.logged("standing by") > 0);
}

/// The lease of the dead one ends after its TTL of 10 s.
#[test]
fn a_standby_takes_over_from_a_killed_ingest() {
    let Some(broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::start(500);
    let first = ingest(TOKIO, &source.address, &address, &[]);
    let edges =
        ["continue", "disconnect"].map(|policy| edge(SMOL, &address, &["--on-gap", policy]));
    let [continued, disconnected] = edges.each_ref().map(|edge| Subscribers::connect(edge, 10));
    continued.await_first();
    disconnected.await_first();
    let second = ingest(STD, &source.address, &address, &[]);
    await_standby(&second);
    assert_eq!(source.connections(), 1, "a standby does not dial the source");

    first.signal(Signal::KILL);
    continued.await_message((2, 0));
    source.set_rate(100);
    thread::sleep(Duration::from_millis(300));
    let last = source.pause();
    continued.await_message(last);
    // The new epoch is the one gap, and the end of the others' streams.
    let gaps = continued.sample().gaps;
    let [(end, (2, 0))] = gaps[..] else { panic!("{gaps:?}") };
    assert_eq!(end.0, 1);
    for received in disconnected.await_end() {
        assert_eq!((received.gaps, received.last), (vec![], Some(end)));
        assert_eq!(received.end, Some(End::Fin));
    }
    for edge in edges {
        assert_eq!(metric(&edge, "wirestate_fanout_epochs_total"), 1);
        edge.stop();
    }
    for received in continued.await_end() {
        assert_eq!((received.gaps, received.last), (gaps.clone(), Some(last)));
    }
    second.stop();
}

/// It stops reading, publishes what it has read, waits for the acknowledgements, and frees its
/// lease.
#[test]
fn an_ingest_publishes_all_that_it_has_read_before_it_ends() {
    let Some(broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::start(20_000);
    let first = ingest(STD, &source.address, &address, &[]);
    let edge = edge(TOKIO, &address, &["--on-gap", "continue"]);
    let subscribers = Subscribers::connect(&edge, 10);
    subscribers.await_first();
    let second = ingest(SMOL, &source.address, &address, &[]);
    await_standby(&second);

    let log = first.stop();
    let began = Instant::now();
    source.set_rate(100);
    subscribers.await_message((2, 0));
    let took = began.elapsed();
    // The last renewal was at most a third of the TTL of 10 s before.
    assert!(took < Duration::from_secs(6), "the standby waits for the TTL: {took:?}");
    let last = source.pause();
    subscribers.await_message(last);

    let read: u64 = word_after("messages=", &log).unwrap().parse().unwrap();
    let [(end, (2, 0))] = subscribers.sample().gaps[..] else { panic!() };
    assert_eq!(end, (1, read - 1), "{log}");
    edge.stop();
    for received in subscribers.await_end() {
        assert_eq!((received.gaps, received.last), (vec![(end, (2, 0))], Some(last)));
    }
    assert_eq!(broker.last_sequence(STREAM), read + last.1 + 1);
    second.stop();
}

/// A process that is stopped for longer than the TTL has lost its lease. What it sends when it
/// runs again is refused.
#[test]
fn an_ingest_that_was_suspended_does_not_publish_into_the_next_epoch() {
    let Some(broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let sources = [Source::start(500), Source::start(500)];
    let first = ingest(SMOL, &sources[0].address, &address, &[]);
    let edge = edge(STD, &address, &["--on-gap", "continue"]);
    let subscribers = Subscribers::connect(&edge, 3);
    subscribers.await_first();
    let second = ingest(TOKIO, &sources[1].address, &address, &[]);
    await_standby(&second);
    first.suspend();
    eventually("the standby takes over", || subscribers.sample().gaps.len() == 1);
    first.signal(Signal::CONT);
    await_standby(&first);
    let last = sources[1].pause();
    subscribers.await_message(last);
    edge.stop();
    for received in subscribers.await_end() {
        assert_eq!((received.gaps.len(), received.last), (1, Some(last)));
    }
    first.stop();
    second.stop();
}
