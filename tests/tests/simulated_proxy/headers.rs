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
    proxy::{self, Balance, Config, MIN_BUFFER, Proxy, RelayFactory, Upstreams},
    proxy_protocol::{self, Version, announce},
    runtime::Runtime as _,
    serve::{self, ServerHandle},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Heard, Host, Settings, Task, World, act},
};

use crate::scene::{ROUND, Scene, load, patient, peer, seconds, upstream_on};

/// Accepts headers from any host of the world.
fn from_all() -> proxy_protocol::Config {
    proxy_protocol::Config { from: vec!["10.0.0.0/8".parse().unwrap()], ..Default::default() }
}

/// A handle on a server that accepts headers.
fn behind(scene: &Scene, limits: Limits) -> ServerHandle {
    let config = serve::Config::default().with_limits(limits).with_behind_proxies(true);
    ServerHandle::new(config).with_shutdown(scene.shutdown.clone())
}

/// An echo server that accepts headers, with its own table.
fn echo_behind(scene: &Scene, name: &str, limits: Limits) -> (Host, ConnectionTable) {
    let host = scene.world.host(name);
    let handle = behind(scene, limits);
    let table = handle.table().clone();
    let listener = host.listen(&format!("{name}:7")).unwrap();
    let runtime = host.clone();
    host.run(async move {
        let echo = echo::Server::default();
        let machine = move |_: &_, now| echo.machine(now);
        let server = serve::Server::new(runtime, listener).with_handle(&handle);
        proxy_protocol::serve(server, from_all(), machine).await
    });
    (host, table)
}

/// A proxy on that host, with its own table.
fn proxy_behind(scene: &Scene, host: &Host, proxy: Proxy, limits: Limits) -> ConnectionTable {
    let handle = behind(scene, limits);
    let table = handle.table().clone();
    let listener = host.listen("middle:7").unwrap();
    let runtime = host.clone();
    host.run(async move {
        proxy::serve(serve::Server::new(runtime, listener).with_handle(&handle), proxy).await
    });
    table
}

fn says(client: &Host, to: &'static str, acts: Vec<Act>) -> Task<Heard> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect(to).await.unwrap();
        act(runtime, socket, acts).await
    })
}

fn announces(client: &str) -> Bytes {
    announce(Version::V1, Peer::Ip(client.parse().unwrap()), None).into()
}

/// A client, a proxy that sends a header, a second proxy that trusts it and forwards it, and a
/// server that sees the client's address.
#[test]
fn a_client_is_known_through_two_proxies() {
    for_each_seed(8, |seed| {
        for (first, second) in [(Version::V1, Version::V2), (Version::V2, Version::V1)] {
            let world = World::new(seed);
            let upstreams = Upstreams::new(["middle:7"], Balance::RoundRobin, 1);
            let outer = Proxy {
                send: Some(first),
                ..Proxy::new(RelayFactory::new(Config::default()), upstreams)
            };
            let scene = Scene::proxying(world, outer);
            scene.proxy.set_faults(Faults::harmless(seed));
            let middle = scene.world.host("middle");
            middle.set_faults(Faults::harmless(seed + 1));
            let inner = Proxy {
                accept: Some(from_all()),
                send: Some(second),
                ..Proxy::new(
                    RelayFactory::new(Config {
                        buffer: MIN_BUFFER.try_into().unwrap(),
                        ..Config::default()
                    }),
                    Upstreams::new(["server:7"], Balance::RoundRobin, 1),
                )
            };
            let between = proxy_behind(&scene, &middle, inner, Limits::default());
            let (server, behind) = echo_behind(&scene, "server", Limits::default());
            server.set_faults(Faults::harmless(seed + 2));

            let client = scene.world.host("client");
            let talk = load(&client, patient(4));
            while behind.totals().open == 0
                || behind.connections()[0].status().state == "proxy_header"
            {
                scene.run_for(seconds(1) / 1000);
            }
            let real = scene.clients()[0].remote;
            for table in [&scene.table, &between, &behind] {
                assert_eq!(table.connections()[0].peer(), Peer::Ip(real));
            }
            let ended = scene.world.run_until(&talk).unwrap();
            assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 4 * ROUND }));
            // The last FIN passes both proxies.
            scene.run_for(seconds(60));
            scene.end();
            assert_eq!(behind.totals().ended, [("finished", 1)].into());
        }
    });
}

/// A client that sends nothing after its header, if any, and closes is a health check, not a fault.
/// With one byte it is a normal connection.
#[test]
fn a_proxys_look_at_the_server_is_no_lost_connection() {
    let scene = Scene::new(4, &["server"]);
    let (_, at_server) = echo_behind(&scene, "server", Limits::default());
    let middle = scene.world.host("middle");
    let upstreams = Upstreams::new(["server:7"], Balance::RoundRobin, 1);
    let inner = Proxy {
        accept: Some(from_all()),
        send: Some(Version::V2),
        ..Proxy::new(RelayFactory::new(Config::default()), upstreams)
    };
    let at_proxy = proxy_behind(&scene, &middle, inner, Limits::default());
    let balancer = scene.world.host("balancer");
    let looks = |address: &'static str, header: Bytes, payload: &'static str, end: Act| {
        let mut acts = Vec::new();
        for bytes in [header, payload.into()] {
            if !bytes.is_empty() {
                acts.extend([Act::Send(bytes), Act::Wait(seconds(1))]);
            }
        }
        acts.push(end);
        scene.world.run_until(&says(&balancer, address, acts)).unwrap();
        scene.run_for(seconds(1));
    };
    let local = |version| Bytes::from(announce(version, Peer::Local, None));
    for (address, table, lost) in
        [("server:7", &at_server, "reset"), ("middle:7", &at_proxy, "client_lost")]
    {
        let ended = |label| table.totals().ended.get(label).copied().unwrap_or_default();
        let checks = ended("health_check");
        for header in [
            local(Version::V1),
            local(Version::V2),
            // HAProxy's `check send-proxy` sends a header with its own address.
            announces("192.0.2.1:1"),
            Bytes::new(),
        ] {
            looks(address, header.clone(), "", Act::Reset);
            looks(address, header, "", Act::Finish);
        }
        assert_eq!((ended("health_check"), ended(lost)), (checks + 8, 0));
        looks(address, local(Version::V2), "x", Act::Reset);
        looks(address, announces("192.0.2.1:1"), "x", Act::Reset);
        assert_eq!((ended("health_check"), ended(lost)), (checks + 8, 2));
    }
    scene.end();
}

/// A health check may find no upstream, which is logged of the upstream. A connection that was sent
/// bytes is no health check, even if it has no address and sends nothing.
#[test]
fn who_is_announced_as_nobody_is_a_check_only_while_no_byte_passes() {
    let scene = Scene::new(5, &["server"]);
    let middle = scene.world.host("middle");
    let behind = Upstreams::new(["greets:7"], Balance::RoundRobin, 1);
    let inner = Proxy {
        accept: Some(from_all()),
        ..Proxy::new(RelayFactory::new(Config::default()), behind.clone())
    };
    let at_proxy = proxy_behind(&scene, &middle, inner, Limits::default());
    let balancer = scene.world.host("balancer");
    let look = || {
        let header = announce(Version::V1, Peer::Local, None);
        let acts = vec![Act::Send(header.into()), Act::Wait(seconds(3)), Act::Reset];
        scene.world.run_until(&says(&balancer, "middle:7", acts)).unwrap();
        scene.run_for(seconds(3));
        at_proxy.totals().ended
    };
    let greets = scene.world.host("greets");
    assert_eq!(look(), [("health_check", 1)].into());
    assert_eq!(behind.counters()[0].failures, 1);
    upstream_on(&greets, "greets", vec![Act::Send("220 hello".into()), Act::ReceiveAll]);
    assert_eq!(look(), [("client_lost", 1), ("health_check", 1)].into());
    scene.end();
}

/// The limit applies to the address in the header, not to that of the proxy. A connection that
/// exceeds it is counted as refused, accepted and ended.
#[test]
fn the_limit_for_one_address_is_the_announced_ones() {
    let scene = Scene::new(1, &["server"]);
    let limits = Limits { per_address: Some(2), ..Limits::default() };
    let (_, at_server) = echo_behind(&scene, "server", limits);
    let middle = scene.world.host("middle");
    let inner = Proxy {
        accept: Some(from_all()),
        send: Some(Version::V2),
        ..Proxy::new(
            RelayFactory::new(Config::default()),
            Upstreams::new(["server:7"], Balance::RoundRobin, 1),
        )
    };
    let at_proxy = proxy_behind(&scene, &middle, inner, limits);
    let another = scene.world.host("another proxy");
    for (address, table) in [("server:7", &at_server), ("middle:7", &at_proxy)] {
        let stays = |client: &str| {
            let acts = vec![
                Act::Send(announces(client)),
                Act::Send("x".into()),
                Act::Receive(1),
                Act::Wait(seconds(3)),
                Act::Finish,
                Act::ReceiveAll,
            ];
            says(&another, address, acts)
        };
        let first = [stays("192.0.2.1:1"), stays("192.0.2.1:2"), stays("192.0.2.2:1")];
        scene.run_for(seconds(1));
        let third = stays("192.0.2.1:3");
        let heard = scene.world.run_until(&third).unwrap();
        assert_eq!((heard.bytes.len(), heard.error), (0, Some(ConnectionError::Reset)));
        let totals = table.totals();
        assert_eq!((totals.accepted, totals.open, totals.refused["per_address"]), (4, 3, 1));
        assert_eq!(totals.ended["announced_refused"], 1);
        scene.run_for(seconds(5));
        assert!(first.iter().all(|task| task.take().unwrap().bytes == b"x"));
        let totals = table.totals();
        assert_eq!((totals.open, totals.ended["finished"], totals.ended.len()), (0, 3, 2));
    }
    scene.end();
    // The server has seen the proxy's clients, but not those that the proxy has refused.
    assert_eq!(at_server.totals().accepted, 4 + 3);
}

/// A thousand connections with half a header each end after five seconds. Clients with a whole
/// header are served at the same time.
#[test]
fn a_thousand_half_sent_headers_hold_nobody_up() {
    let settings = Settings { backlog: 2000, ..Settings::default() };
    let scene = Scene::with(World::with(2, settings), Config::default(), &["server"]);
    let (_, table) = echo_behind(&scene, "server", Limits::default());
    let rude = scene.world.host("rude");
    let whole = announces("192.0.2.1:1");
    let half: Vec<_> = (0..1000)
        .map(|i| {
            let acts = vec![Act::Send(whole.slice(..i % whole.len())), Act::ReceiveAll];
            says(&rude, "server:7", acts)
        })
        .collect();
    scene.run_for(seconds(1));
    assert_eq!(table.totals().open, 1000);
    let healthy = scene.world.host("healthy");
    let acts = vec![
        Act::Send(announces("192.0.2.2:1")),
        Act::Send("hello".into()),
        Act::Receive(5),
        Act::Finish,
        Act::ReceiveAll,
    ];
    let talk = says(&healthy, "server:7", acts);
    scene.run_for(seconds(1));
    assert_eq!(talk.take().unwrap().bytes, b"hello");
    scene.run_for(seconds(5));
    assert_eq!(table.totals().ended["proxy_header_late"], 1000);
    for task in half {
        assert_eq!(task.take().unwrap().error, Some(ConnectionError::Reset));
    }
    scene.end();
}

#[test]
fn what_is_no_header_ends_that_connection_alone() {
    let scene = Scene::new(3, &["server"]);
    let (_, table) = echo_behind(&scene, "server", Limits::default());
    let rude = scene.world.host("rude");
    let oversized = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 5000]].concat();
    let noise: [Bytes; 4] = [
        "GET / HTTP/1.1\r\n\r\n".into(),
        "PROXY TCP4 256.0.0.1 1.1.1.1 1 1\r\n".into(),
        Bytes::from_static(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"),
        oversized.into(),
    ];
    let good = vec![
        Act::Send(announces("192.0.2.1:1")),
        Act::Wait(seconds(2)),
        Act::Send("hello".into()),
        Act::Finish,
        Act::ReceiveAll,
    ];
    let healthy = says(&scene.world.host("healthy"), "server:7", good);
    let told: Vec<_> = noise
        .into_iter()
        .map(|noise| says(&rude, "server:7", vec![Act::Send(noise), Act::ReceiveAll]))
        .collect();
    assert_eq!(scene.world.run_until(&healthy).unwrap().bytes, b"hello");
    for task in told {
        assert_eq!(task.take().unwrap().error, Some(ConnectionError::Reset));
    }
    assert_eq!(table.totals().ended["proxy_header_malformed"], 4);
    scene.end();
}

/// Each connection to an upstream begins with the client's name, which identifies its bytes.
#[test]
fn whatever_breaks_each_upstream_hears_the_header_and_one_at_most_the_client() {
    let replaced = AtomicUsize::new(0);
    for_each_seed(40, |seed| {
        let upstreams = Upstreams::new(["faulty:7", "sound:7"], Balance::RoundRobin, 1);
        let proxy = Proxy {
            send: Some(Version::V1),
            ..Proxy::new(RelayFactory::new(Config::default()), upstreams)
        };
        let scene = Scene::proxying(World::new(seed), proxy);
        let (faulty, _) = echo_behind(&scene, "faulty", Limits::default());
        faulty.set_faults(Faults::harmful(seed));
        echo_behind(&scene, "sound", Limits::default());
        let client = scene.world.host("client");
        let clients: Vec<_> = (0..10)
            .map(|i| {
                let wait = Act::Wait(seconds(i) / 5);
                peer(&client, vec![wait, Act::Send("hello".into()), Act::Finish, Act::ReceiveAll])
            })
            .collect();
        // A server may have failed silently: the idle timeout ends that.
        scene.run_for(seconds(660));
        assert!(clients.iter().all(|client| client.take().is_some()), "all attempts are bounded");
        let mut heard: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for record in scene.dialled() {
            let mut sent = record.sent.split_inclusive(|byte| *byte == b'\n');
            let header = sent.next().unwrap_or_default();
            if header.ends_with(b"\n") {
                heard.entry(header.to_vec()).or_default().push(sent.collect::<Vec<_>>().concat());
            }
        }
        for (header, bytes) in heard {
            assert!(header.starts_with(b"PROXY TCP4 10."), "it comes first");
            assert!(bytes.len() <= 2, "each upstream is tried once");
            assert!(
                bytes.iter().filter(|bytes| !bytes.is_empty()).count() <= 1,
                "a byte was repeated"
            );
            replaced.fetch_add(bytes.len() - 1, Relaxed);
        }
        scene.end();
    });
    assert!(replaced.into_inner() > 0, "that happened at all");
}

/// A connection without a header dials no upstream.
#[test]
fn a_proxy_dials_only_for_a_client_that_is_known() {
    for_each_seed(4, |seed| {
        let upstreams = Upstreams::new(["upstream:7"], Balance::RoundRobin, 1);
        let proxy = Proxy {
            accept: Some(proxy_protocol::Config {
                from: vec!["10.0.0.3".parse::<std::net::IpAddr>().unwrap().into()],
                ..Default::default()
            }),
            ..Proxy::new(RelayFactory::new(Config::default()), upstreams)
        };
        let scene = Scene::proxying(World::new(seed), proxy);
        scene.echo("upstream"); // 10.0.0.2
        let trusted = scene.world.host("trusted"); // 10.0.0.3
        let stranger = scene.world.host("stranger");
        let hello = || {
            let bytes = [&announces("192.0.2.1:1")[..], b"hello"].concat();
            vec![Act::Send(bytes.into()), Act::Finish, Act::ReceiveAll]
        };
        let (lost, late) = (peer(&stranger, hello()), peer(&trusted, vec![Act::ReceiveAll]));
        scene.run_for(seconds(6));
        assert_eq!(lost.take().unwrap().error, Some(ConnectionError::Reset));
        assert_eq!(late.take().unwrap().error, Some(ConnectionError::Reset));
        assert_eq!(
            (scene.ended("proxy_header_untrusted"), scene.ended("proxy_header_late")),
            (1, 1)
        );
        assert_eq!(scene.dialled().len(), 0);
        let heard = peer(&trusted, hello());
        assert_eq!(scene.world.run_until(&heard).unwrap().bytes, b"hello");
        scene.end();
        assert_eq!(scene.ended("finished"), 1);
    });
}
