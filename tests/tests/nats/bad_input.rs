//! Servers that are none, or that break the protocol: each has its reason.

use std::time::Duration;

use wirestate_core::{
    Event, Fault, Instant, Machine, Reason as _,
    nats::{Client, Config},
};
use wirestate_testkit::{
    contract::Checked,
    script::{self, Op},
};

use crate::{INFO, echo::Echo};

fn machine(config: &Config) -> Checked<Echo> {
    Checked::new(Echo::new(config.clone(), Instant::EPOCH), 1 << 20).with_deadlines()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_bad_input_has_its_reason_however_it_is_cut() {
    let connected = format!("{INFO}PONG\r\n");
    let long_line = format!("{connected}MSG {} 1 1\r\n", "a".repeat(5000));
    let long_info = format!("INFO {{\"a\":\"{}", "x".repeat(1 << 20));
    let after = |text: &str| format!("{connected}{text}");
    for (input, label, reason) in [
        // Other protocols.
        (
            "HTTP/1.1 400 Bad Request\r\n\r\n".into(),
            "not_nats",
            "not a NATS server: it begins with \"HTTP/1.1 400 Bad\"",
        ),
        ("+PONG\r\n".into(), "not_nats", "not a NATS server: it begins with \"+PONG\""),
        ("\n".into(), "not_nats", "not a NATS server: it begins with \"\""),
        (
            "SSH-2.0-OpenSSH".into(), // less than an excerpt, and no line end
            "not_nats",
            "not a NATS server: it begins with \"SSH-2.0-OpenSSH\"",
        ),
        (
            "\u{15}\u{3}\u{3}\u{0}\u{2}\u{2}(".into(), // an alert of TLS
            "not_nats",
            "not a NATS server: it begins with \"\\x15\\x03\\x03\\x00\\x02\\x02(\"",
        ),
        // The beginning.
        (String::new(), "closed", "the server closed the connection"),
        (
            "INF".into(),
            "truncated",
            "the server closed the connection inside an operation; bytes received of it: 3",
        ),
        (long_info, "line_too_long", "a line of more than 64KiB, which is the limit"),
        (
            "INFO {]\r\n".into(),
            "malformed_info",
            "malformed INFO: key must be a string at line 1 column 2",
        ),
        (
            "INFO\r\n".into(),
            "malformed_info",
            "malformed INFO: EOF while parsing a value at line 1 column 0",
        ),
        ("INFO {}\n".into(), "malformed", "a line ends without a CR"),
        ("INFO {\"tls_required\":true}\r\n".into(), "tls_required", "the server requires TLS"),
        (
            "-ERR 'maximum connections exceeded'\r\n".into(),
            "max_connections",
            "the server reported: maximum connections exceeded",
        ),
        (
            format!("{INFO}-ERR 'Authorization Violation'\r\n"),
            "authorization",
            "the server reported: Authorization Violation",
        ),
        // Operations.
        (after("NOPE\r\n"), "malformed", "unknown operation \"NOPE\""),
        (after("PONG\r\n"), "malformed", "a PONG to no PING"),
        (long_line, "line_too_long", "a line of more than 4KiB, which is the limit"),
        (after("MSG a 1\r\n"), "malformed", "a line of a message with 2 fields"),
        (after("MSG a 1 -1\r\n"), "malformed", "not a number: \"-1\""),
        (
            after("MSG a 1 99999999999999999999\r\n"),
            "malformed",
            "not a number: \"9999999999999999\"",
        ),
        (
            after("MSG a 1 18446744073709551615\r\n"),
            "message_too_long",
            "a message of 16EiB, above the limit of 8MiB",
        ),
        (
            after("MSG a 1 8388609\r\n"),
            "message_too_long",
            "a message of 8MiB, above the limit of 8MiB",
        ),
        (
            after("HMSG a 1 9 8\r\n"),
            "malformed",
            "a message with 9 bytes of headers, but 8 bytes in all",
        ),
        (
            after("MSG a 1 3\r\nabcdef\r\n"),
            "malformed",
            "a message of 3 bytes has no line end after them",
        ),
        (
            after("MSG a 1 5\r\nabc\r\nPING\r\n"),
            "malformed",
            "a message of 5 bytes has no line end after them",
        ),
        (
            after("MSG a 1 100\r\nabc\r\n"),
            "truncated",
            "the server closed the connection inside an operation; bytes received of it: 18",
        ),
        (
            after("-ERR 'Stale Connection'\r\n"),
            "stale_connection",
            "the server reported: Stale Connection",
        ),
        (
            after("-ERR 'Permissions Violation for Publish to \"a\"'\r\n"),
            "closed",
            "the server closed the connection; it had reported: Permissions Violation for Publish \
             to \"a\"",
        ),
    ] {
        let config = Config::default();
        for size in [usize::MAX, 1000, 1] {
            if input.len() / size > 10_000 {
                continue; // it takes long
            }
            let pieces = input.as_bytes().chunks(size.min(input.len() + 1));
            let mut ops = vec![Op::Accept(usize::MAX)];
            ops.extend(pieces.map(|piece| Op::Receive(piece.to_vec())));
            ops.extend([Op::Accept(usize::MAX), Op::Eof]);
            let transcript = script::play_out(&mut machine(&config), &ops);
            let shown = &input[..input.len().min(200)];
            assert_eq!(transcript.label, Some(label), "{shown:?}");
            assert_eq!(transcript.reason.as_deref(), Some(reason), "{shown:?}");
        }
    }
}

#[test]
fn a_declared_length_allocates_nothing() {
    use wirestate_core::drive::deliver;
    let now = Instant::EPOCH;
    let mut client = Client::new(Config::default(), now).unwrap();
    deliver(&mut client, &mut format!("{INFO}PONG\r\nMSG a 1 8000000\r\n").as_bytes(), now);
    while client.take_incoming(now).is_some() {}
    assert!(client.read_buf().len() <= 64 * 1024);
    // What arrives is at least half of what is held.
    let (mut received, piece) = (0, [b'x'; 10_000]);
    while received < 1_000_000 {
        let n = client.read_buf().len().min(piece.len());
        deliver(&mut client, &mut &piece[..n], now);
        received += n;
        let held = client.read_buf().len() + received;
        assert!(held <= (2 * received + 8192).max(64 * 1024 + 8192), "{held} for {received}");
    }
}

#[test]
fn each_wait_has_its_deadline_and_its_reason() {
    let connected = format!("{INFO}PONG\r\n");
    let receive = |text: &str| Op::Receive(text.as_bytes().to_vec());
    let all = || Op::Accept(usize::MAX);
    let advance = |secs| Op::Advance(Duration::from_secs(secs));
    for (ops, label, reason, secs) in [
        (vec![], "info_timeout", "no INFO within 5s", 5),
        // One byte at a time is no INFO.
        (vec![receive("IN"), advance(4), receive("FO")], "info_timeout", "no INFO within 5s", 5),
        // A PONG is due once its PING is written.
        (vec![receive(INFO), advance(4), all()], "pong_timeout", "no PONG within 10s", 14),
        (vec![receive(&connected), all()], "pong_timeout", "no PONG within 10s", 30),
        (
            vec![receive(&connected), all(), receive("MS"), advance(3), receive("G a 1 ")],
            "frame_timeout",
            "received 8 bytes of an operation within 5s",
            5,
        ),
        (
            vec![receive(&connected), all(), receive("MSG a 1 100\r\nx")],
            "frame_timeout",
            "received 14 bytes of an operation within 30s",
            30,
        ),
    ] {
        let mut machine = machine(&Config::default());
        let mut player = script::Player::new(&mut machine);
        for op in &ops {
            player.play(op);
        }
        while !player.machine().interest().is_done() {
            player.play(&Op::Timeout);
            player.play(&Op::Finished);
            player.play(&all());
        }
        let elapsed = player.now().since(Instant::EPOCH);
        let transcript = player.transcript();
        assert_eq!(transcript.label, Some(label), "{ops:?}");
        assert_eq!(transcript.reason.as_deref(), Some(reason), "{ops:?}");
        assert_eq!(elapsed, Duration::from_secs(secs), "{ops:?}");
        assert_eq!(machine.reason().unwrap().fault(), Fault::Time);
    }
}

/// A server may read all that is published, and answer nothing.
#[test]
fn output_does_not_postpone_the_deadline_of_a_pong() {
    let mut echo = machine(&Config::default());
    let mut player = script::Player::new(&mut echo);
    player.play(&Op::Receive(format!("{INFO}PONG\r\n").into_bytes()));
    player.play(&Op::Accept(usize::MAX));
    let now = player.now();
    player.machine().machine_mut().client.flush(now).unwrap();
    for _ in 0..11 {
        let now = player.now();
        let client = &mut player.machine().machine_mut().client;
        let _ = client.publish(&wirestate_core::nats::Publish::new("a", "x"), now);
        player.play(&Op::Accept(usize::MAX));
        player.play(&Op::Advance(Duration::from_secs(1)));
        player.play(&Op::SpuriousTimeout);
    }
    assert_eq!(player.transcript().label, None);
    assert!(!echo.interest().read, "it is reset");
}

/// A server that sends data is alive, and gets no PING.
#[test]
fn a_ping_is_sent_only_when_nothing_arrives() {
    let mut echo = machine(&Config::default());
    let mut player = script::Player::new(&mut echo);
    player.play(&Op::Receive(format!("{INFO}PONG\r\n").into_bytes()));
    for _ in 0..10 {
        player.play(&Op::Accept(usize::MAX));
        player.play(&Op::Advance(Duration::from_secs(19)));
        player.play(&Op::SpuriousTimeout);
        player.play(&Op::Receive(b"+OK\r\n".to_vec()));
    }
    let pings = |output: &[u8]| output.windows(6).filter(|six| six == b"PING\r\n").count();
    assert_eq!(pings(player.output()), 1, "that of CONNECT");
    player.play(&Op::Accept(usize::MAX));
    player.play(&Op::Timeout);
    player.play(&Op::Accept(usize::MAX));
    assert_eq!(pings(player.output()), 2);
    player.play(&Op::Receive(b"PONG\r\n".to_vec()));
    player.play(&Op::Advance(Duration::from_secs(15)));
    player.play(&Op::SpuriousTimeout);
    assert!(player.machine().reason().is_none());
}

/// While the owner takes nothing, the client does not read, and no PONG can be late.
#[test]
fn no_deadline_of_the_server_passes_while_the_client_does_not_read() {
    let now = Instant::EPOCH;
    let mut client = Checked::new(Client::new(Config::default(), now).unwrap(), 1 << 20);
    let mut player = script::Player::new(&mut client);
    player.play(&Op::Receive(format!("{INFO}PONG\r\n").into_bytes()));
    player.play(&Op::Accept(usize::MAX));
    player.play(&Op::Timeout);
    player.play(&Op::Advance(Duration::from_secs(3600)));
    player.play(&Op::SpuriousTimeout);
    let now = player.now();
    let client = player.machine().machine_mut();
    assert!(client.reason().is_none() && client.poll_timeout().is_none());
    assert!(client.take_incoming(now).is_some());
    assert_eq!(client.poll_timeout(), Some(now + Duration::from_secs(20)));
}

#[test]
fn a_flood_of_pings_is_bounded_while_nothing_is_written() {
    let mut echo = machine(&Config::default());
    let mut player = script::Player::new(&mut echo);
    player.play(&Op::Receive(format!("{INFO}PONG\r\n").into_bytes()));
    player.play(&Op::Accept(usize::MAX));
    for _ in 0..100 {
        player.play(&Op::Receive(b"PING\r\n".repeat(100)));
    }
    let queued = player.machine().status().queued;
    assert!(queued <= 128 * 6, "{queued} bytes");
    assert!(!player.machine().interest().read);
    for _ in 0..1000 {
        player.play(&Op::Accept(usize::MAX));
    }
    let output = player.output();
    assert_eq!(output.windows(6).filter(|six| six == b"PONG\r\n").count(), 10_000);
}

#[test]
fn a_flood_of_short_operations_yields_to_other_connections() {
    let now = Instant::EPOCH;
    let mut client = Client::new(Config::default(), now).unwrap();
    wirestate_core::drive::deliver(&mut client, &mut INFO.as_bytes(), now);
    let flood = b"+OK\r\n".repeat(5000);
    client.read_buf()[..flood.len()].copy_from_slice(&flood);
    client.handle(now, Event::Read(flood.len()));
    client.handle(now, Event::Timeout { unacknowledged: 0 });
    assert!(!client.interest().read, "a deadline that has not passed changes nothing");
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut calls = 0;
    while client.poll_shared(now, &mut cx) {
        calls += 1;
    }
    assert!(client.interest().read && calls >= 9, "{calls}");
}
