//! Clocks that jump, stand still or go back, and processes that are stopped.

use std::time::Duration;

use wirestate_command_line::load::{LoadConfig, LoadReason};
use wirestate_core::{
    drive::Ended,
    echo::Config,
    serve::{self, ServerHandle},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, World},
};

use crate::scene::{Scene, load, patient, peer, seconds};

#[test]
fn a_process_that_was_stopped_reads_its_input_before_it_handles_a_deadline() {
    for_each_seed(10, |seed| {
        let config = Config::default().with_idle_timeout(Some(seconds(30)));
        let scene = Scene::with(World::new(seed), config, ServerHandle::default());
        let client = scene.world.host("client");
        let acts = vec![
            Act::Send("before".into()),
            Act::Receive(6),
            Act::Wait(seconds(10)),
            Act::Send("meanwhile".into()),
            Act::Receive(9),
            Act::Finish,
            Act::ReceiveAll,
        ];
        let received = peer(&client, acts);
        scene.world.run_for(seconds(5)).unwrap();
        scene.server.stop_for(seconds(60));
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!((&*received.bytes, received.fin), (&b"beforemeanwhile"[..], true));
        scene.end();
        assert_eq!(scene.ended("finished"), 1);
    });
}

/// Input that arrives while the process is stopped is served although the drain timeout has passed.
#[test]
fn a_process_that_was_stopped_during_the_drain_serves_the_input_that_has_arrived() {
    for_each_seed(10, |seed| {
        let config = serve::Config::default().with_drain_timeout(seconds(5));
        let handle = ServerHandle::new(config);
        let scene = Scene::with(World::new(seed), Config::default(), handle);
        let client = scene.world.host("client");
        // The client reads its echo only while the server is stopped.
        let sent = vec![7; 40_000];
        let sends = [Act::Send(sent.clone().into()), Act::Finish];
        let reads = [Act::Wait(seconds(5)), Act::ReceiveAll];
        let received = peer(&client, [sends, reads].concat());
        scene.world.run_for(seconds(1)).unwrap();
        scene.shutdown.drain();
        scene.world.run_for(seconds(1)).unwrap();
        scene.server.stop_for(seconds(8));
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!((received.bytes.len(), received.fin, received.error), (sent.len(), true, None));
        assert_eq!(scene.end().aborted, 0);
    });
}

#[test]
fn a_clock_may_stand_still_or_go_back() {
    for_each_seed(10, |seed| {
        let scene = Scene::new(seed);
        let client = scene.world.host("client");
        let loading = load(&client, patient(50));
        scene.world.run_for(Duration::from_millis(20)).unwrap();
        scene.server.set_clock_back(seconds(3600));
        client.freeze_clock(seconds(2));
        scene.world.run_for(Duration::from_millis(100)).unwrap();
        scene.server.freeze_clock(seconds(5));
        let ended = scene.world.run_until(&loading).unwrap();
        assert!(matches!(ended, Ended::Reason(LoadReason::Complete { .. })), "{ended:?}");
        scene.end();
    });
}

#[test]
fn a_clock_that_jumps_ahead_fires_each_deadline_once() {
    let scene = Scene::new(10);
    let client = scene.world.host("client");
    let received: Vec<_> =
        (0..3).map(|_| peer(&client, vec![Act::Send("hi".into()), Act::ReceiveAll])).collect();
    scene.world.run_for(seconds(1)).unwrap();
    scene.server.set_clock_ahead(seconds(3600));
    scene.world.run_for(seconds(1)).unwrap();
    for received in received {
        assert!(received.take().unwrap().fin);
    }
    assert_eq!(scene.ended("idle_timeout"), 3);
    let loading = load(&client, LoadConfig::default());
    scene.world.run_until(&loading).unwrap();
    scene.end();
}
