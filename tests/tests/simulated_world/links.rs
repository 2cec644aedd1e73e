//! Latency, bandwidth, and the order of accepts.

use wirestate_core::Direction;
use wirestate_testkit::{for_each_seed, sim::Faults};

use super::*;

/// How long each of `count` messages takes that are sent a minute apart.
fn latencies(latency: &Latency, count: usize) -> Vec<Duration> {
    let settings = Settings { latency: latency.clone(), ..Settings::default() };
    let Pair { world, server, client, mut accepted, mut dialled } = Pair::with(settings);
    let clock = world.clone();
    let arrived = server.run(async move {
        let mut arrived = Vec::new();
        for _ in 0..count {
            accepted.receive(&mut [0; 1]).await.unwrap();
            arrived.push(clock.now());
        }
        arrived
    });
    let runtime = client.clone();
    let sent = client.run(async move {
        let mut sent = Vec::new();
        for _ in 0..count {
            sent.push(runtime.world().now());
            dialled.send(b"x").await.unwrap();
            runtime.sleep(seconds(60)).await;
        }
        sent
    });
    world.run().unwrap();
    let (arrived, sent) = (arrived.take().unwrap(), sent.take().unwrap());
    arrived.into_iter().zip(sent).map(|(arrived, sent)| arrived.since(sent)).collect()
}

#[test]
fn a_latency_is_constant_uniform_or_long_tailed() {
    assert_eq!(latencies(&Latency::Constant(millis(30)), 20), [millis(30); 20]);

    let uniform = latencies(&Latency::Uniform(millis(10)..=millis(20)), 100);
    assert!(uniform.iter().all(|latency| (millis(10)..=millis(20)).contains(latency)));
    assert!(uniform.iter().any(|latency| *latency < millis(12)));
    assert!(uniform.iter().any(|latency| *latency > millis(18)));

    let of_connection = latencies(&Latency::PerConnection(millis(10)..=millis(20)), 100);
    let (min, max) = (of_connection.iter().min().unwrap(), of_connection.iter().max().unwrap());
    assert!((millis(10)..=millis(20)).contains(min) && *max <= 2 * *min, "{min:?} to {max:?}");

    let usual = millis(10)..=millis(20);
    let tail = Latency::LongTailed { usual, doubles: 250, max: millis(100) };
    let mut tail = latencies(&tail, 200);
    tail.sort_unstable();
    assert!(tail[100] <= millis(20) && tail[199] > millis(40), "{tail:?}");
    assert!(tail[199] <= millis(100));
}

#[test]
fn a_path_has_its_own_latency_in_each_direction() {
    let Pair { world, server, client, mut accepted, mut dialled } = Pair::new();
    client.set_latency(&server, Some(Latency::Constant(seconds(1))));
    write(&mut dialled, b"hello").unwrap();
    write(&mut accepted, b"hi").unwrap();
    world.run_for(millis(10)).unwrap();
    assert_eq!((read(&mut accepted), read(&mut dialled)), (None, Some(Ok(2))));
    world.run_for(millis(990)).unwrap();
    assert_eq!(read(&mut accepted), Some(Ok(5)));
    client.set_latency(&server, None);
    write(&mut dialled, b"hello").unwrap();
    world.run_for(millis(10)).unwrap();
    assert_eq!(read(&mut accepted), Some(Ok(5)));
}

/// How long it takes until the server has received `count` times 1000 bytes.
fn transfer(pair: Pair, count: usize) -> Duration {
    let Pair { world, server, client, mut accepted, mut dialled } = pair;
    let began = world.now();
    client.run(async move {
        for _ in 0..count {
            dialled.send(&[7; 1000]).await.unwrap();
        }
        dialled
    });
    let received = server.run(async move {
        let mut missing = 1000 * count;
        while missing > 0 {
            missing -= accepted.receive(&mut [0; 4096]).await.unwrap();
        }
        accepted
    });
    world.run_until(&received).unwrap();
    world.now().since(began)
}

#[test]
fn bandwidth_makes_a_transfer_take_time() {
    assert_eq!(transfer(Pair::new(), 10), millis(10));
    let rate = |bytes: u64| Some(bytes.try_into().unwrap());
    let pair = Pair::new();
    pair.client.set_bandwidth(Direction::Write, rate(1000));
    assert_eq!(transfer(pair, 10), seconds(10) + millis(10), "upload");
    let pair = Pair::new();
    pair.server.set_bandwidth(Direction::Read, rate(500));
    assert_eq!(transfer(pair, 10), seconds(20) + millis(10), "download");
    let pair = Pair::new();
    pair.client.set_bandwidth(Direction::Read, rate(1));
    pair.server.set_bandwidth(Direction::Write, rate(1));
    assert_eq!(transfer(pair, 10), millis(10), "the other direction");
}

#[test]
fn the_connections_of_a_host_share_its_bandwidth() {
    let Pair { world, server, client, mut accepted, mut dialled } = Pair::new();
    let mut listener = server.listen("server:7").unwrap();
    let second = server.run(async move { poll_fn(|cx| listener.poll_accept(cx)).await.unwrap().0 });
    let (second_dialled, _) = world.run_until(&dial(&client)).unwrap();
    let mut second = world.run_until(&second).unwrap();
    client.set_bandwidth(Direction::Write, Some(1000.try_into().unwrap()));
    write(&mut dialled, &[7; 3000]).unwrap();
    write(&mut second_dialled.unwrap(), &[7; 60]).unwrap();
    world.run_for(seconds(3)).unwrap();
    assert_eq!(read(&mut second), None);
    world.run_for(millis(70)).unwrap();
    assert_eq!((read(&mut second), read(&mut accepted)), (Some(Ok(60)), Some(Ok(64))));
}

#[test]
fn when_the_world_heals_what_waited_for_bandwidth_arrives() {
    let Pair { world, client, mut accepted, mut dialled, .. } = Pair::new();
    client.set_bandwidth(Direction::Write, Some(1.try_into().unwrap()));
    for _ in 0..3 {
        write(&mut dialled, &[7; 1000]).unwrap();
    }
    world.run_for(seconds(60)).unwrap();
    assert_eq!(read(&mut accepted), None);
    world.heal();
    world.run_for(millis(10)).unwrap();
    let mut received = 0;
    while let Some(Ok(n)) = read(&mut accepted) {
        received += n;
    }
    assert_eq!((received, dialled.unacknowledged()), (3000, 0));
}

/// The ports of the clients in the order in which the server accepts them.
fn accepted_order(seed: u64, accept_order: u16) -> Vec<u16> {
    let world = World::with(seed, Settings::default());
    let (server, client) = (world.host("server"), world.host("client"));
    server.set_faults(Faults { accept_order, ..Faults::NONE });
    let mut listener = server.listen("server:7").unwrap();
    let dials: Vec<_> = (0..5).map(|_| dial(&client)).collect();
    world.run_for(seconds(1)).unwrap();
    let runtime = server.clone();
    let order = server.run(async move {
        let mut order = Vec::new();
        for _ in 0..5 {
            let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            order.push(runtime.dialled_address(&socket).unwrap());
        }
        order
    });
    let order = world.run_until(&order).unwrap();
    drop(dials);
    let port = |address: &wirestate_core::runtime::Address| match address {
        wirestate_core::runtime::Address::Ip(address) => address.port(),
        wirestate_core::runtime::Address::Unix(_) => panic!("{address:?} has no port"),
    };
    order.iter().map(port).collect()
}

#[test]
fn connections_are_accepted_in_order_unless_a_plan_says_otherwise() {
    let mut reordered = 0;
    for_each_seed(8, |seed| assert!(accepted_order(seed, 0).is_sorted()));
    for seed in 0..8 {
        let mut order = accepted_order(seed, 1000);
        reordered += u32::from(!order.is_sorted());
        order.sort_unstable();
        order.dedup();
        assert_eq!(order.len(), 5);
    }
    assert!(reordered > 4, "{reordered} of 8 runs accept in another order");
}
