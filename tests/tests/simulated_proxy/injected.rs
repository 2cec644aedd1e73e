//! Faults that the proxy injects from a plan, on a network that has faults of its own.

use std::{ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use wirestate_command_line::load::LoadReason;
use wirestate_core::{
    ConnectionError,
    admission::Peer,
    drive::Ended,
    faults::{Faults, Injector, Kind, Plan, Slice, Sometimes, Stall},
    proxy::{Balance, Config, Proxy, Side, Upstreams},
    proxy_protocol::{self, HeaderPolicy, Version, encode},
};
use wirestate_testkit::{
    for_each_seed,
    script::Ending,
    sim::{self, Act, World},
};

use crate::scene::{ROUND, Scene, load, patient, peer, seconds, small, tight, upstream_on};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn to_client(faults: Faults) -> Plan {
    Plan::default().with_to_client(faults)
}

fn injector(plan: Plan) -> Injector {
    Injector::new(plan, 7).unwrap()
}

/// A proxy with faults in front of `upstream`.
fn scene(world: World, injector: &Injector) -> Scene {
    scene_with(world, small(4096), injector)
}

fn scene_with(world: World, config: Config, injector: &Injector) -> Scene {
    let upstreams = Upstreams::new(["upstream:7"], Balance::RoundRobin, 1);
    let proxy = Proxy::new(config, upstreams).unwrap().with_faults(injector.clone());
    Scene::proxying(world, proxy)
}

fn pattern(n: usize) -> Bytes {
    (0..n).map(|i| u8::try_from(i * 7 % 251).expect("below 251")).collect()
}

/// A download of `n` bytes.
fn download(n: usize) -> Vec<Act> {
    vec![Act::ReceiveUntil("?".into()), Act::Send(pattern(n)), Act::Finish, Act::ReceiveAll]
}

fn request() -> Vec<Act> {
    vec![Act::Send("?".into()), Act::ReceiveAll, Act::Finish]
}

#[test]
fn every_byte_arrives_whatever_slows_it_down() {
    let time = |range: RangeInclusive<u64>| ms(*range.start())..=ms(*range.end());
    let faults = || {
        Faults::default()
            .with_slice(Sometimes {
                chance: 700,
                value: Slice { bytes: 1..=600, pause: time(0..=9) },
            })
            .with_delay(Sometimes { chance: 500, value: time(0..=40) })
            .with_jitter(Sometimes { chance: 500, value: time(0..=30) })
            .with_rate(Sometimes { chance: 500, value: 5000..=100_000 })
            .with_stall(Sometimes {
                chance: 500,
                value: Stall { after: 0..=4000, time: time(10..=5000) },
            })
    };
    for_each_seed(4, |seed| {
        let plan = Plan::default().with_to_client(faults()).with_to_upstream(faults());
        let injector = Injector::new(plan, seed).unwrap();
        let scene = scene(tight(seed + 4), &injector);
        scene.proxy.set_faults(sim::Faults::harmless(seed));
        scene.echo("upstream").set_faults(sim::Faults::harmless(seed + 1));
        let client = scene.world.host("client");
        let loads: Vec<_> = (0..4).map(|_| load(&client, patient(2))).collect();
        for loading in loads {
            let ended = scene.world.run_until(&loading).unwrap();
            assert_eq!(ended, Ended::Reason(LoadReason::Complete { bytes: 2 * ROUND }));
        }
        scene.run_for(seconds(60));
        scene.end();
        assert_eq!(scene.ended("finished"), 4);
        for kind in [Kind::HalfClose, Kind::Reset, Kind::BlackHole] {
            assert_eq!(injector.counted(Side::Client, kind), 0);
        }
        let slices = |to| injector.counted(to, Kind::Slice);
        assert!(slices(Side::Client) + slices(Side::Upstream) > 0);
    });
}

#[test]
fn a_reset_comes_to_both_sides_after_the_receiver_has_its_bytes() {
    for_each_seed(20, |seed| {
        let after = seed * seed * 13 % 9000;
        let reset = Faults::default().with_reset(Sometimes::always(after..=after));
        let injector = injector(to_client(reset));
        let scene = scene(tight(seed), &injector);
        scene.proxy.set_faults(sim::Faults::harmless(seed));
        let upstream = scene.upstream("upstream", download(10_000));
        let client = peer(&scene.world.host("client"), request());
        let received = scene.world.run_until(&client).unwrap();
        let n = usize::try_from(after).unwrap();
        assert!(received.bytes == pattern(n) && !received.fin, "{received:?}");
        assert_eq!(received.error, Some(ConnectionError::Reset));
        let upstream = scene.world.run_until(&upstream).unwrap();
        assert_eq!(upstream.error, Some(ConnectionError::Reset));
        scene.end();
        for record in [&scene.clients()[0], &scene.dialled()[0]] {
            assert_eq!(record.ending, Some(Ending::Rst));
        }
        assert_eq!(scene.ended("injected_reset"), 1);
        assert_eq!(injector.counted(Side::Client, Kind::Reset), 1);
        assert_eq!(scene.counters()[0].failures, 0, "it is not the upstream's failure");
    });
}

/// Also before the first byte, of a client that sends none.
#[test]
fn an_ending_does_not_wait_for_further_bytes() {
    for after in [0, 5] {
        let always = Sometimes::always(after..=after);
        for (faults, is_reset) in [
            (Faults::default().with_reset(always.clone()), true),
            (Faults::default().with_half_close(always), false),
        ] {
            let scene = scene(World::new(1), &injector(to_client(faults)));
            let request: Bytes = if after == 0 { "".into() } else { "?".into() };
            let answer = [
                Act::ReceiveUntil(request.clone()),
                Act::Send(pattern(usize::try_from(after).unwrap())),
                Act::ReceiveAll,
            ];
            scene.upstream("upstream", answer.into());
            let acts = vec![Act::Send(request), Act::ReceiveAll, Act::Finish];
            let client = peer(&scene.world.host("client"), acts);
            scene.run_for(seconds(1));
            let received = client.take().expect("it ends at once");
            assert_eq!((received.fin, received.error.is_some()), (!is_reset, is_reset));
            assert_eq!(received.bytes.len() as u64, after);
            scene.end();
        }
    }
}

/// The client gets a FIN within the answer. Then it uploads, and gets the rest of nothing.
#[test]
fn a_half_close_leaves_the_other_direction_open() {
    for_each_seed(5, |seed| {
        let half_close = Faults::default().with_half_close(Sometimes::always(100..=100));
        let injector = injector(to_client(half_close));
        let scene = scene(tight(seed), &injector);
        scene.proxy.set_faults(sim::Faults::harmless(seed));
        let upstream = scene.upstream("upstream", download(6000));
        let acts = vec![
            Act::Send("?".into()),
            Act::ReceiveAll,
            Act::Wait(seconds(1)),
            Act::Send(pattern(4000)),
            Act::Finish,
        ];
        let client = peer(&scene.world.host("client"), acts);
        let received = scene.world.run_until(&client).unwrap();
        assert_eq!((received.bytes, received.fin), (pattern(100).to_vec(), true));
        let sent = scene.world.run_until(&upstream).unwrap();
        assert_eq!((&sent.bytes[1..], sent.fin), (&pattern(4000)[..], true));
        scene.end();
        assert_eq!(scene.ended("finished"), 1);
        assert_eq!(scene.dialled()[0].received.len(), 6000, "the rest is discarded");
        assert_eq!(injector.counted(Side::Client, Kind::HalfClose), 1);
    });
}

#[test]
fn a_black_hole_is_silent_until_both_sides_have_finished() {
    let black_hole = Faults::default().with_black_hole(Sometimes::always(100..=100));
    let injector = injector(to_client(black_hole));
    let scene = scene(World::new(1), &injector);
    let upstream = scene.upstream("upstream", download(6000));
    let acts = vec![Act::Send("?".into()), Act::Receive(100), Act::Wait(seconds(60)), Act::Finish];
    let client = peer(&scene.world.host("client"), acts);
    scene.run_for(seconds(59));
    let clients = scene.clients();
    assert_eq!((clients[0].sent.len(), clients[0].ending), (100, None));
    assert_eq!(scene.dialled()[0].received.len(), 6000, "the rest is discarded");
    assert_eq!(scene.world.run_until(&client).unwrap().bytes, pattern(100));
    let sent = scene.world.run_until(&upstream).unwrap();
    assert_eq!((&*sent.bytes, sent.fin), (&b"?"[..], true));
    scene.end();
    assert_eq!(scene.ended("finished"), 1);
}

#[test]
fn a_delay_and_a_stall_are_kept_to_the_time() {
    let delay = || Faults::default().with_delay(Sometimes::always(seconds(2)..=seconds(2)));
    let stall = Stall { after: 1..=1, time: seconds(30)..=seconds(30) };
    let plan = Plan::default()
        .with_to_upstream(delay())
        .with_to_client(delay().with_stall(Sometimes::always(stall)));
    let scene = scene(World::new(1), &injector(plan));
    scene.echo("upstream");
    let acts = vec![Act::Send("hello".into()), Act::Finish, Act::ReceiveAll];
    let client = peer(&scene.world.host("client"), acts);
    let start = scene.world.now();
    let received = scene.world.run_until(&client).unwrap();
    assert_eq!((&*received.bytes, received.fin), (&b"hello"[..], true));
    let took = scene.world.now().since(start).as_secs_f64();
    assert!((34.0..34.1).contains(&took), "{took}");
    scene.end();
}

#[test]
fn a_fin_that_comes_alone_is_delayed() {
    let delay = Faults::default().with_delay(Sometimes::always(seconds(2)..=seconds(2)));
    let scene = scene(World::new(1), &injector(Plan::default().with_to_upstream(delay)));
    scene.echo("upstream");
    let acts = vec![Act::Send("hello".into()), Act::Wait(seconds(5)), Act::Finish, Act::ReceiveAll];
    peer(&scene.world.host("client"), acts);
    scene.run_for(seconds(6));
    assert_eq!(scene.dialled()[0].ending, None);
    scene.run_for(seconds(2));
    assert_eq!(scene.dialled()[0].ending, Some(Ending::Fin));
    scene.end();
}

/// A stall that lasts longer than the idle timeout looks like an idle connection.
#[test]
fn the_idle_timeout_goes_on_during_a_stall() {
    let stall = Stall { after: 0..=0, time: seconds(3600)..=seconds(3600) };
    let plan = to_client(Faults::default().with_stall(Sometimes::always(stall)));
    let scene = scene(World::new(1), &injector(plan));
    scene.echo("upstream");
    let acts = vec![Act::Send("hello".into()), Act::ReceiveAll];
    let client = peer(&scene.world.host("client"), acts);
    let received = scene.world.run_until(&client).unwrap();
    assert_eq!(received.error, Some(ConnectionError::Reset));
    scene.end();
    assert_eq!(scene.ended("idle_timeout"), 1);
}

/// What a client sees, one connection after the other.
fn transcript(world: World, harmless: u64, injector: &Injector) -> Vec<(usize, bool)> {
    let scene = scene(world, injector);
    scene.proxy.set_faults(sim::Faults::harmless(harmless));
    let host = scene.world.host("upstream");
    let client = scene.world.host("client");
    client.set_faults(sim::Faults::harmless(harmless + 1));
    let seen = (0..10).map(|_| {
        let upstream = upstream_on(&host, "upstream", download(5000));
        let client = peer(&client, request());
        let received = scene.world.run_until(&client).unwrap();
        assert!(pattern(5000).starts_with(&received.bytes));
        scene.world.run_until(&upstream).unwrap();
        (received.bytes.len(), received.fin)
    });
    let seen = seen.collect();
    scene.end();
    seen
}

#[test]
fn the_same_seed_gives_each_connection_the_same_faults_in_every_world() {
    let faults = Faults::default()
        .with_slice(Sometimes {
            chance: 500,
            value: Slice { bytes: 1..=999, pause: ms(0)..=ms(5) },
        })
        .with_jitter(Sometimes { chance: 500, value: ms(0)..=ms(50) })
        .with_half_close(Sometimes { chance: 300, value: 0..=6000 })
        .with_reset(Sometimes { chance: 300, value: 0..=6000 });
    let seen = |run: u64, seed| {
        let injector = Injector::new(to_client(faults.clone()), seed).unwrap();
        transcript(tight(run), run, &injector)
    };
    let first = seen(1, 7);
    assert!(first.contains(&(5000, true)), "some are whole: {first:?}");
    assert!(first.iter().any(|(n, fin)| *n < 5000 && *fin), "some are half-closed: {first:?}");
    assert!(first.iter().any(|(_, fin)| !*fin), "some are reset: {first:?}");
    for_each_seed(2, |run| assert_eq!(seen(run * 5, 7), first));
    assert_ne!(seen(1, 8), first);
}

/// The header passes at once and whole. Positions begin behind it.
#[test]
fn a_proxy_header_to_the_upstream_has_no_faults() {
    let faults = Faults::default()
        .with_slice(Sometimes::always(Slice { bytes: 1..=1, pause: ms(1)..=ms(1) }))
        .with_half_close(Sometimes::always(3..=3));
    let config = small(4096).with_send_proxy(Version::V1);
    let injector = injector(Plan::default().with_to_upstream(faults));
    let scene = scene_with(World::new(1), config, &injector);
    let upstream = scene.upstream("upstream", vec![Act::ReceiveAll, Act::Finish]);
    let client =
        peer(&scene.world.host("client"), vec![Act::Send("hello".into()), Act::ReceiveAll]);
    let sent = scene.world.run_until(&upstream).unwrap();
    let accepted = &scene.clients()[0];
    let header = encode(Version::V1, Peer::Ip(accepted.remote), Some(accepted.local));
    assert_eq!(sent.bytes, [&header[..], b"hel"].concat());
    assert!(sent.fin);
    scene.world.run_until(&client).unwrap();
    scene.end();
}

/// Bytes that arrive together with a PROXY header are delayed as those that follow.
#[test]
fn bytes_behind_a_proxy_header_are_delayed() {
    let delay = Faults::default().with_delay(Sometimes::always(seconds(2)..=seconds(2)));
    let from = proxy_protocol::Config::default().with_from(["10.0.0.0/8".parse().unwrap()]);
    let config = small(4096).with_accept_proxy(HeaderPolicy::new(from).unwrap());
    let injector = injector(Plan::default().with_to_upstream(delay));
    let scene = scene_with(World::new(1), config, &injector);
    scene.echo("upstream");
    let header = encode(Version::V2, Peer::Local, None);
    let acts = [Act::Send([&header[..], b"hello"].concat().into()), Act::Receive(5), Act::Finish];
    let client = peer(&scene.world.host("client"), acts.into());
    let start = scene.world.now();
    assert_eq!(scene.world.run_until(&client).unwrap().bytes, b"hello");
    let took = scene.world.now().since(start).as_secs_f64();
    assert!((2.0..2.1).contains(&took), "{took}");
    scene.end();
}

#[test]
fn a_new_plan_is_for_new_connections() {
    let stall = Stall { after: 5..=5, time: seconds(60)..=seconds(60) };
    let stalled = to_client(Faults::default().with_stall(Sometimes::always(stall)));
    let injector = injector(stalled);
    let scene = scene(World::new(1), &injector);
    scene.echo("upstream");
    let client = scene.world.host("client");
    let acts = || vec![Act::Send("hello, hello".into()), Act::Finish, Act::ReceiveAll];
    let old = peer(&client, acts());
    scene.run_for(seconds(1));
    injector.set_plan(Plan::default()).unwrap();
    let new = peer(&client, acts());
    scene.run_for(seconds(1));
    assert_eq!(new.take().expect("it has no faults").bytes, b"hello, hello");
    assert!(old.take().is_none());
    assert_eq!(scene.world.run_until(&old).unwrap().bytes, b"hello, hello");
    scene.end();
}

/// Any plan on a network with harmful faults: each connection ends, what arrives is a prefix of
/// what was sent, and nothing is left.
#[test]
fn any_plan_ends_every_connection_and_changes_no_byte() {
    let chance = |seed: u64, bit: u64| u16::try_from((seed * 37 + bit * 211) % 1000 + 1).unwrap();
    for_each_seed(10, |seed| {
        // Slices stay small, and their pauses short, with large seeds as well.
        let small_seed = seed % 50;
        let faults = |bit: u64| {
            let with = |other: u64| chance(seed, bit + other);
            let stall = Stall { after: 0..=3000, time: ms(1)..=seconds(40) };
            Faults::default()
                .with_slice(Sometimes {
                    chance: with(0),
                    value: Slice { bytes: 1..=1 + small_seed * 40, pause: ms(0)..=ms(small_seed) },
                })
                .with_delay(Sometimes { chance: with(1), value: ms(0)..=seconds(3) })
                .with_jitter(Sometimes { chance: with(2), value: ms(0)..=ms(100) })
                .with_rate(Sometimes { chance: with(3), value: 100..=1_000_000 })
                .with_stall(Sometimes { chance: with(4), value: stall })
                .with_half_close(Sometimes { chance: with(5), value: 0..=9000 })
                .with_reset(Sometimes { chance: with(6), value: 0..=9000 })
                .with_black_hole(Sometimes { chance: with(7), value: 0..=9000 })
        };
        let plan = Plan::default().with_to_client(faults(0)).with_to_upstream(faults(8));
        let injector = Injector::new(plan, seed).unwrap();
        let scene = scene_with(tight(seed), small(1 << (seed % 13)), &injector);
        scene.proxy.set_faults(sim::Faults::harmful(seed));
        scene.echo("upstream").set_faults(sim::Faults::harmful(seed + 1));
        let client = scene.world.host("client");
        let loads: Vec<_> = (0..6).map(|_| load(&client, patient(2))).collect();
        // One byte at a time, each with a delay of seconds, takes hours.
        scene.run_for(seconds(48 * 3600));
        for loading in loads {
            let ended = loading.take().expect("a load ends");
            let is_corrupted = matches!(
                ended,
                Ended::Reason(LoadReason::Mismatch { .. } | LoadReason::Surplus { .. })
            );
            assert!(!is_corrupted, "{ended:?}");
        }
        assert_eq!(scene.table.totals().open, 0);
        scene.end();
    });
}
