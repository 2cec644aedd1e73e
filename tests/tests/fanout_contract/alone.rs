//! Each fan-out machine alone.

use std::{num::NonZeroUsize, time::Duration};

use proptest::prelude::*;
use wirestate_core::{
    ConnectionError, Direction, Fault, Instant, Linger, Machine, Reason as _,
    fanout::{
        Client, Config, Feed, Framing, MessageSource, MessageSourceConfig, Subscriber, Upstream,
        UpstreamReason,
    },
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{self, Ending, Op, Player},
};

use crate::messages::{DELIMITER, any_frames, fixed, lines, parse, plausible, prefixed};

fn feed(framing: Framing) -> Feed {
    let config = Config::default()
        .with_framing(framing)
        .with_upstream_idle_timeout(Duration::from_secs(100));
    Feed::new(config).unwrap()
}

fn upstream(feed: &Feed) -> Checked<Upstream> {
    Checked::new(Upstream::new(feed, Instant::EPOCH), 0).with_deadlines()
}

/// All bytes that were published since `subscriber` joined.
fn published(subscriber: &mut Subscriber) -> Vec<u8> {
    script::play_out(subscriber, &[Op::Release]).output
}

#[test]
fn an_upstream_publishes_complete_messages_and_counts_the_rest() {
    for_each_case(256, (any_frames(), script::ops(120)), |(frames, ops)| {
        let framing = frames.framing();
        let feed = feed(framing);
        let mut subscriber = Subscriber::new(&feed, Instant::EPOCH);
        let mut upstream = upstream(&feed);
        let mut player = Player::new(&mut upstream);
        for op in ops {
            if let Op::Receive(bytes) = op {
                player.play(&Op::Receive(plausible(framing, &bytes)));
            } else {
                player.play(&op);
            }
            assert!(player.output().is_empty(), "an upstream has output");
        }
        player.play_out();
        let transcript = player.transcript();
        assert_eq!(transcript.done, transcript.reason.is_some());

        let (messages, tail) = parse(framing, &transcript.input);
        assert_eq!(published(&mut subscriber), messages.concat());
        let counters = feed.counters();
        assert_eq!(counters.messages_in, messages.len() as u64);
        assert_eq!(counters.upstream_up, !transcript.done);
        let dropped = if transcript.done { tail.len() as u64 } else { 0 };
        assert_eq!(counters.tail_bytes_dropped, dropped);
    });
}

#[test]
fn an_upstream_without_messages_publishes_every_byte() {
    for_each_case(256, script::ops(120), |ops| {
        let feed = feed(Framing::None);
        let mut subscriber = Subscriber::new(&feed, Instant::EPOCH);
        let transcript = script::play_out(&mut upstream(&feed), &ops);
        assert_eq!(published(&mut subscriber), transcript.input);
        assert_eq!(feed.counters().tail_bytes_dropped, 0);
    });
}

/// The source's input is random.
#[test]
fn a_source_keeps_the_contract_and_numbers_its_messages() {
    for_each_case(
        256,
        (
            script::ops(120),
            22..80_usize,
            prop_oneof![Just(0), 1..2000_u64],
            prop::option::of(0..200_u64),
        ),
        |(ops, size, rate, count)| {
            let size = NonZeroUsize::new(size).unwrap();
            let config =
                MessageSourceConfig::default().with_size(size).with_rate(rate).with_count(count);
            let source = MessageSource::new(config, Instant::EPOCH).unwrap();
            let mut source = Checked::new(source, 64 * 1024).with_deadlines();
            let mut player = Player::new(&mut source);
            for op in &ops {
                player.play(op);
            }
            if count.is_some() {
                let due = Duration::from_secs(1000);
                for op in [Op::Advance(due), Op::SpuriousTimeout, Op::Accept(usize::MAX)] {
                    player.play(&op);
                }
                player.play_out();
            }
            let transcript = player.transcript();
            let messages = transcript.output.chunks(size.get());
            for (number, message) in messages.enumerate() {
                let expected = format!("{number:020} ");
                let n = expected.len().min(message.len());
                assert_eq!(&message[..n], &expected.as_bytes()[..n]);
                assert!(message.len() < size.get() || message.ends_with(b"\n"));
            }
            if transcript.ending == Some(Ending::Fin) {
                assert_eq!(transcript.output.len() % size, 0, "the last message is complete");
            }
            if transcript.label == Some("finished") {
                let bytes = usize::try_from(count.unwrap()).unwrap() * size.get();
                assert_eq!(transcript.output.len(), bytes);
            }
        },
    );
}

#[test]
fn a_client_returns_every_byte() {
    for_each_case(
        256,
        (script::ops(120), prop::collection::vec(any::<bool>(), 120)),
        |(ops, takes)| {
            let mut client = Checked::new(Client::new(), 0).with_deadlines();
            let mut player = Player::new(&mut client);
            let mut taken = Vec::new();
            for (op, takes) in ops.iter().zip(takes) {
                player.play(op);
                if takes && let Some(bytes) = player.machine().machine_mut().take() {
                    assert!(!bytes.is_empty());
                    taken.extend_from_slice(&bytes);
                }
            }
            player.play_out();
            taken.extend(player.machine().machine_mut().take().into_iter().flatten());
            let transcript = player.transcript();
            assert_eq!(taken, transcript.input);
            assert_eq!(transcript.done, transcript.reason.is_some());
        },
    );
}

#[test]
fn a_source_sends_1000_messages_of_1_kib_a_second_by_default() {
    let generated = |config: MessageSourceConfig, after: u64| {
        let source = MessageSource::new(config, Instant::EPOCH).unwrap();
        let mut source = Checked::new(source, 64 * 1024).with_deadlines();
        let accept = Op::Accept(usize::MAX);
        let mut ops = vec![accept.clone(), Op::Advance(Duration::from_millis(after))];
        ops.push(Op::SpuriousTimeout);
        ops.extend(vec![accept; 100]); // 64 KiB are generated at once
        script::play(&mut source, &ops).output.len()
    };
    let default = MessageSourceConfig::default();
    // The first one is sent at once.
    assert_eq!(generated(default, 0), 1024);
    assert_eq!(generated(default, 1), 2 * 1024);
    assert_eq!(generated(default, 1000), 1001 * 1024);
    let slow = default.with_rate(3).with_size(NonZeroUsize::new(50).unwrap());
    assert_eq!([333, 334, 1000].map(|millis| generated(slow, millis) / 50), [1, 2, 4]);
}

/// `nc` without input sends its FIN at once, and still reads.
#[test]
fn a_source_serves_a_client_that_has_closed_its_side() {
    let size = NonZeroUsize::new(30).unwrap();
    let end = |count, ops: &[Op]| {
        let config =
            MessageSourceConfig::default().with_size(size).with_rate(1000).with_count(count);
        let source = MessageSource::new(config, Instant::EPOCH).unwrap();
        let mut source = Checked::new(source, 64 * 1024).with_deadlines();
        let transcript = script::play(&mut source, &[&[Op::Eof], ops].concat());
        (transcript.output.len() / size, transcript.ending, transcript.label)
    };
    let served = [Op::Accept(usize::MAX), Op::Timeout, Op::Accept(usize::MAX)];
    assert_eq!(end(None, &served), (2, None, None));
    assert_eq!(
        end(Some(2), &[&served[..], &[Op::Finished]].concat()),
        (2, Some(Ending::Fin), Some("finished")),
        "both sides are closed: there is no input to linger for"
    );
    let stopped = [&served[..], &[Op::ShutDown, Op::Finished]].concat();
    assert_eq!(end(None, &stopped), (2, Some(Ending::Fin), Some("shut_down")));
    let reset =
        [&served[..], &[Op::Timeout, Op::Error(Direction::Write, ConnectionError::Reset)]].concat();
    assert_eq!(end(None, &reset), (2, None, Some("left")), "a client that leaves is an error");
    let lost =
        [&served[..], &[Op::Timeout, Op::Error(Direction::Write, ConnectionError::TimedOut)]]
            .concat();
    assert_eq!(end(None, &lost), (2, None, Some("timed_out")));
}

/// Asserts that the machine awaits the peer's FIN after its own, for at most 3 s and 100 bytes.
fn assert_lingers<M: Machine>(machine: impl Fn() -> M) {
    let end = |ops: &[Op]| {
        let mut checked = Checked::new(machine(), 64 * 1024);
        let begin = [Op::ShutDown, Op::Accept(usize::MAX), Op::Finished];
        let transcript = script::play(&mut checked, &[&begin, ops].concat());
        assert_eq!(transcript.ending, Some(Ending::Fin));
        transcript.label
    };
    let receive = |n| Op::Receive(vec![0; n]);
    assert_eq!(end(&[receive(99)]), None);
    assert_eq!(end(&[receive(99), receive(1)]), Some("shut_down"));
    assert_eq!(end(&[receive(99), Op::Eof]), Some("shut_down"));
    assert_eq!(end(&[Op::Error(Direction::Read, ConnectionError::Reset)]), Some("shut_down"));
    assert_eq!(end(&[Op::Advance(Duration::from_millis(2999)), Op::SpuriousTimeout]), None);
    assert_eq!(end(&[receive(1), Op::Timeout]), Some("shut_down"));
}

#[test]
fn a_requested_shutdown_ends_by_a_bounded_lingering_close() {
    let linger = Linger { bytes: 100, time: Duration::from_secs(3) };
    let config = MessageSourceConfig::default().with_linger(linger);
    assert_lingers(|| MessageSource::new(config, Instant::EPOCH).unwrap());
    let feed = Feed::new(Config::default().with_linger(linger)).unwrap();
    assert_lingers(|| Subscriber::new(&feed, Instant::EPOCH));
}

/// Returns the bytes that are published for `input`, and the label of the upstream's reason.
/// Asserts that both are the same for all cuts of the input.
fn split_invariant(framing: Framing, input: &[u8], exhaustively: bool) -> (Vec<u8>, &'static str) {
    let run = |cut: &[usize]| {
        let feed = feed(framing);
        let mut subscriber = Subscriber::new(&feed, Instant::EPOCH);
        let pieces = script::pieces(input, cut).map(|piece| Op::Receive(piece.to_vec()));
        let ops: Vec<Op> = pieces.chain([Op::Eof]).collect();
        let transcript = script::play_out(&mut upstream(&feed), &ops);
        let counters = feed.counters();
        let counted = (counters.messages_in, counters.bytes_received);
        (published(&mut subscriber), transcript.label.unwrap(), counted)
    };
    let mut expected = run(&script::whole(input.len()));
    if framing == Framing::None {
        expected.2.0 = 0; // here, each read is one message
    }
    let check = |cut: Vec<usize>| {
        let mut published = run(&cut);
        if framing == Framing::None {
            published.2.0 = 0;
        }
        assert_eq!(published, expected, "{framing:?}, cut into {cut:?}");
    };
    if exhaustively {
        script::every_cut(input.len()).for_each(check);
    } else {
        for size in [7, 1000, 4095, 65_536, 65_537] {
            check(vec![size; input.len().div_ceil(size)]);
        }
    }
    (expected.0, expected.1)
}

#[test]
fn the_published_bytes_do_not_depend_on_the_cut_of_the_input() {
    let whole = |framing, input: &[u8]| split_invariant(framing, input, true);
    assert_eq!(whole(fixed(3), b"abcdefghijkl"), (b"abcdefghijkl".to_vec(), "upstream_closed"));
    assert_eq!(whole(fixed(5), b"abcdefghijkl"), (b"abcdefghij".to_vec(), "upstream_closed"));
    assert_eq!(
        whole(lines(4), b"a\n\nbcd\nef\ng"),
        (b"a\n\nbcd\nef\n".to_vec(), "upstream_closed")
    );
    let input = b"\0\0\0\x02ab\0\0\0\0\0\0";
    assert_eq!(whole(prefixed(6), input), (input[..10].to_vec(), "upstream_closed"));
    assert_eq!(whole(Framing::None, b"abcdefgh"), (b"abcdefgh".to_vec(), "upstream_closed"));
}

#[test]
fn messages_before_one_that_is_too_long_are_published() {
    let whole = |framing, input: &[u8]| split_invariant(framing, input, true);
    assert_eq!(whole(lines(4), b"a\nbcd\nefgh\ni\n"), (b"a\nbcd\n".to_vec(), "message_too_long"));
    assert_eq!(whole(lines(4), b"a\nbcd\nefghi"), (b"a\nbcd\n".to_vec(), "message_too_long"));
    let input = b"\0\0\0\x01a\0\0\0\x03bcd";
    assert_eq!(whole(prefixed(6), input), (input[..5].to_vec(), "message_too_long"));
}

#[test]
fn a_long_input_is_published_completely_across_blocks() {
    let text: Vec<u8> = (0..30_000_u32)
        .flat_map(|n| format!("{n} {}\n", "x".repeat(n as usize % 9)).into_bytes())
        .collect();
    assert!(text.len() > 3 * 64 * 1024);
    assert_eq!(split_invariant(lines(20), &text, false).0, text);
    let (whole, _) = split_invariant(fixed(1000), &text, false);
    assert_eq!(whole, text[..text.len() / 1000 * 1000]);
}

/// Each message of this length fills a block except for 4 KiB.
#[test]
fn messages_that_are_longer_than_a_block_are_published_completely() {
    let size = 70_001;
    let text: Vec<u8> = (0..=250).cycle().take(5 * size + 5).collect();
    for piece in [size, 4096, 65_536, 1000] {
        let feed = feed(fixed(size));
        let mut subscriber = Subscriber::new(&feed, Instant::EPOCH);
        let ops: Vec<Op> = text.chunks(piece).map(|piece| Op::Receive(piece.to_vec())).collect();
        script::play(&mut upstream(&feed), &ops);
        assert!(published(&mut subscriber) == text[..5 * size], "in pieces of {piece}");
    }
}

#[test]
fn an_upstreams_reason_has_limit_figure_and_fault() {
    let end = |framing, ops: &[Op]| {
        let mut upstream = upstream(&feed(framing));
        let ending = script::play_out(&mut upstream, ops).ending;
        let reason = upstream.reason().unwrap();
        (reason.fault(), ending, reason.to_string())
    };
    let receive = Op::Receive(b"abcde".to_vec());
    let (fault, ending, text) = end(lines(4), std::slice::from_ref(&receive));
    assert_eq!((fault, ending), (Fault::Limit, Some(Ending::Rst)));
    assert!(text.contains('4') && text.contains('6'), "{text}");
    let (fault, ending, text) = end(fixed(4), &[receive.clone(), Op::Eof]);
    assert_eq!((fault, ending), (Fault::Lost, Some(Ending::Fin)));
    assert!(text.contains("incomplete message: 1"), "{text}");
    let (fault, ending, text) = end(fixed(4), &[receive.clone(), Op::Timeout]);
    assert_eq!((fault, ending), (Fault::Time, Some(Ending::Rst)));
    assert!(text.contains("1m 40s"), "{text}");
    let (fault, ending, _) =
        end(fixed(4), &[receive.clone(), Op::Error(Direction::Read, ConnectionError::Reset)]);
    assert_eq!((fault, ending), (Fault::Lost, None));
    let (fault, ending, _) = end(fixed(4), &[receive, Op::ShutDown]);
    assert_eq!((fault, ending), (Fault::Requested, Some(Ending::Fin)));
}

#[test]
fn the_tail_is_counted_also_if_the_upstreams_machine_is_dropped() {
    let feed = feed(fixed(4));
    let mut upstream = upstream(&feed);
    script::play(&mut upstream, &[Op::Receive(b"abcdef".to_vec())]);
    assert!(feed.counters().upstream_up);
    drop(upstream);
    let counters = feed.counters();
    assert_eq!((counters.upstream_up, counters.tail_bytes_dropped), (false, 2));
    assert_eq!(counters.upstream_ended, [("aborted", 1)].into());
}

#[test]
fn the_next_connection_starts_at_a_message_boundary() {
    let feed = feed(Framing::Delimited { delimiter: DELIMITER, max: 10.try_into().unwrap() });
    let mut subscriber = Subscriber::new(&feed, Instant::EPOCH);
    for text in ["one\ntw", "two\nthr", "three\n"] {
        let ops = [Op::Receive(text.into()), Op::Error(Direction::Read, ConnectionError::Reset)];
        let mut upstream = upstream(&feed);
        script::play_out(&mut upstream, &ops);
        assert!(matches!(upstream.reason(), Some(UpstreamReason::Lost { .. })));
    }
    assert_eq!(published(&mut subscriber), b"one\ntwo\nthree\n");
    assert_eq!(feed.counters().tail_bytes_dropped, 5);
    assert_eq!(feed.counters().upstream_connects, 3);
    assert_eq!(feed.counters().upstream_ended, [("reset", 3)].into(), "an end was counted twice");
}
