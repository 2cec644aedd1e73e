//! Scenarios of the clients: pipes and terminals, waiting for a server, load, and signals.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    process::{Child, Output, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
};
use socket2::SockRef;

use crate::{
    command_line::{BINARIES, closed_pipe, last_object, unused_address},
    echo::pattern,
    process::{Server, command, eventually, resident, text},
    unix::Folder,
};

/// Starts a client with pipes.
fn start(binary: &str, words: &[&str]) -> Child {
    command(binary).args(words).stdin(Stdio::piped()).spawn().unwrap()
}

/// Writes `input` to the client in a thread, and waits for the client's end.
fn pipe(mut client: Child, input: &[u8]) -> Output {
    let mut stdin = client.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        client.wait_with_output().unwrap()
    })
}

fn signal(client: &Child, signal: Signal) {
    kill_process(Pid::from_child(client), signal).unwrap();
}

pub(crate) fn a_pipe_passes_through_as_it_is(binary: &str) {
    let server = Server::start(binary, &[]);
    let lines = "the same line\n".repeat(20_000);
    let all_bytes: Vec<u8> = (0..=255).collect();
    let inputs = [vec![], b"exit\n\n\r\n no line end".into(), lines.into(), all_bytes.repeat(1200)];
    for input in &inputs {
        let output = pipe(start(binary, &["echo-client", &server.address]), input);
        assert!(output.stdout == *input, "{} of {} bytes", output.stdout.len(), input.len());
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    }
    // Bytes come back before the end of the input.
    let mut client = start(binary, &["echo-client", &server.address]);
    let (mut stdin, mut stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    for message in [*b"one", *b"two"] {
        stdin.write_all(&message).unwrap();
        let mut reply = [0; 3];
        stdout.read_exact(&mut reply).unwrap();
        assert_eq!(reply, message);
    }
    drop(stdin);
    assert!(client.wait().unwrap().success());

    let server = Server::start(binary, &["--prefix", "> "]);
    let output = pipe(start(binary, &["echo-client", &server.address]), b"a\nb");
    assert_eq!(text(&output.stdout), "> a\nb");
}

pub(crate) fn a_pipe_has_backpressure_in_both_directions(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut client = start(binary, &["echo-client", &server.address]);
    let (mut stdin, mut stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let input = pattern(1_000_003).repeat(32);
    let mut received = Vec::new();
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            stdin.write_all(&input).unwrap();
            drop(stdin);
        });
        // Nothing is read until all buffers are full.
        thread::sleep(Duration::from_millis(150));
        assert!(!writing.is_finished(), "32 MB fit into no buffer");
        let memory = resident(client.id());
        assert!(memory < 24 * 1024, "{memory} KiB");
        stdout.read_to_end(&mut received).unwrap();
    });
    assert!(received == input, "{} of {} bytes", received.len(), input.len());
    assert!(client.wait().unwrap().success());
}

pub(crate) fn a_terminal_is_asked_line_by_line(binary: &str) {
    let server = Server::start(binary, &[]);
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&ours).unwrap();
    let terminal = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let mut client = command(binary);
    let client = client.args(["echo-client", &server.address]).stdin(terminal).spawn().unwrap();
    File::from(ours).write_all("one\n\ntwo three\nÄ\nExIt\nnever sent\n".as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "one\ntwo three\nÄ\n");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), "> > > > > "));
}

pub(crate) fn the_end_of_a_passed_stream_is_named(binary: &str) {
    let (closed, reset, silent) = (
        "the server closed the connection before the end of the input",
        "connection reset by peer while receiving",
        "no byte from the server for 200ms",
    );
    for expected in [closed, reset, silent] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut client = start(binary, &["echo-client", &address, "--reply-timeout", "200ms"]);
        let mut stdin = client.stdin.take();
        stdin.as_mut().unwrap().write_all(b"hi").unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        stream.write_all(b"bye").unwrap();
        client.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        if expected == reset {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let is_silent = expected == silent;
        let open_stream = is_silent.then_some(stream);
        let open_stdin = stdin.filter(|_| !is_silent);
        let output = client.wait_with_output().unwrap();
        drop((open_stream, open_stdin));
        let error = text(&output.stderr);
        let expected = format!("{address}: {expected}; bytes sent: 2, received: 3\n");
        assert!(error.ends_with(&expected), "{error}");
        assert_eq!((error.lines().count(), output.status.code()), (1, Some(1)), "{error}");
    }
}

/// Its standard input stays open.
pub(crate) fn a_closed_standard_output_ends_a_passed_stream(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut client = command(binary);
    client.args(["echo-client", &server.address, "--reply-timeout", "off"]);
    let mut client = client.stdin(Stdio::piped()).stdout(closed_pipe()).spawn().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"hi").unwrap();
    eventually("the client ends", || client.try_wait().unwrap().is_some());
    let output = client.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

pub(crate) fn clients_wait_for_their_server(binary: &str) {
    let folder = Folder::new("late", binary);
    let (tcp, unix) = (unused_address(), folder.address("socket"));
    // A busy machine may need more than the default of 1 s to start the servers.
    let client = |words: &[&str]| start(binary, &[words, &["--retry-for", "20s"]].concat());
    let echo = |address| client(&["echo-client", address, "--message", "hi"]);
    let multiconn = client(&["multiconn-client", &tcp, "20"]);
    let echoes = [echo(&tcp), echo(&unix)];
    let app = unused_address();
    let app_client = client(&["app-client", &app, "search", "morpheus"]);
    let source = unused_address();
    let fanout = client(&["fanout-client", &source, "--count", "1"]);
    thread::sleep(Duration::from_millis(60));
    let serve = |server, address: &str| {
        let mut command = command(binary);
        command.args([server, "--listen", address]);
        Server::start_command(command)
    };
    let _servers = [
        serve("echo-server", &tcp),
        serve("echo-server", &unix),
        serve("app-server", &app),
        serve("fanout-source", &source),
    ];
    for client in [multiconn, app_client, fanout].into_iter().chain(echoes) {
        let output = client.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}

/// The runs of all three binaries take their second at the same time.
#[test]
fn a_load_is_paced_shows_its_progress_and_reports_when_it_is_interrupted() {
    let runs = BINARIES.map(|binary| {
        let server = Server::start(binary, &[]);
        let words = ["multiconn-client", &server.address, "2", "--json", "--rounds", "1000000000"];
        let paced = start(binary, &[&words[..], &["--rate", "100"]].concat());
        let lockstep = start(binary, &[&words[..], &["--mode", "lockstep"]].concat());
        let words = ["multiconn-client", &server.address, "2", "--duration", "100ms"];
        let brief = start(binary, &words);
        (server, paced, lockstep, brief)
    });
    for (_server, paced, lockstep, brief) in runs {
        let output = brief.wait_with_output().unwrap();
        let report = text(&output.stdout);
        assert!(output.status.success() && report.contains("2 of 2 complete"), "{report}");

        let (line, report) = interrupt(lockstep, Signal::INT);
        assert_eq!(line["event"], "progress", "{line}");
        assert_eq!(line["open"], 2, "{line}");
        assert!(line["messages_per_second"].as_u64().unwrap() > 0, "{line}");
        assert_eq!(report["open_loop"], serde_json::Value::Null, "{report}");

        let (_, report) = interrupt(paced, Signal::TERM);
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        let (messages, open_loop) = (number(&report["messages"]), &report["open_loop"]);
        assert_eq!(open_loop["rate"], 100, "{report}");
        // On a busy machine, messages may be late.
        let due = report["seconds"].as_f64().unwrap() * 100.0 + 2.0;
        let due = Duration::from_secs_f64(due).as_secs();
        assert!((50..=due).contains(&messages), "{report}");
        assert!((50..=105).contains(&number(&open_loop["offered_per_second"])), "{report}");
        assert!(messages + number(&open_loop["unanswered"]) <= due, "{report}");
    }
}

/// Interrupts a load that writes JSON after its first line. Returns that line and the report.
fn interrupt(mut client: Child, number: Signal) -> (serde_json::Value, serde_json::Value) {
    let mut lines = BufReader::new(client.stdout.take().unwrap());
    let (mut first, mut rest) = (String::new(), String::new());
    lines.read_line(&mut first).unwrap();
    signal(&client, number);
    // timeout(1) sends its signal twice.
    signal(&client, number);
    lines.read_to_string(&mut rest).unwrap();
    let report = last_object(rest.as_bytes());
    assert_eq!(report["event"], "report", "{report}");
    assert_eq!((&report["interrupted"], &report["complete"]), (&true.into(), &2.into()));
    assert_eq!(client.wait().unwrap().signal(), Some(number.as_raw()));
    (serde_json::from_str(&first).unwrap(), report)
}

/// The server answers nothing, so the messages in flight stay there.
pub(crate) fn a_second_signal_ends_a_client(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = start(binary, &["multiconn-client", &address, "1"]);
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_exact(&mut [0; 44]).unwrap();
    signal(&client, Signal::INT);
    thread::sleep(Duration::from_millis(150));
    signal(&client, Signal::INT);
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(Signal::INT.as_raw()));
    assert_eq!(text(&output.stdout), "", "there was no time for a report");
}

pub(crate) fn an_interrupted_subscriber_shows_its_rate(binary: &str) {
    let source = Server::start_as(binary, "fanout-source", &["--rate", "1000"]);
    let mut client = start(binary, &["fanout-client", &source.address]);
    client.stdout.as_mut().unwrap().read_exact(&mut [0; 10 * 1024]).unwrap();
    signal(&client, Signal::INT);
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(Signal::INT.as_raw()));
    let shown = text(&output.stderr);
    let last = shown.lines().last().unwrap_or_default();
    assert!(last.contains(" messages, ") && last.contains(", 0 gaps"), "{shown}");
}
