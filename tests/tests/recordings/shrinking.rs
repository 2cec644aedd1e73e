//! The smallest test that shows what a recording shows.

use std::{cell::Cell, time::Duration};

use wirestate_core::{
    ConnectionError, Direction, Instant, echo,
    fanout::{Config, Feed, Framing, Publisher, Subscriber, Upstream},
    record::{
        Digest, Header, Recordable, Recorded, Recorder, Recording, ShrinkError, Stop, replay,
        shrink,
    },
};
use wirestate_testkit::script::{self, Op};

use crate::{
    Blocks,
    mutations::{Mutant, Mutation},
    planted_bugs::{Bug, Buggy, session},
    recorded,
};

/// Records `ops`, and shrinks that to a test.
fn shrunk<M: Recordable>(machine: impl Fn() -> M, ops: &[Op]) -> String {
    let (mut recorded, blocks) = recorded(machine());
    script::play(&mut recorded, ops);
    drop(recorded);
    let bytes = blocks.bytes();
    let recording = Recording::read(&bytes).unwrap();
    let source = "echo::Server::new(echo::Config::default()).unwrap().machine(Instant::EPOCH)";
    let replay = replay(&mut machine(), &recording);
    shrink(&recording, replay, machine).unwrap().source(&["echo"], source)
}

fn echo() -> echo::Connection {
    echo::Server::default().machine(Instant::EPOCH)
}

/// `shrunk.rs` is one of the tests of this file's crate, so it compiles and passes.
#[test]
fn a_session_shrinks_to_a_test_as_by_hand() {
    let ops = [
        Op::Receive(b"hello".to_vec()),
        Op::Accept(3),
        Op::Advance(Duration::from_millis(1500)),
        Op::SpuriousTimeout,
        Op::Receive(vec![b'x'; 5000]),
        Op::Accept(usize::MAX),
        Op::Error(Direction::Read, ConnectionError::Reset),
    ];
    assert_eq!(shrunk(echo, &ops), include_str!("shrunk.rs"));
}

#[test]
fn the_input_that_an_end_needs_stays() {
    let framing = Framing::Delimited { delimiter: b'\n', max: 4.try_into().unwrap() };
    let feed = Feed::for_replay(Config::default().with_framing(framing)).unwrap();
    let upstream = || Upstream::new(&feed, Instant::EPOCH);
    let ops = [Op::Receive(b"ab\n".to_vec()), Op::Receive(b"abcdefgh".to_vec()), Op::Finished];
    let test = shrunk(upstream, &ops);
    assert!(test.contains("fn a_session_ends_with_message_too_long()"), "{test}");
    assert!(test.contains("let ops = [Op::Receive(b\"aaaa\".to_vec()), Op::Finished];"), "{test}");
    assert!(test.contains("(Some(\"message_too_long\"), Some(Ending::Rst))"), "{test}");
}

#[test]
fn an_idle_timeout_shrinks_to_a_timeout() {
    let ops = [Op::Receive(b"hello".to_vec()), Op::Accept(5), Op::Timeout, Op::Finished];
    let test = shrunk(echo, &ops);
    assert!(test.contains("let ops = [Op::Timeout, Op::Finished];"), "{test}");
    assert!(test.contains("(Some(\"idle_timeout\"), Some(Ending::Fin))"), "{test}");
}

#[test]
fn a_peer_that_acknowledges_nothing_has_been_sent_something() {
    let ops = [Op::Receive(b"hello".to_vec()), Op::Buffer(5), Op::Timeout, Op::Finished];
    let test = shrunk(echo, &ops);
    let ops = [
        "Op::Receive(b\"a\".to_vec())",
        "Op::Accept(usize::MAX)",
        "Op::Unacknowledged(1)",
        "Op::Timeout",
        "Op::Finished",
    ];
    assert!(test.contains(&ops.join(",\n        ")), "{test}");
    assert!(test.contains("(Some(\"idle_timeout\"), Some(Ending::Rst))"), "{test}");
}

/// The test of a recording of a machine without a bug, for one with `bug`.
fn difference(bug: Bug) -> String {
    let bytes = session();
    let recording = Recording::read(&bytes).unwrap();
    let machine = || Buggy::new(bug);
    let test = shrink(&recording, replay(&mut machine(), &recording), machine).unwrap();
    test.source(&["shout"], "shout::machine()")
}

#[test]
fn a_panic_shrinks_to_its_input() {
    let test = difference(Bug::Panics);
    assert!(test.contains("let ops = [Op::Receive(b\"!\".to_vec())];"), "{test}");
    assert!(test.contains("// It has panicked: a planted bug"), "{test}");
}

/// The test has all that happened up to the difference, since only the recording knows what the
/// recorded machine does.
#[test]
fn a_difference_keeps_its_session_and_says_what_both_machines_do() {
    let expected = r#"use std::time::Duration;

use wirestate_core::{Instant, record::Digest, shout};
use wirestate_testkit::script::{self, Op};

#[test]
fn a_session_is_as_it_was_recorded() {
    let mut machine = shout::machine();
    let ops = [
        Op::Receive(b"four".to_vec()),
        Op::Accept(4),
        Op::Advance(Duration::from_secs(5)),
        Op::Receive(b"more!".to_vec()),
        Op::Accept(2),
        Op::Accept(3),
    ];
    // Recorded: 9 bytes read, 9 bytes sent (0xf446_3703), no FIN or RST.
    // This program: 9 bytes read, 9 bytes sent (0xa187_5b58), no FIN or RST.
    // It sends b"fourmo?e!".
    // If the recorded program was wrong, assert what is right instead.
    let transcript = script::play(&mut machine, &ops);
    assert_eq!((transcript.input.len(), transcript.output.len()), (9, 9));
    assert_eq!(Digest::of(&transcript.output) & 0xffff_ffff, 0xf446_3703);
    assert_eq!(transcript.ending, None);
}
"#;
    assert_eq!(difference(Bug::Changes), expected);
}

#[test]
fn a_missing_fin_is_a_difference_that_the_test_sees() {
    let test = difference(Bug::ForgetsEof);
    assert!(test.contains("sent (0xf446_3703), a FIN, ended: finished.\n"), "{test}");
    assert!(test.contains("sent (0xf446_3703), no FIN or RST, not ended.\n"), "{test}");
    assert!(test.contains("assert_eq!(transcript.ending, Some(Ending::Fin));"), "{test}");
}

/// The recorded machine skips the op that accepts what only this program has to send.
#[test]
fn a_test_accepts_output_that_is_missing_in_the_recording() {
    let loses = Mutation::LosesByte(4);
    let (mut machine, blocks) = recorded(Mutant::new(echo(), loses, Instant::EPOCH));
    let ops = [Op::Receive(b"hello".to_vec()), Op::Accept(4), Op::Eof, Op::Finished];
    script::play(&mut machine, &ops);
    drop(machine);
    let bytes = blocks.bytes();
    let recording = Recording::read(&bytes).unwrap();
    let replay = replay(&mut echo(), &recording);
    let test = shrink(&recording, replay, echo).unwrap().source(&["echo"], "echo()");
    assert!(test.contains("    Op::Eof,\n        Op::Accept(usize::MAX),\n        Op::Finished,"));
    assert!(test.contains("// Recorded: 5 bytes read, 4 bytes sent (0x"), "{test}");
    assert!(test.contains("// This program: 5 bytes read, 5 bytes sent (0x"), "{test}");
    assert!(test.contains("// It sends b\"hello\"."), "{test}");
}

/// The error of shrinking a recording for the machine that recorded it.
fn error<M: Recordable>(bytes: &[u8], machine: impl Fn() -> M) -> ShrinkError {
    let (recording, _) = Recording::salvage(bytes).unwrap();
    let replay = replay(&mut machine(), &recording);
    shrink(&recording, replay, machine).unwrap_err()
}

/// The recording of an echo that has not ended.
fn unfinished(header: &Header) -> Vec<u8> {
    let blocks = Blocks::default();
    let recorder = Recorder::new(header, Box::new(blocks.clone()));
    script::play(&mut Recorded::new(echo(), Some(recorder)), &[Op::Receive(b"hello".to_vec())]);
    blocks.bytes()
}

#[test]
fn a_session_that_shows_nothing_has_no_test() {
    let bytes = unfinished(&Header::new(Instant::EPOCH));
    assert_eq!(error(&bytes, echo), ShrinkError::NothingToShow);
    // The last bytes are the end, and a checksum.
    assert_eq!(error(&bytes[..bytes.len() - 10], echo), ShrinkError::Cut);
    let stopped = [13, 0, 14, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let head = b"wirestate recording 1\nstarted 0\npayloads yes\n\n";
    let bytes = [&head[..], &stopped].concat();
    assert_eq!(error(&bytes, echo), ShrinkError::Stopped(Stop::Limit));
}

#[test]
fn a_recording_without_payloads_has_no_test() {
    let header = Header { has_payloads: false, ..Header::new(Instant::EPOCH) };
    assert_eq!(error(&unfinished(&header), echo), ShrinkError::NoPayloads);
}

/// A recording of an echo that consists of these records, and is cut.
fn records(records: &[u8]) -> Vec<u8> {
    [&b"wirestate recording 1\nstarted 0\npayloads yes\n\n"[..], records].concat()
}

/// The test of a cut recording of an echo.
fn salvaged(bytes: &[u8]) -> String {
    let (recording, _) = Recording::salvage(bytes).unwrap();
    let replay = replay(&mut echo(), &recording);
    shrink(&recording, replay, echo).unwrap().source(&["echo"], "echo()")
}

/// The file may be hostile: its text is no source code.
#[test]
fn a_label_stays_in_its_comment() {
    let label = b"\x12x\n}\nfn evil() {\xe2\x80\xae";
    let end = [&[2, 4, 0, 14, 0][..], &[0; 18], label, &[0]].concat();
    let test = salvaged(&records(&end));
    assert!(test.contains(r"ended: x\n}\nfn evil() {\u{202e}."), "{test}");
    assert!(test.contains(r#"Some("x\n}\nfn evil() {\u{202e}")));"#), "{test}");
    assert!(!test.contains("\nfn evil"), "{test}");
}

#[test]
fn a_hostile_length_of_what_was_sent_is_the_most() {
    let digest = u32::try_from(Digest::of(b"a") & 0xffff_ffff).unwrap().to_le_bytes();
    let sent = [&[1, 2, b'a', b'b', 3, 1][..], &digest].concat();
    let hostile = [&[3][..], &[0xff; 9], &[1, 0, 0, 0, 0]].concat();
    let test = salvaged(&records(&[sent, hostile].concat()));
    assert!(test.contains("// Recorded: 2 bytes read, 18446744073709551615 bytes sent"), "{test}");
}

#[test]
fn a_method_beyond_the_contract_has_no_test() {
    assert_eq!(error(&records(b"\x0a\x01x"), echo), ShrinkError::Call);
}

#[test]
fn a_large_input_that_stays_is_shrunk_in_bounded_time() {
    let framing = Framing::Delimited { delimiter: b'\n', max: 1_000_000.try_into().unwrap() };
    let feed = Feed::for_replay(Config::default().with_framing(framing)).unwrap();
    let machines = Cell::new(0);
    let upstream = || {
        machines.set(machines.get() + 1);
        Upstream::new(&feed, Instant::EPOCH)
    };
    let ops = [Op::Receive(vec![b'x'; 1_000_001]), Op::Finished];
    let test = shrunk(upstream, &ops);
    assert!(test.contains("fn a_session_ends_with_message_too_long()"), "it has no such end");
    assert!(test.len() > 1_000_000 && machines.get() < 60, "{} plays", machines.get());
}

/// A subscriber alone has no messages. It has a test if its end does not depend on them.
#[test]
fn a_session_that_depends_on_messages_of_a_feed_has_no_test() {
    let framing = Framing::Delimited { delimiter: b'\n', max: 20.try_into().unwrap() };
    let config = Config::default().with_framing(framing);
    let alone = || Subscriber::new(&Feed::new(config.clone()).unwrap(), Instant::EPOCH);
    let shrunk = |ops: &[Op]| {
        let feed = Feed::new(config.clone()).unwrap();
        let (mut machine, blocks) = recorded(Subscriber::new(&feed, Instant::EPOCH));
        let (mut source, published) = recorded(Publisher::new(&feed, Instant::EPOCH));
        script::play(&mut source, &[Op::Receive(b"hello\n".to_vec())]);
        script::play(&mut machine, ops);
        drop((machine, source));

        let feed = Feed::for_replay(config.clone()).unwrap();
        crate::replay(&published.bytes(), Publisher::new(&feed, Instant::EPOCH));
        let bytes = blocks.bytes();
        let recording = Recording::read(&bytes).unwrap();
        let replay = replay(&mut Subscriber::new(&feed, Instant::EPOCH), &recording);
        assert_eq!(replay.difference, None);
        assert!(replay.reason.is_some(), "it has not ended");
        shrink(&recording, replay, alone).map(|test| test.source(&["fanout"], "subscriber()"))
    };
    // The client accepts no message.
    let stalled = [Op::Accept(0), Op::Timeout, Op::Finished];
    assert_eq!(shrunk(&stalled), Err(ShrinkError::Outside));
    // The client sends a reset.
    let reset = [Op::Accept(6), Op::Error(Direction::Read, ConnectionError::Reset)];
    let test = shrunk(&reset).unwrap();
    assert!(test.contains("[Op::Error(Direction::Read, ConnectionError::Reset)]"), "{test}");
}

/// Other messages than the recorded ones are a difference of the feed, which no script shows.
#[test]
fn a_difference_that_depends_on_a_feed_has_no_test() {
    let feed = Feed::new(Config::default().with_framing(Framing::None)).unwrap();
    let (mut machine, blocks) = recorded(Subscriber::new(&feed, Instant::EPOCH));
    feed.publish(b"hello".as_slice().into(), 1, Instant::EPOCH);
    script::play(&mut machine, &[Op::Accept(0), Op::Accept(5)]);
    drop(machine);
    let alone = || Subscriber::new(&Feed::new(feed.config().clone()).unwrap(), Instant::EPOCH);
    assert_eq!(error(&blocks.bytes(), alone), ShrinkError::Outside);
}
