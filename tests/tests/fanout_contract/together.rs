//! An upstream and subscribers on one feed, under any list of ops.

use std::time::Duration;

use proptest::prelude::*;
use wirestate_core::{
    Instant, Machine,
    fanout::{Chunk, Config, Feed, LagPolicy, Log, Subscriber, Upstream},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{self, Ending, Op, Player},
    stage,
};

use crate::messages::{any_frames, is_subsequence, parse, plausible};

/// The most bytes that a subscriber of these tests may queue: more than a feed holds.
const MAX_QUEUED: usize = 1 << 20;

#[test]
fn subscribers_get_complete_messages_in_order_under_any_ops() {
    for_each_case(
        256,
        (
            any_frames(),
            // Such windows are full after one chunk, or after a few.
            prop_oneof![40..1000_usize, 66_000..67_000_usize],
            prop_oneof![Just(LagPolicy::Disconnect), Just(LagPolicy::Skip), Just(LagPolicy::Block)],
            prop_oneof![Just(0), Just(20), Just(40)],
            prop_oneof![Just(0), Just(3), Just(u64::MAX)],
            stage::interleaved([script::ops(100), script::ops(60), script::ops(40)]),
        ),
        |(frames, window, on_lag, lag_wait, replay, ops)| {
            let (framing, lag_wait) = (frames.framing(), Duration::from_secs(lag_wait));
            let config = Config::default()
                .with_framing(framing)
                .with_window(window)
                .with_on_lag(on_lag)
                .with_lag_wait(lag_wait)
                .with_write_timeout(Some(Duration::from_secs(100)))
                .with_replay(replay);
            let feed = Feed::new(config).unwrap();
            let mut upstream = Checked::new(Upstream::new(&feed, Instant::EPOCH), 0);
            let mut subscribers =
                [(); 2].map(|()| Checked::new(Subscriber::new(&feed, Instant::EPOCH), MAX_QUEUED));
            let [one, two] = &mut subscribers;
            let mut source = Player::new(&mut upstream);
            let mut readers = [Player::new(one), Player::new(two)];
            for (target, op) in &ops {
                let now =
                    [source.now(), readers[0].now(), readers[1].now()].into_iter().max().unwrap();
                source.play(&Op::Advance(now.since(source.now())));
                for reader in &mut readers {
                    reader.play(&Op::Advance(now.since(reader.now())));
                }
                match (target, op) {
                    (0, Op::Receive(bytes)) => source.play(&Op::Receive(plausible(framing, bytes))),
                    (0, op) => source.play(op),
                    (reader, op) => readers[reader - 1].play(op),
                }
                for reader in &mut readers {
                    let lag = reader.machine().status().lag;
                    assert!(lag <= feed.counters().messages_in);
                }
            }
            // Subscribers that still read get the rest.
            let published = feed.counters().messages_in;
            let subscribed =
                readers.each_mut().map(|reader| reader.machine().status().state == "open");
            for reader in &mut readers {
                reader.play(&Op::ShutDown);
                reader.play_out();
            }
            source.play(&Op::ShutDown);
            source.play_out();
            let input = source.transcript().input;
            let (messages, _) = parse(framing, &input);
            let stream = messages.concat();
            let counters = feed.counters();
            assert_eq!(counters.bytes_received, stream.len() as u64);
            if on_lag != LagPolicy::Block && lag_wait.is_zero() {
                assert_eq!(counters.paused, Duration::ZERO);
            }
            let (mut whole, mut complete) = (0, 0);
            for (reader, subscribed) in readers.into_iter().zip(subscribed) {
                let transcript = reader.transcript();
                let (seen, begun) = parse(framing, &transcript.output);
                whole += seen.len() as u64;
                if on_lag == LagPolicy::Skip {
                    assert!(is_subsequence(&seen, &messages), "{seen:?} of {messages:?}");
                    assert!(
                        messages.iter().any(|message| message.starts_with(begun))
                            || begun.is_empty()
                    );
                } else {
                    assert!(stream.starts_with(&transcript.output), "it has a gap");
                }
                if transcript.ending == Some(Ending::Fin) {
                    assert!(begun.is_empty(), "a message that was begun is completed");
                    if subscribed {
                        complete += 1;
                        let gap = published - seen.len() as u64;
                        assert!(on_lag == LagPolicy::Skip || gap == 0, "{gap} are missing");
                    }
                }
                assert!(on_lag == LagPolicy::Disconnect || transcript.label != Some("lagged"));
            }
            drop(subscribers);
            let counters = feed.counters();
            assert_eq!((counters.subscribers, counters.delivered), (0, whole));
            if complete == 2 {
                assert_eq!(whole + counters.skipped, 2 * published, "{counters:?}");
            }
        },
    );
}

#[test]
fn a_log_never_costs_more_than_its_window_or_its_last_chunk() {
    for_each_case(
        256,
        (0..2000_usize, prop::collection::vec((1..600_usize, 1..9_u64), 0..40), 0..100_u64),
        |(window, chunks, last)| {
            let mut log = Log::new(window);
            let mut messages = 0;
            for (len, count) in chunks {
                let start = log.start_after(len);
                log.push(vec![0; len].into(), count, Instant::EPOCH);
                messages += count;
                assert_eq!(log.start(), start, "`start_after` has predicted another start");
                let chunks: Vec<_> =
                    (log.start()..log.end()).map(|position| log.chunk(position).unwrap()).collect();
                let cost: usize = chunks.iter().map(|chunk| chunk.bytes.len() + 128).sum();
                assert!(cost <= window.max(len + 128), "{cost} of {window}");
                let next = |chunk: &Chunk| chunk.first_message + chunk.messages;
                assert!(chunks.windows(2).all(|two| next(two[0]) == two[1].first_message));
                assert_eq!(log.messages(), messages);

                let (position, before) = log.position_of_last(last);
                let start =
                    log.chunk(position).map_or(messages, |chunk| chunk.first_message + before);
                assert_eq!(start, messages.saturating_sub(last).max(chunks[0].first_message));
            }
        },
    );
}
