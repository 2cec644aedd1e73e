//! An upstream and subscribers on one feed, under any list of ops.

use std::time::Duration;

use proptest::prelude::*;
use wirestate_core::{
    Instant, Machine,
    fanout::{Chunk, Config, Feed, LagPolicy, Log, Subscriber, Upstream},
};
use wirestate_testkit::{
    contract::Checked,
    proptest_config,
    script::{self, Ending, Op, Player},
};

use crate::messages::{framing, is_subsequence, parse, plausible};

fn config() -> impl Strategy<Value = Config> {
    let on_lag =
        prop_oneof![Just(LagPolicy::Disconnect), Just(LagPolicy::Skip), Just(LagPolicy::Block)];
    // Such windows are full after one chunk, or after a few.
    let window = prop_oneof![40..1000_usize, 66_000..67_000_usize];
    (framing(), window, on_lag, 0..3_u64, prop_oneof![Just(0), Just(3), Just(u64::MAX)]).prop_map(
        |(framing, window, on_lag, lag_wait, replay)| {
            Config::default()
                .with_framing(framing)
                .with_window(window)
                .with_on_lag(on_lag)
                .with_lag_wait(Duration::from_secs(20 * lag_wait))
                .with_write_timeout(Some(Duration::from_secs(100)))
                .with_replay(replay)
        },
    )
}

/// The most bytes that a subscriber of these tests may queue: more than a feed holds.
const MAX_QUEUED: usize = 1 << 20;

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn subscribers_get_complete_messages_in_order_under_any_ops(
        config in config(),
        ops in script::ops(200),
        targets in
            prop::collection::vec(prop_oneof![3 => Just(0), 2 => Just(1), 1 => Just(2)], 200),
    ) {
        let Config { framing, on_lag, lag_wait, .. } = config;
        let feed = Feed::new(config).unwrap();
        let mut upstream = Checked::new(Upstream::new(&feed, Instant::EPOCH), 0);
        let mut subscribers =
            [(); 2].map(|()| Checked::new(Subscriber::new(&feed, Instant::EPOCH), MAX_QUEUED));
        let [one, two] = &mut subscribers;
        let mut source = Player::new(&mut upstream);
        let mut readers = [Player::new(one), Player::new(two)];
        for (op, target) in ops.iter().zip(targets) {
            let now = [source.now(), readers[0].now(), readers[1].now()].into_iter().max().unwrap();
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
                prop_assert!(lag <= feed.counters().messages_in);
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
        prop_assert_eq!(counters.bytes_received, stream.len() as u64);
        if on_lag != LagPolicy::Block && lag_wait.is_zero() {
            prop_assert_eq!(counters.paused, Duration::ZERO);
        }
        let (mut whole, mut complete) = (0, 0);
        for (reader, subscribed) in readers.into_iter().zip(subscribed) {
            let transcript = reader.transcript();
            let (seen, begun) = parse(framing, &transcript.output);
            whole += seen.len() as u64;
            if on_lag == LagPolicy::Skip {
                prop_assert!(is_subsequence(&seen, &messages), "{:?} of {:?}", seen, messages);
                prop_assert!(
                    messages.iter().any(|message| message.starts_with(begun)) || begun.is_empty()
                );
            } else {
                prop_assert!(stream.starts_with(&transcript.output), "it has a gap");
            }
            if transcript.ending == Some(Ending::Fin) {
                prop_assert!(begun.is_empty(), "a message that was begun is completed");
                if subscribed {
                    complete += 1;
                    let gap = published - seen.len() as u64;
                    prop_assert!(on_lag == LagPolicy::Skip || gap == 0, "{} are missing", gap);
                }
            }
            prop_assert!(on_lag == LagPolicy::Disconnect || transcript.label != Some("lagged"));
        }
        drop(subscribers);
        let counters = feed.counters();
        prop_assert_eq!((counters.subscribers, counters.delivered), (0, whole));
        if complete == 2 {
            prop_assert_eq!(whole + counters.skipped, 2 * published, "{:?}", counters);
        }
    }

    #[test]
    fn a_log_never_costs_more_than_its_window_or_its_last_chunk(
        window in 0..2000_usize,
        chunks in prop::collection::vec((1..600_usize, 1..9_u64), 0..40),
        last in 0..100_u64,
    ) {
        let mut log = Log::new(window);
        let mut messages = 0;
        for (len, count) in chunks {
            let start = log.start_after(len);
            log.push(vec![0; len].into(), count, Instant::EPOCH);
            messages += count;
            prop_assert_eq!(log.start(), start, "`start_after` has predicted another start");
            let chunks: Vec<_> =
                (log.start()..log.end()).map(|position| log.chunk(position).unwrap()).collect();
            let cost: usize = chunks.iter().map(|chunk| chunk.bytes.len() + 128).sum();
            prop_assert!(cost <= window.max(len + 128), "{} of {}", cost, window);
            let next = |chunk: &Chunk| chunk.first_message + chunk.messages;
            prop_assert!(chunks.windows(2).all(|two| next(two[0]) == two[1].first_message));
            prop_assert_eq!(log.messages(), messages);

            let (position, before) = log.position_of_last(last);
            let start = log.chunk(position).map_or(messages, |chunk| chunk.first_message + before);
            prop_assert_eq!(start, messages.saturating_sub(last).max(chunks[0].first_message));
        }
    }
}
