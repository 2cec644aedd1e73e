//! Limits of new connections and bytes in a second.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use wirestate_command_line::load::LoadReason;
use wirestate_core::{
    Instant,
    admission::{ByteRates, OnExcess, Rates},
    drive::Ended,
    echo::Config,
    serve::{self, ServerHandle},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Host, Received, Settings, Task, World},
};

use crate::scene::{Scene, load, messages, patient, peer, seconds};

fn rate(rate: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(rate)
}

fn scene(seed: u64, config: Config, rates: Rates) -> Scene {
    let handle = ServerHandle::new(serve::Config::default().with_rates(rates));
    Scene::with(World::new(seed), config, handle)
}

/// A client that sends `size` bytes, and expects them back.
fn exchange(host: &Host, size: usize) -> Task<Received> {
    let message = messages(&[size])[0].clone();
    peer(host, vec![Act::Send(message), Act::Finish, Act::ReceiveAll])
}

/// Waits for the clients, whose bytes come back complete. Returns the time that it has taken.
fn complete(scene: &Scene, clients: Vec<Task<Received>>, size: usize) -> f64 {
    let start = scene.world.now();
    for client in clients {
        let received = scene.world.run_until(&client).unwrap();
        assert_eq!((received.bytes.len(), received.fin), (size, true), "{:?}", received.error);
        assert_eq!(received.bytes, messages(&[size])[0]);
    }
    let took = scene.world.now().since(start).as_secs_f64();
    scene.end();
    assert_eq!(scene.ended("finished"), scene.table.totals().accepted);
    took
}

#[test]
fn bytes_beyond_the_rate_of_a_connection_wait_in_either_direction() {
    let limited = ByteRates::default().with_per_connection(rate(1000));
    for rates in [Rates::default().with_receive(limited), Rates::default().with_send(limited)] {
        let scene = scene(1, Config::default(), rates);
        let clients = ["a", "b"].map(|name| exchange(&scene.world.host(name), 10_000)).into();
        let took = complete(&scene, clients, 10_000);
        // A quarter of a second's bytes move at once.
        assert!((9.7..10.1).contains(&took), "{took}");
        let waits: Vec<_> = scene.table.totals().rate_waits.into_keys().collect();
        assert_eq!(waits, [if rates.send == limited { "send" } else { "receive" }]);
    }
}

/// Each waits longer for its turn than the idle timeout.
#[test]
fn connections_that_wait_for_a_rate_are_not_idle() {
    let limited = ByteRates::default().with_all(rate(10_000));
    for rates in [Rates::default().with_receive(limited), Rates::default().with_send(limited)] {
        let config = Config::default().with_idle_timeout(Duration::from_millis(200));
        let scene = scene(2, config, rates);
        let client = scene.world.host("client");
        let clients = (0..40).map(|_| exchange(&client, 2000)).collect();
        let took = complete(&scene, clients, 2000);
        assert!((7.7..8.8).contains(&took), "{took}");
    }
}

#[test]
fn connections_of_one_address_share_its_rate() {
    let limited = ByteRates::default().with_per_address(rate(1000));
    let scene = scene(3, Config::default(), Rates::default().with_receive(limited));
    let [a, b] = ["a", "b"].map(|name| scene.world.host(name));
    let clients = [&a, &a, &b, &b].map(|host| exchange(host, 5000)).into();
    let took = complete(&scene, clients, 5000);
    assert!((9.7..10.2).contains(&took), "{took}");
}

#[test]
fn throttled_connections_survive_all_harmless_faults() {
    for_each_seed(8, |seed| {
        let limited = ByteRates::default().with_per_connection(rate(4000 << (seed % 4)));
        let limited = limited.with_all(rate(20_000)).with_per_address(rate(9000));
        let rates = Rates::default().with_receive(limited).with_send(limited);
        let scene = scene(seed, Config::default(), rates);
        scene.server.set_faults(Faults::harmless(seed));
        let [a, b] = ["a", "b"].map(|name| scene.world.host(name));
        let clients = [&a, &a, &b].map(|host| load(host, patient(4)));
        for client in clients {
            let ended = scene.world.run_until(&client).unwrap();
            assert!(matches!(ended, Ended::Reason(LoadReason::Complete { .. })), "{ended:?}");
        }
        scene.end();
    });
}

/// When each connection was accepted, and how many were refused for which limit.
fn connect(scene: &Scene, count: usize) -> (Vec<Duration>, BTreeMap<&'static str, u64>) {
    let client = scene.world.host("client");
    let clients: Vec<_> = (0..count).map(|_| peer(&client, vec![Act::ReceiveAll])).collect();
    scene.world.run_for(seconds(10)).unwrap();
    let open = scene.table.connections();
    let accepted = open.iter().map(|entry| entry.since().since(Instant::EPOCH)).collect();
    scene.shutdown.drain();
    for client in clients {
        assert!(scene.world.run_until(&client).unwrap().fin);
    }
    scene.world.run().unwrap();
    (accepted, scene.table.totals().refused)
}

#[test]
fn connections_beyond_a_rate_are_refused_or_wait() {
    let two = Rates::default().with_connections(rate(2));
    let (accepted, refused) = connect(&scene(4, Config::default(), two), 6);
    assert_eq!((accepted.len(), refused), (2, BTreeMap::from([("connection_rate", 4)])));

    let waiting = two.with_on_excess(OnExcess::Wait);
    let (accepted, refused) = connect(&scene(5, Config::default(), waiting), 6);
    assert_eq!((accepted.len(), refused), (6, BTreeMap::new()));
    let [first, .., last] = accepted[..] else { panic!("six are accepted") };
    assert!((1900..2100).contains(&last.saturating_sub(first).as_millis()), "{accepted:?}");

    let of_address = Rates::default().with_connections_per_address(rate(3));
    let (accepted, refused) = connect(&scene(6, Config::default(), of_address), 6);
    let expected = BTreeMap::from([("connection_rate_per_address", 3)]);
    assert_eq!((accepted.len(), refused), (3, expected));
}

/// It has no open connection, but its rate is remembered.
#[test]
fn an_address_that_connects_again_has_its_rate() {
    let scene = scene(7, Config::default(), Rates::default().with_connections_per_address(rate(2)));
    let client = scene.world.host("client");
    let connect = || {
        let received = peer(&client, vec![Act::Send("x".into()), Act::Finish, Act::ReceiveAll]);
        let received = scene.world.run_until(&received).unwrap();
        received.bytes == b"x"
    };
    assert_eq!([connect(), connect(), connect()], [true, true, false]);
    scene.world.run_for(seconds(1)).unwrap();
    assert!(connect());
    scene.end();
}

/// A drain accepts the backlog, whatever the rate.
#[test]
fn a_server_that_waits_for_the_rate_ends_at_once() {
    let rates = Rates::default().with_connections(rate(1)).with_on_excess(OnExcess::Wait);
    let scene = scene(8, Config::default(), rates);
    let client = scene.world.host("client");
    let clients: Vec<_> = (0..20).map(|_| exchange(&client, 10)).collect();
    scene.world.run_for(seconds(1)).unwrap();
    let start = scene.world.now();
    scene.shutdown.drain();
    for client in clients {
        assert_eq!(scene.world.run_until(&client).unwrap().bytes, messages(&[10])[0]);
    }
    assert!(scene.world.now().since(start) < seconds(2));
    scene.end();
}

/// The wait for a rate does not excuse a peer that acknowledges nothing.
#[test]
fn a_throttled_peer_that_reads_nothing_is_reset() {
    let limited = ByteRates::default().with_per_connection(rate(1000));
    for rates in [Rates::default().with_receive(limited), Rates::default().with_send(limited)] {
        let world = World::with(9, Settings { buffer: 4096, ..Settings::default() });
        let handle = ServerHandle::new(serve::Config::default().with_rates(rates));
        let scene = Scene::with(world, Config::default().with_idle_timeout(seconds(60)), handle);
        let client = scene.world.host("client");
        peer(&client, vec![Act::Send(vec![1; 100_000].into()), Act::Wait(seconds(400))]);
        scene.world.run_for(seconds(58)).unwrap();
        assert_eq!(scene.ended("idle_timeout"), 0);
        // The buffers are full after some seconds.
        scene.world.run_for(seconds(40)).unwrap();
        assert_eq!(scene.ended("idle_timeout"), 1);
        scene.world.clear(); // the client waits
    }
}
