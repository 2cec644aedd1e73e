//! The decisions of worlds as data: recorded, replayed, edited, shrunk, saved.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    Event, Instant, Interest, Machine, Status, echo, runtime::Runtime as _, serve,
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Decisions, Entry, Faults, Received, Settings, Task, World, act},
};

/// A machine that fails if it reads a single byte after a write was cut.
struct Careless<M> {
    inner: M,
    /// Whether a write has taken less than was offered.
    was_cut: bool,
}

impl<M: Machine> Machine for Careless<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.inner.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.inner.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.inner.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.inner.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        if let Event::Written(n) = event {
            let mut bufs = [&[][..]; 4];
            let count = self.inner.write_bufs(&mut bufs);
            self.was_cut |= n < bufs[..count].iter().map(|buf| buf.len()).sum();
        }
        assert!(!self.was_cut || event != Event::Read(1), "a byte is lost, of {event:?}");
        self.inner.handle(now, event);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.inner.poll_shared(now, cx)
    }

    fn work(&self) -> u64 {
        self.inner.work()
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn reason(&self) -> Option<M::Reason> {
        self.inner.reason()
    }
}

/// An echo server under `faults`.
fn serve(world: &World, is_careless: bool, faults: Faults) {
    let server = world.host("server");
    server.set_faults(faults);
    let listener = server.listen("server:7").unwrap();
    let echo = echo::Server::default();
    let serving = serve::Server::new(server.clone(), listener);
    if is_careless {
        server.run(
            serving.serve(move |_, now| Careless { inner: echo.machine(now), was_cut: false }),
        );
    } else {
        server.run(serving.serve(move |_, now| echo.machine(now)));
    }
}

/// A client that performs `acts` under `faults`.
fn client(world: &World, name: &str, faults: Faults, acts: Vec<Act>) -> Task<Received> {
    let client = world.host(name);
    client.set_faults(faults);
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        act(runtime, socket, acts).await
    })
}

fn send(text: &'static str) -> Act {
    Act::Send(text.into())
}

/// Two clients, with faults that may break their connections.
fn run(seed: u64) -> World {
    let world = World::with(seed, Settings { buffer: 64, ..Settings::default() });
    serve(&world, false, Faults::harmful(seed));
    for name in ["client", "other"] {
        let acts =
            vec![send("hello"), Act::Receive(5), send("world"), Act::Finish, Act::ReceiveAll];
        client(&world, name, Faults::harmful(seed + 1), acts);
    }
    world.run_for(Duration::from_secs(1000)).unwrap();
    world
}

#[test]
fn a_replay_of_all_decisions_is_the_same_run() {
    for_each_seed(8, |seed| {
        let two = || [run(seed).trace().hash(), run(seed + 1).trace().hash()];
        let (hashes, decisions) = Decisions::record(two);
        assert_eq!(hashes, two(), "recording changes nothing");
        assert!(decisions.to_string().contains("\nworld 1 other/0 Client: latency 0 = "));
        let read: Decisions = decisions.to_string().parse().unwrap();
        assert_eq!(read, decisions);
        assert_eq!(read.replay(two), hashes);
        let quiet = Decisions::default().replay(two);
        assert!(quiet[0] != hashes[0] && quiet[1] != hashes[1]);
    });
}

/// The events of the first connection of the host `client`.
fn of_client(world: &World) -> Vec<Entry> {
    world.trace().of("client").cloned().collect()
}

#[test]
fn an_edited_recording_changes_the_run() {
    let scene = || {
        let world = World::new(3);
        serve(&world, false, Faults { short_read: 300, interrupted: 300, ..Faults::NONE });
        let acts =
            vec![send("hello"), Act::Receive(5), send("world"), Act::Finish, Act::ReceiveAll];
        client(&world, "client", Faults::NONE, acts);
        world.run_for(Duration::from_secs(100)).unwrap();
        let of_client = of_client(&world);
        let lines = of_client.iter().map(ToString::to_string).filter(|x| x.contains("Server: Rec"));
        lines.map(|line| line.split("Received ").nth(1).unwrap()[..7].to_owned()).collect()
    };
    let (_, recorded) = Decisions::record(scene);
    let fault = "client/0 Server: short_read";
    let edit = |lines: &str| {
        let kept = recorded.to_string();
        let kept = kept.lines().filter(|line| !line.starts_with(fault));
        let edited = kept.chain(lines.lines()).collect::<Vec<_>>().join("\n");
        edited.parse::<Decisions>().unwrap().replay(scene)
    };
    let received: Vec<String> = edit("");
    assert_eq!(received, ["5 bytes", "5 bytes"]);
    assert_eq!(edit(&format!("{fault} 1 = 2")), ["5 bytes", "2 bytes", "3 bytes"]);
    assert_eq!(edit(&format!("{fault} 0\n{fault} 1 = 90")), ["1 bytes", "4 bytes", "5 bytes"]);
    assert_eq!(edit(&format!("{fault} * = 4")), ["4 bytes", "1 bytes", "4 bytes", "1 bytes"]);
    let each_second = format!("{fault} */2 = 2\n{fault} 0 = 3");
    assert_eq!(edit(&each_second), ["3 bytes", "2 bytes", "5 bytes"]);
    let each_and_each_second = edit(&format!("{fault} * = 2\n{fault} */2 = 1"));
    let hello_world = [2, 1, 2, 1, 2, 1, 1].map(|bytes| format!("{bytes} bytes"));
    assert_eq!(each_and_each_second, hello_world);
    let unknown = "client/0 Server: unknown 0 = 1\nelsewhere: short_read 0\norder: task 9 = 1s";
    assert_eq!(edit(unknown), received, "nothing asks for these");
}

#[test]
fn a_recording_applies_after_decisions_were_added() {
    let scene = |faults: Faults, names: &[&str]| {
        let world = World::new(3);
        serve(&world, false, faults);
        for name in names {
            let acts = vec![send("hello world"), Act::Finish, Act::ReceiveAll];
            client(&world, name, Faults::NONE, acts);
        }
        world.run_for(Duration::from_secs(100)).unwrap();
        of_client(&world)
    };
    let cuts = || Faults { short_read: 700, short_write: 700, ..Faults::NONE };
    let (before, decisions) = Decisions::record(|| scene(cuts(), &["client"]));
    assert!(before.len() > 12, "the input is cut");
    let more = || Faults { would_block: 300, interrupted: 300, ..cuts() };
    let after = decisions.replay(|| scene(more(), &["other", "client"]));
    assert_eq!(after, before);
    assert_ne!(scene(more(), &["other", "client"]), before);
}

/// Set in a child process, in which the machine has its bug.
const PLANTED: &str = "TEST_PLANTED_BUG";

/// What the client of a careless machine does.
fn acts() -> Vec<Act> {
    let pause = Act::Wait(Duration::from_secs(1));
    vec![send("one"), Act::Receive(3), send("two"), pause, Act::Finish, Act::ReceiveAll]
}

#[test]
fn each_byte_is_echoed() {
    let is_careless = env::var_os(PLANTED).is_some();
    for_each_seed(50, |seed| {
        let world = World::new(seed);
        serve(&world, is_careless, Faults::harmless(seed));
        let received = client(&world, "client", Faults::NONE, acts());
        assert_eq!(world.run_until(&received).unwrap().bytes, b"onetwo");
    });
}

/// A directory with this file, for the worlds that the test above saves.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = Self(env::temp_dir().join(format!("wirestate-{name}-{}", process::id())));
        fs::create_dir_all(dir.file().parent().unwrap()).unwrap();
        fs::write(dir.file(), include_str!("failing_worlds.rs")).unwrap();
        dir
    }

    fn file(&self) -> PathBuf {
        self.0.join(file!())
    }

    /// Runs the test above with its bug in a child process. Returns what it prints.
    fn run(&self, seeds: &str, shrink_for: &str, arguments: &[&str]) -> String {
        let mut test = Command::new(env::current_exe().unwrap());
        test.args(["--exact", "each_byte_is_echoed", "--nocapture"]).args(arguments);
        for variable in ["SEED", "SECONDS", "COUNTS"] {
            test.env_remove(format!("WIRESTATE_{variable}"));
        }
        test.env("WIRESTATE_SEEDS", seeds).env("WIRESTATE_SHRINK_SECONDS", shrink_for);
        test.env("WIRESTATE_TIMELINE", self.0.join("pages"));
        let output = test.env(PLANTED, "1").current_dir(&self.0).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_failing_world_is_shrunk_printed_saved_and_tried_first() {
    let dir = Dir::new("worlds");
    let saved = dir.file().with_extension("worlds");
    let run = |seeds: &str, shrink_for: &str| dir.run(seeds, shrink_for, &[]);
    let message = run("50", "0");
    assert!(message.contains("failed with seed 21") && !saved.exists(), "{message}");

    let message = run("50", "10");
    let printed = r#"
// client/0 Client performs: Send(b"one"), Send(b"two"), ReceiveAll.
#[test]
fn each_byte_is_echoed_21() {
    let is_careless = env::var_os(PLANTED).is_some();
    let world = "
        client/0 Client: skip_act 1     # it leaves out its 2nd act
        client/0 Client: skip_act 3     # it leaves out its 4th act
        client/0 Client: skip_act 4     # it leaves out its 5th act
        client/0 Server: short_read 1   # its 2nd read returns 1 byte
        client/0 Server: short_write 0  # its 1st write takes 1 byte
    ";
    wirestate_testkit::replay(21, world, |seed| {
        let world = World::new(seed);
"#;
    assert!(message.contains(printed), "{message}");
    assert!(message.contains(" s; saved in "), "{message}");
    let page = dir.0.join("pages/each_byte_is_echoed-seed-21.html");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("a byte is lost, of Read(1)"), "the page of the smallest world");
    let text = fs::read_to_string(&saved).unwrap();
    let lines = "\n[each_byte_is_echoed seed 21]\nclient/0 Client: skip_act 1\n";
    assert!(text.contains(lines) && text.ends_with(": short_write 0\n"), "{text}");

    let again = run("0", "10");
    assert!(
        again.contains("a byte is lost") && again.contains("saved world of seed 21"),
        "{again}"
    );
    run("50", "10");
    assert_eq!(fs::read_to_string(&saved).unwrap(), text, "it is saved once");

    fs::write(&saved, format!("{text}client/0: reset\n")).unwrap();
    let message = run("0", "10");
    let error = ".worlds: line 10: `reset` must be a name and a number";
    assert!(message.contains(error), "{message}");
}

#[test]
fn a_world_is_saved_and_tried_first_with_one_thread() {
    let dir = Dir::new("worlds-of-one-thread");
    let message = dir.run("50", "10", &["--test-threads=1"]);
    assert!(message.contains("fn each_byte_is_echoed_21() {"), "{message}");
    let saved = fs::read_to_string(dir.file().with_extension("worlds")).unwrap();
    assert!(saved.contains("\n[each_byte_is_echoed seed 21]\n"), "{saved}");
    for arguments in [&["--test-threads=1"][..], &[]] {
        let again = dir.run("0", "10", arguments);
        assert!(again.contains("failed with a saved world of seed 21"), "{again}");
    }
}

/// As the test above prints it.
#[test]
#[should_panic(expected = "a byte is lost")]
fn a_printed_world_fails() {
    let world = "
        client/0 Server: short_read 1   # its 2nd read returns 1 byte
        client/0 Server: short_write 0  # its 1st write takes 1 byte
    ";
    wirestate_testkit::replay(21, world, |seed| {
        let world = World::new(seed);
        serve(&world, true, Faults::harmless(seed));
        let received = client(&world, "client", Faults::NONE, acts());
        assert_eq!(world.run_until(&received).unwrap().bytes, b"onetwo");
    });
}

#[test]
#[should_panic(expected = "the decisions have an error in line 2: `x` must be the number")]
fn a_replay_names_the_line_that_it_cannot_read() {
    wirestate_testkit::replay(0, "\nclient/0 Server: reset x", |_| {});
}
