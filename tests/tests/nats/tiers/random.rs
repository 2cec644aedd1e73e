//! Tiers under random faults, by seed.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_xorshift::XorShiftRng;
use wirestate_core::fanout::{GapPolicy, Pace};
use wirestate_testkit::{for_each_seed, sim::Faults};

use super::{BUCKET, Message, NODES, STREAM, Settings, Tier, checks::Promise, seconds};
use crate::model::{Api, Settings as ClusterSettings, Version};

/// A tier with some ingests, two edges and two subscribers of each, one of which is slow.
fn tier(seed: u64, ingests: usize, mut settings: Settings) -> Tier {
    let version = if seed.is_multiple_of(2) { Version::V2_9 } else { Version::V2_15 };
    // Several messages arrive at once.
    settings.source = Faults { stall: 300, ..Faults::NONE };
    settings.cluster = ClusterSettings { version, ..settings.cluster };
    let on_gap =
        if (seed / 2).is_multiple_of(2) { GapPolicy::Disconnect } else { GapPolicy::Continue };
    settings.edge = settings.edge.with_on_gap(on_gap);
    let mut tier = Tier::new(seed, settings);
    for _ in 0..ingests {
        tier.ingest();
    }
    for edge in 0..2 {
        tier.edge();
        for pause in [0, 700] {
            tier.subscriber(edge, Duration::from_millis(pause));
        }
    }
    tier.run_for(seconds(3));
    tier
}

/// A source of random numbers for faults.
struct Random(XorShiftRng);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0.random_range(0..n)
    }

    fn index(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    fn millis(&mut self, max: u64) -> Duration {
        Duration::from_millis(self.below(max))
    }
}

fn random(seed: u64) -> Random {
    Random(XorShiftRng::seed_from_u64(seed ^ 0x7e57))
}

/// What fails and recovers, and costs no message: nodes, connections, and time.
fn disturb(tier: &mut Tier, random: &mut Random) {
    let node = random.index(NODES.len());
    let wait = random.millis(8000);
    match random.below(10) {
        0 | 1 => {
            tier.kill_node(node);
            tier.run_for(wait);
            tier.start_node(node);
        }
        2 => {
            // The cluster is away, sometimes for longer than the lease.
            (0..NODES.len()).for_each(|node| tier.kill_node(node));
            tier.run_for(2 * wait);
            (0..NODES.len()).for_each(|node| tier.start_node(node));
        }
        3 => tier.cluster.lame_duck(NODES[node]),
        4 => tier.nodes[node].0.stop_for(wait),
        5 => {
            // Connections of the node are reset, those of the source are not.
            let faults = Faults::harmful(tier.seed + node as u64);
            tier.nodes[node].0.set_faults(faults);
            tier.run_for(wait);
            tier.nodes[node].0.set_faults(Faults::NONE);
        }
        6 => tier.cluster.set_commit_delay(random.millis(200)),
        7 => {
            tier.cluster.set_route_delay(NODES[node], 2 * wait);
            tier.run_for(wait);
            tier.cluster.set_route_delay(NODES[node], Duration::ZERO);
        }
        8 => {
            let api = if random.below(2) == 0 { Api::Silent } else { Api::Unavailable };
            tier.cluster.set_api(Some(api));
            tier.run_for(wait);
            tier.cluster.set_api(None);
        }
        _ => {
            let edge = random.index(tier.edges.len());
            let host = &tier.edges[edge].host;
            if random.below(2) == 0 {
                host.stop_for(wait);
            } else {
                host.set_faults(Faults::harmful(tier.seed));
                tier.run_for(wait);
                tier.edges[edge].host.set_faults(Faults::NONE);
            }
        }
    }
    tier.run_for(random.millis(4000));
}

/// Everything has recovered, and the source ends.
///
/// A subscriber sends nothing: it learns by a keepalive probe, after 60 s, that its edge has given
/// up the connection ([`Faults::timed_out`]).
fn settle(tier: &Tier) {
    tier.cluster.set_commit_delay(Duration::ZERO);
    tier.run_for(seconds(20));
    tier.finish();
    tier.run_for(seconds(20));
}

/// One ingest: whatever fails between it and the subscribers, and however long the cluster is away,
/// the subscribers get each message once.
#[test]
fn nothing_is_missing_and_nothing_comes_twice_with_one_ingest() {
    for_each_seed(2, |seed| {
        let mut tier = tier(seed, 1, Settings::default());
        let mut random = random(seed);
        for _ in 0..5 {
            disturb(&mut tier, &mut random);
            if random.below(4) == 0 {
                tier.ingests[0].host.stop_for(random.millis(15_000));
            }
        }
        settle(&tier);
        tier.check(Promise::Everything);
        tier.world.clear();
    });
}

/// Ingests that are killed, stopped for longer than the lease, and drained, and a source whose
/// connections are cut: a new epoch begins where messages may be missing. What a lost ingest
/// publishes late does no harm.
#[test]
fn epochs_have_no_hole_whatever_ingests_are_lost() {
    for_each_seed(2, |seed| {
        let mut tier = tier(seed, 2, Settings::default());
        let mut random = random(seed);
        for _ in 0..5 {
            if random.below(2) == 0 {
                disturb(&mut tier, &mut random);
            }
            let late = random.millis(8000);
            let index = random.index(tier.ingests.len());
            match random.below(5) {
                0 => {
                    // What it has sent arrives after its end.
                    tier.cluster.set_route_delay(NODES[index % NODES.len()], late);
                    tier.run_for(random.millis(300));
                    tier.ingests[index].kill();
                    tier.cluster.set_route_delay(NODES[index % NODES.len()], Duration::ZERO);
                    tier.ingest();
                }
                1 => {
                    tier.ingests[index].drain();
                    tier.ingest();
                }
                2 | 3 => tier.ingests[index].host.stop_for(seconds(5 + random.below(20))),
                _ => tier.source.cut(),
            }
            tier.run_for(random.millis(20_000));
        }
        settle(&tier);
        tier.check(Promise::Ascending);
        for (number, ingest) in tier.ingests.iter().enumerate() {
            let counters = ingest.feed.counters();
            let acknowledged = counters.reader_acknowledged;
            assert!(counters.messages_in >= acknowledged, "ingest {number}");
        }
        tier.world.clear();
    });
}

/// A stream that loses messages: subscribers are told, or see a gap, and everything goes on.
#[test]
fn epochs_have_no_hole_whatever_the_stream_loses() {
    for_each_seed(2, |seed| {
        let pace = if seed.is_multiple_of(3) { Pace::NeverBlocks } else { Pace::Blocks };
        let settings = Settings { pace, window: 16 * 1024, ..Settings::default() };
        let mut tier = tier(seed, 1 + usize::from(seed.is_multiple_of(2)), settings);
        let mut random = random(seed);
        for _ in 0..5 {
            if random.below(2) == 0 {
                disturb(&mut tier, &mut random);
            }
            match random.below(7) {
                0 => drop(tier.cluster.purge(STREAM)),
                1 => tier.cluster.delete_stream(STREAM),
                2 => tier.cluster.delete_stream(BUCKET),
                3 => {
                    let last = tier.cluster.last_sequence(STREAM).unwrap_or(0);
                    if last > 0 {
                        tier.cluster.truncate(STREAM, last.saturating_sub(1 + random.below(30)));
                    }
                }
                4 => {
                    // Somebody else's message, with and without the framing.
                    let length = super::SIZE - usize::from(random.below(2) == 0);
                    tier.cluster.publish("feed", "", &Message::FOREIGN.text()[..length]);
                }
                5 => tier.source.cut(),
                _ => {
                    let edge = random.index(tier.edges.len());
                    tier.edges[edge].host.stop_for(random.millis(10_000));
                    tier.run_for(random.millis(5000));
                    tier.cluster.purge(STREAM);
                }
            }
            tier.run_for(random.millis(10_000));
        }
        settle(&tier);
        tier.check(Promise::Contiguous);
        tier.world.clear();
    });
}
