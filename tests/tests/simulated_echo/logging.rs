//! The log lines of connections that end.

use tracing::{Level, subscriber::with_default};
use wirestate_testkit::sim::{Act, Host};

use crate::scene::{Scene, log::Log, peer, seconds};

/// Opens a connection, sends `sends`, and resets the connection.
fn reset_one(scene: &Scene, client: &Host, sends: &'static str) {
    let mut acts = vec![Act::Wait(seconds(1) / 100), Act::Reset];
    if !sends.is_empty() {
        acts.insert(0, Act::Send(sends.into()));
    }
    scene.world.run_until(&peer(client, acts)).unwrap();
}

#[test]
fn resets_in_quick_succession_are_all_counted_and_not_all_logged() {
    for level in [Level::INFO, Level::DEBUG] {
        let log = Log::new(level);
        with_default(log.clone(), || {
            let scene = Scene::new(1);
            let client = scene.world.host("client");
            let started = scene.world.now();
            for _ in 0..500 {
                reset_one(&scene, &client, "x");
            }
            let elapsed = scene.world.now().since(started).as_secs() + 1;
            scene.end();
            assert_eq!(scene.ended("reset"), 500);
            let (lines, suppressed) = log.ends("reset");
            if level == Level::DEBUG {
                assert_eq!((lines, suppressed), (500, 0));
            } else {
                assert_eq!(lines + suppressed, 500);
                assert!((50..=50 + 10 * elapsed).contains(&lines), "{lines} in {elapsed} s");
            }
        });
    }
}

#[test]
fn a_connection_without_a_byte_is_a_health_check_and_not_logged() {
    let log = Log::new(Level::INFO);
    with_default(log.clone(), || {
        let scene = Scene::new(2);
        let client = scene.world.host("client");
        for _ in 0..5 {
            reset_one(&scene, &client, "");
            let acts = vec![Act::Finish, Act::ReceiveAll];
            scene.world.run_until(&peer(&client, acts)).unwrap();
        }
        reset_one(&scene, &client, "x");
        scene.end();
        assert_eq!((scene.ended("health_check"), scene.ended("reset")), (10, 1));
        assert_eq!((log.ends("health_check").0, log.ends("reset").0), (0, 1));
    });
}
