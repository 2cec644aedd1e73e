//! Scenarios of a fan-out's other sources: standard input, and clients that publish; and of the
//! gaps between connections to an upstream.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    process::Stdio,
    thread,
    time::Duration,
};

use socket2::SockRef;

use crate::process::{Server, TEST_TIMEOUT, command, eventually, run, text};

/// Starts a server of lines that reads the standard input that is returned.
fn with_standard_input(binary: &str, flags: &[&str]) -> (Server, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let mut command = command(binary);
    command.args(["fanout-server", "--listen", "127.0.0.1:0", "--frame", "lines", "--upstream"]);
    command.args(["-", "-v"]).args(flags).stdin(Stdio::from(reader));
    (Server::start_command(command), writer)
}

/// A slow subscriber gets everything although it takes longer than the drain timeout.
pub(crate) fn standard_input_is_published_until_its_end(binary: &str) {
    let (server, mut input) = with_standard_input(binary, &["--drain-timeout", "100ms"]);
    let [mut fast, mut slow] = [(); 2].map(|()| server.connect());
    SockRef::from(&slow).set_recv_buffer_size(64 * 1024).unwrap();
    server.await_connected(2);
    let line = |number| format!("line {number:020}\n").into_bytes();
    let lines: Vec<u8> = (0..200_000).flat_map(line).collect();
    let fast = thread::spawn(move || {
        let mut received = Vec::new();
        fast.read_to_end(&mut received).map(|_| received)
    });
    input.write_all(&lines).unwrap();
    input.write_all(b"half").unwrap();
    drop(input);
    assert!(fast.join().unwrap().unwrap() == lines);
    thread::sleep(Duration::from_millis(400));
    let mut received = Vec::new();
    slow.read_to_end(&mut received).unwrap();
    assert!(received == lines, "{} of {} bytes", received.len(), lines.len());
    drop(slow);
    let (status, log) = server.wait();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("standard input ended messages=200000 tail_bytes_dropped=4"), "{log}");
}

pub(crate) fn standard_input_that_cannot_be_published_is_a_failure(binary: &str) {
    let (server, mut input) = with_standard_input(binary, &[]);
    let mut subscriber = server.connect();
    server.await_connected(1);
    input.write_all(b"one\n").unwrap();
    // The server reads no further, so the pipe is full until it has ended.
    let endless = thread::spawn(move || while input.write_all(&[b'x'; 4096]).is_ok() {});
    let mut received = String::new();
    subscriber.read_to_string(&mut received).unwrap();
    assert_eq!(received, "one\n");
    drop(subscriber);
    let (status, log) = server.wait();
    endless.join().unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("ERROR standard input: a message of "), "{log}");
    assert!(log.contains(" bytes or more; the limit is 1048576"), "{log}");
}

pub(crate) fn a_signal_ends_a_server_that_waits_for_standard_input(binary: &str) {
    let (server, mut input) = with_standard_input(binary, &[]);
    let mut subscriber = server.connect();
    server.await_connected(1);
    input.write_all(b"one\n").unwrap();
    subscriber.read_exact(&mut [0; 4]).unwrap();
    let log = server.stop();
    assert!(log.contains("drained=1 aborted=0"), "{log}");
    assert_eq!(subscriber.read(&mut [0; 1]).unwrap(), 0);
}

/// Starts a server of lines with publishers at `address`, and returns it with their address.
fn with_publishers(binary: &str, address: &str, flags: &[&str]) -> (Server, String) {
    let own = ["--publishers", address, "--frame", "lines", "-v"];
    let server = Server::start_as(binary, "fanout-server", &[&own, flags].concat());
    let mut publishers = None;
    eventually("the publishers' address is logged", || {
        let log = server.log();
        let line = log.lines().find(|line| {
            line.contains("listening on ") && line.contains("\"fanout-server-publishers\"")
        });
        let word = line.and_then(|line| line.split("listening on ").nth(1)?.split(' ').next());
        publishers = word.map(ToOwned::to_owned);
        publishers.is_some()
    });
    (server, publishers.unwrap())
}

/// Connects to a TCP or Unix address.
fn connect(address: &str) -> Box<dyn Write + Send> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Box::new(UnixStream::connect(path).unwrap());
    }
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
    Box::new(stream)
}

/// Among the publishers is one that stops within a message, and one that leaves within one.
pub(crate) fn messages_of_many_publishers_arrive_whole_and_in_order(binary: &str) {
    const PUBLISHERS: usize = 8;
    const MESSAGES: usize = 500;
    let path = std::env::temp_dir().join(format!("{binary}-publishers-{}", std::process::id()));
    let path = format!("unix:{}", path.display());
    for address in ["127.0.0.1:0", &path] {
        let (server, address) = with_publishers(binary, address, &["--max-publishers", "9"]);
        let mut subscribers = [(); 2].map(|()| server.connect());
        server.await_connected(2);
        let mut stops = connect(&address);
        stops.write_all(b"this line has no end").unwrap();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let mut stream = connect(&address);
                thread::spawn(move || {
                    let lines = (0..MESSAGES).flat_map(|number| {
                        let line = format!("{publisher} {number} {}\n", "x".repeat(number % 97));
                        line.into_bytes()
                    });
                    let mut bytes: Vec<u8> = lines.collect();
                    bytes.extend(b"tail");
                    for piece in bytes.chunks(61 + 13 * publisher) {
                        stream.write_all(piece).unwrap();
                    }
                })
            })
            .collect();
        for subscriber in &mut subscribers {
            let mut next = [0; PUBLISHERS];
            let mut lines = io::BufRead::lines(io::BufReader::new(subscriber));
            for _ in 0..PUBLISHERS * MESSAGES {
                let line = lines.next().unwrap().unwrap();
                let words: Vec<_> = line.split(' ').collect();
                let publisher: usize = words[0].parse().expect("a whole line");
                let number = next[publisher];
                assert_eq!(words[1..], [number.to_string(), "x".repeat(number % 97)]);
                next[publisher] += 1;
            }
        }
        for publisher in publishers {
            publisher.join().unwrap();
        }
        eventually("all have ended but one", || server.logged("reason=\"left\"") == PUBLISHERS);
        drop((stops, subscribers));
        let log = server.stop();
        let dropped = "bytes dropped of an incomplete message: 4";
        assert_eq!(log.matches(dropped).count(), PUBLISHERS, "{log}");
        assert!(log.contains(&format!("messages={}", PUBLISHERS * MESSAGES)), "{log}");
    }
    let _ = fs::remove_file(path.trim_start_matches("unix:"));
}

pub(crate) fn publishers_have_limits_of_their_own(binary: &str) {
    let flags = ["--max-publishers", "2", "--publisher-message-timeout", "300ms"];
    let limits = ["--publisher-idle-timeout", "1s", "--max-connections", "1"];
    let (server, address) = with_publishers(binary, "127.0.0.1:0", &[&flags[..], &limits].concat());
    let subscriber = server.connect();
    let ended = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.read(&mut [0; 1])
    };
    let [mut slow, idle] = [(); 2].map(|()| TcpStream::connect(&address).unwrap());
    server.await_connected(3);
    let refused = TcpStream::connect(&address).unwrap();
    assert!(!matches!(ended(refused), Ok(1..)), "a third publisher is admitted");
    slow.write_all(b"half").unwrap();
    assert!(ended(slow).is_err());
    assert!(ended(idle).is_err());
    drop(subscriber);
    let log = server.stop();
    assert!(log.contains("reason=\"message_timeout\""), "{log}");
    assert!(log.contains("a message was not complete after 300ms; bytes dropped: 4"), "{log}");
    assert!(log.contains("reason=\"idle_timeout\""), "{log}");
}

/// A subscriber that reads nothing for a while holds all publishers, and nothing is lost.
pub(crate) fn publishers_are_held_while_the_feed_is_paused(binary: &str) {
    const LINES: usize = 8000;
    let flags = ["--on-lag", "block", "--window", "1MiB"];
    let (server, address) = with_publishers(binary, "127.0.0.1:0", &flags);
    let mut subscriber = server.connect();
    server.await_connected(1);
    let publishers: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = connect(&address);
            thread::spawn(move || {
                let line = [&[b'x'; 1023][..], b"\n"].concat();
                for _ in 0..LINES {
                    stream.write_all(&line).unwrap();
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    assert!(publishers.iter().any(|publisher| !publisher.is_finished()), "none is held");
    let mut received = vec![0; 4 * LINES * 1024];
    subscriber.read_exact(&mut received).unwrap();
    assert!(received.chunks(1024).all(|line| line.ends_with(b"x\n")));
    for publisher in publishers {
        publisher.join().unwrap();
    }
    drop(subscriber);
    let log = server.stop();
    assert!(log.contains(&format!("messages={}", 4 * LINES)), "{log}");
    assert!(!log.contains("paused_seconds=0.0 "), "{log}");
}

pub(crate) fn subscribers_are_disconnected_at_a_gap(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let flags = ["--upstream", &upstream, "--frame", "lines", "--on-gap", "disconnect", "-v"];
    let server = Server::start_as(binary, "fanout-server", &flags);
    let (mut feed, _) = listener.accept().unwrap();
    let mut subscriber = server.connect();
    server.await_connected(1);
    for epoch in 0..3 {
        feed.write_all(format!("epoch {epoch}\nhalf").as_bytes()).unwrap();
        let mut line = [0; 8];
        subscriber.read_exact(&mut line).unwrap();
        assert_eq!(text(&line), format!("epoch {epoch}\n"));
        drop(feed);
        (feed, _) = listener.accept().unwrap();
        assert_eq!(subscriber.read(&mut line).unwrap(), 0, "a FIN at the gap");
        subscriber = server.connect();
        server.await_connected(epoch + 2);
    }
    drop((feed, listener, subscriber));
    let log = server.stop();
    assert_eq!(log.matches("reason=\"gap\"").count(), 3, "{log}");
    assert!(log.contains("closed: messages may be missing: an epoch began"), "{log}");
    assert!(log.contains("epochs=3 gap_ended=3 "), "{log}");
}

pub(crate) fn contradicting_flags_of_sources_are_wrong_usage(binary: &str) {
    let publishers = ["--publishers", "127.0.0.1:0"];
    let calls: [(&[&str], &str); 5] = [
        (&["--upstream", "-", "--upstream-tls"], "--upstream-tls needs a server"),
        (&["--upstream", "-", "--upstream-idle-timeout", "5s"], "--upstream - is standard input"),
        (&["--upstream", "127.0.0.1:1"], "cannot be used with"),
        (&["--frame", "bytes"], "--publishers needs messages"),
        (&["--upstream-idle-timeout", "5s"], "--publishers has --publisher-idle-timeout"),
    ];
    for (index, (flags, expected)) in calls.into_iter().enumerate() {
        let other = if index < 2 { &[][..] } else { &publishers };
        let output = run(binary, &[&["fanout-server"], other, flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(text(&output.stderr).contains(expected), "{flags:?}: {}", text(&output.stderr));
    }
}
