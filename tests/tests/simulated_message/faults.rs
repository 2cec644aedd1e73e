//! All faults, on many seeds: the invariants hold, and healthy clients are served.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use wirestate_core::{
    message::{Message, service},
    serve::ServerHandle,
    shared::{Lock, Shared},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Entry, Faults, Settings, World, misbehaving},
};

use crate::scene::{
    SIZES, Scene, ask, bytes, graceful_ends_are_complete, patient_server, peer, requests, seconds,
    small,
};

#[test]
fn each_request_has_its_reply_under_all_harmless_faults() {
    for_each_seed(20, |seed| {
        let settings = Settings { buffer: 1 << (7 + seed % 8), ..Settings::default() };
        let scene =
            Scene::with(World::with(seed, settings), patient_server(small(1 << (seed % 13))));
        scene.server.set_faults(Faults::harmless(seed));
        let asking: Vec<_> = (0..4)
            .map(|i| {
                let client = scene.world.host(&format!("client {i}"));
                client.set_faults(Faults::harmless(seed * 100 + i));
                ask(&client, requests(&SIZES))
            })
            .collect();
        for asking in asking {
            let answers = scene.world.run_until(&asking).unwrap();
            assert!(answers.are_complete(), "{:?}", answers.ended);
        }
        scene.run_for(seconds(60)); // the server's ends close as well
        assert_eq!(graceful_ends_are_complete(&scene.world), 4);
        scene.end();
        assert_eq!(scene.ended("finished"), 4);
    });
}

/// A scripted peer that sends complete frames and a truncated one.
fn truncated_requests(seed: u64) -> Vec<Act> {
    let all = bytes(&requests(&SIZES[..6]));
    let cut = (usize::try_from(seed).unwrap() * 7919) % all.len();
    let part = Act::Send(Bytes::copy_from_slice(&all[..cut]));
    match seed % 5 {
        0 => vec![part, Act::Reset],
        1 => vec![part, Act::Finish, Act::ReceiveAll],
        2 => vec![part, Act::Wait(seconds(100)), Act::ReceiveAll],
        3 => vec![part, Act::Receive(100), Act::Reset],
        _ => misbehaving(seed),
    }
}

/// Runs all faults and kinds of clients at once, with one seed.
fn run_with_all_faults(seed: u64) -> Scene {
    let scene = Scene::with(World::new(seed), small(512));
    scene.server.set_faults(Faults::harmful(seed));
    let healthy = scene.world.host("healthy");
    let asking: Vec<_> = (0..3).map(|_| ask(&healthy, requests(&SIZES))).collect();
    let faulty = scene.world.host("faulty");
    faulty.set_faults(Faults::harmful(seed ^ 0xbad));
    for i in 0..5 {
        peer(&faulty, truncated_requests(seed * 100 + i));
        ask(&faulty, requests(&SIZES));
    }
    scene.run_for(seconds(10));
    graceful_ends_are_complete(&scene.world);

    // Liveness: without further faults, a new client is served within a limit.
    scene.server.set_faults(Faults::NONE);
    faulty.set_faults(Faults::NONE);
    let late = ask(&healthy, requests(&SIZES));
    scene.run_for(seconds(5));
    assert!(late.take().expect("within 5 s").are_complete());

    // All connections end, at the latest by their deadlines, which are below an hour.
    scene.run_for(seconds(3600));
    for asking in asking {
        assert!(asking.take().expect("a client ends").are_in_order());
    }
    assert_eq!(scene.table.totals().open, 0);
    scene.end();
    scene
}

#[test]
fn under_all_faults_the_invariants_hold_and_healthy_clients_are_served() {
    for_each_seed(40, |seed| drop(run_with_all_faults(seed)));
}

#[test]
fn a_seed_always_gives_the_same_run() {
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

#[test]
fn a_faulty_peer_does_not_affect_the_others() {
    let run = |seed: u64, faulty: bool| -> Vec<Entry> {
        let scene = Scene::with(World::new(seed), small(512));
        scene.server.set_faults(Faults::harmless(seed));
        let healthy = scene.world.host("healthy");
        let asking: Vec<_> = (0..3).map(|_| ask(&healthy, requests(&SIZES))).collect();
        if faulty {
            let host = scene.world.host("faulty");
            host.set_faults(Faults::harmful(seed));
            for i in 0..8 {
                peer(&host, truncated_requests(seed * 1000 + i));
            }
        }
        for asking in asking {
            assert!(scene.world.run_until(&asking).unwrap().are_complete());
        }
        scene.world.trace().of("healthy").cloned().collect()
    };
    for_each_seed(10, |seed| assert_eq!(run(seed, true), run(seed, false)));
}

#[test]
fn a_reset_anywhere_in_a_frame_is_reported_and_no_partial_request_is_answered() {
    let all = bytes(&requests(&[10, 10]));
    let one = bytes(&requests(&[10])).len();
    for cut in (0..all.len()).step_by(5) {
        let scene = Scene::new(cut as u64);
        let client = scene.world.host("client");
        let send = Act::Send(Bytes::copy_from_slice(&all[..cut]));
        let answered = cut / one * one;
        // Read the replies, so that the reset has no other cause.
        let acts = vec![send, Act::Receive(answered), Act::Wait(seconds(1)), Act::Reset];
        let received = peer(&client, acts);
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!(received.bytes, all[..answered]);
        scene.run_for(seconds(1));
        let label = if cut == 0 { "health_check" } else { "reset" };
        assert_eq!(scene.ended(label), 1, "after {cut} bytes");
        scene.end();
    }
}

#[test]
fn a_fin_anywhere_in_a_frame_gets_an_error_reply_with_both_lengths() {
    let all = bytes(&requests(&[10, 10]));
    let one = bytes(&requests(&[10])).len();
    for cut in (1..all.len()).step_by(3) {
        let scene = Scene::new(cut as u64);
        let client = scene.world.host("client");
        let send = Act::Send(Bytes::copy_from_slice(&all[..cut]));
        let received = peer(&client, vec![send, Act::Finish, Act::ReceiveAll]);
        let received = scene.world.run_until(&received).unwrap();
        assert!(received.fin, "the connection is not closed");
        let (answers, error) = received.bytes.split_at(cut / one * one);
        assert_eq!(answers, &all[..answers.len()]);
        let frame_bytes = cut % one;
        let error = String::from_utf8_lossy(error);
        let expected = format!("the input ended after {frame_bytes} of a frame's ");
        assert_eq!(error.contains(&expected), frame_bytes > 0, "{cut}: {error}");
        let label = if frame_bytes > 0 { "truncated" } else { "finished" };
        assert_eq!(scene.ended(label), 1, "after {cut} bytes");
        scene.end();
    }
}

/// Input that arrived in time is served before a deadline is handled.
#[test]
fn a_process_that_was_stopped_serves_the_requests_that_had_arrived() {
    for_each_seed(10, |seed| {
        let scene = Scene::new(seed);
        let client = scene.world.host("client");
        let all = bytes(&requests(&[10, 10]));
        let half = all.len() / 2 + 20;
        let acts = vec![
            Act::Send(Bytes::copy_from_slice(&all[..half])),
            Act::Wait(seconds(3)),
            Act::Send(Bytes::copy_from_slice(&all[half..])),
            Act::Finish,
            Act::ReceiveAll,
        ];
        let received = peer(&client, acts);
        scene.run_for(seconds(2));
        scene.server.stop_for(seconds(120));
        assert_eq!(scene.world.run_until(&received).unwrap().bytes, all);
        scene.end();
        assert_eq!(scene.ended("finished"), 1);
    });
}

/// The scene's checks find services with planted bugs.
#[test]
fn planted_bugs_are_found() {
    type Answer = fn(&mut Vec<Message<'static>>, Message<'static>) -> Message<'static>;
    let bugs: [(&str, Answer, bool); 4] = [
        ("none", |_, request| request, false),
        (
            "answers with the previous request",
            |before, request| {
                before.push(request.clone());
                if before.len() > 1 { before.remove(0) } else { request }
            },
            true,
        ),
        (
            "loses a byte",
            |_, mut request| {
                let content = request.content.into_bytes();
                request.content = content.slice(1.min(content.len())..).into();
                request
            },
            true,
        ),
        (
            "answers with the longest request so far",
            |before, request| {
                before.push(request);
                before.iter().max_by_key(|request| request.content.len()).cloned().unwrap()
            },
            true,
        ),
    ];
    for (name, answer, bad) in bugs {
        let found = catch_unwind(AssertUnwindSafe(|| {
            let world = World::new(1);
            let server = world.host("server");
            let memory = Shared::new(Lock::new(Vec::new()));
            let wrong = service::function(move |request| {
                memory.with(|memory| answer(memory, request.into_owned()))
            });
            let scene = Scene::serving(world, server, small(512), wrong, ServerHandle::default());
            let clients = [scene.world.host("one"), scene.world.host("two")];
            let asking = clients.map(|client| ask(&client, requests(&SIZES)));
            for asking in asking {
                assert!(scene.world.run_until(&asking).unwrap().are_complete());
            }
        }));
        assert_eq!(found.is_err(), bad, "{name}");
    }
}
