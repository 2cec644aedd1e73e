//! The machines of a fan-out: a subscriber's chunks come from the recordings of its upstream.

use std::time::Duration;

use proptest::prelude::*;
use wirestate_core::{
    AnyReason, Erased, Instant, Machine,
    fanout::{Config, Feed, Framing, GapPolicy, LagPolicy, Publisher, Subscriber, Upstream},
    record::Digest,
};
use wirestate_testkit::{
    for_each_case,
    script::{self, Op},
    stage,
};

use crate::{Blocks, recorded, replay};

type Any = Box<dyn Machine<Reason = AnyReason>>;

/// What a configuration is made of.
fn choices() -> impl Strategy<Value = (LagPolicy, GapPolicy, u64, usize)> {
    let on_lag =
        prop_oneof![Just(LagPolicy::Disconnect), Just(LagPolicy::Skip), Just(LagPolicy::Block)];
    let on_gap = prop_oneof![Just(GapPolicy::Continue), Just(GapPolicy::Disconnect)];
    (on_lag, on_gap, prop_oneof![Just(0), Just(3)], 200..900_usize)
}

fn config(on_lag: LagPolicy, on_gap: GapPolicy, replay: u64, window: usize) -> Config {
    let framing = Framing::Delimited { delimiter: b'\n', max: 20.try_into().unwrap() };
    Config::default()
        .with_framing(framing)
        .with_window(window)
        .with_on_lag(on_lag)
        .with_on_gap(on_gap)
        .with_lag_wait(Duration::from_secs(1))
        .with_write_timeout(Some(Duration::from_secs(30)))
        .with_replay(replay)
}

fn lines() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => "[a-z]{0,12}\n".prop_map(String::into_bytes),
        1 => "[a-z]{0,40}".prop_map(String::into_bytes),
    ]
}

/// A machine on the stage, and its recording.
fn on_stage<M: wirestate_core::record::Recordable + 'static>(machine: M) -> (Any, Blocks) {
    let (machine, blocks) = recorded(machine);
    (Box::new(Erased(machine)), blocks)
}

#[test]
fn a_subscriber_replays_with_the_recording_of_its_upstream() {
    for_each_case(
        256,
        (choices(), stage::interleaved((0..4).map(|_| script::ops_of(lines(), 15)))),
        |((on_lag, on_gap, last, window), ops)| {
            let config = config(on_lag, on_gap, last, window);
            let feed = Feed::new(config.clone()).unwrap();
            // A subscriber that is not recorded slows the upstream down.
            let (upstream, published) = on_stage(Upstream::new(&feed, Instant::EPOCH));
            let (first, one) = on_stage(Subscriber::new(&feed, Instant::EPOCH));
            let (second, two) = on_stage(Subscriber::new(&feed, Instant::EPOCH));
            let slow: Any = Box::new(Erased(Subscriber::new(&feed, Instant::EPOCH)));
            let transcripts = stage::play(vec![upstream, first, second, slow], &ops);

            let feed = Feed::for_replay(config).unwrap();
            let upstream = replay(&published.bytes(), Upstream::new(&feed, Instant::EPOCH));
            assert_eq!(upstream.difference, None);
            for (blocks, transcript) in [one, two].iter().zip(&transcripts[1..]) {
                let replayed = replay(&blocks.bytes(), Subscriber::new(&feed, Instant::EPOCH));
                assert_eq!(replayed.difference, None);
                assert_eq!(replayed.digests[0], Digest::of(&transcript.output));
            }
        },
    );
}

#[test]
fn a_subscriber_replays_with_the_recordings_of_all_publishers() {
    for_each_case(
        256,
        (choices(), stage::interleaved((0..4).map(|_| script::ops_of(lines(), 15)))),
        |((on_lag, on_gap, last, window), ops)| {
            let config = config(on_lag, on_gap, last, window);
            let feed = Feed::new(config.clone()).unwrap();
            let (first, one) = on_stage(Publisher::new(&feed, Instant::EPOCH));
            let (second, two) = on_stage(Publisher::new(&feed, Instant::EPOCH));
            let (third, subscribed) = on_stage(Subscriber::new(&feed, Instant::EPOCH));
            let slow: Any = Box::new(Erased(Subscriber::new(&feed, Instant::EPOCH)));
            let transcripts = stage::play(vec![first, second, third, slow], &ops);

            let feed = Feed::for_replay(config).unwrap();
            for publisher in [two, one] {
                let replayed = replay(&publisher.bytes(), Publisher::new(&feed, Instant::EPOCH));
                assert_eq!(replayed.difference, None);
            }
            let replayed = replay(&subscribed.bytes(), Subscriber::new(&feed, Instant::EPOCH));
            assert_eq!(replayed.difference, None);
            assert_eq!(replayed.digests[0], Digest::of(&transcripts[2].output));
        },
    );
}

#[test]
fn without_the_recording_of_the_upstream_the_replay_says_what_is_missing() {
    let feed = Feed::new(Config::default().with_framing(Framing::None)).unwrap();
    let (mut machine, blocks) = recorded(Subscriber::new(&feed, Instant::EPOCH));
    feed.publish(b"hello".as_slice().into(), 1, Instant::EPOCH);
    script::play(&mut machine, &[Op::Accept(0), Op::Accept(5)]);
    drop(machine);
    let feed = Feed::for_replay(feed.config().clone()).unwrap();
    let replayed = replay(&blocks.bytes(), Subscriber::new(&feed, Instant::EPOCH));
    let difference = replayed.difference.unwrap().to_string();
    let expected = "the recordings of its upstream beside it do not have the messages";
    assert!(difference.ends_with(expected), "{difference}");
}
