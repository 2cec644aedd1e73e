//! Scenarios of the fan-out: its server, source and client.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use socket2::SockRef;

use crate::process::{Server, TEST_TIMEOUT, command, eventually, run, text};

/// The size of a message, in bytes.
const SIZE: usize = 64;

/// Message number `number` of epoch `epoch`.
fn message(epoch: u32, number: u32) -> Vec<u8> {
    let mut message = format!("{epoch:08} {number:08} ").into_bytes();
    message.resize(SIZE - 1, b'.');
    message.push(b'\n');
    message
}

fn parse(message: &[u8]) -> (u32, u32) {
    assert!(message.len() == SIZE && message.ends_with(b".\n"), "{}", text(message));
    let number = |range| text(&message[range]).parse().expect("a complete message has digits");
    (number(0..8), number(9..17))
}

/// An upstream that the test controls.
struct Upstream {
    listener: TcpListener,
    address: String,
}

impl Upstream {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, address }
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream
    }

    fn serve(&self, binary: &str, flags: &[&str]) -> Server {
        let own = ["--upstream", &self.address, "--frame", "64", "-v"];
        Server::start_as(binary, "fanout-server", &[&own, flags].concat())
    }
}

fn read_message(stream: &mut TcpStream) -> (u32, u32) {
    let mut bytes = [0; SIZE];
    stream.read_exact(&mut bytes).unwrap();
    parse(&bytes)
}

pub(crate) fn healthy_subscribers_get_complete_messages_across_upstream_restarts(binary: &str) {
    const EPOCHS: u32 = 4;
    const MESSAGES: u32 = 3000;
    let upstream = Upstream::new();
    let server = upstream.serve(binary, &[]);
    let feed = upstream.accept();
    let subscribers: Vec<_> = (0..10).map(|_| server.connect()).collect();
    // Peers that flood, that reset, and that never read.
    let stalled = server.connect();
    let mut flooding = server.connect();
    let flood = thread::spawn(move || while flooding.write_all(&[0; 4096]).is_ok() {});
    let resetting = server.connect();
    SockRef::from(&resetting).set_linger(Some(Duration::ZERO)).unwrap();
    server.await_connected(13);
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                for epoch in 0..EPOCHS {
                    for number in 0..MESSAGES {
                        assert_eq!(read_message(&mut stream), (epoch, number));
                    }
                }
            })
        })
        .collect();
    drop(resetting);
    let mut feed = Some(feed);
    for epoch in 0..EPOCHS {
        let mut stream = feed.take().unwrap_or_else(|| upstream.accept());
        let mut bytes: Vec<_> = (0..MESSAGES).flat_map(|n| message(epoch, n)).collect();
        bytes.extend(&message(epoch, MESSAGES)[..17]); // cut inside a message
        let mut cut = 1;
        while !bytes.is_empty() {
            cut = cut * 31 % 4093 + 1;
            let rest = bytes.split_off(cut.min(bytes.len()));
            stream.write_all(&bytes).unwrap();
            bytes = rest;
        }
    }
    for reader in readers {
        reader.join().unwrap();
    }
    drop(stalled);
    drop(upstream);
    let log = server.stop();
    flood.join().unwrap();
    assert!(log.contains("bytes dropped of an incomplete message: 17"), "{log}");
    assert!(log.contains(&format!("messages={} upstream_connects=", EPOCHS * MESSAGES)), "{log}");
    assert!(log.contains(&format!("tail_bytes_dropped={}", 17 * EPOCHS)), "{log}");
}

pub(crate) fn a_thousand_subscribers_at_once(binary: &str) {
    let files = rlimit::increase_nofile_limit(4096).unwrap();
    assert!(files >= 1100, "this test needs 1,100 open files, and may have {files}");
    let upstream = Upstream::new();
    let server = upstream.serve(binary, &[]);
    let mut feed = upstream.accept();
    let mut streams: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    server.await_connected(1000);
    for number in 0..50 {
        feed.write_all(&message(0, number)).unwrap();
    }
    for stream in &mut streams {
        for number in 0..50 {
            assert_eq!(read_message(stream), (0, number));
        }
    }
    drop(streams);
    assert!(server.stop().contains("delivered=50000 "));
}

/// Publishes in rounds, and calls `is_enough` after each one until it returns true.
fn publish_until(
    feed: &mut TcpStream,
    healthy: &mut TcpStream,
    mut is_enough: impl FnMut() -> bool,
) {
    const BATCH: u32 = 512;
    let mut number = 0;
    eventually("enough is published", || {
        for _ in 0..25 {
            let batch = number..number + BATCH;
            let bytes = batch.map(|n| message(0, n)).collect::<Vec<_>>().concat();
            feed.write_all(&bytes).unwrap();
            let mut received = vec![0; bytes.len()];
            healthy.read_exact(&mut received).unwrap();
            assert!(received == bytes, "the healthy subscriber has a gap after message {number}");
            number += BATCH;
        }
        is_enough()
    });
}

pub(crate) fn a_subscriber_that_does_not_read_is_disconnected_alone(binary: &str) {
    let upstream = Upstream::new();
    let server = upstream.serve(binary, &["--window", "256KiB", "--lag-wait", "100ms"]);
    let mut feed = upstream.accept();
    let (mut healthy, mut stalled) = (server.connect(), server.connect());
    server.await_connected(2);
    let reset = || {
        let mut byte = [0];
        stalled.set_nonblocking(true).unwrap();
        matches!(stalled.peek(&mut byte), Err(error) if error.kind() == ErrorKind::ConnectionReset)
            || SockRef::from(&stalled).take_error().unwrap().is_some()
    };
    publish_until(&mut feed, &mut healthy, reset);
    stalled.set_nonblocking(false).unwrap();
    let _ = stalled.read(&mut [0; 1]);
    drop(upstream);
    let log = server.stop();
    assert!(log.contains(r#"reason="lagged""#), "{log}");
    assert!(log.contains("fell out of the window of 262144 bytes; messages behind: "), "{log}");
    assert!(log.contains("lagged=1 "), "{log}");
}

/// All stalled subscribers together may pause the upstream for one second in ten.
pub(crate) fn many_subscribers_that_do_not_read_do_not_stall_the_others(binary: &str) {
    const STALLED: usize = 40;
    let upstream = Upstream::new();
    let server = upstream.serve(binary, &["--window", "256KiB"]);
    let mut feed = upstream.accept();
    let mut healthy = server.connect();
    server.await_connected(1);
    let (mut connected, mut stalled) = (0, Vec::new());
    publish_until(&mut feed, &mut healthy, || {
        if connected < STALLED {
            connected += 1;
            stalled.push(server.connect());
        }
        stalled.retain(|stream| SockRef::from(stream).take_error().unwrap().is_none());
        connected == STALLED && stalled.is_empty()
    });
    drop(upstream);
    let log = server.stop();
    assert!(log.contains(&format!("lagged={STALLED} ")), "{log}");
}

/// The subscriber pauses the upstream for a while, then reads everything, and repeats this. It is
/// disconnected once its pauses together reach the limit.
pub(crate) fn a_subscriber_that_keeps_pausing_is_disconnected_in_the_end(binary: &str) {
    let upstream = Upstream::new();
    let server = upstream.serve(binary, &["--window", "256KiB"]);
    let mut feed = upstream.accept();
    let (mut healthy, mut sleeper) = (server.connect(), server.connect());
    SockRef::from(&sleeper).set_recv_buffer_size(64 * 1024).unwrap();
    server.await_connected(2);
    feed.write_all(&message(0, 0)).unwrap();
    assert_eq!([read_message(&mut healthy), read_message(&mut sleeper)], [(0, 0); 2]);
    let rounds = Arc::new(AtomicU32::new(0));
    let seen = rounds.clone();
    let sleeper = thread::spawn(move || {
        sleeper.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut buf = vec![0; 1 << 20];
        loop {
            let before = seen.load(Relaxed);
            thread::sleep(Duration::from_millis(700));
            if seen.load(Relaxed) != before {
                continue;
            }
            loop {
                match sleeper.read(&mut buf) {
                    Ok(0) => panic!("a FIN would hide the gap"),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return error.kind(),
                }
            }
        }
    });
    publish_until(&mut feed, &mut healthy, || {
        rounds.fetch_add(1, Relaxed);
        sleeper.is_finished() || server.logged("reason=\"lagged\"") > 0
    });
    drop(upstream);
    let log = server.stop();
    assert_eq!(sleeper.join().unwrap(), ErrorKind::ConnectionReset);
    assert!(log.contains("lagged=1 never_caught_up=0 "), "{log}");
}

pub(crate) fn a_subscriber_that_skips_continues_with_complete_messages(binary: &str) {
    let upstream = Upstream::new();
    let flags = ["--window", "256KiB", "--lag-wait", "0", "--on-lag", "skip"];
    let server = upstream.serve(binary, &flags);
    let mut feed = upstream.accept();
    let (mut healthy, mut slow) = (server.connect(), server.connect());
    server.await_connected(2);
    let mut rounds = 0;
    publish_until(&mut feed, &mut healthy, || {
        rounds += 1;
        rounds == 20 // 16 MB, more than all buffers hold
    });
    // It gets messages from before the gap, and then the current ones.
    let last = thread::spawn(move || {
        let mut seen = Vec::new();
        loop {
            let message = read_message(&mut slow);
            seen.push(message.1);
            if message.0 == 1 {
                return seen;
            }
        }
    });
    thread::sleep(Duration::from_millis(500));
    for number in 0..3 {
        feed.write_all(&message(1, number)).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    let seen = last.join().unwrap();
    let gaps = seen.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert!(gaps >= 1, "it has got all messages");
    drop((upstream, healthy));
    let log = server.stop();
    assert!(!log.contains("skipped=0 "), "{log}");
    assert!(log.contains("lagged=0 "), "{log}");
}

pub(crate) fn subscribers_wait_while_the_upstream_is_away(binary: &str) {
    // At the start, no socket listens on the upstream's address.
    let upstream = Upstream::new();
    let address = upstream.address.clone();
    drop(upstream);
    let flags = ["--upstream", &address, "--frame", "64"];
    let server = Server::start_as(binary, "fanout-server", &flags);
    let mut subscriber = server.connect();
    thread::sleep(Duration::from_millis(100));
    let listener = TcpListener::bind(&address).unwrap();
    let upstream = Upstream { listener, address };
    // Accepts and closes.
    for _ in 0..3 {
        drop(upstream.accept());
    }
    upstream.accept().write_all(&message(7, 7)).unwrap();
    assert_eq!(read_message(&mut subscriber), (7, 7));
    drop(upstream);
    let log = server.stop();
    assert!(log.contains("cannot connect: Connection refused"), "{log}");
    assert!(log.contains("the next attempt is in "), "{log}");
}

pub(crate) fn a_subscriber_that_leaves_is_noticed_without_a_message(binary: &str) {
    let upstream = Upstream::new();
    let server = upstream.serve(binary, &[]);
    let mut feed = upstream.accept();
    let (mut leaving, mut resetting) = (server.connect(), server.connect());
    server.await_connected(2);
    feed.write_all(&message(0, 0)).unwrap();
    for subscriber in [&mut leaving, &mut resetting] {
        assert_eq!(read_message(subscriber), (0, 0));
    }
    leaving.shutdown(Shutdown::Write).unwrap();
    assert_eq!(leaving.read(&mut [0; 1]).unwrap(), 0, "a FIN is answered by one");
    SockRef::from(&resetting).set_linger(Some(Duration::ZERO)).unwrap();
    drop(resetting);
    eventually("both have ended", || server.logged(" closed: ") == 2);
    drop(upstream);
    let log = server.stop();
    assert!(log.contains("closed: the subscriber left"), "{log}");
    assert!(log.contains(r#"reason="reset""#), "{log}");
    assert!(log.contains("connections=2 ") && log.contains(" aborted=0 "), "{log}");
}

pub(crate) fn a_late_subscriber_gets_the_last_messages_first(binary: &str) {
    let upstream = Upstream::new();
    let server = upstream.serve(binary, &["--replay", "3"]);
    let mut feed = upstream.accept();
    let mut early = server.connect();
    server.await_connected(1);
    let bytes: Vec<_> = (0..10).flat_map(|number| message(0, number)).collect();
    feed.write_all(&bytes).unwrap();
    for number in 0..10 {
        assert_eq!(read_message(&mut early), (0, number));
    }
    let mut late = server.connect();
    for number in 7..10 {
        assert_eq!(read_message(&mut late), (0, number));
    }
    feed.write_all(&message(0, 10)).unwrap();
    assert_eq!(read_message(&mut late), (0, 10));
}

pub(crate) fn without_framing_bytes_are_passed_on_at_once(binary: &str) {
    let upstream = Upstream::new();
    let flags = ["--upstream", &upstream.address, "--frame", "bytes", "-v"];
    let server = Server::start_as(binary, "fanout-server", &flags);
    let mut feed = upstream.accept();
    let mut subscriber = server.connect();
    server.await_connected(1);
    let mut received = [0; 3];
    for bytes in [b"abc", b"d\ne"] {
        feed.write_all(bytes).unwrap();
        subscriber.read_exact(&mut received).unwrap();
        assert_eq!(&received, bytes);
    }
}

pub(crate) fn a_line_beyond_the_limit_ends_the_upstreams_connection(binary: &str) {
    let upstream = Upstream::new();
    let flags = ["--upstream", &upstream.address, "--frame", "lines", "-v"];
    let server = Server::start_as(binary, "fanout-server", &flags);
    let mut feed = upstream.accept();
    let mut subscriber = server.connect();
    server.await_connected(1);
    feed.write_all(b"one\ntwo\n").unwrap();
    let endless = thread::spawn(move || while feed.write_all(&[b'x'; 4096]).is_ok() {});
    let mut feed = upstream.accept();
    feed.write_all(b"three\n").unwrap();
    let mut lines = [0; 14];
    subscriber.read_exact(&mut lines).unwrap();
    assert_eq!(&lines, b"one\ntwo\nthree\n");
    endless.join().unwrap();
    drop((feed, upstream));
    let log = server.stop();
    assert!(log.contains("bytes or more; the limit is 1048576"), "{log}");
}

pub(crate) fn a_source_serves_one_client_at_a_time(binary: &str) {
    let flags = ["--size", "64", "--rate", "0", "--count", "1000", "-v"];
    let server = Server::start_as(binary, "fanout-source", &flags);
    for turn in 1..=2 {
        let (mut first, mut bytes) = connect_in_turn(&server);
        bytes.resize(64_000, 0);
        let mut second = server.connect();
        assert_eq!(second.read(&mut [0; 1]).unwrap_or(0), 0, "the second client is closed");
        first.read_exact(&mut bytes[64..]).unwrap();
        assert_eq!(first.read(&mut [0; 1]).unwrap(), 0, "a FIN after the last message");
        for (number, message) in bytes.chunks(64).enumerate() {
            assert!(message.starts_with(format!("{number:020} ").as_bytes()), "{}", text(message));
            assert!(message.ends_with(b".\n"));
        }
        drop(first);
        eventually("the first client has ended", || server.logged(" closed: ") == turn);
    }
}

/// Connects the next client, and reads its first message. Retries, because the server logs the end
/// of a client slightly before it accepts the next one.
fn connect_in_turn(server: &Server) -> (TcpStream, Vec<u8>) {
    let (mut next, mut message) = (None, vec![0; 64]);
    eventually("the next client is served", || {
        let mut client = server.connect();
        let is_served = client.read_exact(&mut message).is_ok();
        next = Some(client);
        is_served
    });
    (next.unwrap(), message)
}

/// `nc` sends its FIN at the end of its input, if it is called with `-N`.
pub(crate) fn a_source_serves_a_client_that_has_closed_its_side(binary: &str) {
    let flags = ["--size", "64", "--rate", "1000", "--count", "100", "-v"];
    let server = Server::start_as(binary, "fanout-source", &flags);
    let mut client = server.connect();
    client.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 6400, "all messages, and then a FIN");
    drop(client);
    eventually("the client has ended", || server.logged(" closed: ") == 1);
    // The server notices that such a client is closed, and accepts the next one.
    let (mut closed, _) = connect_in_turn(&server);
    closed.shutdown(Shutdown::Write).unwrap();
    closed.read_exact(&mut [0; 20 * 64]).unwrap();
    drop(closed);
    connect_in_turn(&server);
    let log = server.stop();
    assert!(log.contains("the client left; messages generated: "), "{log}");
    assert!(log.contains("all messages are sent: 100"), "{log}");
}

pub(crate) fn a_client_writes_messages_and_ends_after_its_count(binary: &str) {
    let source = Server::start_as(binary, "fanout-source", &["--rate", "5000"]);
    let flags = ["--upstream", &source.address, "-v"];
    let server = Server::start_as(binary, "fanout-server", &flags);
    let output = run(binary, &["fanout-client", &server.address, "--count", "1500"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(output.stdout.len(), 1500 * 1024);
    let numbers: Vec<u64> = output
        .stdout
        .chunks(1024)
        .map(|message| text(&message[..20]).parse().expect("twenty digits"))
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "no gap");
    assert!(text(&output.stderr).contains("1500 messages, "), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(" 0 gaps, lag "), "{}", text(&output.stderr));

    let mut client = command(binary);
    client.args(["fanout-client", &server.address, "-q"]);
    let mut client = client.spawn().unwrap();
    server.await_connected(2);
    drop(client.stdout.take()); // `head` does so after its last line
    let output = client.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

pub(crate) fn a_client_reports_how_its_stream_ended(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ends: [(usize, bool, &[&str], i32, &str); 6] = [
        (3 * SIZE, false, &[], 0, "the server ended the stream; messages received: 3\n"),
        (
            3 * SIZE,
            false,
            &["--count", "4"],
            1,
            "the server ended the stream; messages received: 3 of 4",
        ),
        (3 * SIZE, false, &["--count", "3"], 0, "3 messages, "),
        (
            3 * SIZE + 17,
            false,
            &[],
            1,
            "the server ended the stream after 17 of a message's 64 bytes",
        ),
        // A full server does so.
        (0, false, &[], 1, "the server closed the connection before the first message"),
        (3 * SIZE, true, &[], 1, "connection reset by peer"),
    ];
    for (sent, reset, flags, code, expected) in ends {
        let mut client = command(binary);
        client.args(["fanout-client", &address, "--frame", "64"]).args(flags);
        let mut client = client.spawn().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let bytes: Vec<u8> = (0..4).flat_map(|number| message(0, number)).collect();
        stream.write_all(&bytes[..sent]).unwrap();
        if reset {
            client.stdout.as_mut().unwrap().read_exact(&mut vec![0; sent]).unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
        let output = client.wait_with_output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(reset || output.stdout == bytes[..sent], "{}", text(&output.stdout));
    }
}

pub(crate) fn a_client_exits_with_0_when_the_server_is_shut_down(binary: &str) {
    let upstream = Upstream::new();
    let server = upstream.serve(binary, &[]);
    let mut feed = upstream.accept();
    let mut client = command(binary);
    let client = client.args(["fanout-client", &server.address, "--frame", "64", "-q"]);
    let mut client = client.spawn().unwrap();
    server.await_connected(1);
    feed.write_all(&message(0, 0)).unwrap();
    client.stdout.as_mut().unwrap().read_exact(&mut [0; SIZE]).unwrap();
    server.stop();
    let output = client.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

pub(crate) fn contradicting_flags_are_wrong_usage(binary: &str) {
    const STREAM: &str = "nats://u:s3cr3t@127.0.0.1/feed";
    const PLAIN: &str = "nats://127.0.0.1/feed";
    let calls: &[(&[&str], &str)] = &[
        (&["--publish", STREAM, "--upstream", STREAM], "are both streams"),
        (&["--publish", STREAM, "--frame", "bytes"], "--publish needs messages"),
        (&["--publish-on-lag", "skip"], "--publish <NATS_ADDR>"),
        (&["--nats-creds", "x"], "--nats-creds needs --publish, or --upstream with"),
        (&["--nats-tls-ca", "x"], "--nats-tls-ca needs --publish, or --upstream with"),
        (&["--publish", PLAIN, "--nats-tls-name", "x"], "needs an address that begins with tls://"),
        (&["--publish", PLAIN, "--nats-creds", "x", "--nats-nkey", "y"], "cannot be used with"),
        (&["--publish", PLAIN, "--nats-tls-key", "x"], "--nats-tls-cert <FILE>"),
        (&["--upstream", STREAM, "--nats-nkey", "x"], "both have credentials"),
        (&["--upstream", PLAIN, "--upstream-tls"], "write tls:// as the scheme"),
        (&["--upstream", PLAIN, "--upstream-idle-timeout", "5s"], "is the address of a stream"),
        (&["--upstream", "nats://u:s3cr3t@:4222/feed"], "'nats://***@:4222/feed'"),
        (&["--frame", "0"], "expected at least 1B"),
        (&["--frame", "bytes", "--on-lag", "skip"], "--on-lag skip needs messages"),
        (&["--frame", "bytes", "--replay", "1"], "--replay needs messages"),
        (&["--window", "1000"], "--window 1000B is smaller than a message"),
        (&["--upstream", "127.0.0.1:1235"], "is this server itself"),
        (&["--upstream", "0.0.0.0:4", "--listen", "127.0.0.1:4"], "is this server itself"),
    ];
    for (flags, expected) in calls {
        let output = run(binary, &[&["fanout-server"], *flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{flags:?}: {error}");
        assert!(!error.contains("s3cr3t"), "{flags:?}: {error}");
    }
}

pub(crate) fn published_messages_are_flushed_on_sigterm(binary: &str) {
    let upstream = Upstream::new();
    let server = upstream.serve(binary, &[]);
    let mut feed = upstream.accept();
    let mut subscriber = server.connect();
    server.await_connected(1);
    let messages = 50_000;
    let bytes: Vec<_> = (0..messages).flat_map(|number| message(0, number)).collect();
    feed.write_all(&bytes).unwrap();
    thread::sleep(Duration::from_millis(300));
    server.signal(rustix::process::Signal::TERM);
    let mut received = Vec::new();
    subscriber.read_to_end(&mut received).unwrap();
    assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
    drop(subscriber);
    let (status, log) = server.wait();
    assert!(status.success(), "{log}");
    assert!(log.contains("drained=1 aborted=0"), "{log}");
}
