//! A real nginx: in front of the servers and the proxy, with and without PROXY headers, and behind
//! the proxy, where it reads them.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use crate::{
    certificates::Certificates,
    process::{Server, eventually, run, text},
    proxies::Nginx,
    proxy::proxy,
};

fn exchange(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(message).unwrap();
    let mut reply = vec![0; message.len()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply, message);
}

fn converse(binary: &str, address: &str) -> (Option<i32>, String, String) {
    let words = ["echo-client", address, "--message", "hello", "--retry-for", "0s"];
    let output = run(binary, &words);
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

pub(crate) fn clients_reach_an_echo_server_through_nginx_or_get_an_error(binary: &str) {
    let echo = Server::start(binary, &[]);
    let Some(nginx) = Nginx::in_front_of(&echo.address, "") else { return };
    assert_eq!(converse(binary, &echo.address).1, "hello\n", "direct");
    assert_eq!(converse(binary, &nginx.address).1, "hello\n", "through nginx");
    let words = ["multiconn-client", &nginx.address, "50", "--rounds", "20", "--size", "5000"];
    let output = run(binary, &words);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    echo.stop();
    let (code, _, error) = converse(binary, &nginx.address);
    assert_eq!(code, Some(1), "the backend is down");
    assert!(error.contains("closed") || error.contains("reset"), "a close: {error}");
    let address = nginx.address.clone();
    drop(nginx);
    let (code, _, error) = converse(binary, &address);
    assert_eq!(code, Some(1), "nginx is stopped");
    assert!(error.contains(&format!("cannot connect to {address}: Connection refused")), "{error}");
}

pub(crate) fn a_server_learns_the_client_from_nginxs_header(binary: &str) {
    let echo = Server::start(binary, &["--accept-proxy", "-v"]);
    let Some(nginx) = Nginx::in_front_of(&echo.address, "proxy_protocol on;") else { return };
    let mut client = nginx.connect();
    exchange(&mut client, b"hello");
    let real = client.local_addr().unwrap();
    drop(client);
    // A connection without a header is refused.
    let mut direct = echo.connect();
    direct.write_all(b"hello, no header\r\n").unwrap();
    assert_eq!(direct.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(nginx);
    let log = echo.stop();
    for expected in ["client identified", "closed: finished"] {
        let real = format!("peer={real}");
        let line = log.lines().find(|line| line.contains(expected) && line.contains(&real));
        assert!(line.is_some(), "`{expected}` names the client: {log}");
    }
    assert!(log.contains(r#"reason="proxy_header_malformed""#), "{log}");
}

pub(crate) fn subscribers_come_through_nginx_as_well(binary: &str) {
    let source = Server::start_as(binary, "fanout-source", &["--rate", "2000"]);
    let flags = ["--upstream", &source.address, "--accept-proxy", "-v"];
    let fanout = Server::start_as(binary, "fanout-server", &flags);
    let Some(nginx) = Nginx::in_front_of(&fanout.address, "proxy_protocol on;") else { return };
    let mut subscribers = [nginx.connect(), nginx.connect()];
    for subscriber in &mut subscribers {
        let mut message = [0; 1024];
        for _ in 0..100 {
            subscriber.read_exact(&mut message).unwrap();
            assert!(message.ends_with(b".\n"), "a complete message");
        }
    }
    let real = subscribers[0].local_addr().unwrap().to_string();
    drop(subscribers);
    assert!(fanout.stop().contains(&real));
}

/// nginx, the proxy and the server all see the same client.
pub(crate) fn a_header_from_nginx_names_the_client_behind_the_proxy(binary: &str) {
    for version in ["v1", "v2"] {
        let echo = Server::start(binary, &["--accept-proxy", "-v"]);
        let flags = ["--accept-proxy", "--proxy-from", "127.0.0.1", "--send-proxy", version, "-v"];
        let proxy = proxy(binary, &echo.address, &flags);
        let Some(nginx) = Nginx::in_front_of(&proxy.address, "proxy_protocol on;") else { return };
        let mut client = nginx.connect();
        exchange(&mut client, &[7; 5000]);
        let real = format!("peer={}", client.local_addr().unwrap());
        client.shutdown(Shutdown::Write).unwrap();
        let _ = client.read(&mut [0]).unwrap();
        drop(nginx);
        for log in [proxy.stop(), echo.stop()] {
            assert!(log.contains(&real), "{log}");
        }
    }
}

/// nginx trusts the header of the proxy in front of it, and sends one with a source address of one
/// family and a destination address of the other.
pub(crate) fn a_header_of_nginx_with_mixed_address_families_is_accepted(binary: &str) {
    let echo = Server::start(binary, &["--accept-proxy", "-v"]);
    let upstream = proxy(binary, &echo.address, &["--accept-proxy", "--send-proxy", "v2", "-v"]);
    for address in [&echo.address, &upstream.address] {
        let directives =
            format!("proxy_pass {address}; proxy_protocol on; set_real_ip_from 127.0.0.1;");
        let Some(nginx) = Nginx::start("proxy_protocol", &directives) else { return };
        let mut client = nginx.connect();
        client.write_all(b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n").unwrap();
        exchange(&mut client, b"hello");
    }
    for (log, count) in [(upstream.stop(), 1), (echo.stop(), 2)] {
        let lines = log.lines().filter(|line| line.contains(" client identified "));
        let named = lines.filter(|line| line.contains("peer=[2001:db8::7]:50000")).count();
        assert_eq!(named, count, "{log}");
        assert!(!log.contains("malformed"), "{log}");
    }
}

/// A client, the proxy, nginx and an echo server: each of the three connections has TLS, and each
/// certificate is verified.
pub(crate) fn tls_ends_and_begins_at_the_proxy_and_at_nginx(binary: &str) {
    let certificates = Certificates::new();
    let Certificates { ca, server, client_ca, client, .. } = &certificates;
    let own = ["--tls-cert", server, "--tls-client-ca", client_ca, "--accept-proxy", "-v"];
    let echo = Server::start(binary, &own);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let directives = format!(
            "proxy_pass {}; proxy_protocol on; ssl_protocols {version};
            ssl_certificate {server}; ssl_certificate_key {server};
            proxy_ssl on; proxy_ssl_protocols {version};
            proxy_ssl_certificate {client}; proxy_ssl_certificate_key {client};
            proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name localhost;",
            echo.address
        );
        let Some(nginx) = Nginx::start("ssl", &directives) else { return };
        let flags = ["--tls-cert", server, "--upstream-tls", "--upstream-tls-ca", ca];
        let proxy = proxy(binary, &nginx.address, &flags);
        for address in [&nginx.address, &proxy.address] {
            let words = ["multiconn-client", address, "5", "--rounds", "5", "--size", "50000"];
            let output = run(binary, &[&words[..], &certificates.client_flags()].concat());
            assert_eq!(output.status.code(), Some(0), "{version}: {}", text(&output.stderr));
        }
    }
    eventually("all have ended", || echo.logged(" closed: finished") == 20);
    assert_eq!(echo.logged(r#" identity="CN=client""#), 20, "{}", echo.log());
    assert_eq!(echo.logged(" client identified"), 20, "{}", echo.log());
}

/// nginx answers with the addresses and ports of the client and of the proxy.
pub(crate) fn nginx_reads_the_headers_that_we_send(binary: &str) {
    let directives = "return \"$proxy_protocol_addr:$proxy_protocol_port \
                $proxy_protocol_server_addr:$proxy_protocol_server_port\";";
    for version in ["v1", "v2"] {
        let Some(nginx) = Nginx::start("proxy_protocol", directives) else { return };
        let proxy = proxy(binary, &nginx.address, &["--send-proxy", version]);
        let mut client = proxy.connect();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert_eq!(
            reply,
            format!("{} {}", client.local_addr().unwrap(), proxy.address),
            "{version}"
        );
    }
}

/// Without `proxy_half_close on`, nginx loses an answer that comes after the client's FIN.
pub(crate) fn a_late_reply_arrives_through_nginx_and_then_the_proxy(binary: &str) {
    let echo = Server::start(binary, &[]);
    let proxy = proxy(binary, &echo.address, &[]);
    let Some(nginx) = Nginx::in_front_of(&proxy.address, "proxy_half_close on;") else { return };
    let mut client = nginx.connect();
    client.write_all(&[7; 3000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    thread::sleep(Duration::from_millis(50));
    let mut echoed = Vec::new();
    client.read_to_end(&mut echoed).unwrap();
    assert_eq!(echoed, [7; 3000]);
    drop(nginx);
    assert!(proxy.stop().contains("aborted=0"));
}
