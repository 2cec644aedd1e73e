//! Frames, their limits and their deadlines.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use proptest::{collection::vec, sample::select};
use wirestate_core::{Event, Fault, Instant, Machine, Outbound, Reason, drive};
use wirestate_testkit::{
    for_each_case,
    script::{self, Ending, Op, Player},
};

use crate::{Orders, machine, small};

fn receive(text: &str) -> Op {
    Op::Receive(text.into())
}

fn played(ops: &[Op]) -> (String, Option<&'static str>, Option<Ending>) {
    let transcript = script::play_out(&mut machine(small(), Orders::default()), ops);
    let output = String::from_utf8(transcript.output).unwrap();
    (output, transcript.label, transcript.ending)
}

#[test]
fn requests_are_answered_in_order_and_the_peers_fin_ends_the_connection_after_the_replies() {
    let ops = [receive("say a\nsay b\nraw 3\nxyzsay c\n"), Op::Eof];
    assert_eq!(played(&ops), ("a\nb\n3\nc\n".to_owned(), Some("finished"), Some(Ending::Fin)));
}

#[test]
fn the_output_does_not_depend_on_the_cut() {
    for input in ["say hello\nraw 5\nabcdesay you\n", "say a\nnonsense\nsay b\n", "say a\nsay"] {
        script::split_invariant(|| machine(small(), Orders::default()), input.as_bytes());
    }
}

/// Input, output, and the label of the reason.
const ENDS: [(&str, &str, &str); 8] = [
    ("say a\nbye\nsay b\n", "a\nbye\n", "finished"),
    ("say a\nnonsense\nsay b\n", "a\nerror: an unknown order\n", "malformed"),
    ("raw x\n", "error: not a number\n", "malformed"),
    ("say a", "error: the input ended after 5 bytes of a frame\n", "truncated"),
    ("raw 9\nabc", "error: the input ended after 9 of a frame's 15 bytes\n", "truncated"),
    ("raw 90\n", "error: the input ended after 7 of a frame's 97 bytes\n", "truncated"),
    (
        "raw 999\n",
        "error: a frame of 1007 bytes or more, above the limit of 100\n",
        "frame_too_long",
    ),
    (
        "say 01234567890123456789012345678901234567890123456789012345678901234567890123456789\
         0123456789abcdefghi\n",
        "error: a frame of 101 bytes or more, above the limit of 100\n",
        "frame_too_long",
    ),
];

#[test]
fn bad_input_is_answered_by_one_error_reply_for_every_cut() {
    for (input, output, label) in ENDS {
        for cut in [script::whole(input.len()), script::byte_by_byte(input.len())] {
            let pieces = script::pieces(input.as_bytes(), &cut);
            let mut ops: Vec<Op> = pieces.map(|piece| Op::Receive(piece.to_vec())).collect();
            ops.push(Op::Eof);
            let ended = played(&ops);
            assert_eq!(ended, (output.to_owned(), Some(label), Some(Ending::Fin)), "{input}");
        }
    }
}

/// What the reason says depends on the input alone, also if the end of the input was noticed before
/// the frame was looked at.
#[test]
fn a_bad_frame_behind_one_that_waits_ends_as_any_other() {
    let long = "x".repeat(101);
    let config = small().with_buffer(1000.try_into().unwrap());
    let ended = |ops: &[Op]| {
        let mut machine = machine(config.clone(), Orders::default());
        let transcript = script::play_out(&mut machine, ops);
        (String::from_utf8(transcript.output).unwrap(), transcript.label)
    };
    for input in ["raw 9\nabc", "raw 999\n", &long, "sa", ""] {
        let (output, label) = ended(&[receive(input), Op::Eof]);
        let waited = format!("wait 100\n{input}");
        let waited = ended(&[receive(&waited), Op::Eof, Op::Timeout]);
        assert_eq!(waited, (format!("waited\n{output}"), label), "{input}");
    }
}

#[test]
fn a_frame_above_the_limit_ends_the_connection_even_if_the_buffer_holds_all_of_it() {
    let config = small().with_max_frame(20.try_into().unwrap());
    let config = config.with_buffer(1000.try_into().unwrap());
    let input = format!("raw 30\n{}", "x".repeat(40));
    for cut in [script::whole(input.len()), script::byte_by_byte(input.len())] {
        let pieces = script::pieces(input.as_bytes(), &cut);
        let ops: Vec<Op> = pieces.map(|piece| Op::Receive(piece.to_vec())).collect();
        let mut machine = machine(config.clone(), Orders::default());
        let transcript = script::play_out(&mut machine, &ops);
        let error = "error: a frame of 37 bytes or more, above the limit of 20\n";
        assert_eq!(str::from_utf8(&transcript.output), Ok(error));
    }
}

#[test]
fn the_longest_frame_is_answered() {
    let line = format!("say {}\n", "x".repeat(95));
    assert_eq!(line.len(), 100);
    assert_eq!(played(&[receive(&line), Op::Eof]).0, line[4..]);
}

#[test]
fn a_reason_names_the_fault_and_a_deadline_comes_to_the_millisecond() {
    let seconds = Duration::from_secs;
    for (input, at, label, fault) in [
        ("say a\n", seconds(60), "idle_timeout", Fault::Time),
        ("say", seconds(5), "header_timeout", Fault::Time),
        ("raw 50\n", seconds(30), "content_timeout", Fault::Time),
    ] {
        let mut machine = machine(small(), Orders::default());
        let mut player = Player::new(&mut machine);
        player.play(&receive(input));
        player.play(&Op::Accept(usize::MAX));
        player.play(&Op::Timeout);
        assert_eq!(player.now(), Instant::EPOCH + at, "{input}");
        for op in [Op::Accept(usize::MAX), Op::Finished, Op::Eof] {
            player.play(&op);
        }
        let transcript = player.transcript();
        assert_eq!(transcript.label, Some(label), "{input}");
        assert_eq!(machine.reason().map(|reason| reason.fault()), Some(fault), "{input}");
    }
}

#[test]
fn a_subscriber_is_never_idle() {
    let mut machine = machine_without_deadlines();
    drive::deliver(&mut machine, &mut &b"subscribe\n"[..], Instant::EPOCH);
    assert_eq!(machine.poll_timeout(), None);
}

fn machine_without_deadlines() -> impl Machine {
    use wirestate_core::protocol::Server;
    Server::new(small()).unwrap().machine(Orders::default(), Instant::EPOCH)
}

#[test]
fn a_frame_waits_for_its_time_and_the_frames_behind_it_wait_too() {
    let mut machine = machine(small(), Orders::default());
    let mut player = Player::new(&mut machine);
    player.play(&receive("wait 100\nsay a\n"));
    assert_eq!(player.machine().interest().write, Outbound::Idle);
    let later = Instant::EPOCH + Duration::from_millis(100);
    assert_eq!(player.machine().poll_timeout(), Some(later));
    player.play(&Op::Eof); // noticed while it waits, and the request is still answered
    player.play(&Op::Timeout);
    player.play_out();
    let transcript = player.transcript();
    assert_eq!((&*transcript.output, transcript.label), (&b"waited\na\n"[..], Some("finished")));
}

#[test]
fn a_shutdown_answers_what_is_on_its_way() {
    let mut machine = machine(small(), Orders::default());
    let mut player = Player::new(&mut machine);
    for op in [Op::ShutDown, receive("say a\n"), Op::Accept(usize::MAX), Op::Timeout] {
        player.play(&op);
    }
    player.play_out();
    player.play(&Op::Eof);
    let transcript = player.transcript();
    assert_eq!((&*transcript.output, transcript.label), (&b"a\n"[..], Some("shut_down")));
}

#[test]
fn one_call_takes_at_most_32_frames() {
    let mut machine = machine(small(), Orders::default());
    let mut input = "say\n".repeat(4); // the buffer holds four
    for _ in 0..3 {
        drive::deliver(&mut machine, &mut input.as_bytes(), Instant::EPOCH);
    }
    assert_eq!(machine.work(), 12);
    input = "say\n".repeat(100);
    let config = small().with_buffer(1000.try_into().unwrap());
    let mut machine = crate::machine(config, Orders::default());
    drive::deliver(&mut machine, &mut input.as_bytes(), Instant::EPOCH);
    assert_eq!((machine.work(), machine.interest().read), (32, false));
    assert_eq!(script::collect(&mut machine, Instant::EPOCH).len(), 100);
}

#[test]
fn one_call_takes_at_most_32_frames_and_32_news_and_counts_them_as_work() {
    let orders = Orders::default();
    let config = small().with_buffer(1000.try_into().unwrap());
    let mut machine = machine(config, orders.clone());
    drive::deliver(&mut machine, &mut "say\n".repeat(100).as_bytes(), Instant::EPOCH);
    assert_eq!(machine.work(), 32);
    (0..40).for_each(|_| orders.publish("x"));
    let mut cx = Context::from_waker(Waker::noop());
    for (work, unread) in [(96, 8), (136, 0)] {
        assert!(machine.poll_shared(Instant::EPOCH, &mut cx));
        assert_eq!((machine.work(), orders.unread_news()), (work, unread));
    }
}

#[test]
fn a_drain_ends_10_ms_after_the_last_frame_even_if_that_has_no_reply() {
    let mut machine = machine(small(), Orders::default());
    let at = |millis| Instant::EPOCH + Duration::from_millis(millis);
    machine.handle(at(0), Event::ShutDown);
    drive::deliver(&mut machine, &mut &b"subscribe\n"[..], at(9));
    assert_eq!(machine.poll_timeout(), Some(at(19)));
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    use wirestate_core::protocol::Server;
    let server = Server::new(small()).unwrap();
    let mut machine = server.machine(Orders::default(), Instant::EPOCH);
    drive::deliver(&mut machine, &mut &b"say a\nsa"[..], Instant::EPOCH);
    machine.handle(Instant::EPOCH, Event::Release);
    assert_eq!(server.pool().in_use(), 1, "a part of a frame is stored");
    drive::deliver(&mut machine, &mut &b"y b\n"[..], Instant::EPOCH);
    script::collect(&mut machine, Instant::EPOCH);
    machine.handle(Instant::EPOCH, Event::Release);
    assert_eq!(server.pool().in_use(), 0);
}

/// Any script of whole, broken and mixed orders keeps the contract.
#[test]
fn the_contract_is_kept() {
    for_each_case(
        256,
        (
            script::ops(40),
            vec(
                select(vec![
                    "say hello\n",
                    "later x\n",
                    "wait 20\n",
                    "raw 20\n01234567890123456789",
                    "big 40\n",
                    "big 5000\n",
                    "bye\n",
                    "fail\n",
                    "subscribe\n",
                    "nonsense\n",
                    "say",
                    "raw 7\n",
                ]),
                0..12,
            ),
            vec(0..8_usize, 0..20),
        ),
        |(ops, orders, answers)| {
            let shared = Orders::default();
            let mut machine = machine(small().with_max_memory(9000), shared.clone());
            let mut player = Player::new(&mut machine);
            let (mut orders, mut answers) = (orders.into_iter(), answers.into_iter());
            for mut op in ops {
                match &mut op {
                    Op::Receive(bytes) => *bytes = orders.next().unwrap_or("").into(),
                    Op::Accept(n) => *n *= 64,
                    Op::SpuriousTimeout => shared.publish("x"),
                    Op::Release => {
                        if let Some(index) =
                            answers.next().filter(|index| *index < shared.deferred())
                        {
                            shared.answer(index);
                        }
                    }
                    Op::Eof
                    | Op::Error(..)
                    | Op::Buffer(_)
                    | Op::Unacknowledged(_)
                    | Op::Finished
                    | Op::Advance(_)
                    | Op::Timeout
                    | Op::ShutDown => {}
                }
                player.play(&op);
            }
        },
    );
}
