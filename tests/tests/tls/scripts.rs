//! Any list of operations: the contract holds, and garbage never panics.

use proptest::prelude::*;
use wirestate_core::{Instant, Machine as _, Outbound, echo};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{self, Op, Player},
};

use crate::{
    pair::Pair,
    records::{client, server},
    talker::Talker,
};

/// Operations, in which some input begins like a record.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let headers = prop::collection::vec((20..25_u8, 0..4_u8, any::<u8>()), 40);
    (script::ops(40), headers).prop_map(|(mut ops, headers)| {
        let received = ops.iter_mut().filter_map(|op| match op {
            Op::Receive(bytes) => Some(bytes),
            Op::Eof
            | Op::Error(..)
            | Op::Accept(_)
            | Op::Buffer(_)
            | Op::Unacknowledged(_)
            | Op::Finished
            | Op::Advance(_)
            | Op::Timeout
            | Op::SpuriousTimeout
            | Op::Release
            | Op::ShutDown => None,
        });
        for (bytes, (kind, version, len)) in received.zip(headers) {
            if len % 3 > 0 {
                bytes.splice(0..0, [kind, 3, version, 0, len]);
            }
        }
        ops
    })
}

const LIMIT: usize = 256 * 1024;

#[test]
fn a_server_keeps_the_contract_under_any_ops() {
    for_each_case(256, ops(), |ops| {
        let echo = echo::Server::default().machine(Instant::EPOCH);
        let machine = server().machine(echo, Instant::EPOCH);
        let transcript = script::play_out(&mut Checked::new(machine, LIMIT).with_deadlines(), &ops);
        assert_eq!(transcript.done, transcript.reason.is_some());
    });
}

#[test]
fn a_client_keeps_the_contract_under_any_ops() {
    for_each_case(256, ops(), |ops| {
        let echo = echo::Server::default().machine(Instant::EPOCH);
        let machine = client().machine(echo, Instant::EPOCH);
        let transcript = script::play_out(&mut Checked::new(machine, LIMIT).with_deadlines(), &ops);
        assert_eq!(transcript.done, transcript.reason.is_some());
    });
}

#[test]
fn an_open_connection_keeps_the_contract_under_any_ops() {
    for_each_case(256, (ops(), prop::collection::vec(any::<u8>(), 0..100)), |(ops, hello)| {
        let echo = echo::Server::default().machine(Instant::EPOCH);
        let a = Checked::new(client().machine(Talker::default(), Instant::EPOCH), LIMIT);
        let b = server().machine(echo, Instant::EPOCH);
        let mut pair = Pair::new(a, Checked::new(b, LIMIT).with_deadlines(), 100_000, 1);
        pair.settle();
        assert!(!pair.b.machine().is_handshaking());
        pair.a.machine_mut().inner_mut().output.clone_from(&hello);
        pair.settle_a();
        let mut player = Player::new(&mut pair.b);
        player.play(&Op::Receive(pair.pipes[0].bytes.drain(..).collect()));
        for op in &ops {
            player.play(op);
        }
        player.play_out();
        let transcript = player.transcript();
        assert_eq!(transcript.done, transcript.reason.is_some());
    });
}

/// There is no alert for a handshake message that fills the buffer, so the connection does not
/// linger.
#[test]
fn a_handshake_message_that_fills_the_buffer_ends_the_connection() {
    let echo = echo::Server::default().machine(Instant::EPOCH);
    let mut machine = Checked::new(server().machine(echo, Instant::EPOCH), LIMIT).with_deadlines();
    let mut player = Player::new(&mut machine);
    player.play(&Op::Accept(usize::MAX));
    // A hello of 65,000 bytes, in records of 100.
    let mut message = vec![1, 0, 0xfd, 0xe8];
    message.resize(65_000, 7);
    let parts = message.chunks(100).map(|part| [&[22, 3, 1, 0, 100], part].concat());
    for received in parts.collect::<Vec<_>>().concat().chunks(10_000) {
        player.play(&Op::Receive(received.to_vec()));
    }
    assert_eq!(player.machine().interest().write, Outbound::Finish);
    player.play(&Op::Finished);
    let transcript = player.transcript();
    assert_eq!(transcript.label, Some("tls_handshake_too_long"));
}
