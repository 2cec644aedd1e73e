//! Scenarios of the proxy.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use socket2::SockRef;

use crate::{
    command_line::max_files,
    process::{self, Server, TEST_TIMEOUT, eventually, run, text},
    proxies::closed_port,
    status,
    unix::Folder,
};

/// A proxy in front of `upstream`.
pub(crate) fn proxy(binary: &str, upstream: &str, flags: &[&str]) -> Server {
    Server::start_as(binary, "proxy", &[&["--upstream", upstream], flags].concat())
}

/// Listens on a free port, accepts one connection, and calls `serve` with it on a thread.
pub(crate) fn upstream<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        serve(stream)
    });
    (address, serving)
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).err();
    (bytes, error.map(|error| error.kind()))
}

fn converse(binary: &str, address: &str) -> (Option<i32>, String, String) {
    let words = ["echo-client", address, "--message", "hello", "--retry-for", "0s"];
    let output = run(binary, &words);
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Connects to the server, to a wrong port, and to the proxy: with the server running, with the
/// server stopped, and with the proxy stopped.
pub(crate) fn clients_reach_the_upstream_through_the_proxy_or_get_an_error(binary: &str) {
    let echo = Server::start(binary, &[]);
    let (code, reply, _) = converse(binary, &echo.address);
    assert_eq!((code, &*reply), (Some(0), "hello\n"), "direct");

    let wrong = closed_port();
    let (code, _, error) = converse(binary, &wrong);
    assert_eq!(code, Some(1), "a wrong port");
    assert!(error.contains(&format!("cannot connect to {wrong}: Connection refused")), "{error}");

    let proxy = proxy(binary, &echo.address, &[]);
    let through = proxy.address.clone();
    let (code, reply, _) = converse(binary, &through);
    assert_eq!((code, &*reply), (Some(0), "hello\n"), "through the proxy");

    let upstream = echo.address.clone();
    echo.stop();
    let (code, _, error) = converse(binary, &through);
    assert_eq!(code, Some(1), "the backend is down");
    let closed = error.contains("the server closed the connection") || error.contains("reset");
    assert!(closed, "the client's connection is closed: {error}");
    let log = proxy.stop();
    let expected = format!("no upstream reachable: {upstream}: Connection refused");
    assert!(log.contains(&expected), "the log names the attempt and its reason: {log}");
    assert!(log.contains(r#"reason="no_upstream""#), "{log}");

    let (code, _, error) = converse(binary, &through);
    assert_eq!(code, Some(1), "the proxy is stopped");
    assert!(error.contains(&format!("cannot connect to {through}: Connection refused")), "{error}");
}

pub(crate) fn many_connections_verify_every_byte_through_it(binary: &str) {
    let echo = Server::start(binary, &[]);
    let proxy = proxy(binary, &echo.address, &["--balance", "least-connections"]);
    let words = ["multiconn-client", &proxy.address, "100", "--rounds", "20", "--size", "20000"];
    let output = run(binary, &[&words[..], &["--mode", "pipelined"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let log = proxy.stop();
    assert!(
        log.contains("connections=100 ")
            && log.contains("aborted=0 refused=0 received=40000000 sent=40000000"),
        "{log}"
    );
    assert!(log.contains("connects=100 failures=0"), "{log}");
}

pub(crate) fn a_reply_arrives_after_the_clients_fin(binary: &str) {
    let (address, serving) = upstream(|mut stream| {
        let (request, error) = read_to_end(&mut stream);
        assert_eq!((&*request, error), (&b"request"[..], None), "the FIN is relayed");
        thread::sleep(Duration::from_millis(300));
        stream.write_all(b"late reply").unwrap();
    });
    let proxy = proxy(binary, &address, &[]);
    let mut client = proxy.connect();
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), (b"late reply".to_vec(), None));
    serving.join().unwrap();
    let log = proxy.stop();
    assert!(log.contains("connections=1 ") && log.contains("aborted=0"), "{log}");
}

pub(crate) fn a_clients_reset_arrives_at_the_upstream(binary: &str) {
    let (received, is_received) = mpsc::channel();
    let (address, serving) = upstream(move |mut stream| {
        stream.read_exact(&mut vec![0; 100_000]).unwrap();
        received.send(()).unwrap();
        read_to_end(&mut stream)
    });
    let proxy = proxy(binary, &address, &[]);
    let mut client = proxy.connect();
    client.write_all(&vec![7; 100_000]).unwrap();
    is_received.recv().unwrap();
    reset(client);
    assert_eq!(serving.join().unwrap(), (vec![], Some(ErrorKind::ConnectionReset)));
    let log = proxy.stop();
    assert!(log.contains("client lost while receiving: connection reset by peer"), "{log}");
    assert!(log.contains(r#"reason="client_lost""#), "{log}");
}

pub(crate) fn an_upstreams_reset_arrives_at_the_client(binary: &str) {
    let (received, is_received) = mpsc::channel();
    let (address, serving) = upstream(move |mut stream| {
        stream.write_all(&vec![7; 100_000]).unwrap();
        is_received.recv().unwrap();
        reset(stream);
    });
    let proxy = proxy(binary, &address, &[]);
    let mut client = proxy.connect();
    client.read_exact(&mut vec![0; 100_000]).unwrap();
    received.send(()).unwrap();
    assert_eq!(read_to_end(&mut client), (vec![], Some(ErrorKind::ConnectionReset)));
    serving.join().unwrap();
    let log = proxy.stop();
    assert!(log.contains("upstream lost while receiving: connection reset by peer"), "{log}");
    assert!(log.contains(r#"reason="upstream_lost""#), "{log}");
}

/// A reset discards data in the kernel's buffers, so the proxy resets only after the peer has read.
pub(crate) fn a_reset_waits_until_a_slow_reader_has_read_all(binary: &str) {
    const SIZE: usize = 1_000_000;
    let sends = |mut stream: TcpStream| {
        stream.write_all(&vec![7; SIZE]).unwrap();
        eventually("the proxy has received it", || wirestate_sockets::unacknowledged(&stream) == 0);
        reset(stream);
    };
    let reads = |mut stream: TcpStream| {
        thread::sleep(Duration::from_millis(500));
        let (bytes, error) = read_to_end(&mut stream);
        assert_eq!((bytes.len(), error), (SIZE, Some(ErrorKind::ConnectionReset)));
    };
    for from_client in [false, true] {
        let (address, serving) =
            upstream(move |stream| if from_client { reads(stream) } else { sends(stream) });
        let proxy = proxy(binary, &address, &[]);
        let client = proxy.connect();
        if from_client {
            sends(client);
        } else {
            reads(client);
        }
        serving.join().unwrap();
        let log = proxy.stop();
        assert!(log.contains("aborted=0"), "{log}");
    }
}

/// The receiver's kernel drops segments for which it has no memory (here, because its receive
/// buffer was made smaller). The reset waits until they are retransmitted and acknowledged.
pub(crate) fn a_reset_waits_for_retransmitted_bytes(binary: &str) {
    for size in [44_000, 50_000, 56_000] {
        let (shrunk, has_shrunk) = mpsc::channel();
        let (address, serving) = upstream(move |mut stream| {
            SockRef::from(&stream).set_recv_buffer_size(2000).unwrap();
            shrunk.send(()).unwrap();
            thread::sleep(Duration::from_millis(500));
            let (bytes, error) = read_to_end(&mut stream);
            (bytes.len(), error)
        });
        let proxy = proxy(binary, &address, &[]);
        let mut client = proxy.connect();
        has_shrunk.recv().unwrap();
        client.write_all(&vec![7; size]).unwrap();
        eventually("the proxy has received it", || wirestate_sockets::unacknowledged(&client) == 0);
        reset(client);
        assert_eq!(serving.join().unwrap(), (size, Some(ErrorKind::ConnectionReset)));
        proxy.stop();
    }
}

/// An immediate close would reset a client that is still sending.
pub(crate) fn a_client_without_an_upstream_gets_a_fin_although_it_sends_1_mib(binary: &str) {
    let proxy = proxy(binary, &closed_port(), &[]);
    for _ in 0..20 {
        let mut client = proxy.connect();
        for piece in vec![7; 1 << 20].chunks(1000) {
            client.write_all(piece).unwrap();
        }
        assert_eq!(read_to_end(&mut client), (Vec::new(), None));
    }
    assert_eq!(proxy.stop().matches(r#"reason="no_upstream""#).count(), 20);
}

pub(crate) fn another_upstream_is_tried_when_one_refuses(binary: &str) {
    let echo = Server::start(binary, &[]);
    let closed = closed_port();
    let upstreams = ["--upstream", "no-such-host.invalid:9", "--upstream", &echo.address];
    let proxy = proxy(binary, &closed, &upstreams);
    for _ in 0..5 {
        let (code, reply, error) = converse(binary, &proxy.address);
        assert_eq!((code, &*reply), (Some(0), "hello\n"), "{error}");
    }
    let log = proxy.stop();
    assert!(log.contains(&format!("Connection refused (os error 111) upstream={closed}")), "{log}");
    assert!(log.contains("upstream=no-such-host.invalid:9"), "{log}");
    assert!(log.contains("upstream down, not preferred for "), "{log}");
    assert!(log.contains(&format!("address={} connects=5 failures=0", echo.address)), "{log}");
}

/// The client is served, because no byte had been forwarded to the first upstream.
pub(crate) fn another_upstream_is_tried_when_one_accepts_and_resets(binary: &str) {
    let echo = Server::start(binary, &[]);
    let (resets, resetting) = upstream(|stream| {
        // With an immediate reset, the dial would fail.
        thread::sleep(Duration::from_millis(100));
        reset(stream);
    });
    let proxy = proxy(binary, &resets, &["--upstream", &echo.address]);
    let mut client = proxy.connect();
    resetting.join().unwrap();
    eventually("the next upstream is tried", || proxy.logged("upstream down") > 0);
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), (b"hello".to_vec(), None));
    let log = proxy.stop();
    let expected = "connection reset by peer, before a byte was forwarded";
    assert!(log.contains(&format!("{expected} upstream={resets}")), "{log}");
    assert!(log.contains(&format!("address={resets} connects=1 failures=1")), "{log}");
}

/// The upstream does not accept, and its backlog is full, so connecting to it does not finish.
pub(crate) fn a_dial_without_an_answer_ends_at_the_connect_timeout(binary: &str) {
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    silent.bind(&any.into()).unwrap();
    silent.listen(0).unwrap();
    let address = silent.local_addr().unwrap().as_socket().unwrap();
    let _full = TcpStream::connect(address).unwrap();
    let proxy = proxy(binary, &address.to_string(), &["--connect-timeout", "400ms"]);
    let began = Instant::now();
    let (bytes, _) = read_to_end(&mut proxy.connect());
    assert!(bytes.is_empty() && began.elapsed() >= Duration::from_millis(390));
    let log = proxy.stop();
    assert!(log.contains("no upstream reachable within 400ms"), "{log}");
    // The dial of the last upstream has the remaining time, which is slightly less than 400 ms.
    assert!(log.contains("upstream down: no answer within "), "{log}");
    assert!(log.contains(r#"reason="connect_timeout""#), "{log}");
}

pub(crate) fn an_idle_connection_is_reset(binary: &str) {
    let (address, serving) = upstream(|mut stream| read_to_end(&mut stream));
    let proxy = proxy(binary, &address, &["--idle-timeout", "300ms"]);
    let mut client = proxy.connect();
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(100));
        client.write_all(b"x").unwrap();
    }
    assert_eq!(read_to_end(&mut client), (vec![], Some(ErrorKind::ConnectionReset)));
    let received = serving.join().unwrap();
    assert_eq!(received, (b"xxxx".to_vec(), Some(ErrorKind::ConnectionReset)));
    let log = proxy.stop();
    assert!(log.contains("no byte moved for 300ms"), "{log}");
}

pub(crate) fn sigterm_ends_quiet_connections_and_lets_busy_ones_continue(binary: &str) {
    let echo = Server::start(binary, &[]);
    let proxy = proxy(binary, &echo.address, &["--drain-timeout", "20s"]);
    let (mut quiet, mut busy) = (proxy.connect(), proxy.connect());
    let exchange = |stream: &mut TcpStream| {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    };
    exchange(&mut quiet);
    exchange(&mut busy);
    proxy.signal(Signal::TERM);
    for _ in 0..15 {
        thread::sleep(Duration::from_millis(100));
        exchange(&mut busy);
    }
    assert_eq!(read_to_end(&mut quiet), (vec![], None), "a FIN: no output was pending");
    busy.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut busy), (vec![], None));
    let (status, log) = proxy.wait();
    assert!(status.success(), "{log}");
    assert!(log.contains("connections=2 drained=2 aborted=0"), "{log}");
}

pub(crate) fn the_metrics_show_each_upstream(binary: &str) {
    let echo = Server::start(binary, &[]);
    let closed = closed_port();
    let flags = ["--upstream", &closed, "--status", "127.0.0.1:0"];
    let proxy = proxy(binary, &echo.address, &flags);
    for _ in 0..2 {
        let (code, reply, error) = converse(binary, &proxy.address);
        assert_eq!((code, &*reply), (Some(0), "hello\n"), "{error}");
    }
    let (_, metrics) = status::get(&proxy, "/metrics");
    for (name, upstream, figure) in [
        ("up", &echo.address, 1),
        ("connects_total", &echo.address, 2),
        ("failures_total", &echo.address, 0),
        ("up", &closed, 0),
        ("connects_total", &closed, 0),
        ("failures_total", &closed, 1),
    ] {
        let labels = format!("server=\"proxy\",upstream=\"{upstream}\"");
        let line = format!("wirestate_proxy_upstream_{name}{{{labels}}} {figure}");
        assert!(metrics.lines().any(|other| other == line), "{line}: {metrics}");
    }
}

/// On the std runtime it counts as three, because its thread has one for wake-ups. Further files
/// are reserved for pipes.
pub(crate) fn a_proxied_connection_counts_as_two_open_files(binary: &str) {
    let limited_to = |files: u32, flags: &[&str]| {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!(r#"ulimit -n {files} && exec "$0" "$@""#)])
            .arg(process::path(binary))
            .args(["proxy", "--listen", "127.0.0.1:0", "--max-connections", "10000"])
            .args(flags)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped());
        Server::start_command(command).stop()
    };
    let allows =
        |flag: &str, count: u32| format!("{flag}: the limit of 164 open files allows {count}");
    let limited = |flags: &[&str]| limited_to(164, flags);
    let files = if binary == "wirestate-std" { 3 } else { 2 };
    let log = limited(&[]);
    assert!(log.contains(&allows("--max-connections 10000", 90 / files)), "{log}");
    let many = u64::MAX.to_string();
    let log = limited(&["--pipes", &many]);
    assert!(log.contains(&allows(&format!("--pipes {many}"), 20)), "{log}");
    assert!(log.contains(&allows("--max-connections 10000", 60 / files)), "{log}");
    if max_files() < 10_000 {
        eprintln!("NOT TESTED: there may not be 10,000 open files");
        return;
    }
    let log = limited_to(10_000, &[]);
    let possible = (10_000 - 64 - 2 * 256) / files;
    assert!(log.contains(&format!("the limit of 10000 open files allows {possible}")), "{log}");
}

pub(crate) fn a_proxy_that_would_be_its_own_upstream_is_wrong_usage(binary: &str) {
    for (listen, upstream) in
        [("127.0.0.1:9", "127.0.0.1:9"), ("0.0.0.0:9", "127.0.0.1:9"), ("127.0.0.1:9", "[::]:9")]
    {
        let words = ["proxy", "--listen", listen, "--upstream", "127.0.0.1:1"];
        let output = run(binary, &[&words[..], &["--upstream", upstream]].concat());
        assert_eq!(output.status.code(), Some(2), "{listen} to {upstream}");
        let error = text(&output.stderr);
        let expected = format!("--upstream {upstream} is this server itself (--listen {listen})");
        assert!(error.contains(&expected), "{error}");
    }
    let twice = ["proxy", "--upstream", "127.0.0.1:1", "--upstream", "127.0.0.1:1"];
    let output = run(binary, &twice);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--upstream 127.0.0.1:1 is given twice"));
}

/// Passes a listening socket whose address is not on the command line.
const LAUNCHER: &str = r"
import os, socket, sys
main = socket.create_server(('127.0.0.1', int(sys.argv[1])))
os.dup2(os.dup2(main.fileno(), 60), 3, inheritable=True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";

/// Returns the command of a proxy with further flags, or `None` without Python.
type Start<'a> = &'a dyn Fn(&[&str]) -> Option<Command>;

/// The command line does not show the loop. The proxy detects its first connection to itself, and
/// then closes clients at once, or serves them with another upstream.
pub(crate) fn a_proxy_that_reaches_itself_rejects_the_connection(binary: &str) {
    let echo = Server::start(binary, &[]);
    let folder = Folder::new("loop", binary);
    let (real, link) = (folder.path("real"), folder.path("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let unix = |others: &[&str]| {
        let mut command = process::command(binary);
        command.args(["proxy", "--listen", &folder.address("real/socket")]);
        command.args(["--upstream", &folder.address("link/socket")]).args(others);
        Some(command)
    };
    let tcp = |others: &[&str]| {
        if Command::new("python3").arg("--version").output().is_err() {
            eprintln!("NOT TESTED: python3 is absent");
            assert!(std::env::var_os("CI").is_none(), "CI installs python3");
            return None;
        }
        let own = closed_port();
        let (_, port) = own.rsplit_once(':').unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", LAUNCHER, port]).arg(process::path(binary));
        command.args(["proxy", "--listen", "systemd", "--upstream", &own]).args(others);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Some(command)
    };
    for start in [&unix as Start<'_>, &tcp] {
        let Some(command) = start(&[]) else { continue };
        let proxy = Server::start_command(command);
        for _ in 0..5 {
            let (code, _, error) = converse(binary, &proxy.address);
            assert_eq!(code, Some(1), "{error}");
        }
        let log = proxy.stop();
        let expected = "upstream down, not tried for 5s: it is this proxy itself";
        assert_eq!(log.matches(expected).count(), 1, "{log}");
        let connections = log.rsplit_once(" connections=").unwrap().1;
        let connections: u32 = connections.split_whitespace().next().unwrap().parse().unwrap();
        assert!(connections < 50, "{connections} for 5 clients: {log}");

        let Some(command) = start(&["--upstream", &echo.address]) else { continue };
        let proxy = Server::start_command(command);
        // The first client may be closed.
        let _ = converse(binary, &proxy.address);
        for _ in 0..5 {
            let (code, reply, error) = converse(binary, &proxy.address);
            assert_eq!((code, &*reply), (Some(0), "hello\n"), "{error}");
        }
        proxy.stop();
    }
}

/// The client is closed, and no upstream counts as failed.
pub(crate) fn an_upstream_is_not_down_because_open_files_ran_out(binary: &str) {
    let echo = Server::start(binary, &[]);
    let proxy = proxy(binary, &echo.address, &["-v"]);
    let (code, reply, _) = converse(binary, &proxy.address);
    assert_eq!((code, &*reply), (Some(0), "hello\n"));
    eventually("the connection is closed", || proxy.logged("closed: finished") == 1);
    thread::sleep(Duration::from_millis(100));
    // The proxy can open a file for the client, but none for the upstream.
    let before = proxy.limit_files(1);
    let mut client = proxy.connect();
    assert_eq!(read_to_end(&mut client).0, b"");
    proxy.set_file_limit(before);
    let (code, reply, _) = converse(binary, &proxy.address);
    assert_eq!((code, &*reply), (Some(0), "hello\n"));
    let log = proxy.stop();
    assert!(log.contains("Too many open files") && !log.contains("upstream down"), "{log}");
    assert!(log.contains("connects=2 failures=0"), "{log}");
}

/// Every byte arrives in either direction, followed by the FIN.
pub(crate) fn bulk_data_passes_through_pipes(binary: &str) {
    let pattern: Vec<u8> = (0..8_u32 << 20).map(|i| (i * 7 % 251) as u8).collect();
    let echo = Server::start(binary, &[]);
    let folder = Folder::new("bulk", binary);
    let mut command = process::command(binary);
    command.args(["echo-server", "--listen", &folder.address("echo")]);
    let unix = Server::start_command(command);
    let calls: [(&str, &[&str], bool); 3] = [
        (&echo.address, &[], true),
        (&unix.address, &[], true),
        (&echo.address, &["--pipes", "0"], false),
    ];
    for (upstream, flags, pipes) in calls {
        let proxy = proxy(binary, upstream, flags);
        let before = proxy.open_pipes();
        let mut stream = proxy.connect();
        let mut writer = stream.try_clone().unwrap();
        let sent = pattern.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert!(read_to_end(&mut stream) == (pattern.clone(), None), "{flags:?}");
        writing.join().unwrap();
        assert_eq!(proxy.open_pipes() > before, pipes, "{flags:?}");
    }
}

/// splice(2) does not read beyond an urgent byte. The proxy then reads by another call, which skips
/// the urgent byte (tcp(7)).
pub(crate) fn bytes_after_urgent_data_are_relayed(binary: &str) {
    const BEFORE: usize = 1 << 20;
    const AFTER: usize = 100_000;
    for finish in [true, false] {
        let (start, started) = mpsc::channel();
        let (address, serving) = upstream(move |mut stream| {
            started.recv().unwrap();
            let mut bytes = vec![0; BEFORE + AFTER];
            stream.read_exact(&mut bytes).unwrap();
            bytes
        });
        let proxy = proxy(binary, &address, &[]);
        let mut client = proxy.connect();
        client.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        client.write_all(&vec![b'a'; BEFORE]).unwrap();
        start.send(()).unwrap();
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(&vec![b'b'; AFTER]).unwrap();
        if finish {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let bytes = serving.join().unwrap();
        assert!(bytes[..BEFORE].iter().all(|byte| *byte == b'a'));
        assert!(bytes[BEFORE..].iter().all(|byte| *byte == b'b'));
    }
}

/// Bytes that the upstream has sent before still arrive.
pub(crate) fn a_paused_download_holds_the_upstream_back(binary: &str) {
    let (address, serving) = upstream(|mut stream| {
        let (mut sent, chunk) = (0_usize, vec![1; 65_536]);
        stream.set_nonblocking(true).unwrap();
        let mut stalled = Instant::now();
        while stalled.elapsed() < Duration::from_millis(300) {
            match stream.write(&chunk) {
                Ok(n) => {
                    sent += n;
                    stalled = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
            assert!(sent < 64 << 20, "the proxy must stop reading while the client does not");
        }
        sent
    });
    let proxy = proxy(binary, &address, &[]);
    let mut client = proxy.connect();
    eventually("the upstream is paused", || serving.is_finished());
    let sent = serving.join().unwrap();
    assert_eq!(read_to_end(&mut client).0.len(), sent);
}

pub(crate) fn proxy_from_without_accept_proxy_is_wrong_usage(binary: &str) {
    for server in ["proxy", "echo-server", "fanout-server"] {
        let output = run(binary, &[server, "--proxy-from", "10.0.0.0/8"]);
        assert_eq!(output.status.code(), Some(2), "{server}");
        assert!(text(&output.stderr).contains("--accept-proxy"), "{}", text(&output.stderr));
        let output = run(binary, &[server, "--accept-proxy", "--proxy-from", "10.0.0.0/33"]);
        assert_eq!(output.status.code(), Some(2), "{server}");
        let error = text(&output.stderr);
        assert!(error.contains("expected an address, or a range as in 10.0.0.0/8"), "{error}");
    }
}

pub(crate) fn a_server_serves_the_bytes_after_a_proxy_header(binary: &str) {
    let mut command = process::command(binary);
    // The flags as environment variables.
    command
        .args(["echo-server", "--listen", "127.0.0.1:0", "-v", "--max-per-address", "1"])
        .env("WIRESTATE_ACCEPT_PROXY", "true")
        .env("WIRESTATE_PROXY_FROM", "127.0.0.1,10.0.0.0/8");
    let server = Server::start_command(command);
    let connect_as = |client: &str| {
        let mut stream = server.connect();
        let header = format!("PROXY TCP4 {client} 198.51.100.1 50000 443\r\nhello");
        stream.write_all(header.as_bytes()).unwrap();
        stream
    };
    let mut first = connect_as("192.0.2.1");
    let mut reply = [0; 5];
    first.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"hello");
    let (bytes, error) = read_to_end(&mut connect_as("192.0.2.1"));
    assert_eq!((bytes.len(), error), (0, Some(ErrorKind::ConnectionReset)), "over the limit");
    let mut other = connect_as("192.0.2.2");
    other.read_exact(&mut reply).unwrap();
    drop((first, other));
    let log = server.stop();
    assert!(log.contains("peer=192.0.2.1:50000"), "{log}");
    let refused = "the limit of open connections from 192.0.2.1 is reached: 1";
    assert!(log.contains(refused), "{log}");
}

pub(crate) fn an_incomplete_proxy_header_is_reset_after_its_timeout(binary: &str) {
    let server = Server::start(binary, &["--accept-proxy"]);
    let mut stream = server.connect();
    stream.write_all(b"PROXY TCP4 192.0").unwrap();
    let began = Instant::now();
    assert_eq!(read_to_end(&mut stream), (vec![], Some(ErrorKind::ConnectionReset)));
    assert!(began.elapsed() >= Duration::from_millis(4900), "{:?}", began.elapsed());
    let log = server.stop();
    assert!(log.contains("no complete PROXY header within 5s; bytes received: 16"), "{log}");
}

pub(crate) fn a_proxy_header_from_an_untrusted_address_is_reset(binary: &str) {
    let flags = ["--accept-proxy", "--proxy-from", "192.0.2.0/24"];
    let server = proxy(binary, &closed_port(), &flags);
    let mut stream = server.connect();
    assert_eq!(read_to_end(&mut stream), (vec![], Some(ErrorKind::ConnectionReset)));
    let log = server.stop();
    assert!(log.contains("127.0.0.1 is not trusted to send a PROXY header"), "{log}");
}

/// Linux does not clear the number of unacknowledged bytes when a connection is reset.
pub(crate) fn a_pending_reset_ends_when_the_other_side_resets_as_well(binary: &str) {
    let (address, serving) = upstream(move |mut stream| {
        stream.write_all(&vec![7; 1_000_000]).unwrap();
        eventually("the proxy has received it", || wirestate_sockets::unacknowledged(&stream) == 0);
        reset(stream);
    });
    let proxy = proxy(binary, &address, &[]);
    let client = proxy.connect();
    serving.join().unwrap();
    // The proxy's kernel holds most of the data, and the proxy waits for its acknowledgement.
    thread::sleep(Duration::from_millis(200));
    reset(client);
    eventually("the connection has ended", || proxy.logged("upstream lost while receiving") == 1);
    proxy.stop();
}
