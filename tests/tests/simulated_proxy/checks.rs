//! Active health checks of upstreams, in virtual time.

use std::{num::NonZeroU32, time::Duration};

use bytes::Bytes;
use wirestate_core::{
    dial::CheckConfig,
    proxy::{Balance, Config, Proxy, Upstreams},
    proxy_protocol::Version,
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, World},
};

use crate::scene::{Scene, peer, seconds, upstream_on};

/// A proxy to port 7 of `upstreams` with this check.
fn checking(seed: u64, upstreams: &[&str], check: CheckConfig) -> Scene {
    let config = Config::default().with_check(check);
    Scene::with(World::new(seed), config, upstreams)
}

/// A check every 5 s, which fails after 2 s. Two that fail mark an upstream as down, and three that
/// pass as up.
fn check() -> CheckConfig {
    CheckConfig::default().with_fall(number(2)).with_rise(number(3))
}

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn up(scene: &Scene) -> Vec<bool> {
    scene.counters().iter().map(|upstream| upstream.up).collect()
}

fn failures(scene: &Scene) -> u64 {
    scene.counters().iter().map(|upstream| upstream.check_failures).sum()
}

#[test]
fn an_upstream_goes_down_and_up_without_a_client() {
    let scene = checking(1, &["a"], check());
    let a = scene.echo("a");
    scene.run_for(seconds(11));
    assert_eq!((up(&scene), failures(&scene)), (vec![true], 0));
    assert_eq!(scene.dialled().len(), 3);
    assert!(scene.dialled().iter().all(|record| record.sent.is_empty() && record.closed));
    // The next check is at 15 s, and fails at 17 s, and the one after it at 24 s.
    a.set_unplugged(true);
    scene.run_for(seconds(12));
    assert_eq!((up(&scene), failures(&scene)), (vec![true], 1));
    scene.run_for(seconds(2));
    assert_eq!((up(&scene), failures(&scene)), (vec![false], 2));
    a.set_unplugged(false);
    scene.run_for(seconds(10));
    assert_eq!(up(&scene), [false], "two checks have passed");
    scene.run_for(seconds(6));
    assert_eq!((up(&scene), failures(&scene)), (vec![true], 2));
    let counters = &scene.counters()[0];
    assert_eq!((counters.connects, counters.failures), (0, 0), "checks are no connections");
    scene.end();
}

/// No client has to try it again.
#[test]
fn an_upstream_that_a_client_has_found_down_is_up_after_checks_that_pass() {
    let scene = checking(8, &["a"], check());
    let a = scene.echo("a");
    scene.run_for(seconds(1));
    a.set_unplugged(true);
    let client = scene.world.host("client");
    let refused = peer(&client, vec![Act::Send("x".into()), Act::ReceiveAll]);
    assert_eq!(scene.world.run_until(&refused).unwrap().bytes, b"");
    scene.run_for(seconds(14));
    assert_eq!((up(&scene), scene.counters()[0].failures), (vec![false], 1));
    a.set_unplugged(false);
    scene.run_for(seconds(21));
    assert_eq!(up(&scene), [true]);
    scene.end();
}

/// It accepts connections, so only the text shows that it does not serve.
#[test]
fn clients_are_sent_to_upstreams_that_answer_as_expected() {
    for_each_seed(8, |seed| {
        let check = check().with_send("PING\r\n").with_expect("PING");
        let scene = checking(seed, &["wrong", "echoes"], check.with_fall(number(1)));
        // A check is answered within its timeout.
        let delay = Duration::ZERO..=Duration::from_millis(20);
        scene.proxy.set_faults(Faults { delay, ..Faults::harmless(seed) });
        let wrong = scene.world.host("wrong");
        upstream_on(&wrong, "wrong", vec![Act::Send("-ERR".into()), Act::ReceiveAll]);
        scene.echo("echoes");
        scene.run_for(seconds(4));
        assert_eq!(up(&scene), [false, true]);
        let client = scene.world.host("client");
        for _ in 0..4 {
            let hello = [Act::Send("hello".into()), Act::Finish, Act::ReceiveAll];
            let received = peer(&client, hello.to_vec());
            assert_eq!(scene.world.run_until(&received).unwrap().bytes, b"hello");
        }
        assert_eq!(scene.counters()[1].connects, 4);
        scene.end();
    });
}

/// It accepts connections, and sends nothing.
#[test]
fn a_check_that_is_never_answered_fails_at_its_timeout_and_delays_no_other() {
    let check = check().with_expect("+OK").with_timeout(Duration::from_millis(1500));
    let scene = checking(3, &["mute", "greets"], check.with_fall(number(1)));
    scene.upstream("mute", vec![Act::ReceiveAll]);
    let greets = scene.world.host("greets");
    upstream_on(&greets, "greets", vec![Act::Send("+OK ready".into()), Act::ReceiveAll]);
    scene.run_for(Duration::from_millis(1400));
    assert_eq!((up(&scene), failures(&scene)), (vec![true, true], 0));
    assert!(scene.dialled().iter().any(|record| record.received == b"+OK ready"), "one has passed");
    scene.run_for(Duration::from_millis(200));
    assert_eq!((up(&scene), failures(&scene)), (vec![false, true], 1));
    scene.end();
}

#[test]
fn a_check_begins_with_the_proxy_header_that_names_no_client() {
    for (version, header) in
        [(Version::V1, &b"PROXY UNKNOWN\r\n"[..]), (Version::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")]
    {
        let config = Config::default().with_send_proxy(version);
        let scene = Scene::with(World::new(4), config.with_check(check().with_send("x")), &["a"]);
        let received = scene.upstream("a", vec![Act::ReceiveAll]);
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!((received.bytes, received.fin), ([header, b"x"].concat(), true));
        scene.end();
    }
}

/// The addresses of a name are checked each, also those that come later.
#[test]
fn each_address_of_a_name_is_checked() {
    let config = Config::default().with_check(check().with_fall(number(1)));
    let config = config.with_resolve_interval(seconds(20));
    let upstreams = Upstreams::new(["cluster:7"], Balance::RoundRobin, 1);
    let upstreams = upstreams.with_backups(["backup:7"]);
    let scene = Scene::proxying(World::new(5), Proxy::new(config, upstreams).unwrap());
    scene.echo("a");
    scene.echo("backup");
    scene.world.host("refuses");
    scene.world.set_name("cluster", &["a", "refuses"]);
    let of_cluster = || scene.counters().swap_remove(0);
    scene.run_for(seconds(1));
    let up = |it: &wirestate_core::proxy::EndpointCounters| it.up;
    assert_eq!(of_cluster().endpoints.iter().map(up).collect::<Vec<_>>(), [true, false]);
    scene.world.set_name("cluster", &["refuses"]);
    scene.run_for(seconds(21));
    assert_eq!(of_cluster().endpoints.iter().map(up).collect::<Vec<_>>(), [false]);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Send("x".into()), Act::Receive(1), Act::Finish]);
    assert_eq!(scene.world.run_until(&received).unwrap().bytes, b"x");
    assert_eq!(scene.counters()[1].connects, 1, "the backup serves");
    scene.end();
}

/// With checks, a name that cannot be looked up is a failure that no client has to find.
#[test]
fn a_name_that_is_not_found_is_down_until_it_is() {
    let scene = checking(7, &["later"], check());
    scene.run_for(seconds(3));
    assert_eq!((up(&scene), failures(&scene)), (vec![false], 0), "a lookup is no check");
    assert!(scene.counters()[0].lookup_failures >= 2);
    scene.echo("a");
    scene.world.set_name("later", &["a"]);
    scene.run_for(seconds(3));
    assert_eq!(up(&scene), [true]);
    scene.end();
}

#[test]
fn if_all_checks_fail_the_upstreams_are_tried_all_the_same() {
    let check = check().with_expect(Bytes::from_static(b"never")).with_fall(number(1));
    let scene = checking(6, &["a"], check);
    scene.echo("a");
    scene.run_for(seconds(10));
    assert_eq!(up(&scene), [false]);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Send("x".into()), Act::Receive(1), Act::Finish]);
    assert_eq!(scene.world.run_until(&received).unwrap().bytes, b"x");
    scene.end();
}
