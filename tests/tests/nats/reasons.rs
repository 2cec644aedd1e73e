//! Every reason for which a client's connection can end.

use wirestate_core::{
    Direction, Instant, Machine,
    nats::{Client, ClientReason, Config, Credentials, Greeting, Signer},
};
use wirestate_testkit::{
    contract::Checked,
    coverage::Coverage,
    script::{self, CONNECTION_ERRORS, Op},
};

use crate::{INFO, echo::Echo};

const NOW: Instant = Instant::EPOCH;

fn play<M: Machine>(machine: M, ops: &[Op]) -> &'static str {
    script::play_to_end(&mut Checked::new(machine, 1 << 20), ops).label.unwrap()
}

fn end(ops: &[Op]) -> &'static str {
    play(Echo::new(Config::default(), NOW), ops)
}

fn receive(text: &str) -> Op {
    Op::Receive(text.into())
}

#[test]
fn every_reason_is_reached() {
    let coverage = Coverage::start();
    let (accept, info) = (Op::Accept(usize::MAX), receive(INFO));
    let connected = [info.clone(), accept.clone(), receive("PONG\r\n"), accept.clone()];
    let after = |ops: &[Op]| end(&[&connected, ops].concat());
    for (text, label) in [
        ("HTTP/1.1 400 Bad Request\r\n", "not_nats"),
        ("PING\r\n", "not_nats"),
        ("INFO {]\r\n", "malformed_info"),
        ("INFO {\"tls_required\":true}\r\n", "tls_required"),
    ] {
        assert_eq!(end(&[receive(text)]), label, "{text}");
    }
    for (ops, label) in [
        (vec![receive("NOPE\r\n")], "malformed"),
        (vec![receive(&format!("MSG {} 1 1\r\n", "a".repeat(5000)))], "line_too_long"),
        (vec![receive("MSG a 1 999999999\r\n")], "message_too_long"),
        (vec![receive("MSG a 1 5\r\nab"), Op::Timeout], "frame_timeout"),
        (vec![receive("MSG a 1 5\r\nab"), Op::Eof], "truncated"),
        (vec![Op::Timeout, accept.clone(), Op::Timeout], "pong_timeout"),
        (vec![Op::Eof], "closed"),
        (vec![Op::ShutDown], "shut_down"),
    ] {
        assert_eq!(after(&ops), label, "{ops:?}");
    }
    assert_eq!(end(&[Op::Timeout]), "info_timeout");
    assert_eq!(end(&[info, Op::Timeout]), "write_stalled");
    for error in CONNECTION_ERRORS {
        assert_eq!(after(&[Op::Error(Direction::Read, error)]), error.label());
    }
    for (text, label) in [
        ("Authorization Violation", "authorization"),
        ("Authentication Timeout", "authentication_timeout"),
        ("User Authentication Expired", "authentication_expired"),
        ("maximum connections exceeded", "max_connections"),
        ("Stale Connection", "stale_connection"),
        ("Slow Consumer", "slow_consumer"),
        ("Maximum Payload Violation", "max_payload"),
        ("Unknown Protocol Operation", "protocol"),
        ("Secure Connection - TLS Required", "tls_required"),
        ("Attempted To Connect To Route Port", "wrong_port"),
    ] {
        assert_eq!(after(&[receive(&format!("-ERR '{text}'\r\n"))]), label, "{text}");
    }

    let signer = Signer::new(|_| Err("no key".into()));
    let credentials = Credentials::Nkey { public_key: "U".into(), signer };
    let client = Client::new(Config::default().with_credentials(credentials), NOW).unwrap();
    assert_eq!(play(client, &[receive(INFO)]), "signing");
    let greeting = || Greeting::new(Config::default().with_encrypted(true), NOW).unwrap();
    assert_eq!(play(greeting(), &[receive(INFO), Op::Timeout]), "greeted");
    assert_eq!(play(greeting(), &[receive(&format!("{INFO}PING\r\n"))]), "input_before_tls");

    // These errors of a server do not end the connection.
    let unreachable = [
        "publish_permission",
        "subscribe_permission",
        "invalid_subject",
        "max_subscriptions",
        "server_error",
    ];
    coverage.demand_reasons_except::<ClientReason>(unreachable);
}
