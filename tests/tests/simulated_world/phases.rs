//! The end of the faults, and swarms of them.

use std::collections::BTreeSet;

use wirestate_testkit::{
    for_each_seed,
    sim::{Disturbance, Faults, Halted, Swarm},
};

use super::*;

#[test]
fn tasks_that_do_not_finish_within_the_bound_are_named() {
    let world = World::new(1);
    let (server, client) = (world.host("server"), world.host("client"));
    server.run(server.sleep(seconds(1000)));
    client.run_named("quick", client.sleep(seconds(1)));
    client.run_named("slow", client.sleep(seconds(30)));
    let finished = world.finish_within(seconds(10), &[&client]);
    let Err(Halted::Unfinished { tasks, bound, .. }) = finished else { panic!("{finished:?}") };
    assert_eq!((&tasks[..], bound), (&["client#2 (slow)".to_owned()][..], seconds(10)));
    world.finish_within(seconds(20), &[&client]).unwrap();
    assert!(world.finish_within(seconds(20), &[&client, &server]).is_err());
}

/// Each of these faults alone keeps the client from receiving.
#[test]
fn a_healed_world_has_no_faults() {
    type Cause = fn(&Host, &Host);
    let faults: [(&str, Cause); 9] = [
        ("partition", |server, client| server.set_blocked(client, true)),
        ("unplugged", |_, client| client.set_unplugged(true)),
        ("latency", |server, client| {
            server.set_latency(client, Some(Latency::Constant(seconds(60))));
        }),
        ("bandwidth", |_, client| {
            client.set_bandwidth(wirestate_core::Direction::Read, Some(1.try_into().unwrap()));
        }),
        ("stopped", |server, _| server.stop_for(seconds(60))),
        ("frozen", |server, _| server.freeze_clock(seconds(60))),
        ("drift", |server, _| server.set_clock_drift(-900_000)),
        ("faults", |_, client| {
            let delay = seconds(60)..=seconds(60);
            client.set_faults(Faults { would_block: 1000, delay, ..Faults::NONE });
        }),
        ("down", |server, _| server.kill()),
    ];
    for (name, fault) in faults {
        for heals in [true, false] {
            let world = World::new(1);
            let (server, client) = (world.host("server"), world.host("client"));
            server.run_on_start(|server| {
                let mut listener = server.listen("server:7").unwrap();
                let runtime = server.clone();
                server.run(async move {
                    runtime.sleep(millis(100)).await;
                    let (mut socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
                    socket.send(&[7; 100]).await.unwrap();
                    socket.finish().await.unwrap();
                    let _ = socket.receive(&mut [0; 1]).await;
                });
            });
            fault(&server, &client);
            if heals {
                world.heal();
            }
            let runtime = client.clone();
            let received = client.run(async move {
                let mut socket = runtime.connect("server:7").await.ok()?;
                let mut received = 0;
                while received < 100 {
                    received += socket.receive(&mut [0; 100]).await.ok()?;
                }
                Some(received)
            });
            world.run_for(millis(500)).unwrap();
            let expected = heals.then_some(Some(100));
            assert_eq!(received.take().filter(Option::is_some), expected, "{name}");
            world.clear();
        }
    }
}

/// Overlapping stops and freezes last until the later end.
#[test]
fn a_stopped_host_and_a_frozen_clock_continue_at_the_later_end() {
    let pauses: [fn(&Host, Duration); 2] = [Host::stop_for, Host::freeze_clock];
    for (pause, expected) in pauses.into_iter().zip([seconds(10), seconds(11)]) {
        let world = World::new(1);
        let host = world.host("host");
        let began = world.now();
        pause(&host, seconds(10));
        pause(&host, seconds(2));
        let slept = host.run(host.sleep(seconds(1)));
        world.run_until(&slept).unwrap();
        assert_eq!(world.now().since(began), expected);
    }
}

/// The alarm was reached while the host was stopped, before its clock was frozen.
#[test]
fn a_frozen_clock_does_not_hold_back_an_alarm_that_it_has_reached() {
    let world = World::new(1);
    let host = world.host("host");
    let slept = host.run(host.sleep(seconds(1)));
    world.run_for(millis(500)).unwrap();
    host.stop_for(seconds(2));
    world.run_for(seconds(1)).unwrap();
    host.freeze_clock(seconds(60));
    world.run_for(seconds(2)).unwrap();
    assert!(slept.take().is_some());
}

#[test]
fn a_swarm_draws_its_kinds_from_the_seed_and_repeats_its_run() {
    let run = |seed| {
        let world = World::new(seed);
        let hosts = [world.host("a"), world.host("b"), world.host("c")];
        for host in &hosts {
            host.run_on_start(|host| {
                let mut listener = host.listen("0.0.0.0:7").unwrap();
                let runtime = host.clone();
                host.run(async move {
                    loop {
                        let accepted = poll_fn(|cx| listener.poll_accept(cx)).await;
                        if let Ok((mut socket, _)) = accepted {
                            let _ = socket.receive(&mut [0; 1]).await;
                        }
                        runtime.sleep(millis(10)).await;
                    }
                });
            });
        }
        let runtime = hosts[2].clone();
        hosts[2].run(async move {
            loop {
                for address in ["a:7", "b:7", "c:7"] {
                    if let Ok(mut socket) = runtime.connect(address).await {
                        let _ = socket.send(b"x").await;
                    }
                    runtime.sleep(millis(10)).await;
                }
            }
        });
        let mut swarm = Swarm::new(&world, &[&hosts[0], &hosts[1], &hosts[2]], &Disturbance::ALL);
        swarm.disturb(seconds(5)).unwrap();
        world.clear();
        (swarm.kinds().to_vec(), world.trace().hash())
    };
    let runs: Vec<_> = (0..8).map(run).collect();
    let kinds: BTreeSet<_> = runs.iter().flat_map(|(kinds, _)| kinds).collect();
    assert_eq!(kinds.len(), Disturbance::ALL.len(), "each kind is on with some seed");
    assert!(runs.iter().all(|(kinds, _)| kinds.len() < Disturbance::ALL.len()));
    for_each_seed(2, |seed| assert_eq!(run(seed), run(seed)));
}
