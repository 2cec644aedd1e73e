//! Single cases: which messages a subscriber gets, and how long the upstream is paused for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Machine, Outbound,
    drive::{self, MAX_SLICES},
    fanout::{Capacity, Config, Feed, Framing, LagPolicy, Subscriber, SubscriberReason, Upstream},
};
use wirestate_testkit::script;

use crate::messages::{fixed, lines};

/// Messages of four bytes. The window holds two of them if each message is a chunk.
fn config(on_lag: LagPolicy) -> Config {
    Config::default().with_framing(fixed(4)).with_window(2 * (4 + 128)).with_on_lag(on_lag)
}

fn at(millis: u64) -> Instant {
    Instant::from_epoch(Duration::from_millis(millis))
}

fn poll_shared<M: Machine>(machine: &mut M, now: Instant) {
    let cx = &mut Context::from_waker(Waker::noop());
    while machine.poll_shared(now, cx) {}
}

fn receive(upstream: &mut Upstream, mut bytes: &[u8], now: Instant) {
    poll_shared(upstream, now);
    drive::deliver(upstream, &mut bytes, now);
    assert!(bytes.is_empty(), "the feed has no capacity");
}

fn capacity(feed: &Feed, now: Instant) -> Capacity {
    feed.poll_capacity(now, 4, &mut Context::from_waker(Waker::noop()))
}

fn paused_until(until: Instant) -> Capacity {
    Capacity::Paused { until: Some(until) }
}

fn publish(feed: &Feed, message: &'static str, now: Instant) {
    feed.publish(Bytes::from_static(message.as_bytes()), message.len() as u64 / 4, now);
}

/// Sends all output of `subscriber`, and returns it.
fn sent(subscriber: &mut Subscriber, now: Instant) -> String {
    poll_shared(subscriber, now);
    let output = script::collect(subscriber, now);
    poll_shared(subscriber, now);
    String::from_utf8(output).unwrap()
}

#[test]
fn a_late_joiner_starts_with_the_next_message_or_the_last_few() {
    let framing = lines(10);
    let first_seen = |replay| {
        let feed = Feed::new(Config::default().with_framing(framing).with_replay(replay)).unwrap();
        let mut upstream = Upstream::new(&feed, at(0));
        receive(&mut upstream, b"a\nbb\nccc\n", at(0));
        receive(&mut upstream, b"d\nee\nf", at(0));
        let mut late = Subscriber::new(&feed, at(0));
        receive(&mut upstream, b"ff\n", at(0));
        let lag = late.status().lag;
        let output = sent(&mut late, at(0));
        assert_eq!(lag, output.lines().count() as u64);
        assert_eq!(feed.counters().delivered, lag);
        output
    };
    assert_eq!(first_seen(0), "fff\n");
    assert_eq!(first_seen(1), "ee\nfff\n");
    assert_eq!(first_seen(3), "ccc\nd\nee\nfff\n");
    assert_eq!(first_seen(u64::MAX), "a\nbb\nccc\nd\nee\nfff\n");
}

/// The upstream has capacity for a chunk, and a subscriber joins before the chunk is published. The
/// messages with which the subscriber starts must stay in the window.
#[test]
fn a_subscriber_that_joins_before_a_reserved_chunk_is_published_does_not_lag() {
    for (on_lag, lag_wait) in
        [(LagPolicy::Block, 1), (LagPolicy::Disconnect, 1), (LagPolicy::Skip, 0)]
    {
        let lag_wait = Duration::from_secs(lag_wait);
        let feed = Feed::new(config(on_lag).with_replay(u64::MAX).with_lag_wait(lag_wait)).unwrap();
        publish(&feed, "one.", at(0));
        publish(&feed, "two.", at(0));
        assert_eq!(capacity(&feed, at(0)), Capacity::Available);
        let mut late = Subscriber::new(&feed, at(0));
        publish(&feed, "thr.", at(0));
        assert_eq!(sent(&mut late, at(0)), "two.thr.", "{on_lag:?}");
        let mut later = Subscriber::new(&feed, at(0));
        let expected = if on_lag == LagPolicy::Block { "two.thr." } else { "thr." };
        assert_eq!(sent(&mut later, at(0)), expected, "the reserved capacity is not used up");
    }
}

/// The upstream is not paused for the subscriber until it has caught up. So it starts at most half
/// a window behind.
#[test]
fn a_subscriber_that_joins_with_a_replay_starts_where_it_can_catch_up() {
    let messages = ["one.", "two.", "thr.", "fou.", "fiv."];
    for (on_lag, first_seen) in [
        (LagPolicy::Disconnect, "fou.fiv."),
        (LagPolicy::Skip, "fou.fiv."),
        (LagPolicy::Block, "two.thr.fou.fiv."),
    ] {
        let window = 4 * (4 + 128);
        let feed = Feed::new(config(on_lag).with_replay(u64::MAX).with_window(window)).unwrap();
        let mut fast = Subscriber::new(&feed, at(0));
        for message in messages {
            publish(&feed, message, at(0));
            sent(&mut fast, at(0));
        }
        let mut late = Subscriber::new(&feed, at(0));
        if on_lag != LagPolicy::Block {
            for message in ["six.", "sev."] {
                assert_eq!(capacity(&feed, at(0)), Capacity::Available);
                publish(&feed, message, at(0));
            }
        }
        assert!(sent(&mut late, at(0)).starts_with(first_seen), "{on_lag:?}");
    }
}

/// A chunk keeps its whole block in memory. So messages must share a block even if each arrives
/// alone and `Release` comes between them.
#[test]
fn messages_that_arrive_one_by_one_are_adjacent_in_memory() {
    let feed = Feed::new(Config::default().with_framing(fixed(4))).unwrap();
    let mut upstream = Upstream::new(&feed, at(0));
    let mut subscriber = Subscriber::new(&feed, at(0));
    for _ in 0..MAX_SLICES {
        receive(&mut upstream, b"abcd", at(0));
        upstream.handle(at(0), Event::Release);
    }
    poll_shared(&mut subscriber, at(0));
    let mut bufs = [&[][..]; MAX_SLICES];
    assert_eq!(subscriber.write_bufs(&mut bufs), MAX_SLICES);
    assert!(bufs.windows(2).all(|two| two[0].as_ptr_range().end == two[1].as_ptr()));
}

#[test]
fn the_lag_is_that_of_the_slowest_subscriber() {
    let (window, lag_wait) = (3 * (4 + 128), Duration::ZERO);
    let feed = Feed::new(config(LagPolicy::Disconnect).with_window(window).with_lag_wait(lag_wait))
        .unwrap();
    let (mut fast, mut slow) = (Subscriber::new(&feed, at(0)), Subscriber::new(&feed, at(0)));
    let mut lags = Vec::new();
    for message in ["one.two.", "thr.", "fou.", "fiv."] {
        publish(&feed, message, at(0));
        lags.push(feed.counters().lag);
        sent(&mut fast, at(0));
    }
    // A subscriber that has fallen out of the window does not count.
    assert_eq!((lags, feed.counters().lag), (vec![2, 3, 1, 1], 0));
    poll_shared(&mut slow, at(0));
    assert_eq!(slow.interest().write, Outbound::Reset);
}

#[test]
fn a_laggard_is_disconnected_with_lag_and_limit() {
    let feed = Feed::new(config(LagPolicy::Disconnect).with_lag_wait(Duration::ZERO)).unwrap();
    let mut subscriber = Subscriber::new(&feed, at(0));
    for message in ["one.", "two.", "thr.", "fou."] {
        assert_eq!(capacity(&feed, at(0)), Capacity::Available);
        publish(&feed, message, at(0));
    }
    poll_shared(&mut subscriber, at(0));
    assert_eq!(subscriber.interest().write, Outbound::Reset, "a FIN would hide the gap");
    subscriber.handle(at(0), Event::Finished);
    let reason = subscriber.reason().unwrap();
    assert_eq!(reason, SubscriberReason::Lagged { lag: 4, window: 264 });
    assert!(reason.to_string().contains("264"), "{reason}");
    assert_eq!(feed.counters().lagged, 1);
}

#[test]
fn a_subscriber_that_skips_completes_the_message_that_it_has_begun() {
    let feed = Feed::new(config(LagPolicy::Skip).with_lag_wait(Duration::ZERO)).unwrap();
    let mut subscriber = Subscriber::new(&feed, at(0));
    publish(&feed, "one.two.", at(0));
    poll_shared(&mut subscriber, at(0));
    subscriber.handle(at(0), Event::Written(5));
    for message in ["thr.", "fou.", "fiv."] {
        publish(&feed, message, at(0));
    }
    poll_shared(&mut subscriber, at(0));
    assert_eq!((feed.counters().skipped, subscriber.status().lag), (3, 1));
    publish(&feed, "six.", at(0));
    poll_shared(&mut subscriber, at(0));
    assert_eq!(feed.counters().delivered, 1, "an incomplete message counts as delivered");
    assert_eq!(sent(&mut subscriber, at(0)), "wo.six.");
    let counters = feed.counters();
    assert_eq!((counters.delivered, counters.skipped), (3, 3));
}

/// A feed with a full window and two subscribers that had caught up before. The second one has read
/// the messages in the window.
fn one_lags(on_lag: LagPolicy) -> (Feed, Subscriber, Subscriber) {
    let feed = Feed::new(config(on_lag)).unwrap();
    let [mut slow, mut fast] = [(); 2].map(|()| Subscriber::new(&feed, at(0)));
    publish(&feed, "nul.", at(0));
    assert_eq!((sent(&mut slow, at(0)), sent(&mut fast, at(0))), ("nul.".into(), "nul.".into()));
    fill(&feed, &mut fast, at(0));
    (feed, slow, fast)
}

/// Fills the window with messages, which `fast` reads.
fn fill(feed: &Feed, fast: &mut Subscriber, now: Instant) {
    publish(feed, "one.", now);
    publish(feed, "two.", now);
    assert_eq!(sent(fast, now), "one.two.");
}

#[test]
fn the_upstream_is_paused_for_a_laggard_up_to_the_limit_and_then_resumes() {
    for on_lag in [LagPolicy::Disconnect, LagPolicy::Skip] {
        let (feed, mut slow, _fast) = one_lags(on_lag);
        assert_eq!(capacity(&feed, at(0)), paused_until(at(1000)));
        assert_eq!(
            capacity(&feed, at(400)),
            paused_until(at(1000)),
            "another poll does not extend it"
        );
        assert_eq!(capacity(&feed, at(1000)), Capacity::Available);
        let counters = feed.counters();
        assert_eq!((counters.paused, counters.paused_waiting), [Duration::from_secs(1); 2].into());
        publish(&feed, "thr.", at(1000));
        poll_shared(&mut slow, at(1000));
        let reset = slow.interest().write == Outbound::Reset;
        assert_eq!(
            (reset, feed.counters().skipped),
            match on_lag {
                LagPolicy::Disconnect => (true, 0),
                LagPolicy::Skip | LagPolicy::Block => (false, 3),
            }
        );
        assert_eq!(feed.counters().never_caught_up, 0);
    }
}

/// A waker that records whether it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_pause_is_limited_only_while_a_subscriber_waits() {
    let feed = Feed::new(config(LagPolicy::Disconnect)).unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let capacity = |now| {
        woken.0.store(false, Relaxed);
        feed.poll_capacity(now, 4, &mut Context::from_waker(&waker))
    };
    let [mut slow, mut fast] = [(); 2].map(|()| Subscriber::new(&feed, at(0)));
    publish(&feed, "nul.", at(0));
    sent(&mut slow, at(0));
    sent(&mut fast, at(0));
    publish(&feed, "one.", at(0));
    publish(&feed, "two.", at(0));
    assert_eq!(
        capacity(at(0)),
        Capacity::Paused { until: None },
        "the pause has a limit although no subscriber waits"
    );
    assert_eq!(capacity(at(1_000_000)), Capacity::Paused { until: None });
    sent(&mut fast, at(1_000_300));
    assert!(woken.0.load(Relaxed), "the waker was not woken although a subscriber waits");
    assert_eq!(capacity(at(1_000_300)), paused_until(at(1_001_300)));
    drop(fast);
    assert!(woken.0.load(Relaxed), "the waker was not woken although no subscriber waits");
    assert_eq!(capacity(at(1_000_500)), Capacity::Paused { until: None });
    // A subscriber that joins waits for its first message; one that ends does not wait.
    let mut fast = Subscriber::new(&feed, at(1_000_700));
    poll_shared(&mut fast, at(1_000_700));
    assert!(woken.0.load(Relaxed));
    assert_eq!(capacity(at(1_000_700)), paused_until(at(1_001_500)));
    fast.handle(at(1_000_800), Event::ShutDown);
    assert!(woken.0.load(Relaxed));
    assert_eq!(capacity(at(1_000_800)), Capacity::Paused { until: None });
    let counters = feed.counters();
    assert_eq!(counters.paused, Duration::from_millis(1_000_800));
    assert_eq!(counters.paused_waiting, Duration::from_millis(300));
    assert_eq!(sent(&mut slow, at(1_000_900)), "one.two.");
    assert!(woken.0.load(Relaxed), "the waker was not woken although there is capacity");
    assert_eq!(capacity(at(1_000_900)), Capacity::Available);
}

#[test]
fn the_upstream_is_not_paused_for_a_subscriber_that_never_caught_up_while_another_waits() {
    for on_lag in [LagPolicy::Disconnect, LagPolicy::Skip] {
        let feed = Feed::new(config(on_lag)).unwrap();
        let [mut slow, mut fast] = [(); 2].map(|()| Subscriber::new(&feed, at(0)));
        fill(&feed, &mut fast, at(0));
        assert_eq!(capacity(&feed, at(0)), Capacity::Available);
        publish(&feed, "thr.", at(0));
        poll_shared(&mut slow, at(0));
        let counters = feed.counters();
        let expected = if on_lag == LagPolicy::Skip { (0, 3) } else { (1, 0) };
        assert_eq!((counters.lagged, counters.skipped), expected);
        assert_eq!((counters.never_caught_up, counters.paused), (1, Duration::ZERO));
    }
}

/// One laggard connects repeatedly. Each time it catches up before it lags.
#[test]
fn all_laggards_share_one_pause_budget() {
    let (feed, mut slow, mut fast) = one_lags(LagPolicy::Disconnect);
    assert_eq!(capacity(&feed, at(0)), paused_until(at(1000)));
    assert_eq!(sent(&mut slow, at(600)), "one.two.", "it was reset although it has read in time");
    assert_eq!(capacity(&feed, at(600)), Capacity::Available);
    fill(&feed, &mut fast, at(2000));
    assert_eq!(capacity(&feed, at(2000)), paused_until(at(2400)));
    assert_eq!(sent(&mut slow, at(2300)), "one.two.", "it was reset although it has read in time");
    assert_eq!(capacity(&feed, at(2300)), Capacity::Available);
    drop(slow);
    // Another subscriber gets the rest of the budget.
    let mut slow = Subscriber::new(&feed, at(3000));
    publish(&feed, "nul.", at(3000));
    sent(&mut slow, at(3000));
    sent(&mut fast, at(3000));
    fill(&feed, &mut fast, at(3000));
    assert_eq!(capacity(&feed, at(3000)), paused_until(at(3100)));
    assert_eq!(capacity(&feed, at(3100)), Capacity::Available);
    publish(&feed, "thr.", at(3100));
    poll_shared(&mut slow, at(3100));
    assert_eq!((feed.counters().lagged, feed.counters().never_caught_up), (1, 0));
    assert_eq!(feed.counters().paused_waiting, Duration::from_secs(1));
}

#[test]
fn a_blocking_feed_pauses_the_upstream_without_limit() {
    let feed = Feed::new(config(LagPolicy::Block)).unwrap();
    let mut subscriber = Subscriber::new(&feed, at(0));
    publish(&feed, "one.", at(0));
    publish(&feed, "two.", at(0));
    assert_eq!(capacity(&feed, at(0)), Capacity::Paused { until: None });
    assert_eq!(capacity(&feed, at(1_000_000)), Capacity::Paused { until: None });
    poll_shared(&mut subscriber, at(0));
    subscriber.handle(at(0), Event::Written(4));
    poll_shared(&mut subscriber, at(0));
    assert_eq!(capacity(&feed, at(1_000_000)), Capacity::Available);
    drop(subscriber);
    publish(&feed, "thr.", at(0));
    assert_eq!(capacity(&feed, at(1_000_000)), Capacity::Available);
}

/// The messages after its end are never sent, so the upstream is not paused for them.
#[test]
fn a_subscription_that_has_ended_pauses_the_upstream_only_up_to_its_end() {
    let feed = Feed::new(config(LagPolicy::Block)).unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut ended = Subscriber::new(&feed, at(0));
    publish(&feed, "one.", at(0));
    poll_shared(&mut ended, at(0));
    ended.handle(at(0), Event::Eof);
    publish(&feed, "two.", at(0));
    let cx = &mut Context::from_waker(&waker);
    let large = feed.poll_capacity(at(0), 100, cx);
    assert_eq!(large, Capacity::Paused { until: None }, "`one.` and `two.` would be displaced");
    assert_eq!(sent(&mut ended, at(0)), "one.");
    assert!(woken.0.load(Relaxed), "the waker was not woken although there is capacity");
    assert_eq!(capacity(&feed, at(0)), Capacity::Available);
}

/// Otherwise a laggard would stay at the start of the window if the source is fast.
#[test]
fn once_half_of_the_budget_is_used_up_a_pause_lasts_until_half_of_the_window_is_read() {
    let feed = Feed::new(config(LagPolicy::Disconnect).with_window(4 * (4 + 128))).unwrap();
    let [mut slow, mut fast] = [(); 2].map(|()| Subscriber::new(&feed, at(0)));
    for message in ["one.", "two.", "thr.", "fou.", "fiv."] {
        publish(&feed, message, at(0));
        sent(&mut fast, at(0));
        if message == "one." {
            sent(&mut slow, at(0));
        }
    }
    let mut reads = |now| {
        poll_shared(&mut slow, now);
        slow.handle(now, Event::Written(4));
        poll_shared(&mut slow, now);
        capacity(&feed, now)
    };
    assert_eq!(capacity(&feed, at(0)), paused_until(at(1000)));
    assert_eq!(reads(at(300)), Capacity::Available, "it is paused although there is capacity");
    publish(&feed, "six.", at(300));
    sent(&mut fast, at(300));
    assert_eq!(capacity(&feed, at(300)), paused_until(at(1000)));
    assert_eq!(capacity(&feed, at(600)), paused_until(at(1000)));
    for millis in [600, 700] {
        assert_eq!(reads(at(millis)), paused_until(at(1000)));
    }
    assert_eq!(reads(at(800)), Capacity::Available);
}

/// A subscriber that has skipped has not caught up, and does not count as waiting.
#[test]
fn a_laggard_that_skips_pauses_the_upstream_once() {
    let (feed, mut dead, mut fast) = one_lags(LagPolicy::Skip);
    let mut now = at(0);
    for _ in 0..20 {
        match capacity(&feed, now) {
            Capacity::Available => publish(&feed, "mess", now),
            Capacity::Paused { until } => now = until.unwrap(),
        }
        poll_shared(&mut dead, now);
        sent(&mut fast, now);
    }
    assert_eq!(feed.counters().paused, Duration::from_secs(1));
    assert!(feed.counters().never_caught_up > 3);
    drop(fast);
    let mut now = at(1_000_000);
    while feed.counters().skipped == dead.status().lag {
        publish(&feed, "mess", now);
        poll_shared(&mut dead, now);
    }
    let mut other = Subscriber::new(&feed, now);
    publish(&feed, "mess", now);
    publish(&feed, "mess", now);
    poll_shared(&mut other, now);
    assert_eq!(
        capacity(&feed, now),
        Capacity::Paused { until: None },
        "a subscriber that has skipped counts as waiting"
    );
    // It reads again, and catches up: the upstream is paused for it again.
    now += Duration::from_secs(1);
    sent(&mut dead, now);
    sent(&mut other, now);
    publish(&feed, "mess", now);
    publish(&feed, "mess", now);
    sent(&mut other, now);
    assert_eq!(capacity(&feed, now), paused_until(now + Duration::from_secs(1)));
}

/// A dead subscriber ends although it could skip without end.
#[test]
fn a_subscriber_that_accepts_no_byte_is_reset_however_much_it_skips() {
    for begun in [0, 1] {
        let feed = Feed::new(config(LagPolicy::Skip).with_lag_wait(Duration::ZERO)).unwrap();
        let mut dead = Subscriber::new(&feed, at(0));
        publish(&feed, "mess", at(0));
        poll_shared(&mut dead, at(0));
        if begun > 0 {
            dead.handle(at(0), Event::Written(begun));
        }
        for second in 1..10 {
            for _ in 0..3 {
                publish(&feed, "mess", at(1000 * second));
            }
            poll_shared(&mut dead, at(1000 * second));
            publish(&feed, "mess", at(1000 * second));
            poll_shared(&mut dead, at(1000 * second));
        }
        assert_eq!(time_of_reset(&mut dead), at(10_000), "{begun}");
        assert_eq!(dead.interest().write, Outbound::Reset);
    }
}

#[test]
fn a_subscriber_without_output_has_no_deadline() {
    let feed = Feed::new(config(LagPolicy::Skip).with_lag_wait(Duration::ZERO)).unwrap();
    let mut subscriber = Subscriber::new(&feed, at(0));
    publish(&feed, "mess", at(0));
    poll_shared(&mut subscriber, at(0));
    assert!(subscriber.poll_timeout().is_some());
    assert_eq!(sent(&mut subscriber, at(5000)), "mess");
    // The deadline goes once the subscriber observes that everything is acknowledged.
    subscriber.handle(at(5000), Event::Timeout { unacknowledged: 0 });
    assert_eq!(subscriber.poll_timeout(), None);
    publish(&feed, "mess", at(6000));
    poll_shared(&mut subscriber, at(6000));
    subscriber.handle(at(6500), Event::Written(1));
    assert_eq!(time_of_reset(&mut subscriber), at(16_500));
}

/// The time at which a subscriber that accepts no more bytes is reset.
fn time_of_reset(subscriber: &mut Subscriber) -> Instant {
    loop {
        let now = subscriber.poll_timeout().expect("it has output");
        subscriber.handle(now, Event::Timeout { unacknowledged: 0 });
        if subscriber.interest().write == Outbound::Reset {
            return now;
        }
    }
}

/// Messages that are published after the end of a subscription do not count as skipped.
#[test]
fn a_subscriber_that_skips_after_its_end_counts_what_was_published_before() {
    let feed = Feed::new(config(LagPolicy::Skip).with_lag_wait(Duration::ZERO)).unwrap();
    let mut subscriber = Subscriber::new(&feed, at(0));
    publish(&feed, "one.", at(0));
    poll_shared(&mut subscriber, at(0));
    subscriber.handle(at(0), Event::Written(1));
    publish(&feed, "two.", at(0));
    subscriber.handle(at(0), Event::ShutDown);
    for message in ["thr.", "fou.", "fiv."] {
        assert_eq!(subscriber.status().lag, 2);
        publish(&feed, message, at(0));
    }
    poll_shared(&mut subscriber, at(0));
    assert_eq!(subscriber.status().lag, 1, "the message that was begun is pending");
    assert_eq!(sent(&mut subscriber, at(0)), "ne.");
    assert_eq!(subscriber.interest().write, Outbound::Finish);
    subscriber.handle(at(0), Event::Finished);
    let counters = feed.counters();
    assert_eq!((counters.delivered, counters.skipped), (1, 1));
}

/// The messages of a partially sent chunk are counted as well.
#[test]
fn messages_are_counted_one_by_one_at_the_end_of_a_subscription() {
    const TEXT: &str = "a
bb
ccc
dddd
";
    // The subscription ends after `sent` bytes, when `delivered` messages are delivered.
    for (sent, delivered) in [(0, 0), (1, 0), (2, 1), (4, 1), (9, 3), (13, 3), (14, 4)] {
        let written = |framing| {
            let feed = Feed::new(Config::default().with_framing(framing)).unwrap();
            let mut upstream = Upstream::new(&feed, at(0));
            let mut subscriber = Subscriber::new(&feed, at(0));
            receive(&mut upstream, TEXT.as_bytes(), at(0));
            poll_shared(&mut subscriber, at(0));
            if sent > 0 {
                subscriber.handle(at(0), Event::Written(sent));
            }
            (feed, subscriber)
        };
        let (feed, mut subscriber) = written(lines(10));
        subscriber.handle(at(0), Event::Error(Direction::Read, ConnectionError::Reset));
        let lag = 4 - delivered;
        let reason = SubscriberReason::Lost {
            direction: Direction::Read,
            error: ConnectionError::Reset,
            lag,
        };
        assert_eq!(subscriber.reason(), Some(reason), "after {sent} bytes");
        assert_eq!(feed.counters().delivered, delivered);

        let (feed, subscriber) = written(lines(10));
        drop(subscriber);
        assert_eq!(feed.counters().delivered, delivered);

        let (feed, subscriber) = written(Framing::None);
        drop(subscriber);
        assert_eq!(feed.counters().delivered, u64::from(sent == TEXT.len()));
    }
}

/// Deliveries are counted as soon as the subscription ends.
#[test]
fn deliveries_before_the_end_are_counted() {
    let feed = Feed::new(config(LagPolicy::Disconnect)).unwrap();
    for _ in 0..2 {
        let mut subscriber = Subscriber::new(&feed, at(0));
        publish(&feed, "mess", at(0));
        poll_shared(&mut subscriber, at(0));
        subscriber.handle(at(0), Event::Written(4));
    }
    let counters = feed.counters();
    assert_eq!((counters.delivered, counters.latency[0]), (2, 2));
}

/// The window is smaller than the most that an upstream reads at once.
#[test]
fn poll_shared_is_true_when_an_upstreams_deadline_changes() {
    let feed = Feed::new(config(LagPolicy::Disconnect)).unwrap();
    let mut upstream = Upstream::new(&feed, at(0));
    let [mut slow, mut fast] = [(); 2].map(|()| Subscriber::new(&feed, at(0)));
    receive(&mut upstream, b"nul.", at(0));
    sent(&mut slow, at(0));
    sent(&mut fast, at(0));
    receive(&mut upstream, b"one.", at(0));
    poll_shared(&mut upstream, at(0));
    assert!(!upstream.interest().read);
    assert_eq!(upstream.poll_timeout(), None, "it has a deadline although no subscriber waits");
    sent(&mut fast, at(500));
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(upstream.poll_shared(at(500), cx), "a new deadline is not reported");
    assert!(!upstream.poll_shared(at(500), cx), "an unchanged deadline is reported");
    assert_eq!(upstream.poll_timeout(), Some(at(1500)));
    upstream.handle(at(1500), Event::Timeout { unacknowledged: 0 });
    poll_shared(&mut upstream, at(1500));
    assert!(upstream.interest().read);
    receive(&mut upstream, b"two.", at(1500));
    poll_shared(&mut slow, at(1500));
    sent(&mut fast, at(1500));
    poll_shared(&mut upstream, at(1500));
    assert!(upstream.interest().read);
    assert_eq!(slow.interest().write, Outbound::Flush, "it was reset although it is in the window");
    receive(&mut upstream, b"thr.", at(1500));
    poll_shared(&mut slow, at(1500));
    assert_eq!(slow.interest().write, Outbound::Reset);
}
