//! An upstream and subscribers on one feed, under any list of ops.

use std::time::Duration;

use proptest::prelude::*;
use wirestate_core::{
    Instant, Machine,
    fanout::{Config, Feed, LagPolicy, Log, Subscriber, Upstream},
};
use wirestate_testkit::{
    contract::Checked,
    script::{self, Ending, Op, Player},
};

use crate::{
    messages::{ascending, framing, parse, plausible},
    proptest_config,
};

fn config() -> impl Strategy<Value = Config> {
    let on_lag =
        prop_oneof![Just(LagPolicy::Disconnect), Just(LagPolicy::Skip), Just(LagPolicy::Block)];
    // An upstream reserves the 64 KiB that it may read, so a window this small is full after one
    // chunk or a few.
    let window = prop_oneof![40..1000_usize, 66_000..67_000_usize];
    (framing(), window, on_lag, 0..3_u64, prop_oneof![Just(0), Just(3), Just(u64::MAX)]).prop_map(
        |(framing, window, on_lag, lag_wait, replay)| Config {
            framing,
            window,
            on_lag,
            lag_wait: Duration::from_secs(20 * lag_wait),
            write_timeout: Some(Duration::from_secs(100)),
            replay,
            ..Config::default()
        },
    )
}

/// The most bytes that a subscriber of these tests may queue: all that the feed has.
const MOST: usize = 1 << 20;

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn subscribers_see_whole_messages_in_order_whatever_happens(
        config in config(),
        ops in script::ops(200),
        whose in prop::collection::vec(prop_oneof![3 => Just(0), 2 => Just(1), 1 => Just(2)], 200),
    ) {
        let Config { framing, on_lag, lag_wait, .. } = config;
        let feed = Feed::new(config);
        let mut upstream = Checked::new(Upstream::new(feed.clone(), None, Instant::EPOCH), 0);
        let mut subscribers =
            [(); 2].map(|()| Checked::new(Subscriber::new(&feed, Instant::EPOCH), MOST));
        let [one, two] = &mut subscribers;
        let mut source = Player::new(&mut upstream);
        let mut readers = [Player::new(one), Player::new(two)];
        for (op, whose) in ops.iter().zip(whose) {
            let now = [source.now(), readers[0].now(), readers[1].now()].into_iter().max().unwrap();
            source.play(&Op::Advance(now.since(source.now())));
            for reader in &mut readers {
                reader.play(&Op::Advance(now.since(reader.now())));
            }
            match (whose, op) {
                (0, Op::Receive(bytes)) => source.play(&Op::Receive(plausible(framing, bytes))),
                (0, op) => source.play(op),
                (reader, op) => readers[reader - 1].play(op),
            }
            for reader in &mut readers {
                let lag = reader.machine().status().lag;
                prop_assert!(lag <= feed.counters().messages_in);
            }
        }
        // The upstream has ended: subscribers that still read get the rest.
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
        prop_assert_eq!(counters.bytes_in, stream.len() as u64);
        if on_lag != LagPolicy::Block && lag_wait.is_zero() {
            prop_assert_eq!(counters.held, Duration::ZERO);
        }
        let mut whole = 0;
        for reader in readers {
            let transcript = reader.transcript();
            let (seen, begun) = parse(framing, &transcript.output);
            whole += seen.len() as u64;
            if on_lag == LagPolicy::Skip {
                prop_assert!(ascending(&seen, &messages), "{:?} of {:?}", seen, messages);
                prop_assert!(
                    messages.iter().any(|message| message.starts_with(begun)) || begun.is_empty()
                );
            } else {
                prop_assert!(stream.starts_with(&transcript.output), "it has a gap");
            }
            if transcript.ending == Some(Ending::Fin) {
                prop_assert!(begun.is_empty(), "a message that was begun is finished");
            }
            prop_assert!(on_lag == LagPolicy::Disconnect || transcript.label != Some("lagged"));
        }
        drop(subscribers);
        let counters = feed.counters();
        prop_assert_eq!((counters.subscribers, counters.delivered), (0, whole));
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
            let first = log.first_after(len);
            log.push(vec![0; len].into(), count, Instant::EPOCH);
            messages += count;
            prop_assert_eq!(log.first(), first, "it says before what it will do");
            let kept: Vec<_> = (log.first()..log.next()).map(|at| log.chunk(at).unwrap()).collect();
            let cost: usize = kept.iter().map(|chunk| chunk.bytes.len() + 128).sum();
            prop_assert!(cost <= window.max(len + 128), "{} of {}", cost, window);
            prop_assert!(kept.windows(2).all(|two| two[0].start + two[0].messages == two[1].start));
            prop_assert_eq!(log.messages(), messages);

            let (chunk, before) = log.last(last);
            let start = log.chunk(chunk).map_or(messages, |chunk| chunk.start + before);
            prop_assert_eq!(start, messages.saturating_sub(last).max(kept[0].start));
        }
    }
}
