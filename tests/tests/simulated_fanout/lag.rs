//! Subscribers that read too slowly or not at all, and their cost to the others.

use wirestate_core::{ConnectionError, fanout::LagPolicy};
use wirestate_testkit::sim::{Act, Faults};

use crate::scene::{Scene, all, config, millis, numbers, whole};

/// A number of messages that fill the window and the kernel's buffers several times.
const MANY: u64 = 20_000;

/// A subscriber that reads nothing for two minutes.
fn dead() -> Vec<Act> {
    vec![Act::Wait(millis(120_000)), Act::ReceiveAll]
}

#[test]
fn a_dead_subscriber_delays_the_others_by_the_lag_wait_and_is_disconnected() {
    let scene = Scene::new(1, config(), vec![whole(0, MANY)]);
    let (dead, healthy) = (scene.subscriber("dead", dead()), scene.subscriber("healthy", all()));
    scene.run_for(millis(60_000));
    assert_eq!((scene.ended("lagged"), scene.counters().lagged), (1, 1));
    let paused = scene.counters().paused;
    assert!(paused >= millis(1000) && paused < millis(2000), "{paused:?}");
    scene.end();
    assert_eq!(numbers(&healthy.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
    let dead = dead.take().unwrap();
    assert_eq!(dead.error, Some(ConnectionError::Reset), "a FIN would hide the gap");
    assert!(numbers(&dead.bytes).iter().copied().eq(0..dead.bytes.len() as u64 / 100));
}

#[test]
fn a_subscriber_that_stalls_skips_complete_messages_that_are_counted() {
    let scene = Scene::new(2, config().with_on_lag(LagPolicy::Skip), vec![whole(4000, MANY)]);
    let slow = vec![Act::Receive(12_345), Act::Wait(millis(4000)), Act::ReceiveAll];
    let (slow, healthy) = (scene.subscriber("slow", slow), scene.subscriber("healthy", all()));
    scene.run_for(millis(60_000));
    let paused = scene.counters().paused;
    assert!(paused <= millis(1100), "{paused:?}");
    scene.end();
    assert_eq!(numbers(&healthy.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
    let slow = slow.take().unwrap();
    assert_eq!((slow.fin, slow.bytes.len() % 100), (true, 0));
    let received = numbers(&slow.bytes);
    assert!(received.is_sorted_by(|a, b| a < b) && received.last() == Some(&(MANY - 1)));
    let counters = scene.counters();
    assert!(counters.skipped > 0);
    assert_eq!(counters.skipped, MANY - received.len() as u64, "skipped messages are not counted");
    assert_eq!(counters.delivered, MANY + received.len() as u64);
}

#[test]
fn a_dead_subscriber_is_reset_although_it_could_skip_without_end() {
    let scene = Scene::new(3, config().with_on_lag(LagPolicy::Skip), vec![whole(500, MANY)]);
    let dead = scene.subscriber("dead", dead());
    let _healthy = scene.subscriber("healthy", all());
    scene.run_for(millis(20_000));
    assert_eq!(scene.ended("write_stalled"), 1);
    assert!(scene.counters().paused <= millis(1100));
    scene.end();
    assert_eq!(
        scene.world.run_until(&dead).ok().map(|received| received.error),
        Some(Some(ConnectionError::Reset))
    );
}

#[test]
fn with_block_a_slow_subscriber_misses_nothing_and_a_dead_one_is_reset() {
    let scene = Scene::new(4, config().with_on_lag(LagPolicy::Block), vec![whole(0, MANY)]);
    let slow = vec![Act::Receive(12_345), Act::Wait(millis(5000)), Act::ReceiveAll];
    let (dead, slow) = (scene.subscriber("dead", dead()), scene.subscriber("slow", slow));
    let healthy = scene.subscriber("healthy", all());
    scene.run_for(millis(60_000));
    assert_eq!(scene.ended("write_stalled"), 1);
    let paused = scene.counters().paused;
    assert!(paused > millis(9000) && paused < millis(12_000), "{paused:?}");
    scene.end();
    for received in [slow, healthy] {
        assert_eq!(numbers(&received.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
    }
    assert_eq!(dead.take().unwrap().error, Some(ConnectionError::Reset));
}

/// The kernel enlarges its send buffer while the subscriber's receive window is closed: that is no
/// progress, and does not extend the pause.
#[test]
fn a_dead_subscriber_is_reset_in_time_although_the_kernel_accepts_output() {
    let scene = Scene::new(6, config().with_on_lag(LagPolicy::Block), vec![whole(0, MANY)]);
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
        scene.world.run_until(&dead).ok().map(|received| received.error),
        Some(Some(ConnectionError::Reset))
    );
}

/// No subscriber waits, so the slowest one sets the pace, and none misses a message.
#[test]
fn slow_subscribers_get_everything_of_a_source_that_is_faster_than_all_of_them() {
    let scene = Scene::new(6, config(), vec![whole(0, MANY)]);
    let little = [Act::Receive(20_000), Act::Wait(millis(100))];
    let slow: Vec<_> = little.into_iter().cycle().take(200).chain(all()).collect();
    let slow = ["slow", "slow too"].map(|name| scene.subscriber(name, slow.clone()));
    scene.run_for(millis(60_000));
    let counters = scene.counters();
    assert!(counters.paused > millis(3000), "{:?}", counters.paused);
    assert!(counters.paused_waiting < millis(1000), "{:?}", counters.paused_waiting);
    scene.end();
    for received in slow {
        assert_eq!(numbers(&received.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
    }
}

/// While no subscriber waits, the write timeout limits the pause; while one waits, the lag wait.
#[test]
fn a_dead_subscriber_pauses_the_upstream_until_it_is_reset_or_another_one_waits() {
    let scene = Scene::new(7, config(), vec![whole(0, MANY)]);
    let first = scene.subscriber("dead", dead());
    scene.run_for(millis(60_000));
    let paused = scene.counters().paused;
    assert!(paused > millis(9000) && paused < millis(11_000), "{paused:?}");
    assert_eq!(first.take(), None, "the dead subscriber has ended");
    assert_eq!((scene.ended("write_stalled"), scene.counters().messages_in), (1, MANY));
    scene.end();

    let scene = Scene::new(8, config(), vec![whole(0, MANY)]);
    let dead = scene.subscriber("dead", dead());
    scene.run_for(millis(5000));
    let late = scene.subscriber("late", all());
    scene.run_for(millis(20_000));
    let counters = scene.counters();
    assert_eq!((scene.ended("lagged"), counters.messages_in), (1, MANY));
    assert_eq!(
        counters.paused_waiting,
        millis(1000),
        "the upstream is not paused for the dead subscriber, which had caught up"
    );
    scene.end();
    assert!(numbers(&late.take().unwrap().bytes).ends_with(&[MANY - 1]));
    assert_eq!(dead.take().unwrap().error, Some(ConnectionError::Reset));
}

#[test]
fn without_a_lag_wait_the_upstream_is_never_paused() {
    let scene = Scene::new(5, config().with_lag_wait(millis(0)), vec![whole(2000, MANY)]);
    let (_dead, healthy) = (scene.subscriber("dead", dead()), scene.subscriber("healthy", all()));
    scene.run_for(millis(60_000));
    assert_eq!((scene.ended("lagged"), scene.counters().paused), (1, millis(0)));
    scene.end();
    assert_eq!(numbers(&healthy.take().unwrap().bytes), (0..MANY).collect::<Vec<_>>());
}
