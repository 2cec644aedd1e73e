//! Scenarios of the log and of signals. An unread log does not block a server, and peers can cause
//! only a limited number of lines.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe},
    net::{TcpListener, TcpStream},
    os::unix::{net::UnixStream, process::ExitStatusExt},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    pipe::fcntl_setpipe_size,
    process::{Pid, Signal, kill_process},
};
use socket2::SockRef;

use crate::{
    process::{Server, TEST_TIMEOUT, command, eventually, path, word_after},
    status,
};

/// A server whose log is not read after the ready line.
struct UnreadServer {
    child: Child,
    log: BufReader<ChildStderr>,
    address: String,
    status: String,
}

impl UnreadServer {
    fn start(binary: &str, flags: &[&str]) -> Self {
        let mut command = command(binary);
        command.args(["echo-server", "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0"]);
        let mut child = command.args(flags).spawn().expect("the binary starts");
        let mut log = BufReader::with_capacity(1, child.stderr.take().unwrap());
        let mut before = String::new();
        while !before.contains("listening on") || !before.ends_with('\n') {
            let n = log.read_line(&mut before).expect("the log is UTF-8");
            assert!(n > 0, "the server ended before it was ready: {before}");
        }
        let address = word_after("listening on ", &before).unwrap();
        let status = word_after("status on http://", &before).unwrap();
        Self { child, log, address, status }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the server runs");
    }

    fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    fn dropped(&self) -> u64 {
        metric(&status::get_at(&self.status, "/metrics").1, "wirestate_log_dropped_lines_total")
    }
}

/// Waits for the end of a process, and returns its status.
fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

impl Drop for UnreadServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the value of a metric without labels.
fn metric(page: &str, name: &str) -> u64 {
    let figure = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    figure.unwrap_or_else(|| panic!("no {name}: {page}")).parse().unwrap()
}

/// Returns the numbers of ended connections by reason.
fn ended(address: &str) -> BTreeMap<String, u64> {
    let (code, page) = status::get_at(address, "/");
    assert_eq!(code, 200);
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    serde_json::from_value(page["servers"][0]["connections"]["ended"].clone()).unwrap()
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server is listening");
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream
}

fn echoes(stream: &mut (impl Read + Write)) {
    stream.write_all(b"hello").unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"hello");
}

/// Connects, sends `bytes`, and resets.
fn reset(address: &str, bytes: &[u8]) {
    let mut stream = connect(address);
    stream.write_all(bytes).unwrap();
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The log is a pipe, which is full after 64 KiB.
pub(crate) fn a_log_that_is_not_read_blocks_nothing(binary: &str) {
    for flags in [&[][..], &["-v"], &["--log-format", "json", "-v"]] {
        let mut server = UnreadServer::start(binary, flags);
        let threads = server.threads();
        for _ in 0..400 {
            reset(&server.address, b"x");
        }
        echoes(&mut connect(&server.address));
        assert_eq!(status::get_at(&server.status, "/healthz").0, 200);
        // The threads of the log and of two connections may remain.
        eventually("the connections' threads have ended", || server.threads() <= threads + 3);
        server.signal(Signal::TERM);
        let status = wait(&mut server.child);
        assert!(status.success(), "{flags:?}: {status}");
    }
}

/// The drain is long, because one peer does not read.
pub(crate) fn a_second_signal_ends_a_server_whose_log_is_not_read(binary: &str) {
    let mut server = UnreadServer::start(binary, &["-v", "--drain-timeout", "off"]);
    let mut slow = connect(&server.address);
    slow.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    while slow.write_all(&[0; 8 * 1024]).is_ok() {}
    for _ in 0..400 {
        reset(&server.address, b"x");
    }
    server.signal(Signal::TERM);
    eventually("it drains", || status::get_at(&server.status, "/readyz").0 == 503);
    assert_eq!(server.child.try_wait().unwrap(), None);
    eventually("it ends", || {
        server.signal(Signal::TERM);
        server.child.try_wait().unwrap().is_some()
    });
    assert_eq!(wait(&mut server.child).signal(), Some(Signal::TERM.as_raw()));
}

pub(crate) fn a_log_that_is_read_again_reports_dropped_lines(binary: &str) {
    let mut server = UnreadServer::start(binary, &["-v"]);
    assert_eq!(server.dropped(), 0);
    while server.dropped() == 0 {
        for _ in 0..500 {
            reset(&server.address, b"x");
        }
    }
    let mut lines = Vec::new();
    let mut log = BufReader::new(server.log.get_mut());
    while !lines.last().is_some_and(|line: &String| line.contains("log lines were dropped")) {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log ends");
        lines.push(line);
    }
    let dropped: u64 = word_after("dropped=", lines.last().unwrap()).unwrap().parse().unwrap();
    assert_eq!(
        dropped,
        metric(&status::get_at(&server.status, "/metrics").1, "wirestate_log_dropped_lines_total")
    );
    // Later lines are logged.
    reset(&server.address, b"x");
    let mut line = String::new();
    while !line.contains("reason=\"reset\"") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log ends");
    }
}

pub(crate) fn a_full_disk_under_the_log_blocks_nothing(binary: &str) {
    let folder = std::env::temp_dir().join(format!("{binary}-full-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("echo.sock");
    let mut server = command(binary);
    server.args(["echo-server", "-v", "--listen", &format!("unix:{}", socket.display())]);
    server.stderr(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut server = server.spawn().unwrap();
    eventually("it listens", || UnixStream::connect(&socket).is_ok());
    for _ in 0..100 {
        echoes(&mut UnixStream::connect(&socket).unwrap());
    }
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    let status = wait(&mut server);
    assert!(status.success(), "{status}");
    fs::remove_dir_all(&folder).unwrap();
}

/// The two ends of a full pipe.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let mut free = fcntl_setpipe_size(&writer, 4096).unwrap();
    while free > 0 {
        free -= writer.write(&vec![b'.'; free]).unwrap();
    }
    (reader, writer)
}

pub(crate) fn a_client_whose_standard_error_is_not_read_completes(binary: &str) {
    let source = Server::start_as(binary, "fanout-source", &["--rate", "0"]);
    let echo = Server::start(binary, &[]);
    let calls: [(&[&str], i32); 4] = [
        (&["fanout-client", &source.address, "--count", "10"], 0),
        (&["echo-client", &echo.address, "--message", "hello"], 0),
        (&["multiconn-client", &echo.address, "2"], 0),
        // The client cannot log the reason.
        (&["echo-client", "unix:/nowhere", "--retry-for", "0s"], 1),
    ];
    for (words, code) in calls {
        let (_reader, writer) = full_pipe();
        let mut client = command(binary);
        let mut client = client.args(words).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
        assert_eq!(wait(&mut client).code(), Some(code), "{words:?}");
    }
}

/// Each reset is counted, and logged by its own line or by the `suppressed` field of another.
pub(crate) fn repeated_resets_do_not_fill_the_log(binary: &str) {
    let flags = ["--log-format", "json", "--status", "127.0.0.1:0"];
    let server = Server::start(binary, &flags);
    let began = Instant::now();
    let mut resets = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        reset(&server.address, b"x");
        resets += 1;
    }
    let status = server.status.clone().unwrap();
    eventually("all have ended", || ended(&status).values().sum::<u64>() == resets);
    let counts = ended(&status);
    let seconds = began.elapsed().as_secs() + 1;
    let log = server.stop();
    let mut logged: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let (Some(reason), "echo-server") =
            (line["reason"].as_str(), line["server"].as_str().unwrap_or_default())
        {
            let (lines, suppressed) = logged.entry(reason.to_owned()).or_default();
            *lines += u64::from(line["id"].is_u64());
            *suppressed += line["suppressed"].as_u64().unwrap_or_default();
        }
    }
    let (lines, suppressed) = logged["reset"];
    assert_eq!(lines + suppressed, counts["reset"], "{counts:?}");
    assert!((50..=50 + 10 * seconds).contains(&lines), "{lines} lines in {seconds} s");
}

pub(crate) fn with_verbose_every_reset_is_logged(binary: &str) {
    let server = Server::start(binary, &["-v"]);
    for _ in 0..100 {
        reset(&server.address, b"x");
    }
    eventually("all are logged", || server.logged("reason=\"reset\"") == 100);
    assert!(!server.stop().contains("suppressed"));
}

/// A source that sends an error and closes is dialled repeatedly.
pub(crate) fn an_upstream_that_keeps_closing_does_not_fill_the_log(binary: &str) {
    let source = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = source.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in source.incoming() {
            let _ = stream.unwrap().write_all(b"-ERR max number of clients reached\n");
        }
    });
    let server =
        Server::start_as(binary, "fanout-server", &["--frame", "lines", "--upstream", &upstream]);
    let began = Instant::now();
    thread::sleep(Duration::from_millis(1500));
    let log = server.stop();
    // One line for connecting, and one for the end of the connection.
    let max = 2 * (50 + 10 * (began.elapsed().as_secs() + 1));
    let lines = log.lines().filter(|line| line.contains(&upstream)).count();
    assert!((2..=usize::try_from(max).unwrap()).contains(&lines), "{lines} lines: {log}");
}

/// A health check connects, and closes or resets before any byte is sent in either direction. Every
/// server counts it, and logs no line.
pub(crate) fn health_checks_are_counted_and_not_logged(binary: &str) {
    let upstream = Server::start(binary, &[]);
    let proxy_header: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 7\r\n";
    let header = ["--accept-proxy"];
    let to_echo = ["--upstream", &upstream.address];
    let to_echo_with_header = [&to_echo[..], &header].concat();
    let servers: [(&str, &[&str], &[u8]); 9] = [
        ("echo-server", &[], b""),
        ("echo-server", &header, b""),
        ("echo-server", &header, proxy_header),
        ("app-server", &[], b""),
        ("app-server", &header, proxy_header),
        ("fanout-server", &to_echo, b""),
        ("proxy", &to_echo, b""),
        ("proxy", &to_echo_with_header, b""),
        ("proxy", &to_echo_with_header, proxy_header),
    ];
    for (name, flags, bytes) in servers {
        let flags = [flags, &["--status", "127.0.0.1:0"]].concat();
        let server = Server::start_as(binary, name, &flags);
        let status = server.status.clone().unwrap();
        for _ in 0..5 {
            reset(&server.address, bytes);
            let mut closed = connect(&server.address);
            closed.write_all(bytes).unwrap();
            drop(closed);
        }
        eventually("all have ended", || ended(&status).values().sum::<u64>() >= 10);
        assert_eq!(ended(&status), [("health_check".to_owned(), 10)].into(), "{name} {flags:?}");
        reset(&status, b"");
        let count = "wirestate_status_connections_ended_total{reason=\"health_check\"} 1\n";
        eventually("the status has counted its own health check", || {
            status::get_at(&status, "/metrics").1.contains(count)
        });
        assert_eq!(server.logged("closed: "), 0);
    }
}

/// A command that runs a program with this disposition of SIGHUP: `default` or `ignore` (env(1)).
pub(crate) fn with_hangup(disposition: &str, binary: &str, words: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.arg(format!("--{disposition}-signal=HUP")).arg(path(binary)).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const ECHO: [&str; 3] = ["echo-server", "--listen", "127.0.0.1:0"];

pub(crate) fn a_hangup_and_user_signals_end_nothing(binary: &str) {
    let server = Server::start_command(with_hangup("default", binary, &ECHO));
    let mut stream = server.connect();
    for signal in [Signal::USR1, Signal::USR2, Signal::HUP] {
        server.signal(signal);
        server.signal(signal);
    }
    let message = "SIGHUP: there is nothing to load again";
    eventually("the server has handled SIGHUP", || server.logged(message) > 0);
    echoes(&mut stream);
    echoes(&mut server.connect());
    drop(stream);
    server.stop();
}

/// nohup(1) ignores SIGHUP.
pub(crate) fn a_hangup_that_is_ignored_at_the_start_stays_ignored(binary: &str) {
    let server = Server::start_command(with_hangup("ignore", binary, &ECHO));
    server.signal(Signal::HUP);
    echoes(&mut server.connect());
    assert!(!server.stop().contains("SIGHUP"));
}

pub(crate) fn a_hangup_ends_a_client(binary: &str) {
    let server = Server::start(binary, &[]);
    // The client gets no message, and shows a rate of 0 once a second.
    let words = ["fanout-client", &server.address];
    let mut client = with_hangup("default", binary, &words).spawn().unwrap();
    client.stderr.take().unwrap().read_exact(&mut [0]).expect("the client shows the rate");
    kill_process(Pid::from_child(&client), Signal::HUP).unwrap();
    assert_eq!(client.wait().unwrap().signal(), Some(Signal::HUP.as_raw()));
}
