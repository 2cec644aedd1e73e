//! PROXY headers, received and sent.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use wirestate_command_line::load::LoadReason;
use wirestate_core::{
    ConnectionError,
    admission::{ConnectionTable, Limits, Peer},
    drive::Ended,
    echo,
    proxy::{self, Balance, Config, MIN_BUFFER, Proxy, Upstreams},
    proxy_protocol::{self, HeaderPolicy, Version, encode},
    runtime::Runtime as _,
    serve::{self, ServerHandle},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Host, Received, Settings, Task, World, act},
};

use crate::scene::{ROUND, Scene, load, patient, peer, seconds, upstream_on};

/// Accepts headers from any host of the world.
fn any_sender() -> HeaderPolicy {
    senders_in("10.0.0.0/8")
}

/// Accepts headers from hosts in this range.
fn senders_in(range: &str) -> HeaderPolicy {
    let config = proxy_protocol::Config::default().with_from([range.parse().unwrap()]);
    HeaderPolicy::new(config).unwrap()
}

/// The handle of a server that accepts headers.
fn accepting_headers(scene: &Scene, limits: Limits) -> ServerHandle {
    let config = serve::Config::default().with_limits(limits).with_behind_proxies(true);
    ServerHandle::new(config).with_shutdown(scene.shutdown.clone())
}

/// An echo server that accepts headers, with its own table.
fn echo_with_headers(scene: &Scene, name: &str, limits: Limits) -> (Host, ConnectionTable) {
    let host = scene.world.host(name);
    let handle = accepting_headers(scene, limits);
    let table = handle.table().clone();
    let listener = host.listen(&format!("{name}:7")).unwrap();
    let runtime = host.clone();
    host.run(async move {
        let echo = echo::Server::default();
        let machine = move |_: &_, now| echo.machine(now);
        let server = serve::Server::new(runtime, listener).with_handle(&handle);
        proxy_protocol::serve(server, any_sender(), machine).await
    });
    (host, table)
}

/// A proxy on `host` that accepts headers, with its own table.
fn proxy_with_headers(scene: &Scene, host: &Host, proxy: Proxy, limits: Limits) -> ConnectionTable {
    let handle = accepting_headers(scene, limits);
    let table = handle.table().clone();
    let listener = host.listen("middle:7").unwrap();
    let runtime = host.clone();
    host.run(async move {
        proxy::serve(serve::Server::new(runtime, listener).with_handle(&handle), proxy).await
    });
    table
}

fn play(client: &Host, to: &'static str, acts: Vec<Act>) -> Task<Received> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect(to).await.unwrap();
        act(runtime, socket, acts).await
    })
}

fn header(client: &str) -> Bytes {
    encode(Version::V1, Peer::Ip(client.parse().unwrap()), None).into()
}

/// The first proxy names the client to a second one, which names it to the server.
#[test]
fn two_proxies_forward_the_clients_address() {
    for_each_seed(8, |seed| {
        for (first, second) in [(Version::V1, Version::V2), (Version::V2, Version::V1)] {
            let world = World::new(seed);
            let upstreams = Upstreams::new(["middle:7"], Balance::RoundRobin, 1);
            let outer = Config::default().with_send_proxy(first);
            let outer = Proxy::new(outer, upstreams).unwrap();
            let scene = Scene::proxying(world, outer);
            scene.proxy.set_faults(Faults::harmless(seed));
            let middle = scene.world.host("middle");
            middle.set_faults(Faults::harmless(seed + 1));
            let inner = Config::default()
                .with_accept_proxy(any_sender())
                .with_send_proxy(second)
                .with_buffer(MIN_BUFFER.try_into().unwrap());
            let upstreams = Upstreams::new(["server:7"], Balance::RoundRobin, 1);
            let inner = Proxy::new(inner, upstreams).unwrap();
            let at_middle = proxy_with_headers(&scene, &middle, inner, Limits::default());
            let (server, at_server) = echo_with_headers(&scene, "server", Limits::default());
            server.set_faults(Faults::harmless(seed + 2));

            let client = scene.world.host("client");
            let talking = load(&client, patient(4));
            while at_server.totals().open == 0
                || at_server.connections()[0].status().state == "proxy_header"
            {
                scene.run_for(seconds(1) / 1000);
            }
            let real = scene.clients()[0].remote;
            for table in [&scene.table, &at_middle, &at_server] {
                assert_eq!(table.connections()[0].peer(), Peer::Ip(real));
            }
            let ended = scene.world.run_until(&talking).unwrap();
            assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 4 * ROUND }));
            // Lets the last FIN pass both proxies.
            scene.run_for(seconds(60));
            scene.end();
            assert_eq!(at_server.totals().ended, [("finished", 1)].into());
        }
    });
}

/// A health check sends at most a header, then closes or resets the connection. Behind some proxies
/// it is the most frequent connection. With one byte more, it is a normal connection.
#[test]
fn a_proxys_health_check_is_no_lost_connection() {
    let scene = Scene::new(4, &["server"]);
    let (_, at_server) = echo_with_headers(&scene, "server", Limits::default());
    let middle = scene.world.host("middle");
    let upstreams = Upstreams::new(["server:7"], Balance::RoundRobin, 1);
    let inner = Config::default().with_accept_proxy(any_sender()).with_send_proxy(Version::V2);
    let inner = Proxy::new(inner, upstreams).unwrap();
    let at_proxy = proxy_with_headers(&scene, &middle, inner, Limits::default());
    let balancer = scene.world.host("balancer");
    let check = |address: &'static str, header: Bytes, payload: &'static str, end: Act| {
        let mut acts = Vec::new();
        for bytes in [header, payload.into()] {
            if !bytes.is_empty() {
                acts.extend([Act::Send(bytes), Act::Wait(seconds(1))]);
            }
        }
        acts.push(end);
        scene.world.run_until(&play(&balancer, address, acts)).unwrap();
        scene.run_for(seconds(1));
    };
    let local = |version| Bytes::from(encode(version, Peer::Local, None));
    for (address, table, lost) in
        [("server:7", &at_server, "reset"), ("middle:7", &at_proxy, "client_lost")]
    {
        let ended = |label| table.totals().ended.get(label).copied().unwrap_or_default();
        let checks = ended("health_check");
        for header in [
            local(Version::V1),
            local(Version::V2),
            // `check send-proxy` of HAProxy names the address of HAProxy.
            header("192.0.2.1:1"),
            Bytes::new(),
        ] {
            check(address, header.clone(), "", Act::Reset);
            check(address, header, "", Act::Finish);
        }
        assert_eq!((ended("health_check"), ended(lost)), (checks + 8, 0));
        check(address, local(Version::V2), "x", Act::Reset);
        check(address, header("192.0.2.1:1"), "x", Act::Reset);
        assert_eq!((ended("health_check"), ended(lost)), (checks + 8, 2));
    }
    scene.end();
}

/// If no upstream is reachable, the upstream has failed. If the upstream sends a byte, the
/// connection is a normal one.
#[test]
fn a_connection_whose_header_names_no_client_is_a_health_check_unless_a_byte_passes() {
    let scene = Scene::new(5, &["server"]);
    let middle = scene.world.host("middle");
    let upstreams = Upstreams::new(["greets:7"], Balance::RoundRobin, 1);
    let inner = Config::default().with_accept_proxy(any_sender());
    let inner = Proxy::new(inner, upstreams.clone()).unwrap();
    let at_proxy = proxy_with_headers(&scene, &middle, inner, Limits::default());
    let balancer = scene.world.host("balancer");
    let check = || {
        let header = encode(Version::V1, Peer::Local, None);
        let acts = vec![Act::Send(header.into()), Act::Wait(seconds(3)), Act::Reset];
        scene.world.run_until(&play(&balancer, "middle:7", acts)).unwrap();
        scene.run_for(seconds(3));
        at_proxy.totals().ended
    };
    let greets = scene.world.host("greets");
    assert_eq!(check(), [("health_check", 1)].into());
    assert_eq!(upstreams.counters()[0].failures, 1);
    upstream_on(&greets, "greets", vec![Act::Send("220 hello".into()), Act::ReceiveAll]);
    assert_eq!(check(), [("client_lost", 1), ("health_check", 1)].into());
    scene.end();
}

/// The proxy's own address is not limited. A refused client counts as refused, and as a connection
/// that was accepted and has ended.
#[test]
fn the_limit_per_address_applies_to_the_address_that_the_header_names() {
    let scene = Scene::new(1, &["server"]);
    let limits = Limits { per_address: Some(2), ..Limits::default() };
    let (_, at_server) = echo_with_headers(&scene, "server", limits);
    let middle = scene.world.host("middle");
    let inner = Config::default().with_accept_proxy(any_sender()).with_send_proxy(Version::V2);
    let upstreams = Upstreams::new(["server:7"], Balance::RoundRobin, 1);
    let inner = Proxy::new(inner, upstreams).unwrap();
    let at_proxy = proxy_with_headers(&scene, &middle, inner, limits);
    let another = scene.world.host("another proxy");
    for (address, table) in [("server:7", &at_server), ("middle:7", &at_proxy)] {
        let stays = |client: &str| {
            let acts = vec![
                Act::Send(header(client)),
                Act::Send("x".into()),
                Act::Receive(1),
                Act::Wait(seconds(3)),
                Act::Finish,
                Act::ReceiveAll,
            ];
            play(&another, address, acts)
        };
        let first = [stays("192.0.2.1:1"), stays("192.0.2.1:2"), stays("192.0.2.2:1")];
        scene.run_for(seconds(1));
        let third = stays("192.0.2.1:3");
        let received = scene.world.run_until(&third).unwrap();
        assert_eq!((received.bytes.len(), received.error), (0, Some(ConnectionError::Reset)));
        let totals = table.totals();
        assert_eq!((totals.accepted, totals.open, totals.refused["per_address"]), (4, 3, 1));
        assert_eq!(totals.ended["proxy_header_refused"], 1);
        scene.run_for(seconds(5));
        assert!(first.iter().all(|task| task.take().unwrap().bytes == b"x"));
        let totals = table.totals();
        assert_eq!((totals.open, totals.ended["finished"], totals.ended.len()), (0, 3, 2));
    }
    scene.end();
    // The client that the proxy has refused did not reach the server.
    assert_eq!(at_server.totals().accepted, 4 + 3);
}

/// The incomplete ones end after 5 s. Meanwhile a client with a complete header is served.
#[test]
fn a_thousand_incomplete_headers_do_not_delay_another_client() {
    let settings = Settings { backlog: 2000, ..Settings::default() };
    let scene = Scene::with(World::with(2, settings), Config::default(), &["server"]);
    let (_, table) = echo_with_headers(&scene, "server", Limits::default());
    let attacker = scene.world.host("attacker");
    let complete = header("192.0.2.1:1");
    let half: Vec<_> = (0..1000)
        .map(|i| {
            let acts = vec![Act::Send(complete.slice(..i % complete.len())), Act::ReceiveAll];
            play(&attacker, "server:7", acts)
        })
        .collect();
    scene.run_for(seconds(1));
    assert_eq!(table.totals().open, 1000);
    let healthy = scene.world.host("healthy");
    let acts = vec![
        Act::Send(header("192.0.2.2:1")),
        Act::Send("hello".into()),
        Act::Receive(5),
        Act::Finish,
        Act::ReceiveAll,
    ];
    let talking = play(&healthy, "server:7", acts);
    scene.run_for(seconds(1));
    assert_eq!(talking.take().unwrap().bytes, b"hello");
    scene.run_for(seconds(5));
    assert_eq!(table.totals().ended["proxy_header_late"], 1000);
    for task in half {
        assert_eq!(task.take().unwrap().error, Some(ConnectionError::Reset));
    }
    scene.end();
}

#[test]
fn a_malformed_header_ends_its_connection_alone() {
    let scene = Scene::new(3, &["server"]);
    let (_, table) = echo_with_headers(&scene, "server", Limits::default());
    let attacker = scene.world.host("attacker");
    let oversized = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 5000]].concat();
    let noise: [Bytes; 4] = [
        "GET / HTTP/1.1\r\n\r\n".into(),
        "PROXY TCP4 256.0.0.1 1.1.1.1 1 1\r\n".into(),
        Bytes::from_static(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"),
        oversized.into(),
    ];
    let good = vec![
        Act::Send(header("192.0.2.1:1")),
        Act::Wait(seconds(2)),
        Act::Send("hello".into()),
        Act::Finish,
        Act::ReceiveAll,
    ];
    let healthy = play(&scene.world.host("healthy"), "server:7", good);
    let reset: Vec<_> = noise
        .into_iter()
        .map(|noise| play(&attacker, "server:7", vec![Act::Send(noise), Act::ReceiveAll]))
        .collect();
    assert_eq!(scene.world.run_until(&healthy).unwrap().bytes, b"hello");
    for task in reset {
        assert_eq!(task.take().unwrap().error, Some(ConnectionError::Reset));
    }
    assert_eq!(table.totals().ended["proxy_header_malformed"], 4);
    scene.end();
}

/// The header at the beginning of each connection to an upstream shows whose bytes follow.
#[test]
fn under_harmful_faults_at_most_one_upstream_gets_the_clients_bytes() {
    let replaced = AtomicUsize::new(0);
    for_each_seed(40, |seed| {
        let upstreams = Upstreams::new(["faulty:7", "sound:7"], Balance::RoundRobin, 1);
        let config = Config::default().with_send_proxy(Version::V1);
        let proxy = Proxy::new(config, upstreams).unwrap();
        let scene = Scene::proxying(World::new(seed), proxy);
        let (faulty, _) = echo_with_headers(&scene, "faulty", Limits::default());
        faulty.set_faults(Faults::harmful(seed));
        echo_with_headers(&scene, "sound", Limits::default());
        let client = scene.world.host("client");
        let clients: Vec<_> = (0..10)
            .map(|i| {
                let wait = Act::Wait(seconds(i) / 5);
                peer(&client, vec![wait, Act::Send("hello".into()), Act::Finish, Act::ReceiveAll])
            })
            .collect();
        // A host that is unplugged sends neither FIN nor RST, so the idle timeout has to end it.
        scene.run_for(seconds(660));
        assert!(clients.iter().all(|client| client.take().is_some()), "a client still waits");
        let mut received: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for record in scene.dialled() {
            let mut sent = record.sent.split_inclusive(|byte| *byte == b'\n');
            let header = sent.next().unwrap_or_default();
            if header.ends_with(b"\n") {
                received
                    .entry(header.to_vec())
                    .or_default()
                    .push(sent.collect::<Vec<_>>().concat());
            }
        }
        for (header, bytes) in received {
            assert!(header.starts_with(b"PROXY TCP4 10."), "bytes precede the header");
            assert!(bytes.len() <= 2, "an upstream was tried twice");
            assert!(
                bytes.iter().filter(|bytes| !bytes.is_empty()).count() <= 1,
                "a byte was sent to two upstreams"
            );
            replaced.fetch_add(bytes.len() - 1, Relaxed);
        }
        scene.end();
    });
    assert!(replaced.into_inner() > 0, "no upstream was replaced");
}

#[test]
fn a_proxy_dials_no_upstream_before_the_header_is_complete() {
    for_each_seed(4, |seed| {
        let upstreams = Upstreams::new(["upstream:7"], Balance::RoundRobin, 1);
        let config = Config::default().with_accept_proxy(senders_in("10.0.0.3/32"));
        let proxy = Proxy::new(config, upstreams).unwrap();
        let scene = Scene::proxying(World::new(seed), proxy);
        scene.echo("upstream"); // 10.0.0.2
        let trusted = scene.world.host("trusted"); // 10.0.0.3
        let untrusted = scene.world.host("untrusted");
        let hello = || {
            let bytes = [&header("192.0.2.1:1")[..], b"hello"].concat();
            vec![Act::Send(bytes.into()), Act::Finish, Act::ReceiveAll]
        };
        let (refused, late) = (peer(&untrusted, hello()), peer(&trusted, vec![Act::ReceiveAll]));
        scene.run_for(seconds(6));
        assert_eq!(refused.take().unwrap().error, Some(ConnectionError::Reset));
        assert_eq!(late.take().unwrap().error, Some(ConnectionError::Reset));
        assert_eq!(
            (scene.ended("proxy_header_untrusted"), scene.ended("proxy_header_late")),
            (1, 1)
        );
        assert_eq!(scene.dialled().len(), 0);
        let received = peer(&trusted, hello());
        assert_eq!(scene.world.run_until(&received).unwrap().bytes, b"hello");
        scene.end();
        assert_eq!(scene.ended("finished"), 1);
    });
}
