//! Upstreams that refuse, do not answer, or come and go.

use std::{future::poll_fn, time::Duration};

use wirestate_command_line::load::LoadReason;
use wirestate_core::{
    ConnectionError,
    drive::Ended,
    proxy::{Balance, Config, Proxy, Upstreams},
    runtime::{Listener as _, Runtime as _},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, World, act},
};

use crate::scene::{ROUND, Scene, load, patient, peer, seconds, small, tight, upstream_on};

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn hello() -> Vec<Act> {
    vec![Act::Send("hello".into()), Act::ReceiveAll]
}

#[test]
fn a_client_gets_a_fin_when_the_upstream_refuses() {
    let scene = Scene::new(1, &["upstream"]);
    scene.world.host("upstream"); // no listener
    let client = scene.world.host("client");
    let received = peer(&client, hello());
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!((received.bytes.len(), received.fin, received.error), (0, true, None));
    let [upstream] = &scene.counters()[..] else { panic!("there is one") };
    assert_eq!((upstream.failures, upstream.connects, upstream.up), (1, 0, false));
    scene.end();
    assert_eq!(scene.ended("no_upstream"), 1);
}

/// Without the lingering close, bytes that the client still sends would be answered by a reset.
#[test]
fn a_refused_client_that_goes_on_sending_gets_a_fin_and_no_reset() {
    for_each_seed(8, |seed| {
        let scene = Scene::with(World::new(seed), small(1 << (seed % 8)), &["nowhere"]);
        // The FIN is sent within the linger time.
        let delay = seconds(0)..=seconds(1) / 50;
        scene.proxy.set_faults(Faults { delay, ..Faults::harmless(seed) });
        let client = scene.world.host("client");
        let more = [Act::Wait(seconds(1) / 2), Act::Send(vec![7; 100].into())];
        let acts = [&hello()[..], &more, &[Act::Finish, Act::Wait(seconds(1)), Act::ReceiveAll]];
        let polite = peer(&client, acts.concat());
        let received = scene.world.run_until(&polite).unwrap();
        assert_eq!((received.fin, received.error), (true, None));
        // After the linger time it is reset.
        let late = [Act::Wait(seconds(3)), Act::Send("late".into()), Act::Wait(seconds(1))];
        let late = peer(&client, [&hello()[..], &late, &[Act::Send("!".into())]].concat());
        assert_eq!(scene.world.run_until(&late).unwrap().error, Some(ConnectionError::Reset));
        scene.end();
        assert_eq!(scene.ended("no_upstream"), 2);
    });
}

#[test]
fn a_client_gets_a_fin_when_the_upstreams_name_is_unknown() {
    let scene = Scene::new(2, &["nowhere"]);
    let client = scene.world.host("client");
    let received = peer(&client, hello());
    assert!(scene.world.run_until(&received).unwrap().fin);
    scene.end();
    assert_eq!(scene.ended("no_upstream"), 1);
}

#[test]
fn another_upstream_is_tried_and_no_byte_is_lost_or_sent_twice() {
    for_each_seed(8, |seed| {
        let scene = Scene::new(seed, &["refuses", "nowhere", "serves"]);
        scene.world.host("refuses");
        scene.echo("serves");
        let client = scene.world.host("client");
        for _ in 0..5 {
            let loading = load(&client, patient(2));
            let ended = scene.world.run_until(&loading).unwrap();
            assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 2 * ROUND }));
        }
        scene.end();
        assert_eq!(scene.ended("finished"), 5);
        let [refuses, nowhere, serves] = &scene.counters()[..] else { panic!("there are three") };
        assert_eq!((refuses.connects, nowhere.connects, serves.connects), (0, 0, 5));
        assert!(refuses.failures >= 1 && nowhere.failures >= 1);
    });
}

/// Each attempt gets an equal share of the 10 s. Meanwhile the client's bytes are buffered.
#[test]
fn an_upstream_that_does_not_answer_leaves_time_for_the_next() {
    let scene = Scene::new(3, &["silent", "serves"]);
    let silent = scene.echo("silent");
    silent.set_unplugged(true);
    scene.echo("serves");
    let client = scene.world.host("client");
    let loading = load(&client, patient(20));
    scene.run_for(seconds(4));
    let connections = scene.table.connections();
    assert_eq!(connections[0].status().state, "dialling");
    assert!(connections[0].bytes_received() > 0, "the client's bytes are not read");
    scene.run_for(seconds(3));
    let ended = loading.take().expect("the first attempt takes longer than 5 s");
    assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 20 * ROUND }));
    assert!(!scene.counters()[0].up);
    silent.set_unplugged(false);
    scene.end();
}

#[test]
fn the_connect_timeout_is_for_all_attempts_together() {
    let scene = Scene::new(4, &["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        scene.echo(name).set_unplugged(true);
    }
    let client = scene.world.host("client");
    let received = peer(&client, hello());
    scene.run_for(seconds(9));
    assert_eq!(scene.table.totals().open, 1);
    scene.run_for(seconds(2));
    assert!(received.take().unwrap().fin);
    assert_eq!(scene.ended("connect_timeout"), 1);
    scene.end();
}

#[test]
fn a_client_that_resets_cancels_the_attempt() {
    let scene = Scene::new(5, &["silent"]);
    scene.echo("silent").set_unplugged(true);
    let client = scene.world.host("client");
    peer(&client, vec![Act::Send("hello".into()), Act::Wait(seconds(2)), Act::Reset]);
    scene.run_for(seconds(3));
    assert_eq!((scene.ended("client_lost"), scene.table.totals().open), (1, 0));
    let silent = &scene.counters()[0];
    assert_eq!((silent.open, silent.failures), (0, 0), "a cancelled attempt counts as a failure");
    scene.end();
}

/// The buffer is filled to half its size; the rest waits in the kernel.
#[test]
fn the_input_of_a_client_is_bounded_while_there_is_no_upstream() {
    let config = Config::default().with_buffer(1024.try_into().unwrap());
    let scene = Scene::with(World::new(6), config, &["late"]);
    let late = scene.echo("late");
    late.set_unplugged(true);
    let client = scene.world.host("client");
    let loading = load(&client, patient(30));
    scene.run_for(seconds(3));
    let queued = scene.table.connections()[0].status().queued;
    assert!((512..=1024).contains(&queued), "{queued}");
    late.set_unplugged(false);
    let ended = scene.world.run_until(&loading).unwrap();
    assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 30 * ROUND }));
    scene.end();
}

#[test]
fn a_client_that_has_sent_a_fin_before_there_is_an_upstream_is_served() {
    let scene = Scene::new(7, &["late"]);
    let late = scene.echo("late");
    late.set_unplugged(true);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Send("hello".into()), Act::Finish, Act::ReceiveAll]);
    scene.run_for(seconds(3));
    late.set_unplugged(false);
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!((&*received.bytes, received.fin), (&b"hello"[..], true));
    scene.end();
    assert_eq!(scene.ended("finished"), 1);
}

/// The client is reset as well, and the upstream is not dialled a second time.
#[test]
fn the_only_upstream_that_resets_is_not_dialled_again() {
    for_each_seed(8, |seed| {
        let scene = Scene::new(seed, &["flaps"]);
        scene.upstream("flaps", vec![Act::Receive(2), Act::Reset]);
        let client = scene.world.host("client");
        let received = peer(&client, hello());
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!((received.error, received.bytes.len()), (Some(ConnectionError::Reset), 0));
        scene.end();
        assert_eq!((scene.dialled().len(), scene.ended("upstream_lost")), (1, 1));
    });
}

/// A client that waits before it sends, so that the upstream sends first or is lost.
fn delayed(message: &'static str) -> Vec<Act> {
    vec![Act::Wait(seconds(1)), Act::Send(message.into()), Act::Finish, Act::ReceiveAll]
}

/// The client receives the same as from the second upstream alone.
#[test]
fn an_upstream_that_accepts_and_resets_is_replaced_before_a_byte_was_forwarded() {
    for_each_seed(20, |seed| {
        let run = |upstreams: &[&str]| {
            let scene = Scene::with(tight(seed), small(1 << (seed % 8)), upstreams);
            scene.proxy.set_faults(Faults::harmless(seed));
            for name in upstreams {
                match *name {
                    "resets" => drop(scene.upstream(name, vec![Act::Reset])),
                    _ => drop(scene.echo(name)),
                }
            }
            let client = scene.world.host("client");
            let received = peer(&client, delayed("hello"));
            let received = scene.world.run_until(&received).unwrap();
            scene.end();
            assert_eq!(scene.ended("finished"), 1);
            (received, scene)
        };
        let (received, scene) = run(&["resets", "serves"]);
        assert_eq!((&*received.bytes, received.fin, received.error), (&b"hello"[..], true, None));
        assert_eq!(received, run(&["serves"]).0);
        let [resets, serves] = &scene.counters()[..] else { panic!("there are two") };
        assert_eq!((resets.connects, resets.failures, resets.up), (1, 1, false));
        assert_eq!((serves.connects, serves.failures, serves.up), (1, 0, true));
        assert!(scene.dialled()[0].sent.is_empty(), "a byte was sent twice");
    });
}

/// The client has sent a FIN before. The reset of the last upstream is forwarded.
#[test]
fn upstreams_that_all_accept_and_reset_are_each_tried_once() {
    for_each_seed(8, |seed| {
        let scene = Scene::new(seed, &["a", "b", "c"]);
        for name in ["a", "b", "c"] {
            scene.upstream(name, vec![Act::Wait(seconds(seed % 2)), Act::Reset]);
        }
        let client = scene.world.host("client");
        let received = peer(&client, vec![Act::Finish, Act::ReceiveAll]);
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!((received.bytes.len(), received.error), (0, Some(ConnectionError::Reset)));
        scene.end();
        assert_eq!((scene.dialled().len(), scene.ended("upstream_lost")), (3, 1));
        assert!(scene.counters().iter().all(|upstream| upstream.failures == 1 && !upstream.up));
    });
}

#[test]
fn a_client_gets_a_fin_when_the_last_upstream_refuses() {
    let scene = Scene::new(1, &["resets", "refuses"]);
    scene.upstream("resets", vec![Act::Reset]);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::ReceiveAll]);
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!((received.bytes.len(), received.fin, received.error), (0, true, None));
    scene.end();
    assert_eq!((scene.dialled().len(), scene.ended("no_upstream")), (1, 1));
}

/// The timeout is 4 s. The minute for which the second upstream was connected does not count.
#[test]
fn after_a_lost_upstream_the_next_attempts_get_the_rest_of_the_connect_timeout() {
    let upstreams = Upstreams::new(["silent:7", "resets:7", "mute:7"], Balance::RoundRobin, 1);
    let config = Config::default().with_connect_timeout(seconds(4));
    let proxy = Proxy::new(config, upstreams).unwrap();
    let scene = Scene::proxying(World::new(5), proxy);
    scene.echo("silent").set_unplugged(true);
    scene.upstream("resets", vec![Act::Wait(seconds(60)), Act::Reset]);
    scene.echo("mute").set_unplugged(true);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::ReceiveAll]);
    scene.run_for(seconds(63));
    assert_eq!(scene.table.connections()[0].status().state, "dialling");
    scene.run_for(seconds(2));
    assert!(received.take().unwrap().fin);
    assert_eq!(scene.ended("connect_timeout"), 1);
    let counters: Vec<_> = scene.counters().iter().map(|one| (one.failures, one.up)).collect();
    // The connection that lasted for a minute does not mark its upstream as down.
    assert_eq!(counters, [(1, false), (1, true), (1, false)]);
    scene.end();
}

/// A FIN is forwarded like a reply.
#[test]
fn an_upstream_that_accepts_and_sends_a_fin_is_not_replaced() {
    let scene = Scene::new(6, &["finishes", "serves"]);
    scene.upstream("finishes", vec![Act::Finish, Act::ReceiveAll]);
    scene.echo("serves");
    let client = scene.world.host("client");
    let received = peer(&client, delayed("hello"));
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!((received.bytes.len(), received.fin), (0, true));
    scene.end();
    assert_eq!((scene.dialled().len(), scene.ended("finished")), (1, 1));
}

/// A full server may do this. If it stayed up, it would always have the fewest connections.
#[test]
fn a_fin_of_the_upstream_without_a_byte_is_a_failure() {
    let scene = Scene::new(8, &["finishes"]);
    scene.upstream("finishes", vec![Act::Finish, Act::ReceiveAll]);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::ReceiveAll]);
    assert!(scene.world.run_until(&received).unwrap().fin);
    let counters = &scene.counters()[0];
    assert_eq!((counters.failures, counters.up), (1, false));
    scene.end();
}

/// A server that is full sends an error to each client and closes. (It resets the connection if it
/// has not read all bytes of the client.) It counts as down, like a server that refuses.
#[test]
fn an_upstream_that_sends_a_line_and_closes_is_down() {
    for (client, last) in [
        (
            vec![Act::Send("hello".into()), Act::Wait(seconds(1)), Act::Reset],
            vec![Act::Wait(millis(20)), Act::Reset],
        ),
        (vec![Act::Wait(seconds(1)), Act::Reset], vec![Act::Finish, Act::ReceiveAll]),
    ] {
        let scene = Scene::new(11, &["full", "serves"]);
        scene.echo("serves");
        let full = scene.world.host("full");
        let mut listener = full.listen("full:7").unwrap();
        full.run({
            let runtime = full.clone();
            let line = Act::Send("-ERR max number of clients reached\r\n".into());
            let acts = [vec![line], last].concat();
            async move {
                while let Ok((socket, _)) = poll_fn(|cx| listener.poll_accept(cx)).await {
                    runtime.run(act(runtime.clone(), socket, acts.clone()));
                }
            }
        });
        let host = scene.world.host("client");
        for _ in 0..300 {
            peer(&host, client.clone());
            scene.run_for(millis(200));
        }
        let [full, serves] = &scene.counters()[..] else { panic!("there are two") };
        assert_eq!(full.connects + serves.connects, 300);
        assert!((5..60).contains(&full.connects), "{full:?}, {serves:?}");
        assert!(full.failures >= full.connects - 1 && serves.failures == 0, "{full:?}, {serves:?}");
        assert!(serves.up);
        scene.world.clear();
    }
}

/// Port scanners and health checks do this.
#[test]
fn a_fin_of_the_upstream_after_the_clients_fin_is_no_failure() {
    let scene = Scene::new(9, &["upstream"]);
    scene.echo("upstream");
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Finish, Act::ReceiveAll]);
    assert!(scene.world.run_until(&received).unwrap().fin);
    let counters = &scene.counters()[0];
    assert_eq!((counters.failures, counters.up), (0, true));
    scene.end();
}

/// The upstream resets an old connection, or the client does because it gets no reply.
#[test]
fn a_reset_after_6_s_without_a_reply_does_not_mark_the_upstream_up() {
    for (upstream, client) in [
        (vec![Act::Wait(seconds(6)), Act::Reset], vec![Act::ReceiveAll]),
        (
            vec![Act::ReceiveAll],
            vec![Act::Send("hello?".into()), Act::Wait(seconds(6)), Act::Reset],
        ),
    ] {
        let scene = Scene::new(10, &["holds"]);
        let holds = scene.world.host("holds");
        let host = scene.world.host("client");
        let received = peer(&host, hello());
        scene.world.run_until(&received).unwrap();
        assert!(!scene.counters()[0].up, "there is no listener");
        upstream_on(&holds, "holds", upstream);
        let received = peer(&host, client);
        scene.world.run_until(&received).unwrap();
        scene.run_for(seconds(1));
        assert!(!scene.counters()[0].up);
        scene.end();
    }
}

/// Neither a connect nor forwarded bytes mark the upstream as up.
#[test]
fn an_upstream_that_resets_each_connection_is_down_until_it_replies() {
    let scene = Scene::new(7, &["drops"]);
    let drops = scene.world.host("drops");
    let client = scene.world.host("client");
    for failures in 1..=6 {
        let accepting = upstream_on(&drops, "drops", vec![Act::Receive(2), Act::Reset]);
        let received = peer(&client, hello());
        assert_eq!(scene.world.run_until(&received).unwrap().error, Some(ConnectionError::Reset));
        scene.world.run_until(&accepting).unwrap();
        let counters = &scene.counters()[0];
        assert_eq!(
            (counters.up, counters.connects, counters.failures),
            (false, failures, failures)
        );
    }
    scene.echo_on(&drops, "drops");
    let received =
        peer(&client, vec![Act::Wait(seconds(1)), Act::Send("hello".into()), Act::Receive(5)]);
    scene.run_for(seconds(1) / 2);
    assert!(!scene.counters()[0].up, "it is up although it has only accepted");
    assert_eq!(scene.world.run_until(&received).unwrap().bytes, b"hello");
    scene.run_for(seconds(1));
    assert!(scene.counters()[0].up, "it is down although it has replied");
    scene.end();
}

#[test]
fn an_upstream_that_comes_back_is_used_again() {
    let scene = Scene::new(9, &["upstream"]);
    let upstream = scene.world.host("upstream");
    let client = scene.world.host("client");
    for _ in 0..5 {
        let received = peer(&client, hello());
        assert!(scene.world.run_until(&received).unwrap().fin);
    }
    scene.echo_on(&upstream, "upstream");
    let loading = load(&client, patient(1));
    let ended = scene.world.run_until(&loading).unwrap();
    assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: ROUND }));
    let counters = &scene.counters()[0];
    assert_eq!((counters.up, counters.failures, counters.connects), (true, 5, 1));
    scene.end();
}

#[test]
fn a_drain_ends_an_attempt_at_once() {
    let scene = Scene::new(10, &["silent"]);
    scene.echo("silent").set_unplugged(true);
    let client = scene.world.host("client");
    let received = peer(&client, hello());
    scene.run_for(seconds(1));
    let start = scene.world.now();
    assert_eq!(scene.end().aborted, 0);
    assert!(scene.world.now().since(start) < seconds(8), "the drain waits for the connect timeout");
    assert!(received.take().unwrap().fin);
    assert_eq!(scene.ended("shut_down"), 1);
}

#[test]
fn the_upstream_with_the_fewest_connections_is_dialled() {
    let upstreams = Upstreams::new(["a:7", "b:7"], Balance::LeastConnections, 1);
    let scene = Scene::proxying(World::new(11), Proxy::new(Config::default(), upstreams).unwrap());
    scene.echo("a");
    scene.echo("b");
    let client = scene.world.host("client");
    let stay = || vec![Act::Send("x".into()), Act::Receive(1), Act::Wait(seconds(100))];
    let leave = || vec![Act::Send("x".into()), Act::Receive(1), Act::Finish, Act::ReceiveAll];
    peer(&client, stay());
    scene.run_for(seconds(1));
    for _ in 0..4 {
        peer(&client, leave());
        scene.run_for(seconds(1));
    }
    let connects: Vec<_> = scene.counters().iter().map(|upstream| upstream.connects).collect();
    assert_eq!(connects, [1, 4], "the upstream with more connections was dialled");
    scene.end();
}
