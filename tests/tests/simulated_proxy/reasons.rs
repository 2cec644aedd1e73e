//! Every reason for which a proxied connection can end.

use bytes::Bytes;
use wirestate_core::{
    admission::Limits,
    faults::{Faults, Injector, Plan, Sometimes},
    proxy::{Balance, Config, Proxy, ProxyReason, Upstreams},
    proxy_protocol::{self, HeaderPolicy},
    serve::{self, ServerHandle},
};
use wirestate_testkit::{
    coverage::Coverage,
    sim::{self, Act, World},
};

use crate::scene::{Scene, peer, seconds};

fn hello() -> Vec<Act> {
    vec![Act::Send("hello".into()), Act::Receive(5), Act::Finish, Act::ReceiveAll]
}

/// Plays `acts` of a client, for 700 s, and ends the scene.
fn ends(scene: &Scene, acts: Vec<Act>, label: &str) {
    peer(&scene.world.host("client"), acts);
    scene.run_for(seconds(700));
    scene.end();
    assert_eq!(scene.ended(label), 1, "{label}: {:?}", scene.table.totals().ended);
}

/// A proxy that accepts headers from hosts in this range, with an echo as its upstream.
fn with_headers(range: &str) -> Scene {
    let config = proxy_protocol::Config::default().with_from([range.parse().unwrap()]);
    let config = Config::default().with_accept_proxy(HeaderPolicy::new(config).unwrap());
    let limits = Limits { per_address: Some(0), ..Limits::default() };
    let handle = serve::Config::default().with_limits(limits).with_behind_proxies(true);
    let scene = Scene::with_handle(World::new(1), config, &["echo"], ServerHandle::new(handle));
    scene.echo("echo");
    scene
}

#[test]
fn every_reason_is_reached() {
    let coverage = Coverage::start();
    let echo = || {
        let scene = Scene::new(1, &["echo"]);
        scene.echo("echo");
        scene
    };
    let wait = |time| vec![Act::Send("hello".into()), Act::Wait(seconds(time)), Act::ReceiveAll];
    ends(&echo(), hello(), "finished");
    ends(&echo(), wait(650), "idle_timeout");
    ends(&echo(), vec![Act::Send("hello".into()), Act::Receive(5), Act::Reset], "client_lost");
    ends(&Scene::new(1, &["nowhere"]), hello(), "no_upstream");

    let drained = echo();
    peer(&drained.world.host("client"), vec![Act::Receive(1)]);
    drained.run_for(seconds(1));
    drained.shutdown.drain();
    drained.run_for(seconds(1));
    drained.end();
    assert_eq!(drained.ended("shut_down"), 1);

    let resets = Scene::new(1, &["resets"]);
    resets.upstream("resets", vec![Act::Receive(5), Act::Send("x".into()), Act::Reset]);
    ends(&resets, vec![Act::Send("hello".into()), Act::ReceiveAll], "upstream_lost");

    let hasty = Config::default().with_connect_timeout(seconds(3));
    let silent = Scene::with(World::new(1), hasty, &["silent"]);
    silent.echo("silent").set_unplugged(true);
    ends(&silent, hello(), "connect_timeout");

    // A process that was stopped may see first that the connection to itself was made.
    let loops = (0..20).map(|seed| {
        let upstreams = Upstreams::new(["proxy:9500"], Balance::RoundRobin, 1);
        let own = Proxy::new(Config::default(), upstreams).unwrap();
        let own = Scene::proxying(World::new(seed), own);
        peer(&own.world.host("client"), hello());
        for _ in 0..10 {
            own.proxy.stop_for(seconds(1) / 50);
            own.run_for(seconds(1) / 50);
        }
        own.run_for(seconds(20));
        own.end();
        own.ended("loop")
    });
    assert!(loops.sum::<u64>() > 0);

    let reset = Faults::default().with_reset(Sometimes::always(2..=2));
    let plan = Plan::default().with_to_client(reset);
    let upstreams = Upstreams::new(["echo:7"], Balance::RoundRobin, 1);
    let faulty = Proxy::new(Config::default(), upstreams).unwrap();
    let faulty = faulty.with_faults(Injector::new(plan, 1).unwrap());
    let faulty = Scene::proxying(World::new(1), faulty);
    faulty.echo("echo");
    ends(&faulty, hello(), "injected_reset");

    let named = "PROXY TCP4 192.0.2.7 192.0.2.8 7 8\r\n";
    let send = |text: &'static str| vec![Act::Send(text.into()), Act::ReceiveAll];
    ends(&with_headers("192.0.2.0/24"), send(named), "proxy_header_untrusted");
    ends(&with_headers("10.0.0.0/8"), send("GET / HTTP/1.1\r\n"), "proxy_header_malformed");
    ends(&with_headers("10.0.0.0/8"), send("PROXY"), "proxy_header_late");
    ends(&with_headers("10.0.0.0/8"), send(named), "proxy_header_refused");
    let cut = vec![Act::Send(Bytes::from_static(b"PROXY")), Act::Finish, Act::ReceiveAll];
    ends(&with_headers("10.0.0.0/8"), cut, "proxy_header_truncated");
    let reset = vec![Act::Send("PROXY".into()), Act::Wait(seconds(1)), Act::Reset];
    ends(&with_headers("10.0.0.0/8"), reset, "reset");
    let times_out = with_headers("10.0.0.0/8");
    times_out.proxy.set_faults(sim::Faults { timed_out: 1000, ..sim::Faults::NONE });
    ends(&times_out, send("PROXY"), "timed_out");
    // The other errors of a connection have no fault in the simulator. `tests/proxy_protocol.rs`
    // plays them to the machine that receives the header.
    let unreachable = ["unreachable", "wrote_zero", "layer", "system_error"];
    coverage.demand_reasons_except::<ProxyReason>(unreachable);
}
