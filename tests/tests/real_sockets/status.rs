//! Scenarios of the status server.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::{
    browser,
    echo::{exchange, stall},
    process::{self, Server, TEST_TIMEOUT, eventually, text},
    third_party::program,
};

const STATUS: [&str; 2] = ["--status", "127.0.0.1:0"];

/// Sends a request. Returns the answer's code, head and content. Retries if the server is full and
/// refuses the connection.
fn request(server: &Server, request: &str) -> (u16, String, String) {
    request_at(server.status.as_ref().unwrap(), request)
}

fn request_at(address: &str, request: &str) -> (u16, String, String) {
    let mut answer = String::new();
    eventually("the request is answered", || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let mut bytes = Vec::new();
        let sent = stream.write_all(request.as_bytes());
        let answered = sent.and_then(|()| stream.read_to_end(&mut bytes));
        answer = text(&bytes);
        answered.is_ok() && !answer.is_empty()
    });
    let (head, content) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let code = head.split(' ').nth(1).expect("a head has a code").parse().unwrap();
    (code, head.to_owned(), content.to_owned())
}

/// Gets a page of a server's status. Returns the answer's code and content.
pub(crate) fn get(server: &Server, path: &str) -> (u16, String) {
    let (code, _, content) = request(server, &format!("GET {path} HTTP/1.0\r\n\r\n"));
    (code, content)
}

/// Gets a page of the status server at `address`. Returns the answer's code and content.
pub(crate) fn get_at(address: &str, path: &str) -> (u16, String) {
    let (code, _, content) = request_at(address, &format!("GET {path} HTTP/1.0\r\n\r\n"));
    (code, content)
}

/// Returns the numbers of a server's ended connections by reason.
pub(crate) fn ended(server: &Server) -> BTreeMap<String, u64> {
    reasons(&get(server, "/metrics").1)
}

/// Returns the numbers of ended connections by reason, from a page of metrics.
pub(crate) fn reasons(metrics: &str) -> BTreeMap<String, u64> {
    let reasons = metrics.lines().filter_map(|line| {
        let (_, sample) =
            line.strip_prefix("wirestate_connections_ended_total{")?.split_once(',')?;
        let (reason, count) = sample.strip_prefix("reason=\"")?.split_once("\"} ")?;
        Some((reason.to_owned(), count.parse().unwrap()))
    });
    reasons.collect()
}

fn python(source: &str, server: &Server) {
    let (host, port) = server.status.as_ref().unwrap().rsplit_once(':').unwrap();
    if let Some(output) = program("python3", &["-", host, port], source.as_bytes()) {
        assert_succeeded(&output);
    }
}

fn assert_succeeded(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

pub(crate) fn curl_and_python_read_every_page(binary: &str) {
    let server = Server::start_as(binary, "fanout-server", &STATUS);
    let _subscriber = server.connect();
    eventually("the subscriber is listed", || {
        get(&server, "/connections").1.contains(" 127.0.0.1:")
    });
    let url = |path: &str| format!("http://{}{path}", server.status.as_ref().unwrap());
    let curl = |words: &[&str]| {
        let words = [&["-sS", "--max-time", "20"], words].concat();
        program("curl", &words, b"").map(|output| {
            assert_succeeded(&output);
            text(&output.stdout)
        })
    };
    if let Some(table) = curl(&[&url("/connections")]) {
        assert!(table.starts_with("fanout-server is accepting"), "{table}");
        assert_eq!(table.lines().count(), 3, "{table}");
    }
    if let Some(json) = curl(&["-H", "Accept: application/json", &url("/connections")]) {
        let listing: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(listing["connections"][0]["state"], "open", "{json}");
    }
    if let Some(both) = curl(&[&url("/healthz"), &url("/readyz")]) {
        assert_eq!(both, "alive\nready\n");
    }
    if let Some(head) = curl(&["--head", &url("/metrics")]) {
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    }
    let code = ["-o", "/dev/null", "-w", "%{http_code}"];
    for (words, expected) in [
        (&["-X", "DELETE"][..], "405"),
        (&["-d", "content"], "405"),
        (&["-X", "GET", "-d", "content"], "413"),
        (&["-H", "Host: evil.example"], "421"),
        (&["-H", &format!("A: {}", "x".repeat(9000))], "431"),
        (&["--http1.0"], "200"),
        (&["--http2-prior-knowledge"], "505"),
    ] {
        let root = url("/");
        let words = [&code[..], words, &[&root]].concat();
        let Some(output) = program("curl", &words, b"") else { return };
        // Versions of curl differ in how they handle an answer of another HTTP version.
        if expected != "505" {
            assert_eq!(text(&output.stdout), expected, "{words:?}");
        }
    }
    python(
        r"
import http.client, json, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
def ask(method, path, code, **headers):
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    content = response.read()
    assert response.status == code, (method, path, response.status, content)
    assert method != 'HEAD' or content == b''
    return response, content
# All on one connection.
response, content = ask('GET', '/', 200)
root = json.loads(content)
assert root['message'] == 'fanout-server is accepting connections', root
assert root['servers'][0]['figures']['wirestate_upstream_up'] == 0, root
assert response.headers['Cache-Control'] == 'no-store'
assert response.headers['X-Content-Type-Options'] == 'nosniff'
ask('HEAD', '/', 200)
ask('GET', '/healthz', 200)
ask('GET', '/readyz', 200)
ask('GET', '/metrics', 200)
ask('GET', '/nowhere', 404)
assert ask('POST', '/metrics', 405)[0].headers['Allow'] == 'GET, HEAD'
for page in ['/', '/connections']:
    response, content = ask('GET', page, 200, Accept='text/html')
    assert response.headers['Content-Security-Policy'].startswith('default-src ')
",
        &server,
    );
}

/// Returns a Python that has this module. Only Debian's Python imports Debian's packages.
fn python_with(module: &str) -> Option<&'static str> {
    let found = ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let import = Command::new(python).args(["-c", &format!("import {module}")]).output();
        import.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        eprintln!("NOT TESTED: python3 has no {module}");
        assert!(std::env::var_os("CI").is_none(), "CI installs {module}");
    }
    found
}

pub(crate) fn prometheus_reads_the_metrics_in_both_formats(binary: &str) {
    let Some(python) = python_with("prometheus_client") else { return };
    let server = Server::start_as(binary, "fanout-server", &STATUS);
    let refused = server.connect();
    refused.shutdown(Shutdown::Write).unwrap();
    let source = r"
import sys, urllib.request
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
def get(accept):
    request = urllib.request.Request(f'http://{sys.argv[1]}:{sys.argv[2]}/metrics')
    request.add_header('Accept', accept)
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.headers['Content-Type'], response.read().decode()
prometheus = ('application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,'
    'application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,'
    'text/plain;version=0.0.4;q=0.2,*/*;q=0.1')
kind, text = get(prometheus)
assert kind == 'application/openmetrics-text; version=1.0.0; charset=utf-8', kind
families = {family.name: family for family in read_open(text)}
kind, older = get('*/*')
assert kind == 'text/plain; version=0.0.4; charset=utf-8', kind
others = {family.name: family for family in read_text(older)}
counters = ['connections_accepted', 'received_bytes', 'upstream_connects']
for name in ['wirestate_' + counter for counter in counters]:
    assert families[name].type == others[name].type == 'counter', name
    assert families[name].samples[0].name == name + '_total'
gauges = ['upstream_up', 'connections_open', 'queued_bytes', 'uptime_seconds']
for name in ['wirestate_' + gauge for gauge in gauges]:
    assert families[name].type == others[name].type == 'gauge', name
    assert families[name].documentation == others[name].documentation != ''
for read in [families, others]:
    latency = read['wirestate_fanout_latency_seconds']
    assert latency.type == 'histogram'
    buckets = [s for s in latency.samples if s.name.endswith('_bucket')]
    assert len(buckets) == 13, buckets
    assert buckets[-1].labels == {'le': '+Inf', 'server': 'fanout-server'}, buckets
assert families['wirestate_build'].type == 'info'
opened = families['wirestate_connections_open'].samples[0].labels
assert opened == {'server': 'fanout-server'}, opened
for family in families.values():
    for sample in family.samples:
        assert set(sample.labels) <= {'le', 'reason', 'server', 'version'}, sample
";
    let (host, port) = server.status.as_ref().unwrap().rsplit_once(':').unwrap();
    if let Some(output) = program(python, &["-", host, port], source.as_bytes()) {
        assert_succeeded(&output);
    }
}

/// The screenshots are in `target/screenshots`.
pub(crate) fn the_pages_refresh_themselves_in_a_browser(binary: &str) {
    let echo = Server::start(binary, &[]);
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let upstreams = ["--upstream", &down, "--upstream", &echo.address];
    let proxy = Server::start_as(binary, "proxy", &[&STATUS[..], &upstreams].concat());
    let mut client = proxy.connect();
    exchange(&mut client, &[b'x'; 5000]);
    let folder = process::path(binary).ancestors().nth(2).unwrap().join("screenshots").join(binary);
    let status = format!("http://{}", proxy.status.as_ref().unwrap());
    browser::test(include_str!("status_pages.py"), &[&status, &down], &folder);
}

pub(crate) fn readiness_fails_first_and_the_status_answers_during_a_drain(binary: &str) {
    let server = Server::start(binary, &[&STATUS[..], &["--drain-timeout", "20s"]].concat());
    assert_eq!(get(&server, "/readyz"), (200, "ready\n".into()));
    let (mut stalled, _) = stall(&server);
    server.signal(Signal::TERM);
    eventually("no connection is accepted", || TcpStream::connect(&server.address).is_err());
    assert_eq!(get(&server, "/readyz"), (503, "stopping\n".into()));
    assert_eq!(get(&server, "/healthz"), (200, "alive\n".into()));
    eventually("the table shows the drain", || {
        let (_, table) = get(&server, "/connections");
        table.contains("echo-server is stopping") && table.contains(" draining ")
    });
    std::io::copy(&mut stalled, &mut std::io::sink()).unwrap();
    drop(stalled);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

pub(crate) fn a_lame_duck_accepts_while_readiness_fails(binary: &str) {
    let server = Server::start(binary, &[&STATUS[..], &["--lame-duck", "2s"]].concat());
    server.signal(Signal::TERM);
    eventually("the server is not ready", || get(&server, "/readyz").0 == 503);
    exchange(&mut server.connect(), b"accepted");
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("no connection is accepted after 2s"), "{log}");
}

pub(crate) fn the_status_answers_when_the_service_is_full(binary: &str) {
    let server = Server::start(binary, &[&STATUS[..], &["--max-connections", "1"]].concat());
    let mut only = server.connect();
    exchange(&mut only, b"full");
    let mut refused = server.connect();
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0, "the connection is closed");
    let counted = "refused_total{server=\"echo-server\",reason=\"connections\"} 1";
    eventually("the refusal is counted", || get(&server, "/metrics").1.contains(counted));
}

pub(crate) fn the_status_answers_when_no_file_can_be_opened(binary: &str) {
    let mut command = Command::new("sh");
    let script = r#"ulimit -n 320; exec "$0" echo-server --listen 127.0.0.1:0 \
        --status 127.0.0.1:0 --max-connections 1000"#;
    command.args(["-c", script]).arg(process::path(binary));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let server = Server::start_command(command);
    let mut crowd: Vec<_> = (0..400).map(|_| server.connect()).collect();
    for stream in &mut crowd {
        let _ = stream.write_all(b"x");
    }
    for _ in 0..3 {
        assert_eq!(get(&server, "/readyz").0, 200);
        let (code, content) = get(&server, "/metrics");
        assert_eq!(code, 200);
        assert!(content.contains("wirestate_connections_refused_total"), "{content}");
    }
    drop(crowd);
    let log = server.stop();
    assert!(log.contains("some of which are kept for --status"), "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
}

pub(crate) fn incomplete_heads_do_not_disturb_the_service(binary: &str) {
    let server = Server::start(binary, &STATUS);
    let mut healthy = server.connect();
    let address = server.status.clone().unwrap();
    let mut incomplete: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            // The server may evict the connection before it has sent its head.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.");
            stream
        })
        .collect();
    for _ in 0..50 {
        exchange(&mut healthy, b"not affected");
    }
    // The status server evicts the connections that have waited longest.
    assert_eq!(get(&server, "/healthz"), (200, "alive\n".into()));
    // The other connections are answered after the timeout of a head.
    let mut answer = String::new();
    incomplete[299].set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    incomplete[299].read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    drop(incomplete);
    for reason in ["evicted", "header_timeout"] {
        let line = format!("wirestate_status_connections_ended_total{{reason=\"{reason}\"}} ");
        eventually(&line, || get(&server, "/metrics").1.contains(&line));
    }
}

/// A load balancer, a scraper and a few browsers, or an attacker, can hold 64 connections.
pub(crate) fn the_status_answers_when_it_is_full_of_silent_connections(binary: &str) {
    let server = Server::start(binary, &[&STATUS[..], &["-v"]].concat());
    let address = server.status.clone().unwrap();
    let mut silent: Vec<_> = (0..64).map(|_| TcpStream::connect(&address).unwrap()).collect();
    eventually("all are admitted", || server.logged(" connected id=") >= 64);
    for path in ["/healthz", "/readyz", "/metrics", "/connections"] {
        assert_eq!(get(&server, path).0, 200, "{path}");
    }
    silent[0].set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0, "the oldest one is closed by a FIN");
    let (_, metrics) = get(&server, "/metrics");
    let line = "wirestate_status_connections_ended_total{reason=\"evicted\"} ";
    assert!(metrics.contains(line), "{metrics}");
    assert!(!metrics.contains("wirestate_status_connections_refused_total{"), "{metrics}");
    let log = server.stop();
    let line = "an idle connection was evicted for a new one: the limit of open connections is \
                reached: 64 evicted=1 server=\"status\"";
    assert!(log.contains(line), "{log}");
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Makes a health check without retries. Returns whether it is answered within the timeout of load
/// balancers.
fn is_healthy(server: &Server) -> bool {
    let mut stream = TcpStream::connect(server.status.as_ref().unwrap()).unwrap();
    stream.set_read_timeout(Some(HEALTH_TIMEOUT)).unwrap();
    let mut answer = String::new();
    let sent = stream.write_all(HEALTH.as_bytes());
    let answered = sent.and_then(|()| stream.read_to_string(&mut answer));
    answered.is_ok() && answer.starts_with("HTTP/1.1 200 OK\r\n")
}

/// The usual timeout of a load balancer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn a_past_burst_of_requests_delays_no_page(binary: &str) {
    let server = Server::start(binary, &STATUS);
    let address = server.status.clone().unwrap();
    for _ in 0..1665 {
        let mut stream = TcpStream::connect(&address).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    // A client whose SYN is dropped retries after 1 s.
    let after_burst = Instant::now();
    eventually("the page is made", || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(HEALTH_TIMEOUT)).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200 OK\r\n")
    });
    assert!(after_burst.elapsed() < HEALTH_TIMEOUT, "{:?}", after_burst.elapsed());
}

pub(crate) fn slow_readers_of_pages_block_no_health_check(binary: &str) {
    let server = Server::start(binary, &[&STATUS[..], &["-v"]].concat());
    let _crowd: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    server.await_connected(1000);
    let address: SocketAddr = server.status.as_ref().unwrap().parse().unwrap();
    let mut readers: Vec<_> = (0..70)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            // With small packets, the server's kernel buffers little.
            socket.set_tcp_mss(536).unwrap();
            socket.set_recv_buffer_size(2048).unwrap();
            socket.connect(&address.into()).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            let request = "GET /connections?format=json HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    let mut code = [0; 13];
    let mut answered =
        |stream: &mut TcpStream| stream.read_exact(&mut code).is_ok() && code == *b"HTTP/1.1 200 ";
    let pages = readers.iter_mut().filter_map(|stream| answered(stream).then_some(())).count();
    assert_eq!((0..60).filter(|_| is_healthy(&server)).count(), 60);
    assert!((40..=48).contains(&pages), "{pages}");
}

pub(crate) fn lingering_connections_block_no_health_check(binary: &str) {
    let server = Server::start(binary, &STATUS);
    let _lingering: Vec<_> = (0..300)
        .map(|i| {
            let mut stream = TcpStream::connect(server.status.as_ref().unwrap()).unwrap();
            stream.write_all(HEALTH.as_bytes()).unwrap();
            assert!(i % 10 > 0 || is_healthy(&server), "after {i}");
            stream
        })
        .collect();
    let line = "wirestate_status_connections_ended_total{reason=\"evicted\"} ";
    assert!(get(&server, "/metrics").1.contains(line));
}

pub(crate) fn clients_that_request_without_pause_are_answered_at_a_bounded_rate(binary: &str) {
    let server = Server::start(binary, &STATUS);
    let began = Instant::now();
    let requests = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(500);
    let mut clients: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(server.status.as_ref().unwrap()).unwrap();
            stream.write_all(requests.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            stream
        })
        .collect();
    assert!((0..20).all(|_| is_healthy(&server)));
    let answers = |stream: &mut TcpStream| {
        let mut bytes = String::new();
        stream.read_to_string(&mut bytes).unwrap();
        bytes.matches("HTTP/1.1 404 ").count()
    };
    assert_eq!(clients.iter_mut().map(answers).sum::<usize>(), 8000);
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
}

/// An immediate close would send an RST, and the client could lose the answer.
pub(crate) fn an_answer_survives_unread_content(binary: &str) {
    let server = Server::start(binary, &STATUS);
    for size in [50_000, 1 << 20].into_iter().flat_map(|size| [size; 20]) {
        let mut stream = TcpStream::connect(server.status.as_ref().unwrap()).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let head = "POST /metrics HTTP/1.1\r\nHost: localhost";
        let head = format!("{head}\r\nContent-Length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        for piece in vec![b'x'; size].chunks(1000) {
            stream.write_all(piece).unwrap();
        }
        thread::sleep(Duration::from_millis(5));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
}

pub(crate) fn a_host_name_must_be_allowed(binary: &str) {
    let flags = [&STATUS[..], &["--status-host", "status.example,other.example"]].concat();
    let server = Server::start(binary, &flags);
    for (host, code) in [
        ("localhost", 200),
        ("Other.Example:8000", 200),
        ("status.example", 200),
        ("[::1]", 200),
        ("evil.example", 421),
    ] {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(request(&server, &text).0, code, "{host}");
    }
    let output = process::run(binary, &["echo-server", "--status-host", "a"]);
    assert_eq!(output.status.code(), Some(2), "--status-host requires --status");
}
