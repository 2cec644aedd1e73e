//! Scenarios of who may connect.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
};

use socket2::{Domain, Socket, Type};

use crate::{
    process::{Server, TEST_TIMEOUT, eventually, run, text},
    status,
};

/// Connects from the loopback address 127.0.0.`host`.
fn connect_from(host: u8, server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let local = SocketAddr::from(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0));
    socket.bind(&local.into()).unwrap();
    let server: SocketAddr = server.address.parse().unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    socket.into()
}

/// Whether the server sends back what it is sent.
pub(crate) fn is_served(mut stream: TcpStream) -> bool {
    let sent = stream.write_all(b"hello");
    let mut reply = [0; 5];
    sent.is_ok() && stream.read_exact(&mut reply).is_ok() && &reply == b"hello"
}

pub(crate) fn a_denied_address_is_refused(binary: &str) {
    let flags = ["--deny", "127.0.0.0/30", "--allow", "127.0.0.1", "--allow", "127.0.0.0/24"];
    let flags = [&flags[..], &["--status", "127.0.0.1:0"]].concat();
    let upstream = Server::start(binary, &[]);
    let of_proxy = [&flags[..], &["--upstream", &upstream.address]].concat();
    for server in [Server::start(binary, &flags), Server::start_as(binary, "proxy", &of_proxy)] {
        assert!(is_served(connect_from(1, &server)), "the most specific range allows it");
        assert!(!is_served(connect_from(2, &server)));
        assert!(!is_served(connect_from(3, &server)));
        assert!(is_served(connect_from(4, &server)));
        let (_, page) = status::get_at(server.status.as_deref().unwrap(), "/metrics");
        assert!(page.contains("reason=\"denied\"} 2\n"), "{page}");
        let log = server.stop();
        let line = "refusing connections: connections from 127.0.0.2 are denied";
        assert_eq!(log.matches(line).count(), 1, "{log}");
    }
}

pub(crate) fn a_denied_client_of_a_proxy_header_is_reset(binary: &str) {
    let flags = ["--accept-proxy", "--deny", "192.0.2.0/24", "-v", "--status", "127.0.0.1:0"];
    let server = Server::start(binary, &flags);
    let connect = |client: &str| {
        let mut stream = server.connect();
        write!(stream, "PROXY TCP4 {client} 198.51.100.1 50000 7\r\n").unwrap();
        stream
    };
    assert!(is_served(connect("192.0.3.1")));
    assert!(!is_served(connect("192.0.2.1")));
    eventually("it has ended", || server.logged("reason=\"proxy_header_refused\"") == 1);
    let (_, page) = status::get_at(server.status.as_deref().unwrap(), "/metrics");
    assert!(page.contains("reason=\"denied\"} 1\n"), "{page}");
    let log = server.stop();
    assert!(log.contains("connections from 192.0.2.1 are denied"), "{log}");
}

pub(crate) fn a_range_that_is_allowed_and_denied_is_wrong_usage(binary: &str) {
    let ranges = ["--allow", "10.0.0.0/8", "--deny", "10.0.0.0/8"];
    let output = run(binary, &[&["proxy"][..], &ranges].concat());
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.contains("10.0.0.0/8 cannot be in --allow and in --deny"), "{error}");
}
