//! The SOCKS5 server of the examples: its handshake alone, in the simulator, and with curl.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

#[path = "../examples/socks5.rs"]
mod socks5;

use std::{
    env,
    future::{Future, poll_fn},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use proptest::prelude::*;
use wirestate_core::{
    Instant, Machine as _, Runtime as _,
    coroutine::{Connection, Factory},
    echo,
    runtime::Listener as _,
    serve::{self, ServerHandle},
    shared::Shared,
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case, for_each_seed,
    script::{self, Ending, Op, split_invariant, split_invariant_exhaustive},
    sim::{Act, Faults, Host, Leftovers, Listener, Received, World, act},
};

use crate::socks5::{SocksError, handshake};

/// The handshake alone, and a dial that always succeeds. It returns the target.
fn machine(
    login: Option<&str>,
) -> Checked<Connection<String, SocksError, impl Future<Output = Result<String, SocksError>>>> {
    let login = login.map(Shared::from);
    let dial = async |target| Ok((b"connected".to_vec(), target));
    let connection = Factory::default().handshake(Instant::EPOCH, |io| handshake(io, login, dial));
    Checked::new(connection, 16 * 1024).with_deadlines()
}

/// Bytes of hexadecimal digits, with spaces between them.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// Requests of each form: without and with a login, and their targets.
const REQUESTS: [(&str, Option<&str>, &str); 4] = [
    ("050100 05010001 7f000001 0050", None, "127.0.0.1:80"),
    ("05020100 05010004 20010db8000000000000000000000001 01bb", None, "[2001:db8::1]:443"),
    ("050100 05010003 01 61 0050", None, "a:80"),
    ("05020002 01 0161 0162 05010003 05 612d622e63 ffff", Some("a:b"), "a-b.c:65535"),
];

#[test]
fn no_cut_changes_the_target() {
    for (request, login, target) in REQUESTS {
        let request = bytes(request);
        let transcript = split_invariant(|| machine(login), &request);
        let agreed = if login.is_some() { "0502 0100" } else { "0500" };
        assert_eq!(transcript.output, [bytes(agreed), b"connected".to_vec()].concat());
        let mut machine = machine(login);
        let input = [request, b"more".to_vec()].concat();
        script::play_out(&mut machine, &[Op::Receive(input)]);
        let handshake = machine.machine_mut();
        assert_eq!(handshake.take_output().unwrap(), target);
        assert_eq!(handshake.take_input(), b"more", "the input after the handshake");
    }
    split_invariant_exhaustive(|| machine(None), &bytes(REQUESTS[2].0));
}

#[test]
fn a_client_that_ends_within_the_handshake_gets_no_further_reply() {
    for (request, login, _) in REQUESTS {
        let request = bytes(request);
        for end in 0..request.len() {
            let transcript = script::play_out(
                &mut machine(login),
                &[Op::Receive(request[..end].to_vec()), Op::Eof],
            );
            assert_eq!(
                (transcript.label, transcript.ending),
                (Some("truncated"), Some(Ending::Fin))
            );
            assert!(
                bytes("0502 0100").starts_with(&transcript.output) || transcript.output == [5, 0]
            );
        }
    }
}

#[test]
fn a_client_that_takes_too_long_gets_no_further_reply() {
    let ops = [Op::Receive(bytes("050100 05")), Op::Accept(9), Op::Timeout, Op::Eof];
    let transcript = script::play_out(&mut machine(None), &ops);
    assert_eq!((transcript.label, &*transcript.output), (Some("deadline"), &[5, 0][..]));
}

#[test]
fn a_dial_is_not_limited_by_the_time_for_the_request() {
    let dial = |_| std::future::pending::<Result<(Vec<u8>, ()), _>>();
    let handshake = Factory::default().handshake(Instant::EPOCH, |io| handshake(io, None, dial));
    let mut machine = Checked::new(handshake, 16 * 1024);
    let late = Op::Advance(Duration::from_secs(9));
    let request = Op::Receive(bytes(REQUESTS[0].0));
    // The timeout only observes that the client has acknowledged the method.
    script::play(&mut machine, &[late, request, Op::Accept(9), Op::Timeout]);
    assert_eq!((machine.status().state, machine.poll_timeout()), ("waiting", None));
}

/// The table of bad input in the documentation of the example.
#[test]
fn bad_input_gets_the_documented_reply_and_a_fin() {
    let page = include_str!("../examples/socks5.rs");
    let (_, table) = page.split_once("| bad input |").unwrap();
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("//! | `"));
    let mut count = 0;
    for row in rows {
        let (input, rest) = row.split_once('`').unwrap();
        let (_, reply) = rest.split_once(" | `").unwrap();
        let reply = reply.trim_end_matches("` |");
        let login = row.contains("assword") || row.contains("1929");
        let input = [bytes(input), bytes("00ff00ff")].concat(); // which is discarded
        let transcript = split_invariant(|| machine(login.then_some("a:b!")), &input);
        let agreed = match (input[1], login) {
            (1, true) if input[2] == 2 => bytes("0502"),
            (1, false) if input[2] == 0 => bytes("0500"),
            _ => Vec::new(),
        };
        assert_eq!(transcript.output, [agreed, bytes(reply)].concat(), "{row}");
        assert_eq!((transcript.label, transcript.ending), (Some("malformed"), Some(Ending::Fin)));
        count += 1;
    }
    assert_eq!(count, 14, "rows of the table");
}

#[test]
fn any_script_keeps_the_contract() {
    let requests = prop::sample::select(&REQUESTS[..]);
    for_each_case(
        256,
        (
            script::ops_of(
                prop_oneof![
                    4 => requests.prop_map(|(request, _, _)| bytes(request)),
                    4 => Just(bytes("050100")),
                    2 => script::truncated(Just(bytes(REQUESTS[1].0))),
                    1 => script::garbage(),
                ],
                30,
            ),
            any::<bool>(),
        ),
        |(ops, login)| {
            script::play(&mut machine(login.then_some("a:b")), &ops);
        },
    );
}

/// A host "socks" that serves, and a host "target" that echoes on port 7.
struct Scene {
    world: World,
    /// Of the proxy and of the echo server.
    handles: [ServerHandle; 2],
}

impl Scene {
    fn new(seed: u64, faults: fn(u64) -> Faults) -> Self {
        let world = World::new(seed);
        let (socks, target) = (world.host("socks"), world.host("target"));
        let server = |host: &Host, address| {
            host.set_faults(faults(seed));
            serve::Server::new(host.clone(), host.listen(address).unwrap())
        };
        let (proxy, upstream) = (server(&socks, "socks:1080"), server(&target, "target:7"));
        let handles = [proxy.handle(), upstream.handle()];
        let config = echo::Config::default().with_idle_timeout(None);
        let echo = echo::Server::new(config).unwrap();
        socks.run(socks5::serve(proxy, None));
        target.run(upstream.serve(move |_, now| echo.machine(now)));
        Self { world, handles }
    }

    /// A host that listens, and cannot be reached.
    fn silent(&self) -> Listener {
        let host = self.world.host("silent");
        host.set_unplugged(true);
        host.listen("silent:7").unwrap()
    }

    /// Performs `acts` as a client, after the request to connect to `target`.
    fn client(&self, target: &str, port: u16, acts: Vec<Act>) -> Received {
        let client = self.world.host("client");
        let name = [&[u8::try_from(target.len()).unwrap()], target.as_bytes()].concat();
        let request = [&bytes("050100 05010003"), &name[..], &port.to_be_bytes()].concat();
        let runtime = client.clone();
        let received = client.run(async move {
            let socket = runtime.connect("socks:1080").await.unwrap();
            act(runtime, socket, [vec![Act::Send(request.into())], acts].concat()).await
        });
        self.world.run_until(&received).unwrap()
    }

    /// Shuts the servers down. Returns the label of the connection's end.
    fn end(self) -> String {
        for handle in &self.handles {
            handle.drain();
        }
        self.world.run().unwrap();
        assert_eq!(self.world.leftovers(), Leftovers::default());
        let ended = self.handles[0].table().totals().ended;
        assert_eq!(ended.values().sum::<u64>(), 1);
        ended.keys().next().unwrap().to_string()
    }
}

#[test]
fn a_client_talks_to_the_target_and_each_fin_is_forwarded() {
    for_each_seed(30, |seed| {
        let scene = Scene::new(seed, Faults::harmless);
        let text = b"some bytes".repeat(usize::try_from(seed % 30 * 100 + 1).unwrap());
        // The first bytes are sent before the reply to the request.
        let acts = vec![
            Act::Send("early ".into()),
            Act::Receive(18),
            Act::Send(text.clone().into()),
            Act::Finish,
            Act::ReceiveAll,
        ];
        let received = scene.client("target", 7, acts);
        let reply = bytes("0500 05000001 0a000001"); // from the address of the first host
        assert_eq!(received.bytes[..10], reply);
        assert_eq!(received.bytes[12..], [&b"early "[..], &text].concat());
        assert!(received.fin);
        assert_eq!(scene.end(), "finished");
    });
}

#[test]
fn a_fin_never_hides_that_bytes_were_lost() {
    for_each_seed(60, |seed| {
        let scene = Scene::new(seed, |seed| Faults { accept_aborted: 0, ..Faults::harmful(seed) });
        let text = b"some bytes".repeat(100);
        let acts = vec![Act::Send(text.clone().into()), Act::Finish, Act::ReceiveAll];
        let received = scene.client("target", 7, acts);
        let is_relayed = received.bytes.get(3) == Some(&0) && received.bytes.len() >= 12;
        if received.fin && is_relayed {
            assert_eq!(received.bytes[12..], text);
        }
        scene.end();
    });
}

#[test]
fn the_reply_says_why_the_target_cannot_be_reached() {
    for (target, port, code) in [("target", 8, 5), ("silent", 7, 4), ("unknown", 7, 1)] {
        let scene = Scene::new(1, |_| Faults::NONE);
        let listener = scene.silent();
        let received = scene.client(target, port, vec![Act::ReceiveAll]);
        assert_eq!(received.bytes, [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0], "{target}:{port}");
        assert!(received.fin);
        drop(listener);
        assert_eq!(scene.end(), "no_upstream");
    }
}

#[test]
fn a_client_that_leaves_cancels_the_dial() {
    let scene = Scene::new(1, |_| Faults::NONE);
    let listener = scene.silent();
    let acts = vec![Act::Wait(Duration::from_secs(1)), Act::Reset];
    scene.client("silent", 7, acts);
    scene.world.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(scene.handles[0].table().totals().open, 0);
    drop(listener);
    assert_eq!(scene.end(), "reset");
}

#[test]
fn a_reset_of_the_target_resets_the_client() {
    let scene = Scene::new(1, |_| Faults::NONE);
    let host = scene.world.host("rude");
    let mut listener = host.listen("rude:7").unwrap();
    host.clone().run(async move {
        let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        act(host, socket, vec![Act::Send("last words".into()), Act::Receive(5), Act::Reset]).await
    });
    let received = scene.client("rude", 7, vec![Act::Send("hello".into()), Act::ReceiveAll]);
    assert!(received.bytes.ends_with(b"last words"));
    assert_eq!((received.fin, received.error.is_some()), (false, true));
    assert_eq!(scene.end(), "upstream_lost");
}

#[test]
fn an_idle_relay_is_reset() {
    let scene = Scene::new(1, |_| Faults::NONE);
    let received = scene.client("target", 7, vec![Act::ReceiveAll]);
    assert_eq!((received.fin, received.error.is_some()), (false, true));
    assert_eq!(scene.end(), "idle_timeout");
}

#[test]
fn a_shutdown_ends_the_relay() {
    let scene = Scene::new(1, |_| Faults::NONE);
    let acts = vec![Act::Receive(12), Act::Send("hello".into()), Act::ReceiveAll];
    let shutdown = scene.handles[0].clone();
    let host = scene.world.host("operator");
    host.clone().run(async move {
        host.sleep(Duration::from_secs(1)).await;
        shutdown.drain();
    });
    let received = scene.client("target", 7, acts);
    assert_eq!((&received.bytes[12..], received.fin), (&b"hello"[..], true));
    assert_eq!(scene.end(), "shut_down");
}

/// The example as a process, killed when it is dropped.
struct Example {
    process: Child,
    address: String,
}

impl Example {
    fn start(runtime: &str) -> Self {
        let tests = env::current_exe().unwrap();
        let folder = tests.ancestors().nth(2).expect("it is in target/debug/deps");
        let mut process = Command::new(folder.join("examples/socks5"))
            .args([runtime, "127.0.0.1:0", "user:secret"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("`cargo build --examples` has built it");
        let line = BufReader::new(process.stderr.take().unwrap()).lines().next();
        let line = line.expect("it says where it listens").unwrap();
        let address = line.strip_prefix("listening on ").expect(&line).to_owned();
        Self { process, address }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Answers one HTTP request on each connection, for as long as the process runs.
fn serve_http() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = |mut stream: TcpStream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let content = "relayed ".repeat(100_000);
        let length = content.len();
        let _ = write!(stream, "HTTP/1.0 200 OK\r\ncontent-length: {length}\r\n\r\n{content}");
    };
    thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap())));
    port
}

#[test]
fn curl_uses_the_example_on_each_runtime() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("NOT TESTED: there is no curl");
        return;
    }
    let port = serve_http();
    for runtime in ["tokio", "smol", "std"] {
        let example = Example::start(runtime);
        let curl = |option: &str, login: &str, url: &str| {
            let proxy = format!("{login}@{}", example.address);
            let arguments = ["-sS", "-m", "20", option, &proxy, url];
            let output = Command::new("curl").args(arguments).env_remove("no_proxy").output();
            let output = output.unwrap();
            (output.stdout.len(), String::from_utf8(output.stderr).unwrap())
        };
        for (option, host) in [("--socks5", "127.0.0.1"), ("--socks5-hostname", "localhost")] {
            let url = format!("http://{host}:{port}/");
            let received = curl(option, "user:secret", &url);
            assert_eq!(received, (800_000, String::new()), "{runtime}, {option}");
        }
        let url = format!("http://127.0.0.1:{port}/");
        let (_, error) = curl("--socks5", "user:wrong", &url);
        assert!(error.contains("User was rejected"), "{runtime}: {error}");
        let (_, error) = curl("--socks5", "user:secret", "http://127.0.0.1:1/");
        assert!(error.contains("(5)"), "{runtime}: {error}");
    }
}
