//! The content of the pages, and the contract under random events.

use std::{
    num::NonZeroU32,
    slice,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use proptest::prelude::*;
use wirestate_core::{
    Event, Instant, Machine, Outbound, Reason as _,
    admission::{Limits, Peer},
    drive::deliver,
    fanout::{Feed, Upstream},
    serve::{self, ServerHandle},
    status::{
        Config, Connection, MAX_CONNECTIONS, MAX_PAGES_IN_PROGRESS, Server, Service, Services,
        StatusReason,
    },
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{self, Ending, Op},
};

pub(crate) const HOST: &str = "Host: localhost\r\n";

/// A status server for a service with two connections.
pub(crate) fn server() -> Server {
    server_of(&ServerHandle::new(
        serve::Config::default().with_limits(Limits { connections: 2, per_address: None }),
    ))
}

pub(crate) fn server_of(service: &ServerHandle) -> Server {
    let feed = Feed::default();
    feed.connect_failed();
    let upstream = Upstream::new(&feed, Instant::EPOCH);
    script::play_out(&mut { upstream }, &[Op::Eof]);
    let services = Services::from([Service::new("fanout-server", service, Some(Arc::new(feed)))]);
    Server::new(Config::default(), services, None, Instant::EPOCH).unwrap()
}

pub(crate) fn machine(server: &Server) -> Checked<Connection> {
    let limit = Config::default().response_size(2);
    Checked::new(server.machine(Instant::EPOCH), limit).with_deadlines()
}

/// The answer to one request: its head and its content.
pub(crate) fn get(server: &Server, path: &str, fields: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\n{HOST}{fields}\r\n");
    let mut machine = machine(server);
    deliver(&mut machine, &mut request.as_bytes(), Instant::EPOCH);
    let output = script::collect(&mut machine, Instant::EPOCH);
    let text = String::from_utf8(output).unwrap();
    let (head, content) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), content.to_owned())
}

#[test]
fn the_pages_show_the_state_of_the_service() {
    let service = ServerHandle::new(
        serve::Config::default().with_limits(Limits { connections: 2, per_address: None }),
    );
    let server = server_of(&service);
    let peer = Peer::Ip("[2001:db8::1]:4000".parse().unwrap());
    let first = service.table().admit(peer, Instant::EPOCH).unwrap();
    let second = service.table().admit(Peer::Local, Instant::EPOCH).unwrap();
    service.table().admit(Peer::Local, Instant::EPOCH).unwrap_err();
    service.table().accept_failed("exhausted");
    first.count(7, 8, Instant::EPOCH);
    second.count(1, 0, Instant::EPOCH);
    drop(second);

    let (head, content) = get(&server, "/", "");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"), "{head}");
    let root: serde_json::Value = serde_json::from_str(&content).unwrap();
    assert_eq!(root["message"], "fanout-server is accepting connections");
    assert_eq!(root["ready"], true);
    let shown = &root["servers"][0];
    assert_eq!((&shown["name"], &shown["state"]), (&"fanout-server".into(), &"accepting".into()));
    assert_eq!(shown["connections"]["open"], 1);
    assert_eq!(shown["connections"]["states"]["new"], 1);
    assert_eq!(shown["connections"]["refused"]["connections"], 1);
    assert_eq!(shown["connections"]["ended"]["aborted"], 1);
    assert_eq!(shown["connections"]["accept_failures"]["exhausted"], 1);
    assert_eq!(shown["bytes"]["received"], 8);
    assert_eq!(shown["bytes"]["sent"], 8);
    assert_eq!(shown["figures"]["wirestate_upstream_up"], 0);

    let (head, content) = get(&server, "/metrics", "");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    for line in [
        "wirestate_build_info{version=\"0.1.0\"} 1",
        "wirestate_uptime_seconds 0.0",
        "wirestate_ready{SERVER} 1",
        "wirestate_connections_open{SERVER} 1",
        "wirestate_connections_accepted_total{SERVER} 2",
        "wirestate_connections_refused_total{SERVER,reason=\"connections\"} 1",
        "wirestate_connections_ended_total{SERVER,reason=\"aborted\"} 1",
        "wirestate_accept_failures_total{SERVER,reason=\"exhausted\"} 1",
        "wirestate_received_bytes_total{SERVER} 8",
        "wirestate_upstream_up{SERVER} 0",
        "wirestate_upstream_failures_total{SERVER} 1",
        "wirestate_upstream_ended_total{SERVER,reason=\"upstream_closed\"} 1",
        "wirestate_fanout_lag_messages{SERVER} 0",
        "wirestate_fanout_latency_seconds_bucket{le=\"+Inf\",SERVER} 0",
    ] {
        let line = line.replace("SERVER", "server=\"fanout-server\"");
        assert!(content.lines().any(|other| other == line), "{line}: {content}");
    }
    assert!(!content.contains("2001:db8"), "a client's address is in no label");
    let (head, content) = get(&server, "/metrics", "Accept: application/openmetrics-text\r\n");
    assert!(head.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0;"));
    assert!(content.ends_with("# EOF\n"));

    let (_, table) = get(&server, "/connections", "Accept: */*\r\n");
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("[2001:db8::1]:4000"), "{table}");
    for (path, fields) in
        [("/connections?format=json", ""), ("/connections", "Accept: application/json\r\n")]
    {
        let (_, content) = get(&server, path, fields);
        let listing: serde_json::Value = serde_json::from_str(&content).unwrap();
        assert_eq!(listing["open"], 1);
        let line = &listing["connections"][0];
        assert_eq!(
            (&line["peer"], &line["bytes_received"]),
            (&"[2001:db8::1]:4000".into(), &7.into())
        );
    }
    let (head, page) = get(&server, "/connections", "Accept: text/html,*/*;q=0.8\r\n");
    assert!(head.contains("\r\nContent-Security-Policy: default-src 'none'; "), "{head}");
    assert!(page.contains("<td>[2001:db8::1]:4000</td>"), "{page}");

    assert!(get(&server, "/readyz", "").0.starts_with("HTTP/1.1 200 "));
    server.readiness().end();
    assert!(get(&server, "/readyz", "").0.starts_with("HTTP/1.1 503 "));
    assert!(get(&server, "/healthz", "").0.starts_with("HTTP/1.1 200 "));
    assert!(get(&server, "/", "").1.contains("\"fanout-server is stopping\""));
}

/// Input is read before a deadline is handled.
#[test]
fn a_request_that_has_arrived_is_answered_before_its_connection_is_evicted() {
    let (server, now) = (server(), Instant::EPOCH);
    let idle = server.idle_connections();
    let mut cx = Context::from_waker(Waker::noop());
    let (mut first, mut second) = (machine(&server), machine(&server));
    assert!(!second.poll_shared(now, &mut cx), "a connection is to be evicted");
    let waited = Duration::from_secs(7);
    let later = now + waited;
    assert!(idle.poll_evict(&mut cx).is_pending());
    assert!(first.poll_shared(later, &mut cx) && !second.poll_shared(later, &mut cx));
    assert_eq!((first.poll_timeout(), first.interest().read), (Some(later), true));
    let request = format!("GET /healthz HTTP/1.1\r\n{HOST}\r\n");
    deliver(&mut first, &mut request.as_bytes(), later);
    let output = script::collect(&mut first, later);
    assert!(output.starts_with(b"HTTP/1.1 200 OK\r\n"));
    first.handle(later, Event::Timeout { unacknowledged: 0 });
    assert_eq!(first.status().state, "idle", "it is not evicted");
    assert!(!first.poll_shared(later, &mut cx), "its old activity counts");

    // The server is still full, so the next connection is evicted, in the middle of a head.
    assert!(idle.poll_evict(&mut cx).is_pending());
    assert!(second.poll_shared(later, &mut cx));
    deliver(&mut second, &mut &request.as_bytes()[..20], later);
    second.handle(later, Event::Timeout { unacknowledged: 0 });
    assert_eq!(second.interest().write, Outbound::Finish);
    second.handle(later, Event::Finished);
    let limit = MAX_CONNECTIONS;
    assert_eq!(second.reason(), Some(StatusReason::Evicted { waited, limit }));
    assert_eq!(second.reason().unwrap().label(), "evicted");
    assert!(
        idle.poll_evict(&mut cx).is_pending(),
        "a connection frees its place before it is dropped"
    );
    drop((first, second));
    assert!(idle.poll_evict(&mut cx).is_ready());
}

/// The first request arrives one round trip after the connection.
#[test]
fn a_new_connection_is_not_evicted_for_20_ms_before_its_first_byte() {
    let (server, now) = (server(), Instant::EPOCH);
    let idle = server.idle_connections();
    let mut cx = Context::from_waker(Waker::noop());
    let mut new = machine(&server);
    assert!(idle.poll_evict(&mut cx).is_pending());
    assert!(new.poll_shared(now + Duration::from_millis(5), &mut cx));
    assert_eq!(new.poll_timeout(), Some(now + Duration::from_millis(20)));
    new.handle(now + Duration::from_millis(20), Event::Timeout { unacknowledged: 0 });
    assert_eq!(new.interest().write, Outbound::Finish);
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\n{HOST}\r\n").into_bytes()
}

/// A server that answers once a second, and has just answered.
fn slow_server() -> Server {
    let config = Config::default().with_answers_per_second(NonZeroU32::MIN);
    let server = Server::new(config, Services::default(), None, Instant::EPOCH).unwrap();
    let mut greedy = machine(&server);
    while greedy.status().state != "waiting" {
        deliver(&mut greedy, &mut &request("/healthz")[..], Instant::EPOCH);
        script::collect(&mut greedy, Instant::EPOCH);
    }
    server
}

#[test]
fn a_connection_that_was_answered_is_evicted_while_it_waits_for_its_next_turn() {
    let (server, now) = (server(), Instant::EPOCH);
    let idle = server.idle_connections();
    let mut cx = Context::from_waker(Waker::noop());
    let requests = request("/metrics").repeat(100);
    let mut greedy = machine(&server);
    let mut input = &requests[..];
    while greedy.status().state != "waiting" {
        deliver(&mut greedy, &mut input, now);
        script::collect(&mut greedy, now);
    }
    let _idle = machine(&server);
    assert!(!greedy.poll_shared(now, &mut cx), "a connection is to be evicted");
    assert!(idle.poll_evict(&mut cx).is_pending());
    let later = now + Duration::from_millis(1);
    assert!(greedy.poll_shared(later, &mut cx), "an idle connection is evicted first");
    assert_eq!(greedy.interest().write, Outbound::Finish);
    greedy.handle(later, Event::Finished);
    assert_eq!(greedy.reason().unwrap().label(), "evicted");
}

#[test]
fn a_connection_is_not_evicted_before_its_first_answer() {
    let (server, now) = (slow_server(), Instant::EPOCH);
    let idle = server.idle_connections();
    let mut cx = Context::from_waker(Waker::noop());
    let mut first = machine(&server);
    deliver(&mut first, &mut &request("/healthz")[..], now);
    assert_eq!(first.status().state, "waiting");
    assert!(!first.poll_shared(now, &mut cx));
    assert!(idle.poll_evict(&mut cx).is_pending());
    assert!(!first.poll_shared(now, &mut cx), "it is evicted");
    let until = first.poll_timeout().unwrap();
    first.handle(until, Event::Timeout { unacknowledged: 0 });
    let output = script::collect(&mut first, until);
    assert!(output.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(!first.poll_shared(until, &mut cx), "its old activity counts");
    assert!(idle.poll_evict(&mut cx).is_pending());
    assert!(first.poll_shared(until, &mut cx));
}

#[test]
fn a_lingering_connection_is_evicted_at_once() {
    let (server, now) = (server(), Instant::EPOCH);
    let idle = server.idle_connections();
    let mut cx = Context::from_waker(Waker::noop());
    let (mut lingers, _idle) = (machine(&server), machine(&server));
    let last = Op::Receive(b"GET /healthz HTTP/1.0\r\n\r\n".to_vec());
    script::play_out(&mut lingers, &[last]);
    assert_eq!(lingers.status().state, "lingering");
    assert!(!lingers.poll_shared(now, &mut cx));
    assert!(idle.poll_evict(&mut cx).is_pending());
    assert!(lingers.poll_shared(now, &mut cx));
    assert!(lingers.interest().is_done());
    assert_eq!(lingers.reason().unwrap().label(), "evicted");
}

#[test]
fn a_response_that_the_kernel_accepts_is_sent_before_its_connection_is_evicted() {
    let (server, now) = (server(), Instant::EPOCH);
    let idle = server.idle_connections();
    let mut cx = Context::from_waker(Waker::noop());
    for is_accepted in [true, false] {
        let mut sends = machine(&server);
        deliver(&mut sends, &mut &request("/metrics")[..], now);
        assert!(!sends.poll_shared(now, &mut cx));
        assert!(idle.poll_evict(&mut cx).is_pending());
        assert!(sends.poll_shared(now, &mut cx));
        assert!(!sends.poll_shared(now, &mut cx), "it changes twice");
        assert_eq!((sends.poll_timeout(), sends.interest().write), (Some(now), Outbound::Flush));
        if is_accepted {
            script::collect(&mut sends, now);
            sends.handle(now, Event::Timeout { unacknowledged: 0 });
            assert_eq!(sends.status().state, "idle");
        } else {
            sends.handle(now, Event::Timeout { unacknowledged: 0 });
            assert_eq!(sends.interest().write, Outbound::Reset);
            sends.handle(now, Event::Finished);
            assert_eq!(sends.reason().unwrap().label(), "evicted");
        }
    }
}

/// Waiting and sent pages count alike. Other pages are served, and a connection whose page was
/// refused continues.
#[test]
fn beyond_48_pages_in_progress_only_expensive_pages_are_refused() {
    let (server, now) = (server(), Instant::EPOCH);
    let ask = |path: &str| {
        let mut machine = machine(&server);
        deliver(&mut machine, &mut &request(path)[..], now);
        machine
    };
    let answer = |machine: &mut Checked<Connection>| {
        String::from_utf8(script::collect(machine, now)).unwrap()
    };
    let mut pages: Vec<_> = (0..MAX_PAGES_IN_PROGRESS).map(|_| ask("/connections")).collect();
    let states = |state| pages.iter().filter(|page| page.status().state == state).count();
    assert_eq!((states("open"), states("waiting")), (10, 38));
    let mut refused = ask("/metrics");
    let text = answer(&mut refused);
    let (head, content) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    assert!(head.contains("\r\nRetry-After: 1"), "{head}");
    assert!(!head.contains("Connection: close"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", content.len())), "{head}");
    deliver(&mut refused, &mut &request("/readyz")[..], now);
    assert!(answer(&mut refused).ends_with("\r\n\r\nready\n"));

    answer(&mut pages[0]);
    deliver(&mut refused, &mut &request("/metrics")[..], now);
    assert_eq!(
        refused.status().state,
        "waiting",
        "the end of a page has not made room for another"
    );
    pages.clear();
    drop(refused);
    let mut last = ask("/metrics");
    let until = last.poll_timeout().unwrap();
    last.handle(until, Event::Timeout { unacknowledged: 0 });
    let metrics = String::from_utf8(script::collect(&mut last, until)).unwrap();
    let line = "wirestate_status_pages_refused_total{reason=\"in_progress\"} 1";
    assert!(metrics.lines().any(|other| other == line), "{metrics}");
}

/// The metrics of a fan-out are in `/metrics` with a help line, and in `/`, except for the
/// histogram.
#[test]
fn every_documented_metric_is_exposed() {
    let server = server();
    let (metrics, root) = (get(&server, "/metrics", "").1, get(&server, "/", "").1);
    let root: serde_json::Value = serde_json::from_str(&root).unwrap();
    let shown = &root["servers"][0];
    for name in [
        "wirestate_connections_open",
        "wirestate_connections_accepted_total",
        "wirestate_connections_refused_total",
        "wirestate_connections_ended_total",
        "wirestate_accept_failures_total",
        "wirestate_received_bytes_total",
        "wirestate_sent_bytes_total",
        "wirestate_queued_bytes",
        "wirestate_upstream_up",
        "wirestate_upstream_connects_total",
        "wirestate_upstream_failures_total",
        "wirestate_upstream_ended_total",
        "wirestate_upstream_messages_total",
        "wirestate_upstream_bytes_total",
        "wirestate_upstream_tail_dropped_bytes_total",
        "wirestate_upstream_paused_seconds_total",
        "wirestate_upstream_paused_waiting_seconds_total",
        "wirestate_fanout_subscribers",
        "wirestate_fanout_lag_messages",
        "wirestate_fanout_delivered_messages_total",
        "wirestate_fanout_skipped_messages_total",
        "wirestate_fanout_lagged_subscribers_total",
        "wirestate_fanout_never_caught_up_total",
        "wirestate_fanout_latency_seconds",
    ] {
        let help = format!("# HELP {name} ");
        assert!(metrics.lines().any(|line| line.starts_with(&help)), "{name}: {metrics}");
        let own = name.starts_with("wirestate_upstream") || name.starts_with("wirestate_fanout");
        let figure = &shown["figures"][name.trim_end_matches("_total")];
        let is_there = !figure.is_null() || name.ends_with("_latency_seconds");
        assert!(is_there || !own, "{name}: {root}");
    }
    for count in ["open", "limit", "accepted", "refused", "ended", "accept_failures"] {
        assert!(!shown["connections"][count].is_null(), "{count}: {root}");
    }
}

#[test]
fn readiness_ends_when_a_shutdown_is_requested() {
    let service = ServerHandle::default();
    let server = server_of(&service);
    assert!(get(&server, "/readyz", "").0.starts_with("HTTP/1.1 200 "));
    service.drain();
    assert!(get(&server, "/readyz", "").0.starts_with("HTTP/1.1 503 "));
}

#[test]
fn the_list_of_connections_is_limited() {
    let service = ServerHandle::new(
        serve::Config::default().with_limits(Limits { connections: 5000, per_address: None }),
    );
    let server = server_of(&service);
    let admit = |_| service.table().admit(Peer::Local, Instant::EPOCH).unwrap();
    let _open: Vec<_> = (0..1500).map(admit).collect();
    let (_, content) = get(&server, "/connections?format=json", "");
    let listing: serde_json::Value = serde_json::from_str(&content).unwrap();
    assert_eq!(listing["open"], 1500);
    let listed = listing["connections"].as_array().unwrap();
    let ids = listed.iter().map(|line| line["id"].as_u64().unwrap());
    assert!(ids.eq(1..=1000), "not the oldest ones: {content}");
    let (_, table) = get(&server, "/connections", "");
    assert!(table.contains("open connections: 1500, of which 1000 are listed"));
}

#[test]
fn the_answer_to_head_is_the_head_of_the_answer_to_get() {
    for path in ["/healthz", "/readyz", "/connections", "/nowhere"] {
        let answer = |method: &str| {
            let server = server();
            let mut machine = machine(&server);
            let request = format!("{method} {path} HTTP/1.1\r\n{HOST}\r\n");
            deliver(&mut machine, &mut request.as_bytes(), Instant::EPOCH);
            String::from_utf8(script::collect(&mut machine, Instant::EPOCH)).unwrap()
        };
        let (get, head) = (answer("GET"), answer("HEAD"));
        let end = get.find("\r\n\r\n").unwrap() + 4;
        assert_eq!(&get[..end], head, "{path}");
        assert!(get.len() > end);
    }
}

/// Ten pages are made at once, and the eleventh later. A probe never waits.
#[test]
fn expensive_pages_are_rate_limited() {
    let config = Config::default().with_pages_per_second(NonZeroU32::new(10).unwrap());
    let service = Service::new("echo-server", &ServerHandle::default(), None);
    let server = Server::new(config, Services::from([service]), None, Instant::EPOCH).unwrap();
    let mut machines = Vec::new();
    let mut request = |page: &str| {
        let mut machine = server.machine(Instant::EPOCH);
        let head = format!("GET {page} HTTP/1.0\r\n\r\n");
        let output = script::play_out(&mut machine, &[Op::Receive(head.into_bytes())]).output;
        let wait = machine.poll_timeout().map(|until| until.since(Instant::EPOCH));
        machines.push(machine);
        if output.is_empty() { Err(wait.unwrap()) } else { Ok(output) }
    };
    for _ in 0..10 {
        assert!(request("/connections").unwrap().starts_with(b"HTTP/1.1 200 "));
    }
    for i in 1..=10 {
        assert_eq!(request("/connections"), Err(Duration::from_millis(100 * i)));
    }
    assert!(request("/connections").unwrap().starts_with(b"HTTP/1.1 503 "));
    assert!(request("/readyz").unwrap().starts_with(b"HTTP/1.1 200 "));
    // A client that leaves returns its turn.
    machines.drain(11..20).for_each(drop);
    assert_eq!(machines.len(), 13);
}

#[test]
fn a_missed_deadline_is_answered_or_ends_the_connection() {
    let server = server();
    let play = |ops: &[Op]| script::play_out(&mut machine(&server), ops);
    // Parts of a head do not extend its deadline.
    let half = Op::Receive(b"GET / HT".to_vec());
    let (four, one) = (Duration::from_secs(4), Duration::from_secs(1));
    let in_time = [half.clone(), Op::Advance(four), half];
    assert_eq!(play(&[&in_time[..], &[Op::SpuriousTimeout]].concat()).output, b"");
    let late = play(&[&in_time[..], &[Op::Advance(one), Op::SpuriousTimeout]].concat());
    assert!(late.output.starts_with(b"HTTP/1.1 408 "));
    assert_eq!((late.label, late.ending), (None, Some(Ending::Fin)), "it does not linger");

    let idle = play(&[Op::Timeout, Op::Eof]);
    assert_eq!((idle.label, idle.ending), (Some("idle_timeout"), Some(Ending::Fin)));
    assert_eq!(idle.output, b"");

    let request = Op::Receive(format!("GET /healthz HTTP/1.1\r\n{HOST}\r\n").into_bytes());
    let slow = [Op::Accept(10), Op::Advance(2 * four), Op::SpuriousTimeout];
    let read = play(&[slice::from_ref(&request), &slow, &slow, &slow].concat());
    assert!(read.output.ends_with(b"alive\n"), "a client that reads in time lacks bytes");
    let stalled = play(&[request, Op::Accept(10), Op::Timeout]);
    assert_eq!((stalled.label, stalled.ending), (Some("write_stalled"), Some(Ending::Rst)));

    let broken_off = play(&[Op::Receive(b"GET /".to_vec()), Op::Eof]);
    assert_eq!(broken_off.label, Some("truncated"));
    assert!(broken_off.output.is_empty());
}

#[test]
fn a_shutdown_answers_pending_requests_and_closes() {
    let server = server();
    let written = [Op::Accept(1000), Op::Timeout, Op::Eof];
    let ops = [&[Op::Receive(request("/healthz")), Op::ShutDown], &written[..]].concat();
    let transcript = script::play_out(&mut machine(&server), &ops);
    assert!(transcript.output.ends_with(b"\r\n\r\nalive\n"));
    assert_eq!((transcript.label, transcript.ending), (Some("shut_down"), Some(Ending::Fin)));
    let ops = [Op::ShutDown, Op::Timeout, Op::Eof];
    let transcript = script::play_out(&mut machine(&server), &ops);
    assert_eq!((transcript.output, transcript.label), (vec![], Some("shut_down")));
}

/// It arrives, or waits for its turn. Requests behind it are not answered.
#[test]
fn a_request_during_a_shutdown_is_answered_as_the_last_one() {
    let both = Op::Receive([request("/healthz"), request("/healthz")].concat());
    let late = [Op::ShutDown, both.clone(), Op::Eof];
    let waiting = [both, Op::ShutDown, Op::Timeout, Op::Eof];
    for (server, ops) in [(server(), &late[..]), (slow_server(), &waiting)] {
        let transcript = script::play_out(&mut machine(&server), ops);
        let text = String::from_utf8(transcript.output).unwrap();
        let (head, content) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nConnection: close"), "{head}");
        assert_eq!(content, "alive\n");
        assert_eq!((transcript.label, transcript.ending), (Some("shut_down"), Some(Ending::Fin)));
    }
}

#[test]
fn reasons_have_constant_labels() {
    let server = server();
    for (input, label) in [
        (&b"\x16\x03\x01"[..], "bad_request"),
        (b"GET / HTTP/3.0\r\n", "version"),
        (&[b'x'; 9000], "head_too_large"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n", "content"),
        (b"GET / HTTP/1.0\r\n\r\n", "finished"),
    ] {
        let mut machine = machine(&server);
        script::play_out(&mut machine, &[Op::Receive(input.to_vec())]);
        script::play_out(&mut machine, &[Op::Eof]);
        let reason = wirestate_core::Machine::reason(&machine).unwrap();
        assert_eq!(reason.label(), label, "{reason}");
    }
}

/// The contract holds under any script.
#[test]
fn the_contract_holds() {
    for_each_case(256, script::ops(60), |ops| {
        script::play(&mut machine(&server()), &ops);
    });
}

/// The same with requests as input.
#[test]
fn the_contract_holds_with_requests() {
    for_each_case(256, script::ops_of(requests(), 50), |ops| {
        script::play(&mut machine(&server()), &ops);
    });
}

fn requests() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        format!("GET /metrics HTTP/1.1\r\n{HOST}\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{HOST}\r\nHEAD /"),
        "connections HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n".into(),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".into(),
        "GET / HTTP/1.0\r\n\r\n".into(),
    ])
}
