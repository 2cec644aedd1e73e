//! Two subscribers, a window of two messages, four messages: every order of events.
//!
//! Every reachable state is visited once. A state is the `Debug` text of the machines and the feed.
//! To reach a state again, its moves are played from the start. In a debug build, where states are
//! many, only one of the two is written to byte by byte, or none.

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

/// A possible move.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// The upstream publishes the next message, if it is not paused.
    Publish,
    /// The time for which the upstream may be paused has passed.
    Expire,
    /// A subscriber polls the feed.
    Share(usize),
    /// The kernel takes all output of a subscriber.
    WriteAll(usize),
    /// The kernel takes one byte.
    WriteOne(usize),
}

const MOVES: [Move; 8] = [
    Move::Publish,
    Move::Expire,
    Move::Share(0),
    Move::Share(1),
    Move::WriteAll(0),
    Move::WriteAll(1),
    Move::WriteOne(0),
    Move::WriteOne(1),
];

struct Scene {
    feed: Feed,
    on_lag: LagPolicy,
    /// Messages in a chunk.
    together: u64,
    subscribers: [(Subscriber, Vec<u8>); 2],
    now: Instant,
}

impl Scene {
    fn new(on_lag: LagPolicy, lag_wait: Duration, together: u64) -> Self {
        let len = usize::try_from(together).unwrap() * 2;
        let chunks = usize::try_from(2 / together).unwrap();
        let window = chunks * (len + 128);
        let config = Config { framing: fixed(2), window, on_lag, lag_wait, ..Config::default() };
        let feed = Feed::new(config);
        let subscriber = || Subscriber::new(&feed, Instant::EPOCH);
        let subscribers = [(); 2].map(|()| (subscriber(), Vec::new()));
        Self { feed, on_lag, together, subscribers, now: Instant::EPOCH }
    }

    fn published(&self) -> u64 {
        self.feed.counters().messages_in
    }

    /// Plays a move. Returns false if the move is impossible.
    fn play(&mut self, step: Move) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let now = self.now;
        match step {
            Move::Publish | Move::Expire => {
                if self.published() == MESSAGES {
                    return false;
                }
                let start = usize::try_from(self.published()).unwrap() * 2;
                let len = usize::try_from(self.together).unwrap() * 2;
                match (step, self.feed.poll_capacity(now, len, cx)) {
                    (Move::Publish, Capacity::Free) => {
                        let bytes = Bytes::from_static(&STREAM[start..start + len]);
                        self.feed.publish(bytes, self.together, now);
                    }
                    (Move::Expire, Capacity::Held(Some(until))) => {
                        assert!(until > now, "nobody is waited for whose time is up");
                        self.now = until;
                        let room = self.feed.poll_capacity(until, len, cx);
                        assert_eq!(room, Capacity::Free, "the time is up");
                    }
                    _ => return false,
                }
            }
            Move::Share(k) => return self.subscribers[k].0.poll_shared(now, cx),
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

    /// Checks what holds in every state.
    fn look(&self) {
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
                    assert!(whole.is_sorted_by(|a, b| a < b), "not ascending");
                }
            }
            let state = subscriber.status().state;
            if self.on_lag != LagPolicy::Disconnect {
                assert_eq!(state, "open");
            } else if state != "open" {
                let Counters { held_waiting, never_caught_up, .. } = self.feed.counters();
                let lag_wait = self.feed.config().lag_wait;
                let waited = held_waiting == lag_wait;
                assert!(waited || never_caught_up > 0, "nobody has waited for it");
            }
            if state == "open" {
                open += 1;
                sum += whole.len() as u64 + subscriber.status().lag;
            }
        }
        // The lag counts a chunk's messages until all of them are delivered.
        let in_chunks = open * (self.together - 1);
        assert!((open * published..=open * published + in_chunks).contains(&sum));
    }

    /// Checks that every state leads to an end: each message is delivered or skipped, or its
    /// subscriber is reset.
    fn settle(&mut self) {
        // Two rounds: a poll that finds nothing may let the upstream continue.
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
            assert!(!begun, "a message that was begun is finished");
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
        let most = self.feed.config().lag_wait;
        let held = counters.held_waiting;
        assert!(self.on_lag == LagPolicy::Block || held <= most, "held for {held:?} of {most:?}");
    }
}

/// The numbers of the whole messages in `output`, and whether an incomplete one follows.
fn messages(output: &[u8]) -> (Vec<u8>, bool) {
    let (whole, begun) = output.as_chunks::<2>();
    for message in whole {
        assert!(STREAM.as_chunks::<2>().0.contains(message), "{message:?} is none");
    }
    (whole.iter().map(|message| message[0]).collect(), !begun.is_empty())
}

fn moves_of(on_lag: LagPolicy, lag_wait: Duration) -> &'static [Move] {
    let fewer = match (on_lag, lag_wait) {
        (LagPolicy::Block, _) => 0,
        (LagPolicy::Disconnect | LagPolicy::Skip, Duration::ZERO) => 1,
        (LagPolicy::Disconnect | LagPolicy::Skip, _) => 2,
    };
    &MOVES[..MOVES.len() - if cfg!(debug_assertions) { fewer } else { 0 }]
}

/// Visits every state, and returns their number.
fn visit(on_lag: LagPolicy, lag_wait: Duration, together: u64) -> usize {
    let reach = |moves: &[Move]| {
        let mut scene = Scene::new(on_lag, lag_wait, together);
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
            // A move without a visible effect may still change the feed's state.
            scene.play(step);
            if seen.insert(scene.key()) {
                let mut moves = moves.clone();
                moves.push(step);
                let settled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    scene.look();
                    scene.settle();
                }));
                assert!(settled.is_ok(), "after {moves:?}");
                queue.push_back(moves);
            }
        }
    }
    seen.len()
}

#[test]
fn who_lags_is_reset_and_nobody_else() {
    for lag_wait in [Duration::ZERO, Duration::from_secs(1)] {
        for together in [1, 2] {
            assert!(visit(LagPolicy::Disconnect, lag_wait, together) > 100);
        }
    }
}

#[test]
fn who_lags_skips_whole_messages_that_are_counted() {
    for lag_wait in [Duration::ZERO, Duration::from_secs(1)] {
        for together in [1, 2] {
            assert!(visit(LagPolicy::Skip, lag_wait, together) > 100);
        }
    }
}

#[test]
fn where_the_upstream_waits_nobody_misses_anything() {
    for together in [1, 2] {
        assert!(visit(LagPolicy::Block, Duration::ZERO, together) > 100);
    }
}
