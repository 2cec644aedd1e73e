//! Failing cases of random and exhaustive tests: shrunk, saved, and printed as tests.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]
#![expect(unused_variables, reason = "a printed test may not need all that it is copied with")]
#![expect(clippy::useless_conversion, reason = "a printed test converts each text of its values")]

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
    time::Duration,
};

use proptest::prelude::*;
use wirestate_core::{
    Instant, echo,
    protocol::{Buffer, Config, Connection, Immediate, Malformed, Protocol, Replies, Server, Step},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{self, Check, Op},
    stage,
};

/// Set in a child process, in which the tests have a bug.
const PLANTED: &str = "TEST_PLANTED_BUG";

fn has_bug() -> bool {
    env::var_os(PLANTED).is_some()
}

fn machine() -> Checked<echo::Connection> {
    let idle = Duration::from_secs(60);
    let config = echo::Config::default().with_idle_timeout(Some(idle));
    Checked::new(echo::Server::new(config).unwrap().machine(Instant::EPOCH), 65_536)
}

/// The case has lists, numbers and variants.
#[test]
fn bytes_are_echoed() {
    let first = prop::collection::vec(prop_oneof![Just(Word::Empty), Just(Word::Of("x"))], 0..4);
    for_each_case(64, (script::ops(60), first, 1..9_usize), |(mut ops, first, max)| {
        let bytes = first.iter().map(|word| if *word == Word::Empty { "" } else { "ab" });
        ops.insert(0, Op::Receive(bytes.collect::<String>().into_bytes()));
        let transcript = script::play(&mut machine(), &ops);
        assert!(!has_bug() || transcript.output.len() <= max, "more bytes, {max}");
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Empty,
    Of(&'static str),
}

#[test]
fn lines_are_answered() {
    let limit = Duration::from_secs(5);
    // The call is a method, and an argument has several lines.
    Check::new().with_cases(64).with_pauses(limit).run(
        || {
            // Not a bracket: (
            Checked::new(lines(), 70_000)
        },
        "[a-z]{0,3}\n",
        |lines| lines.concat().replace('\n', "").into_bytes(),
    );
}

/// With the bug, it ends before the peer's FIN, which does not arrive then.
#[test]
fn slow_input_is_echoed() {
    let idle = Duration::from_secs(if has_bug() { 1 } else { 5 });
    let server = echo::Server::new(echo::Config::default().with_idle_timeout(Some(idle))).unwrap();
    Check::new().with_cases(64).with_pauses(Duration::from_secs(5)).run(
        || server.machine(Instant::EPOCH),
        "[a-z]{1,3}",
        |frames| frames.concat().into_bytes(),
    );
}

#[test]
fn members_take_turns() {
    let scripts = || [script::ops(20), script::ops(20)];
    for_each_case(64, stage::interleaved(scripts()), |ops| {
        let [one, two] = &stage::play([machine(), machine()], &ops)[..] else { panic!() };
        assert!(one.output.is_empty() || two.output.len() < 2 || !has_bug(), "both have output");
    });
}

/// Answers each line with itself.
struct Lines {
    was_cut: bool,
}

impl Protocol for Lines {
    type Input = Buffer;
    type Error = Malformed;
    type Answer = Immediate;

    fn receive(&mut self, input: &mut Buffer, replies: &mut Replies) -> Result<Step, Malformed> {
        let Some(line) = input.take_until(b'\n') else {
            self.was_cut = has_bug() && !input.bytes().is_empty();
            return Ok(Step::Incomplete { length: None });
        };
        assert!(!self.was_cut || line != b"!", "a cut before `!`");
        replies.output().extend(if self.was_cut { b"?" } else { line });
        Ok(Step::Taken)
    }
}

fn lines() -> Connection<Lines> {
    let server = Server::new(Config::default()).unwrap();
    server.machine(Lines { was_cut: false }, Instant::EPOCH)
}

#[test]
fn a_cut_changes_nothing() {
    script::split_invariant_exhaustive(lines, b"ab\nc\n");
}

#[test]
fn a_cut_never_panics() {
    for end in ["", "b\n"] {
        script::split_invariant(lines, format!("!\n{end}").as_bytes());
    }
}

// What the tests above print, pasted:

#[test]
fn a_cut_changes_nothing_case() {
    let ops = vec![
        Op::Receive(b"a".to_vec()),
        Op::Accept(usize::MAX),
        Op::Receive(b"b\nc\n".to_vec()),
        Op::Accept(usize::MAX),
        Op::Eof,
    ];
    let transcript = wirestate_testkit::script::play_out(&mut lines(), &ops);
    assert_eq!(transcript.output, b"abc");
}

#[test]
fn a_cut_never_panics_case() {
    for end in ["", "b\n"] {
        let ops = vec![
            Op::Receive(b"!".to_vec()),
            Op::Accept(usize::MAX),
            Op::Receive(b"\n".to_vec()),
            Op::Accept(usize::MAX),
            Op::Eof,
        ];
        wirestate_testkit::script::play_out(&mut lines(), &ops);
    }
}

#[test]
fn bytes_are_echoed_case() {
    let first = prop::collection::vec(prop_oneof![Just(Word::Empty), Just(Word::Of("x"))], 0..4);
    let ops = vec![Op::Accept(4)];
    let first = vec![Word::Of("x".into()), Word::Of("x".into())];
    let max: usize = 1;
    wirestate_testkit::replay_case((ops, first, max), |(mut ops, first, max)| {
        let bytes = first.iter().map(|word| if *word == Word::Empty { "" } else { "ab" });
        ops.insert(0, Op::Receive(bytes.collect::<String>().into_bytes()));
        let transcript = script::play(&mut machine(), &ops);
        assert!(!has_bug() || transcript.output.len() <= max, "more bytes, {max}");
    });
}

#[test]
fn lines_are_answered_case() {
    let limit = Duration::from_secs(5);
    // The call is a method, and an argument has several lines.
    let machine = || {
        // Not a bracket: (
        Checked::new(lines(), 70_000)
    };
    let ops = vec![
        Op::Receive(b"a".to_vec()),
        Op::Receive(b"\n".to_vec()),
        Op::Accept(usize::MAX),
        Op::Eof,
    ];
    let transcript = wirestate_testkit::script::play_out(&mut machine(), &ops);
    assert_eq!(transcript.output, b"a");
}

#[test]
fn slow_input_is_echoed_case() {
    let idle = Duration::from_secs(if has_bug() { 1 } else { 5 });
    let server = echo::Server::new(echo::Config::default().with_idle_timeout(Some(idle))).unwrap();
    let machine = || server.machine(Instant::EPOCH);
    let ops = vec![
        Op::Receive(b"a".to_vec()),
        Op::Advance(Duration::from_millis(125)),
        Op::SpuriousTimeout,
        Op::Advance(Duration::from_millis(125)),
        Op::SpuriousTimeout,
        Op::Advance(Duration::from_millis(125)),
        Op::SpuriousTimeout,
        Op::Advance(Duration::from_millis(125)),
        Op::SpuriousTimeout,
        Op::Advance(Duration::from_millis(125)),
        Op::SpuriousTimeout,
        Op::Advance(Duration::from_millis(125)),
        Op::SpuriousTimeout,
        Op::Advance(Duration::from_millis(125)),
        Op::SpuriousTimeout,
        Op::Advance(Duration::from_millis(125)),
        Op::SpuriousTimeout,
        Op::Accept(usize::MAX),
        Op::Eof,
    ];
    let transcript = wirestate_testkit::script::play_out(&mut machine(), &ops);
    assert_eq!(transcript.output, b"a");
    assert_eq!(transcript.ending, Some(wirestate_testkit::script::Ending::Fin));
    assert_eq!(transcript.reason.as_deref(), Some("finished"));
}

#[test]
fn members_take_turns_case() {
    let scripts = || [script::ops(20), script::ops(20)];
    let ops: Vec<(usize, Op)> = vec![
        (0, Op::Receive(b"a".to_vec())),
        (0, Op::Accept(1)),
        (1, Op::Receive(b"aa".to_vec())),
        (1, Op::Accept(2)),
    ];
    wirestate_testkit::replay_case(ops, |ops| {
        let [one, two] = &stage::play([machine(), machine()], &ops)[..] else { panic!() };
        assert!(one.output.is_empty() || two.output.len() < 2 || !has_bug(), "both have output");
    });
}

/// A directory with this file, for the cases that the tests above save.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = Self(env::temp_dir().join(format!("wirestate-{name}-{}", process::id())));
        fs::create_dir_all(dir.0.join(file!()).parent().unwrap()).unwrap();
        fs::write(dir.0.join(file!()), SOURCE).unwrap();
        dir
    }

    fn saved(&self) -> String {
        let file = self.0.join(file!()).with_extension("regressions");
        fs::read_to_string(file).unwrap_or_default()
    }

    /// Runs a test of this file with its bug in a child process. Returns what it prints.
    fn run(&self, test: &str, cases: &str, shrink_for: &str) -> String {
        let mut run = Command::new(env::current_exe().unwrap());
        run.args(["--exact", test, "--nocapture"]).current_dir(&self.0);
        run.env_remove("PROPTEST_DISABLE_FAILURE_PERSISTENCE").env("PROPTEST_CASES", cases);
        run.env("PROPTEST_RNG_SEED", "1").env("WIRESTATE_SHRINK_SECONDS", shrink_for);
        let output = run.env(PLANTED, "1").env("RUST_BACKTRACE", "0").output().unwrap();
        assert!(!output.status.success(), "{test} has passed");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_printed_case_fails_until_the_bug_is_gone() {
    let dir = Dir::new("pasted-cases");
    for (test, message) in [
        ("bytes_are_echoed", "more bytes, 1"),
        ("lines_are_answered", "the output differs at byte 0"),
        ("slow_input_is_echoed", "the output differs at byte 0"),
        ("members_take_turns", "both have output"),
        ("a_cut_changes_nothing", "the output differs at byte 0"),
        ("a_cut_never_panics", "a cut before `!`"),
    ] {
        let output = dir.run(test, "64", "10");
        let (_, printed) = output.split_once(&format!("// {message}\n")).expect(&output);
        let (printed, panic) = printed.split_once("\n\n").unwrap();
        // Without the bug, the pasted test passes: it is one of this file.
        assert!(SOURCE.contains(printed), "{printed}");
        assert_eq!(panic.matches("panicked").count(), 1, "{output}");
        assert!(printed.lines().all(|line| line.chars().count() <= 100), "{printed}");
        assert!(dir.run(&format!("{test}_case"), "0", "0").contains(" panicked at "));
    }
}

#[test]
fn a_failing_case_is_saved_and_tried_first() {
    let dir = Dir::new("saved-cases");
    let output = dir.run("members_take_turns", "64", "0");
    assert!(output.contains("failed after 3 cases that passed"), "{output}");
    assert!(output.contains("fn members_take_turns_case"), "{output}");
    assert_eq!(dir.saved(), "", "it is not made smaller");
    let output = dir.run("members_take_turns", "64", "10");
    assert!(output.contains(" s; saved in ") && output.contains("failed after 3 "), "{output}");
    assert!(dir.saved().contains(" # members_take_turns\n"), "{}", dir.saved());
    let again = dir.run("members_take_turns", "0", "10");
    assert!(again.contains("failed with a saved case"), "{again}");
    assert_eq!(dir.saved().matches("\ncc ").count(), 1, "it is saved once");
}

const SOURCE: &str = include_str!("failing_cases.rs");
