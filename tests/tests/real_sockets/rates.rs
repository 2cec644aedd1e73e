//! Scenarios of limits of new connections and bytes in a second.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    access::is_served,
    process::{Server, eventually},
    status,
};

/// Sends `size` bytes, and returns how long it takes until all have come back.
fn exchange(mut stream: TcpStream, size: usize) -> Duration {
    let start = Instant::now();
    let message: Vec<u8> = (0..size).map(|i| (i * 7 % 251).to_le_bytes()[0]).collect();
    let mut reply = Vec::new();
    std::thread::scope(|scope| {
        let mut sending = &stream;
        let message = &message;
        scope.spawn(move || {
            sending.write_all(message).unwrap();
            sending.shutdown(Shutdown::Write).unwrap();
        });
        (&stream).read_to_end(&mut reply).unwrap();
    });
    assert!(reply == message, "{} bytes came back", reply.len());
    stream.flush().unwrap();
    start.elapsed()
}

pub(crate) fn bytes_beyond_a_rate_wait(binary: &str) {
    let echo = Server::start(binary, &["--max-send-rate-per-connection", "256KiB"]);
    let upstream = Server::start(binary, &[]);
    let flags = ["--upstream", &upstream.address, "--max-receive-rate", "256KiB"];
    let proxy = Server::start_as(binary, "proxy", &flags);
    // A quarter of the bytes of a second may move at once.
    let (size, at_least) = (192 * 1024, Duration::from_millis(450));
    std::thread::scope(|scope| {
        for server in [&echo, &proxy] {
            scope.spawn(move || {
                let took = exchange(server.connect(), size);
                assert!(took >= at_least, "{took:?}");
            });
        }
    });
    assert!(echo.stop().contains("received=196608 sent=196608"));
    proxy.stop();
}

fn refused(server: &Server, reason: &str) -> String {
    let (_, page) = status::get_at(server.status.as_deref().unwrap(), "/metrics");
    let label = format!("reason=\"{reason}\"}} ");
    let count = page.lines().find_map(|line| {
        line.strip_prefix("wirestate_connections_refused_total{")?.split_once(&label)
    });
    count.map_or_else(|| page.clone(), |(_, count)| count.to_owned())
}

pub(crate) fn connections_beyond_a_rate_are_refused_or_wait(binary: &str) {
    let flags = ["--max-connection-rate", "3", "--status", "127.0.0.1:0"];
    let server = Server::start(binary, &flags);
    let count = (0..6).filter(|_| is_served(server.connect())).count();
    // On a busy machine, this takes longer than a third of a second.
    assert!((3..6).contains(&count), "{count}");
    eventually("they are counted", || {
        refused(&server, "connection_rate") == (6 - count).to_string()
    });
    let log = server.stop();
    assert!(log.contains("refusing connections: more than 3 new connections a second"), "{log}");

    let server = Server::start(binary, &[&flags[..], &["--on-connection-rate", "wait"]].concat());
    let start = Instant::now();
    assert!((0..5).all(|_| is_served(server.connect())));
    assert!(start.elapsed() >= Duration::from_millis(600), "{:?}", start.elapsed());
    server.stop();
}

pub(crate) fn a_rate_applies_to_the_client_of_a_proxy_header(binary: &str) {
    let flags = ["--accept-proxy", "--max-connection-rate-per-address", "1"];
    let server = Server::start(binary, &[&flags[..], &["--status", "127.0.0.1:0"]].concat());
    let connect = |client: &str| {
        let mut stream = server.connect();
        write!(stream, "PROXY TCP4 {client} 198.51.100.1 50000 7\r\n").unwrap();
        stream
    };
    let count = (0..5).filter(|_| is_served(connect("192.0.2.1"))).count();
    assert!((1..5).contains(&count), "{count}");
    assert!(is_served(connect("192.0.2.2")));
    let label = "connection_rate_per_address";
    eventually("they are counted", || refused(&server, label) == (5 - count).to_string());
    let log = server.stop();
    assert!(log.contains("more than 1 new connections a second from 192.0.2.1"), "{log}");
}
