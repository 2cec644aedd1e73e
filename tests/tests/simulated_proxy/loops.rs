//! A proxy that is its own upstream, directly or through another proxy.

use std::sync::{Arc, Mutex};

use wirestate_core::{
    admission::Limits,
    proxy::{self, Balance, Config, Proxy, Upstreams},
    proxy_protocol::{self, HeaderPolicy, Version},
    runtime::Runtime as _,
    serve::{self, ServerHandle},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Received, World},
};

use crate::scene::{Scene, peer, seconds};

/// A proxy to these addresses. One of them may be its own address.
fn proxying(seed: u64, upstreams: &[&str], config: Config) -> Scene {
    let upstreams = Upstreams::new(upstreams.iter().copied(), Balance::RoundRobin, seed);
    Scene::proxying(World::new(seed), Proxy::new(config, upstreams).unwrap())
}

fn hello() -> Vec<Act> {
    vec![Act::Send("hello".into()), Act::Receive(5), Act::Finish, Act::ReceiveAll]
}

/// Tracks the maximum number of open connections.
fn track_max_open(scene: &Scene) -> Arc<Mutex<u64>> {
    let (table, max) = (scene.table.clone(), Arc::new(Mutex::new(0)));
    let shared = max.clone();
    scene.world.watch(move |_| {
        let mut max = shared.lock().unwrap();
        *max = (*max).max(table.totals().open);
    });
    max
}

/// The seed decides which end of a connection is recorded first, and whether there are headers.
#[test]
fn a_proxy_that_is_its_own_upstream_detects_it() {
    let from_anywhere = proxy_protocol::Config::default().with_from(["0.0.0.0/0".parse().unwrap()]);
    let policy = HeaderPolicy::new(from_anywhere).unwrap();
    let with_headers = Config::default().with_accept_proxy(policy).with_send_proxy(Version::V2);
    for_each_seed(40, |seed| {
        let has_headers = seed % 4 == 0;
        let config = if has_headers { with_headers.clone() } else { Config::default() };
        let scene = proxying(seed, &["proxy:9500"], config);
        if seed % 2 == 0 {
            scene.proxy.set_faults(Faults::harmless(seed));
        }
        let max = track_max_open(&scene);
        for round in 0..3 {
            let clients: Vec<_> = (0..4)
                .map(|i| {
                    let client = scene.world.host(&format!("client {round} {i}"));
                    let header = Act::Send("PROXY TCP4 192.0.2.7 192.0.2.8 7 8\r\n".into());
                    let acts = if has_headers { vec![header] } else { Vec::new() };
                    peer(&client, [acts, hello()].concat())
                })
                .collect();
            for client in clients {
                let received = scene.world.run_until(&client).unwrap();
                assert!(received.bytes.is_empty(), "{received:?}");
            }
            scene.run_for(seconds(10));
        }
        let max = *max.lock().unwrap();
        // Each further connection of a chain had a shorter latency than the one before.
        assert!(max <= 32, "{max} connections for four clients at a time");
        let totals = scene.table.totals();
        assert!(totals.accepted <= 3 * 32, "{totals:?}");
        let [upstream] = &scene.counters()[..] else { panic!("there is one") };
        assert!(!upstream.up && upstream.failures > 0, "{upstream:?}");
        scene.end();
        assert!(scene.ended("no_upstream") + scene.ended("loop") >= 3);
    });
}

#[test]
fn the_other_upstreams_serve_if_one_is_the_proxy_itself() {
    for_each_seed(20, |seed| {
        let scene = proxying(seed, &["proxy:9500", "serves:7"], Config::default());
        scene.echo("serves");
        let is_served = |name: &str| {
            let received = peer(&scene.world.host(name), hello());
            let received = scene.world.run_until(&received).unwrap();
            received == Received { bytes: b"hello".to_vec(), fin: true, error: None }
        };
        let count = (0..20).filter(|i| is_served(&format!("client {i}"))).count();
        assert!(count >= 19, "{count} of 20 are served, although only the first may find the loop");
        let [own, serves] = &scene.counters()[..] else { panic!("there are two") };
        assert!(own.failures <= 3 && !own.up && serves.up, "{own:?}");
        scene.end();
    });
}

/// The ring is not detected. It ends at the limit of one proxy; then all connections end.
#[test]
fn a_ring_of_two_proxies_ends_at_the_limit_of_connections() {
    for_each_seed(4, |seed| {
        let scene = proxying(seed, &["other:9500"], Config::default());
        let other = scene.world.host("other");
        let listener = other.listen("other:9500").unwrap();
        let limits = Limits { connections: 50, per_address: None };
        let handle = ServerHandle::new(serve::Config::default().with_limits(limits));
        let back = Upstreams::new(["proxy:9500"], Balance::RoundRobin, seed);
        let (table, shutdown) = (handle.table().clone(), handle.shutdown().clone());
        let (runtime, proxy) = (other.clone(), Proxy::new(Config::default(), back).unwrap());
        other.run(async move {
            proxy::serve(serve::Server::new(runtime, listener).with_handle(&handle), proxy).await
        });
        let client = scene.world.host("client");
        let received = peer(&client, vec![Act::Send("hello".into()), Act::ReceiveAll]);
        let start = scene.world.now();
        let received = scene.world.run_until(&received).unwrap();
        assert!(received.bytes.is_empty(), "{received:?}");
        assert!(scene.world.now().since(start) < seconds(10));
        scene.run_for(seconds(10));
        assert_eq!(
            (scene.table.totals().open, table.totals().open),
            (0, 0),
            "all connections have ended"
        );
        assert!(table.totals().refused["connections"] >= 1);
        shutdown.drain();
        scene.end();
    });
}
