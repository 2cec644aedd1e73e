//! A hundred edges with subscribers, while a node and an ingest are killed.
//!
//! `cargo test -p wirestate-testkit --test nats hundred_edges -- --nocapture` prints the figures;
//! `--release` has more subscribers.

use std::{cmp::Reverse, time::Duration};

use wirestate_core::Instant;

use super::{NODES, Settings, Tier, checks::Promise, seconds};

const EDGES: usize = 100;
/// The subscribers of each edge.
const SUBSCRIBERS: usize = if cfg!(debug_assertions) { 1 } else { 10 };
/// Messages of the source a second.
const RATE: u64 = if cfg!(debug_assertions) { 5 } else { 50 };

/// The time from `since` until the last subscriber has its first message that was generated later.
fn recovered(tier: &Tier, since: Instant) -> Duration {
    let first = |subscriber: &super::Subscriber| {
        subscriber.log.with(|log| {
            let mut times = log.iter().flat_map(|one| &one.times);
            let first = times.find(|(generated, _)| *generated >= since);
            first.expect("it has received a message since").1
        })
    };
    tier.subscribers.iter().map(first).max().unwrap().since(since)
}

/// The latencies of all deliveries, in descending order.
fn latencies(tier: &Tier) -> Vec<Duration> {
    let mut all = Vec::new();
    for subscriber in &tier.subscribers {
        subscriber.log.with(|log| {
            let times = log.iter().flat_map(|one| &one.times);
            all.extend(times.map(|(generated, received)| received.since(*generated)));
        });
    }
    all.sort_unstable_by_key(|latency| Reverse(*latency));
    all
}

#[test]
fn hundred_edges() {
    let mut tier = Tier::new(1, Settings { rate: RATE, ..Settings::default() });
    tier.ingest();
    tier.run_for(seconds(1));
    tier.ingest();
    for edge in 0..EDGES {
        tier.edge();
        (0..SUBSCRIBERS).for_each(|_| tier.subscriber(edge, Duration::ZERO));
    }
    tier.run_for(seconds(5));
    let quiet = latencies(&tier);

    let node_killed = tier.world.now();
    tier.kill_node(0);
    tier.run_for(seconds(9));
    tier.start_node(0);
    let ingest_killed = tier.world.now();
    tier.active().unwrap().kill();
    tier.run_for(seconds(13));
    tier.source.end();
    tier.run_for(seconds(3));
    tier.check(Promise::Ascending);
    for (number, edge) in tier.edges.iter().enumerate() {
        assert_eq!(edge.handle.counters().gaps, 1, "edge {number}: the ingest that was killed");
    }

    let of = |all: &[Duration], thousandths: usize| all[all.len() * (1000 - thousandths) / 1000];
    let all = latencies(&tier);
    println!(
        "{} nodes, {EDGES} edges, {} subscribers: {} messages, {} deliveries",
        NODES.len(),
        tier.subscribers.len(),
        tier.cluster.messages(super::STREAM).len(),
        all.len()
    );
    println!(
        "latency from the source to a subscriber: 50 % within {:?}, 99 % within {:?}, \
         99.9 % within {:?}",
        of(&quiet, 500),
        of(&quiet, 990),
        of(&quiet, 999)
    );
    println!("all subscribers have new messages:");
    println!("  after a node was killed: {:?}", recovered(&tier, node_killed));
    println!("  after the ingest was killed: {:?}", recovered(&tier, ingest_killed));
    tier.world.clear();
}
