//! A service and its status server in one world.

use std::time::Duration;

use bytes::Bytes;
use wirestate_command_line::load::{Load, LoadConfig, LoadReason};
use wirestate_core::{
    ConnectionError,
    admission::Limits,
    drive::{Clock as _, Drive, Ended},
    echo,
    runtime::Runtime,
    serve::{self, ServerHandle},
    status::{Config, MAX_CONNECTIONS, Server, Service, Services},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    sim::{Act, Faults, Host, Leftovers, Received, Settings, Task, World, act},
};

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) service: ServerHandle,
    pub(crate) status: Server,
}

impl Scene {
    pub(crate) fn new(seed: u64, limits: Limits) -> Self {
        let settings = Settings { backlog: 5000, ..Settings::default() };
        let world = World::with(seed, settings);
        let host = world.host("server");
        let service = ServerHandle::new(serve::Config::default().with_limits(limits));
        let services = Services::from([Service::new("echo-server", &service, None)]);
        let status = Server::new(Config::default(), services, None, host.clock().now()).unwrap();
        let listener = host.listen("server:7").unwrap();
        let (runtime, handle) = (host.clone(), service.clone());
        let echo = echo::Server::default();
        host.run(async move {
            serve::Server::new(runtime, listener)
                .with_handle(&handle)
                .serve(|_, now| echo.machine(now))
                .await
        });
        let listener = host.listen("server:8000").unwrap();
        let (runtime, server) = (host.clone(), status.clone());
        host.run(async move {
            let limit = Config::default().response_size(1);
            let machine = |_: &_, now| Checked::new(server.machine(now), limit);
            let handle = server.handle().clone();
            let idle = server.idle_connections().clone();
            let http = serve::Server::new(runtime, listener);
            http.with_handle(&handle).with_idle_connections(idle).serve(machine).await
        });
        Self { world, service, status }
    }

    pub(crate) fn end(&self) {
        self.service.drain();
        self.status.handle().drain();
        self.world.run().unwrap();
        assert_eq!(self.world.leftovers(), Leftovers::default());
    }
}

pub(crate) fn ask(client: &Host, acts: Vec<Act>) -> Task<Received> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("server:8000").await.unwrap();
        act(runtime, socket, acts).await
    })
}

pub(crate) fn get(client: &Host, path: &str) -> Task<Received> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n");
    ask(client, vec![Act::Send(request.into()), Act::ReceiveAll])
}

fn load(client: &Host, rounds: u64) -> Task<Ended<LoadReason>> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        let clock = runtime.clock();
        let config = LoadConfig::default().with_rounds(rounds);
        let load =
            Load::new(config, wirestate_core::buffer::Pool::new(512, 1), clock.now(), |_| {})
                .unwrap();
        Drive::new(load, socket, clock).await
    })
}

fn is_complete(ended: &Ended<LoadReason>) -> bool {
    matches!(ended, Ended::Reason(LoadReason::Complete { .. }))
}

#[test]
fn a_thousand_incomplete_heads_do_not_disturb_the_service() {
    let scene = Scene::new(1, Limits::default());
    let client = scene.world.host("client");
    let attacker = scene.world.host("attacker");
    let before = load(&client, 200);
    let half = Bytes::from_static(b"GET /metrics HTTP/1.1\r\nHost: 10.0.");
    let received: Vec<_> =
        (0..1000).map(|_| ask(&attacker, vec![Act::Send(half.clone()), Act::ReceiveAll])).collect();
    scene.world.run_for(Duration::from_secs(1)).unwrap();
    let during = load(&client, 200);
    for task in [before, during] {
        let ended = scene.world.run_until(&task).unwrap();
        assert!(is_complete(&ended), "{ended:?}");
    }
    // The deadlines of the incomplete heads have passed.
    scene.world.run_for(Duration::from_secs(10)).unwrap();
    let answer = scene.world.run_until(&get(&client, "/metrics")).unwrap();
    let text = String::from_utf8(answer.bytes).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    let count = |line: &str| {
        let line = text.lines().find(|other| other.starts_with(line)).expect(line);
        line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
    };
    let evicted = count("wirestate_status_connections_ended_total{reason=\"evicted\"}");
    let late = count("wirestate_status_connections_ended_total{reason=\"header_timeout\"}");
    assert_eq!((evicted, late), (936, 64));
    assert!(!text.contains("wirestate_status_connections_refused_total{"), "{text}");
    let answered =
        received.iter().filter(|task| task.take().unwrap().bytes.starts_with(b"HTTP/1.1 408 "));
    assert_eq!(answered.count(), 64);
    scene.end();
}

/// The connections wait for a request: without a byte, after a request, and inside a head.
#[test]
fn the_status_answers_when_it_is_full_of_silent_connections() {
    let scene = Scene::new(6, Limits::default());
    let (client, holder) = (scene.world.host("client"), scene.world.host("holder"));
    let request = Bytes::from_static(b"GET /healthz HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n");
    let silent = vec![Act::ReceiveAll];
    let kept = vec![Act::Send(request.clone()), Act::ReceiveAll];
    let half = vec![Act::Send(request.slice(..20)), Act::ReceiveAll];
    let held: Vec<_> = [silent, kept, half]
        .into_iter()
        .cycle()
        .take(MAX_CONNECTIONS)
        .map(|acts| {
            let task = ask(&holder, acts);
            scene.world.run_for(Duration::from_millis(10)).unwrap();
            task
        })
        .collect();
    for _ in 0..10 {
        let start = scene.world.now();
        let answer = scene.world.run_until(&get(&client, "/healthz")).unwrap();
        assert!(answer.bytes.starts_with(b"HTTP/1.1 200 OK\r\n"), "{answer:?}");
        assert!(scene.world.now().since(start) < Duration::from_secs(1), "the answer is late");
    }
    let totals = scene.status.handle().table().totals();
    let evicted = usize::try_from(totals.ended["evicted"]).unwrap();
    assert!(totals.refused.is_empty() && (1..=10).contains(&evicted), "{totals:?}");
    // The connections that had waited longest end with a FIN, as do lingering connections of the
    // checks.
    let ended: Vec<_> = held
        .iter()
        .map(|task| task.take().map(|received| (received.fin, received.error)))
        .collect();
    let evicted_silent = ended.iter().filter(|ended| ended.is_some()).count();
    assert!((1..=evicted).contains(&evicted_silent), "{evicted_silent} of {evicted}");
    assert!(ended[..evicted_silent].iter().all(|ended| *ended == Some((true, None))), "{ended:?}");
    scene.end();
}

#[test]
fn the_status_answers_when_the_service_is_full() {
    let scene = Scene::new(2, Limits { connections: 1, per_address: None });
    let client = scene.world.host("client");
    let runtime = client.clone();
    let held = client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        act(runtime, socket, vec![Act::Wait(Duration::from_secs(60))]).await
    });
    scene.world.run_for(Duration::from_secs(1)).unwrap();
    let answer = scene.world.run_until(&get(&client, "/")).unwrap();
    assert!(String::from_utf8(answer.bytes).unwrap().contains("\"open\": 1"));
    scene.world.run_until(&held).unwrap();
    scene.end();
}

#[test]
fn readiness_fails_while_pending_output_is_flushed() {
    let scene = Scene::new(3, Limits::default());
    let client = scene.world.host("client");
    let runtime = client.clone();
    // 60,000 bytes that are not read for three seconds.
    client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        let pending = Act::Send(vec![1; 60_000].into());
        act(runtime, socket, vec![pending, Act::Wait(Duration::from_secs(3)), Act::ReceiveAll])
            .await
    });
    scene.world.run_for(Duration::from_secs(1)).unwrap();
    scene.service.drain();
    let answer = scene.world.run_until(&get(&client, "/readyz")).unwrap();
    assert!(answer.bytes.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
    let listed = scene.world.run_until(&get(&client, "/connections")).unwrap();
    let table = String::from_utf8(listed.bytes).unwrap();
    assert!(table.contains("echo-server is stopping") && table.contains(" draining "), "{table}");
    scene.end();
}

#[test]
fn the_status_is_answered_under_harmless_faults() {
    for_each_seed(20, |seed| {
        let scene = Scene::new(seed, Limits::default());
        let client = scene.world.host("client");
        scene.world.host("other");
        client.set_faults(Faults::harmless(seed));
        let tasks: Vec<_> = ["/", "/healthz", "/metrics", "/connections", "/nowhere"]
            .iter()
            .map(|path| get(&client, path))
            .collect();
        for task in tasks {
            let answer = scene.world.run_until(&task).unwrap();
            let text = String::from_utf8(answer.bytes).unwrap();
            let (head, content) = text.split_once("\r\n\r\n").unwrap();
            let length = format!("\r\nContent-Length: {}\r\n", content.len());
            assert!(head.contains(&length), "{head}");
            assert_eq!((answer.fin, answer.error), (true, None));
        }
        scene.end();
    });
}

#[test]
fn a_client_that_does_not_read_the_answer_is_reset() {
    let scene = Scene::new(5, Limits { per_address: None, ..Limits::default() });
    let client = scene.world.host("client");
    let runtime = client.clone();
    let _crowd: Vec<_> = (0..900)
        .map(|_| {
            let runtime = runtime.clone();
            client.run(async move {
                let socket = runtime.connect("server:7").await.unwrap();
                act(runtime, socket, vec![Act::Wait(Duration::from_secs(100))]).await
            })
        })
        .collect();
    scene.world.run_for(Duration::from_secs(1)).unwrap();
    let request = "GET /connections?format=json HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n";
    let acts = vec![Act::Send(request.into()), Act::Wait(Duration::from_secs(30)), Act::ReceiveAll];
    let received = scene.world.run_until(&ask(&client, acts)).unwrap();
    assert_eq!(received.error, Some(ConnectionError::Reset), "a FIN would hide the missing bytes");
    assert_eq!(scene.status.handle().table().totals().ended["write_stalled"], 1);
    scene.end();
}
