//! Upstreams whose names have several addresses, backups, and a proxy that is configured anew.

use std::time::Duration;

use wirestate_core::{
    admission::ConnectionTable,
    proxy::{Balance, Config, EndpointCounters, Proxy, Upstreams},
};
use wirestate_testkit::sim::{Act, Host, World};

use crate::scene::{Scene, peer, seconds};

/// A proxy to port 7 of `upstreams` and, if there is no other, of `backups`.
fn proxying(balance: Balance, upstreams: &[&str], backups: &[&str]) -> Scene {
    let address = |name: &&str| format!("{name}:7");
    let upstreams = Upstreams::new(upstreams.iter().map(address), balance, 1);
    let upstreams = upstreams.with_backups(backups.iter().map(address));
    Scene::proxying(World::new(1), Proxy::new(Config::default(), upstreams).unwrap())
}

/// Whether a client gets its bytes back.
fn is_served(scene: &Scene, client: &Host) -> bool {
    let hello = [Act::Send("hello".into()), Act::Finish, Act::ReceiveAll];
    let received = peer(client, hello.to_vec());
    scene.world.run_until(&received).unwrap().bytes == b"hello"
}

/// How many connections each host has accepted.
fn accepted(scene: &Scene, hosts: &[&Host]) -> Vec<usize> {
    let dialled = scene.dialled();
    let count = |host: &&Host| {
        let address = host.ip();
        dialled.iter().filter(|record| record.remote.ip() == address).count()
    };
    hosts.iter().map(count).collect()
}

/// The number of addresses that are up, and of those that are down.
fn health(scene: &Scene) -> (usize, usize) {
    let counters = scene.counters();
    let endpoints: Vec<&EndpointCounters> =
        counters.iter().flat_map(|upstream| &upstream.endpoints).collect();
    let up = endpoints.iter().filter(|endpoint| endpoint.up).count();
    (up, endpoints.len() - up)
}

#[test]
fn connections_are_balanced_over_all_addresses_of_a_name() {
    let scene = proxying(Balance::RoundRobin, &["cluster", "single"], &[]);
    let hosts = ["a", "b", "single"].map(|name| scene.echo(name));
    scene.world.set_name("cluster", &["a", "b", "a"]);
    let client = scene.world.host("client");
    for _ in 0..9 {
        assert!(is_served(&scene, &client));
    }
    assert_eq!(accepted(&scene, &hosts.each_ref()), [3, 3, 3]);
    let cluster = &scene.counters()[0];
    assert_eq!((cluster.connects, cluster.endpoints.len()), (6, 2));
    scene.end();
}

#[test]
fn an_entry_names_the_upstream_its_address_and_the_connect_time() {
    let scene = proxying(Balance::RoundRobin, &["nowhere", "cluster"], &[]);
    let host = scene.echo("a");
    scene.world.set_name("cluster", &["a"]);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Send("hello".into()), Act::Receive(5)]);
    let began = scene.world.now();
    scene.world.run_until(&received).unwrap();
    let elapsed = scene.world.now().since(began);
    let entry = &scene.table.connections()[0];
    let upstream = entry.upstream().expect("it is connected");
    assert_eq!(&**upstream.endpoint.upstream(), "cluster:7");
    assert_eq!(&**upstream.endpoint.address(), format!("{}:7", host.ip()));
    assert!(upstream.connect_time > Duration::ZERO && upstream.connect_time < elapsed);
    scene.end();
}

/// With the interval, or earlier if an address has failed. Open connections stay.
#[test]
fn a_name_whose_addresses_change_is_looked_up_again() {
    let scene = proxying(Balance::RoundRobin, &["cluster"], &[]);
    let hosts = [scene.echo("a"), scene.world.host("refuses"), scene.echo("c")];
    scene.world.set_name("cluster", &["a"]);
    let client = scene.world.host("client");
    let stays = peer(
        &client,
        vec![
            Act::Send("x".into()),
            Act::Receive(1),
            Act::Wait(seconds(100)),
            Act::Send("y".into()),
            Act::Receive(1),
            Act::Finish,
            Act::ReceiveAll,
        ],
    );
    scene.run_for(seconds(1));
    scene.world.set_name("cluster", &["refuses"]);
    assert!(is_served(&scene, &client));
    assert_eq!(accepted(&scene, &hosts.each_ref()), [2, 0, 0], "the interval is not over");
    scene.run_for(seconds(40));
    // This one begins the lookup, and does not wait for it.
    assert!(is_served(&scene, &client));
    scene.run_for(seconds(1));
    assert_eq!(accepted(&scene, &hosts.each_ref()), [3, 0, 0]);
    let upstream = &scene.counters()[0];
    let refuses = format!("{}:7", hosts[1].ip());
    assert_eq!(*upstream.endpoints[0].address, *refuses, "the interval is over");

    scene.world.set_name("cluster", &["c"]);
    assert!(is_served(&scene, &client), "the address that refuses causes a lookup");
    assert_eq!(accepted(&scene, &hosts.each_ref()), [3, 0, 1]);
    assert_eq!(scene.counters()[0].endpoints.len(), 1);
    let received = scene.world.run_until(&stays).unwrap();
    assert_eq!((&*received.bytes, received.fin), (&b"xy"[..], true));
    scene.end();
}

#[test]
fn a_name_that_disappears_keeps_its_last_addresses() {
    let scene = proxying(Balance::RoundRobin, &["cluster"], &[]);
    let hosts = ["a", "b"].map(|name| scene.echo(name));
    scene.world.set_name("cluster", &["a", "b"]);
    let client = scene.world.host("client");
    assert!(is_served(&scene, &client));
    scene.world.set_name("cluster", &[]);
    for _ in 0..3 {
        scene.run_for(seconds(40));
        assert!(is_served(&scene, &client));
    }
    assert_eq!(accepted(&scene, &hosts.each_ref()), [2, 2]);
    let cluster = &scene.counters()[0];
    assert_eq!((cluster.lookup_failures, cluster.failures, cluster.up), (3, 0, true));
    scene.world.set_name("cluster", &["b"]);
    scene.run_for(seconds(40));
    assert!(is_served(&scene, &client));
    scene.run_for(seconds(1));
    assert_eq!(scene.counters()[0].endpoints.len(), 1);
    scene.end();
}

/// The lookup is for the next connection, and each connection looks up once.
#[test]
fn a_name_that_was_never_found_is_looked_up_by_each_connection() {
    let scene = proxying(Balance::RoundRobin, &["cluster"], &[]);
    scene.echo("a");
    let client = scene.world.host("client");
    for _ in 0..3 {
        assert!(!is_served(&scene, &client));
    }
    let cluster = &scene.counters()[0];
    assert_eq!((cluster.lookup_failures, cluster.failures), (3, 3));
    scene.world.set_name("cluster", &["a"]);
    assert!(is_served(&scene, &client));
    scene.end();
}

#[test]
fn each_address_of_a_name_is_up_or_down_by_itself() {
    let scene = proxying(Balance::RoundRobin, &["cluster"], &[]);
    let hosts = [scene.world.host("refuses"), scene.echo("serves")];
    scene.world.set_name("cluster", &["refuses", "serves"]);
    let client = scene.world.host("client");
    for _ in 0..5 {
        assert!(is_served(&scene, &client));
    }
    assert_eq!(accepted(&scene, &hosts.each_ref())[1], 5);
    assert_eq!(health(&scene), (1, 1));
    let cluster = &scene.counters()[0];
    assert!(cluster.up && cluster.failures >= 1);
    scene.end();
}

#[test]
fn a_backup_is_used_only_while_no_other_upstream_is_available() {
    let scene = proxying(Balance::RoundRobin, &["a", "b"], &["backup"]);
    let hosts = ["a", "b", "backup"].map(|name| scene.echo(name));
    let client = scene.world.host("client");
    for _ in 0..4 {
        assert!(is_served(&scene, &client));
    }
    assert_eq!(accepted(&scene, &hosts.each_ref()), [2, 2, 0]);
    hosts[0].set_unplugged(true);
    assert!(is_served(&scene, &client));
    assert_eq!(accepted(&scene, &hosts.each_ref())[2], 0, "one of the others is available");
    hosts[1].set_unplugged(true);
    assert!(is_served(&scene, &client));
    assert_eq!(accepted(&scene, &hosts.each_ref())[2], 1);
    hosts[0].set_unplugged(false);
    hosts[1].set_unplugged(false);
    scene.run_for(seconds(20));
    for _ in 0..4 {
        assert!(is_served(&scene, &client));
    }
    assert_eq!(accepted(&scene, &hosts.each_ref())[2], 1, "the others are available again");
    assert_eq!(scene.counters().iter().filter(|upstream| upstream.is_backup).count(), 1);
    scene.end();
}

/// The other configuration has another proxy on the same table of connections.
#[test]
fn the_counts_of_open_connections_continue_when_a_proxy_is_configured_anew() {
    let scene = proxying(Balance::LeastConnections, &["cluster"], &[]);
    let (a, b) = (scene.echo("a"), scene.echo("b"));
    scene.world.set_name("cluster", &["a"]);
    let client = scene.world.host("client");
    let stay = || vec![Act::Send("x".into()), Act::Receive(1), Act::Wait(seconds(60))];
    let open: Vec<_> = (0..3).map(|_| peer(&client, stay())).collect();
    scene.run_for(seconds(1));

    let addresses = [&a, &b].map(|host| format!("{}:7", host.ip()));
    let next = || Upstreams::new(["cluster:7"], Balance::LeastConnections, 1);
    let select = |upstreams: &Upstreams, table: Option<&ConnectionTable>| {
        if let Some(table) = table {
            upstreams.continue_from(table);
        }
        let now = scene.world.now();
        let lookup = upstreams.poll_lookup(true, now).unwrap();
        let found = addresses.iter().map(|address| address.parse().unwrap()).collect();
        lookup.finish(Ok(found), None, now);
        let mut selections: Vec<_> = (0..3).map(|_| upstreams.select()).collect();
        let addresses = selections.iter_mut().map(|it| it.next_address(now).unwrap().to_string());
        let addresses: Vec<_> = addresses.collect();
        addresses.iter().filter(|address| **address == addresses[0]).count()
    };
    assert_eq!(select(&next(), None), 2, "without the counts, they take turns");
    let upstreams = next();
    assert_eq!(select(&upstreams, Some(&scene.table)), 3, "`a` has three connections");
    let open_to = || upstreams.counters()[0].open;
    assert_eq!(open_to(), 3);
    for open in &open {
        scene.world.run_until(open).unwrap();
    }
    scene.run_for(seconds(1));
    assert_eq!(open_to(), 0, "the connections have ended");
    scene.end();
}
