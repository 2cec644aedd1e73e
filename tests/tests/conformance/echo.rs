//! Scenes of an echo.

use wirestate_core::echo::Server;
use wirestate_testkit::{
    event_loop::Factory,
    sim::Act::{Finish, Receive, ReceiveAll, Reset},
};

use crate::{
    event_loops::{self, factory},
    program::{Program, binaries, ncat, socat},
    scene::{
        End::{Fin, Open},
        Scene, in_pieces, pattern, peer, send, wait,
    },
    simulated,
};

pub(crate) fn scenes() -> Vec<Scene> {
    let all: Vec<u8> = (0..=255).collect();
    let healthy = || {
        let acts =
            [send("before"), Receive(6), wait(20), send("after"), Receive(5), Finish, ReceiveAll];
        peer(acts, "beforeafter", Fin)
    };
    vec![
        Scene::of("every byte", [peer([send(all.clone()), Receive(256)], &all, Open)]),
        Scene::of("no byte, FIN", [peer([Finish, ReceiveAll], "", Fin)]),
        Scene::of("FIN after a byte", [peer([send("x"), Finish, ReceiveAll], "x", Fin)]),
        Scene::of("a byte at a time", {
            let acts = [&in_pieces(&all[..20], 1)[..], &[Receive(20), Finish, ReceiveAll]].concat();
            [peer(acts, &all[..20], Fin)]
        }),
        Scene::of("1 MiB by turns", {
            let bytes = pattern(1 << 20);
            let turns = bytes
                .chunks(1 << 16)
                .flat_map(|piece| [send(piece.to_vec()), Receive(piece.len())]);
            [peer(turns.chain([Finish, ReceiveAll]).collect::<Vec<_>>(), &bytes, Fin)]
        }),
        Scene::of("a late reader", {
            let bytes = pattern(1 << 18);
            [peer([send(bytes.clone()), Finish, wait(100), ReceiveAll], &bytes, Fin)]
        }),
        Scene::of(
            "resets beside another client",
            [
                healthy(),
                peer([send("hello"), Receive(5), Reset], "hello", Open),
                peer([Reset], "", Open),
                // Closing with unread bytes resets (RFC 2525, section 2.17).
                peer([send(pattern(10_000)), Receive(1)], pattern(1), Open),
            ],
        ),
    ]
}

pub(crate) fn programs() -> Vec<Program> {
    let mut programs = binaries("echo-server", &[]);
    programs.push(Program::simulated(simulated::echo));
    programs.extend(event_loops::programs(factories));
    programs.extend([ncat("exec cat"), socat("EXEC:cat")]);
    programs
}

fn factories() -> Vec<Factory> {
    let echo = Server::default();
    vec![factory(move |now| echo.machine(now))]
}
