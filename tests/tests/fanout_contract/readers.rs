//! Readers with a pace of their own: how long the upstream is paused for them, and what they skip.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    Instant, Machine,
    fanout::{Capacity, Chunk, Config, Feed, FetchOutcome, LagPolicy, Pace, Reader, Subscriber},
};
use wirestate_testkit::script;

use crate::messages::fixed;

/// A feed of messages of four bytes. The window holds two of them.
fn feed(on_lag: LagPolicy, lag_wait: Duration) -> Feed {
    let config = Config::default().with_framing(fixed(4)).with_window(2 * (4 + 128));
    Feed::new(config.with_on_lag(on_lag).with_lag_wait(lag_wait)).unwrap()
}

fn at(millis: u64) -> Instant {
    Instant::from_epoch(Duration::from_millis(millis))
}

fn capacity(feed: &Feed, now: Instant) -> Capacity {
    feed.poll_capacity(now, 4, &mut Context::from_waker(Waker::noop()))
}

fn publish(feed: &Feed, messages: &[&'static str], now: Instant) {
    for message in messages {
        feed.publish(Bytes::from_static(message.as_bytes()), 1, now);
    }
}

fn fetch(reader: &mut Reader, chunks: &mut VecDeque<Chunk>) -> FetchOutcome {
    reader.fetch(chunks, 64, &mut Context::from_waker(Waker::noop()))
}

/// Sends all output of `subscriber`.
fn drain(subscriber: &mut Subscriber, now: Instant) {
    let cx = &mut Context::from_waker(Waker::noop());
    subscriber.poll_shared(now, cx);
    script::collect(subscriber, now);
    subscriber.poll_shared(now, cx);
}

/// A waker that records whether it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

const PAUSED: Capacity = Capacity::Paused { until: None };

#[test]
fn the_upstream_is_paused_for_a_reader_that_blocks_until_it_acknowledges() {
    for (on_lag, lag_wait) in [
        (LagPolicy::Disconnect, Duration::ZERO),
        (LagPolicy::Skip, Duration::from_secs(1)),
        (LagPolicy::Block, Duration::ZERO),
    ] {
        let feed = feed(on_lag, lag_wait);
        let mut reader = Reader::join(&feed, Pace::Blocks);
        let mut waiting = Subscriber::new(&feed, at(0));
        publish(&feed, &["one.", "two."], at(0));
        drain(&mut waiting, at(0));
        let mut chunks = VecDeque::new();
        assert_eq!(fetch(&mut reader, &mut chunks), FetchOutcome::Fetched);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        for now in [at(0), at(1_000_000)] {
            assert_eq!(feed.poll_capacity(now, 4, &mut Context::from_waker(&waker)), PAUSED);
        }
        assert_eq!(feed.counters().reader_lag, 2);
        reader.acknowledge_before(1);
        assert_eq!((fetch(&mut reader, &mut chunks), reader.lag()), (FetchOutcome::Pending, 1));
        assert!(!woken.0.load(Relaxed), "a chunk leaves the window before it is acknowledged");
        reader.acknowledge(&chunks.pop_front().unwrap());
        assert_eq!(fetch(&mut reader, &mut chunks), FetchOutcome::Pending);
        assert!(woken.0.load(Relaxed), "the upstream is not woken");
        assert_eq!(capacity(&feed, at(2_000_000)), Capacity::Available);
        let counters = feed.counters();
        assert_eq!(counters.paused_for_readers, Duration::from_secs(2000));
        assert_eq!(
            (counters.paused_waiting, counters.paused),
            (Duration::ZERO, counters.paused_for_readers,)
        );
        assert_eq!(
            (counters.readers, counters.reader_acknowledged, counters.reader_lag),
            (1, 1, 1)
        );
        assert_eq!((counters.subscribers, counters.delivered), (1, 2));
    }
}

/// Nothing but the reader reads the feed. It leaves or skips instead of acknowledging.
#[test]
fn a_reader_that_leaves_or_skips_ends_the_pause() {
    let feed = feed(LagPolicy::Disconnect, Duration::ZERO);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let capacity = || feed.poll_capacity(at(0), 4, &mut Context::from_waker(&waker));
    let mut reader = Reader::join(&feed, Pace::Blocks);
    publish(&feed, &["one.", "two."], at(0));
    assert_eq!(capacity(), PAUSED);
    assert_eq!(reader.skip(), 2);
    assert!(woken.0.swap(false, Relaxed));
    assert_eq!(capacity(), Capacity::Available);
    publish(&feed, &["thr.", "fou."], at(0));
    assert_eq!(capacity(), PAUSED);
    drop(reader);
    assert!(woken.0.load(Relaxed));
    assert_eq!(capacity(), Capacity::Available);
    assert_eq!((feed.counters().readers, feed.counters().reader_skipped), (0, 2));
}

#[test]
fn a_reader_that_never_blocks_is_woken_when_it_falls_out_of_the_window_and_skips() {
    let feed = feed(LagPolicy::Disconnect, Duration::from_secs(1));
    let mut reader = Reader::join(&feed, Pace::NeverBlocks);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut chunks = VecDeque::new();
    publish(&feed, &["one."], at(0));
    // It fetches no more than one chunk, so further ones do not wake it.
    let mut fetch =
        |reader: &mut Reader| reader.fetch(&mut chunks, 1, &mut Context::from_waker(&waker));
    assert_eq!(fetch(&mut reader), FetchOutcome::Fetched);
    publish(&feed, &["two."], at(0));
    assert!(!woken.0.load(Relaxed));
    assert_eq!(capacity(&feed, at(0)), Capacity::Available);
    publish(&feed, &["thr."], at(0));
    assert!(woken.0.swap(false, Relaxed), "it is not woken although it fell out of the window");
    assert_eq!((fetch(&mut reader), reader.skip()), (FetchOutcome::Lagged, 3));
    chunks.clear();
    let mut fetch =
        |reader: &mut Reader| reader.fetch(&mut chunks, 1, &mut Context::from_waker(&waker));
    assert_eq!(fetch(&mut reader), FetchOutcome::Pending);
    publish(&feed, &["fou."], at(0));
    assert!(woken.0.load(Relaxed), "it is not woken by the next message");
    assert_eq!(fetch(&mut reader), FetchOutcome::Fetched);
    assert_eq!(chunks[0].first_message, 3);
    assert_eq!((feed.counters().reader_skipped, feed.counters().paused), (3, Duration::ZERO));
}

/// A pause for a reader costs laggards nothing of their budget, which applies as soon as the reader
/// has acknowledged.
#[test]
fn a_pause_for_a_reader_uses_no_budget() {
    let feed = feed(LagPolicy::Disconnect, Duration::from_secs(1));
    let mut reader = Reader::join(&feed, Pace::Blocks);
    let [mut slow, mut fast] = [(); 2].map(|()| Subscriber::new(&feed, at(0)));
    let mut chunks = VecDeque::new();
    let mut acknowledge_all = || {
        fetch(&mut reader, &mut chunks);
        chunks.drain(..).for_each(|chunk| reader.acknowledge(&chunk));
        fetch(&mut reader, &mut chunks);
    };
    publish(&feed, &["nul."], at(0));
    drain(&mut slow, at(0));
    drain(&mut fast, at(0));
    acknowledge_all();
    publish(&feed, &["one.", "two."], at(0));
    assert_eq!(capacity(&feed, at(0)), PAUSED);
    drain(&mut fast, at(100));
    assert_eq!(capacity(&feed, at(5000)), PAUSED);
    acknowledge_all();
    assert_eq!(capacity(&feed, at(5000)), Capacity::Paused { until: Some(at(6000)) });
    assert_eq!(capacity(&feed, at(6000)), Capacity::Available);
    let counters = feed.counters();
    assert_eq!(counters.paused_for_readers, Duration::from_secs(5));
    assert_eq!(counters.paused_waiting, Duration::from_secs(1));
}
