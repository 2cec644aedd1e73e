//! Clients that try to exhaust the status server. Health checks are still answered.

use std::time::Duration;

use bytes::Bytes;
use wirestate_core::{
    admission::Limits,
    drive::Clock as _,
    runtime::Runtime as _,
    status::{Config, MAX_CONNECTIONS},
};
use wirestate_testkit::sim::{Act, Host, Task, act};

use crate::together::{Scene, ask, get};

const NO_LIMIT: Limits = Limits { connections: 10_000, per_address: None };

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn request(path: &str, fields: &str) -> Bytes {
    format!("GET {path} HTTP/1.1\r\nHost: 10.0.0.1\r\n{fields}\r\n").into()
}

/// Requests `path` on a new connection. Returns whether the answer is 200 within a second.
fn check(client: &Host, path: &'static str) -> Task<bool> {
    let (runtime, clock) = (client.clone(), client.clock());
    client.run(async move {
        let start = clock.now();
        let acts = vec![Act::Send(request(path, "Connection: close\r\n")), Act::ReceiveAll];
        let Ok(socket) = runtime.connect("server:8000").await else { return false };
        let received = act(runtime, socket, acts).await;
        let is_ok = received.bytes.starts_with(b"HTTP/1.1 200 OK\r\n") && received.fin;
        is_ok && clock.now().since(start) < millis(1000)
    })
}

/// Makes `count` health checks, one in each `interval`. Returns how many are answered within a
/// second.
fn health_checks(scene: &Scene, count: usize, interval: Duration) -> usize {
    let client = scene.world.host("load balancer");
    let checks: Vec<_> = (0..count)
        .map(|i| {
            let check = check(&client, if i % 2 == 0 { "/healthz" } else { "/readyz" });
            scene.world.run_for(interval).unwrap();
            check
        })
        .collect();
    scene.world.run_for(millis(1000)).unwrap();
    checks.iter().filter(|check| check.take() == Some(true)).count()
}

/// Opens `count` connections to the service for `time`.
fn crowd(scene: &Scene, count: usize, time: Duration) {
    let host = scene.world.host("crowd");
    for _ in 0..count {
        let runtime = host.clone();
        host.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            act(runtime, socket, vec![Act::Wait(time)]).await
        });
    }
    scene.world.run_for(millis(500)).unwrap();
    assert_eq!(scene.service.table().totals().open, count as u64);
}

#[test]
fn a_past_burst_of_requests_delays_no_page() {
    let scene = Scene::new(1, NO_LIMIT);
    let (client, attacker) = (scene.world.host("client"), scene.world.host("attacker"));
    for _ in 0..1665 {
        ask(&attacker, vec![Act::Send(request("/", "")), Act::Wait(millis(100))]);
        scene.world.run_for(millis(200) / 1665).unwrap();
    }
    scene.world.run_for(millis(1000)).unwrap();
    let start = scene.world.now();
    let answer = scene.world.run_until(&get(&client, "/")).unwrap();
    assert!(answer.bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let elapsed = scene.world.now().since(start);
    assert!(elapsed < millis(100), "{elapsed:?}");
    scene.end();
}

/// No connection is closed without an answer while a page can be made or refused.
#[test]
fn each_request_of_a_burst_is_answered_or_refused_by_503() {
    let scene = Scene::new(2, NO_LIMIT);
    let attacker = scene.world.host("attacker");
    let ask = |_| {
        scene.world.run_for(millis(1)).unwrap();
        get(&attacker, "/metrics")
    };
    let tasks: Vec<_> = (0..500).map(ask).collect();
    scene.world.run_for(millis(2000)).unwrap();
    let answers: Vec<_> = tasks.iter().map(|task| task.take().unwrap().bytes).collect();
    let count =
        |code: &str| answers.iter().filter(|bytes| bytes.starts_with(code.as_bytes())).count();
    let (made, refused) = (count("HTTP/1.1 200 "), count("HTTP/1.1 503 "));
    assert_eq!(made + refused, 500);
    assert!((50..=210).contains(&made), "{made}");
    let metrics = scene.world.run_until(&get(&attacker, "/metrics")).unwrap().bytes;
    let metrics = String::from_utf8(metrics).unwrap();
    let line = format!("wirestate_status_pages_refused_total{{reason=\"in_progress\"}} {refused}");
    assert!(metrics.lines().any(|other| other == line), "{line}: {metrics}");
    scene.end();
}

#[test]
fn slow_readers_of_the_longest_page_block_no_health_check() {
    let scene = Scene::new(3, NO_LIMIT);
    crowd(&scene, 1000, millis(60_000));
    let attacker = scene.world.host("attacker");
    for i in 0..70 {
        let byte_by_byte = [Act::Receive(1), Act::Wait(millis(5000))];
        let path = if i % 2 == 0 { "/connections" } else { "/connections?format=json" };
        let mut acts = vec![Act::Send(request(path, ""))];
        acts.extend(byte_by_byte.into_iter().cycle().take(20));
        ask(&attacker, acts);
        scene.world.run_for(millis(20)).unwrap();
    }
    assert_eq!(health_checks(&scene, 60, millis(200)), 60);
    // The memory of their pages is bounded.
    let queued: usize =
        scene.status.handle().table().connections().iter().map(|conn| conn.status().queued).sum();
    let max = Config::default().response_size(1) * 48;
    assert!(queued > max / 20 && queued <= max, "{queued} of {max}");
    scene.end();
}

/// Connections with unread pages are evicted if no other connection can be.
#[test]
fn connections_with_unread_answers_are_evicted_for_health_checks() {
    let scene = Scene::new(4, NO_LIMIT);
    let attacker = scene.world.host("attacker");
    for _ in 0..2 * MAX_CONNECTIONS {
        let many = request("/nowhere", "").repeat(300);
        ask(&attacker, vec![Act::Send(many.into()), Act::Wait(millis(60_000))]);
        scene.world.run_for(millis(20)).unwrap();
    }
    assert_eq!(health_checks(&scene, 30, millis(100)), 30);
    assert!(scene.status.handle().table().totals().ended["evicted"] > 0);
    scene.end();
}

#[test]
fn lingering_connections_block_no_health_check() {
    let scene = Scene::new(5, NO_LIMIT);
    let attacker = scene.world.host("attacker");
    let runtime = attacker.clone();
    attacker.run(async move {
        for _ in 0..500 {
            let request = Act::Send(request("/nowhere", "Connection: close\r\n"));
            let peer = runtime.clone();
            runtime.run(async move {
                let socket = peer.connect("server:8000").await.unwrap();
                act(peer, socket, vec![request, Act::Wait(millis(10_000))]).await
            });
            runtime.sleep(millis(1000) / 60).await;
        }
    });
    scene.world.run_for(millis(3000)).unwrap();
    assert_eq!(health_checks(&scene, 50, millis(100)), 50);
    scene.end();
}

#[test]
fn clients_that_request_without_pause_are_answered_at_a_bounded_rate() {
    for path in ["/healthz", "/nowhere"] {
        let scene = Scene::new(6, NO_LIMIT);
        let attacker = scene.world.host("attacker");
        let ten: Bytes = request(path, "").repeat(10).into();
        // Repeated pages have the same length.
        let answer = scene.world.run_until(&ask(&attacker, {
            vec![Act::Send(request(path, "")), Act::Finish, Act::ReceiveAll]
        }));
        let len = answer.unwrap().bytes.len();
        for _ in 0..16 {
            let round = [Act::Send(ten.clone()), Act::Receive(10 * len)];
            ask(&attacker, round.into_iter().cycle().take(200).collect());
        }
        let sent = || {
            let table = scene.status.handle().table();
            let open: u64 = table.connections().iter().map(|conn| conn.bytes_sent()).sum();
            (table.totals().bytes_sent + open) / len as u64
        };
        scene.world.run_for(millis(200)).unwrap();
        let before = sent();
        assert_eq!(health_checks(&scene, 10, millis(20)), 10);
        let answered = sent() - before;
        assert!((3000..=6100).contains(&answered), "{path}: {answered} in 1.2 s");
        scene.end();
    }
}

/// More clients than the limit reconnect, each as soon as it has its answer.
#[test]
fn clients_that_reconnect_without_pause_block_no_health_check() {
    let scene = Scene::new(7, NO_LIMIT);
    let attacker = scene.world.host("attacker");
    for _ in 0..2 * MAX_CONNECTIONS {
        let runtime = attacker.clone();
        attacker.run(async move {
            let clock = runtime.clock();
            let end = clock.now() + millis(400);
            while clock.now() < end {
                let acts =
                    vec![Act::Send(request("/healthz", "Connection: close\r\n")), Act::ReceiveAll];
                let socket = runtime.connect("server:8000").await.unwrap();
                act(runtime.clone(), socket, acts).await;
            }
        });
    }
    assert_eq!(health_checks(&scene, 20, millis(20)), 20);
    scene.end();
}
