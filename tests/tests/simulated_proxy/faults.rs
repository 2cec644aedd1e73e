//! Faults of all kinds, on many seeds: the invariants hold, and healthy clients are served.

use wirestate_command_line::load::LoadReason;
use wirestate_core::drive::Ended;
use wirestate_testkit::{
    for_each_seed,
    script::Ending,
    sim::{Entry, Faults, World, misbehaving},
};

use crate::scene::{ROUND, Scene, load, patient, peer, seconds, small, tight};

#[test]
fn every_byte_is_forwarded_under_all_harmless_faults() {
    for_each_seed(10, |seed| {
        let scene = Scene::with(tight(seed), small(1 << (seed % 12)), &["a", "b"]);
        scene.proxy.set_faults(Faults::harmless(seed));
        scene.echo("a").set_faults(Faults::harmless(seed + 1));
        scene.echo("b").set_faults(Faults::harmless(seed + 2));
        let loads: Vec<_> = (0..4)
            .map(|i| {
                let client = scene.world.host(&format!("client {i}"));
                client.set_faults(Faults::harmless(seed * 100 + i));
                load(&client, patient(2))
            })
            .collect();
        for loading in loads {
            let ended = scene.world.run_until(&loading).unwrap();
            assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 2 * ROUND }));
        }
        // Lets their FINs arrive: a drain would end connections that are quiet for a second.
        scene.run_for(seconds(60));
        scene.end();
        let ended = scene.table.totals().ended;
        assert_eq!(ended.get("finished"), Some(&4), "{ended:?}");
    });
}

/// Runs harmful faults of the proxy, an upstream and clients at once.
fn run_with_harmful_faults(seed: u64) -> Scene {
    let scene = Scene::with(World::new(seed), small(512), &["sound", "faulty", "nowhere"]);
    scene.proxy.set_faults(Faults::harmful(seed));
    scene.echo("sound");
    let upstream = scene.echo("faulty");
    upstream.set_faults(Faults::harmful(seed ^ 0xfa17));
    let healthy = scene.world.host("healthy");
    let loads: Vec<_> = (0..3).map(|_| load(&healthy, patient(3))).collect();
    let faulty = scene.world.host("faulty client");
    faulty.set_faults(Faults::harmful(seed ^ 0xbad));
    for i in 0..5 {
        peer(&faulty, misbehaving(seed * 100 + i));
        load(&faulty, patient(1));
    }
    scene.run_for(seconds(15));

    // Liveness: when the faults are over, a new client is served within 10 s.
    for host in [&scene.proxy, &upstream, &faulty] {
        host.set_faults(Faults::NONE);
    }
    let late = load(&healthy, patient(3));
    scene.run_for(seconds(10));
    let ended = late.take().expect("a healthy client is served within 10 s");
    assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 3 * ROUND }));

    // All connections end, at their deadlines at the latest.
    scene.run_for(seconds(3600));
    for loading in loads {
        let ended = loading.take().expect("a load ends");
        let is_corrupted = matches!(
            ended,
            Ended::Reason(LoadReason::Mismatch { .. } | LoadReason::Surplus { .. })
        );
        assert!(!is_corrupted, "{ended:?}");
    }
    assert_eq!(scene.table.totals().open, 0);
    scene.end();
    scene
}

#[test]
fn under_harmful_faults_no_byte_is_wrong_and_healthy_clients_are_served() {
    for_each_seed(40, |seed| {
        let scene = run_with_harmful_faults(seed);
        // Each connection that finished has sent and received a FIN on both of its sides.
        let is_finished = |record: &&wirestate_testkit::sim::Record| {
            record.received_fin && record.ending == Some(Ending::Fin) && record.error.is_none()
        };
        let (clients, dialled) = (scene.clients(), scene.dialled());
        let finished = usize::try_from(scene.ended("finished")).unwrap();
        assert!(clients.iter().filter(is_finished).count() >= finished);
        assert!(dialled.iter().filter(is_finished).count() >= finished);
        // The bytes to an upstream are a prefix of what some client has sent, and vice versa.
        for upstream in &dialled {
            assert!(
                clients.iter().any(|client| {
                    client.received.starts_with(&upstream.sent)
                        && upstream.received.starts_with(&client.sent)
                }),
                "seed {seed}: no client has sent these bytes"
            );
        }
        for client in clients.iter().filter(|client| client.ending == Some(Ending::Fin)) {
            assert!(
                client.sent.is_empty()
                    || dialled.iter().any(|upstream| {
                        upstream.received_fin && upstream.received == client.sent
                    }),
                "seed {seed}: the client got a FIN, but no upstream has sent one"
            );
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for_each_seed(3, |seed| {
        assert_eq!(
            run_with_harmful_faults(seed).world.trace().hash(),
            run_with_harmful_faults(seed).world.trace().hash()
        );
    });
}

#[test]
fn a_faulty_client_does_not_affect_the_others() {
    let run = |seed: u64, faulty: bool| -> Vec<Entry> {
        let scene = Scene::with(World::new(seed), small(512), &["upstream"]);
        scene.proxy.set_faults(Faults::harmless(seed));
        scene.echo("upstream");
        let healthy = scene.world.host("healthy");
        let loads: Vec<_> = (0..3).map(|_| load(&healthy, patient(40))).collect();
        // All have an upstream before the faulty client comes, since faults depend on the order of
        // the proxy's connections.
        while scene.counters()[0].connects < 3 {
            scene.run_for(seconds(1) / 1000);
        }
        if faulty {
            let host = scene.world.host("faulty");
            host.set_faults(Faults::harmful(seed));
            for i in 0..8 {
                peer(&host, misbehaving(seed * 1000 + i));
            }
        }
        assert!(loads.iter().all(|loading| loading.take().is_none()), "a load has ended too early");
        for loading in &loads {
            scene.world.run_until(loading).unwrap();
        }
        scene.world.trace().of("healthy").cloned().collect()
    };
    for_each_seed(6, |seed| assert_eq!(run(seed, true), run(seed, false)));
}
