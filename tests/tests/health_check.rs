//! The machine of a health check: it keeps the contract, and its result does not depend on how the
//! answer is cut.

use std::time::Duration;

use proptest::prelude::*;
use wirestate_core::{
    ConnectionError, Direction, Instant,
    dial::{Check, CheckReason},
};
use wirestate_testkit::{
    contract::Checked,
    coverage::Coverage,
    for_each_case,
    script::{self, CONNECTION_ERRORS, Op, Transcript, ops_of, play_out},
};

const TIMEOUT: Duration = Duration::from_secs(2);

fn check(send: &'static str, expect: &'static str) -> Checked<Check> {
    let send = send.as_bytes();
    let (now, expect) = (Instant::EPOCH, expect.as_bytes());
    Checked::new(Check::new(send, expect, now, now + TIMEOUT), send.len())
}

fn play(send: &'static str, expect: &'static str, ops: &[Op]) -> Transcript {
    // A FIN and the end of the lingering close, or a reset.
    let end = [Op::Finished, Op::Timeout, Op::Finished, Op::Timeout];
    play_out(&mut check(send, expect), &[ops, &end].concat())
}

fn receive(bytes: &str) -> Op {
    Op::Receive(bytes.into())
}

/// The label of the reason, and whether everything was sent.
#[test]
fn a_check_passes_if_the_answer_begins_as_expected_and_everything_is_sent() {
    let coverage = Coverage::start();
    let fails = |direction| Op::Error(direction, ConnectionError::Reset);
    for (send, expect, ops, label) in [
        ("", "", vec![], "passed"),
        ("PING", "", vec![Op::Accept(4)], "passed"),
        ("PING", "+PONG", vec![Op::Accept(4), receive("+PONG\r\n")], "passed"),
        ("PING", "+PONG", vec![receive("+PONG"), Op::Accept(3), Op::Accept(1)], "passed"),
        ("PING", "+PONG", vec![receive("+PING")], "unexpected"),
        ("", "220 ", vec![receive("22"), receive("1 ")], "unexpected"),
        ("", "220 ", vec![receive("220"), Op::Eof], "closed"),
        ("", "220 ", vec![receive("220"), Op::Timeout], "timeout"),
        ("PING", "", vec![Op::Accept(1), Op::Timeout], "timeout"),
        ("PING", "+PONG", vec![fails(Direction::Write)], "reset"),
        ("PING", "+PONG", vec![fails(Direction::Read)], "reset"),
        ("", "220 ", vec![Op::ShutDown], "shut_down"),
    ] {
        let transcript = play(send, expect, &ops);
        assert_eq!(transcript.label, Some(label), "{send:?} {expect:?} {ops:?}");
    }
    for error in CONNECTION_ERRORS {
        let transcript = play("", "220 ", &[Op::Error(Direction::Read, error)]);
        assert_eq!(transcript.label, Some(error.label()));
    }
    coverage.demand_reasons::<CheckReason>();
}

#[test]
fn the_result_does_not_depend_on_the_cut() {
    for input in ["+PONG\r\n", "+POXX", "-LOADING", "+PO"] {
        script::split_invariant_exhaustive(|| check("", "+PONG"), input.as_bytes());
    }
    let unexpected = play("", "+PONG", &[receive("+POXX")]);
    let expected = CheckReason::Unexpected { received: "+POX".into(), expected: "+PONG".into() };
    assert_eq!(unexpected.reason, Some(expected.to_string()));
}

#[test]
fn any_events_end_the_check_by_its_deadline() {
    for_each_case(
        256,
        ops_of(prop_oneof![Just("+PONG"), Just("+"), Just("PO"), Just("x")], 30),
        |ops| {
            for (send, expect) in [("", ""), ("PING\r\n", ""), ("", "+PONG"), ("PING\r\n", "+PONG")]
            {
                let ops = [&ops[..], &[Op::Timeout]].concat();
                let transcript = play(send, expect, &ops);
                assert!(transcript.done && transcript.label.is_some(), "{transcript:?}");
                assert!(send.as_bytes().starts_with(&transcript.output));
            }
        },
    );
}
