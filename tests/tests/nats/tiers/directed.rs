//! What random faults would rarely hit.

use std::time::Duration;

use wirestate_core::{
    drive::Clock as _,
    fanout::{GapPolicy, Pace},
    nats::jetstream::MessageId,
    runtime::Runtime as _,
};
use wirestate_testkit::sim::{Faults, Leftovers};

use super::{
    BUCKET, Message, NODES, STREAM, Settings, Tier, checks::Promise, processes::Ingest, seconds,
};

/// A tier with one edge that has two subscribers.
fn tier(ingests: usize, settings: Settings) -> Tier {
    let mut tier = Tier::new(7, settings);
    for _ in 0..ingests {
        tier.ingest();
    }
    tier.edge();
    tier.subscriber(0, Duration::ZERO);
    tier.subscriber(0, Duration::ZERO);
    tier.run_for(seconds(3));
    tier
}

/// Publishes messages to the feed of an ingest in one chunk, as connection 1 of a source.
fn publish_to(ingest: &Ingest, numbers: std::ops::Range<u64>) {
    let count = numbers.end - numbers.start;
    let text = numbers.map(|number| Message { connection: 1, number }.text()).collect::<String>();
    ingest.feed.publish(text.into_bytes().into(), count, ingest.host.clock().now());
}

/// Publishes messages to the feed of the first ingest.
fn publish(tier: &Tier, numbers: std::ops::Range<u64>) {
    publish_to(&tier.ingests[0], numbers);
}

/// The epochs of the ids in the stream, without repetitions.
fn stored_epochs(tier: &Tier) -> Vec<u64> {
    let messages = tier.cluster.messages(STREAM);
    let ids = messages.iter().filter_map(|message| MessageId::parse(message.id.as_ref()?));
    let mut epochs: Vec<u64> = ids.map(|id| id.epoch).collect();
    epochs.dedup();
    epochs
}

/// The first and the last message of each epoch of an edge's feed.
fn bounds(tier: &Tier) -> Vec<(Message, Message)> {
    tier.epochs(0).iter().map(|epoch| (epoch[0], epoch[epoch.len() - 1])).collect()
}

fn gap_ended(tier: &Tier) -> u64 {
    tier.edges[0].server.table().totals().ended.get("gap").copied().unwrap_or(0)
}

/// The messages in flight are lost with the leader while the next epoch of the feed waits for them:
/// they are offered again, in their epoch.
#[test]
fn an_epoch_of_the_feed_is_one_epoch_although_its_end_is_lost_with_the_leader() {
    let mut tier = tier(1, Settings { rate: 50, ..Settings::default() });
    tier.cluster.set_commit_delay(seconds(4));
    tier.run_for(seconds(1));
    tier.source.cut();
    tier.run_for(seconds(1));
    tier.kill_node(0);
    tier.cluster.set_commit_delay(Duration::ZERO);
    tier.run_for(seconds(10));
    tier.start_node(0);
    tier.finish();
    tier.check(Promise::Ascending);
    let connections: Vec<u64> = bounds(&tier).iter().map(|(first, _)| first.connection).collect();
    assert_eq!(connections, [1, 2]);
    assert_eq!(stored_epochs(&tier).len(), 2);
    assert_eq!(gap_ended(&tier), 2);
    tier.world.clear();
}

/// An ingest that is drained, and waits for acknowledgements, ends when another one has taken its
/// lease meanwhile.
#[test]
fn a_drained_ingest_whose_lease_was_taken_ends() {
    let tier = tier(2, Settings::default());
    let old = tier.active().unwrap();
    tier.cluster.set_commit_delay(seconds(5));
    tier.run_for(seconds(1));
    old.drain();
    tier.run_for(seconds(1));
    assert!(old.has_ended.take().is_none() && old.feed.counters().reader_lag > 0);
    old.host.stop_for(seconds(20));
    tier.cluster.set_commit_delay(Duration::ZERO);
    tier.run_for(seconds(25));
    assert!(old.has_ended.take().is_some(), "it has not ended");
    assert!(tier.active().is_some());
    tier.finish();
    tier.check(Promise::Ascending);
    tier.world.clear();
}

/// An ingest that was stopped for longer than its lease drops what it has when it gets the lease
/// again: it is older than what the other one has published.
#[test]
fn an_ingest_drops_what_is_older_than_the_messages_of_another_one() {
    let tier = tier(2, Settings::default());
    let old = tier.active().unwrap();
    tier.cluster.set_commit_delay(seconds(5));
    tier.run_for(seconds(1));
    old.host.stop_for(seconds(20));
    tier.cluster.set_commit_delay(Duration::ZERO);
    tier.run_for(seconds(25));
    let lag = old.feed.counters().reader_lag;
    assert!(lag > 0);
    tier.active().unwrap().kill();
    tier.run_for(seconds(15));
    assert!(old.handle.counters().epoch.is_some());
    tier.finish();
    tier.check(Promise::Ascending);
    assert_eq!(old.feed.counters().reader_skipped, lag);
    let firsts: Vec<Message> = bounds(&tier).iter().map(|(first, _)| *first).collect();
    assert_eq!(firsts, [1, 2, 3].map(|connection| Message { connection, number: 0 }));
    tier.world.clear();
}

/// An ingest that was stopped gets the lease again before it has learned of another holder. What
/// the source has sent it meanwhile is older than what that one has published: it dials the source
/// again.
#[test]
fn an_ingest_that_finds_messages_of_another_one_leaves_its_connection_to_the_source() {
    let mut settings = Settings { rate: 50, window: 8 * 1024, ..Settings::default() };
    settings.world.buffer = 8 * 1024; // less than what the source sends meanwhile
    let tier = tier(2, settings);
    let old = tier.active().unwrap();
    old.host.stop_for(seconds(27));
    tier.run_for(seconds(15));
    let new = tier.ingests.iter().find(|one| !std::ptr::eq(*one, old)).unwrap();
    assert!(new.handle.counters().epoch.is_some());
    new.host.stop_for(seconds(40));
    tier.run_for(seconds(20));
    assert!(old.handle.counters().epoch.is_some());
    tier.run_for(seconds(25));
    tier.finish();
    tier.check(Promise::Ascending);
    let firsts: Vec<Message> = bounds(&tier).iter().map(|(first, _)| *first).collect();
    assert_eq!(firsts, [1, 2, 3].map(|connection| Message { connection, number: 0 }));
    assert!(old.feed.counters().reader_skipped > 0);
    tier.world.clear();
}

/// A standby takes the lease over at once, and everything of the drained ingest is in the stream.
#[test]
fn a_drained_ingest_publishes_everything_and_releases_its_lease() {
    let tier = tier(2, Settings { rate: 200, ..Settings::default() });
    tier.cluster.set_commit_delay(Duration::from_millis(500));
    tier.run_for(seconds(1));
    let active = tier.active().unwrap();
    assert!(active.handle.counters().in_flight > 50);
    active.drain();
    tier.run_for(seconds(3));
    assert!(active.has_ended.take().is_some(), "it has not ended");
    let standby = tier.active().expect("the standby has the lease");
    tier.run_for(seconds(2));
    assert!(tier.cluster.messages(STREAM).len() > 500);
    assert!(standby.feed.counters().messages_in > 0);
    tier.finish();
    tier.check(Promise::Ascending);
    let published: u64 = tier.ingests.iter().map(|one| one.feed.counters().messages_in).sum();
    let counters = tier.edges[0].handle.counters();
    assert_eq!((counters.messages, counters.gaps), (published, 1));
    tier.world.clear();
}

/// What a dead ingest has sent arrives when the next one publishes.
#[test]
fn what_a_dead_ingest_has_sent_arrives_late_and_is_refused() {
    let tier = tier(2, Settings::default());
    let active = tier.active().unwrap();
    let delays = |delay| NODES.map(|node| tier.cluster.set_route_delay(node, delay));
    delays(seconds(18));
    tier.run_for(seconds(1));
    assert!(active.handle.counters().in_flight > 0);
    active.kill();
    delays(Duration::ZERO);
    tier.run_for(seconds(15));
    let stored = tier.cluster.messages(STREAM).len();
    tier.run_for(seconds(15));
    assert!(tier.active().is_some());
    tier.finish();
    tier.check(Promise::Ascending);
    assert!(tier.cluster.messages(STREAM).len() > stored);
    assert_eq!(stored_epochs(&tier).len(), 2);
    assert_eq!(gap_ended(&tier), 2);
    tier.world.clear();
}

#[test]
fn a_purge_of_what_was_read_is_no_gap_and_one_of_what_was_not_is_counted() {
    for on_gap in [GapPolicy::Continue, GapPolicy::Disconnect] {
        let mut settings = Settings::default();
        settings.edge = settings.edge.with_on_gap(on_gap);
        let tier = tier(1, settings);
        tier.cluster.purge(STREAM);
        tier.run_for(seconds(2));
        assert_eq!(tier.edges[0].handle.counters().gaps, 0);
        tier.edges[0].host.set_faults(Faults { reset: 1000, ..Faults::NONE });
        tier.run_for(seconds(5));
        let purged = tier.cluster.purge(STREAM);
        tier.edges[0].host.set_faults(Faults::NONE);
        tier.run_for(seconds(8));
        tier.finish();
        tier.check(Promise::Ascending);
        let counters = tier.edges[0].handle.counters();
        // Some may have been on their way.
        assert!(counters.gaps == 1 && (1..=purged).contains(&counters.missing), "{counters:?}");
        let [(_, last), (first, _)] = bounds(&tier)[..] else { panic!("{:?}", bounds(&tier)) };
        assert_eq!(first.number - last.number - 1, counters.missing);
        assert!(on_gap == GapPolicy::Disconnect || gap_ended(&tier) == 0);
        tier.world.clear();
    }
}

/// Epochs go on above those of the bucket that was deleted, and the lease is never held twice.
#[test]
fn epochs_stay_ascending_when_the_bucket_is_made_anew() {
    let tier = tier(2, Settings::default());
    for _ in 0..4 {
        tier.source.cut(); // a new epoch each time
        tier.run_for(seconds(2));
    }
    tier.cluster.delete_stream(BUCKET);
    tier.run_for(seconds(20));
    tier.active().unwrap().kill();
    tier.run_for(seconds(15));
    tier.finish();
    tier.check(Promise::Ascending);
    let epochs = stored_epochs(&tier);
    assert!(epochs.len() >= 6 && epochs.is_sorted(), "{epochs:?}");
    assert_eq!(tier.edges[0].handle.counters().gaps, epochs.len() as u64 - 1);
    tier.world.clear();
}

/// The ingest gets the lease again in a new bucket. Its next epoch is above the one before,
/// although the stream ends with a message that has none.
#[test]
fn epochs_stay_ascending_in_a_new_bucket_behind_a_message_of_somebody_else() {
    let tier = tier(1, Settings::default());
    for _ in 0..4 {
        tier.source.cut(); // a new epoch each time
        tier.run_for(seconds(2));
    }
    tier.cluster.delete_stream(BUCKET);
    tier.run_for(seconds(8)); // it gets the lease, and the revisions are still below the epoch
    tier.cluster.publish("feed", "", &Message::FOREIGN.text());
    tier.run_for(seconds(5));
    tier.finish();
    tier.check(Promise::Contiguous);
    let epochs = stored_epochs(&tier);
    assert!(epochs.len() == 6 && epochs.is_sorted(), "{epochs:?}");
    tier.world.clear();
}

/// A new bucket may give an epoch again. An edge that has read to its end, and not what came behind
/// it, sees the gap in the stream.
#[test]
fn an_epoch_that_is_given_again_does_not_hide_a_gap() {
    let mut tier = Tier::new(7, Settings::default());
    tier.source.end();
    tier.ingest();
    tier.run_for(seconds(2));
    tier.ingests[0].kill();
    tier.edge();
    let publish = |epoch, number| {
        let id = format!("Nats-Msg-Id: {epoch}-{number}\r\n");
        tier.cluster.publish("feed", &id, &Message { connection: epoch, number }.text());
    };
    (0..5).for_each(|number| publish(1, number));
    tier.run_for(seconds(2));
    tier.edges[0].host.set_faults(Faults { reset: 1000, ..Faults::NONE });
    tier.run_for(seconds(5));
    publish(2, 0);
    tier.cluster.purge(STREAM);
    publish(1, 5);
    tier.edges[0].host.set_faults(Faults::NONE);
    tier.run_for(seconds(20));
    let counters = tier.edges[0].handle.counters();
    assert_eq!((counters.messages, counters.gaps), (6, 1), "{counters:?}");
    tier.world.clear();
}

#[test]
fn a_stream_that_is_made_anew_or_has_lost_its_end_is_a_gap() {
    let tier = tier(1, Settings::default());
    tier.cluster.delete_stream(STREAM);
    tier.run_for(seconds(12));
    assert_eq!(tier.edges[0].handle.counters().gaps, 1);
    let last = tier.cluster.last_sequence(STREAM).unwrap();
    assert!(last > 20, "{last}");
    tier.cluster.truncate(STREAM, last - 15);
    tier.run_for(seconds(12));
    tier.finish();
    tier.check(Promise::Contiguous);
    assert_eq!(tier.edges[0].handle.counters().gaps, 2, "{:?}", bounds(&tier));
    assert!(tier.ingests[0].handle.counters().epochs >= 3);
    tier.world.clear();
}

/// A message of somebody else begins an epoch, and so does the next one of the ingest. One that has
/// not the framing is dropped: it leaves one gap.
#[test]
fn a_message_of_somebody_else_begins_an_epoch_or_is_dropped() {
    for (is_whole, gaps) in [(true, 2), (false, 1)] {
        let tier = tier(1, Settings::default());
        let text = Message::FOREIGN.text();
        let text = if is_whole { &text[..] } else { &text[1..] };
        tier.cluster.publish("feed", "", text);
        tier.run_for(seconds(5));
        tier.finish();
        tier.check(Promise::Contiguous);
        let counters = tier.edges[0].handle.counters();
        assert_eq!((counters.gaps, counters.rejected), (gaps, gaps % 2), "{is_whole}");
        assert_eq!(tier.edges[0].feed.counters().epoch, gaps);
        assert!(gap_ended(&tier) >= 2);
        tier.world.clear();
    }
}

/// The source goes on while the cluster is away. What fell out of the window is skipped.
#[test]
fn an_ingest_that_never_blocks_skips_what_falls_out_of_the_window() {
    let settings =
        Settings { pace: Pace::NeverBlocks, window: 8 * 1024, rate: 50, ..Settings::default() };
    let mut tier = tier(1, settings);
    (0..NODES.len()).for_each(|node| tier.kill_node(node));
    tier.run_for(seconds(15));
    (0..NODES.len()).for_each(|node| tier.start_node(node));
    tier.run_for(seconds(10));
    tier.finish();
    tier.check(Promise::Ascending);
    let (feed, edge) = (tier.ingests[0].feed.counters(), tier.edges[0].handle.counters());
    assert!(feed.reader_skipped > 500, "{feed:?}");
    assert_eq!(feed.paused, Duration::ZERO);
    assert_eq!(feed.messages_in - feed.reader_skipped, edge.messages);
    assert_eq!(edge.gaps, 1);
    tier.world.clear();
}

/// The source goes on for a standby that never blocks: what it has got by then, the other one has
/// published.
#[test]
fn a_standby_that_never_blocks_skips_what_it_got_before_it_has_the_lease() {
    let mut tier = Tier::new(7, Settings { pace: Pace::NeverBlocks, ..Settings::default() });
    tier.source.end();
    tier.ingest();
    tier.run_for(seconds(2));
    tier.ingest();
    tier.edge();
    tier.run_for(seconds(3));
    for ingest in &tier.ingests {
        publish_to(ingest, 0..5);
    }
    tier.run_for(seconds(1));
    assert_eq!(tier.cluster.messages(STREAM).len(), 5);
    tier.ingests[0].kill();
    tier.run_for(seconds(15));
    assert_eq!(tier.ingests[1].feed.counters().reader_skipped, 5);
    publish_to(&tier.ingests[1], 6..8);
    tier.run_for(seconds(2));
    tier.finish();
    tier.check(Promise::Ascending);
    assert_eq!(tier.cluster.messages(STREAM).len(), 7);
    tier.world.clear();
}

/// The server of the new connection takes no message that has an expected id beside the rest of
/// its headers: the first one of each epoch passes, and the one behind it is dropped.
#[test]
fn messages_that_are_too_long_for_the_server_are_dropped_and_counted() {
    let mut tier = Tier::new(7, Settings::default());
    tier.source.end();
    tier.ingest();
    tier.edge();
    tier.subscriber(0, Duration::ZERO);
    tier.run_for(seconds(3));
    publish(&tier, 0..5);
    tier.run_for(seconds(1));
    tier.cluster.set_max_payload(150);
    tier.ingests[0].host.set_faults(Faults { reset: 1000, ..Faults::NONE });
    publish(&tier, 5..6);
    tier.run_for(seconds(1));
    tier.ingests[0].host.set_faults(Faults::NONE);
    tier.run_for(seconds(4));
    publish(&tier, 6..16);
    tier.run_for(seconds(20));
    tier.check(Promise::Ascending);
    let counters = tier.ingests[0].handle.counters();
    assert_eq!(counters.rejected, 5, "{counters:?}");
    assert_eq!(tier.edges[0].handle.counters().messages, 16 - 5);
    assert_eq!(tier.ingests[0].feed.counters().reader_lag, 0);
    tier.world.clear();
}

/// All processes end, and nothing is left.
#[test]
fn a_tier_is_drained_from_the_source_to_the_subscribers() {
    let tier = tier(2, Settings::default());
    tier.ingests.iter().for_each(super::Ingest::drain);
    tier.finish();
    tier.check(Promise::Everything);
    for ingest in &tier.ingests {
        assert!(ingest.has_ended.take().is_some());
        assert_eq!(ingest.feed.counters().readers, 0);
    }
    let edge = &tier.edges[0];
    edge.shutdown.drain();
    edge.server.drain();
    tier.nodes.iter().for_each(|(_, handle)| handle.drain());
    tier.run_for(seconds(30));
    assert_eq!(edge.server.table().totals().open, 0);
    let ended = tier.subscribers.iter().map(|one| one.log.with(|log| log[0].end));
    assert!(ended.eq([Some(Ok(())); 2]));
    tier.world.clear();
    assert_eq!(tier.world.leftovers(), Leftovers::default());
}
