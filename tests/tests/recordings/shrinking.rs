//! The smallest test that shows what a recording shows.

use std::time::Duration;

use wirestate_core::{
    ConnectionError, Direction, Instant, echo,
    fanout::{Config, Feed, Framing, Upstream},
    record::{Recordable, Recording, ShrinkError, shrink},
};
use wirestate_testkit::script::{self, Op};

use crate::{
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
    shrink(machine, &recording).unwrap().source(&["echo"], source)
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

/// The test of a recording of a machine without a bug, for one with `bug`.
fn difference(bug: Bug) -> String {
    let bytes = session();
    let recording = Recording::read(&bytes).unwrap();
    shrink(|| Buggy::new(bug), &recording).unwrap().source(&["shout"], "shout::machine()")
}

#[test]
fn a_panic_shrinks_to_its_input() {
    let test = difference(Bug::Panics);
    assert!(test.contains("let ops = [Op::Receive(b\"!\".to_vec())];"), "{test}");
    assert!(test.contains("// It has panicked: a planted bug"), "{test}");
}

#[test]
fn a_difference_keeps_its_input_and_asserts_what_was_recorded() {
    let test = difference(Bug::Changes);
    let ops = "let ops = [Op::Receive(b\"fourmore!\".to_vec()), Op::Accept(usize::MAX)];";
    assert!(test.contains(ops), "{test}");
    assert!(
        test.contains("assert_eq!((transcript.input.len(), transcript.output.len()), (9, 9));")
    );
    let digest = wirestate_core::record::Digest::of(b"fourmore!") & 0xffff_ffff;
    let digest = format!("assert_eq!(Digest::of(&transcript.output) & 0xffff_ffff, {digest:#x});");
    assert!(test.contains(&digest), "{test}");
}

#[test]
fn a_session_that_shows_nothing_has_no_test() {
    let (mut recorded, blocks) = recorded(echo());
    script::play(&mut recorded, &[Op::Receive(b"hello".to_vec())]);
    drop(recorded);
    let bytes = blocks.bytes();
    let recording = Recording::read(&bytes).unwrap();
    assert_eq!(shrink(echo, &recording).unwrap_err(), ShrinkError::NothingToShow);
}
