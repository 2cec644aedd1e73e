//! Every order of events with two subscribers, a window of two messages, and four messages.
//!
//! Every reachable state is visited once. A state is the `Debug` text of the machines and the feed.
//! To reach it again, its moves are played from the start. A debug build leaves out some moves that
//! write single bytes, because it is slow.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    Event, Instant, Machine, Outbound,
    fanout::{Capacity, Config, Counters, Feed, LagPolicy, Subscriber},
};

use crate::messages::fixed;

const MESSAGES: u64 = 4;
const STREAM: &[u8] = b"1a2b3c4d";

/// An event.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// The upstream publishes the next chunk, unless it is paused.
    Publish,
    /// The time limit of a pause is reached.
    Expire,
    /// A subscriber polls the feed.
    Poll(usize),
    /// The kernel accepts all output of a subscriber.
    WriteAll(usize),
    /// The kernel accepts one byte.
    WriteOne(usize),
}

const MOVES: [Move; 8] = [
    Move::Publish,
    Move::Expire,
    Move::Poll(0),
    Move::Poll(1),
    Move::WriteAll(0),
    Move::WriteAll(1),
    Move::WriteOne(0),
    Move::WriteOne(1),
];

struct Scene {
    feed: Feed,
    on_lag: LagPolicy,
    /// Messages per chunk.
    per_chunk: u64,
    subscribers: [(Subscriber, Vec<u8>); 2],
    now: Instant,
}

impl Scene {
    fn new(on_lag: LagPolicy, lag_wait: Duration, per_chunk: u64) -> Self {
        let len = usize::try_from(per_chunk).unwrap() * 2;
        let chunks = usize::try_from(2 / per_chunk).unwrap();
        let window = chunks * (len + 128);
        let config = Config::default()
            .with_framing(fixed(2))
            .with_window(window)
            .with_on_lag(on_lag)
            .with_lag_wait(lag_wait);
        let feed = Feed::new(config).unwrap();
        let subscriber = || Subscriber::new(&feed, Instant::EPOCH);
        let subscribers = [(); 2].map(|()| (subscriber(), Vec::new()));
        Self { feed, on_lag, per_chunk, subscribers, now: Instant::EPOCH }
    }

    fn published(&self) -> u64 {
        self.feed.counters().messages_in
    }

    /// Returns false if this event cannot happen now.
    fn play(&mut self, step: Move) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let now = self.now;
        match step {
            Move::Publish | Move::Expire => {
                if self.published() == MESSAGES {
                    return false;
                }
                let start = usize::try_from(self.published()).unwrap() * 2;
                let len = usize::try_from(self.per_chunk).unwrap() * 2;
                match (step, self.feed.poll_capacity(now, len, cx)) {
                    (Move::Publish, Capacity::Available) => {
                        let bytes = Bytes::from_static(&STREAM[start..start + len]);
                        self.feed.publish(bytes, self.per_chunk, now);
                    }
                    (Move::Expire, Capacity::Paused { until: Some(until) }) => {
                        assert!(until > now, "the limit of a pause has passed");
                        self.now = until;
                        let capacity = self.feed.poll_capacity(until, len, cx);
                        assert_eq!(
                            capacity,
                            Capacity::Available,
                            "the pause continues at its limit"
                        );
                    }
                    _ => return false,
                }
            }
            Move::Poll(k) => return self.subscribers[k].0.poll_shared(now, cx),
            Move::WriteAll(k) | Move::WriteOne(k) => {
                let (subscriber, output) = &mut self.subscribers[k];
                match subscriber.interest().write {
                    Outbound::Flush => {
                        let mut bufs = [&[][..]; 64];
                        let n = subscriber.write_bufs(&mut bufs);
                        let all = bufs[..n].concat();
                        let n = if matches!(step, Move::WriteOne(_)) { 1 } else { all.len() };
                        output.extend_from_slice(&all[..n]);
                        subscriber.handle(now, Event::Written(n));
                    }
                    Outbound::Reset => subscriber.handle(now, Event::Finished),
                    Outbound::Idle | Outbound::Finish | Outbound::Finished => return false,
                }
            }
        }
        true
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.subscribers).hash(&mut hasher);
        hasher.finish()
    }

    /// Asserts what holds in every state.
    fn check(&self) {
        let published = self.published();
        let (mut sum, mut open) = (self.feed.counters().skipped, 0);
        for (subscriber, output) in &self.subscribers {
            let (whole, _) = messages(output);
            match self.on_lag {
                LagPolicy::Disconnect | LagPolicy::Block => {
                    assert!(STREAM.starts_with(output), "it has a gap");
                    assert_eq!(self.feed.counters().skipped, 0);
                }
                LagPolicy::Skip => {
                    assert!(whole.is_sorted_by(|a, b| a < b), "messages are out of order");
                }
            }
            let state = subscriber.status().state;
            if self.on_lag != LagPolicy::Disconnect {
                assert_eq!(state, "open");
            } else if state != "open" {
                let Counters { paused_waiting, never_caught_up, .. } = self.feed.counters();
                let lag_wait = self.feed.config().lag_wait;
                let is_used_up = paused_waiting == lag_wait;
                assert!(is_used_up || never_caught_up > 0, "the upstream was not paused for it");
            }
            if state == "open" {
                open += 1;
                sum += whole.len() as u64 + subscriber.status().lag;
            }
        }
        // The lag counts all messages of a chunk until the chunk is delivered.
        let in_chunks = open * (self.per_chunk - 1);
        assert!((open * published..=open * published + in_chunks).contains(&sum));
    }

    /// Plays the scene to its end. Every message is delivered or skipped, or its subscriber reset.
    fn play_out(&mut self) {
        // A poll of the feed that finds nothing may end a pause, so two idle rounds are needed.
        let mut idle = 0;
        while idle < 2 {
            let large = MOVES.iter().filter(|step| !matches!(step, Move::WriteOne(_)));
            let moved = large.filter(|step| self.play(**step)).count();
            idle = if moved == 0 { idle + 1 } else { 0 };
        }
        assert_eq!(self.published(), MESSAGES, "the upstream is paused without end");
        let counters = self.feed.counters();
        let (mut open, mut whole_of_open, mut delivered, mut reset) = (0, 0, 0, 0);
        for (subscriber, output) in &mut self.subscribers {
            let (whole, begun) = messages(output);
            delivered += whole.len() as u64;
            if subscriber.interest().is_done() {
                reset += 1;
                continue;
            }
            open += 1;
            whole_of_open += whole.len() as u64;
            assert!(!begun, "a message that was begun is completed");
            assert_eq!(subscriber.status().lag, 0);
            // The subscriber learns that all bytes are acknowledged.
            if let Some(observation) = subscriber.poll_timeout() {
                subscriber.handle(observation, Event::Timeout { unacknowledged: 0 });
            }
            assert_eq!(subscriber.poll_timeout(), None);
            assert!(!subscriber.interest().is_done());
        }
        assert_eq!(counters.delivered, delivered);
        assert_eq!(whole_of_open + counters.skipped, open * MESSAGES);
        assert_eq!((counters.subscribers, counters.lagged), (open, reset));
        let (paused, limit) = (counters.paused_waiting, self.feed.config().lag_wait);
        assert!(self.on_lag == LagPolicy::Block || paused <= limit, "{paused:?} of {limit:?}");
    }
}

/// The numbers of the complete messages in `output`, and whether an incomplete one follows.
fn messages(output: &[u8]) -> (Vec<u8>, bool) {
    let (whole, begun) = output.as_chunks::<2>();
    for message in whole {
        assert!(STREAM.as_chunks::<2>().0.contains(message), "{message:?} is no message");
    }
    (whole.iter().map(|message| message[0]).collect(), !begun.is_empty())
}

fn moves_of(on_lag: LagPolicy, lag_wait: Duration) -> &'static [Move] {
    let left_out = match (on_lag, lag_wait) {
        (LagPolicy::Block, _) => 0,
        (LagPolicy::Disconnect | LagPolicy::Skip, Duration::ZERO) => 1,
        (LagPolicy::Disconnect | LagPolicy::Skip, _) => 2,
    };
    &MOVES[..MOVES.len() - if cfg!(debug_assertions) { left_out } else { 0 }]
}

/// Visits every state. Returns the number of states.
fn visit(on_lag: LagPolicy, lag_wait: Duration, per_chunk: u64) -> usize {
    let reach = |moves: &[Move]| {
        let mut scene = Scene::new(on_lag, lag_wait, per_chunk);
        for step in moves {
            scene.play(*step);
        }
        scene
    };
    let mut seen = BTreeSet::from([reach(&[]).key()]);
    let mut queue = VecDeque::from([Vec::new()]);
    while let Some(moves) = queue.pop_front() {
        for &step in moves_of(on_lag, lag_wait) {
            let mut scene = reach(&moves);
            // A move that returns false may have changed the state of the feed.
            scene.play(step);
            if seen.insert(scene.key()) {
                let mut moves = moves.clone();
                moves.push(step);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    scene.check();
                    scene.play_out();
                }));
                assert!(result.is_ok(), "after {moves:?}");
                queue.push_back(moves);
            }
        }
    }
    seen.len()
}

#[test]
fn laggards_are_reset_and_no_others() {
    for lag_wait in [Duration::ZERO, Duration::from_secs(1)] {
        for per_chunk in [1, 2] {
            assert!(visit(LagPolicy::Disconnect, lag_wait, per_chunk) > 100);
        }
    }
}

#[test]
fn laggards_skip_complete_messages_that_are_counted() {
    for lag_wait in [Duration::ZERO, Duration::from_secs(1)] {
        for per_chunk in [1, 2] {
            assert!(visit(LagPolicy::Skip, lag_wait, per_chunk) > 100);
        }
    }
}

#[test]
fn no_subscriber_misses_anything_if_the_upstream_blocks() {
    for per_chunk in [1, 2] {
        assert!(visit(LagPolicy::Block, Duration::ZERO, per_chunk) > 100);
    }
}
