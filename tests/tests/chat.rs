//! The chat example: on a stage, in simulated worlds, and with `nc` on all runtimes.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write},
    ops::Range,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use proptest::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use wirestate_core::{
    ConnectionError, Direction, Instant,
    protocol::{Connection, Server},
    runtime::Runtime as _,
    serve, topic,
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case, for_each_seed,
    script::{self, Ending, Op},
    sim::{self, Act, Barrier, Faults, Host, Leftovers, Received, Task, World},
    stage::{self, Stage, Staged},
};

use crate::chat::{Chat, Room};

#[path = "../examples/chat.rs"]
mod chat;

const GREETING: &str = "Welcome! What is your name?\n";
/// The most output of a connection: the high-water mark and one line, or the list of all names.
const MAX_QUEUED: usize = 64 * 1024 + 20_000;

fn room() -> Room {
    Room::new(topic::Config::default()).unwrap()
}

fn machine(room: &Room) -> Checked<Connection<Chat>> {
    let server = Server::default();
    let machine = server.machine(Chat::new(room), Instant::EPOCH);
    Checked::new(machine, MAX_QUEUED).with_deadlines()
}

/// The machines of `count` connections to one room.
fn machines(count: usize) -> Vec<Checked<Connection<Chat>>> {
    let room = room();
    (0..count).map(|_| machine(&room)).collect()
}

fn receive(bytes: impl AsRef<[u8]>) -> Op {
    Op::Receive(bytes.as_ref().to_vec())
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("the output is text")
}

#[test]
fn members_see_who_enters_and_leaves_and_what_the_others_say() {
    let ops = [
        (0, receive("ann\n")),
        (0, receive("is nobody here?\n")),
        (1, receive("bob\r\nhello\r\n")),
        (2, receive("eve\n")),
        (0, receive("\n")),
        (1, Op::Eof),
        (2, Op::Accept(usize::MAX)),
        (2, Op::Error(Direction::Read, ConnectionError::Reset)),
        (3, receive("bob\n")),
        (3, Op::ShutDown),
    ];
    let transcripts = stage::play_out(machines(5), &ops);
    let output: Vec<_> = transcripts.iter().map(|transcript| text(&transcript.output)).collect();
    let expected = [
        "* The room contains: \n* bob has entered the room\n[bob] hello\n\
         * eve has entered the room\n* bob has left the room\n* eve has left the room\n\
         * bob has entered the room\n",
        "* The room contains: ann\n* eve has entered the room\n[ann] \n",
        "* The room contains: ann, bob\n[ann] \n* bob has left the room\n",
        "* The room contains: ann\n",
        "",
    ];
    assert_eq!(output, expected.map(|output| format!("{GREETING}{output}")));
}

#[test]
fn every_cut_of_a_conversation_gives_the_same_lines() {
    let input = b"ann\r\nhi\nyo\n";
    for cut in script::every_cut(input.len()) {
        let talking = script::pieces(input, &cut).map(|piece| (1, receive(piece)));
        let ops: Vec<_> = [(0, receive("bob\n"))].into_iter().chain(talking).collect();
        let transcripts = stage::play_out(machines(2), &ops);
        let heard = text(&transcripts[0].output).strip_prefix(GREETING);
        let expected = "* The room contains: \n* ann has entered the room\n[ann] hi\n[ann] yo\n";
        assert_eq!(heard, Some(expected), "cut into {cut:?}");
    }
}

const BAD_NAME: &str = "a name has 1 to 16 letters and digits";
const TOO_LONG: &str = "a line has at most 1000 bytes";
const ANN_CAME_AND_WENT: &str = "* ann has entered the room\n* ann has left the room\n";
const NO_TEXT: &str = "a line is text without control characters";

/// Input after which the connection closes, and its reply.
fn bad_input() -> Vec<(Vec<u8>, Option<Op>, &'static str)> {
    let repeat = |n: usize, end: &str| ["x".repeat(n), end.into()].concat().into_bytes();
    let said = |line: Vec<u8>| [b"ann\n".to_vec(), line].concat();
    let timeout = Some(Op::Timeout);
    vec![
        (b"\n".to_vec(), None, BAD_NAME),
        (b"\r\n".to_vec(), None, BAD_NAME),
        (b"a b\n".to_vec(), None, BAD_NAME),
        ("é\n".into(), None, BAD_NAME),
        (repeat(17, "\n"), None, BAD_NAME),
        (b"bob\n".to_vec(), None, "the name is in use"),
        (repeat(1001, ""), None, TOO_LONG),
        (said(repeat(1001, "\n")), None, TOO_LONG),
        (said(repeat(1001, "\r\n")), None, TOO_LONG),
        (said(repeat(1000, "\rx")), None, TOO_LONG),
        (b"an\xff\n".to_vec(), None, NO_TEXT),
        (said(b"\xff\n".to_vec()), None, NO_TEXT),
        (said(b"\x1b[2J\n".to_vec()), None, NO_TEXT),
        (said(b"one\rtwo\n".to_vec()), None, NO_TEXT),
        (b"an".to_vec(), Some(Op::Eof), "the input ended after 2 bytes of a frame"),
        (said(b"hel".to_vec()), Some(Op::Eof), "the input ended after 3 bytes of a frame"),
        (b"an".to_vec(), timeout.clone(), "received 2 bytes of a frame within 5s"),
        (said(b"hel".to_vec()), timeout, "received 3 bytes of a frame within 5s"),
    ]
}

#[test]
fn bad_input_gets_one_reply_and_closes() {
    for (input, then, reply) in bad_input() {
        for cut in [script::whole(input.len()), script::byte_by_byte(input.len())] {
            let pieces = script::pieces(&input, &cut).map(|piece| (1, receive(piece)));
            let mut ops = vec![(0, receive("bob\n"))];
            ops.extend(pieces.chain(then.clone().map(|op| (1, op))));
            let [bob, peer] = stage::play_out(machines(2), &ops).try_into().unwrap();
            let has_entered = input.starts_with(b"ann\n");
            let list = if has_entered { "* The room contains: bob\n" } else { "" };
            let seen = if has_entered { ANN_CAME_AND_WENT } else { "" };
            let input = input.escape_ascii();
            let expected = format!("{GREETING}{list}* error: {reply}\n");
            assert_eq!(text(&peer.output), expected, "{input}");
            assert_eq!(peer.ending, Some(Ending::Fin), "{input}");
            let expected = format!("{GREETING}* The room contains: \n{seen}");
            assert_eq!(text(&bob.output), expected, "{input}");
        }
    }
}

#[test]
fn the_documentation_lists_each_reply() {
    let page = include_str!("../examples/chat.rs");
    let documented: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix("` |")?.split_once(" | `"))
        .map(|(_, reply)| reply.to_owned())
        .collect();
    let replies = bad_input().into_iter().map(|(_, _, reply)| reply.replace(['2', '3'], "N"));
    let tested: BTreeSet<_> = replies.chain(["the room is full".to_owned()]).collect();
    assert_eq!(tested, documented);
}

#[test]
fn the_longest_names_and_lines_are_good() {
    let (name, line) = ("N".repeat(16), "é".repeat(500));
    for end in ["\n", "\r\n"] {
        let ops = [
            (0, receive("a\n")),
            (1, receive([&*name, end].concat())),
            (1, receive([&*line, end].concat())),
        ];
        let transcripts = stage::play_out(machines(2), &ops);
        let expected = format!("* {name} has entered the room\n[{name}] {line}\n");
        assert!(text(&transcripts[0].output).ends_with(&expected));
        assert_eq!(transcripts[1].reason, None);
    }
}

#[test]
fn a_full_room_has_room_again_when_a_member_leaves() {
    let room = room();
    let enter = |name: String| {
        let mut machine = machine(&room).into_inner();
        let ops = [receive(name + "\n"), Op::Accept(usize::MAX)];
        let output = script::play_out(&mut machine, &ops).output;
        (machine, text(&output).ends_with("* error: the room is full\n"))
    };
    let mut members: Vec<_> = (0..1000).map(|number| enter(format!("member{number}"))).collect();
    assert!(members.iter().all(|(_, is_refused)| !is_refused));
    assert!(enter("late".into()).1);
    members.pop();
    assert!(!enter("late".into()).1);
}

#[test]
fn a_silent_member_stays_and_a_connection_without_a_name_does_not() {
    let minute = Op::Advance(Duration::from_secs(60));
    let ops = [(0, receive("ann\n")), (0, Op::Accept(usize::MAX)), (1, Op::Accept(usize::MAX))];
    let later = [(0, minute), (0, Op::SpuriousTimeout), (0, receive("still here\n"))];
    let [silent, nameless] =
        stage::play_out(machines(2), &[&ops[..], &later].concat()).try_into().unwrap();
    assert_eq!((silent.ending, nameless.ending), (None, Some(Ending::Fin)));
    assert!(silent.input.ends_with(b"still here\n"));
    assert_eq!(text(&nameless.output), GREETING);
}

/// A member that reads nothing skips lines. The others do not notice.
#[test]
fn a_slow_reader_skips_lines() {
    const LINES: usize = 100;
    const WINDOW: usize = 4;
    let room = Room::new(topic::Config::default().with_items(WINDOW)).unwrap();
    let mut machines: Vec<_> = (0..3).map(|_| Staged::new(machine(&room))).collect();
    let mut stage = Stage::new(&mut machines);
    for (index, name) in ["ann\n", "bob\n", "eve\n"].into_iter().enumerate() {
        stage.play(index, &receive(name));
    }
    let filler = "x".repeat(990);
    for number in 0..LINES {
        stage.play(0, &receive(format!("{number:03}{filler}\n")));
        stage.play(1, &Op::Accept(usize::MAX));
    }
    stage.play_out();
    let lines = |numbers: Range<usize>| {
        let lines: Vec<_> = numbers.map(|number| format!("[ann] {number:03}{filler}\n")).collect();
        lines.concat()
    };
    let output = |index| {
        let output = text(stage.output(index)).strip_prefix(GREETING).unwrap();
        output.split_once("* eve has entered the room\n").map_or(output, |(_, rest)| rest)
    };
    assert_eq!(output(1), lines(0..LINES));
    let (before, after) = output(2).split_once(" lines skipped\n").unwrap();
    let (before, skipped) = before.rsplit_once("* ").unwrap();
    let skipped: usize = skipped.parse().unwrap();
    let read = LINES - WINDOW - skipped;
    let list = "* The room contains: ann, bob\n";
    assert_eq!(before, format!("{list}{}", lines(0..read)));
    assert_eq!(after, lines(LINES - WINDOW..LINES));
    assert_eq!(read, 66, "64 KiB and one line");
}

#[derive(Clone, Debug)]
enum Action {
    Say(String),
    Finish,
    Reset,
    /// The server drops the connection.
    Abort,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => "[a-d]".prop_map(Action::Say),
        1 => Just(Action::Finish),
        1 => Just(Action::Reset),
        1 => Just(Action::Abort),
    ]
}

/// What the connections to one room should have received.
#[derive(Default)]
struct Model {
    connections: [ModelConnection; 4],
}

#[derive(Clone, Default)]
struct ModelConnection {
    name: Option<String>,
    output: String,
    has_ended: bool,
}

impl Model {
    fn act(&mut self, index: usize, action: &Action) {
        let connection = &mut self.connections[index];
        if connection.has_ended {
            return;
        }
        let Action::Say(said) = action else {
            return self.end(index);
        };
        if let Some(name) = &connection.name {
            let line = format!("[{name}] {said}\n");
            return self.tell_others(index, &line);
        }
        let names: BTreeSet<_> = self.connections.iter().filter_map(|it| it.name.clone()).collect();
        let connection = &mut self.connections[index];
        if names.contains(said) {
            connection.output += "* error: the name is in use\n";
            return self.end(index);
        }
        connection.name = Some(said.clone());
        let names: Vec<_> = names.into_iter().collect();
        connection.output.extend(["* The room contains: ", &names.join(", "), "\n"]);
        self.tell_others(index, &format!("* {said} has entered the room\n"));
    }

    fn end(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.has_ended = true;
        if let Some(name) = connection.name.take() {
            self.tell_others(index, &format!("* {name} has left the room\n"));
        }
    }

    fn tell_others(&mut self, index: usize, line: &str) {
        for (other, connection) in self.connections.iter_mut().enumerate() {
            if other != index && connection.name.is_some() {
                connection.output += line;
            }
        }
    }
}

#[test]
fn members_come_and_go_as_in_the_model() {
    for_each_case(256, proptest::collection::vec((0..4_usize, action()), 0..40), |actions| {
        let mut model = Model::default();
        let mut machines: Vec<_> = machines(4).into_iter().map(Staged::new).collect();
        let mut stage = Stage::new(&mut machines);
        stage.play_out();
        for (index, action) in actions {
            model.act(index, &action);
            match action {
                Action::Say(said) => stage.play(index, &receive(said + "\n")),
                Action::Finish => stage.play(index, &Op::Eof),
                Action::Reset => {
                    let reset = Op::Error(Direction::Read, ConnectionError::Reset);
                    stage.play(index, &reset);
                }
                Action::Abort => stage.abort(index),
            }
            stage.play_out();
            for (index, connection) in model.connections.iter().enumerate() {
                let expected = format!("{GREETING}{}", connection.output);
                assert_eq!(text(stage.output(index)), expected, "member {index}");
            }
        }
    });
}

/// Any events, in any order: the contract holds, and each line but the last is whole.
#[test]
fn the_contract_holds() {
    for_each_case(
        256,
        stage::interleaved([script::ops_of(input(), 30), script::ops_of(input(), 30)]),
        |ops| {
            let whole = ["Welcome! ", "* ", "["];
            for transcript in stage::play_out(machines(2), &ops) {
                for line in transcript.output.split_inclusive(|byte| *byte == b'\n') {
                    let is_whole = whole
                        .iter()
                        .any(|start| line.starts_with(start.as_bytes()) || !line.ends_with(b"\n"));
                    let line = line.escape_ascii();
                    assert!(is_whole, "{line}");
                }
            }
        },
    );
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    let line = || "([ab]|[a-z ]{0,8})\r?\n".prop_map(String::into_bytes);
    prop_oneof![8 => line(), 1 => script::truncated(line()), 1 => script::garbage()]
}

/// Members with harmless faults, among others that misbehave: each sees every line of the others,
/// all in one order.
#[test]
fn healthy_members_see_every_line_whatever_the_others_do() {
    for_each_seed(8, |seed| {
        let world = World::new(seed);
        let host = world.host("server");
        host.set_faults(Faults::harmless(seed));
        let (room, server) = (room(), Server::default());
        let serving = serve::Server::new(host.clone(), host.listen("server:4000").unwrap());
        let handle = serving.handle();
        host.run(serving.serve(move |_, now| {
            Checked::new(server.machine(Chat::new(&room), now), MAX_QUEUED).with_deadlines()
        }));

        let all_are_in = Barrier::new(HEALTHY);
        let healthy: Vec<_> = (0..HEALTHY)
            .map(|number| {
                let mut acts = vec![
                    Act::ReceiveLines(1),
                    Act::Send(format!("good{number}\n").into()),
                    Act::ReceiveLines(1),
                    Act::Barrier(all_are_in.clone()),
                ];
                for line in 0..LINES {
                    acts.push(Act::Send(format!("line {line}\n").into()));
                    acts.push(Act::Wait(Duration::from_millis(seed * 7 % 40)));
                }
                acts.push(Act::ReceiveAll);
                let faults = Faults::harmless(seed + number as u64);
                join(&world, &format!("good {number}"), faults, acts)
            })
            .collect();
        for number in 0..3 {
            let faults = Faults::harmful(seed * 3 + number);
            let name = Act::Send(format!("bad{number}\nhello\n").into());
            let acts = [vec![name], sim::misbehaving(seed * 3 + number)].concat();
            join(&world, &format!("bad {number}"), faults, acts);
        }
        let resets = vec![Act::ReceiveLines(1), Act::Send("rst\nhal".into()), Act::Reset];
        join(&world, "reset", Faults::harmless(seed), resets);

        world.run_for(Duration::from_secs(300)).unwrap();
        handle.drain();
        world.run().unwrap();
        let said: Vec<_> = healthy.iter().map(said_by_good).collect();
        for (listener, lines) in said.iter().enumerate() {
            for speaker in (0..HEALTHY).filter(|speaker| *speaker != listener) {
                let name = format!("[good{speaker}] ");
                let heard = lines.iter().filter_map(|line| line.strip_prefix(&*name));
                assert!(heard.eq((0..LINES).map(|line| format!("line {line}"))), "{lines:?}");
                let of_others = |lines: &[String]| -> Vec<String> {
                    let both = [name.clone(), format!("[good{listener}] ")];
                    let is_other = |line: &&String| !both.iter().any(|name| line.starts_with(name));
                    lines.iter().filter(is_other).cloned().collect()
                };
                assert_eq!(of_others(lines), of_others(&said[speaker]), "one order");
            }
        }
        assert_eq!((world.leftovers(), world.panics()), (Leftovers::default(), 0));
    });
}

const HEALTHY: usize = 4;
const LINES: usize = 10;

/// A peer of the server.
fn join(world: &World, name: &str, faults: Faults, acts: Vec<Act>) -> Task<Received> {
    let host: Host = world.host(name);
    host.set_faults(faults);
    let runtime = host.clone();
    host.run(async move {
        match runtime.connect("server:4000").await {
            Ok(socket) => sim::act(runtime, socket, acts).await,
            Err(_) => Received::default(),
        }
    })
}

/// The lines of healthy members that a member has received.
fn said_by_good(member: &Task<Received>) -> Vec<String> {
    let Received { bytes, fin, error } = member.take().expect("its acts are over");
    assert_eq!((fin, error), (true, None));
    text(&bytes).lines().filter(|line| line.starts_with("[good")).map(String::from).collect()
}

/// A process that is killed when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A member that types into `nc`.
struct Netcat {
    _process: Process,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Netcat {
    fn connect(address: &str) -> Self {
        let (host, port) = address.rsplit_once(':').unwrap();
        let mut command = Command::new("nc");
        command.args([host, port]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("nc starts");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .all(|line| sender.send(line).is_ok())
        });
        Self { _process: Process(child), input, lines }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn hears(&self, line: &str) {
        assert_eq!(self.lines.recv_timeout(Duration::from_secs(20)).as_deref(), Ok(line));
    }

    /// Expects the server's FIN. `nc` ends after it once its own input has ended.
    fn hears_no_more(self) {
        drop(self.input);
        let end = Err(mpsc::RecvTimeoutError::Disconnected);
        assert_eq!(self.lines.recv_timeout(Duration::from_secs(20)), end);
    }

    fn enter(&mut self, name: &str, others: &str) {
        self.hears("Welcome! What is your name?");
        self.say(name);
        self.hears(&format!("* The room contains: {others}"));
    }
}

#[test]
fn netcat_chats_on_each_runtime() {
    // The examples are beside the folder of this test's executable.
    let test = env::current_exe().unwrap();
    let example = test.parent().unwrap().with_file_name("examples").join("chat");
    if !example.exists() || Command::new("nc").arg("-h").output().is_err() {
        eprintln!("NOT TESTED: {} or nc is absent", example.display());
        assert!(env::var_os("CI").is_none(), "CI has both");
        return;
    }
    for runtime in ["tokio", "smol", "std"] {
        let mut command = Command::new(&example);
        let child = command.args([runtime, "127.0.0.1:0"]).stderr(Stdio::piped()).spawn();
        let mut server = Process(child.unwrap());
        let mut log = BufReader::new(server.0.stderr.take().unwrap()).lines().map(Result::unwrap);
        let ready = log.next().unwrap();
        let address = ready.strip_prefix("listening on ").unwrap();

        let [mut ann, mut bob, mut bad] = [(); 3].map(|()| Netcat::connect(address));
        ann.enter("ann", "");
        bob.enter("bob", "ann");
        ann.hears("* bob has entered the room");
        bob.say("hello");
        ann.hears("[bob] hello");
        ann.say("hello bob");
        bob.hears("[ann] hello bob");
        bad.hears("Welcome! What is your name?");
        bad.say("bob");
        bad.hears("* error: the name is in use");
        bad.hears_no_more();
        drop(bob);
        ann.hears("* bob has left the room");

        kill_process(Pid::from_child(&server.0), Signal::TERM).unwrap();
        ann.hears_no_more();
        assert!(server.0.wait().unwrap().success(), "{runtime}");
    }
}
