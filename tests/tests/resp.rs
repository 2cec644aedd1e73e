//! The test page of the example `resp`: against a model, against `redis-server`, on a simulated
//! network, and with `redis-cli` and `redis-benchmark`.

#[path = "../examples/resp.rs"]
mod resp;

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use proptest::{prelude::*, strategy::ValueTree as _};
use wirestate_core::{
    ConnectionError, Instant, Runtime as _, drive,
    protocol::{Config, Connection},
    serve,
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case, for_each_seed,
    script::{self, Check, Ending, Op},
    sim::{Act, Barrier, Faults, Leftovers, Received, Task, World, act},
    stage,
};

use crate::resp::{Resp, database};

/// Machines of connections to one database, each under a check of the contract. None may queue
/// more than 64 KiB and one reply.
fn machines(count: u64) -> Vec<Checked<Connection<Resp>>> {
    let config = Config::default().with_buffer(const { std::num::NonZeroUsize::new(64).unwrap() });
    let connect = database(config).expect("the configuration is valid");
    (0..count).map(|number| Checked::new(connect(number, Instant::EPOCH), 80 * 1024)).collect()
}

fn machine() -> Checked<Connection<Resp>> {
    machines(1).remove(0).with_deadlines()
}

/// A request.
fn request(arguments: &[&str]) -> Vec<u8> {
    let head = format!("*{}\r\n", arguments.len());
    let bulks = arguments.iter().map(|argument| format!("${}\r\n{argument}\r\n", argument.len()));
    (head + &bulks.collect::<String>()).into()
}

/// A request in the model.
#[derive(Clone, Debug)]
struct Request {
    words: Vec<String>,
    is_inline: bool,
}

impl From<Request> for Vec<u8> {
    fn from(Request { words, is_inline }: Request) -> Self {
        if is_inline {
            return (words.join(" ") + "\r\n").into();
        }
        request(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Requests for a few keys, so that they meet.
fn requests() -> impl Strategy<Value = Request> {
    let words = prop_oneof![
        6 => "(set|SET) [abc] (-?[0-9]{1,2}|[a-z]{1,9})",
        3 => Just("set a 9223372036854775807".to_owned()),
        6 => "(get|incr|decr|del|exists) [abc]",
        2 => "(del|exists|get) [abc] [abc]",
        2 => "(ping|dbsize|flushall|command|nonsense)",
        1 => "(echo|ping) [a-z]{1,200}",
        1 => "(incr|get|set)",
        1 => Just("quit".to_owned()),
    ];
    (words, any::<bool>()).prop_map(|(words, is_inline)| {
        let words = words.split(' ').map(str::to_owned).collect();
        Request { words, is_inline }
    })
}

/// The model: the exact replies to `requests` on a new database.
fn replies(requests: &[Request]) -> Vec<u8> {
    let (mut values, mut replies) = (BTreeMap::<String, String>::new(), String::new());
    for Request { words, .. } in requests {
        let name = words[0].to_ascii_lowercase();
        let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let reply = match (&*name, &*arguments) {
            ("ping", []) => "+PONG".into(),
            ("ping" | "echo", [text]) => format!("${}\r\n{text}", text.len()),
            ("get", [key]) => match values.get(*key) {
                None => "$-1".into(),
                Some(value) => format!("${}\r\n{value}", value.len()),
            },
            ("set", [key, value]) => {
                values.insert((*key).into(), (*value).into());
                "+OK".into()
            }
            ("incr" | "decr", [key]) => {
                let value = values.get(*key).map_or("0", String::as_str).parse::<i64>();
                // A canonical number: no zero in front.
                match value.ok().filter(|n| values.get(*key).is_none_or(|v| *v == n.to_string())) {
                    None => "-ERR value is not an integer or out of range".into(),
                    Some(value) => {
                        let step = if name == "incr" { 1 } else { -1 };
                        match value.checked_add(step) {
                            None => "-ERR increment or decrement would overflow".into(),
                            Some(new) => {
                                values.insert((*key).into(), new.to_string());
                                format!(":{new}")
                            }
                        }
                    }
                }
            }
            ("del", [_, ..]) => {
                let deleted = arguments.iter().filter(|key| values.remove(**key).is_some());
                format!(":{}", deleted.count())
            }
            ("exists", [_, ..]) => {
                let found = arguments.iter().filter(|key| values.contains_key(**key));
                format!(":{}", found.count())
            }
            ("dbsize", []) => format!(":{}", values.len()),
            ("flushall", []) => {
                values.clear();
                "+OK".into()
            }
            ("command", []) => "*0".into(),
            ("quit", []) => {
                replies += "+OK\r\n";
                break;
            }
            ("nonsense", _) => "-ERR unknown command 'nonsense'".into(),
            (name, _) => format!("-ERR wrong number of arguments for '{name}' command"),
        };
        replies += &(reply + "\r\n");
    }
    replies.into_bytes()
}

#[test]
fn replies_are_those_of_the_model_however_slow_the_peer_is() {
    // The shortest deadline is that of the first line of a request, 5 s.
    Check::new().with_pauses(Duration::from_secs(5)).run(machine, requests(), replies);
}

#[test]
fn the_output_does_not_depend_on_the_cut() {
    let frames = [
        request(&["SET", "key", "a\r\nb"]),
        b"\r\n*0\r\nget \"key\" \r\n".to_vec(),
        request(&["GET", "key"]),
        request(&["FOO", "key"]),
        b"*1\r\n$-1\r\n".to_vec(),
        request(&["GET", "key"]),
    ];
    script::split_invariant(machine, &frames.concat());
    script::split_invariant_exhaustive(machine, b"*1\r\n$1\r\nx\r\n");
}

#[test]
fn any_script_keeps_the_contract() {
    for_each_case(
        256,
        script::ops_of(
            prop_oneof![
                8 => requests().prop_map(Vec::from),
                1 => Just(request(&["MONITOR"])),
                1 => script::truncated(requests().prop_map(Vec::from)),
                1 => script::garbage(),
            ],
            50,
        ),
        |ops| {
            script::play(&mut machines(1)[0], &ops);
        },
    );
}

#[test]
fn each_monitor_gets_each_request_of_the_others_and_no_wake_up_is_lost() {
    for_each_case(
        256,
        stage::interleaved([
            script::ops_of("incr a\n", 20),
            script::ops_of("incr b\n", 20),
            script::ops_of("incr c\n", 20),
        ]),
        |ops| {
            let monitor = (0..3).map(|index| (index, Op::Receive(b"monitor\n".to_vec())));
            let ops: Vec<_> = monitor.chain(ops).collect();
            let transcripts = stage::play_out(machines(3), &ops);
            let shown_to = |index: usize, key: &str| {
                let output = String::from_utf8_lossy(&transcripts[index].output).into_owned();
                output.matches(&format!("\"incr\" \"{key}\"\r\n")).count()
            };
            let sent =
                |index: usize| transcripts[index].input.split(|byte| *byte == b'\n').count() - 2;
            for (index, key) in ["a", "b", "c"].into_iter().enumerate() {
                assert_eq!(shown_to(index, key), 0, "its own");
                for other in (0..3).filter(|other| *other != index) {
                    assert!(shown_to(other, key) <= sent(index));
                }
            }
        },
    );
}

/// The table of bad frames in the example's documentation: `frame`, and what follows
/// `-ERR Protocol error: `.
fn bad_frames() -> Vec<(Vec<u8>, String)> {
    let page = include_str!("../examples/resp.rs");
    let rows = page.lines().filter_map(|line| line.strip_prefix("//! | `"));
    let mut frames: Vec<_> = rows
        .map(|row| {
            let (frame, rest) = row.split_once("` | `").expect("a row has two cells");
            let frame = frame.replace("\\r", "\r").replace("\\n", "\n");
            (frame.into_bytes(), rest.trim_end_matches("` |").to_owned())
        })
        .collect();
    for (before, name) in
        [("*", "mbulk count string"), ("*1\r\n$", "bulk count string"), ("", "inline request")]
    {
        assert!(page.contains(&format!("`too big {name}`")));
        let frame = before.to_owned() + &"1".repeat(64 * 1024 + 1);
        frames.push((frame.into(), format!("too big {name}")));
    }
    assert_eq!(frames.len(), 13);
    frames
}

#[test]
fn a_bad_frame_gets_the_documented_reply_and_a_fin() {
    // The limits that are lower than those of redis-server.
    let limits = [
        ("*129\r\n".to_owned(), "invalid multibulk length"),
        ("*1\r\n$524289\r\n".to_owned(), "invalid bulk length"),
        ("a ".repeat(129) + "\n", "too big inline request"),
        (
            "*2\r\n$524288\r\n".to_owned() + &"v".repeat(524_288) + "\r\n$524288\r\n",
            "a frame of 1048602 bytes or more, above the limit of 1048576",
        ),
    ];
    let limits = limits.map(|(frame, reply)| (frame.into_bytes(), reply.to_owned()));
    for (frame, reply) in bad_frames().into_iter().chain(limits) {
        let close = [Op::Accept(usize::MAX), Op::Finished, Op::Eof];
        let ops = [vec![Op::Receive(b"PING\r\n".to_vec()), Op::Receive(frame)], close.to_vec()];
        let transcript = script::play(&mut machine(), &ops.concat());
        let output = String::from_utf8(transcript.output).expect("the output is text");
        assert_eq!(output, format!("+PONG\r\n-ERR Protocol error: {reply}\r\n"));
        let is_too_long = reply.starts_with("a frame of");
        let label = if is_too_long { "frame_too_long" } else { "malformed" };
        assert_eq!((transcript.label, transcript.ending), (Some(label), Some(Ending::Fin)));
    }
    let truncated = [Op::Receive(b"*1\r\n$4\r\nPI".to_vec()), Op::Eof];
    let transcript = script::play_out(&mut machine(), &truncated);
    let reply = b"-ERR Protocol error: the input ended after 10 of a frame's 14 bytes\r\n";
    assert_eq!(transcript.output.escape_ascii().to_string(), reply.escape_ascii().to_string());
}

#[test]
fn a_store_that_is_full_refuses_values_until_some_are_deleted() {
    let connect = database(Config::default()).expect("the configuration is valid");
    let mut connection = Checked::new(connect(1, Instant::EPOCH), 600 * 1024);
    let value = "v".repeat(512 * 1024);
    let send = |machine: &mut Checked<Connection<Resp>>, request: Vec<u8>| {
        drive::deliver(machine, &mut &request[..], Instant::EPOCH);
        String::from_utf8(script::collect(machine, Instant::EPOCH)).expect("the output is text")
    };
    let mut keys = 0;
    let refused = loop {
        let reply = send(&mut connection, request(&["SET", &keys.to_string(), &value]));
        if reply != "+OK\r\n" {
            break reply;
        }
        keys += 1;
    };
    assert_eq!(refused, "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
    assert_eq!(keys, 127, "the values have half a MiB, the limit is 64 MiB");
    assert_eq!(send(&mut connection, request(&["GET", "0"])).len(), 9 + value.len() + 2);
    assert_eq!(send(&mut connection, request(&["SET", "0", "short"])), "+OK\r\n");
    assert_eq!(send(&mut connection, request(&["SET", "new", &value])), "+OK\r\n");
    let too_long = send(&mut connection, request(&["SET", "key", &(value + "v")]));
    assert_eq!(too_long, "-ERR Protocol error: invalid bulk length\r\n");
}

#[test]
fn echoed_text_counts_towards_the_memory_of_all_connections() {
    let config = Config::default().with_max_memory(4096);
    let connect = database(config).expect("the configuration is valid");
    let mut machine = Checked::new(connect(1, Instant::EPOCH), 600 * 1024);
    let ops = [Op::Receive(request(&["ECHO", &"x".repeat(5000)])), Op::Eof];
    assert_eq!(script::play_out(&mut machine, &ops).label, Some("memory"));
}

#[test]
fn a_monitor_is_never_idle() {
    for (request, label) in [("ping\n", Some("idle_timeout")), ("monitor\n", Some("finished"))] {
        let ops = [Op::Receive(request.into()), Op::Accept(usize::MAX), Op::Timeout, Op::Eof];
        let transcript = script::play_out(&mut machines(1)[0], &ops);
        assert_eq!(transcript.label, label);
    }
}

/// A world with a server, which has these faults.
fn serve(seed: u64, faults: Faults) -> (World, serve::ServerHandle) {
    let world = World::new(seed);
    let server = world.host("server");
    server.set_faults(faults);
    let connect = database(Config::default()).expect("the configuration is valid");
    let listener = server.listen("server:6379").expect("the port is free");
    let resp = serve::Server::new(server.clone(), listener);
    let handle = resp.handle();
    server.run(resp.serve(move |entry, now| Checked::new(connect(entry.id(), now), 80 * 1024)));
    (world, handle)
}

/// A client that performs `acts`.
fn client(world: &World, name: &str, faults: Faults, acts: Vec<Act>) -> Task<Received> {
    let host = world.host(name);
    host.set_faults(faults);
    let runtime = host.clone();
    host.run(async move {
        let socket = runtime.connect("server:6379").await.expect("it listens");
        act(runtime, socket, acts).await
    })
}

fn text(received: Received) -> String {
    String::from_utf8(received.bytes).expect("the output is text")
}

#[test]
fn every_monitor_on_a_faulty_network_sees_each_request_once_and_in_order() {
    for_each_seed(30, |seed| {
        let (world, handle) = serve(seed, Faults::harmless(seed));
        let (first, all) = (Barrier::new(2), Barrier::new(4));
        let barrier = |barrier: &Barrier| Act::Barrier(barrier.clone());
        let monitor = [Act::Send("monitor\r\n".into()), Act::ReceiveLines(1)];
        let [send, receive] = monitor;
        // The first one sees the request of the second one.
        let first_monitor = vec![
            send.clone(),
            receive.clone(),
            barrier(&first),
            barrier(&all),
            Act::ReceiveLines(41),
        ];
        let second_monitor =
            vec![barrier(&first), send, receive, barrier(&all), Act::ReceiveLines(40)];
        let write = |key| {
            let requests: String =
                (0..20).fold(String::new(), |all, n| all + &format!("set {key} {n}\r\n"));
            vec![barrier(&all), Act::Send(requests.into()), Act::Finish, Act::ReceiveAll]
        };
        let start = |name, acts| client(&world, name, Faults::harmless(seed + 1), acts);
        let monitors = [start("monitor 1", first_monitor), start("monitor 2", second_monitor)];
        let writers = [start("writer a", write('a')), start("writer b", write('b'))];
        for monitor in monitors {
            let shown = text(world.run_until(&monitor).expect("the client ends"));
            for key in ['a', 'b'] {
                let quoted = format!("\"set\" \"{key}\" ");
                let values = shown.lines().filter_map(|line| Some(line.split_once(&quoted)?.1));
                let values: Vec<_> =
                    values.map(|value| value.trim_matches('"').to_owned()).collect();
                assert!(values.iter().cloned().eq((0..20).map(|n| n.to_string())), "{shown}");
            }
        }
        for writer in writers {
            let replies = text(world.run_until(&writer).expect("the client ends"));
            assert_eq!(replies, "+OK\r\n".repeat(20));
        }
        handle.drain();
        world.run().expect("the server ends");
        assert_eq!(world.leftovers(), Leftovers::default());
    });
}

#[test]
fn a_monitor_that_does_not_read_delays_nobody_and_is_told_of_the_gap_or_reset() {
    const REQUESTS: usize = 20_000;
    for (pause, label) in [(5, None), (60, Some("write_stalled"))] {
        let (world, handle) = serve(1, Faults::NONE);
        let monitors = Barrier::new(2);
        let monitor = vec![
            Act::Send("monitor\n".into()),
            Act::ReceiveLines(1),
            Act::Barrier(monitors.clone()),
            Act::Wait(Duration::from_secs(pause)),
            Act::ReceiveUntil("\"last\"\r\n".into()),
        ];
        let batch = [Act::Send("incr counter\n".repeat(1000).into()), Act::ReceiveLines(1000)];
        let mut writer = vec![Act::Barrier(monitors)];
        writer.extend(std::iter::repeat_n(batch, REQUESTS / 1000).flatten());
        writer.extend([Act::Send("echo last\n".into()), Act::ReceiveLines(2)]);
        let monitor = client(&world, "monitor", Faults::NONE, monitor);
        let started = world.now();
        let writer = client(&world, "writer", Faults::NONE, writer);
        let replies = text(world.run_until(&writer).expect("the client ends"));
        assert!(replies.ends_with(&format!(":{REQUESTS}\r\n$4\r\nlast\r\n")));
        assert!(world.now().since(started) < Duration::from_secs(2), "the writer was delayed");
        let shown = world.run_until(&monitor).expect("the client ends");
        match label {
            None => {
                let shown = text(shown);
                let gaps =
                    shown.lines().filter_map(|line| line.strip_prefix("-ERR ")?.split_once(' '));
                let skipped: usize = gaps.map(|(n, _)| n.parse::<usize>().unwrap()).sum();
                assert!(skipped > REQUESTS / 2, "{skipped}");
                assert_eq!(shown.matches("\"counter\"").count() + skipped, REQUESTS);
            }
            Some(_) => assert_eq!(shown.error, Some(ConnectionError::Reset)),
        }
        handle.drain();
        world.run().expect("the server ends");
        assert_eq!(world.leftovers(), Leftovers::default());
    }
}

/// A server process, killed when it is dropped.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    /// The example on `runtime`.
    fn example(runtime: &str) -> Self {
        let test = env::current_exe().expect("the test's executable has a path");
        let examples =
            test.ancestors().nth(2).expect("it is in target/debug/deps").join("examples");
        let mut child = Command::new(examples.join("resp"))
            .args([runtime, "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("`cargo build --examples` has built it");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let line = lines.next().expect("it says where it listens").expect("the line is text");
        let address = line.strip_prefix("listening on ").expect("it says where it listens").into();
        Self { child, address }
    }

    /// `redis-server`, if it is installed.
    fn redis() -> Option<Self> {
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port is free");
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .inspect_err(|error| eprintln!("NOT TESTED: redis-server: {error}"));
        let process = Self { child: child.ok()?, address: address.to_string() };
        for _ in 0..1000 {
            if TcpStream::connect(&process.address).is_ok() {
                return Some(process);
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not listen");
    }

    /// What it answers to `input`, until its FIN.
    fn answers(&self, input: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("the timeout is not 0");
        stream.write_all(input).expect("it is connected");
        let mut output = Vec::new();
        stream.read_to_end(&mut output).expect("the server sends its FIN");
        String::from_utf8(output).expect("the output is text")
    }

    /// The output of a Redis client; `None` if it is not installed.
    fn client(&self, program: &str, arguments: &[&str], input: &str) -> Option<String> {
        let (_, port) = self.address.rsplit_once(':').expect("an address has a port");
        let mut client = Command::new(program)
            .args(["-p", port])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .inspect_err(|error| eprintln!("NOT TESTED: {program}: {error}"))
            .ok()?;
        let mut stdin = client.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("the client reads");
        drop(stdin);
        let output = client.wait_with_output().expect("the client ends");
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).expect("its output is text"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn redis_server_replies_the_same() {
    let Some(redis) = Process::redis() else { return };
    for (frame, reply) in bad_frames() {
        assert_eq!(redis.answers(&frame), format!("-ERR Protocol error: {reply}\r\n"));
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop::collection::vec(requests(), 1..200);
    for _ in 0..20 {
        let mut requests = strategy.new_tree(&mut runner).expect("a list").current();
        requests.retain(|request| !matches!(&*request.words[0], "nonsense" | "command"));
        let frames = requests.iter().cloned().flat_map(Vec::from);
        let input: Vec<_> =
            b"flushall\r\n".iter().copied().chain(frames).chain(*b"quit\r\n").collect();
        let mut expected = b"+OK\r\n".to_vec();
        requests.push(Request { words: vec!["quit".into()], is_inline: true });
        expected.extend(replies(&requests));
        let expected = String::from_utf8(expected).expect("the output is text");
        assert_eq!(redis.answers(&input), expected);
    }
}

#[test]
fn the_example_serves_redis_cli_and_redis_benchmark_on_three_runtimes() {
    for runtime in ["tokio", "smol", "std"] {
        let server = Process::example(runtime);
        assert_eq!(server.answers(b"PING\r\nquit\r\n"), "+PONG\r\n+OK\r\n", "on {runtime}");
        let session = "set greeting \"hello world\"\nget greeting\nincr n\nget none\nfoo\n";
        if let Some(output) = server.client("redis-cli", &[], session) {
            let expected = "OK\nhello world\n1\n\nERR unknown command 'foo'\n\n";
            assert_eq!(output, expected, "on {runtime}");
        }
        let load = ["-n", "2000", "-c", "10", "-P", "16", "-t", "set,get,incr,ping", "--csv"];
        if let Some(output) = server.client("redis-benchmark", &load, "") {
            assert_eq!(output.lines().count(), 6, "a heading, and a line for each test: {output}");
            assert_eq!(
                server.answers(b"get counter:__rand_int__\r\nquit\r\n"),
                "$4\r\n2000\r\n+OK\r\n"
            );
        }
    }
}
