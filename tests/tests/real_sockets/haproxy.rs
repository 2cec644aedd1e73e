//! A real `HAProxy`. In front of the servers, it sends PROXY headers. Behind the proxy, it reads
//! them.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::{
    certificates::Certificates,
    process::{Server, TEST_TIMEOUT, eventually, run, text},
    proxies::HaProxy,
    proxy::proxy,
    status,
};

/// Version 1, and version 2 with a checksum, which is verified, and with further TLVs.
pub(crate) fn a_server_learns_the_client_from_haproxys_header(binary: &str) {
    for options in ["send-proxy", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let echo = Server::start(binary, &["--accept-proxy", "-v", "--status", "127.0.0.1:0"]);
        let Some(haproxy) = HaProxy::in_front_of(&echo.address, options) else { return };
        let mut client = TcpStream::connect(&haproxy.address).unwrap();
        client.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let mut reply = [0; 5];
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"hello");
        let real = client.local_addr().unwrap().to_string();
        let (_, table) = status::get(&echo, "/connections");
        assert!(table.contains(&real), "{options}: {table}");
        drop((client, haproxy));
        let log = echo.stop();
        for expected in ["client identified", "closed: "] {
            let real = format!("peer={real}");
            let line = log.lines().find(|line| line.contains(expected) && line.contains(&real));
            assert!(line.is_some(), "{options}: `{expected}` names the client: {log}");
        }
        assert!(!log.contains("proxy_header_malformed"), "{options}: {log}");
    }
}

/// A health check connects, sends a `LOCAL` header (or one with the address of `HAProxy`), and
/// resets.
pub(crate) fn health_checks_of_haproxy_are_not_counted_as_failures(binary: &str) {
    let echo = Server::start(binary, &[]);
    let flags = ["--accept-proxy", "--status", "127.0.0.1:0"];
    let to_echo = ["--upstream", &echo.address];
    for (name, others, options) in [
        ("echo-server", &[][..], "check-send-proxy send-proxy-v2"),
        ("echo-server", &[], "send-proxy"),
        ("app-server", &[], "check-send-proxy send-proxy-v2"),
        ("proxy", &to_echo, "check-send-proxy send-proxy-v2"),
        ("proxy", &to_echo, "send-proxy"),
    ] {
        let server = Server::start_as(binary, name, &[&flags[..], others].concat());
        // A check may take as long as the interval between two checks.
        let options = format!("check inter 200ms {options}");
        let Some(_haproxy) = HaProxy::in_front_of(&server.address, &options) else { return };
        eventually("three checks are counted", || {
            status::ended(&server).get("health_check") >= Some(&3)
        });
        let ended = status::ended(&server);
        let reasons: Vec<_> = ended.keys().map(String::as_str).collect();
        assert_eq!(reasons, ["health_check"], "{name}");
        assert_eq!(server.logged("closed: "), 0, "{name}");
    }
}

/// `HAProxy` answers with the addresses and ports of the client and of the proxy.
pub(crate) fn haproxy_reads_the_headers_that_we_send(binary: &str) {
    let directives = "mode http\n http-request return status 200 content-type text/plain \
                lf-string \"%[src]:%[src_port] %[dst]:%[dst_port]\"";
    for version in ["v1", "v2"] {
        let Some(haproxy) = HaProxy::start("accept-proxy", directives) else { return };
        let proxy = proxy(binary, &haproxy.address, &["--send-proxy", version]);
        let mut client = proxy.connect();
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        let expected = format!("\r\n\r\n{} {}", client.local_addr().unwrap(), proxy.address);
        assert!(reply.ends_with(&expected), "{version}: {reply}");
    }
}

/// A client, the proxy, `HAProxy` and an echo server: each of the three connections has TLS, and
/// each certificate is verified. The PROXY header comes before the handshake.
pub(crate) fn tls_ends_and_begins_at_the_proxy_and_at_haproxy(binary: &str) {
    let certificates = Certificates::new();
    let Certificates { ca, server, client_ca, client, .. } = &certificates;
    let own = ["--tls-cert", server, "--tls-client-ca", client_ca, "--accept-proxy", "-v"];
    let echo = Server::start(binary, &own);
    for (version, header) in [("TLSv1.2", "send-proxy"), ("TLSv1.3", "send-proxy-v2")] {
        let bind = format!("ssl crt {server} ssl-min-ver {version} ssl-max-ver {version}");
        let directives = format!(
            "server it {} {header} ssl crt {client} verify required ca-file {ca} \
             verifyhost localhost ssl-min-ver {version} ssl-max-ver {version}",
            echo.address
        );
        let Some(haproxy) = HaProxy::start(&bind, &directives) else { return };
        let flags = ["--tls-cert", server, "--upstream-tls", "--upstream-tls-ca", ca];
        let proxy = proxy(binary, &haproxy.address, &flags);
        for address in [&haproxy.address, &proxy.address] {
            let words = ["multiconn-client", address, "5", "--rounds", "5", "--size", "50000"];
            let output = run(binary, &[&words[..], &certificates.client_flags()].concat());
            assert_eq!(output.status.code(), Some(0), "{version}: {}", text(&output.stderr));
        }
    }
    eventually("all have ended", || echo.logged(" closed: finished") == 20);
    assert_eq!(echo.logged(r#" identity="CN=client""#), 20, "{}", echo.log());
    assert_eq!(echo.logged(" client identified"), 20, "{}", echo.log());
}
