//! Many subscribers of every kind at once, and an upstream that flaps.

use wirestate_core::fanout::{Config, OnLag};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Heard, Task},
};

use crate::scene::{Epoch, SIZE, Scene, all, config, flood, millis, numbers, source, whole};

fn flapping() -> Vec<Epoch> {
    vec![
        Epoch { source: source(0, 0), cut: Some(30 * SIZE + 37) },
        whole(1000, 300),
        Epoch { source: source(0, 0), cut: Some(SIZE - 1) },
        Epoch { source: source(0, 0), cut: Some(0) },
        Epoch { source: source(0, 0), cut: Some(200 * SIZE + 1) },
        whole(2000, 500),
    ]
}

/// Healthy subscribers, and as many of other kinds; answers the scene and what the healthy heard.
fn crowd(seed: u64, config: Config, healthy: u64, faulty: u64) -> (Scene, Vec<Heard>) {
    let scene = Scene::new(seed, config, flapping());
    let late = |faults| Faults { stall: 0, delay: millis(0)..=millis(2), ..faults };
    scene.server.set_faults(late(Faults::harmless(seed)));
    let healthy: Vec<Task<Heard>> = (0..healthy)
        .map(|i| {
            let host = scene.world.host(&format!("healthy {i}"));
            host.set_faults(late(Faults::harmless(seed * 1000 + i)));
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
    let heard = healthy.iter().map(|task| task.take().unwrap()).collect();
    (scene, heard)
}

/// A healthy subscriber has heard every whole message of every epoch, and nothing else.
fn nothing_is_missing(scene: &Scene, heard: &[Heard]) {
    let published = scene.published();
    for heard in heard {
        assert_eq!((heard.fin, heard.lost), (true, None));
        assert!(heard.bytes == published, "{:?}", numbers(&heard.bytes));
    }
    // Every epoch begins at a boundary, with its message 0, and has no gap.
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
    let (healthy, faulty) = if cfg!(debug_assertions) { (25, 30) } else { (500, 600) };
    for_each_seed(2, |seed| {
        for on_lag in [OnLag::Disconnect, OnLag::Skip, OnLag::Block] {
            let (scene, heard) = crowd(seed, Config { on_lag, ..config() }, healthy, faulty);
            nothing_is_missing(&scene, &heard);
        }
    });
}

#[test]
fn faulty_subscribers_change_nothing_that_the_healthy_hear() {
    for_each_seed(2, |seed| {
        let (with, without) = (crowd(seed, config(), 10, 24), crowd(seed, config(), 10, 0));
        // The time of each message is in it, and that may differ.
        let numbers = |heard: &[Heard]| -> Vec<Vec<u64>> {
            heard.iter().map(|heard| numbers(&heard.bytes)).collect()
        };
        assert_eq!(numbers(&with.1), numbers(&without.1));
    });
}

#[test]
fn the_same_seed_is_the_same_run() {
    let hash = |seed| crowd(seed, config(), 5, 12).0.world.trace().hash();
    for_each_seed(2, |seed| assert_eq!(hash(seed), hash(seed)));
    assert_ne!(hash(0), hash(1));
}
