//! Clients that wait for their server, and the pace of the load generator.

use std::{
    io::ErrorKind,
    num::{NonZeroU64, NonZeroUsize},
    time::Duration,
};

use wirestate_command_line::load::{Load, LoadConfig, LoadReason, Pace, Schedule};
use wirestate_core::{
    buffer::Pool,
    drive::{Clock as _, Drive, Ended},
    echo::Config,
    runtime::{Runtime as _, connect_retrying},
    serve::ServerHandle,
    shared::{Lock, Shared},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    sim::{Leftovers, World},
};

use crate::scene::{Scene, seconds};

const SECOND: Duration = Duration::from_secs(1);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Connects to a server that listens after `delay`. Returns the error, and how long that took.
fn connect_to_late_server(
    delay: Duration,
    limit: Option<Duration>,
    retry_for: Duration,
) -> (Option<ErrorKind>, Duration) {
    let world = World::new(1);
    let (server, client) = (world.host("server"), world.host("client"));
    let runtime = server.clone();
    drop(server.run(async move {
        runtime.sleep(delay).await;
        let listener = runtime.listen("server:7").unwrap();
        runtime.sleep(seconds(60)).await;
        drop(listener);
    }));
    let runtime = client.clone();
    let connecting = client.run(async move {
        let began = runtime.clock().now();
        let connected = connect_retrying(&runtime, "server:7", limit, retry_for).await;
        (connected.err().map(|error| error.kind()), runtime.clock().now().since(began))
    });
    let outcome = world.run_until(&connecting).unwrap();
    world.run().unwrap();
    assert_eq!(world.leftovers(), Leftovers::default());
    outcome
}

#[test]
fn a_refused_connection_is_retried_until_the_server_listens() {
    let (error, time) = connect_to_late_server(millis(700), None, SECOND);
    assert_eq!(error, None);
    assert!((millis(700)..millis(850)).contains(&time), "{time:?}");
}

#[test]
fn a_retry_ends_with_the_error_and_within_its_limits() {
    for (limit, retry_for, most) in [
        (None, SECOND, SECOND),
        (Some(millis(300)), SECOND, millis(300)),
        (Some(seconds(10)), Duration::ZERO, millis(10)),
    ] {
        let (error, time) = connect_to_late_server(seconds(30), limit, retry_for);
        assert_eq!(error, Some(ErrorKind::ConnectionRefused), "{limit:?} {retry_for:?}");
        let least = most.saturating_sub(millis(110));
        assert!((least..=most).contains(&time), "{limit:?} {retry_for:?}: {time:?}");
    }
}

#[test]
fn no_other_error_is_retried() {
    let world = World::new(1);
    let client = world.host("client");
    let runtime = client.clone();
    let connecting = client.run(async move {
        let connected = connect_retrying(&runtime, "10.9.9.9:7", None, SECOND).await;
        connected.err().map(|error| error.kind())
    });
    assert_eq!(world.run_until(&connecting).unwrap(), Some(ErrorKind::HostUnreachable));
    let attempts = world.trace().entries().len();
    assert_eq!(attempts, 2, "one attempt and its answer: {:?}", world.trace().entries());
}

/// Runs a load whose server is stopped for 2 s, after half a second. Returns the latencies of the
/// messages.
fn latencies_of_stalled_server(seed: u64, config: LoadConfig) -> Vec<Duration> {
    let scene = Scene::with(World::new(seed), Config::default(), ServerHandle::default());
    let client = scene.world.host("client");
    let latencies = Shared::new(Lock::new(Vec::new()));
    let (runtime, recorded) = (client.clone(), latencies.clone());
    let loading = client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        let clock = runtime.clock();
        let record = move |latency| recorded.with(|latencies| latencies.push(latency));
        let load = Load::new(config, Pool::new(512, 1), clock.now(), record).unwrap();
        Drive::new(Checked::new(load, 100_000), socket, clock).await
    });
    scene.world.run_for(millis(500)).unwrap();
    scene.server.stop_for(seconds(2));
    let ended = scene.world.run_until(&loading).unwrap();
    assert!(matches!(ended, Ended::Reason(LoadReason::Complete { .. })), "{ended:?}");
    scene.end();
    latencies.with(|latencies| latencies.clone())
}

/// In an open loop, the 40 messages that are due during the stall wait for its end. A closed loop
/// sends none of them.
#[test]
fn a_stalled_server_shows_in_the_latencies_of_an_open_loop_and_not_of_a_closed_one() {
    for_each_seed(3, |seed| {
        let config = || LoadConfig::default().with_messages(["x".into()]).with_pace(Pace::Lockstep);
        let is_slow = |latency: &&Duration| **latency > millis(500);

        let closed = latencies_of_stalled_server(seed, config().with_rounds(300));
        assert_eq!((closed.len(), closed.iter().filter(is_slow).count()), (300, 1));

        let schedule = Schedule {
            rate: NonZeroU64::new(20).unwrap(),
            connections: NonZeroUsize::MIN,
            index: 0,
        };
        for pace in [Pace::Lockstep, Pace::Pipelined(NonZeroUsize::new(1000).unwrap())] {
            let config = config().with_rounds(100).with_schedule(schedule).with_pace(pace);
            let open = latencies_of_stalled_server(seed, config);
            let slow: Vec<_> = open.iter().filter(is_slow).collect();
            assert_eq!(open.len(), 100);
            // Due in the first 1.5 s of the 2 s, each 50 ms after the one before.
            assert!(slow.len() >= 28, "{pace:?}: {}", slow.len());
            assert!(slow.iter().any(|latency| **latency > millis(1900)), "{slow:?}");
        }
    });
}

#[test]
fn connections_take_turns_and_messages_are_sent_when_they_are_due() {
    let scene = Scene::new(1);
    let client = scene.world.host("client");
    let connections = NonZeroUsize::new(4).unwrap();
    let began = scene.world.now();
    let loads: Vec<_> = (0..4)
        .map(|index| {
            let rate = NonZeroU64::new(40).unwrap();
            let config = LoadConfig::default()
                .with_messages(["x".into()])
                .with_rounds(20)
                // Shorter than the time until the next message.
                .with_idle_timeout(millis(60))
                .with_schedule(Schedule { rate, connections, index });
            crate::scene::load(&client, config)
        })
        .collect();
    // Each connection sends 10 messages a second. The last one is due after 1.9 s.
    let sent = || scene.world.records().iter().map(|record| record.received.len()).sum::<usize>();
    scene.world.run_for(millis(1050)).unwrap();
    assert!((2 * 38..=2 * 44).contains(&sent()), "{}", sent());
    for load in &loads {
        let ended = scene.world.run_until(load).unwrap();
        assert!(matches!(ended, Ended::Reason(LoadReason::Complete { bytes: 20 })), "{ended:?}");
    }
    let last = scene.world.now().since(began);
    assert!((millis(1975)..millis(2300)).contains(&last), "{last:?}");
    scene.end();
}
