//! The example machine of the contract's documentation, on a simulated network.

#![allow(unused_imports, reason = "the example is unchanged")]

use std::future::poll_fn;

use wirestate_core::runtime::{Listener as _, Runtime as _};
use wirestate_testkit::{
    for_each_seed,
    script::Ending,
    sim::{Act, Faults, Received, Record, Side, World, act},
};

include!("shout.rs");

#[test]
fn the_machine_is_the_example_of_the_page() {
    let page: String = include_str!("../../../core/src/machine.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .flat_map(|line| [line.strip_prefix(' ').unwrap_or(line), "\n"])
        .collect();
    assert!(page.contains(include_str!("shout.rs")), "shout.rs differs from the example: copy it");
}

/// A client sends `message` and a FIN to a server with these faults, and receives until the end.
fn shout_at(seed: u64, faults: Faults, message: &[u8]) -> (Received, Record) {
    let world = World::new(seed);
    let (server, client) = (world.host("server"), world.host("client"));
    server.set_faults(faults);
    let runtime = server.clone();
    let mut listener = server.listen("server:7").expect("the port is free");
    server.run(async move {
        let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.expect("a client connects");
        let buffer = [0; 64];
        let shout = Shout { buffer, start: 0, end: 0, closing: false, reason: None };
        drive::Drive::new(shout, socket, runtime.clock()).await
    });
    let (runtime, message) = (client.clone(), message.to_vec().into());
    let received = client.run(async move {
        let socket = runtime.connect("server:7").await.expect("the server listens");
        act(runtime, socket, vec![Act::Send(message), Act::Finish, Act::ReceiveAll]).await
    });
    let received = world.run_until(&received).expect("the client ends");
    world.run().expect("all ends");
    let is_served = |record: &Record| record.side == Side::Server;
    let record = world.records().into_iter().find(is_served).expect("there was a connection");
    (received, record)
}

fn message(seed: u64) -> Vec<u8> {
    let length = 1 + seed * 37 % 1500;
    (b'a'..=b'z').cycle().take(usize::try_from(length).expect("it is small")).collect()
}

/// Asserts that a client which got a FIN got the whole answer to `message`.
fn assert_complete_at_fin(received: &Received, message: &[u8]) {
    let complete = received.bytes == message.to_ascii_uppercase();
    let (length, expected) = (received.bytes.len(), message.len());
    assert!(!received.fin || complete, "a FIN after {length} of {expected} bytes");
}

#[test]
fn a_clean_end_has_all_bytes_despite_short_writes() {
    for_each_seed(300, |seed| {
        let (faults, message) =
            (Faults { short_write: 500, zero_write: 200, ..Faults::NONE }, message(seed));
        let (received, record) = shout_at(seed, faults, &message);
        assert_complete_at_fin(&received, &message);
        assert_eq!(received.fin, record.ending == Some(Ending::Fin));
    });
}

#[test]
fn a_clean_end_has_all_bytes_despite_any_fault() {
    for_each_seed(300, |seed| {
        let message = message(seed);
        let faults = Faults { accept_aborted: 0, ..Faults::harmful(seed) };
        let (received, record) = shout_at(seed, faults, &message);
        assert_complete_at_fin(&received, &message);
        assert!(record.error.is_none() || record.ending == Some(Ending::Rst), "{record:?}");
    });
}
