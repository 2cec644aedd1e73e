//! Scenes of a fan-out of lines. A subscriber gets all lines, whenever it connects.

use std::num::NonZeroUsize;

use wirestate_core::fanout::{Config, Feed, Framing, Subscriber, Upstream};
use wirestate_testkit::{
    event_loop::Factory,
    sim::Act::{self, Finish, Receive, ReceiveAll, Reset},
};

use crate::{
    event_loops::{self, factory},
    program::{Program, binaries},
    scene::{
        End::{Fin, Open},
        Peer, Scene, in_pieces, peer, send, wait,
    },
    simulated,
};

pub(crate) fn scenes() -> Vec<Scene> {
    let lines = ["-".repeat(900), "\n".to_owned()].concat().repeat(90);
    let both = || peer([Receive(8)], "one\ntwo\n", Open);
    let scene = |name, clients: Vec<Peer>, acts: Vec<Act>| Scene {
        name,
        clients,
        upstream: Some(peer(acts, "", Open)),
    };
    vec![
        scene("a byte at a time", vec![both(), both()], in_pieces(b"one\ntwo\n", 1)),
        scene(
            "the upstream ends within a line",
            vec![peer([Receive(4), wait(50), Finish, ReceiveAll], "one\n", Fin)],
            vec![send("one\ntw"), Finish, wait(20)],
        ),
        scene(
            "80 KB, to a late reader",
            vec![peer([wait(100), Receive(lines.len()), Finish, ReceiveAll], &lines, Fin)],
            vec![send(lines.clone()), wait(50)],
        ),
        scene(
            "a reset and input beside another subscriber",
            vec![
                peer([Receive(8), wait(50), Finish, ReceiveAll], "one\ntwo\n", Fin),
                peer([Receive(4), Reset], "one\n", Open),
                peer([send("ignored"), Receive(8), Finish, ReceiveAll], "one\ntwo\n", Fin),
            ],
            vec![send("one\n"), wait(50), send("two\n"), wait(50)],
        ),
    ]
}

pub(crate) fn programs() -> Vec<Program> {
    let flags = &["--upstream", "{}", "--frame", "lines", "--replay", "100"];
    let mut programs = binaries("fanout-server", flags);
    programs.push(Program::simulated(simulated::fan_out));
    programs.extend(event_loops::programs(factories));
    programs
}

/// A feed as these flags configure it.
pub(crate) fn feed() -> Feed {
    let max = NonZeroUsize::new(64 * 1024).expect("it is not 0");
    let framing = Framing::Delimited { delimiter: b'\n', max };
    Feed::new(Config::default().with_framing(framing).with_replay(100)).expect("it is valid")
}

fn factories() -> Vec<Factory> {
    let feed = feed();
    let upstream = feed.clone();
    vec![
        factory(move |now| Subscriber::new(&feed, now)),
        factory(move |now| Upstream::new(&upstream, now)),
    ]
}
