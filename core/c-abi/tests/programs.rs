//! The examples in C and Python serve real clients, byte for byte.
//!
//! `CFLAGS` is passed to the C compiler: `.ci/run` sets it to `-fsanitize=address,undefined`.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use wirestate_core::message::Message;

/// A program that serves until its standard input ends.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    /// The ports that it has printed, by name.
    ports: BTreeMap<String, u16>,
}

impl Program {
    fn start(command: &mut Command, ports: usize) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let output = BufReader::new(child.stdout.take().unwrap());
        let ports = output.lines().take(ports).map(|line| {
            let line = line.unwrap();
            let (name, port) = line.split_once(' ').expect("a name and a port");
            (name.to_owned(), port.parse().expect("a port"))
        });
        let ports = ports.collect();
        let input = child.stdin.take();
        Self { child, input, ports }
    }

    fn connect(&self, name: &str) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.ports[name])).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Ends its standard input, waits until it ends with success, and returns its standard error.
    fn finish(mut self) -> String {
        drop(self.input.take());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}:\n{log}");
        log
    }
}

/// A program whose test has failed.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of the libraries, which are built with this test.
fn libraries() -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The compiled `examples/epoll.c`.
fn epoll() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("epoll");
        let flags = env::var("CFLAGS").unwrap_or_default();
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"])
            .args(flags.split_whitespace())
            .arg("-I")
            .arg(crate_folder().join("include"))
            .arg(crate_folder().join("examples/epoll.c"))
            .arg(libraries().join("libwirestate_c.a"))
            .args(["-lpthread", "-ldl", "-lm", "-o"])
            .arg(&program);
        assert!(cc.status().expect("cc starts").success());
        program
    });
    Command::new(program)
}

fn start_epoll() -> Program {
    Program::start(&mut epoll(), 4)
}

/// The Python program; `None` if there is no Python.
fn start_python() -> Option<Program> {
    let mut command = Command::new("python3");
    command
        .arg(crate_folder().join("examples/search_server.py"))
        .arg(libraries().join("libwirestate_c.so"));
    if Command::new("python3").arg("--version").output().is_err() {
        println!("NOT TESTED: there is no python3");
        return None;
    }
    Some(Program::start(&mut command, 2))
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..=250).cycle().skip(seed % 251).take(len).collect()
}

/// Sends `input` in pieces of up to `size` bytes, then a FIN. Returns what comes back.
fn exchange(stream: TcpStream, input: Vec<u8>, size: usize) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        for piece in input.chunks(size) {
            writer.write_all(piece).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (mut output, mut reader) = (Vec::new(), stream);
    reader.read_to_end(&mut output).unwrap();
    sender.join().unwrap();
    output
}

fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn frame(message: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    message.encode(&mut frame).unwrap();
    frame
}

/// An echo of cut input, half-closes, resets, and 100 connections at once.
fn serves_an_echo(program: &Program) {
    for (len, size) in [(0, 1), (300, 1), (70_000, 999), (3_000_000, 1 << 20)] {
        let input = pattern(len, size);
        assert!(exchange(program.connect("echo"), input.clone(), size) == input, "{len}, {size}");
    }
    for number in 0..10 {
        let mut stream = program.connect("echo");
        stream.write_all(&pattern(number * 50_000, 0)).unwrap();
        reset(stream);
    }
    let mut streams: Vec<_> = (0..100).map(|_| program.connect("echo")).collect();
    for round in 0..3 {
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&pattern(1000 + number, round)).unwrap();
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut reply = vec![0; 1000 + number];
            stream.read_exact(&mut reply).unwrap();
            assert!(reply == pattern(1000 + number, round), "{number} in round {round}");
        }
    }
}

#[test]
fn the_example_in_c_serves_an_echo() {
    let program = start_epoll();
    serves_an_echo(&program);
    let log = program.finish();
    assert!(log.contains("connection ended: finished"), "{log}");
    assert!(log.contains("connection ended: reset"), "{log}");
}

#[test]
fn the_example_in_c_answers_messages() {
    let program = start_epoll();
    let frames: Vec<_> = (0..100).map(|n| frame(&Message::json(format!("[{n}]")))).collect();
    let large = frame(&Message::binary(pattern(900_000, 5)));
    let input = [frames.concat(), large].concat();
    for size in [1024, 70_000] {
        assert!(exchange(program.connect("message"), input.clone(), size) == input, "{size}");
    }
    let input = frames.concat();
    assert!(exchange(program.connect("message"), input.clone(), 1) == input);

    let reply = exchange(program.connect("message"), b"\xff\xff".to_vec(), 2);
    let text = "a header of 65535 bytes, more than the limit of 4096";
    assert_eq!(reply, frame(&Message::error(text)));
    reset(program.connect("message"));
    let log = program.finish();
    assert!(log.contains(&format!("header_too_long ({text})")), "{log}");
}

#[test]
fn the_example_in_c_fans_out() {
    let program = start_epoll();
    let lines = |from: usize| {
        (from..from + 500).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat()
    };
    let mut subscribers: Vec<_> = (0..20).map(|_| program.connect("subscribe")).collect();
    let mut publisher = program.connect("publish");
    // A first line tells that the subscribers were accepted, which is later than connected.
    for subscriber in &mut subscribers {
        subscriber.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        while subscriber.peek(&mut [0]).is_err() {
            publisher.write_all(b".\n").unwrap();
        }
    }
    for piece in lines(0).as_bytes().chunks(7) {
        publisher.write_all(piece).unwrap();
    }
    publisher.write_all(b"the tail is not a line").unwrap();
    reset(subscribers.pop().unwrap());
    publisher.shutdown(Shutdown::Write).unwrap();
    assert_eq!(publisher.read(&mut [0; 8]).unwrap(), 0);
    program.connect("publish").write_all(lines(500).as_bytes()).unwrap();
    let mut broken = program.connect("publish");
    broken.write_all(&[b'x'; 2000]).unwrap();
    let error = broken.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "a line that is too long");
    let expected = lines(0) + &lines(500);
    let received: Vec<_> = subscribers
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let mut text = String::new();
                while !text.ends_with("line 999\n") {
                    let mut buffer = [0; 4096];
                    let n = stream.read(&mut buffer).unwrap();
                    assert!(n > 0, "the stream ends after {text}");
                    text.push_str(str::from_utf8(&buffer[..n]).unwrap());
                }
                text.trim_start_matches(".\n").to_owned()
            })
        })
        .collect();
    for received in received {
        assert_eq!(received.join().unwrap(), expected);
    }
    let log = program.finish();
    assert!(log.contains("bytes dropped of an incomplete message: 22"), "{log}");
}

#[test]
fn the_example_in_c_lets_connections_finish() {
    let program = start_epoll();
    let mut stream = program.connect("echo");
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let reader = thread::spawn(move || stream.read(&mut [0; 8]).unwrap());
    let log = program.finish();
    assert_eq!(reader.join().unwrap(), 0, "a FIN");
    assert!(log.contains("shut_down"), "{log}");
}

/// What the client of Real Python's tutorial sends: one request a connection.
#[test]
fn the_example_in_python_serves_the_tutorial() {
    let Some(program) = start_python() else { return };
    serves_an_echo(&program);

    // The client sends one request, in pieces, and closes the connection after the reply.
    let check = |request: &[u8], size: usize, expected: Message<'_>| {
        let mut stream = program.connect("message");
        for piece in request.chunks(size) {
            stream.write_all(piece).unwrap();
        }
        let expected = frame(&expected);
        let mut reply = vec![0; expected.len()];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string());
    };
    let search = b"\0g{\"byteorder\": \"little\", \"content-type\": \"text/json\", \
        \"content-encoding\": \"utf-8\", \"content-length\": 41}\
        {\"action\": \"search\", \"value\": \"morpheus\"}";
    let found = Message::json("{\"result\": \"Follow the white rabbit. \u{1f430}\"}");
    for size in [1, 10, 1000] {
        check(search, size, found.clone());
    }
    let unknown = frame(&Message::json(r#"{"action": "search", "value": "x"}"#));
    check(&unknown, 1000, Message::json(r#"{"result": "No match for 'x'."}"#));
    let invalid = frame(&Message::json("[".repeat(10_000)));
    let mut stream = program.connect("message");
    stream.write_all(&invalid).unwrap();
    assert!(stream.read(&mut [0; 100]).unwrap() > 0, "an error reply");
    drop(stream);

    let content = "binary\u{1f600}".as_bytes();
    let request = frame(&Message::new("binary/custom-client-binary-type", "binary", content));
    let answer = [b"First 10 bytes of request: ", content].concat();
    check(&request, 3, Message::new("binary/custom-server-binary-type", "binary", answer));

    // Pipelined requests, a half-close, and what is no request.
    let input = search.repeat(50);
    let output = exchange(program.connect("message"), input, 13);
    assert_eq!(output, frame(&found).repeat(50));
    let output = exchange(program.connect("message"), b"GET / HTTP/1.1\r\n\r\n".to_vec(), 100);
    assert!(output.ends_with(b"more than the limit of 4096\"}"), "{}", output.escape_ascii());
    reset(program.connect("message"));
    program.finish();
}
