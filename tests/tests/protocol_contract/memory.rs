//! The memory of all connections together.

use wirestate_core::{Instant, Machine, Reason, drive, protocol::Server};
use wirestate_testkit::script::{self, Op};

use crate::{Orders, machine, small};

#[test]
fn long_frames_of_all_connections_share_a_limit() {
    let config = small().with_max_memory(150);
    let server = Server::new(config).unwrap();
    let input = format!("raw 90\n{}", "x".repeat(60));
    let mut machines: Vec<_> =
        (0..3).map(|_| server.machine(Orders::default(), Instant::EPOCH)).collect();
    for machine in &mut machines {
        drive::deliver(machine, &mut input.as_bytes(), Instant::EPOCH);
        assert!(server.quota().reserved() <= 150);
    }
    let output = String::from_utf8(script::collect(&mut machines[1], Instant::EPOCH)).unwrap();
    assert!(
        output.starts_with("error: no memory for a frame or reply: cannot reserve"),
        "{output}"
    );

    // The first one is not affected, and its memory is free again afterwards.
    drive::deliver(&mut machines[0], &mut "y".repeat(30).as_bytes(), Instant::EPOCH);
    assert_eq!(script::collect(&mut machines[0], Instant::EPOCH), b"90\n");
    drop(machines);
    assert_eq!((server.quota().reserved(), server.pool().in_use()), (0, 0));
}

#[test]
fn an_allocation_for_a_long_frame_follows_the_bytes_received() {
    let config = small().with_max_frame(100_000.try_into().unwrap());
    let server = Server::new(config).unwrap();
    let mut machine = server.machine(Orders::default(), Instant::EPOCH);
    drive::deliver(&mut machine, &mut &b"raw 90000\n"[..], Instant::EPOCH);
    for sent in 1..=90 {
        drive::deliver(&mut machine, &mut &[b'x'; 1000][..], Instant::EPOCH);
        let reserved = server.quota().reserved();
        assert!(reserved <= 2 * (1000 * sent + 10), "{reserved} bytes for {sent} KB");
    }
    assert_eq!(script::collect(&mut machine, Instant::EPOCH), b"90000\n");
    machine.handle(Instant::EPOCH, wirestate_core::Event::Release);
    assert_eq!(server.quota().reserved(), 0);
}

#[test]
fn large_replies_of_all_connections_share_a_limit() {
    let server = Server::new(small().with_max_memory(10_000)).unwrap();
    let mut first = server.machine(Orders::default(), Instant::EPOCH);
    let mut second = server.machine(Orders::default(), Instant::EPOCH);
    drive::deliver(&mut first, &mut &b"big 6000\n"[..], Instant::EPOCH);
    drive::deliver(&mut second, &mut &b"say a\nbig 6000\n"[..], Instant::EPOCH);
    let output = String::from_utf8(script::collect(&mut second, Instant::EPOCH)).unwrap();
    assert!(output.starts_with("a\nerror: no memory"), "{output}");
    assert_eq!(script::collect(&mut first, Instant::EPOCH).len(), 6000);
    assert_eq!(server.quota().reserved(), 0);
    second.handle(Instant::EPOCH, wirestate_core::Event::Finished);
    second.handle(Instant::EPOCH, wirestate_core::Event::Eof);
    assert_eq!(second.reason().map(|reason| reason.label()), Some("memory"));
}

#[test]
fn a_reply_that_exceeds_the_limit_is_left_out_as_a_whole() {
    let server = Server::new(small().with_max_memory(5000)).unwrap();
    for (input, output) in [
        ("say a\nparts 4999\n", 4999 + "a\nhead\ntail\n".len()),
        ("say a\nparts 6000\n", 0),
        ("say a\ntwice 4500\n", 0),
    ] {
        let mut machine = server.machine(Orders::default(), Instant::EPOCH);
        drive::deliver(&mut machine, &mut input.as_bytes(), Instant::EPOCH);
        let sent = script::collect(&mut machine, Instant::EPOCH);
        if output > 0 {
            assert_eq!(sent.len(), output);
        } else {
            assert!(sent.starts_with(b"a\nerror: no memory"), "{}", sent.escape_ascii());
        }
    }
}

#[test]
fn an_error_reply_that_exceeds_the_limit_is_left_out() {
    let server = Server::new(small().with_max_memory(5000)).unwrap();
    let mut machine = server.machine(Orders::default(), Instant::EPOCH);
    drive::deliver(&mut machine, &mut &b"say a\nhuge\n"[..], Instant::EPOCH);
    assert_eq!(script::collect(&mut machine, Instant::EPOCH), b"a\n");
    assert_eq!(machine.interest().write, wirestate_core::Outbound::Finish);
}

#[test]
fn an_allocation_is_no_longer_than_its_frame() {
    let server = Server::new(small().with_max_frame(1000.try_into().unwrap())).unwrap();
    let mut machine = server.machine(Orders::default(), Instant::EPOCH);
    drive::deliver(&mut machine, &mut &b"raw 90\n"[..], Instant::EPOCH);
    drive::deliver(&mut machine, &mut &[b'x'; 80][..], Instant::EPOCH);
    assert_eq!(server.quota().reserved(), 97);
}

#[test]
fn the_rest_of_the_input_does_not_keep_the_memory_of_a_long_frame() {
    let server = Server::new(small().with_max_frame(100_000.try_into().unwrap())).unwrap();
    let mut machine = server.machine(Orders::default(), Instant::EPOCH);
    let line = format!("say {}\nsay", "x".repeat(40_000));
    drive::deliver(&mut machine, &mut line.as_bytes(), Instant::EPOCH);
    assert_eq!(script::collect(&mut machine, Instant::EPOCH).len(), 40_001);
    for _ in 0..5 {
        drive::deliver(&mut machine, &mut &b" b\nsay"[..], Instant::EPOCH);
        assert_eq!(server.quota().reserved(), 0);
        assert_eq!(script::collect(&mut machine, Instant::EPOCH), b"b\n");
    }
}

/// No reply is lost without a reason, also once the input has ended, or while a frame waits.
#[test]
fn an_answer_that_exceeds_the_limit_ends_the_connection_in_any_state() {
    let answer = format!("later {}\n", "x".repeat(5000));
    for then in [Op::Release, Op::Eof, Op::Receive("wait 100\nsay a\n".into()), Op::ShutDown] {
        let frame = 6000.try_into().unwrap();
        let config = small().with_buffer(frame).with_max_frame(frame).with_max_memory(4500);
        let orders = Orders::default();
        let mut machine = machine(config, orders.clone());
        let ops = [Op::Receive(answer.clone().into()), then.clone()];
        script::play(&mut machine, &ops);
        orders.answer(0);
        let transcript = script::play_out(&mut machine, &[Op::Release]);
        let output = String::from_utf8(transcript.output).unwrap();
        let error = "error: no memory for a frame or reply: cannot reserve 5001 more bytes";
        assert!(output.starts_with(error), "{then:?}: {output}");
        assert_eq!(machine.machine().status().state == "lingering", then != Op::Eof);
    }
}
