//! Scenarios of urgent data (tcp(7)): a read ends before an urgent byte, and the next read skips
//! it. Servers must serve the data after it, although no further event reports that data.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::AsFd, unix::net::UnixListener},
};

use rustix::{io::Errno, process::Signal};
use socket2::SockRef;
use wirestate_command_line::search;

use crate::{
    process::{Server, TEST_TIMEOUT},
    proxy::{proxy, upstream},
    unix::Folder,
};

/// Sends `bytes` with an urgent byte in their middle while `reader` is suspended, so that all bytes
/// have arrived before it reads. Returns false if this kind of socket has no urgent data.
fn send(stream: &mut (impl Write + AsFd), bytes: &[u8], reader: &Server) -> bool {
    let (before, after) = bytes.split_at(bytes.len() / 2);
    reader.suspend();
    stream.write_all(before).unwrap();
    let urgent = SockRef::from(&*stream).send_out_of_band(b"!");
    stream.write_all(after).unwrap();
    reader.signal(Signal::CONT);
    if let Err(error) = &urgent {
        assert_eq!(error.raw_os_error(), Some(Errno::OPNOTSUPP.raw_os_error()), "{error}");
    }
    urgent.is_ok()
}

/// Reads, and asserts that the bytes are `bytes`.
fn expect(stream: &mut impl Read, bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(String::from_utf8_lossy(&received), String::from_utf8_lossy(bytes));
}

/// Exchanges a message, so that the server then waits for input.
fn greet(stream: &mut (impl Read + Write)) {
    stream.write_all(b"hello").unwrap();
    expect(stream, b"hello");
}

pub(crate) fn bytes_after_urgent_data_are_echoed(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut stream = server.connect();
    greet(&mut stream);
    // Repeated, because the server has to clear the readiness for urgent data.
    for _ in 0..3 {
        assert!(send(&mut stream, b"abcdef", &server));
        expect(&mut stream, b"abcdef");
        greet(&mut stream);
    }
    // Urgent data as the first data of a connection.
    let mut stream = server.connect();
    assert!(send(&mut stream, b"abcdef", &server));
    expect(&mut stream, b"abcdef");
}

pub(crate) fn requests_after_urgent_data_are_answered(binary: &str) {
    let server = Server::start_as(binary, "app-server", &["--status", "127.0.0.1:0"]);
    // Between two requests, no deadline makes the server read.
    let mut request = Vec::new();
    search::request("search", "morpheus").encode(&mut request).unwrap();
    answered_twice(&mut server.connect(), &request, &server);

    let mut status = TcpStream::connect(server.status.as_ref().unwrap()).unwrap();
    status.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    answered_twice(&mut status, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", &server);
}

fn answered_twice(stream: &mut TcpStream, request: &[u8], server: &Server) {
    stream.write_all(request).unwrap();
    let mut reply = vec![0; 1024];
    let length = stream.read(&mut reply).unwrap();
    assert!(send(stream, &request.repeat(2), server));
    expect(stream, &reply[..length].repeat(2));
}

pub(crate) fn bytes_after_urgent_data_pass_the_proxy_in_both_directions(binary: &str) {
    for flags in [&[][..], &["--pipes", "0"]] {
        let (address, serving) = upstream(|stream| stream);
        let proxy = proxy(binary, &address, flags);
        let mut client = proxy.connect();
        client.write_all(b"hello").unwrap();
        let mut server = serving.join().unwrap();
        expect(&mut server, b"hello");
        for _ in 0..3 {
            assert!(send(&mut client, b"abcdef", &proxy));
            expect(&mut server, b"abcdef");
            assert!(send(&mut server, b"ghijkl", &proxy));
            expect(&mut client, b"ghijkl");
        }
        // Bulk data goes through pipes, unless they are disabled.
        let bulk = vec![b'x'; 200_000];
        client.write_all(&bulk).unwrap();
        expect(&mut server, &bulk);
        assert!(send(&mut client, b"abcdef", &proxy));
        expect(&mut server, b"abcdef");
    }
}

pub(crate) fn messages_after_urgent_data_reach_subscribers(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let accept = || listener.accept().unwrap().0;
    assert!(subscribers_get_messages_after_urgent_data(binary, &upstream, accept));

    let folder = Folder::new("urgent", binary);
    let listener = UnixListener::bind(folder.path("feed")).unwrap();
    let accept = || listener.accept().unwrap().0;
    if !subscribers_get_messages_after_urgent_data(binary, &folder.address("feed"), accept) {
        eprintln!("NOT TESTED: this kernel has no urgent data on Unix sockets");
    }
}

/// Asserts that a subscriber gets the messages after urgent data. Returns false if this kind of
/// socket has no urgent data.
fn subscribers_get_messages_after_urgent_data<S: Write + AsFd>(
    binary: &str,
    upstream: &str,
    accept: impl FnOnce() -> S,
) -> bool {
    let flags = ["--upstream", upstream, "--frame", "lines", "-v"];
    let server = Server::start_as(binary, "fanout-server", &flags);
    let mut feed = accept();
    let mut subscriber = server.connect();
    server.await_connected(1);
    feed.write_all(b"zero\n").unwrap();
    expect(&mut subscriber, b"zero\n");
    let was_urgent = send(&mut feed, b"one\ntwo\n", &server);
    expect(&mut subscriber, b"one\ntwo\n");
    was_urgent
}
