//! Subscribers that read too slowly or not at all, and what they cost the others.

use wirestate_core::{
    ConnectionError,
    fanout::{Config, LagPolicy},
};
use wirestate_testkit::sim::{Act, Faults};

use crate::scene::{Scene, all, config, millis, numbers, whole};

/// Messages that fill the window and the kernel's buffers several times.
const MANY: u64 = 20_000;

fn dead() -> Vec<Act> {
    vec![Act::Wait(millis(120_000)), Act::ReceiveAll]
}

#[test]
fn a_dead_subscriber_delays_the_others_by_the_lag_wait_and_is_disconnected() {
    let scene = Scene::new(1, config(), vec![whole(0, MANY)]);
    let (dead, healthy) = (scene.subscriber("dead", dead()), scene.subscriber("healthy", all()));
    scene.run_for(millis(60_000));
    assert_eq!((scene.ended("lagged"), scene.counters().lagged), (1, 1));
    let held = scene.counters().held;
    assert!(held >= millis(1000) && held < millis(2000), "{held:?}");
    scene.end();
    assert_eq!(numbers(&healthy.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
    let dead = dead.take().unwrap();
    assert_eq!(dead.error, Some(ConnectionError::Reset), "a FIN would hide the gap");
    assert!(numbers(&dead.bytes).iter().copied().eq(0..dead.bytes.len() as u64 / 100));
}

#[test]
fn who_stalls_for_a_while_skips_whole_messages_that_are_counted() {
    let scene =
        Scene::new(2, Config { on_lag: LagPolicy::Skip, ..config() }, vec![whole(4000, MANY)]);
    let slow = vec![Act::Receive(12_345), Act::Wait(millis(4000)), Act::ReceiveAll];
    let (slow, healthy) = (scene.subscriber("slow", slow), scene.subscriber("healthy", all()));
    scene.run_for(millis(60_000));
    let held = scene.counters().held;
    assert!(held <= millis(1100), "{held:?}");
    scene.end();
    assert_eq!(numbers(&healthy.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
    let slow = slow.take().unwrap();
    assert_eq!((slow.fin, slow.bytes.len() % 100), (true, 0));
    let heard = numbers(&slow.bytes);
    assert!(heard.is_sorted_by(|a, b| a < b) && heard.last() == Some(&(MANY - 1)));
    let counters = scene.counters();
    assert!(counters.skipped > 0);
    assert_eq!(counters.skipped, MANY - heard.len() as u64, "the gaps are what was counted");
    assert_eq!(counters.delivered, MANY + heard.len() as u64);
}

#[test]
fn who_is_dead_is_reset_also_where_it_could_skip_for_ever() {
    let scene =
        Scene::new(3, Config { on_lag: LagPolicy::Skip, ..config() }, vec![whole(500, MANY)]);
    let dead = scene.subscriber("dead", dead());
    let _healthy = scene.subscriber("healthy", all());
    scene.run_for(millis(20_000));
    assert_eq!(scene.ended("write_stalled"), 1);
    assert!(scene.counters().held <= millis(1100));
    scene.end();
    assert_eq!(
        scene.world.run_until(&dead).ok().map(|heard| heard.error),
        Some(Some(ConnectionError::Reset))
    );
}

#[test]
fn where_the_upstream_is_blocked_a_slow_one_loses_nothing_and_a_dead_one_is_reset() {
    let scene =
        Scene::new(4, Config { on_lag: LagPolicy::Block, ..config() }, vec![whole(0, MANY)]);
    let slow = vec![Act::Receive(12_345), Act::Wait(millis(5000)), Act::ReceiveAll];
    let (dead, slow) = (scene.subscriber("dead", dead()), scene.subscriber("slow", slow));
    let healthy = scene.subscriber("healthy", all());
    scene.run_for(millis(60_000));
    assert_eq!(scene.ended("write_stalled"), 1);
    let held = scene.counters().held;
    assert!(held > millis(9000) && held < millis(12_000), "{held:?}");
    scene.end();
    for heard in [slow, healthy] {
        assert_eq!(numbers(&heard.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
    }
    assert_eq!(dead.take().unwrap().error, Some(ConnectionError::Reset));
}

/// The kernel enlarges its send buffer while the subscriber's window is closed. That is no
/// progress, and does not pause the upstream.
#[test]
fn a_dead_one_is_reset_in_time_whatever_the_kernel_takes() {
    let scene =
        Scene::new(6, Config { on_lag: LagPolicy::Block, ..config() }, vec![whole(0, MANY)]);
    scene.server.set_faults(Faults { send_buffer_grows: 1000, ..Faults::NONE });
    let (dead, healthy) = (scene.subscriber("dead", dead()), scene.subscriber("healthy", all()));
    scene.run_for(millis(11_000));
    assert_eq!(scene.ended("write_stalled"), 0);
    scene.run_for(millis(2000));
    assert_eq!(scene.ended("write_stalled"), 1);
    scene.run_for(millis(60_000));
    scene.end();
    assert_eq!(numbers(&healthy.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
    assert_eq!(
        scene.world.run_until(&dead).ok().map(|heard| heard.error),
        Some(Some(ConnectionError::Reset))
    );
}

/// No subscriber waits for data, so the upstream follows their pace, and they lose nothing.
#[test]
fn slow_subscribers_get_everything_of_a_source_that_is_faster_than_all_of_them() {
    let scene = Scene::new(6, config(), vec![whole(0, MANY)]);
    let little = [Act::Receive(20_000), Act::Wait(millis(100))];
    let slow: Vec<_> = little.into_iter().cycle().take(200).chain(all()).collect();
    let slow = ["slow", "slow too"].map(|name| scene.subscriber(name, slow.clone()));
    scene.run_for(millis(60_000));
    let counters = scene.counters();
    assert!(counters.held > millis(3000), "{:?}", counters.held);
    assert!(counters.held_waiting < millis(1000), "{:?}", counters.held_waiting);
    scene.end();
    for heard in slow {
        assert_eq!(numbers(&heard.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
    }
}

/// While no subscriber waits for data, the limit is the time without a byte. While one does, it is
/// the lag wait.
#[test]
fn a_dead_subscriber_holds_the_upstream_alone_until_it_is_reset_or_somebody_waits() {
    let scene = Scene::new(7, config(), vec![whole(0, MANY)]);
    let first = scene.subscriber("dead", dead());
    scene.run_for(millis(60_000));
    let held = scene.counters().held;
    assert!(held > millis(9000) && held < millis(11_000), "{held:?}");
    assert_eq!(first.take(), None, "it sleeps still");
    assert_eq!((scene.ended("write_stalled"), scene.counters().messages_in), (1, MANY));
    scene.end();

    let scene = Scene::new(8, config(), vec![whole(0, MANY)]);
    let dead = scene.subscriber("dead", dead());
    scene.run_for(millis(5000));
    let late = scene.subscriber("late", all());
    scene.run_for(millis(20_000));
    let counters = scene.counters();
    assert_eq!((scene.ended("lagged"), counters.messages_in), (1, MANY));
    assert_eq!(counters.held_waiting, millis(1000), "its connection held a few: it had kept up");
    scene.end();
    assert!(numbers(&late.take().unwrap().bytes).ends_with(&[MANY - 1]));
    assert_eq!(dead.take().unwrap().error, Some(ConnectionError::Reset));
}

#[test]
fn without_a_lag_wait_the_upstream_is_never_held() {
    let scene = Scene::new(5, Config { lag_wait: millis(0), ..config() }, vec![whole(2000, MANY)]);
    let (_dead, healthy) = (scene.subscriber("dead", dead()), scene.subscriber("healthy", all()));
    scene.run_for(millis(60_000));
    assert_eq!((scene.ended("lagged"), scene.counters().held), (1, millis(0)));
    scene.end();
    assert_eq!(numbers(&healthy.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
}
