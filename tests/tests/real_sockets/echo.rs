//! Scenarios of the echo server.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use socket2::SockRef;

use crate::process::{self, Server, eventually, word_after};

/// Bytes in which a shift, a gap or a repetition shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0]).collect()
}

pub(crate) fn exchange(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(message).unwrap();
    let mut reply = vec![0; message.len()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply, message);
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn bytes_come_back_in_order_in_any_chunks(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut stream = server.connect();
    let sent = pattern(3000);
    let mut received = Vec::new();
    for (i, cut) in sent.chunks(7).enumerate() {
        for byte in cut {
            stream.write_all(&[*byte]).unwrap();
        }
        let mut reply = vec![0; 1 + i % 7];
        let n = stream.read(&mut reply).unwrap();
        received.extend_from_slice(&reply[..n]);
    }
    stream.shutdown(Shutdown::Write).unwrap();
    received.extend(read_to_end(&mut stream));
    assert_eq!(received, sent);
}

pub(crate) fn a_half_closed_peer_gets_8_mib_back_to_the_last_byte(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut stream = server.connect();
    let sent = pattern(8 << 20);
    let mut writer = stream.try_clone().unwrap();
    let bytes = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    // All buffers are full before the first byte is read.
    thread::sleep(Duration::from_millis(100));
    assert!(read_to_end(&mut stream) == sent, "all bytes, in order, and then the end");
    writing.join().unwrap();
    let (log, bytes) = (server.stop(), sent.len());
    let expected = format!(" aborted=0 refused=0 received={bytes} sent={bytes}");
    assert!(log.contains("connections=1 ") && log.contains(&expected), "{log}");
}

pub(crate) fn peers_that_reset_end_alone(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut healthy = server.connect();
    exchange(&mut healthy, b"before");
    for round in 0..20 {
        let mut peer = server.connect();
        peer.write_all(&pattern(100_000)).unwrap();
        if round % 2 == 0 {
            let _ = peer.read(&mut [0; 100]).unwrap();
        }
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        exchange(&mut healthy, &pattern(5000));
    }
    healthy.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&mut healthy).is_empty());
    eventually("all resets are noticed", || server.logged(r#"reason="reset""#) == 20);
    let log = server.stop();
    assert!(log.contains("connection reset by peer"), "{log}");
}

pub(crate) fn a_reset_after_a_fin_is_a_reset(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut peer = server.connect();
    exchange(&mut peer, b"before");
    server.suspend();
    let ports = [peer.peer_addr(), peer.local_addr()].map(|address| address.unwrap().port());
    let its_end = format!(":{:04X} 0100007F:{:04X} ", ports[0], ports[1]);
    peer.shutdown(Shutdown::Write).unwrap();
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    // The kernel lists a connection until it is reset (proc_pid_net(5)).
    let connections = || fs::read_to_string("/proc/net/tcp").unwrap();
    eventually("the reset has arrived", || !connections().contains(&its_end));
    server.signal(Signal::CONT);
    let mut healthy = server.connect();
    exchange(&mut healthy, b"after");
    drop(healthy);
    let log = server.stop();
    assert!(log.contains(r#"reason="reset""#), "not a clean end, although a FIN came first: {log}");
}

pub(crate) fn a_thousand_connections_at_once(binary: &str) {
    let files = rlimit::increase_nofile_limit(4096).unwrap();
    assert!(files >= 1100, "this test needs 1,100 open files, and may have {files}");
    let server = Server::start(binary, &[]);
    let mut streams: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    for round in 0..3_u32 {
        for (i, stream) in (0_u32..).zip(&mut streams) {
            stream.write_all(&(i * 7 + round).to_be_bytes()).unwrap();
        }
        for (i, stream) in (0_u32..).zip(&mut streams) {
            let mut reply = [0; 4];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(u32::from_be_bytes(reply), i * 7 + round);
        }
    }
    drop(streams);
    assert!(server.stop().contains("connections=1000 "));
}

pub(crate) fn an_idle_connection_is_closed_after_the_idle_timeout(binary: &str) {
    let server = Server::start(binary, &["--idle-timeout", "300ms"]);
    let mut stream = server.connect();
    // A client that sends in time is not idle.
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(100));
        exchange(&mut stream, b"still here");
    }
    let silent_since = Instant::now();
    assert!(read_to_end(&mut stream).is_empty(), "a clean end: no output was pending");
    assert!(silent_since.elapsed() >= Duration::from_millis(290), "{:?}", silent_since.elapsed());
    let log = server.stop();
    assert!(log.contains("no byte moved for 300ms; unsent bytes: 0"), "{log}");
    assert!(log.contains(r#"reason="idle_timeout""#), "{log}");
}

pub(crate) fn a_peer_that_does_not_read_is_reset_after_the_idle_timeout(binary: &str) {
    let server = Server::start(binary, &["--idle-timeout", "300ms"]);
    let mut stalled = server.connect();
    let mut healthy = server.connect();
    stalled.set_nonblocking(true).unwrap();
    let chunk = pattern(1 << 16);
    let mut sent = 0;
    // Sends until all buffers are full.
    eventually("the reset", || {
        exchange(&mut healthy, b"not affected");
        match stalled.write(&chunk) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Output is pending, so the end is not clean.
            Err(error) => {
                let kind = error.kind();
                assert!(
                    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                    "{error}"
                );
                return true;
            }
        }
        false
    });
    assert!(sent > 1 << 16);
    let log = server.stop();
    assert!(log.contains(r#"reason="idle_timeout""#), "{log}");
    assert!(!log.contains("; unsent bytes: 0"), "{log}");
}

pub(crate) fn connections_beyond_the_limit_are_refused(binary: &str) {
    let server = Server::start(binary, &["--max-connections", "2"]);
    let (mut first, mut second) = (server.connect(), server.connect());
    exchange(&mut first, b"first");
    exchange(&mut second, b"second");
    let mut third = server.connect();
    assert_eq!(third.read(&mut [0; 8]).unwrap_or(0), 0, "it is closed");
    exchange(&mut first, b"not affected");
    drop(second);
    eventually("another one is accepted", || {
        let mut another = server.connect();
        let _ = another.write_all(b"x");
        matches!(another.read(&mut [0; 8]), Ok(1))
    });
    let log = server.stop();
    assert!(
        log.contains("refusing connections: the limit of open connections is reached: 2"),
        "{log}"
    );
}

pub(crate) fn running_out_of_files_leaves_open_connections_alone(binary: &str) {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(r#"ulimit -n 48; exec "$0" echo-server --listen 127.0.0.1:0 --max-connections 1000"#)
        .arg(process::path(binary))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let server = Server::start_command(command);
    let mut healthy = server.connect();
    exchange(&mut healthy, b"before");
    // More connections than open files. The others wait in the backlog.
    let mut crowd: Vec<_> = (0..80).map(|_| server.connect()).collect();
    eventually("accepting pauses", || {
        exchange(&mut healthy, &pattern(1000));
        server.logged("accepting pauses for ") > 0
    });
    let mut last = crowd.pop().unwrap();
    drop(crowd);
    exchange(&mut last, b"accepted later");
    exchange(&mut healthy, b"after");
    drop((healthy, last));
    let log = server.stop();
    assert!(log.contains("Too many open files"), "{log}");
    assert!(log.contains("accepting pauses for 10ms"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

pub(crate) fn a_prefix_goes_before_each_chunk_and_bytes_pass_unchanged(binary: &str) {
    let server = Server::start(binary, &["--prefix", "Server received: ", "--chunk", "4"]);
    let mut stream = server.connect();
    let mut reply = [0; 21];
    // Half a character, and bytes that are not UTF-8.
    for chunk in [b"abc\xc3", b"\xa9\xff\x00d"] {
        stream.write_all(chunk).unwrap();
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply, [b"Server received: ".as_slice(), chunk].concat()[..]);
    }
    stream.write_all(b"abcdefgh").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), b"Server received: abcdServer received: efgh");
}

pub(crate) fn bytes_that_arrive_while_the_process_is_suspended_are_echoed(binary: &str) {
    let server = Server::start(binary, &["--idle-timeout", "400ms"]);
    let mut stream = server.connect();
    exchange(&mut stream, b"before");
    server.suspend();
    stream.write_all(b"in time").unwrap();
    thread::sleep(Duration::from_millis(1000));
    server.signal(Signal::CONT);
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).expect("the request had arrived long before the deadline");
    assert_eq!(&reply, b"in time");
}

pub(crate) fn sigterm_flushes_pending_output(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut idle = server.connect();
    exchange(&mut idle, b"hello");
    let mut pending = server.connect();
    exchange(&mut pending, b"accepted");
    // Fits into the buffers on the path, so the kernel takes it without a reader.
    let sent = pattern(400_000);
    pending.write_all(&sent).unwrap();
    server.signal(Signal::TERM);
    assert!(read_to_end(&mut idle).is_empty(), "a FIN, because no output is pending");
    drop(idle);
    eventually("no connection is accepted", || TcpStream::connect(&server.address).is_err());
    assert!(read_to_end(&mut pending) == sent, "every byte, and then a FIN");
    drop(pending);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("connections=2 drained=2 aborted=0"), "{log}");
}

/// Fills all buffers of a connection. Returns the connection and the sent bytes.
pub(crate) fn stall(server: &Server) -> (TcpStream, Vec<u8>) {
    let mut stream = server.connect();
    stream.set_nonblocking(true).unwrap();
    let chunk = pattern(1 << 16);
    let mut sent = Vec::new();
    let mut full_since = None;
    eventually("all buffers are full", || match stream.write(&chunk) {
        Ok(n) => {
            sent.extend_from_slice(&chunk[..n]);
            full_since = None;
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            full_since.get_or_insert_with(Instant::now).elapsed() > Duration::from_millis(50)
        }
    });
    stream.set_nonblocking(false).unwrap();
    (stream, sent)
}

pub(crate) fn sigterm_waits_for_a_slow_reader(binary: &str) {
    // The server does not wait for a segment that the kernel drops because a full receive buffer
    // has no room for it. It is retransmitted after 200 ms or more (RFC 6298, section 2.4).
    let late: Vec<usize> = (0..3).map_while(|_| late_input_of_a_slow_reader(binary)).collect();
    assert!(late.len() < 3, "bytes after the FIN, each time: {late:?}");
}

/// How much input comes after the FIN, if it is much.
fn late_input_of_a_slow_reader(binary: &str) -> Option<usize> {
    let server = Server::start(binary, &["-v"]);
    let (mut pending, sent) = stall(&server);
    assert!(sent.len() > 4 << 20, "megabytes are in flight, most of them unread");
    server.signal(Signal::TERM);
    // Longer than the lingering close waits.
    thread::sleep(Duration::from_millis(2500));
    let back = read_to_end(&mut pending);
    drop(pending);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained=1 aborted=0"), "{log}");
    // The server echoes what it has received before its FIN.
    assert!(sent.starts_with(&back), "every byte, in order");
    assert!(back.len() > 1 << 20, "{log}");
    let figure = |name| word_after(name, &log).unwrap().parse::<usize>().unwrap();
    let (received, late) = (figure(" received="), figure("after the FIN: "));
    assert_eq!(received, back.len() + late, "{log}");
    (late >= 128 * 1024).then_some(late)
}

pub(crate) fn a_connection_that_outlasts_the_drain_timeout_is_reset(binary: &str) {
    let server = Server::start(binary, &["--drain-timeout", "300ms"]);
    let (mut stalled, _) = stall(&server);
    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("connections=1 drained=0 aborted=1"), "{log}");
    let error = std::io::copy(&mut stalled, &mut std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the end is not clean");
}

/// The drain's deadline passes while the process is stopped and cannot serve its client.
pub(crate) fn time_in_which_the_process_is_suspended_does_not_count_for_the_drain(binary: &str) {
    let server = Server::start(binary, &["--drain-timeout", "3s"]);
    let (mut pending, sent) = stall(&server);
    server.signal(Signal::TERM);
    eventually("it drains", || server.logged("draining") > 0);
    server.suspend();
    thread::sleep(Duration::from_secs(4));
    server.signal(Signal::CONT);
    assert!(sent.starts_with(&read_to_end(&mut pending)), "all that had arrived, and then a FIN");
    drop(pending);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained=1 aborted=0"), "{log}");
}

/// The clients are connected and have sent their requests before the server accepts them.
pub(crate) fn requests_in_the_backlog_are_answered_before_the_server_ends(binary: &str) {
    let server = Server::start(binary, &[]);
    server.suspend();
    let mut waiting: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for stream in &mut waiting {
        stream.write_all(b"request").unwrap();
    }
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for stream in &mut waiting {
        assert_eq!(read_to_end(stream), b"request");
    }
    let (status, log) = server.wait();
    assert!(status.success() && log.contains("drained=8 aborted=0"), "{status}: {log}");
}

/// A client may be refused, or get a FIN before an answer. It can then retry.
///
/// A server that shuts down waits 50 ms for handshakes that have begun, and then resets them. On a
/// loaded machine a handshake can take longer, so a reset after that time is not a failure.
pub(crate) fn restarts_under_load_reset_no_client(binary: &str) {
    const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(50);
    let mut server = Server::start(binary, &[]);
    let address: SocketAddr = server.address.parse().unwrap();
    let (is_over, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let failures = Mutex::<Vec<(Duration, std::io::Error)>>::default();
    let client = || {
        while !is_over.load(Relaxed) {
            let began = Instant::now();
            match ping(address) {
                Ok(true) => drop(answered.fetch_add(1, Relaxed)),
                Ok(false) => thread::sleep(Duration::from_millis(1)),
                Err(error) => failures.lock().unwrap().push((began.elapsed(), error)),
            }
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
        for _ in 0..6 {
            let before = answered.load(Relaxed);
            eventually("it serves", || answered.load(Relaxed) > before);
            server.signal(Signal::TERM);
            server.wait();
            let mut again = process::command(binary);
            again.args(["echo-server", "--listen", &address.to_string()]);
            server = Server::start_command(again);
        }
        is_over.store(true, Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    let failures = failures.into_inner().unwrap();
    let is_late = |(age, error): &(Duration, std::io::Error)| {
        let is_reset = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        is_reset && *age >= HANDSHAKE_TIMEOUT
    };
    let (late, unexpected): (Vec<_>, Vec<_>) = failures.into_iter().partition(is_late);
    assert!(unexpected.is_empty(), "of {answered:?}: {unexpected:?}, and late: {late:?}");
}

/// Connects and sends one request. Returns false if the connection is refused, or closed before an
/// answer.
fn ping(address: SocketAddr) -> std::io::Result<bool> {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, process::TEST_TIMEOUT) else {
        return Ok(false);
    };
    stream.set_read_timeout(Some(process::TEST_TIMEOUT))?;
    stream.write_all(b"ping")?;
    let mut reply = Vec::new();
    (&stream).take(4).read_to_end(&mut reply)?;
    Ok(reply == b"ping")
}

pub(crate) fn a_second_signal_ends_the_process(binary: &str) {
    use std::os::unix::process::ExitStatusExt;

    let server = Server::start(binary, &["--drain-timeout", "off"]);
    let stalled = stall(&server);
    server.signal(Signal::INT);
    eventually("no connection is accepted", || TcpStream::connect(&server.address).is_err());
    thread::sleep(Duration::from_millis(500));
    server.signal(Signal::INT);
    let (status, log) = server.wait();
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()), "{status}: {log}");
    drop(stalled);
}

/// timeout(1) sends its signal twice.
pub(crate) fn two_signals_at_once_count_as_one(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut pending = server.connect();
    exchange(&mut pending, b"accepted");
    let sent = pattern(400_000);
    pending.write_all(&sent).unwrap();
    server.signal(Signal::TERM);
    eventually("the first one is handled", || server.logged("SIGTERM: ") == 1);
    server.signal(Signal::TERM);
    assert!(read_to_end(&mut pending) == sent, "every byte, and then a FIN");
    drop(pending);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}
