//! The upstreams of a proxy: which one was used, backups, and health checks.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    thread,
    time::Duration,
};

use crate::{
    certificates::Certificates,
    process::{Server, command, eventually, run, text, word_after},
    proxy::{proxy, upstream},
    status,
};

/// Sends a line through the proxy, and waits for it to come back.
fn echoes(proxy: &Server) {
    let mut stream = proxy.connect();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "hello");
}

/// An echo server on this address.
fn echo_on(binary: &str, address: &str) -> Server {
    let mut command = command(binary);
    command.args(["echo-server", "--listen", address]);
    Server::start_command(command)
}

fn metric(proxy: &Server, name: &str, upstream: &str) -> Option<u64> {
    let name =
        format!("wirestate_proxy_upstream_{name}{{server=\"proxy\",upstream=\"{upstream}\"}} ");
    let metrics = status::get(proxy, "/metrics").1;
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

/// The one that is connected to, not the one that was tried first.
pub(crate) fn the_log_and_the_list_of_connections_name_the_upstream(binary: &str) {
    let echo = Server::start(binary, &[]);
    let refuses = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let flags = ["--upstream", &echo.address, "--status", "127.0.0.1:0", "-v"];
    let proxy = proxy(binary, &refuses, &[&flags[..], &["--log-format", "json"]].concat());
    let mut stream = proxy.connect();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let (_, list) = status::get(&proxy, "/connections");
    let row = list.lines().last().unwrap();
    assert!(list.lines().nth(1).unwrap().contains(" connect upstream "), "{list}");
    assert!(row.contains(&format!("s {}", echo.address)), "{list}");
    let (_, json) = status::get(&proxy, "/connections?format=json");
    for field in ["upstream", "upstream_address"] {
        assert!(json.contains(&format!("\"{field}\": \"{}\"", echo.address)), "{json}");
    }
    assert!(word_after("\"connect_seconds\": ", &json).is_some(), "{json}");
    let (_, html) = status::get(&proxy, "/connections?format=html");
    assert!(html.contains(&format!("<td>{}</td>", echo.address)), "{html}");
    drop(stream);
    let fields =
        format!(r#""upstream":"{0}","upstream_address":"{0}","connect_seconds":"#, echo.address);
    for message in ["closed: finished", "connected to the upstream"] {
        eventually(message, || {
            let log = proxy.log();
            log.lines().any(|line| line.contains(message) && line.contains(&fields))
        });
    }
}

pub(crate) fn a_backup_serves_while_the_other_upstreams_are_away(binary: &str) {
    let (main, backup) = (Server::start(binary, &[]), Server::start(binary, &[]));
    let flags = ["--backup", &backup.address, "--status", "127.0.0.1:0"];
    let proxy = proxy(binary, &main.address, &flags);
    (0..3).for_each(|_| echoes(&proxy));
    let connects =
        || [&main, &backup].map(|echo| metric(&proxy, "connects_total", &echo.address).unwrap());
    assert_eq!(connects(), [3, 0]);
    assert_eq!(metric(&proxy, "backup", &backup.address), Some(1));
    let address = main.address.clone();
    main.stop();
    (0..3).for_each(|_| echoes(&proxy));
    let connects = |address: &str| metric(&proxy, "connects_total", address);
    assert_eq!((connects(&address), connects(&backup.address)), (Some(3), Some(3)));
    let _again = echo_on(binary, &address);
    eventually("the upstream is used again", || {
        echoes(&proxy);
        connects(&address) > Some(3)
    });
}

pub(crate) fn health_checks_find_upstreams_that_are_away_and_back(binary: &str) {
    let (echo, other) = (Server::start(binary, &[]), Server::start(binary, &[]));
    let upstream = echo.address.clone();
    let flags = ["--upstream", &other.address, "--status", "127.0.0.1:0"];
    let check = ["--check-interval", "50ms", "--check-rise", "2", "--check-fall", "2"];
    let exchange = ["--check-send", r"PING\r\n", "--check-expect", r"\x50ING"];
    let proxy = proxy(binary, &upstream, &[&flags[..], &check, &exchange].concat());
    echo.stop();
    let down = format!("checks failed: 2; the next is in 50ms upstream={upstream}");
    eventually("it is down", || proxy.logged(&down) == 1);
    assert_eq!(metric(&proxy, "up", &upstream), Some(0));
    assert!(metric(&proxy, "check_failures_total", &upstream) >= Some(2));
    for _ in 0..4 {
        echoes(&proxy);
    }
    // No client has met it.
    assert_eq!(metric(&proxy, "failures_total", &upstream), Some(0));
    assert_eq!(metric(&proxy, "connects_total", &other.address), Some(4));
    let _again = echo_on(binary, &upstream);
    let up = format!("upstream up again; checks passed: 2 upstream={upstream}");
    eventually("it is up again", || proxy.logged(&up) == 1);
    assert_eq!(metric(&proxy, "up", &upstream), Some(1));
    // Before the stop, which may cut a check.
    assert_eq!(other.logged("reset"), 0, "a check ends by a FIN");
    let log = proxy.stop();
    assert!(log.contains("Connection refused"), "{log}");
    let log = other.stop();
    assert!(!log.contains(" WARN "), "{log}");
}

/// The upstream accepts, and sends nothing, or something else.
pub(crate) fn a_check_that_is_not_answered_fails_at_its_timeout(binary: &str) {
    for (sent, expected) in [
        ("", "no answer within 200ms; bytes received: 0 of 3; checks failed: 1"),
        ("-ERR", r#"it sent "-", expected "+OK"; checks failed: 1"#),
    ] {
        let (address, serving) = upstream(move |mut stream| {
            stream.write_all(sent.as_bytes()).unwrap();
            // Until the check ends.
            let _ = stream.read(&mut [0]);
        });
        let check = ["--check-interval", "1h", "--check-timeout", "200ms", "--check-fall", "1"];
        let proxy = proxy(binary, &address, &[&check[..], &["--check-expect", "+OK"]].concat());
        eventually("the check fails", || proxy.logged(expected) == 1);
        serving.join().unwrap();
        proxy.stop();
    }
}

pub(crate) fn a_check_for_which_no_file_can_be_opened_is_no_failure(binary: &str) {
    let echo = Server::start(binary, &[]);
    let check = ["--check-interval", "50ms", "--check-fall", "1", "-v"];
    let proxy = proxy(binary, &echo.address, &check);
    let before = proxy.limit_files(0);
    eventually("there are checks without a file", || {
        // A check may have had one when the limit was set.
        proxy.limit_files(0);
        proxy.logged("no check: Too many open") > 2
    });
    proxy.set_file_limit(before);
    echoes(&proxy);
    let log = proxy.stop();
    assert!(!log.contains("upstream down") && !log.contains("check failed"), "{log}");
}

/// Without TLS, the check would not get its bytes back.
pub(crate) fn health_checks_have_tls_if_upstreams_have_it(binary: &str) {
    let certificates = Certificates::new();
    let tls = Server::start(binary, &certificates.server_flags());
    let plain = Server::start(binary, &[]);
    let flags = ["--upstream-tls", "--upstream-tls-ca", &certificates.ca];
    let check = ["--check-interval", "50ms", "--check-fall", "1", "--status", "127.0.0.1:0"];
    let exchange = ["--check-send", "x", "--check-expect", "x"];
    let second = ["--upstream", &plain.address];
    let flags = [&flags[..], &check, &exchange, &second].concat();
    let proxy = proxy(binary, &tls.address, &flags);
    eventually("the upstream without TLS is down", || {
        metric(&proxy, "up", &plain.address) == Some(0)
    });
    thread::sleep(Duration::from_millis(100));
    assert_eq!(metric(&proxy, "check_failures_total", &tls.address), Some(0));
    assert_eq!(metric(&proxy, "up", &tls.address), Some(1));
}

pub(crate) fn contradicting_flags_are_wrong_usage(binary: &str) {
    for (flags, expected) in [
        (&["--check-send", "x"][..], "--check-send needs --check-interval"),
        (&["--check-expect", "x"], "--check-expect needs --check-interval"),
        (&["--check-interval", "0s"], "a timeout must be non-zero"),
        (&["--check-interval", "1s", "--check-timeout", "0s"], "the time must be non-zero"),
        (&["--backup", "127.0.0.1:9000"], "--backup 127.0.0.1:9000 is an --upstream as well"),
        (&["--backup", "a:1", "--backup", "a:1"], "--backup a:1 is given twice"),
        (&["--backup", "127.0.0.1:9500"], "--backup 127.0.0.1:9500 is this server itself"),
        (&["--resolve-interval", "0s"], "a timeout must be non-zero"),
    ] {
        let output = run(binary, &[&["proxy"], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
}
