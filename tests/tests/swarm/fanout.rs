//! A fan-out server, its upstream, and subscribers.

use std::{future::poll_fn, time::Duration};

use wirestate_core::{
    drive::{Clock as _, Drive},
    fanout::{Config, Feed, LagPolicy, MessageSource, Subscriber},
    runtime::{Listener as _, Runtime as _},
    serve,
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    sim::{Disturbance, Host, Task, World},
};

use super::{Starts, connect, disturb, seconds, world};
use crate::{
    fanout_scene::{SIZE, config, numbers, reconnect, source},
    meter::Meter,
};

/// Starts a fan-out server, and returns its host and that of the upstream.
fn serve(world: &World, starts: &Starts, config: Config) -> [Host; 2] {
    let hosts = [world.host("server"), world.host("upstream")];
    let starts = starts.clone();
    hosts[0].run_on_start(move |host| {
        let handle = starts.handle();
        let limit = (config.on_lag != LagPolicy::Block).then_some(config.lag_wait);
        let (feed, meter) = (Feed::new(config.clone()).unwrap(), Meter::new(limit));
        let shutdown = handle.shutdown().clone();
        host.run_named("upstream", reconnect(host.clone(), feed.clone(), meter.clone(), shutdown));
        let listener = host.listen("server:1235").unwrap();
        let server = serve::Server::new(host.clone(), listener).with_handle(&handle);
        let subscriber = move |_: &_, now| {
            meter.subscriber(Checked::new(Subscriber::new(&feed, now), 1 << 20), now)
        };
        host.run_named("fan-out server", server.serve(subscriber));
    });
    hosts[1].run_on_start(|host| {
        host.run_named("source", serve_sources(host.clone()));
    });
    hosts
}

/// Sends 300 messages on each connection, twenty a second. After a partition of 16 s, the next
/// retransmission may come after more than 30 s.
async fn serve_sources(host: Host) {
    host.sleep(seconds(1)).await;
    let mut listener = host.listen("upstream:1234").unwrap();
    loop {
        let Ok((socket, _)) = poll_fn(|cx| listener.poll_accept(cx)).await else { continue };
        let clock = host.clock();
        let config = source(20, 300).with_write_timeout(seconds(600));
        let source = MessageSource::new(config, clock.now()).unwrap();
        Drive::new(Checked::new(source, 64 * 1024), socket, clock).await;
    }
}

/// Receives `count` messages, or fewer if the connection ends.
fn subscribe(client: &Host, count: usize) -> Task<Vec<u8>> {
    let runtime = client.clone();
    client.run(async move {
        let mut socket = connect(&runtime, "server:1235").await;
        let mut received = Vec::new();
        while received.len() < count * SIZE {
            let mut buf = vec![0; count * SIZE - received.len()];
            let Ok(n @ 1..) = socket.receive(&mut buf).await else { break };
            received.extend_from_slice(&buf[..n]);
        }
        received
    })
}

#[test]
fn each_subscriber_gets_every_message_under_disturbances_that_break_no_connection() {
    for_each_seed(4, |seed| {
        let (world, starts) = (world(seed), Starts::default());
        let mut config = config().with_on_lag(LagPolicy::Block);
        config.write_timeout = Some(seconds(600));
        let [server, upstream] = serve(&world, &starts, config);
        let clients = [world.host("a"), world.host("b")];
        let received = clients.each_ref().map(|client| subscribe(client, 200));
        world.run_for(Duration::from_millis(900)).unwrap();
        let [a, b] = &clients;
        disturb(&world, &[&server, &upstream, a, b], &Disturbance::HARMLESS);
        world.finish_within(seconds(120), &[a, b]).unwrap();
        for received in received {
            assert_eq!(numbers(&received.take().unwrap()), (0..200).collect::<Vec<_>>());
        }
        upstream.kill();
        starts.end(&world);
    });
}

#[test]
fn under_all_disturbances_messages_are_whole_and_in_order_and_afterwards_they_arrive() {
    for_each_seed(4, |seed| {
        let (world, starts) = (world(seed), Starts::default());
        let mut config = config();
        config.upstream_idle_timeout = Some(seconds(10));
        let [server, upstream] = serve(&world, &starts, config);
        let (client, late) = (world.host("client"), world.host("late"));
        let received = [(); 4].map(|()| subscribe(&client, 100));
        disturb(&world, &[&server, &upstream, &client], &Disturbance::ALL);

        let late_received = subscribe(&late, 20);
        world.finish_within(seconds(60), &[&late]).unwrap();
        assert_eq!(late_received.take().unwrap().len(), 20 * SIZE);
        world.finish_within(seconds(1000), &[&client]).unwrap();
        for received in received {
            let numbers = numbers(&received.take().unwrap());
            let is_next = |pair: &[u64]| pair[1] == pair[0] + 1 || pair[1] == 0;
            assert!(numbers.windows(2).all(is_next), "{numbers:?}");
        }
        upstream.kill();
        starts.end(&world);
    });
}
