//! Faults, on many seeds: the invariants hold, and healthy connections are served.

use std::future::poll_fn;

use wirestate_command_line::load::LoadReason;
use wirestate_core::{
    ConnectionError, Direction, Reason as _,
    drive::{Clock as _, Drive, Ended, Sink as _},
    echo::{Client, ClientConfig},
    runtime::{Listener as _, Runtime as _},
    serve::ServerHandle,
};
use wirestate_testkit::{
    for_each_seed,
    script::Ending,
    sim::{Act, Entry, Faults, Settings, Side, TraceEvent, World, digest, misbehaving},
};

use crate::{
    observed::{Input, Observed},
    scene::{Scene, graceful_ends_are_complete, load, patient, peer, seconds, small},
};

#[test]
fn every_byte_comes_back_under_faults_that_break_no_connection() {
    for_each_seed(20, |seed| {
        let settings = Settings { buffer: 1 << (4 + seed % 10), ..Settings::default() };
        let world = World::with(seed, settings);
        let scene = Scene::with(world, small(1 << (seed % 12)), ServerHandle::default());
        scene.server.set_faults(Faults::harmless(seed));
        let loads: Vec<_> = (0..4)
            .map(|i| {
                let client = scene.world.host(&format!("client {i}"));
                client.set_faults(Faults::harmless(seed * 100 + i));
                load(&client, patient(2))
            })
            .collect();
        for loading in loads {
            let ended = scene.world.run_until(&loading).unwrap();
            assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 2 * 3723 }));
        }
        graceful_ends_are_complete(&scene.world);
        scene.end();
        assert_eq!(scene.ended("finished"), 4);
    });
}

/// Runs healthy and faulty clients under all faults.
fn run_with_all_faults(seed: u64) -> Scene {
    let scene = Scene::with(World::new(seed), small(512), ServerHandle::default());
    scene.server.set_faults(Faults::harmful(seed));
    let healthy = scene.world.host("healthy");
    let loads: Vec<_> = (0..3).map(|_| load(&healthy, patient(3))).collect();
    let faulty = scene.world.host("faulty");
    faulty.set_faults(Faults::harmful(seed ^ 0xbad));
    for i in 0..5 {
        peer(&faulty, misbehaving(seed * 100 + i));
        load(&faulty, patient(1));
    }
    scene.world.run_for(seconds(10)).unwrap();
    graceful_ends_are_complete(&scene.world);

    // Liveness: once the faults have healed, a new client is served within a bound.
    scene.server.set_faults(Faults::NONE);
    faulty.set_faults(Faults::NONE);
    let late = load(&healthy, patient(3));
    scene.world.run_for(seconds(5)).unwrap();
    let ended = late.take().expect("a healthy connection ends within 5 s");
    assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 3 * 3723 }));

    // All connections end, at the latest by their deadlines, which are below half an hour.
    scene.world.run_for(seconds(1800)).unwrap();
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
fn under_all_faults_the_invariants_hold_and_healthy_connections_are_served() {
    for_each_seed(40, |seed| {
        let scene = run_with_all_faults(seed);
        // A connection has finished if the peer's FIN was read, a FIN was sent, and no call failed.
        let finished = scene.world.records().into_iter().filter(|record| {
            record.side == Side::Server
                && record.received_fin
                && record.ending == Some(Ending::Fin)
                && record.error.is_none()
                // A connection without a byte is a health check.
                && !record.received.is_empty()
        });
        assert_eq!(scene.ended("finished"), finished.count() as u64);
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for_each_seed(4, |seed| {
        assert_eq!(
            run_with_all_faults(seed).world.trace().hash(),
            run_with_all_faults(seed).world.trace().hash()
        );
    });
    assert_ne!(
        run_with_all_faults(0).world.trace().hash(),
        run_with_all_faults(1).world.trace().hash()
    );
}

/// The digest is the same in every build. It depends on the traffic of the machines, the driver and
/// the world. If the test fails, find the change of traffic, then update the digest.
#[test]
fn the_run_of_one_seed_has_a_known_digest() {
    let traffic: String = quiet_run(7).trace().entries().iter().filter_map(line).collect();
    assert_eq!(digest(traffic.as_bytes()), KNOWN_RUN);
}

/// An event of the traffic as text, which does not depend on how the testkit shows it. `None`: a
/// fault.
fn line(entry: &Entry) -> Option<String> {
    let Entry { at, place, event } = entry;
    let at = at.since_epoch();
    let event = match event {
        TraceEvent::Sent { bytes, digest, excerpt: _ } => {
            format!("Sent {{ bytes: {bytes}, digest: {digest} }}")
        }
        TraceEvent::Received { bytes, digest, excerpt: _ } => {
            format!("Received {{ bytes: {bytes}, digest: {digest} }}")
        }
        TraceEvent::Dialled
        | TraceEvent::Refused
        | TraceEvent::Connected
        | TraceEvent::Accepted
        | TraceEvent::Eof
        | TraceEvent::Finished
        | TraceEvent::Reset
        | TraceEvent::Error(_)
        | TraceEvent::Closed => format!("{event:?}"),
        TraceEvent::Fault(..) | TraceEvent::Healed(..) => return None,
    };
    Some(format!("{at:?} {place}: {event}\n"))
}

const KNOWN_RUN: u64 = 10_320_502_160_403_374_807;

fn quiet_run(seed: u64) -> World {
    let scene = Scene::with(World::new(seed), small(100), ServerHandle::default());
    let client = scene.world.host("client");
    client.set_faults(Faults::harmless(seed));
    let loading = load(&client, patient(1));
    scene.world.run_until(&loading).unwrap();
    scene.end();
    scene.world
}

#[test]
fn faulty_peers_change_nothing_for_the_others() {
    let run = |seed: u64, faulty: bool| -> Vec<Entry> {
        let scene = Scene::with(World::new(seed), small(512), ServerHandle::default());
        scene.server.set_faults(Faults::harmless(seed));
        let healthy = scene.world.host("healthy");
        let loads: Vec<_> = (0..3).map(|_| load(&healthy, patient(2))).collect();
        if faulty {
            let host = scene.world.host("faulty");
            host.set_faults(Faults::harmful(seed));
            for i in 0..8 {
                peer(&host, misbehaving(seed * 1000 + i));
            }
        }
        for loading in loads {
            scene.world.run_until(&loading).unwrap();
        }
        scene.world.trace().of("healthy").cloned().collect()
    };
    for_each_seed(10, |seed| assert_eq!(run(seed, true), run(seed, false)));
}

#[test]
fn a_write_that_accepts_nothing_ends_the_connection() {
    let scene = Scene::new(13);
    let client = scene.world.host("client");
    scene.server.set_faults(Faults { zero_write: 1000, ..Faults::NONE });
    let received = peer(&client, vec![Act::Send("hi".into()), Act::ReceiveAll]);
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!(received.error, Some(ConnectionError::Reset), "a FIN would hide the lost bytes");
    scene.end();
    assert_eq!(scene.ended("wrote_zero"), 1);
}

/// Linux reports a reset once. If the write gets it, the next read returns 0.
#[test]
fn a_reset_that_a_write_has_reported_is_no_end_of_the_input() {
    let world = World::new(14);
    let (server, client) = (world.host("server"), world.host("client"));
    let mut listener = server.listen("server:7").unwrap();
    server.run(async move {
        let accepted = poll_fn(|cx| listener.poll_accept(cx)).await;
        accepted.unwrap().0.reset();
    });
    let runtime = client.clone();
    let talking = client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        runtime.sleep(seconds(1)).await; // the reset arrives meanwhile
        let clock = runtime.clock();
        let now = clock.now();
        let mut errors = Vec::new();
        let client =
            Observed::new(Client::new(ClientConfig::default()), |event: Input<'_>| match event {
                Input::Read(_) | Input::Eof => panic!("{event:?}"),
                Input::Error(direction, error) => errors.push((direction, error)),
            });
        let mut is_sent = false;
        let ended = Drive::new(client, socket, clock)
            .until(|client, _| {
                is_sent = is_sent || client.machine_mut().send("anybody there?".into(), now);
                client.machine_mut().take_reply()
            })
            .await;
        (ended.unwrap_err().label(), errors)
    });
    let (label, errors) = world.run_until(&talking).unwrap();
    assert_eq!(
        (label, &*errors),
        (
            "reset",
            &[
                (Direction::Write, ConnectionError::Reset),
                (Direction::Read, ConnectionError::Reset)
            ][..]
        )
    );
}
