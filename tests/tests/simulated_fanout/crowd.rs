//! Many subscribers of every kind at once, and an upstream that flaps.

use std::time::Duration;

use wirestate_core::{
    ConnectionError,
    fanout::{Config, Framing, LagPolicy},
    runtime::Runtime as _,
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Received, Settings, Side, Task, World, act},
};

use crate::scene::{
    Epoch, FIXED, LINES, SIZE, Scene, all, config, cut, flood, millis, numbers, trickle, whole,
};

fn flapping() -> Vec<Epoch> {
    vec![
        cut(FIXED, 30 * SIZE + 37),
        whole(1000, 300),
        cut(FIXED, SIZE - 1),
        cut(FIXED, 0),
        cut(FIXED, 200 * SIZE + 1),
        whole(2000, 500),
    ]
}

/// Runs healthy and faulty subscribers; returns the scene and what the healthy ones received.
fn crowd(seed: u64, config: Config, healthy: u64, faulty: u64) -> (Scene, Vec<Received>) {
    crowd_of(Scene::new(seed, config, flapping()), seed, healthy, faulty)
}

fn crowd_of(scene: Scene, seed: u64, healthy: u64, faulty: u64) -> (Scene, Vec<Received>) {
    let without_stalls = |faults| Faults { stall: 0, delay: millis(0)..=millis(2), ..faults };
    scene.server.set_faults(without_stalls(Faults::harmless(seed)));
    let healthy: Vec<Task<Received>> = (0..healthy)
        .map(|i| {
            let host = scene.world.host(&format!("healthy {i}"));
            host.set_faults(without_stalls(Faults::harmless(seed * 1000 + i)));
            crate::scene::subscribe(&host, all())
        })
        .collect();
    for i in 0..faulty {
        let part = usize::try_from(500 + 1777 * i % 60_000).unwrap();
        let acts = match i % 6 {
            0 => vec![Act::Wait(millis(120_000)), Act::ReceiveAll],
            1 => vec![Act::Receive(part), Act::Finish, Act::ReceiveAll],
            2 => vec![Act::Receive(part), Act::Reset],
            3 => flood(),
            4 => vec![Act::Receive(part), Act::Wait(millis(3000)), Act::ReceiveAll],
            _ => vec![Act::Receive(part)],
        };
        let host = scene.world.host(&format!("faulty {i}"));
        host.set_faults(Faults::harmful(seed * 1000 + i));
        let runtime = host.clone();
        host.run(async move {
            runtime.sleep(millis(i * 97 % 5000)).await;
            crate::scene::subscribe(&runtime, acts);
        });
    }
    scene.run_for(millis(30_000));
    scene.end();
    let received = healthy.iter().map(|task| task.take().unwrap()).collect();
    (scene, received)
}

/// Asserts that healthy subscribers received every complete message of every epoch, and nothing
/// else.
fn assert_nothing_is_missing(scene: &Scene, received: &[Received]) {
    let published = scene.published();
    for received in received {
        assert_eq!((received.fin, received.error), (true, None));
        assert!(received.bytes == published, "{:?}", numbers(&received.bytes));
    }
    // Every epoch starts at a message boundary, with message 0, and has no gap.
    let numbers = numbers(&published);
    assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1 || two[1] == 0));
    assert_eq!(numbers.len(), 30 + 300 + 200 + 500);
    let counters = scene.counters();
    assert_eq!(counters.messages_in, numbers.len() as u64);
    assert_eq!(counters.tail_bytes_dropped, 37 + (SIZE as u64 - 1) + 1);
    assert_eq!(counters.upstream_connects, 6);
}

#[test]
fn healthy_subscribers_miss_nothing_while_the_upstream_flaps_and_others_misbehave() {
    let (healthy, faulty) = if cfg!(debug_assertions) { (20, 24) } else { (500, 600) };
    for_each_seed(2, |seed| {
        for on_lag in [LagPolicy::Disconnect, LagPolicy::Skip, LagPolicy::Block] {
            let (scene, received) = crowd(seed, config().with_on_lag(on_lag), healthy, faulty);
            assert_nothing_is_missing(&scene, &received);
        }
    });
}

#[test]
fn faulty_subscribers_do_not_change_what_the_healthy_receive() {
    for_each_seed(2, |seed| {
        let (with, without) = (crowd(seed, config(), 10, 24), crowd(seed, config(), 10, 0));
        // A message contains its time, which may differ.
        let numbers = |received: &[Received]| -> Vec<Vec<u64>> {
            received.iter().map(|received| numbers(&received.bytes)).collect()
        };
        assert_eq!(numbers(&with.1), numbers(&without.1));
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let hash = |seed| crowd(seed, config(), 5, 12).0.world.trace().hash();
    for_each_seed(1, |seed| assert_eq!(hash(seed), hash(seed)));
    assert_ne!(hash(0), hash(1));
}

/// Lines of every length, and bytes without messages. An upstream that ends inside a line loses the
/// tail; without messages it loses nothing.
#[test]
fn lines_and_bytes_arrive_completely_while_the_upstream_flaps() {
    for_each_seed(2, |seed| {
        for framing in [LINES, Framing::None] {
            let epochs = || {
                vec![
                    cut(LINES, 3000),
                    trickle(LINES, 200),
                    cut(LINES, 10),
                    cut(LINES, 20_007),
                    trickle(LINES, 300),
                ]
            };
            let scene = Scene::new(seed, config().with_framing(framing), epochs());
            let (scene, received) = crowd_of(scene, seed, 10, 24);
            let published = scene.published();
            for received in received {
                assert_eq!((received.fin, received.error), (true, None));
                assert!(
                    received.bytes == published,
                    "{} of {}",
                    received.bytes.len(),
                    published.len()
                );
            }
            let sent: usize = scene.epochs().iter().map(Vec::len).sum();
            let counters = scene.counters();
            assert_eq!(counters.upstream_connects, 5);
            assert_eq!(counters.bytes_received, published.len() as u64);
            assert_eq!(counters.tail_bytes_dropped, (sent - published.len()) as u64);
            assert_eq!(framing == Framing::None, counters.tail_bytes_dropped == 0);
            if framing == LINES {
                let lines = published.split_inclusive(|byte| *byte == b'\n').count();
                assert_eq!(counters.messages_in, lines as u64);
            }
        }
    });
}

/// The behaviour of one of thousands of subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Healthy,
    /// It connects after the first messages.
    Late,
    /// It reads slowly for a while.
    Slow,
    /// It stops reading for longer than the limit of a pause.
    Stalled,
    /// It sends a FIN.
    Leaving,
    /// It resets the connection.
    Resetting,
}

const KINDS: [Kind; 6] =
    [Kind::Healthy, Kind::Late, Kind::Slow, Kind::Stalled, Kind::Leaving, Kind::Resetting];

impl Kind {
    /// When subscriber `number` of this kind connects, and what it does.
    fn acts(self, number: usize) -> (Duration, Vec<Act>) {
        let part = number * 177 % 4000;
        let acts = match self {
            Self::Healthy | Self::Late => all(),
            Self::Slow => {
                let little = [Act::Receive(250), Act::Wait(millis(100))];
                little.into_iter().cycle().take(16).chain(all()).collect()
            }
            Self::Stalled => vec![Act::Receive(part), Act::Wait(millis(30_000)), Act::ReceiveAll],
            Self::Leaving => vec![Act::Receive(part), Act::Finish, Act::ReceiveAll],
            Self::Resetting => vec![Act::Receive(part), Act::Reset],
        };
        let late = if self == Self::Late { number as u64 * 7 % 4000 } else { 0 };
        (millis(late), acts)
    }
}

/// How many messages the upstream sends in each of two epochs of `thousands`; each is a chunk.
const MESSAGES: u64 = 20;

/// Runs equally many subscribers of every kind while the upstream flaps; returns what they
/// received.
fn thousands(seed: u64, on_lag: LagPolicy, count: usize) -> (Scene, Vec<(Kind, Received)>) {
    // The window holds half of the messages, and the buffers of a connection a few.
    let config =
        config().with_on_lag(on_lag).with_window(6144).with_lag_wait(millis(100)).with_replay(3);
    let settings = Settings { backlog: 10_000, buffer: 512, ..Settings::default() };
    let epochs = vec![whole(20, MESSAGES), cut(FIXED, SIZE + 1), whole(20, MESSAGES)];
    let scene = Scene::in_world(World::with(seed, settings), config, epochs);
    // At every step, the last message received follows the one before.
    scene.world.watch(move |record| {
        let bytes = &record.received[..record.received.len() / SIZE * SIZE];
        let last = &bytes[bytes.len().saturating_sub(2 * SIZE)..];
        if record.side == Side::Client
            && let [before, last] = numbers(last)[..]
        {
            let follows = last == before + 1 || (on_lag == LagPolicy::Skip && last > before);
            assert!(follows || last == 0, "{last} behind {before} at {}", record.client);
        }
    });
    let tasks: Vec<_> = KINDS
        .into_iter()
        .flat_map(|kind| {
            let host = scene.world.host(&format!("{kind:?}"));
            (0..count / KINDS.len()).map(move |number| {
                let (late, acts) = kind.acts(number);
                let runtime = host.clone();
                let received = host.run(async move {
                    runtime.sleep(late).await;
                    let socket = runtime.connect("server:1235").await.unwrap();
                    act(runtime, socket, acts).await
                });
                (kind, received)
            })
        })
        .collect();
    scene.run_for(millis(60_000));
    scene.end();
    let received =
        tasks.into_iter().map(|(kind, received)| (kind, received.take().unwrap())).collect();
    (scene, received)
}

/// Checks what each of 10,000 subscribers has received, and the counters. A debug build is slow and
/// runs 1,200.
fn check_thousands(on_lag: LagPolicy) {
    let count = if cfg!(debug_assertions) { 1200 } else { 10_000 };
    for_each_seed(1, |seed| {
        let (scene, received) = thousands(seed, on_lag, count);
        let (counters, published) = (scene.counters(), scene.published());
        assert_eq!(counters.messages_in, 2 * MESSAGES + 1);
        let mut whole = 0;
        for (kind, received) in &received {
            whole += received.bytes.len() / SIZE;
            match kind {
                Kind::Healthy => assert!(received.fin && received.bytes == published),
                Kind::Late => assert!(received.fin && published.ends_with(&received.bytes)),
                Kind::Slow => assert!(received.fin),
                Kind::Stalled => {
                    assert!(received.fin || received.error == Some(ConnectionError::Reset));
                }
                Kind::Leaving => assert!(received.fin && received.bytes.len() % SIZE == 0),
                Kind::Resetting => {}
            }
            if on_lag != LagPolicy::Skip && *kind != Kind::Late {
                assert!(published.starts_with(&received.bytes), "{kind:?} has a gap");
            }
        }
        assert_eq!(counters.lagged, scene.ended("lagged"));
        assert_eq!(counters.lagged > 0, on_lag == LagPolicy::Disconnect);
        assert_eq!(counters.skipped > 0, on_lag == LagPolicy::Skip);
        assert_eq!(scene.table.totals().accepted, received.len() as u64);
        // Bytes that the kernel has accepted may be lost with a connection.
        assert!(counters.delivered >= whole as u64);
    });
}

#[test]
fn thousands_share_a_feed_that_disconnects_laggards() {
    check_thousands(LagPolicy::Disconnect);
}

#[test]
fn thousands_share_a_feed_in_which_laggards_skip() {
    check_thousands(LagPolicy::Skip);
}

#[test]
fn thousands_share_a_feed_that_blocks() {
    check_thousands(LagPolicy::Block);
}
