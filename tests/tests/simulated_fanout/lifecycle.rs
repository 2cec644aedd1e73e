//! Joining late, leaving, and the shutdown of the server.

use std::{future::poll_fn, num::NonZeroUsize};

use wirestate_core::{
    dial::{Backoff, Dial},
    fanout::{Feed, Framing, LagPolicy, Upstream},
    runtime::{Listener as _, Runtime as _},
    serve::DrainReport,
    shutdown::ShutdownHandle,
};
use wirestate_testkit::sim::{Act, Side, TraceEvent, World, act};

use crate::scene::{Epoch, FIXED, Scene, all, config, cut, message, millis, numbers, whole};

#[test]
fn a_late_joiner_starts_with_the_next_message_or_the_last_few() {
    let first = |replay| {
        let scene = Scene::new(1, config().with_replay(replay), vec![whole(100, 1000)]);
        scene.run_for(millis(4000));
        let published = scene.counters().messages_in;
        let late = scene.subscriber("late", all());
        scene.run_for(millis(1000));
        scene.end();
        let received = numbers(&late.take().unwrap().bytes);
        assert!(received.windows(2).all(|two| two[1] == two[0] + 1));
        published.abs_diff(received[0])
    };
    assert!(first(0) <= 3, "messages that were published before are received");
    assert!((97..=100).contains(&first(100)));
}

#[test]
fn the_end_of_a_subscriber_is_noticed_without_a_message() {
    let scene = Scene::new(2, config(), vec![whole(1000, 10), whole(1, 1)]);
    let leaves = vec![Act::Receive(1000), Act::Finish, Act::ReceiveAll];
    let leaving = scene.subscriber("leaving", leaves);
    scene.subscriber("resetting", vec![Act::Receive(1000), Act::Reset]);
    scene.subscriber("closing", vec![Act::Receive(1000)]);
    let stays = scene.subscriber("staying", all());
    scene.run_for(millis(10_000));
    let published = scene.counters().messages_in;
    assert_eq!((scene.ended("left"), scene.ended("reset")), (2, 1));
    assert_eq!(scene.counters().subscribers, 1);
    assert_eq!(published, 11);
    assert!(leaving.take().unwrap().fin);
    scene.end();
    assert_eq!(stays.take().unwrap().bytes.len(), 1100);
}

#[test]
fn a_drain_flushes_pending_output() {
    let scene = Scene::new(3, config(), vec![whole(0, 1500)]);
    let slow = vec![Act::Receive(100), Act::Wait(millis(5000)), Act::ReceiveAll];
    let slow = scene.subscriber("slow", slow);
    scene.run_for(millis(2000));
    assert!(scene.counters().delivered < 1500, "the network's buffers are not full");
    let report = scene.end();
    assert_eq!(report, DrainReport { drained: 1, aborted: 0 });
    let received = slow.take().unwrap();
    assert_eq!((received.fin, received.error), (true, None));
    assert_eq!(numbers(&received.bytes), (0..1500).collect::<Vec<_>>());
    assert_eq!(scene.ended("shut_down"), 1);
    assert_eq!(scene.counters().delivered, 1500);
}

#[test]
fn input_of_subscribers_is_discarded() {
    let scene = Scene::new(4, config(), vec![whole(1000, 500)]);
    let sender = scene.subscriber("sender", crate::scene::flood());
    scene.run_for(millis(5000));
    scene.end();
    assert_eq!(scene.table.totals().bytes_received, 100_000);
    assert_eq!(numbers(&sender.take().unwrap().bytes), (0..500).collect::<Vec<_>>());
}

/// The subscriber's input is read to its end in large pieces: in 100 ms at most 64 KiB and one more
/// piece.
#[test]
fn a_subscriber_that_floods_costs_little_and_its_end_is_noticed() {
    const BYTES: usize = 2_000_000;
    let scene = Scene::new(9, config(), vec![whole(100, 1000)]);
    let acts = vec![Act::Send(vec![7; BYTES].into()), Act::Finish, Act::ReceiveAll];
    let sender = scene.subscriber("sender", acts);
    // The number of reads, and their bytes.
    let read = || {
        let trace = scene.world.trace();
        let of_server = trace.of("sender").filter(|entry| entry.place.side() == Some(Side::Server));
        let pieces = of_server.filter_map(|entry| {
            let TraceEvent::Received { bytes, .. } = entry.event else { return None };
            Some(bytes)
        });
        let pieces: Vec<u64> = pieces.collect();
        (pieces.len(), pieces.iter().sum::<u64>())
    };
    scene.run_for(millis(1500));
    let max = 15 * 80 * 1024;
    let (_, bytes) = read();
    assert!(bytes > max / 2 && bytes <= max, "{bytes}");
    scene.run_for(millis(4000));
    let (reads, bytes) = read();
    assert_eq!(bytes, BYTES as u64);
    assert!(reads < BYTES / 2000, "{reads} reads");
    assert_eq!((scene.ended("left"), scene.counters().subscribers), (1, 0));
    scene.end();
    assert!(sender.take().unwrap().fin);
}

#[test]
fn the_server_dials_again_while_the_upstream_is_away() {
    let scene = Scene::new(
        5,
        config().with_on_lag(LagPolicy::Block),
        vec![whole(100, 10), cut(FIXED, 550), whole(100, 10)],
    );
    let received = scene.subscriber("healthy", all());
    scene.run_for(millis(900));
    assert_eq!((scene.counters().upstream_connects, scene.counters().subscribers), (0, 1));
    scene.run_for(millis(20_000));
    assert!(!scene.counters().upstream_up);
    scene.end();
    let expected: Vec<u64> = (0..10).chain(0..5).chain(0..10).collect();
    assert_eq!(numbers(&received.take().unwrap().bytes), expected);
    assert_eq!(scene.counters().tail_bytes_dropped, 50);
}

#[test]
fn each_attempt_to_connect_that_fails_is_counted() {
    let world = World::new(8);
    let (server, source) = (world.host("server"), world.host("upstream"));
    let (feed, shutdown) = (Feed::new(config()).unwrap(), ShutdownHandle::new());
    let dial = Dial::new("upstream:1234", Backoff::new(8))
        .with_connect_timeout(millis(5000))
        .with_shutdown(shutdown.clone());
    let (runtime, shared) = (server.clone(), feed.clone());
    let dialling = server.run(async move {
        let upstream = |now| Upstream::new(&shared, now);
        dial.keep_connected(&runtime, || shared.connect_failed(), upstream).await;
    });
    world.run_for(millis(10_000)).unwrap();
    let failures = feed.counters().upstream_failures;
    assert!(failures > 5 && feed.counters().upstream_connects == 0, "{failures}");
    let listener = source.listen("upstream:1234").unwrap();
    world.run_for(millis(10_000)).unwrap();
    let counters = feed.counters();
    assert_eq!((counters.upstream_connects, counters.upstream_up), (1, true));
    let attempts = world.records().iter().filter(|record| &*record.client == "server").count();
    assert_eq!(
        (counters.upstream_failures, attempts),
        (failures, 2),
        "there is not one connection"
    );
    shutdown.drain();
    drop(listener);
    world.run_until(&dialling).unwrap();
}

/// How often a source is dialled within `time` ms. The source accepts, sends a line, and ends each
/// connection after `lasts` ms with the act `last`. A Redis server that is full does this.
fn dials_within(time: u64, lasts: u64, last: &Act) -> u64 {
    let world = World::new(9);
    let (server, source) = (world.host("server"), world.host("upstream"));
    let lines = Framing::Delimited { delimiter: b'\n', max: NonZeroUsize::new(100).unwrap() };
    let feed = Feed::new(config().with_framing(lines)).unwrap();
    let shutdown = ShutdownHandle::new();
    let dial = Dial::new("upstream:1234", Backoff::new(9))
        .with_connect_timeout(millis(5000))
        .with_shutdown(shutdown.clone());
    let mut listener = source.listen("upstream:1234").unwrap();
    let (runtime, last) = (source.clone(), last.clone());
    source.run(async move {
        while let Ok((socket, _)) = poll_fn(|cx| listener.poll_accept(cx)).await {
            let line = Act::Send("-ERR max number of clients reached\r\n".into());
            let acts = vec![line, Act::Wait(millis(lasts)), last.clone()];
            runtime.run(act(runtime.clone(), socket, acts));
        }
    });
    let (runtime, shared) = (server.clone(), feed.clone());
    let dialling = server.run(async move {
        let upstream = |now| Upstream::new(&shared, now);
        dial.keep_connected(&runtime, || shared.connect_failed(), upstream).await;
    });
    world.run_for(millis(time)).unwrap();
    let counters = feed.counters();
    assert_eq!(counters.upstream_failures, 0);
    assert!(counters.messages_in + 1 >= counters.upstream_connects, "{counters:?}");
    shutdown.drain();
    world.run_until(&dialling).unwrap();
    world.clear();
    counters.upstream_connects
}

#[test]
fn a_source_that_sends_a_line_and_ends_is_dialled_with_growing_pauses() {
    // An immediate reset would overtake the line.
    for (lasts, last) in [(0, Act::Finish), (50, Act::Reset)] {
        let dials = dials_within(60_000, lasts, &last);
        assert!((10..50).contains(&dials), "{last:?}: {dials} in a minute");
    }
}

#[test]
fn a_source_whose_connection_has_lasted_is_dialled_again_soon() {
    for (lasts, max_pause) in [(10_001, 50), (9_900, 5000)] {
        let dials = dials_within(600_000, lasts, &Act::Finish);
        let min = 600_000 / (lasts + max_pause + 100);
        assert!(dials >= min, "{dials} dials, at least {min} expected");
        let is_soon = dials >= 600_000 / (lasts + 50 + 100);
        assert_eq!(is_soon, max_pause == 50, "{dials} with connections of {lasts} ms");
    }
}

/// The time of silence counts only while the server reads.
#[test]
fn an_upstream_that_falls_silent_inside_a_message_is_reset() {
    let messages = |count| (0..count).flat_map(|number| message(FIXED, number));
    let silent = vec![
        Act::Send(messages(5).chain([b'.'; 30]).collect()),
        Act::Wait(millis(2900)),
        Act::Send(vec![b'.'; 10].into()),
        Act::ReceiveAll,
    ];
    let epochs = vec![Epoch::Acts(silent), whole(100, 10)];
    let config = config().with_upstream_idle_timeout(millis(3000));
    let scene = Scene::new(6, config, epochs);
    let received = scene.subscriber("healthy", all());
    // The source listens after a second, and is dialled every 100 ms.
    scene.run_for(millis(1000 + 2900 + 2900));
    assert_eq!((scene.counters().upstream_up, scene.counters().upstream_connects), (true, 1));
    scene.run_for(millis(400));
    let counters = scene.counters();
    assert_eq!((counters.tail_bytes_dropped, counters.upstream_connects), (40, 2));
    scene.run_for(millis(10_000));
    assert_eq!(scene.counters().upstream_connects, 2);
    scene.end();
    let expected: Vec<u64> = (0..5).chain(0..10).collect();
    assert_eq!(numbers(&received.take().unwrap().bytes), expected);
}

#[test]
fn a_pause_of_the_upstream_does_not_count_as_silence() {
    let config = config().with_on_lag(LagPolicy::Block).with_upstream_idle_timeout(millis(3000));
    let epochs = vec![whole(0, 8000)];
    let scene = Scene::new(7, config, epochs);
    let slow = vec![Act::Wait(millis(9000)), Act::ReceiveAll];
    let slow = scene.subscriber("slow", slow);
    scene.run_for(millis(30_000));
    let counters = scene.counters();
    assert!(counters.paused > millis(6000), "{:?}", counters.paused);
    assert_eq!((counters.upstream_connects, counters.messages_in), (1, 8000));
    scene.end();
    assert_eq!(numbers(&slow.take().unwrap().bytes), (0..8000).collect::<Vec<_>>());
}
