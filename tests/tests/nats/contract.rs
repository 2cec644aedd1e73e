//! Under any script the client keeps the contract, and its output does not depend on the reads.

use std::num::NonZeroUsize;

use proptest::prelude::*;
use wirestate_core::{
    Instant, Machine,
    nats::{Client, Config, Incoming, Publish},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{self, Op, Player},
};

use crate::{INFO, echo::Echo};

fn config() -> Config {
    let count = |count| NonZeroUsize::new(count).unwrap();
    Config::default()
        .with_buffer(count(4096))
        .with_max_info(count(600))
        .with_max_control_line(count(200))
        .with_max_message(count(20_000))
        .with_max_pending(count(1000))
        .with_max_requests(count(4))
}

/// [`Config::max_pending`], one message, CONNECT, and PONGs.
const MAX_QUEUED: usize = 1000 + 400 + 400 + 128 * 6;

/// An operation of a server, most often a valid one.
fn operation(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (longest / 2..longest).prop_map(|n| vec![b'x'; n]),
    ];
    let subject = prop_oneof![
        4 => "[a-c.]{1,9}",
        2 => (0..4_u8).prop_map(|n| format!("_INBOX.S.7.{n}")),
    ];
    let message = (subject, 1..4_u64, "( r)?", payload, any::<bool>()).prop_map(
        |(subject, id, reply, payload, has_headers)| {
            let mut bytes = if has_headers {
                let headers = "NATS/1.0 503\r\nA: b\r\n\r\n";
                let (length, total) = (headers.len(), headers.len() + payload.len());
                format!("HMSG {subject} {id}{reply} {length} {total}\r\n{headers}")
            } else {
                format!("MSG {subject} {id}{reply} {}\r\n", payload.len())
            }
            .into_bytes();
            bytes.extend(payload);
            bytes.extend(b"\r\n");
            bytes
        },
    );
    let other = prop_oneof![
        Just("PING\r\n"),
        Just("PONG\r\n"),
        Just("+OK\r\n"),
        Just("INFO {\"ldm\":true}\r\n"),
        Just("INFO {\"connect_urls\":[\"a:1\"]}\r\n"),
        Just("-ERR 'Permissions Violation for Publish to \"a\"'\r\n"),
    ];
    let last = prop_oneof![
        Just("-ERR 'Authorization Violation'\r\n"),
        Just("MSG a 1 20001\r\n"),
        Just("MSG a 1 1\r\nabc\r\n"),
        Just("GET / HTTP/1.1\r\n"),
        Just("INFO {]\r\n"),
    ];
    prop_oneof![
        40 => message,
        20 => other.prop_map(|text| text.as_bytes().to_vec()),
        1 => last.prop_map(|text| text.as_bytes().to_vec()),
    ]
}

/// Ops of a connection that is accepted in most cases.
fn ops(max: usize) -> impl Strategy<Value = Vec<Op>> {
    let input = prop_oneof![
        12 => operation(12_000),
        1 => script::truncated(operation(12_000)),
        1 => script::garbage(),
    ];
    (script::ops_of(input, max), 0..10_u8).prop_map(|(mut ops, choice)| {
        let begin = match choice {
            0 => String::new(),
            1 => INFO.to_owned(),
            _ => format!("{INFO}PONG\r\n"),
        };
        ops.insert(0, Op::Receive(begin.into_bytes()));
        for op in &mut ops {
            if let Op::Accept(n) = op {
                *n = n.saturating_mul(16);
            }
        }
        ops
    })
}

#[test]
fn a_client_whose_owner_takes_everything_keeps_the_contract() {
    for_each_case(128, ops(60), |ops| {
        let echo = Echo::new(config(), Instant::EPOCH);
        let mut machine = Checked::new(echo, MAX_QUEUED).with_deadlines();
        let transcript = script::play_out(&mut machine, &ops);
        assert_eq!(transcript.done, transcript.reason.is_some());
        check_output(&transcript.output);
    });
}

/// The owner takes, sends and withdraws at any time, or does nothing.
#[test]
fn a_client_that_is_used_in_any_way_keeps_the_contract() {
    for_each_case(
        128,
        (ops(60), prop::collection::vec((0..12_u8, 0..120_usize), 60)),
        |(ops, actions)| {
            let client = Client::new(config(), Instant::EPOCH).unwrap();
            let mut machine = Checked::new(client, MAX_QUEUED);
            let mut player = Player::new(&mut machine);
            let mut actions = actions.into_iter();
            let (mut requests, mut subscriptions) = (Vec::new(), Vec::new());
            for op in &ops {
                player.play(op);
                let now = player.now();
                let Some((action, size)) = actions.next() else { break };
                let client = player.machine().machine_mut();
                let payload = vec![b'p'; size];
                match action {
                    0..4 => drop(client.take_incoming(now)),
                    4 => while client.take_incoming(now).is_some() {},
                    5 => drop(client.publish(&Publish::new("a.b", payload), now)),
                    6 => requests.extend(client.request(&Publish::new("a.b", payload), now)),
                    7 => subscriptions.extend(client.subscribe("a.*", Some("g"), now)),
                    8 => drop(client.flush(now)),
                    9 => {
                        if let Some(request) = requests.pop() {
                            client.cancel(request);
                        }
                    }
                    10 => {
                        if let Some(id) = subscriptions.pop() {
                            drop(client.unsubscribe(id, now));
                        }
                    }
                    _ => {
                        if let Some(id) = subscriptions.last() {
                            drop(client.unsubscribe_after(*id, size as u64 % 4, now));
                        }
                    }
                }
                assert!(player.machine().status().lag <= 4);
            }
            let transcript = player.transcript();
            check_output(&transcript.output);
        },
    );
}

// Byte by byte it takes long.

#[test]
fn the_output_and_what_is_taken_do_not_depend_on_the_reads() {
    for_each_case(
        24,
        (
            prop::collection::vec(operation(60), 0..6),
            prop_oneof![Just(Vec::new()), script::truncated(operation(60))],
            script::cuts(1000),
        ),
        |(operations, end, cut)| {
            let mut input = format!("{INFO}PONG\r\n").into_bytes();
            input.extend(operations.concat());
            input.extend(end);
            let play = |pieces: &mut dyn Iterator<Item = &[u8]>| {
                let mut machine = Checked::new(Echo::new(config(), Instant::EPOCH), MAX_QUEUED);
                let mut ops = Vec::new();
                for piece in pieces {
                    ops.extend([Op::Receive(piece.to_vec()), Op::Accept(usize::MAX)]);
                }
                ops.push(Op::Eof);
                let transcript = script::play_out(&mut machine, &ops);
                let output = transcript.output.escape_ascii().to_string();
                (output, (transcript.reason, machine.into_inner().taken))
            };
            let whole = play(&mut std::iter::once(&*input));
            let cut = play(&mut script::pieces(&input, &cut));
            let bytes = play(&mut input.chunks(1));
            assert_eq!(&cut.1, &whole.1);
            assert_eq!(&bytes.1, &whole.1);
            // A reset discards output that is pending.
            assert!(bytes.0.starts_with(&cut.0) && cut.0.starts_with(&whole.0));
        },
    );
}

/// The output is a sequence of operations, the first of which is CONNECT.
fn check_output(mut output: &[u8]) {
    let mut is_first = true;
    while let Some(end) = output.windows(2).position(|pair| pair == b"\r\n") {
        let line = str::from_utf8(&output[..end]).unwrap();
        let name = line.split(' ').next().unwrap();
        assert_eq!(name == "CONNECT", is_first, "{line}");
        assert!(
            ["CONNECT", "PING", "PONG", "SUB", "UNSUB", "PUB", "HPUB"].contains(&name),
            "{}",
            line
        );
        is_first = false;
        output = &output[end + 2..];
        if name.ends_with("PUB") {
            let length: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
            if output.len() < length + 2 {
                return; // the connection has ended inside a message
            }
            assert_eq!(&output[length..length + 2], b"\r\n");
            output = &output[length + 2..];
        }
    }
}

#[test]
fn a_greeting_keeps_the_contract_and_reads_nothing_behind_info() {
    use wirestate_core::nats::Greeting;
    for_each_case(128, ops(20), |ops| {
        let greeting = Greeting::new(config(), Instant::EPOCH).unwrap();
        let mut machine = Checked::new(greeting, 1).with_deadlines();
        let transcript = script::play_out(&mut machine, &ops);
        assert!(transcript.output.is_empty());
    });
    let mut greeting = Greeting::new(Config::default(), Instant::EPOCH).unwrap();
    let ops = [Op::Receive(INFO.into()), Op::Receive(b"-ERR 'x'\r\n".to_vec())];
    let transcript = script::play(&mut greeting, &ops);
    assert_eq!(transcript.input, INFO.as_bytes());
    assert_eq!(greeting.info().unwrap().server_id, "S");
    let transcript = script::play_out(&mut greeting, &[Op::Timeout]);
    assert_eq!(transcript.label, Some("greeted"), "nothing has taken the connection");

    // An error that does not end the connection has nobody who takes it.
    let mut greeting = Greeting::new(Config::default(), Instant::EPOCH).unwrap();
    let ops = [Op::Receive(b"-ERR 'something new'\r\n".to_vec()), Op::Timeout];
    assert_eq!(script::play_out(&mut greeting, &ops).label, Some("info_timeout"));

    let mut greeting = Greeting::new(Config::default(), Instant::EPOCH).unwrap();
    let input = format!("{INFO}PONG\r\n");
    let transcript = script::play_out(&mut greeting, &[Op::Receive(input.into())]);
    let reason = "6 bytes in plain text before the TLS handshake";
    assert_eq!(transcript.reason.as_deref(), Some(reason));
}

/// One message at a time is parsed: the next ones stay in the buffer, and nothing more is read.
#[test]
fn a_client_reads_nothing_while_something_waits_to_be_taken() {
    let now = Instant::EPOCH;
    let mut client = Client::new(Config::default(), now).unwrap();
    let receive = |client: &mut Client, text: &str| {
        wirestate_core::drive::deliver(client, &mut text.as_bytes(), now);
    };
    receive(&mut client, INFO);
    receive(&mut client, "PONG\r\n");
    assert!(!client.interest().read);
    assert!(matches!(client.take_incoming(now), Some(Incoming::Connected)));
    let id = client.subscribe("a", None, now).unwrap().id();
    receive(&mut client, &format!("MSG a {id} 1\r\n0\r\nMSG a {id} 1\r\n1\r\nPING\r\n"));
    for number in [b"0", b"1"] {
        assert!(!client.interest().read);
        let Some(Incoming::Message(message)) = client.take_incoming(now) else { panic!() };
        assert_eq!(message.payload(), number);
    }
    assert!(client.take_incoming(now).is_none());
    assert!(client.interest().read);
    assert!(script::collect(&mut client, now).ends_with(b"SUB a 1\r\nPONG\r\n"));
}
