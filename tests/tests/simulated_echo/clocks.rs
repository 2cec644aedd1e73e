//! Time that does not behave.

use std::time::Duration;

use wirestate_core::{
    drive::Ended,
    echo::{Config, LoadConfig, LoadReason},
    serve::Options,
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, World},
};

use crate::scene::{Scene, load, patient, peer, seconds};

#[test]
fn a_process_that_was_stopped_serves_what_had_arrived_before_it_believes_a_deadline() {
    for_each_seed(10, |seed| {
        let config = Config { idle_timeout: Some(seconds(30)), ..Config::default() };
        let scene = Scene::with(World::new(seed), config, Options::default());
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
        let heard = peer(&client, acts);
        scene.world.run_for(seconds(5)).unwrap();
        scene.server.stop_for(seconds(60));
        let heard = scene.world.run_until(&heard).unwrap();
        assert_eq!((&*heard.bytes, heard.fin), (&b"beforemeanwhile"[..], true));
        scene.end();
        assert_eq!(scene.ended("finished"), 1);
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
    let heard: Vec<_> =
        (0..3).map(|_| peer(&client, vec![Act::Send("hi".into()), Act::ReceiveAll])).collect();
    scene.world.run_for(seconds(1)).unwrap();
    scene.server.set_clock_ahead(seconds(3600));
    scene.world.run_for(seconds(1)).unwrap();
    for heard in heard {
        assert!(heard.take().unwrap().fin);
    }
    assert_eq!(scene.ended("idle_timeout"), 3);
    let loading = load(&client, LoadConfig::default());
    scene.world.run_until(&loading).unwrap();
    scene.end();
}
