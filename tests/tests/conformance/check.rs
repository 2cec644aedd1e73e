//! Plays scenes with programs, and compares the transcripts.

use std::thread;

use crate::{
    known::{self, Difference, Instead},
    program::{Plays, Program},
    scene::{Scene, Transcript},
    simulated, sockets,
};

/// Plays all scenes with each program, with all programs at the same time.
///
/// # Panics
/// If a peer receives what neither its scene nor a known difference says, or if a known difference
/// does not occur.
pub(crate) fn check(scenes: &[Scene], programs: &[Program], known: &[Difference]) {
    for difference in known {
        for name in difference.programs {
            assert!(programs.iter().any(|program| program.name == *name), "no program {name:?}");
        }
        for (name, peer, _) in difference.receives {
            let mut scenes = scenes.iter().filter(|scene| scene.name == *name);
            let has_peer = scenes.any(|scene| scene.peers().any(|(name, _)| name == *peer));
            assert!(has_peer, "no scene {name:?} with a peer {peer:?}");
        }
    }
    let failures: Vec<String> = thread::scope(|scope| {
        let play = |program| scope.spawn(move || play(scenes, program, known));
        let playing: Vec<_> = programs.iter().map(play).collect();
        playing.into_iter().flat_map(|playing| playing.join().expect("no panic")).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Plays all scenes with a program. Returns the failures.
fn play(scenes: &[Scene], program: &Program, known: &[Difference]) -> Vec<String> {
    let mut failures = Vec::new();
    let instead = |scene: &Scene, peer: &str| known::find(known, program.name, scene.name, peer);
    let mut compare = |scene: &Scene, transcripts: Vec<Transcript>| {
        for ((name, peer), received) in scene.peers().zip(&transcripts) {
            let expected = &peer.expected;
            let failure = match instead(scene, &name) {
                None if received == expected => continue,
                None => "differs from what the scene expects",
                Some(instead) if instead.is(received, expected) => continue,
                Some(_) if received == expected => {
                    "is as the scene expects; remove the known difference"
                }
                Some(_) => "differs from the known difference",
            };
            failures.push(format!(
                "{}, {:?}: what the {name} has received {failure}:\n  {}\nexpected:\n  {}",
                program.name,
                scene.name,
                received.show(&expected.bytes),
                expected.show(&received.bytes),
            ));
        }
    };
    match &program.plays {
        Plays::Simulated(start) => {
            for scene in scenes {
                (0..SEEDS).for_each(|seed| compare(scene, simulated::play(scene, *start, seed)));
            }
        }
        Plays::OnSockets(start) => {
            let listener = sockets::listen();
            let upstream = listener.local_addr().expect("it is bound").to_string();
            let Some(running) = start(&upstream) else { return Vec::new() };
            let mut listener = Some(listener);
            let is_played = |scene: &&Scene| {
                scene.peers().all(|(name, _)| instead(scene, &name) != Some(Instead::NotPlayed))
            };
            for scene in scenes.iter().filter(is_played) {
                listener = listener.filter(|_| scene.upstream.is_some());
                compare(scene, running.play(scene, listener.as_ref()));
            }
        }
    }
    failures
}

/// How many worlds each scene has.
const SEEDS: u64 = 4;
