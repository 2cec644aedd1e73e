//! A proxy that injects faults.

use std::{
    fmt::Write as _,
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    logging::with_hangup,
    process::{Server, eventually, run, text, word_after},
    proxy::proxy,
    status,
    third_party::program,
    unix::Folder,
};

/// Serves each connection on a thread: after the request, 200 bytes and a FIN. Then it reads to the
/// end. It ends with the test.
fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = |mut stream: TcpStream| {
        let mut request = *REQUEST;
        if stream.read_exact(&mut request).is_ok() && stream.write_all(&answer()).is_ok() {
            // A reset ends it as well.
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    };
    thread::spawn(move || {
        listener.incoming().flatten().for_each(|it| drop(thread::spawn(move || answer(it))));
    });
    address
}

const REQUEST: &[u8; 7] = b"request";

fn answer() -> Vec<u8> {
    (0..200).collect()
}

/// Sends a request, and reads to the end.
fn request(server: &Server) -> (Vec<u8>, Option<ErrorKind>) {
    let (mut stream, mut bytes) = (server.connect(), Vec::new());
    stream.write_all(REQUEST).unwrap();
    let error = stream.read_to_end(&mut bytes).err();
    (bytes, error.map(|error| error.kind()))
}

/// The faults that the log has, without the times, for each direction of each connection.
fn logged(log: &str, connections: usize) -> String {
    let mut faults = String::new();
    for id in 1..=connections {
        for to in ["upstream", "client"] {
            let direction = format!(" fault injected id={id} to={to} ");
            for line in log.lines() {
                let Some((_, fault)) = line.split_once(&direction) else { continue };
                let (fault, _) = fault.split_once(" server=").unwrap();
                writeln!(faults, "{id} {to} {fault}").unwrap();
            }
        }
    }
    faults
}

/// What happens to five connections with [`PLAN`]: what each client sees, and what is logged. The
/// request is complete before a reset can strike, which cuts off the other direction anywhere.
fn transcript(binary: &str, upstream: &str, flags: &[&str]) -> (String, String) {
    let log = ["--faults", PLAN, "--log", "info,wirestate_core::proxy=trace"];
    let server = proxy(binary, upstream, &[&log, flags].concat());
    let mut seen = String::new();
    for _ in 0..5 {
        let (bytes, error) = request(&server);
        assert!(answer().starts_with(&bytes), "{bytes:?}");
        writeln!(seen, "{} {error:?}", bytes.len()).unwrap();
    }
    let log = server.stop();
    (seen + &logged(&log, 5), log)
}

const PLAN: &str = "
    to-upstream.slice = { bytes = '1..4', pause = '0s', chance = 0.5 }
    [to-client]
    slice = { bytes = '1..99', pause = '0..2ms', chance = 0.5 }
    stall = { after = '0..50', time = '0..9ms', chance = 0.5 }
    half-close = { after = '1..200', chance = 0.4 }
    reset = { after = '1..200', chance = 0.4 }
";

pub(crate) fn the_same_seed_gives_the_same_faults_on_every_runtime(binary: &str) {
    let (seen, log) = transcript(binary, &upstream(), &["--seed", "7"]);
    assert_eq!(seen, TRANSCRIPT);
    assert!(log.contains("faults are injected into connections plan=\"\\n    to-up"), "{log}");
}

/// The faults of [`PLAN`] with the seed 7.
const TRANSCRIPT: &str = r#"144 Some(ConnectionReset)
193 Some(ConnectionReset)
200 None
117 None
54 None
1 upstream fault="slice" at=3 bytes=3 seconds=0.0
1 upstream fault="slice" at=7 bytes=4 seconds=0.0
1 client fault="slice" at=4 bytes=4 seconds=0.00146
1 client fault="stall" at=14 seconds=0.003519
1 client fault="slice" at=65 bytes=61 seconds=0.000532
1 client fault="reset" at=144
2 upstream fault="slice" at=4 bytes=4 seconds=0.0
2 client fault="reset" at=193
3 upstream fault="slice" at=3 bytes=3 seconds=0.0
3 upstream fault="slice" at=7 bytes=4 seconds=0.0
4 upstream fault="slice" at=4 bytes=4 seconds=0.0
4 upstream fault="slice" at=6 bytes=2 seconds=0.0
4 upstream fault="slice" at=7 bytes=1 seconds=0.0
4 client fault="stall" at=0 seconds=0.003043
4 client fault="half_close" at=117
5 client fault="slice" at=26 bytes=26 seconds=0.00155
5 client fault="half_close" at=54
"#;

pub(crate) fn a_random_seed_is_logged_and_repeats_the_run(binary: &str) {
    let upstream = upstream();
    let (first, log) = transcript(binary, &upstream, &["-q"]);
    let seed = word_after(" seed=", &log).expect("the log has the seed");
    let (second, _) = transcript(binary, &upstream, &["-q", "--seed", &seed]);
    assert_eq!(first, second);
}

pub(crate) fn an_injected_reset_comes_to_both_sides(binary: &str) {
    let flags = ["--faults", "to-client.reset.after = 100", "--status", "127.0.0.1:0"];
    let (address, upstream) = crate::proxy::upstream(|mut stream| {
        stream.read_exact(&mut REQUEST.clone()).unwrap();
        stream.write_all(&answer()).unwrap();
        stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind())
    });
    let server = proxy(binary, &address, &flags);
    let (bytes, error) = request(&server);
    assert_eq!((&*bytes, error), (&answer()[..100], Some(ErrorKind::ConnectionReset)));
    assert_eq!(upstream.join().unwrap(), Err(ErrorKind::ConnectionReset));
    eventually("it is counted", || status::ended(&server).get("injected_reset") == Some(&1));
    let metrics = status::get(&server, "/metrics").1;
    let count = "\nwirestate_proxy_faults_to_client_total{server=\"proxy\",fault=\"reset\"} 1\n";
    assert!(metrics.contains(count), "{metrics}");
}

pub(crate) fn a_half_closed_direction_leaves_the_other_one_open(binary: &str) {
    let echo = Server::start(binary, &[]);
    let flags = ["--faults", "to-client = { half-close = 5, delay = '20ms' }", "-v"];
    let server = proxy(binary, &echo.address, &flags);
    let (mut stream, mut bytes) = (server.connect(), Vec::new());
    let began = Instant::now();
    stream.write_all(b"hello, hello").unwrap();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"hello");
    // The proxy may have read its clock before the bytes arrived.
    assert!(began.elapsed() >= Duration::from_millis(10));
    stream.write_all(b"hello?").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    eventually("the connection ends", || server.logged(" closed: finished id=1 ") == 1);
    let log = server.stop();
    assert!(log.contains(" received=18 sent=5 "), "{log}");
}

pub(crate) fn a_black_hole_answers_nothing(binary: &str) {
    let server = proxy(binary, &upstream(), &["--faults", "to-client.black-hole = 3"]);
    let (mut stream, mut bytes) = (server.connect(), [0; 9]);
    stream.write_all(REQUEST).unwrap();
    stream.read_exact(&mut bytes[..3]).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = stream.read(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

pub(crate) fn a_hangup_reads_the_plan_again_for_new_connections(binary: &str) {
    let folder = Folder::new("plan", binary);
    let (path, upstream) = (folder.path("plan.toml"), upstream());
    let plan = |text: &str| fs::write(&path, text).unwrap();
    plan("[to-client]\nhalf-close = 3\nstall = { after = 2, time = '300ms' }");
    let words = ["proxy", "--listen", "127.0.0.1:0", "--upstream", &upstream, "--faults"];
    let words = [&words[..], &[path.to_str().unwrap()]].concat();
    let server = Server::start_command(with_hangup("default", binary, &words));
    let mut old = server.connect();
    old.write_all(REQUEST).unwrap();
    old.read_exact(&mut [0; 2]).unwrap();

    plan("to-client.half-close = 5");
    server.signal(Signal::HUP);
    eventually("it is loaded", || server.logged("plan of faults loaded again") == 1);
    assert_eq!(request(&server), (answer()[..5].into(), None));
    let mut rest = Vec::new();
    old.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [2], "an open connection keeps its faults");

    plan("to-client.half-close = '5'\nto-client.resett = 3");
    server.signal(Signal::HUP);
    let refused = "plan.toml:2:11: unknown fault `to-client.resett`";
    eventually(refused, || server.logged(refused) == 1);
    assert_eq!(request(&server).0, answer()[..5]);
}

pub(crate) fn a_wrong_plan_is_wrong_usage(binary: &str) {
    let folder = Folder::new("wrong-plan", binary);
    let path = folder.path("plan.toml");
    fs::write(&path, "[both]\nslice = \"1..4\"\ndelay = { time = \"20\" }\n").unwrap();
    let path = path.to_str().unwrap();
    for (flags, code, expected) in [
        (
            &["--faults", path][..],
            2,
            "plan.toml:3:18: invalid value '20' for 'both.delay.time': expected a time with its \
             unit, as in 500ms, 20s or 1m 30s; or a range, FIRST..LAST\n",
        ),
        (&["--faults", "both.slice = 0"], 2, "'both.slice.bytes': expected at least 1B"),
        (&["--faults", "no/such/file"], 1, "cannot read no/such/file: No such file"),
        (&["--seed", "7"], 2, "--faults <PLAN>"),
    ] {
        let output = run(binary, &[&["proxy", "--listen", "127.0.0.1:0"], flags].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {error}");
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
}

/// A server that is killed when it is dropped.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `None` if it is not installed.
fn redis(folder: &Folder) -> Option<Redis> {
    let socket = folder.path("redis");
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket);
    match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
        Ok(child) => {
            let redis = Redis(child);
            eventually("redis-server listens", || socket.exists());
            Some(redis)
        }
        Err(error) => {
            eprintln!("NOT TESTED: redis-server: {error}");
            assert!(std::env::var_os("CI").is_none(), "CI installs it");
            None
        }
    }
}

pub(crate) fn redis_cli_reads_what_arrives_in_pieces_and_reports_a_reset(binary: &str) {
    let folder = Folder::new("redis", binary);
    let Some(_redis) = redis(&folder) else { return };
    let cli = |server: &Server, words: &[&str]| {
        let (host, port) = server.address.rsplit_once(':').unwrap();
        program("redis-cli", &[&["-h", host, "-p", port], words].concat(), b"")
    };
    let address = folder.address("redis");
    let plan = "both.slice = { bytes = '1..3', pause = '0..1ms' }\nto-client.jitter = '0..5ms'";
    let server = proxy(binary, &address, &["--faults", plan, "--seed", "7"]);
    let Some(output) = cli(&server, &["SET", "key", "a value in pieces"]) else { return };
    assert_eq!(text(&output.stdout), "OK\n");
    let output = cli(&server, &["GET", "key"]).unwrap();
    assert_eq!(text(&output.stdout), "a value in pieces\n");

    let flags = ["--faults", "to-client.reset.after = 3", "--seed", "7"];
    let server = proxy(binary, &address, &flags);
    let output = cli(&server, &["GET", "key"]).unwrap();
    let error = text(&output.stderr);
    assert!(!output.status.success() && error.contains("Connection reset by peer"), "{error}");
}
