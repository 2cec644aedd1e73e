//! Single scenes: what a subscriber gets, how long the upstream waits, and what that costs.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    Instant, Lost, Machine, Outbound, Way,
    drive::{MAX_SLICES, collect, feed as receive},
    fanout::{Config, Feed, Framing, OnLag, Room, Subscriber, SubscriberReason, Upstream},
};

use crate::messages::{fixed, lines};

/// Messages of four bytes, and room for two of them if each comes by itself.
fn config(on_lag: OnLag) -> Config {
    Config { framing: fixed(4), window: 2 * (4 + 128), on_lag, ..Config::default() }
}

fn at(millis: u64) -> Instant {
    Instant::from_epoch(Duration::from_millis(millis))
}

fn share<M: Machine>(machine: &mut M, now: Instant) {
    let cx = &mut Context::from_waker(Waker::noop());
    while machine.poll_shared(now, cx) {}
}

fn room(feed: &Feed, now: Instant) -> Room {
    feed.poll_room(now, 4, &mut Context::from_waker(Waker::noop()))
}

fn publish(feed: &Feed, message: &'static str, now: Instant) {
    feed.publish(Bytes::from_static(message.as_bytes()), message.len() as u64 / 4, now);
}

/// All that `subscriber` has to send, which it sends.
fn sent(subscriber: &mut Subscriber, now: Instant) -> String {
    let mut output = Vec::new();
    share(subscriber, now);
    collect(subscriber, &mut output, now);
    share(subscriber, now);
    String::from_utf8(output).unwrap()
}

#[test]
fn a_late_joiner_starts_with_the_next_message_or_the_last_few() {
    let framing = lines(10);
    let first_seen = |replay| {
        let feed = Feed::new(Config { framing, window: 1000, replay, ..Config::default() });
        let mut upstream = Upstream::new(feed.clone(), None, at(0));
        receive(&mut upstream, &mut &b"a\nbb\nccc\n"[..], at(0));
        receive(&mut upstream, &mut &b"d\nee\nf"[..], at(0));
        let mut late = Subscriber::new(&feed, at(0));
        receive(&mut upstream, &mut &b"ff\n"[..], at(0));
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

/// Room that was found before somebody joined is used up after that: what the joiner begins with
/// must still be there then.
#[test]
fn who_joins_between_the_look_for_room_and_the_publication_is_not_left_behind() {
    for (on_lag, lag_wait) in [(OnLag::Block, 1), (OnLag::Disconnect, 1), (OnLag::Skip, 0)] {
        let lag_wait = Duration::from_secs(lag_wait);
        let feed = Feed::new(Config { replay: u64::MAX, lag_wait, ..config(on_lag) });
        publish(&feed, "one.", at(0));
        publish(&feed, "two.", at(0));
        assert_eq!(room(&feed, at(0)), Room::Free);
        let mut late = Subscriber::new(&feed, at(0));
        publish(&feed, "thr.", at(0));
        assert_eq!(sent(&mut late, at(0)), "two.thr.", "{on_lag:?}");
        let mut later = Subscriber::new(&feed, at(0));
        assert_eq!(sent(&mut later, at(0)), "two.thr.", "the room is used up");
    }
}

/// A chunk keeps all of the block that it was cut from. Where each message comes by itself, and a
/// read finds nothing between them, they must share one all the same.
#[test]
fn messages_that_trickle_in_lie_side_by_side_in_memory() {
    let feed = Feed::new(Config { framing: fixed(4), ..Config::default() });
    let mut upstream = Upstream::new(feed.clone(), None, at(0));
    let mut subscriber = Subscriber::new(&feed, at(0));
    for _ in 0..MAX_SLICES {
        receive(&mut upstream, &mut &b"abcd"[..], at(0));
        upstream.release();
    }
    share(&mut subscriber, at(0));
    let mut bufs = [&[][..]; MAX_SLICES];
    assert_eq!(subscriber.write_bufs(&mut bufs), MAX_SLICES);
    assert!(bufs.windows(2).all(|two| two[0].as_ptr_range().end == two[1].as_ptr()));
}

#[test]
fn the_lag_is_that_of_the_slowest() {
    let (window, lag_wait) = (3 * (4 + 128), Duration::ZERO);
    let feed = Feed::new(Config { window, lag_wait, ..config(OnLag::Disconnect) });
    let (mut fast, mut slow) = (Subscriber::new(&feed, at(0)), Subscriber::new(&feed, at(0)));
    let mut lags = Vec::new();
    for message in ["one.two.", "thr.", "fou.", "fiv."] {
        publish(&feed, message, at(0));
        lags.push(feed.counters().lag);
        sent(&mut fast, at(0));
    }
    // Whoever fell out of the window is no subscriber for long.
    assert_eq!((lags, feed.counters().lag), (vec![2, 3, 1, 1], 0));
    share(&mut slow, at(0));
    assert_eq!(slow.interest().write, Outbound::Reset);
}

#[test]
fn who_lags_is_disconnected_with_lag_and_limit() {
    let feed = Feed::new(Config { lag_wait: Duration::ZERO, ..config(OnLag::Disconnect) });
    let mut subscriber = Subscriber::new(&feed, at(0));
    for message in ["one.", "two.", "thr.", "fou."] {
        assert_eq!(room(&feed, at(0)), Room::Free);
        publish(&feed, message, at(0));
    }
    share(&mut subscriber, at(0));
    assert_eq!(subscriber.interest().write, Outbound::Reset, "a FIN would hide the gap");
    subscriber.handle_finished(at(0));
    let reason = subscriber.reason().unwrap();
    assert_eq!(reason, SubscriberReason::Lagged { lag: 4, window: 264 });
    assert!(reason.to_string().contains("264"), "{reason}");
    assert_eq!(feed.counters().lagged, 1);
}

#[test]
fn who_skips_finishes_the_message_that_was_begun() {
    let feed = Feed::new(Config { lag_wait: Duration::ZERO, ..config(OnLag::Skip) });
    let mut subscriber = Subscriber::new(&feed, at(0));
    publish(&feed, "one.two.", at(0));
    share(&mut subscriber, at(0));
    subscriber.handle_written(at(0), 5);
    for message in ["thr.", "fou.", "fiv."] {
        publish(&feed, message, at(0));
    }
    share(&mut subscriber, at(0));
    assert_eq!((feed.counters().skipped, subscriber.status().lag), (3, 1));
    publish(&feed, "six.", at(0));
    share(&mut subscriber, at(0));
    assert_eq!(feed.counters().delivered, 1, "the second one is not whole yet");
    assert_eq!(sent(&mut subscriber, at(0)), "wo.six.");
    let counters = feed.counters();
    assert_eq!((counters.delivered, counters.skipped), (3, 3));
}

#[test]
fn the_upstream_waits_for_a_laggard_as_long_as_it_may_and_then_goes_on() {
    for on_lag in [OnLag::Disconnect, OnLag::Skip] {
        let feed = Feed::new(config(on_lag));
        let mut subscriber = Subscriber::new(&feed, at(0));
        publish(&feed, "one.", at(0));
        publish(&feed, "two.", at(0));
        assert_eq!(room(&feed, at(0)), Room::Held(Some(at(1000))));
        assert_eq!(room(&feed, at(400)), Room::Held(Some(at(1000))), "asking makes it no longer");
        feed.expire(at(1000));
        assert_eq!(room(&feed, at(1000)), Room::Free);
        assert_eq!(feed.counters().held, Duration::from_secs(1));
        publish(&feed, "thr.", at(1000));
        share(&mut subscriber, at(1000));
        let reset = subscriber.interest().write == Outbound::Reset;
        assert_eq!(
            (reset, feed.counters().skipped),
            match on_lag {
                OnLag::Disconnect => (true, 0),
                OnLag::Skip | OnLag::Block => (false, 3),
            }
        );
    }
}

#[test]
fn a_blocking_feed_waits_without_limit() {
    let feed = Feed::new(config(OnLag::Block));
    let mut subscriber = Subscriber::new(&feed, at(0));
    publish(&feed, "one.", at(0));
    publish(&feed, "two.", at(0));
    assert_eq!(room(&feed, at(0)), Room::Held(None));
    assert_eq!(room(&feed, at(1_000_000)), Room::Held(None));
    share(&mut subscriber, at(0));
    subscriber.handle_written(at(0), 4);
    share(&mut subscriber, at(0));
    assert_eq!(room(&feed, at(1_000_000)), Room::Free);
    drop(subscriber);
    publish(&feed, "thr.", at(0));
    assert_eq!(room(&feed, at(1_000_000)), Room::Free);
}

/// Who skips has not caught up: the wait begins anew only for who has.
#[test]
fn a_laggard_that_skips_delays_the_upstream_once() {
    let feed = Feed::new(config(OnLag::Skip));
    let mut dead = Subscriber::new(&feed, at(0));
    let mut now = at(0);
    for _ in 0..20 {
        match room(&feed, now) {
            Room::Free => publish(&feed, "mess", now),
            Room::Held(until) => {
                now = until.unwrap();
                feed.expire(now);
            }
        }
        share(&mut dead, now);
    }
    assert_eq!(feed.counters().held, Duration::from_secs(1));
    // It wakes up, and catches up.
    sent(&mut dead, now);
    publish(&feed, "mess", now);
    sent(&mut dead, now);
    publish(&feed, "mess", now);
    publish(&feed, "mess", now);
    assert_eq!(room(&feed, now), Room::Held(Some(now + Duration::from_secs(1))));
}

/// While the upstream waits for a dead one, a slow one catches up; that is not its time.
#[test]
fn nobody_is_blamed_for_anothers_lag() {
    let feed = Feed::new(config(OnLag::Disconnect));
    let (mut slow, _dead) = (Subscriber::new(&feed, at(0)), Subscriber::new(&feed, at(0)));
    publish(&feed, "one.", at(0));
    publish(&feed, "two.", at(0));
    assert_eq!(room(&feed, at(0)), Room::Held(Some(at(1000))));
    share(&mut slow, at(10));
    slow.handle_written(at(10), 4);
    share(&mut slow, at(10));
    feed.expire(at(1000));
    assert_eq!(room(&feed, at(1000)), Room::Free);
    publish(&feed, "thr.", at(1000));
    assert_eq!(room(&feed, at(1000)), Room::Held(Some(at(1990))), "it has used 10 ms of its own");
    // And who has caught up owes nothing of what others cost since.
    let mut third = Subscriber::new(&feed, at(1000));
    assert_eq!(sent(&mut slow, at(1000)), "two.thr.");
    assert_eq!(room(&feed, at(1000)), Room::Free);
    publish(&feed, "fou.", at(1000));
    publish(&feed, "fiv.", at(1000));
    assert_eq!(room(&feed, at(1000)), Room::Held(Some(at(2000))));
    assert_eq!(sent(&mut slow, at(1010)), "fou.fiv.");
    feed.expire(at(2000));
    sent(&mut third, at(2000));
    for message in ["six.", "sev."] {
        assert_eq!(room(&feed, at(2000)), Room::Free);
        publish(&feed, message, at(2000));
    }
    assert_eq!(room(&feed, at(2000)), Room::Held(Some(at(3000))));
}

/// A dead subscriber ends also where it may skip for ever.
#[test]
fn who_takes_no_byte_is_reset_however_much_it_skips() {
    for begun in [0, 1] {
        let feed = Feed::new(Config { lag_wait: Duration::ZERO, ..config(OnLag::Skip) });
        let mut dead = Subscriber::new(&feed, at(0));
        publish(&feed, "mess", at(0));
        share(&mut dead, at(0));
        if begun > 0 {
            dead.handle_written(at(0), begun);
        }
        for second in 1..10 {
            for _ in 0..3 {
                publish(&feed, "mess", at(1000 * second));
            }
            share(&mut dead, at(1000 * second));
            publish(&feed, "mess", at(1000 * second));
            share(&mut dead, at(1000 * second));
        }
        assert_eq!(stalled(&mut dead), at(10_000), "{begun}");
        assert_eq!(dead.interest().write, Outbound::Reset);
    }
}

#[test]
fn who_has_nothing_to_take_has_no_deadline() {
    let feed = Feed::new(Config { lag_wait: Duration::ZERO, ..config(OnLag::Skip) });
    let mut subscriber = Subscriber::new(&feed, at(0));
    publish(&feed, "mess", at(0));
    share(&mut subscriber, at(0));
    assert!(subscriber.poll_timeout().is_some());
    assert_eq!(sent(&mut subscriber, at(5000)), "mess");
    assert_eq!(subscriber.poll_timeout(), None);
    publish(&feed, "mess", at(6000));
    share(&mut subscriber, at(6000));
    subscriber.handle_written(at(6500), 1);
    assert_eq!(stalled(&mut subscriber), at(16_500));
}

/// When a subscriber to which nothing is written any more is given up.
fn stalled(subscriber: &mut Subscriber) -> Instant {
    loop {
        let now = subscriber.poll_timeout().expect("it has output");
        subscriber.handle_timeout(now, 0);
        if subscriber.interest().write == Outbound::Reset {
            return now;
        }
    }
}

/// What is published behind the end of a subscription is not for it, and it can't miss it.
#[test]
fn who_skips_after_the_end_counts_what_was_published_before() {
    let feed = Feed::new(Config { lag_wait: Duration::ZERO, ..config(OnLag::Skip) });
    let mut subscriber = Subscriber::new(&feed, at(0));
    publish(&feed, "one.", at(0));
    share(&mut subscriber, at(0));
    subscriber.handle_written(at(0), 1);
    publish(&feed, "two.", at(0));
    subscriber.shut_down(at(0));
    for message in ["thr.", "fou.", "fiv."] {
        assert_eq!(subscriber.status().lag, 2);
        publish(&feed, message, at(0));
    }
    share(&mut subscriber, at(0));
    assert_eq!(subscriber.status().lag, 1, "what was begun is owed");
    assert_eq!(sent(&mut subscriber, at(0)), "ne.");
    assert_eq!(subscriber.interest().write, Outbound::Finish);
    subscriber.handle_finished(at(0));
    let counters = feed.counters();
    assert_eq!((counters.delivered, counters.skipped), (1, 1));
}

/// Of a chunk that was cut by the end of the subscription, too.
#[test]
fn messages_are_counted_one_by_one_at_the_end() {
    const TEXT: &str = "a
bb
ccc
dddd
";
    // The end comes behind so many bytes, when so many messages are delivered.
    for (sent, delivered) in [(0, 0), (1, 0), (2, 1), (4, 1), (9, 3), (13, 3), (14, 4)] {
        let written = |framing| {
            let feed = Feed::new(Config { framing, ..Config::default() });
            let mut upstream = Upstream::new(feed.clone(), None, at(0));
            let mut subscriber = Subscriber::new(&feed, at(0));
            receive(&mut upstream, &mut TEXT.as_bytes(), at(0));
            share(&mut subscriber, at(0));
            if sent > 0 {
                subscriber.handle_written(at(0), sent);
            }
            (feed, subscriber)
        };
        let (feed, mut subscriber) = written(lines(10));
        subscriber.handle_lost(at(0), Way::In, Lost::Reset);
        let lag = 4 - delivered;
        let reason = SubscriberReason::Lost { way: Way::In, why: Lost::Reset, lag };
        assert_eq!(subscriber.reason(), Some(reason), "behind {sent} bytes");
        assert_eq!(feed.counters().delivered, delivered);

        let (feed, subscriber) = written(lines(10));
        drop(subscriber);
        assert_eq!(feed.counters().delivered, delivered);

        let (feed, subscriber) = written(Framing::None);
        drop(subscriber);
        assert_eq!(feed.counters().delivered, u64::from(sent == TEXT.len()));
    }
}

/// Deliveries are counted wherever the subscription ends, at once.
#[test]
fn what_was_delivered_before_the_end_is_counted() {
    let feed = Feed::new(config(OnLag::Disconnect));
    for _ in 0..2 {
        let mut subscriber = Subscriber::new(&feed, at(0));
        publish(&feed, "mess", at(0));
        share(&mut subscriber, at(0));
        subscriber.handle_written(at(0), 4);
    }
    let counters = feed.counters();
    assert_eq!((counters.delivered, counters.latency[0]), (2, 2));
}

/// A window that is smaller than what an upstream may read at once, and a changed deadline.
#[test]
fn an_upstream_says_when_its_deadline_moves() {
    let feed = Feed::new(config(OnLag::Disconnect));
    let mut upstream = Upstream::new(feed.clone(), None, at(0));
    let mut slow = Subscriber::new(&feed, at(0));
    receive(&mut upstream, &mut &b"one."[..], at(0));
    share(&mut upstream, at(0));
    assert!(!upstream.interest().read);
    assert_eq!(upstream.poll_timeout(), Some(at(1000)));
    let mut slower = Subscriber::new(&feed, at(0));
    publish(&feed, "two.", at(500));
    sent(&mut slow, at(600));
    let before = upstream.poll_timeout();
    let cx = &mut Context::from_waker(Waker::noop());
    let news = upstream.poll_shared(at(600), cx);
    assert_eq!(news, upstream.poll_timeout() != before);
    share(&mut upstream, at(600));
    assert_eq!(upstream.poll_timeout(), Some(at(1600)), "the other one has all of its time");
    sent(&mut slower, at(700));
    share(&mut upstream, at(700));
    assert!(upstream.interest().read);
}
