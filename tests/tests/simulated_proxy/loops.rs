//! A proxy that is its own upstream, and proxies in a ring.

use std::sync::{Arc, Mutex};

use wirestate_core::{
    admission::Limits,
    proxy::{self, Balance, Config, Proxy, RelayFactory, Upstreams},
    proxy_protocol::{self, Version},
    runtime::Runtime as _,
    serve::{self, ServerHandle},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Heard, World},
};

use crate::scene::{Scene, peer, seconds};

/// A proxy to these addresses, one of which may be its own.
fn proxying(seed: u64, upstreams: &[&str], proxy: impl FnOnce(Proxy) -> Proxy) -> Scene {
    let upstreams = Upstreams::new(upstreams.iter().copied(), Balance::RoundRobin, seed);
    let plain = Proxy::new(RelayFactory::new(Config::default()), upstreams);
    Scene::proxying(World::new(seed), proxy(plain))
}

fn hello() -> Vec<Act> {
    vec![Act::Send("hello".into()), Act::Receive(5), Act::Finish, Act::ReceiveAll]
}

/// The most connections that were open at the same time.
fn watch(scene: &Scene) -> Arc<Mutex<u64>> {
    let (table, most) = (scene.table.clone(), Arc::new(Mutex::new(0)));
    let shared = most.clone();
    scene.world.watch(move |_| {
        let mut most = shared.lock().unwrap();
        *most = (*most).max(table.totals().open);
    });
    most
}

/// Whichever end of a connection to itself is recorded first. With and without headers.
#[test]
fn a_proxy_that_is_its_own_upstream_refuses_itself() {
    let with_headers = |proxy| Proxy {
        accept: Some(proxy_protocol::Config {
            from: vec!["0.0.0.0/0".parse().unwrap()],
            ..proxy_protocol::Config::default()
        }),
        send: Some(Version::V2),
        ..proxy
    };
    for_each_seed(40, |seed| {
        let has_headers = seed % 4 == 0;
        let configure = |proxy| if has_headers { with_headers(proxy) } else { proxy };
        let scene = proxying(seed, &["proxy:9500"], configure);
        if seed % 2 == 0 {
            scene.proxy.set_faults(Faults::harmless(seed));
        }
        let most = watch(&scene);
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
                let heard = scene.world.run_until(&client).unwrap();
                assert!(heard.bytes.is_empty(), "{heard:?}");
            }
            scene.run_for(seconds(10));
        }
        let most = *most.lock().unwrap();
        assert!(most <= 16, "{most} connections for four clients at a time");
        let totals = scene.table.totals();
        assert!(totals.accepted <= 3 * 16, "{totals:?}");
        let [upstream] = &scene.counters()[..] else { panic!("there is one") };
        assert!(!upstream.up && upstream.failures > 0, "{upstream:?}");
        scene.end();
        assert!(scene.ended("no_upstream") + scene.ended("loop") >= 3);
    });
}

#[test]
fn the_other_upstreams_serve_where_one_is_the_proxy_itself() {
    for_each_seed(20, |seed| {
        let scene = proxying(seed, &["proxy:9500", "serves:7"], |proxy| proxy);
        scene.echo("serves");
        let is_answered = |name: &str| {
            let heard = peer(&scene.world.host(name), hello());
            let heard = scene.world.run_until(&heard).unwrap();
            heard == Heard { bytes: b"hello".to_vec(), fin: true, error: None }
        };
        let all = (0..20).filter(|i| is_answered(&format!("client {i}"))).count();
        assert!(all >= 19, "{all} of 20 are served, all but who finds out");
        let [own, serves] = &scene.counters()[..] else { panic!("there are two") };
        assert!(own.failures <= 3 && !own.up && serves.up, "{own:?}");
        scene.end();
    });
}

/// The ring is not detected, and grows up to the limit of one of the proxies. Then all connections
/// end, and another upstream serves new clients.
#[test]
fn a_ring_of_two_ends_at_the_limit_of_connections() {
    for_each_seed(4, |seed| {
        let scene = proxying(seed, &["other:9500"], |proxy| proxy);
        let other = scene.world.host("other");
        let listener = other.listen("other:9500").unwrap();
        let limits = Limits { connections: 50, per_address: None };
        let handle = ServerHandle::new(serve::Config::default().with_limits(limits));
        let back = Upstreams::new(["proxy:9500"], Balance::RoundRobin, seed);
        let (table, shutdown) = (handle.table().clone(), handle.shutdown().clone());
        let (runtime, proxy) =
            (other.clone(), Proxy::new(RelayFactory::new(Config::default()), back));
        other.run(async move {
            proxy::serve(serve::Server::new(runtime, listener).with_handle(&handle), proxy).await
        });
        let client = scene.world.host("client");
        let heard = peer(&client, vec![Act::Send("hello".into()), Act::ReceiveAll]);
        let begun = scene.world.now();
        let heard = scene.world.run_until(&heard).unwrap();
        assert!(heard.bytes.is_empty(), "{heard:?}");
        assert!(scene.world.now().since(begun) < seconds(10));
        scene.run_for(seconds(10));
        assert_eq!((scene.table.totals().open, table.totals().open), (0, 0), "all is over");
        assert!(table.totals().refused["connections"] >= 1);
        shutdown.drain();
        scene.end();
    });
}
