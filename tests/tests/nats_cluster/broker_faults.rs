//! A broker that is killed, stopped, away, or far.

use std::{thread, time::Duration};

use crate::{
    broker::{Broker, Cluster},
    delay,
    process::eventually,
    source::Source,
    subscribers::{End, Subscribers},
    tiers::{LEASE_STREAM, SMOL, STD, STREAM, TOKIO, edge, ingest, metric, url},
};

/// The node that leads the stream is killed. One of the edges is connected to it, the others are
/// not.
#[test]
fn no_subscriber_sees_a_gap_when_a_node_of_a_cluster_is_killed() {
    let Some(mut cluster) = Cluster::start() else { return };
    let source = Source::start(50);
    let create = format!("{}?replicas=3", url(&cluster.addresses(0)));
    let ingest = ingest(TOKIO, &source.address, &create, &[]);
    let binaries = [TOKIO, SMOL, STD];
    let edges = [0, 1, 2].map(|n| edge(binaries[n], &url(&cluster.addresses(n)), &[]));
    let subscribers = edges.each_ref().map(|edge| Subscribers::connect(edge, 100));
    for group in &subscribers {
        group.await_first();
    }
    let leader = cluster.leader(STREAM);
    cluster.0[leader].kill();
    let killed = source.last().unwrap();
    // New leaders are elected, and messages of after the kill arrive.
    cluster.leader(STREAM);
    cluster.leader(LEASE_STREAM);
    for group in &subscribers {
        group.await_message((killed.0, killed.1 + 10));
    }
    let last = source.pause();
    for group in &subscribers {
        group.await_message(last);
    }
    let logs = edges.map(|edge| {
        assert_eq!(metric(&edge, "wirestate_fanout_epochs_total"), 0);
        edge.stop()
    });
    for group in subscribers {
        for received in group.await_end() {
            assert_eq!((received.gaps, received.last), (vec![], Some(last)), "{logs:?}");
            assert_eq!(received.end, Some(End::Fin));
        }
    }
    assert_eq!(last.0, 1, "the source keeps its client");
    ingest.stop();
}

/// The default: the source is held, and nothing is lost.
#[test]
fn the_source_waits_while_the_broker_is_away() {
    let Some(mut broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::with_size(500, 1024);
    let flags = ["--window", "1MiB", "--on-lag", "block"];
    let ingest = ingest(SMOL, &source.address, &address, &flags);
    let edge = edge(STD, &address, &[]);
    let subscribers = Subscribers::connect(&edge, 3);
    let local = Subscribers::connect(&ingest, 3);
    subscribers.await_first();
    broker.kill();
    // More than the sockets' buffers and the window hold.
    source.burst(12_000);
    let mut before = source.last();
    eventually("the source is held", || {
        thread::sleep(Duration::from_millis(200));
        let now = source.last();
        std::mem::replace(&mut before, now) == now
    });
    let local_now = local.sample().last.unwrap();
    assert!(local_now < (1, 12_000), "local subscribers wait as well: {local_now:?}");
    broker.restart();
    let last = source.pause();
    for group in [&subscribers, &local] {
        group.await_message(last);
    }
    edge.stop();
    ingest.stop();
    for received in subscribers.await_end().into_iter().chain(local.await_end()) {
        assert_eq!((received.gaps, received.last), (vec![], Some(last)));
    }
}

/// The lease ends meanwhile. Nobody else has taken it, so nothing is lost.
#[test]
fn an_absence_of_the_broker_for_longer_than_the_lease_loses_nothing() {
    let Some(mut broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::start(500);
    let ingest = ingest(TOKIO, &source.address, &address, &[]);
    let edge = edge(SMOL, &address, &["--on-gap", "continue"]);
    let subscribers = Subscribers::connect(&edge, 3);
    subscribers.await_first();
    broker.kill();
    thread::sleep(Duration::from_secs(11));
    broker.restart();
    let last = source.pause();
    subscribers.await_message(last);
    edge.stop();
    ingest.stop();
    for received in subscribers.await_end() {
        assert_eq!((received.gaps, received.last), (vec![], Some(last)));
    }
}

#[test]
fn local_subscribers_continue_while_the_broker_is_away_with_skip() {
    let Some(mut broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::with_size(100, 1024);
    // The subscribers of the ingest must not lag on a busy machine.
    let flags = ["--publish-on-lag", "skip", "--window", "1MiB", "--on-lag", "block"];
    let ingest = ingest(STD, &source.address, &address, &flags);
    let edges =
        ["continue", "disconnect"].map(|policy| edge(TOKIO, &address, &["--on-gap", policy]));
    let [continued, disconnected] = edges.each_ref().map(|edge| Subscribers::connect(edge, 3));
    let local = Subscribers::connect(&ingest, 3);
    continued.await_first();
    disconnected.await_first();
    broker.kill();
    // More than the window.
    source.burst(5000);
    local.await_message(source.pause());
    broker.restart();
    source.set_rate(50);
    continued.await_message((1, 5050));
    let last = source.pause();
    local.await_message(last);
    continued.await_message(last);
    // With `disconnect` the end is the gap.
    let gap = continued.sample().gaps;
    assert_eq!(gap.len(), 1, "{gap:?}");
    for received in disconnected.await_end() {
        assert_eq!((received.gaps, received.last), (vec![], Some(gap[0].0)));
        assert_eq!(received.end, Some(End::Fin));
    }
    let logs = edges.map(|edge| {
        assert_eq!(metric(&edge, "wirestate_fanout_epochs_total"), 1);
        edge.stop()
    });
    for received in continued.await_end() {
        assert_eq!((received.gaps, received.last), (gap.clone(), Some(last)), "{logs:?}");
    }
    ingest.stop();
    for received in local.await_end() {
        assert_eq!((received.gaps, received.last), (vec![], Some(last)));
    }
}

/// Acknowledgements that take long, but not so that the ingest gives up, change nothing.
#[test]
fn a_broker_that_does_not_answer_for_a_moment_delays_the_messages() {
    let Some(broker) = Broker::start() else { return };
    let address = url(&broker.address());
    let source = Source::start(1000);
    let ingest = ingest(TOKIO, &source.address, &address, &[]);
    let edge = edge(SMOL, &address, &[]);
    let subscribers = Subscribers::connect(&edge, 3);
    subscribers.await_first();
    for _ in 0..3 {
        broker.suspend();
        thread::sleep(Duration::from_millis(600));
        broker.resume();
        thread::sleep(Duration::from_millis(100));
    }
    let last = source.pause();
    subscribers.await_message(last);
    edge.stop();
    ingest.stop();
    for received in subscribers.await_end() {
        assert_eq!((received.gaps, received.last), (vec![], Some(last)));
    }
}

/// The number of messages that wait for an acknowledgement is bounded, and they are retried when
/// the acknowledgements are lost with their connection.
#[test]
fn slow_acknowledgements_hold_the_source_and_lose_nothing() {
    let Some(mut broker) = Broker::start() else { return };
    let far = delay::relay(broker.address(), Duration::from_millis(300));
    let source = Source::start(0);
    let ingest = ingest(STD, &source.address, &url(&far), &[]);
    let edge = edge(TOKIO, &url(&broker.address()), &[]);
    let subscribers = Subscribers::connect(&edge, 3);
    source.burst(10_000);
    subscribers.await_message((1, 1000));
    // What is unacknowledged now is published again: the broker has most of it.
    broker.kill();
    broker.restart();
    let last = source.pause();
    subscribers.await_message(last);
    edge.stop();
    ingest.stop();
    assert_eq!(last, (1, 9999));
    for received in subscribers.await_end() {
        assert_eq!((received.gaps, received.last), (vec![], Some(last)));
    }
    // Nothing is in the stream twice.
    assert_eq!(broker.last_sequence(STREAM), 10_000);
}
