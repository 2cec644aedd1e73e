//! A server's connection.

use std::{
    num::NonZeroUsize,
    task::{Context, Waker},
};

use proptest::prelude::*;
use wirestate_core::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine, Outbound,
    Reason as _, drive,
    message::{
        Config, Connection, DecodeError, Message, MessageReason, Server,
        service::{self, PendingRequest, RequestQueue, Service},
    },
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    message::{bad_frames, frames, golden, messages},
    script::{self, Ending, Op, Player, Transcript},
};

use crate::{
    LIMITS, itself, number, numbered, ops_with_frames,
    services::{Counting, Later},
    whole_messages,
};

fn config() -> Config {
    Config::default()
        .with_frame_limits(LIMITS)
        .with_buffer(NonZeroUsize::MIN)
        .with_max_in_flight(NonZeroUsize::new(3).unwrap())
}

/// The most pending output: 64 KiB, one message and the error reply.
const MAX_QUEUED: usize = 64 * 1024 + 1000;

fn checked<S: Service + Clone>(config: Config, service: S) -> Checked<Connection<S>> {
    Checked::new(Server::new(config, service).unwrap().machine(Instant::EPOCH), MAX_QUEUED)
}

fn echo() -> service::Function<impl FnMut(Message<'_>) -> Message<'static> + Clone> {
    service::function(itself)
}

/// Checks a connection that answers each request with the request itself: replies come in the order
/// of the requests, followed by at most one error reply.
fn assert_replies_are_requests(transcript: &Transcript) {
    let requests = well_formed(&transcript.input);
    let mut replies = whole_messages(&transcript.output);
    let answers = replies.iter().zip(&requests).take_while(|(reply, request)| reply == request);
    let answers = answers.count();
    let mut others = replies.split_off(answers);
    assert!(others.len() <= 1, "more than one error reply follows the replies: {others:?}");
    let error = others.pop();
    assert_eq!(transcript.done, transcript.reason.is_some());
    match transcript.label {
        Some("finished") => {
            assert_eq!(replies, requests, "a request has no reply");
            assert_eq!((error, transcript.ending), (None, Some(Ending::Fin)));
            let end = end_of_frames(&transcript.input, requests.len());
            assert_eq!(end, transcript.input.len(), "the input ends within a frame");
        }
        Some("shut_down" | "idle_timeout" | "answered") => {
            assert_eq!((error, transcript.ending), (None, Some(Ending::Fin)));
        }
        Some(
            "empty_header" | "header_too_long" | "bad_header" | "content_too_long" | "truncated"
            | "header_timeout" | "content_timeout" | "service_timeout",
        ) => {
            let expected = Message::error(transcript.reason.as_ref().unwrap());
            assert_eq!((error, transcript.ending), (Some(expected), Some(Ending::Fin)));
        }
        Some("write_stalled") => assert_eq!(transcript.ending, Some(Ending::Rst)),
        Some("reset" | "timed_out" | "unreachable" | "wrote_zero" | "layer" | "system_error")
        | None => {}
        Some(label) => panic!("{label}"),
    }
}

/// The valid frames at the beginning of `input`.
fn well_formed(input: &[u8]) -> Vec<Message<'static>> {
    use wirestate_core::{buffer::Pool, message::Inbox};
    let mut inbox = Inbox::new(LIMITS, Pool::new(input.len().max(202), 1)).unwrap();
    inbox.spare()[..input.len()].copy_from_slice(input);
    inbox.commit(input.len());
    let mut messages = Vec::new();
    while let Ok(Some(message)) = inbox.next_message() {
        messages.push(message.into_owned());
    }
    messages
}

/// Where the first `count` frames of `input` end, which are valid. It does not use the decoder.
fn end_of_frames(input: &[u8], count: usize) -> usize {
    (0..count).fold(0, |start, _| {
        let header = start + 2 + usize::from(u16::from_be_bytes([input[start], input[start + 1]]));
        let json: serde_json::Value = serde_json::from_slice(&input[start + 2..header]).unwrap();
        header + usize::try_from(json["content-length"].as_u64().unwrap()).unwrap()
    })
}

fn with_noise(max_len: usize) -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![5 => ops_with_frames(max_len), 1 => script::ops(max_len)]
}

/// An active peer is never timed out. The shortest timeout is that of a header.
#[test]
fn a_connection_repeats_any_requests_and_does_not_time_out() {
    let config = config().with_max_in_flight(NonZeroUsize::MIN);
    let limit = Config::default().frame_timeouts.header.unwrap();
    let max = usize::from(LIMITS.max_header);
    let is_within = move |frame: &Vec<u8>| frame.len() <= max;
    let requests = messages(50).prop_map(|message| frames([&message]));
    let requests = requests.prop_filter("the header is too long", is_within);
    script::Check::new().with_cases(64).with_pauses(limit).run(
        || checked(config.clone(), echo()).with_deadlines(),
        requests,
        <[Vec<u8>]>::concat,
    );
}

#[test]
fn a_connection_with_a_function_keeps_the_contract() {
    for_each_case(128, with_noise(100), |ops| {
        let transcript = script::play_out(&mut checked(config(), echo()), &ops);
        assert_replies_are_requests(&transcript);
    });
}

#[test]
fn a_connection_whose_contents_are_streamed_keeps_the_contract() {
    for_each_case(128, ops_with_frames(100), |ops| {
        let mut machine = checked(config(), Counting::default());
        let transcript = script::play_out(&mut machine, &ops[..]);
        let mut replies = whole_messages(&transcript.output);
        // Error replies are JSON.
        replies.retain(|reply| !reply.is_json());
        let requests = well_formed(&transcript.input);
        for (i, (request, reply)) in requests.iter().zip(replies).enumerate() {
            assert_eq!(number(&reply), request.content.len(), "{i}");
        }
    });
}

#[test]
fn a_connection_with_delayed_replies_keeps_the_contract() {
    for_each_case(
        128,
        (with_noise(100), prop::collection::vec(prop::option::of(any::<bool>()), 100)),
        |(ops, releases)| {
            let service = Later::default();
            let mut machine = checked(config(), service.clone());
            let mut player = Player::new(&mut machine);
            for (op, release) in ops.iter().zip(releases) {
                if let Some(oldest) = release {
                    service.release(oldest);
                }
                player.play(op);
                assert!(player.machine().status().lag <= 3, "too many are in flight");
            }
            for _ in 0..service.requests() {
                service.release(false);
                player.play(&Op::Release);
            }
            player.play_out();
            let transcript = player.transcript();
            assert_replies_are_requests(&transcript);
            assert!(whole_messages(&transcript.output).len() <= service.requests() + 1);
        },
    );
}

#[test]
fn a_connection_with_a_request_queue_keeps_the_contract() {
    for_each_case(128, (with_noise(100), prop::collection::vec(0..4_u8, 100)), |(ops, actions)| {
        let mut machine = checked(config(), RequestQueue::default());
        let mut player = Player::new(&mut machine);
        let mut requests: Vec<PendingRequest> = Vec::new();
        for (op, action) in ops.iter().zip(actions) {
            match action {
                0 => requests.extend(player.machine().machine_mut().service_mut().take()),
                1 if !requests.is_empty() => {
                    let request = requests.pop().unwrap();
                    let reply = request.request().clone();
                    request.reply(reply);
                }
                _ => {}
            }
            player.play(op);
            assert!(player.machine().status().lag <= 3, "too many are in flight");
        }
        while let Some(request) =
            requests.pop().or_else(|| player.machine().machine_mut().service_mut().take())
        {
            let reply = request.request().clone();
            request.reply(reply);
            player.play(&Op::Release);
        }
        player.play_out();
        assert_replies_are_requests(&player.transcript());
    });
}

#[test]
fn a_one_shot_connection_keeps_the_contract() {
    for_each_case(128, with_noise(60), |ops| {
        let one_shot = config().with_one_shot(true);
        let transcript = script::play_out(&mut checked(one_shot, echo()), &ops);
        assert_replies_are_requests(&transcript);
        let replies = whole_messages(&transcript.output);
        assert!(replies.len() <= 1, "there is more than one reply");
        if transcript.label == Some("answered") {
            assert_eq!(&replies[..], &well_formed(&transcript.input)[..1]);
        }
        assert!(transcript.label != Some("finished") || replies.is_empty());
    });
}

/// Pipelined requests, whose replies are accepted in random pieces.
#[test]
fn pipelined_requests_are_answered_once_and_in_order() {
    for_each_case(
        128,
        (prop::collection::vec(0..390_usize, 0..20), prop::collection::vec(1..400_usize, 1..20)),
        |(sizes, accepts)| {
            let sent: Vec<_> = sizes.iter().enumerate().map(|(i, n)| numbered(i, *n)).collect();
            let bytes = frames(&sent);
            let mut machine = checked(config(), echo());
            let mut player = Player::new(&mut machine);
            player.play(&Op::Receive(bytes.clone()));
            player.play(&Op::Eof);
            for n in accepts.iter().cycle().take(200) {
                player.play(&Op::Accept(*n));
            }
            player.play_out();
            let transcript = player.transcript();
            assert_eq!(transcript.output, bytes);
            assert_eq!(transcript.label, Some("finished"));
        },
    );
}

// Each is played with ten random scripts.

#[test]
fn the_output_does_not_depend_on_how_the_input_is_cut() {
    for_each_case(
        16,
        (
            prop::collection::vec(messages(202), 0..3),
            prop::option::of(wirestate_testkit::message::any_bad_frame()),
        ),
        |(sent, bad)| {
            let limits = wirestate_core::message::FrameLimits::new(450, 1000);
            let mut bytes = frames(&sent);
            bytes.extend(
                bad.into_iter().filter(|bad| bad.bytes.len() < 600).flat_map(|bad| bad.bytes),
            );
            script::cut_invariant(&bytes, |pieces| {
                let mut machine = checked(config().with_frame_limits(limits), echo());
                let receive = pieces.iter().map(|piece| Op::Receive(piece.to_vec()));
                let ops: Vec<Op> = receive.chain([Op::Eof]).collect();
                script::play_out(&mut machine, &ops).output
            });
        },
    );
}

/// Each reply is longer than the limit on pending output, so reading pauses.
#[test]
fn the_connection_stops_reading_when_the_peer_does_not_read() {
    let big = service::function(|_| Message::binary(vec![7; 50_000]));
    let mut machine = Checked::new(
        Server::new(config(), big).unwrap().machine(Instant::EPOCH),
        64 * 1024 + 50_200,
    );
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(golden().repeat(10)));
    let queued = player.machine().status().queued;
    assert!((100_000..101_000).contains(&queued), "not two replies are pending: {queued}");
    assert!(!player.machine().interest().read, "there is no backpressure");
    player.play(&Op::Accept(30_000));
    let rest = player.machine().status().queued;
    assert_eq!(
        rest,
        queued - 30_000,
        "another reply was queued although more than 64 KiB are pending"
    );
    for _ in 0..100 {
        player.play(&Op::Accept(10_000));
    }
    player.play(&Op::Eof);
    player.play_out();
    let transcript = player.transcript();
    assert_eq!(whole_messages(&transcript.output).len(), 10);
    assert_eq!(transcript.label, Some("finished"));
}

#[test]
fn requests_beyond_the_limit_in_flight_are_not_read() {
    let mut machine = checked(config(), RequestQueue::default());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(golden().repeat(10)));
    let machine = player.machine();
    assert_eq!((machine.status().lag, machine.interest().read), (3, false));
    let pending: Vec<PendingRequest> =
        std::iter::from_fn(|| machine.machine_mut().service_mut().take()).collect();
    assert_eq!(pending.len(), 3);
    // The second reply waits for the first.
    let [first, second, third] = <[PendingRequest; 3]>::try_from(pending).unwrap();
    second.reply(Message::binary("second"));
    player.play(&Op::Release);
    assert_eq!(player.machine().status().queued, 0);
    first.reply(Message::binary("first"));
    player.play(&Op::Release);
    player.play(&Op::Accept(usize::MAX));
    let contents = |bytes: &[u8]| -> Vec<Vec<u8>> {
        whole_messages(bytes).iter().map(|reply| reply.content.to_vec()).collect()
    };
    assert_eq!(contents(player.output()), [&b"first"[..], b"second"]);
    // A dropped request is answered with an error.
    drop(third);
    player.play(&Op::Release);
    player.play(&Op::Accept(usize::MAX));
    let last = contents(player.output()).pop().unwrap();
    assert_eq!(last, br#"{"result": "Error: the request was dropped"}"#);
}

/// A service that panics ends its connection. A reply that cannot be sent must not make it panic.
#[test]
fn a_reply_that_cannot_be_encoded_becomes_an_error_reply() {
    let long = service::function(|_| Message {
        content_type: "x".repeat(70_000).into(),
        ..Message::binary("")
    });
    let mut machine = checked(config(), long);
    let transcript = script::play_out(&mut machine, &[Op::Receive(golden()), Op::Eof]);
    let [reply] = &whole_messages(&transcript.output)[..] else { panic!("there is not one reply") };
    let text = reply.text().unwrap();
    assert!(text.starts_with(r#"{"result": "Error: the header would be 70"#), "{text}");
    assert_eq!(transcript.label, Some("finished"));
}

#[test]
fn an_error_reply_follows_the_pending_replies() {
    let mut machine = checked(config(), RequestQueue::default());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive([golden(), golden(), vec![0, 0]].concat()));
    player.play(&Op::Accept(usize::MAX));
    assert!(player.output().is_empty(), "the error reply precedes the pending replies");
    for _ in 0..2 {
        player.machine().machine_mut().service_mut().take().unwrap().reply(Message::binary("x"));
    }
    player.play(&Op::Release);
    player.play_out();
    let replies = whole_messages(player.output());
    assert_eq!(replies.len(), 3);
    assert_eq!(replies[2], Message::error("a header of 0 bytes"));
}

/// The peer may still send, and must not get an RST before it has read the reply.
#[test]
fn an_error_reply_is_followed_by_a_lingering_close() {
    for bad in bad_frames().into_iter().filter(|bad| bad.bytes.len() < 300).step_by(17) {
        let (limits, time) = (Config::default().frame_limits, Linger::default().time);
        let linger = Linger { bytes: 140_000, time };
        let mut machine = checked(config().with_frame_limits(limits).with_linger(linger), echo());
        let mut player = Player::new(&mut machine);
        player.play(&Op::Receive(bad.bytes.clone()));
        if bad.error.label() == "truncated" {
            continue; // the error is found at the end of the input
        }
        player.play(&Op::Accept(usize::MAX));
        player.play(&Op::Finished);
        let interest = player.machine().interest();
        assert!(interest.read && !interest.is_done(), "{}: it does not linger", bad.name);
        let before = player.output().len();
        player.play(&Op::Receive(vec![0; 70_000]));
        assert!(
            player.machine().interest().read,
            "{}: it stops reading before the limit",
            bad.name
        );
        player.play(&Op::Receive(vec![0; 70_000]));
        assert!(player.machine().interest().is_done(), "{}: it reads beyond the limit", bad.name);
        assert_eq!(player.output().len(), before, "there is output after the FIN");
    }
    // It lingers for at most two seconds.
    let mut machine = checked(config(), echo());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(vec![0, 0]));
    player.play_out();
    let closed = player.now();
    player.play(&Op::Timeout);
    assert_eq!(player.now().since(closed), std::time::Duration::from_secs(2));
    assert!(player.machine().interest().is_done());
}

#[test]
fn a_one_shot_connection_answers_one_request_and_ignores_the_others() {
    let one_shot = config().with_one_shot(true);
    let mut machine = checked(one_shot.clone(), echo());
    let ops = [Op::Receive([golden(), golden(), b"\0\0".to_vec()].concat()), Op::Eof];
    let transcript = script::play_out(&mut machine, &ops);
    assert_eq!((transcript.output, transcript.ending), (golden(), Some(Ending::Fin)));
    assert_eq!(machine.reason().unwrap().fault(), Fault::None);

    // A pending reply is awaited.
    let mut machine = checked(one_shot, RequestQueue::default());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(golden()));
    assert!(!player.machine().interest().read);
    player.machine().machine_mut().service_mut().take().unwrap().reply(Message::binary("late"));
    player.play(&Op::Release);
    player.play_out();
    assert!(player.output().ends_with(b"late"));
}

#[test]
fn the_reason_of_a_failed_connection_counts_what_was_not_sent() {
    let service = Later::default();
    let mut machine = checked(config(), service);
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(golden().repeat(3)));
    player.play(&Op::Error(Direction::Write, ConnectionError::Reset));
    assert_eq!(
        player.machine().reason(),
        Some(MessageReason::Lost {
            direction: Direction::Write,
            error: ConnectionError::Reset,
            unsent: 146,
            unanswered: 2
        })
    );
}

#[test]
fn a_draining_connection_answers_requests_that_are_on_their_way() {
    let mut machine = checked(config(), echo());
    let mut player = Player::new(&mut machine);
    let (first_part, rest) = (golden()[..50].to_vec(), golden()[50..].to_vec());
    player.play(&Op::Receive([golden(), first_part].concat()));
    player.play(&Op::ShutDown);
    player.play(&Op::Receive(rest));
    player.play(&Op::Accept(usize::MAX));
    assert_eq!(player.output(), golden().repeat(2));
    player.play(&Op::Timeout);
    player.play_out();
    player.play(&Op::Eof);
    let transcript = player.transcript();
    assert_eq!((transcript.label, transcript.ending), (Some("shut_down"), Some(Ending::Fin)));
}

/// One read can contain hundreds of requests. Their sender must not delay other connections.
#[test]
fn one_call_answers_at_most_32_requests_and_the_next_calls_answer_the_rest() {
    let input = frames(&(0..300).map(|i| numbered(i, 0)).collect::<Vec<_>>());
    let error = frames([&Message::error(DecodeError::EmptyHeader)]);
    let invalid = [&input[..], &[0, 0]].concat();
    let with_error = [&input[..], &error].concat();
    for (input, output) in [(&input, &input), (&invalid, &with_error)] {
        for (read, write) in [(usize::MAX, usize::MAX), (usize::MAX, 100), (5000, 1000), (7, 64)] {
            assert_eq!(&answered_in_turns(input, read, write), output, "{read}, {write}");
        }
    }
}

/// The output if a driver reads and writes at most this many bytes at a time.
fn answered_in_turns(mut input: &[u8], read: usize, write: usize) -> Vec<u8> {
    let mut machine = checked(Config::default(), echo());
    let (mut cx, now) = (Context::from_waker(Waker::noop()), Instant::EPOCH);
    let (mut output, mut answered) = (Vec::new(), 0);
    let mut check = |machine: &Checked<Connection<_>>| {
        let before = std::mem::replace(&mut answered, machine.work());
        assert!(answered - before <= 32, "one call has answered {}", answered - before);
    };
    loop {
        let has_changed = machine.poll_shared(now, &mut cx);
        check(&machine);
        let Interest { read: reads, write: writes } = machine.interest();
        if writes == Outbound::Flush {
            let mut bufs = [&[][..]];
            machine.write_bufs(&mut bufs);
            let n = bufs[0].len().min(write);
            output.extend_from_slice(&bufs[0][..n]);
            machine.handle(now, Event::Written(n));
            check(&machine);
        }
        let can_read = machine.interest().read && !input.is_empty();
        if can_read {
            let buf = machine.read_buf();
            let n = buf.len().min(read).min(input.len());
            buf[..n].copy_from_slice(&input[..n]);
            input = &input[n..];
            machine.handle(now, Event::Read(n));
            check(&machine);
        }
        if !has_changed && writes != Outbound::Flush && !can_read {
            assert!(
                input.is_empty() && (reads || writes == Outbound::Finish),
                "the connection hangs"
            );
            return output;
        }
    }
}

#[test]
fn buffered_requests_are_answered_without_a_write_and_have_no_deadline() {
    let mut cx = Context::from_waker(Waker::noop());
    let config = Config::default().with_write_timeout(None);
    let mut machine = checked(config, echo());
    let input = frames(&(0..100).map(|i| numbered(i, 0)).collect::<Vec<_>>());
    let mut rest = &input[..];
    drive::deliver(&mut machine, &mut rest, Instant::EPOCH);
    assert!(rest.is_empty() && !machine.interest().read);
    assert_eq!(machine.poll_timeout(), None, "a frame has a deadline although it has arrived");
    while machine.poll_shared(Instant::EPOCH, &mut cx) {}
    assert_eq!((machine.work(), machine.interest().read), (100, true));
    assert_eq!(script::collect(&mut machine, Instant::EPOCH), input);

    // Requests are taken from the buffer while replies are pending, up to the limit in flight.
    let in_flight = NonZeroUsize::new(90).unwrap();
    let service = Later::default();
    let mut machine = checked(Config::default().with_max_in_flight(in_flight), service.clone());
    drive::deliver(&mut machine, &mut &input[..], Instant::EPOCH);
    while machine.poll_shared(Instant::EPOCH, &mut cx) {}
    assert_eq!(service.requests(), 91, "90 are in flight, and the first one was answered at once");
    assert!(!machine.interest().read);
}

#[test]
fn a_reason_names_the_fault() {
    let ends = [
        (vec![Op::Eof], "finished", Fault::None),
        (vec![Op::ShutDown, Op::Timeout, Op::Finished, Op::Eof], "shut_down", Fault::Requested),
        (vec![Op::Timeout, Op::Finished, Op::Eof], "idle_timeout", Fault::Time),
        (vec![Op::Receive(vec![0]), Op::Timeout], "header_timeout", Fault::Time),
        (vec![Op::Receive(golden()[..110].to_vec()), Op::Timeout], "content_timeout", Fault::Time),
        (vec![Op::Receive(golden()), Op::Timeout], "write_stalled", Fault::Time),
        (vec![Op::Receive(vec![0, 0])], "empty_header", Fault::Peer),
        (vec![Op::Receive(vec![0, 2, b'[', b']'])], "bad_header", Fault::Peer),
        (vec![Op::Receive(vec![0]), Op::Eof], "truncated", Fault::Peer),
        (vec![Op::Receive(vec![255, 255])], "header_too_long", Fault::Limit),
        (vec![Op::Error(Direction::Read, ConnectionError::TimedOut)], "timed_out", Fault::Lost),
    ];
    for (mut ops, label, fault) in ends {
        let mut machine = checked(config(), echo());
        ops.extend([Op::Accept(usize::MAX), Op::Finished, Op::Eof, Op::Timeout]);
        let transcript = script::play_out(&mut machine, &ops);
        assert_eq!(transcript.label, Some(label));
        assert_eq!(machine.reason().map(|reason| reason.fault()), Some(fault), "{label}");
    }
}

#[test]
fn a_reply_that_exceeds_the_memory_is_not_begun() {
    let reply = |_: Message<'_>| Message::binary(vec![0; 10_000]);
    let config = Config::default().with_max_memory(9000);
    let mut machine = checked(config, service::function(reply));
    let request = frames([&Message::binary("x")]);
    let transcript = script::play_out(&mut machine, &[Op::Receive(request)]);
    let replies = whole_messages(&transcript.output);
    let [error] = &replies[..] else { panic!("{replies:?}") };
    assert!(str::from_utf8(&error.content).unwrap().contains("no memory"), "{error:?}");
}
