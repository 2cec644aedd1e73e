//! Scenes of a proxy between clients and an upstream.

use wirestate_testkit::sim::Act::{Finish, Receive, ReceiveAll, Reset};

use crate::{
    program::{Program, binaries, haproxy, ncat, nginx, socat},
    scene::{
        End::{Fin, Open, Rst},
        Peer, Scene, in_pieces, pattern, peer, send, wait,
    },
    simulated,
};

pub(crate) fn scenes() -> Vec<Scene> {
    let (large, medium, small) = (pattern(1 << 20), pattern(1 << 15), pattern(20));
    let (pieces, count) = (in_pieces(&small, 1), small.len());
    vec![
        relay(
            "request and reply",
            peer([send("request"), Receive(5)], "reply", Open),
            peer([Receive(7), send("reply"), ReceiveAll], "request", Fin),
        ),
        relay(
            "the upstream sends first",
            peer([Receive(6), send("hello"), Finish, ReceiveAll], "banner", Fin),
            peer([send("banner"), ReceiveAll], "hello", Fin),
        ),
        relay(
            "a byte at a time",
            peer([&pieces[..], &[Receive(count), Finish, ReceiveAll]].concat(), &small, Fin),
            peer([&pieces[..], &[ReceiveAll]].concat(), &small, Fin),
        ),
        relay(
            "both send 32 KiB at once",
            peer([send(medium.clone()), Receive(1 << 15), Finish, ReceiveAll], &medium, Fin),
            peer([send(medium.clone()), ReceiveAll], &medium, Fin),
        ),
        relay(
            "1 MiB each way, to late readers",
            peer([send(large.clone()), Finish, wait(100), ReceiveAll], &large, Fin),
            peer([wait(50), ReceiveAll, send(large.clone())], &large, Fin),
        ),
        relay(
            "the client half-closes",
            peer([send("request"), Finish, ReceiveAll], "reply", Fin),
            peer([ReceiveAll, send("reply")], "request", Fin),
        ),
        relay(
            "a reply 0.8 s after the client's FIN",
            peer([send("request"), Finish, ReceiveAll], "reply", Fin),
            peer([ReceiveAll, wait(800), send("reply")], "request", Fin),
        ),
        relay(
            "the client's FIN at once",
            peer([Finish, ReceiveAll], "", Fin),
            peer([ReceiveAll], "", Fin),
        ),
        relay(
            "the upstream half-closes",
            peer([ReceiveAll, send("late")], "early", Fin),
            peer([send("early"), Finish, ReceiveAll], "late", Fin),
        ),
        relay("the upstream closes at once", peer([ReceiveAll], "", Fin), peer([], "", Open)),
        relay(
            "the client resets",
            peer([send("abc"), Receive(3), Reset], "def", Open),
            peer([Receive(3), send("def"), ReceiveAll], "abc", Rst),
        ),
        relay(
            "the client closes with unread bytes",
            peer([Receive(1), wait(20)], &medium[..1], Open),
            peer([send(medium.slice(..1000)), ReceiveAll], "", Rst),
        ),
        relay(
            "the upstream resets",
            peer([Receive(5), send("ok"), ReceiveAll], "bytes", Rst),
            peer([send("bytes"), Receive(2), Reset], "ok", Open),
        ),
        relay(
            "the upstream resets behind unread bytes",
            peer([wait(100), ReceiveAll], &medium, Rst),
            peer([send(medium.clone()), wait(50), Reset], "", Open),
        ),
        Scene::of("the upstream refuses", [peer([ReceiveAll], "", Fin)]),
    ]
}

fn relay(name: &'static str, client: Peer, upstream: Peer) -> Scene {
    Scene { name, clients: vec![client], upstream: Some(upstream) }
}

pub(crate) fn programs() -> Vec<Program> {
    let mut programs = binaries("proxy", &["--upstream", "{}"]);
    programs.push(Program::simulated(simulated::relay));
    programs.extend([
        nginx("nginx", ""),
        nginx("nginx with half-close", "proxy_half_close on;"),
        haproxy(),
        socat("TCP:{}"),
        ncat("exec ncat {}"),
    ]);
    programs
}
