//! Subscribers that pause the upstream repeatedly on purpose, and the cost to those that read.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use wirestate_core::{drive::Source as _, fanout::LagPolicy, runtime::Runtime as _};
use wirestate_testkit::sim::{Host, Latency, Settings, Socket, World};

use crate::scene::{Scene, all, config, millis, numbers, whole};

/// The time after which the upstream begins to send.
const BEGIN: Duration = millis(1000);
/// The time from then until the published messages are checked.
const DURATION: Duration = millis(2000);
const LAG_WAIT: Duration = millis(200);

/// Runs `attack` beside two subscribers that read, at two rates. They get all published messages,
/// which are at least 85 % of the upstream's. The scene's meter checks the length of the
/// pauses.
fn healthy_subscribers_get_the_feed(attack: impl Fn(&Scene)) {
    // The window and the buffers of a connection hold less than arrives within the lag wait.
    let slow = (1000, 16 * 1024, 4096);
    let fast = (20_000, 256 * 1024, 64 * 1024);
    for ((rate, window, buffer), on_lag) in
        [(slow, LagPolicy::Disconnect), (slow, LagPolicy::Skip), (fast, LagPolicy::Disconnect)]
    {
        let offered = rate * DURATION.as_secs();
        let config = config().with_on_lag(on_lag).with_window(window).with_lag_wait(LAG_WAIT);
        let latency = Duration::from_micros(50)..=Duration::from_micros(500);
        let latency = Latency::PerConnection(latency);
        let world = World::with(1, Settings { buffer, latency, ..Settings::default() });
        let scene = Scene::in_world(world, config, vec![whole(rate, 2 * offered)]);
        let healthy = ["healthy", "healthy too"].map(|name| scene.subscriber(name, all()));
        attack(&scene);
        scene.run_for(BEGIN + DURATION);
        let (counters, paused) = (scene.counters(), scene.meter.total());
        scene.shutdown.drain();
        for healthy in healthy {
            let received = numbers(&scene.world.run_until(&healthy).unwrap().bytes);
            assert!(received.iter().copied().eq(0..received.len() as u64), "a message is missing");
            assert!(received.len() as u64 >= counters.messages_in);
        }
        scene.world.clear();
        let share = counters.messages_in * 100 / offered;
        assert!(share >= 85, "{share} % at {rate}/s, paused for {paused:?} ({on_lag:?})");
        assert!(paused > Duration::ZERO, "no subscriber has lagged");
    }
}

/// Reads all that arrives for `duration`; returns false if the connection ends.
async fn read_for(host: &Host, socket: &mut Socket, duration: Duration) -> bool {
    let mut sleep = pin!(host.sleep(duration));
    let mut buf = vec![0; 64 * 1024];
    poll_fn(|cx| {
        loop {
            match socket.poll_read(cx, &mut buf) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => return sleep.as_mut().poll(cx).map(|()| true),
            }
        }
    })
    .await
}

/// An attacker connects at `first`. It reads nothing for `sleeps`, then everything for `reads`, and
/// repeats that `rounds` times. Then, or when the connection is lost, it connects again.
#[derive(Clone, Copy, Debug)]
struct Attack {
    first: Duration,
    sleeps: Duration,
    reads: Duration,
    rounds: usize,
}

impl Attack {
    fn begin(self, scene: &Scene, name: &str) {
        let host = scene.world.host(name);
        let runtime = host.clone();
        host.run(async move {
            runtime.sleep(self.first).await;
            while let Ok(mut socket) = runtime.connect("server:1235").await {
                for _ in 0..self.rounds {
                    runtime.sleep(self.sleeps).await;
                    let reads = !self.reads.is_zero();
                    if reads && !read_for(&runtime, &mut socket, self.reads).await {
                        break;
                    }
                }
            }
        });
    }
}

#[test]
fn subscribers_that_do_not_read_and_reconnect_do_not_stop_the_feed_for_others() {
    healthy_subscribers_get_the_feed(|scene| {
        for number in 0..12 {
            let first = BEGIN + millis(number * 37);
            let attack = Attack { first, sleeps: millis(400), reads: millis(0), rounds: 1 };
            attack.begin(scene, &format!("not reading {number}"));
        }
    });
}

#[test]
fn a_subscriber_that_sleeps_and_catches_up_repeatedly_does_not_stop_the_feed_for_others() {
    healthy_subscribers_get_the_feed(|scene| {
        let (sleeps, reads) = (millis(250), millis(50));
        Attack { first: BEGIN, sleeps, reads, rounds: usize::MAX }.begin(scene, "sleeping");
    });
}
