//! Scenes of requests with a JSON header.

use wirestate_command_line::search::{self, Table};
use wirestate_core::message::{Config, DecodeError, Message, Server, service::Service};
use wirestate_testkit::{
    event_loop::Factory,
    message::{frames, golden},
    sim::Act::{Finish, Receive, ReceiveAll, Reset},
};

use crate::{
    event_loops::{self, factory},
    program::{Program, binaries},
    scene::{
        End::{Fin, Open},
        Scene, in_pieces, peer, send, wait,
    },
    simulated,
};

pub(crate) fn scenes() -> Vec<Scene> {
    let reply = result("Shaper of dreams, son of sleep.");
    let length = reply.len();
    let large = frames([&search::request("search", &"long ".repeat(20_000))]);
    let no_match = result(&format!("No match for '{}'.", "long ".repeat(20_000)));
    vec![
        Scene::of("a request", [peer([send(golden()), Receive(length)], &reply, Open)]),
        Scene::of("no byte, FIN", [peer([Finish, ReceiveAll], "", Fin)]),
        Scene::of("a request in pieces of 7 bytes", {
            let acts = [&in_pieces(&golden(), 7)[..], &[Finish, ReceiveAll]].concat();
            [peer(acts, &reply, Fin)]
        }),
        Scene::of(
            "three requests at once, FIN",
            [peer([send(golden().repeat(3)), Finish, ReceiveAll], reply.repeat(3), Fin)],
        ),
        Scene::of(
            "100 KB, to a late reader",
            [peer([send(large), Finish, wait(50), ReceiveAll], no_match, Fin)],
        ),
        Scene::of("an invalid frame after a request", {
            let acts = [send([golden(), vec![0; 2]].concat()), ReceiveAll];
            [peer(acts, [reply.clone(), error(&DecodeError::EmptyHeader)].concat(), Fin)]
        }),
        Scene::of("FIN within a frame", {
            let acts = [send(golden()[..50].to_vec()), Finish, ReceiveAll];
            let truncated = DecodeError::Truncated { received: 50, expected: 105 };
            [peer(acts, error(&truncated), Fin)]
        }),
        Scene::of(
            "a reset within a frame, beside another client",
            [
                peer([wait(20), send(golden()), Finish, ReceiveAll], &reply, Fin),
                peer([send(golden()[..50].to_vec()), wait(5), Reset], "", Open),
            ],
        ),
    ]
}

fn result(result: &str) -> Vec<u8> {
    frames([&Message::result(result)])
}

fn error(error: &DecodeError) -> Vec<u8> {
    result(&format!("Error: {error}"))
}

pub(crate) fn programs() -> Vec<Program> {
    let mut programs = binaries("app-server", &[]);
    programs.push(Program::simulated(simulated::message));
    programs.extend(event_loops::programs(factories));
    programs
}

/// The server of `app-server`.
pub(crate) fn server() -> Server<impl Service<Pending: Send> + Clone + Send + Unpin + 'static> {
    let service = search::service(Table::default());
    Server::new(Config::default(), service).expect("it is valid")
}

fn factories() -> Vec<Factory> {
    let server = server();
    vec![factory(move |now| server.machine(now))]
}
