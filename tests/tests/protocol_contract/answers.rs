//! Answers that are not ready at once.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use wirestate_core::{Instant, Machine, drive};
use wirestate_testkit::script::{self, Op, Player};

use crate::{Orders, machine, small};

fn output(machine: &mut impl Machine) -> String {
    let cx = &mut Context::from_waker(Waker::noop());
    while machine.poll_shared(Instant::EPOCH, cx) {}
    String::from_utf8(script::collect(machine, Instant::EPOCH)).unwrap()
}

#[test]
fn replies_keep_the_order_of_their_requests() {
    let orders = Orders::default();
    let mut machine = machine(small().with_max_in_flight(10.try_into().unwrap()), orders.clone());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(b"later a\nsay b\nlater c\nsay d\n".into()));
    assert_eq!(player.machine().status().lag, 4);
    let machine = player.machine();
    assert_eq!(output(machine), "");
    orders.answer(1);
    assert_eq!(output(machine), "");
    orders.answer(0);
    assert_eq!(output(machine), "a\nb\nc\nd\n");
    assert_eq!(machine.status().lag, 0);
}

#[test]
fn answers_in_flight_are_bounded_and_what_follows_waits_in_the_peer() {
    let orders = Orders::default();
    let mut machine = machine(small(), orders.clone());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive("later x\n".repeat(10).into()));
    assert_eq!((orders.deferred(), player.machine().interest().read), (3, false));
    let mut replies = String::new();
    for index in 0..10 {
        orders.answer(index);
        player.play(&Op::Accept(usize::MAX));
        player.play(&Op::Accept(usize::MAX));
        assert!(orders.deferred() <= index + 4, "{} of {index}", orders.deferred());
    }
    replies.push_str(str::from_utf8(player.output()).unwrap());
    assert_eq!(replies, "x\n".repeat(10));
}

#[test]
fn an_answer_that_fails_ends_the_connection_with_an_error_reply() {
    let orders = Orders::default();
    let mut machine = machine(small(), orders.clone());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(b"say a\nfail\nsay b\n".into()));
    orders.answer(0);
    player.play(&Op::Accept(usize::MAX));
    player.play_out();
    player.play(&Op::Eof);
    let transcript = player.transcript();
    assert_eq!(transcript.output, b"a\nerror: the answer failed\n");
    assert_eq!(transcript.label, Some("malformed"));
}

#[test]
fn an_answer_that_is_late_ends_the_connection_and_the_replies_before_it_are_sent() {
    let mut machine = machine(small(), Orders::default());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(b"say a\nlater b\nsay c\n".into()));
    player.play(&Op::Accept(usize::MAX));
    player.play(&Op::Timeout);
    assert_eq!(player.now(), Instant::EPOCH + Duration::from_secs(60));
    player.play_out();
    player.play(&Op::Eof);
    let transcript = player.transcript();
    let error = "a\nerror: no reply within 1m; requests not answered: 2\n";
    assert_eq!(str::from_utf8(&transcript.output), Ok(error));
    assert_eq!(transcript.label, Some("service_timeout"));
}

#[test]
fn the_peers_fin_waits_for_pending_answers() {
    let orders = Orders::default();
    let mut machine = machine(small(), orders.clone());
    drive::deliver(&mut machine, &mut &b"later a\n"[..], Instant::EPOCH);
    machine.handle(Instant::EPOCH, wirestate_core::Event::Eof);
    assert_eq!(output(&mut machine), "");
    orders.answer(0);
    let mut player = Player::new(&mut machine);
    player.play(&Op::Release);
    player.play_out();
    let transcript = player.transcript();
    assert_eq!((&*transcript.output, transcript.label), (&b"a\n"[..], Some("finished")));
}

#[test]
fn an_answer_without_output_is_activity() {
    let orders = Orders::default();
    let config = small().with_service_timeout(Duration::from_secs(200));
    let mut machine = machine(config, orders.clone());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(b"quiet\n".into()));
    player.play(&Op::Advance(Duration::from_secs(100)));
    orders.answer(0);
    player.play(&Op::SpuriousTimeout);
    player.play(&Op::Timeout);
    assert_eq!(player.now(), Instant::EPOCH + Duration::from_secs(160), "60 s after the answer");
}

#[test]
fn an_answer_that_fails_leaves_the_replies_before_it_in_their_turn() {
    for answered in [&[0, 1][..], &[1, 0]] {
        for at_once in [true, false] {
            let orders = Orders::default();
            let mut machine = machine(small(), orders.clone());
            let mut player = Player::new(&mut machine);
            player.play(&Op::Receive(b"later a\nfail\nsay b\n".into()));
            for index in answered {
                orders.answer(*index);
                if !at_once {
                    player.play(&Op::Release);
                }
            }
            player.play(&Op::Release);
            player.play_out();
            player.play(&Op::Eof);
            let transcript = player.transcript();
            let output = str::from_utf8(&transcript.output);
            assert_eq!(output, Ok("a\nerror: the answer failed\n"), "{answered:?} {at_once}");
            assert_eq!(transcript.label, Some("malformed"));
        }
    }
}
