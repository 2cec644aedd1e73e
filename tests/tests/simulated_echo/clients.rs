//! Clients that wait for their server, and the pace of the load generator.

use std::{
    future::poll_fn,
    io::ErrorKind,
    num::{NonZeroU64, NonZeroUsize},
    time::Duration,
};

use bytes::Bytes;
use wirestate_command_line::load::{Load, LoadConfig, LoadReason, Pace, Schedule};
use wirestate_core::{
    Reason as _,
    buffer::Pool,
    drive::{Clock as _, Drive, Ended},
    echo::{Config, StreamClient, StreamConfig, StreamReason},
    runtime::{Listener as _, Runtime as _, connect_retrying},
    serve::ServerHandle,
    shared::{Lock, Shared},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    sim::{Act, Faults, Latency, Leftovers, Settings, World, act},
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
    // A closed loop of 300 messages lasts for more than half a second.
    let latency = Latency::PerConnection(millis(2)..=millis(5));
    let world = World::with(seed, Settings { latency, ..Settings::default() });
    let scene = Scene::with(world, Config::default(), ServerHandle::default());
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

/// Both directions are full, short and interrupted; the client's output is taken slowly.
#[test]
fn a_stream_passes_through_in_both_directions() {
    for_each_seed(30, |seed| {
        let settings = Settings { buffer: 700, ..Settings::default() };
        let scene =
            Scene::with(World::with(seed, settings), Config::default(), ServerHandle::default());
        let client = scene.world.host("client");
        client.set_faults(Faults::harmless(seed));
        scene.server.set_faults(Faults::harmless(seed + 1));
        let sent: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).collect();
        let (runtime, mut input) = (client.clone(), Bytes::from(sent.clone()));
        let passing = client.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            let clock = runtime.clock();
            let config = StreamConfig::default().with_idle_timeout(seconds(600));
            let client = Checked::new(StreamClient::new(config).unwrap(), 9000);
            let mut drive = Drive::new(client, socket, clock);
            let mut received = Vec::new();
            loop {
                let next = drive.until(|client, now| {
                    let client = client.machine_mut();
                    if client.wants_input() {
                        match input.len() {
                            0 => client.finish(now),
                            n => drop(client.send(input.split_to(n.min(9000)), now)),
                        }
                    }
                    client.take(now)
                });
                match next.await {
                    Ok(block) => received.extend_from_slice(&block),
                    Err(ended) => return (received, ended),
                }
                runtime.sleep(millis(10)).await;
            }
        });
        let (received, ended) = scene.world.run_until(&passing).unwrap();
        let complete = StreamReason::Complete { sent: 80_000, received: 80_000 };
        assert_eq!(ended, Ended::Reason(complete));
        assert!(received == sent, "{} bytes", received.len());
        scene.end();
    });
}

/// The server's answers are scripted. Returns what the client received, and why it ended.
fn pass_through(acts: Vec<Act>, input: &'static str, finishes: bool) -> (Vec<u8>, StreamReason) {
    let world = World::new(1);
    let (server, client) = (world.host("server"), world.host("client"));
    let mut listener = server.listen("server:7").unwrap();
    let runtime = server.clone();
    drop(server.run(async move {
        let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        act(runtime, socket, acts).await
    }));
    let runtime = client.clone();
    let passing = client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        let clock = runtime.clock();
        let mut client = Checked::new(StreamClient::new(StreamConfig::default()).unwrap(), 100);
        client.machine_mut().send(input.into(), clock.now());
        if finishes {
            client.machine_mut().finish(clock.now());
        }
        let mut drive = Drive::new(client, socket, clock);
        let mut received = Vec::new();
        loop {
            match drive.until(|client, now| client.machine_mut().take(now)).await {
                Ok(block) => received.extend_from_slice(&block),
                Err(Ended::Reason(reason)) => return (received, reason),
                Err(Ended::Aborted) => unreachable!("there is no table"),
            }
        }
    });
    let passed = world.run_until(&passing).unwrap();
    world.clear();
    passed
}

#[test]
fn the_end_of_a_stream_has_a_reason_and_what_came_before_is_received() {
    let receive = || Act::Receive(5);
    let answer = || Act::Send("answer".into());
    let wait = || Act::Wait(seconds(100));
    let cases: [(Vec<Act>, bool, &str, &str); 5] = [
        (vec![Act::ReceiveAll, answer()], true, "answer", "complete"),
        (vec![receive(), answer()], false, "answer", "closed"),
        (vec![receive(), answer(), Act::Wait(seconds(1)), Act::Reset], false, "answer", "reset"),
        (vec![Act::ReceiveAll, wait()], true, "", "idle_timeout"),
        // The input may be silent for any time.
        (vec![receive(), wait(), answer()], false, "answer", "closed"),
    ];
    for (acts, finishes, received, label) in cases {
        let passed = pass_through(acts.clone(), "hello", finishes);
        let (bytes, reason) = (&*passed.0, passed.1.label());
        assert_eq!((bytes, reason), (received.as_bytes(), label), "{acts:?}");
    }
}
