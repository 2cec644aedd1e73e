//! Asynchronous handlers.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use wirestate_core::{
    message::{self, Config, Message, service},
    serve::ServerHandle,
    shared::{Lock, Shared},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Host, World},
};

use crate::scene::{
    SIZES, Scene, ask, bytes, graceful_ends_are_complete, peer, requests, seconds, small,
};

/// The number of running handlers, and its maximum.
#[derive(Clone, Default)]
struct Running {
    /// The number of running handlers, and the maximum so far.
    counts: Shared<Lock<(usize, usize)>>,
}

impl Running {
    fn begin(&self) -> Self {
        self.counts.with(|(now, max)| {
            *now += 1;
            *max = (*max).max(*now);
        });
        self.clone()
    }

    fn end(&self) {
        self.counts.with(|(now, _)| *now -= 1);
    }

    fn max(&self) -> usize {
        self.counts.with(|(_, max)| *max)
    }
}

/// A handler that takes `time` of the content's length, and answers with the request itself.
fn scene(world: World, config: Config, running: &Running, time: fn(usize) -> Duration) -> Scene {
    let server: Host = world.host("server");
    let (host, running) = (server.clone(), running.clone());
    let service = service::asynchronous(move |request: service::Request| {
        let (sleep, running) = (host.sleep(time(request.content.len())), running.begin());
        async move {
            sleep.await;
            running.end();
            request.into_message()
        }
    });
    Scene::serving(world, server, config, service, ServerHandle::default())
}

#[test]
fn replies_are_in_order_although_handlers_end_out_of_order() {
    for_each_seed(20, |seed| {
        let running = Running::default();
        let config = small(512).with_max_in_flight(5.try_into().unwrap());
        // Larger requests are answered sooner.
        let time = |size: usize| Duration::from_millis(100_000 / (size as u64 + 50));
        let scene = scene(World::new(seed), config, &running, time);
        scene.server.set_faults(Faults::harmless(seed));
        let asking: Vec<_> = (0..3)
            .map(|i| {
                let client = scene.world.host(&format!("client {i}"));
                client.set_faults(Faults::harmless(seed * 10 + i));
                ask(&client, requests(&SIZES))
            })
            .collect();
        for asking in asking {
            assert!(scene.world.run_until(&asking).unwrap().are_complete());
        }
        assert!(running.max() <= 15, "more than five run on a connection: {}", running.max());
        scene.run_for(seconds(60));
        assert_eq!(graceful_ends_are_complete(&scene.world), 3);
        scene.end();
    });
}

/// The closure's state is not `Clone`, and the futures borrow it.
#[test]
fn an_async_closure_owns_state_that_all_connections_share() {
    let world = World::new(5);
    let server = world.host("server");
    let (host, replies) = (server.clone(), AtomicU64::new(0));
    let count = service::asynchronous(async move |_| {
        host.sleep(seconds(1)).await;
        let number = replies.fetch_add(1, Relaxed) + 1;
        Message::json(format!("\"reply {number}\""))
    });
    let server_machine = message::Server::new(small(4096), count).unwrap();
    let scene = Scene::unchecked(world, server, server_machine, ServerHandle::default());
    for (name, last) in [("first", "reply 2"), ("second", "reply 4")] {
        let sent = bytes(&requests(&[10, 20]));
        let acts = vec![Act::Send(sent.into()), Act::Finish, Act::ReceiveAll];
        let received = peer(&scene.world.host(name), acts);
        let received = scene.world.run_until(&received).unwrap();
        let text = String::from_utf8_lossy(&received.bytes);
        assert!(received.fin && text.contains(last), "{text}");
    }
    scene.end();
}

#[test]
fn the_handlers_of_one_connection_run_concurrently() {
    let running = Running::default();
    let scene = scene(World::new(1), small(4096), &running, |_| seconds(10));
    let client = scene.world.host("client");
    let began = scene.world.now();
    let asking = ask(&client, requests(&[10; 8]));
    assert!(scene.world.run_until(&asking).unwrap().are_complete());
    assert_eq!(running.max(), 8);
    let elapsed = scene.world.now().since(began);
    assert!(elapsed < seconds(11), "the handlers took {elapsed:?}");
    scene.end();
}

#[test]
fn requests_before_a_fin_are_answered_however_long_their_handlers_take() {
    let scene = scene(World::new(2), small(4096), &Running::default(), |_| seconds(50));
    let client = scene.world.host("client");
    let all = bytes(&requests(&[10, 20, 30]));
    let received = peer(&client, vec![Act::Send(all.clone().into()), Act::Finish, Act::ReceiveAll]);
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!((received.bytes, received.fin), (all, true));
    scene.end();
    assert_eq!(scene.ended("finished"), 1);
}

#[test]
fn a_handler_that_takes_more_than_60_s_is_dropped_and_the_peer_gets_an_error_reply() {
    let time = |size: usize| seconds(if size == 20 { 100 } else { 1 });
    let scene = scene(World::new(3), small(4096), &Running::default(), time);
    let client = scene.world.host("client");
    let all = bytes(&requests(&[10, 20, 30]));
    let received = peer(&client, vec![Act::Send(all.clone().into()), Act::ReceiveAll]);
    let received = scene.world.run_until(&received).unwrap();
    let first = bytes(&requests(&[10]));
    assert!(received.bytes.starts_with(&first), "the reply before it is missing");
    let error = String::from_utf8_lossy(&received.bytes[first.len()..]).into_owned();
    assert!(error.contains("no reply within 1m; requests not answered: 2"), "{error}");
    assert!(received.fin);
    scene.end();
    assert_eq!(scene.ended("service_timeout"), 1);
}

/// A connection owns its handlers, which end with it.
#[test]
fn the_handlers_of_a_reset_connection_are_dropped() {
    let scene = scene(World::new(4), small(4096), &Running::default(), |_| seconds(30));
    let client = scene.world.host("client");
    let all = bytes(&requests(&[10; 5]));
    peer(&client, vec![Act::Send(all.into()), Act::Wait(seconds(1)), Act::Reset]);
    scene.run_for(seconds(2));
    assert_eq!(scene.ended("reset") + scene.table.totals().open, 1);
    scene.run_for(seconds(60));
    assert_eq!(scene.ended("reset"), 1);
    scene.end();
}
