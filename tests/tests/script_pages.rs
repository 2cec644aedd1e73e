//! A script that fails writes an HTML page of its events. A world that halts as its test expects
//! writes none.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use proptest::prelude::*;
use serde_json::Value;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Status,
    echo::{self, EchoReason},
    proxy::RelayFactory,
};
use wirestate_testkit::{
    for_each_case,
    script::{
        self, Op, Player,
        RelayOp::{Client, Connected, Upstream},
    },
    sim::World,
    stage,
};

/// An echo that panics when it receives an exclamation mark.
struct Fragile(echo::Connection);

impl Fragile {
    fn new() -> Self {
        let idle = Some(Duration::from_secs(7));
        let config = echo::Config::default().with_buffer(8.try_into().unwrap());
        let server = echo::Server::new(config.with_idle_timeout(idle)).unwrap();
        Self(server.machine(Instant::EPOCH))
    }
}

impl Machine for Fragile {
    type Reason = EchoReason;

    fn interest(&self) -> Interest {
        self.0.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.0.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.0.write_bufs(out)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        let panics = matches!(event, Event::Read(n) if self.0.read_buf()[..n].contains(&b'!'));
        assert!(!panics, "planted bug");
        self.0.handle(now, event);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    fn status(&self) -> Status {
        self.0.status()
    }

    fn reason(&self) -> Option<EchoReason> {
        self.0.reason()
    }
}

fn receive(text: &str) -> Op {
    Op::Receive(text.into())
}

fn second() -> Op {
    Op::Advance(Duration::from_secs(1))
}

/// The test that the others start as a child process: it fails in one of many ways, or does not.
#[test]
fn fails() {
    let Ok(how) = env::var(HOW) else { return };
    match &*how {
        "a machine panics" => {
            let ops = [receive("hello"), second(), Op::Accept(2), receive("!")];
            script::play(&mut Fragile::new(), &ops);
        }
        "an assertion fails" => {
            script::play(&mut Fragile::new(), &[receive("an earlier script")]);
            let ops = [
                receive("hello"),
                Op::Buffer(2),
                Op::Unacknowledged(9),
                Op::Release,
                Op::SpuriousTimeout,
                receive("more bytes"),
                Op::Eof,
                Op::Accept(100),
                Op::Accept(100),
                Op::Finished,
                Op::Finished,
                Op::Timeout,
            ];
            let transcript = script::play(&mut Fragile::new(), &ops);
            assert_eq!(transcript.output, b"hello");
        }
        "a connection is lost" => {
            let error = Op::Error(Direction::Write, ConnectionError::TimedOut);
            let ops = [receive("hello"), error, Op::Finished];
            let transcript = script::play(&mut Fragile::new(), &ops);
            assert!(!transcript.done, "it has ended");
        }
        "two players" => {
            let (mut one, mut other) = (Fragile::new(), Fragile::new());
            let (mut one, mut other) = (Player::new(&mut one), Player::new(&mut other));
            one.play(&receive("one"));
            other.play(&receive("two"));
            assert_eq!(one.output(), other.transcript().input, "they differ");
        }
        "a stage" => {
            let ops = [(0, receive("hi")), (1, Op::ShutDown), (0, second()), (1, Op::Finished)];
            let ops = [&ops[..], &[(0, receive("!"))]].concat();
            stage::play([Fragile::new(), Fragile::new()], &ops);
        }
        "a relay" => {
            let mut relay = RelayFactory::default().relay(Instant::EPOCH);
            let ops = [
                Connected { has_another: false },
                Client(receive("request")),
                Client(second()),
                Upstream(Op::Accept(4)),
                Client(Op::ShutDown),
                Upstream(Op::Error(Direction::Read, ConnectionError::Reset)),
                Client(Op::Finished),
            ];
            let [_, upstream] = script::play_relay(&mut relay, &ops);
            assert_eq!(upstream.output, b"request");
        }
        "a relay times out" => {
            let mut relay = RelayFactory::default().relay(Instant::EPOCH);
            script::play_relay(
                &mut relay,
                &[Connected { has_another: false }, Client(Op::Timeout)],
            );
            panic!("a planted failure");
        }
        "a check" => {
            let lines = |lines: &[String]| lines.concat().into_bytes();
            script::check(Fragile::new, "[a-c!]{0,3}", lines);
        }
        "a case" => for_each_case(64, "[a-c!]{0,9}", |text| {
            script::play(&mut Fragile::new(), &[receive(&text)]);
        }),
        "a difference" => {
            let reference = |frames: &[&str]| frames.concat().replace('c', "d").into_bytes();
            script::check(Fragile::new, Just("abc"), reference);
        }
        "a stalled world" => stall().unwrap(),
        "expected" => {
            assert!(stall().is_err());
        }
        other => panic!("{other}"),
    }
}

/// A run in which a task waits for ever.
fn stall() -> Result<(), wirestate_testkit::sim::Halted> {
    let world = World::new(3);
    world.host("host").run(std::future::pending::<()>());
    world.run()
}

/// A folder for the pages of a child process.
struct Pages(PathBuf);

impl Pages {
    /// Lets the test above fail, or not. Returns the folder of its pages, whether it has passed,
    /// and its standard error.
    fn of(how: &str) -> (Self, bool, String) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pages of {how}"));
        let pages = Self(folder);
        let mut test = Command::new(env::current_exe().unwrap());
        test.args(["--exact", "fails", "--nocapture"]).env(HOW, how);
        test.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        let output = test.env("WIRESTATE_TIMELINE", &pages.0).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (pages, output.status.success(), errors)
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a page shows.
struct Page {
    failure: String,
    /// A line for each event: the time, the lane, and what has happened.
    rows: Vec<String>,
}

impl Page {
    /// The page that the test above writes when it fails in this way.
    fn of(how: &str) -> Self {
        let (pages, has_passed, errors) = Pages::of(how);
        assert!(!has_passed);
        assert_eq!(pages.names(), ["fails-script.html"], "{errors}");
        let path = pages.0.join("fails-script.html");
        let line = format!("the timeline is in {}\n", path.display());
        assert_eq!(errors.matches(&line).count(), 1, "{errors}");
        Self::read(&fs::read_to_string(path).unwrap())
    }

    fn read(page: &str) -> Self {
        let data = page.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data[0][0], "fails");
        let [gaps, lanes, kinds, numbers] = [0, 1, 2, 3].map(|i| data[4][i].as_array().unwrap());
        let mut at = Duration::ZERO;
        let mut excerpts = data[5][0].as_array().unwrap().iter();
        let mut rows = Vec::new();
        for (i, kind) in kinds.iter().enumerate() {
            at += Duration::from_nanos(gaps[i].as_u64().unwrap());
            let lane = &data[1][usize::try_from(lanes[i].as_u64().unwrap()).unwrap()];
            let lane = format!("{} {}", lane[0].as_str().unwrap(), lane[1].as_str().unwrap());
            let kind = KINDS[usize::try_from(kind.as_u64().unwrap()).unwrap()];
            let detail = match kind {
                "sent" | "received" => excerpts.next().unwrap().as_str().unwrap().to_owned(),
                "fault" | "error" | "state" | "reason" | "note" => {
                    let index = usize::try_from(numbers[i].as_u64().unwrap()).unwrap();
                    data[2][index].as_str().unwrap().to_owned()
                }
                "deadline" => {
                    let nanos = numbers[i].as_u64().map(Duration::from_nanos);
                    nanos.map_or("none".to_owned(), |time| format!("in {time:?}"))
                }
                _ => String::new(),
            };
            rows.push(format!("{at:?} {}: {kind} {detail}", lane.trim()).trim_end().to_owned());
        }
        let facts = data[0][1].as_array().unwrap();
        let failure = facts.iter().find(|fact| fact[0] == "failure").unwrap();
        Self { failure: failure[1].as_str().unwrap().to_owned(), rows }
    }
}

/// The rows without the deadlines.
fn without_deadlines(page: &Page) -> Vec<&str> {
    page.rows.iter().map(|row| &**row).filter(|row| !row.contains(": deadline ")).collect()
}

#[test]
fn a_panic_of_a_machine_is_behind_the_events_that_lead_to_it() {
    let page = Page::of("a machine panics");
    assert!(page.failure.starts_with("planted bug (tests/tests/script_pages.rs:"));
    let (last, rows) = page.rows.split_last().unwrap();
    assert_eq!(
        rows,
        [
            "0ns machine 0: state open",
            "0ns machine 0: deadline in 7s",
            "0ns machine 0: received hello",
            "0ns machine 0: deadline in 875ms",
            "1s machine 0: note at most 2 of 5 bytes are accepted",
            "1s machine 0: sent he",
            "1s machine 0: received !",
        ]
    );
    assert_eq!(*last, format!("1s machine 0: error panicked: {}", page.failure));
}

#[test]
fn an_assertion_about_a_script_has_the_page_of_the_last_one() {
    let page = Page::of("an assertion fails");
    assert!(page.failure.starts_with("assertion `left == right` failed\n  left: [104, "));
    assert_eq!(
        without_deadlines(&page),
        [
            "0ns machine 0: state open",
            "0ns machine 0: received hello",
            "0ns machine 0: note at most 2 bytes are buffered, none of them is acknowledged",
            "0ns machine 0: sent he",
            "0ns machine 0: note 9 bytes are unacknowledged",
            "0ns machine 0: note release",
            "0ns machine 0: note a timeout before the deadline",
            "0ns machine 0: received mor",
            "0ns machine 0: note not read yet: 7 bytes",
            "0ns machine 0: note not read yet: 7 bytes and an end",
            "0ns machine 0: sent llomor",
            "0ns machine 0: received e bytes",
            "0ns machine 0: sent e bytes",
            "0ns machine 0: eof",
            "0ns machine 0: state closing",
            "0ns machine 0: finished",
            "0ns machine 0: state ended",
            "0ns machine 0: reason finished",
            "0ns machine 0: note skipped: Op::Finished",
        ]
    );
}

#[test]
fn an_error_is_an_event() {
    let page = Page::of("a connection is lost");
    let error = "0ns machine 0: error while sending: connection timed out";
    assert!(page.rows.iter().any(|row| row == error), "{:?}", page.rows);
}

#[test]
fn machines_that_are_played_together_are_on_one_page() {
    let page = Page::of("two players");
    assert!(page.failure.contains("they differ"), "{}", page.failure);
    let rows = without_deadlines(&page);
    assert_eq!(rows[2..], ["0ns machine 0: received one", "0ns machine 1: received two"]);
}

#[test]
fn a_stage_has_a_lane_for_each_machine() {
    let page = Page::of("a stage");
    assert!(page.failure.starts_with("machine 0 at 1s: planted bug (tests/src/stage.rs:"));
    let rows = without_deadlines(&page);
    let (last, rows) = rows.split_last().unwrap();
    assert_eq!(
        rows,
        [
            "0ns machine 0: state open",
            "0ns machine 1: state open",
            "0ns machine 0: received hi",
            "0ns machine 1: shutdown",
            "0ns machine 1: state draining",
            "1s machine 0: timeout",
            "1s machine 1: timeout",
            "1s machine 1: state closing",
            "1s machine 1: finished",
            "1s machine 1: state lingering",
            "1s machine 0: received !",
        ]
    );
    assert_eq!(*last, format!("1s machine 0: error panicked: {}", page.failure));
}

#[test]
fn a_relay_has_a_lane_for_each_side() {
    let page = Page::of("a relay");
    assert!(page.failure.contains("assertion `left == right` failed"), "{}", page.failure);
    let reason = "reason upstream lost while receiving: connection reset by peer; unsent bytes: 3";
    assert_eq!(
        without_deadlines(&page),
        [
            "0ns relay 0 client: note an upstream is connected",
            "0ns relay 0 upstream: note an upstream is connected",
            "0ns relay 0 client: state open",
            "0ns relay 0 upstream: state open",
            "0ns relay 0 client: received request",
            "1s relay 0 upstream: note at most 4 of 7 bytes are accepted",
            "1s relay 0 upstream: sent requ",
            "1s relay 0 client: shutdown",
            "1s relay 0 upstream: shutdown",
            "1s relay 0 client: state draining",
            "1s relay 0 upstream: state draining",
            "1s relay 0 upstream: error while receiving: connection reset by peer",
            "1s relay 0 upstream: state closing",
            &format!("1s relay 0 upstream: {reason}"),
            "1s relay 0 client: state closing",
            "1s relay 0 client: reset",
            "1s relay 0 client: state ended",
            &format!("1s relay 0 client: {reason}"),
            "1s relay 0 upstream: state ended",
        ]
    );
}

#[test]
fn a_deadline_of_a_relay_is_an_event_of_both_sides() {
    let page = Page::of("a relay times out");
    let ends = |text: &str| page.rows.iter().filter(|row| row.ends_with(text)).count();
    assert_eq!((ends(": timeout"), ends(": state closing")), (2, 2), "{:?}", page.rows);
}

#[test]
fn random_cases_have_the_page_of_the_smallest_one() {
    for how in ["a check", "a case"] {
        let page = Page::of(how);
        let failure = "planted bug (tests/tests/script_pages.rs:";
        assert!(page.failure.starts_with(failure), "{}", page.failure);
        let rows = without_deadlines(&page);
        assert_eq!(rows[..2], ["0ns machine 0: state open", "0ns machine 0: received !"]);
        assert!(rows[2].starts_with("0ns machine 0: error panicked: planted bug ("), "{rows:?}");
        assert_eq!(rows.len(), 3);
    }

    let page = Page::of("a difference");
    assert!(page.failure.starts_with("the output differs at byte 2"), "{}", page.failure);
    let rows = without_deadlines(&page);
    for row in ["received abc", "sent abc", "eof", "reason finished"] {
        let row = format!("0ns machine 0: {row}");
        assert!(rows.contains(&&*row), "{row}: {rows:?}");
    }
}

#[test]
fn a_world_that_halts_as_the_test_expects_has_no_page() {
    let (pages, has_passed, errors) = Pages::of("expected");
    assert!(has_passed, "{errors}");
    assert_eq!(pages.names(), [""; 0], "{errors}");
}

#[test]
fn a_world_whose_halt_the_test_does_not_expect_has_a_page() {
    let (pages, has_passed, errors) = Pages::of("a stalled world");
    assert!(!has_passed && pages.names() == ["fails-seed-3.html"], "{errors}");
    let page = fs::read_to_string(pages.0.join("fails-seed-3.html")).unwrap();
    assert!(page.contains("stalled at 1000000s, unfinished tasks: host#0 (tests/tests/"));
}

/// Chooses how the test above fails.
const HOW: &str = "TEST_HOW_TO_FAIL";

/// The kinds of events, in the order of their numbers in a page.
const KINDS: [&str; 19] = [
    "dialled",
    "refused",
    "connected",
    "accepted",
    "sent",
    "received",
    "eof",
    "finished",
    "reset",
    "closed",
    "deadline",
    "timeout",
    "shutdown",
    "shared",
    "fault",
    "error",
    "state",
    "reason",
    "note",
];
