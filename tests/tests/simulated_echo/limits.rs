//! Deadlines, limits, and the shutdown of a server.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use wirestate_command_line::load::{LoadConfig, LoadReason};
use wirestate_core::{
    ConnectionError,
    admission::Limits,
    drive::Ended,
    echo::{Config, Server},
    runtime::Runtime,
    serve::{self, DrainReport, ServerHandle},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Host, Settings, World},
};

use crate::{
    observed::{Input, Observed},
    scene::{Scene, load, patient, peer, seconds},
};

#[test]
fn a_silent_peer_is_ended_at_the_deadline_and_not_before() {
    let scene = Scene::new(1);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Send("hi".into()), Act::ReceiveAll]);
    scene.world.run_for(seconds(299)).unwrap();
    assert_eq!((received.take(), scene.ended("idle_timeout")), (None, 0));
    scene.world.run_for(seconds(2)).unwrap();
    let received = received.take().unwrap();
    assert_eq!(
        (&*received.bytes, received.fin),
        (&b"hi"[..], true),
        "the connection does not end cleanly"
    );
    assert_eq!(scene.ended("idle_timeout"), 1);
    scene.end();
}

#[test]
fn a_peer_that_reads_nothing_is_reset_at_the_deadline() {
    let scene = Scene::new(2);
    let client = scene.world.host("client");
    let acts = vec![Act::Send(vec![1; 30_000].into()), Act::Wait(seconds(400)), Act::ReceiveAll];
    let received = peer(&client, acts);
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!(received.error, Some(ConnectionError::Reset), "a FIN would hide the lost bytes");
    assert_eq!(scene.ended("idle_timeout"), 1);
    scene.end();
}

#[test]
fn a_peer_that_vanishes_is_ended_by_the_deadline() {
    let scene = Scene::new(3);
    let client = scene.world.host("client");
    peer(&client, vec![Act::Send("hi".into()), Act::ReceiveAll]);
    scene.world.run_for(seconds(1)).unwrap();
    client.set_unplugged(true);
    scene.world.run_for(seconds(301)).unwrap();
    assert_eq!(scene.ended("idle_timeout"), 1);
    scene.world.clear(); // the client waits without end
}

#[test]
fn beyond_the_limit_connections_are_refused_and_later_admitted_again() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let scene = Scene::with(
        World::new(4),
        Config::default(),
        ServerHandle::new(serve::Config::default().with_limits(limits)),
    );
    let client = scene.world.host("client");
    let stay = vec![Act::Send("hi".into()), Act::Receive(2), Act::Wait(seconds(5))];
    let stayed = [peer(&client, stay.clone()), peer(&client, stay)];
    scene.world.run_for(seconds(1)).unwrap();
    let refused = peer(&client, vec![Act::ReceiveAll]);
    assert!(scene.world.run_until(&refused).unwrap().fin, "a refused connection gets no FIN");
    for received in stayed {
        assert_eq!(scene.world.run_until(&received).unwrap().bytes, b"hi");
    }
    scene.world.run_for(seconds(1)).unwrap();
    let ended = scene.world.run_until(&load(&client, LoadConfig::default())).unwrap();
    assert!(matches!(ended, Ended::Reason(LoadReason::Complete { .. })), "{ended:?}");
    scene.end();
    assert_eq!(scene.table.totals().refused, BTreeMap::from([("connections", 1)]));
}

#[test]
fn other_limits_apply_from_the_next_connection_on() {
    let limits = |connections| Limits { connections, ..Limits::default() };
    let config = |connections| serve::Config::default().with_limits(limits(connections));
    let handle = ServerHandle::new(config(2));
    let scene = Scene::with(World::new(12), Config::default(), handle.clone());
    let client = scene.world.host("client");
    let stay =
        || peer(&client, vec![Act::Send("hi".into()), Act::Receive(2), Act::Wait(seconds(5))]);
    let stayed = [stay(), stay()];
    scene.world.run_for(seconds(1)).unwrap();
    handle.reconfigure(&config(1));
    let refused = peer(&client, vec![Act::ReceiveAll]);
    assert!(scene.world.run_until(&refused).unwrap().fin);
    handle.reconfigure(&config(3));
    let third = stay();
    for received in stayed.into_iter().chain([third]) {
        assert_eq!(scene.world.run_until(&received).unwrap().bytes, b"hi");
    }
    scene.end();
    assert_eq!(scene.table.totals().refused, BTreeMap::from([("connections", 1)]));
}

#[test]
fn a_soft_stop_accepts_nothing_more_and_open_connections_stay_until_a_drain() {
    let scene = Scene::new(13);
    let client = scene.world.host("client");
    let talk = vec![Act::Send("a".into()), Act::Receive(1), Act::Wait(seconds(60))];
    let talk = [talk, vec![Act::Send("b".into()), Act::Receive(1), Act::ReceiveAll]].concat();
    let talking = peer(&client, talk);
    scene.world.run_for(seconds(1)).unwrap();
    scene.shutdown.soft_stop();
    scene.world.run_for(seconds(1)).unwrap();
    let connecting = client.clone();
    let late = client.run(async move { connecting.connect("server:7").await.is_err() });
    scene.world.run_for(seconds(100)).unwrap();
    assert!(talking.take().is_none(), "the soft stop has ended a connection");
    assert_eq!(late.take(), Some(true), "a connection was accepted after the soft stop");
    let (handle, mut clock) = (scene.handle.clone(), client.clock());
    let ended = scene.server.run(async move { handle.ended(&mut clock).await });
    scene.world.run_for(seconds(1)).unwrap();
    assert_eq!((ended.take(), scene.serving.take()), (None, Some(DrainReport::default())));
    scene.shutdown.drain();
    let report = scene.world.run_until(&ended).unwrap();
    let talked = talking.take().unwrap();
    assert_eq!((&*talked.bytes, talked.fin), (&b"ab"[..], true));
    assert_eq!(report, DrainReport { drained: 1, aborted: 0 });
}

#[test]
fn without_descriptors_accepting_pauses_and_open_connections_continue() {
    let scene = Scene::new(5);
    let client = scene.world.host("client");
    scene.server.set_max_sockets(1);
    let first = load(&client, patient(200));
    scene.world.run_for(Duration::from_millis(30)).unwrap();
    let second = load(&client, LoadConfig::default());
    let polls = scene.world.polls();
    scene.world.run_until(&first).unwrap();
    assert!(scene.world.polls() > polls && second.take().is_none());
    // The end of the first connection frees a descriptor, and a pause lasts at most 1 s.
    scene.world.run_for(seconds(2)).unwrap();
    assert!(matches!(second.take(), Some(Ended::Reason(LoadReason::Complete { .. }))));
    scene.end();
}

#[test]
fn a_pause_in_accepting_costs_at_most_two_polls_a_second() {
    let scene = Scene::new(6);
    let client = scene.world.host("client");
    scene.server.set_max_sockets(0);
    peer(&client, vec![Act::ReceiveAll]);
    scene.world.run_for(seconds(10)).unwrap();
    let polls = scene.world.polls();
    let pauses = || scene.table.totals().accept_failures["exhausted"];
    let before = pauses();
    assert_eq!(before, 7 + 9, "10 ms, doubled six times: 1.27 s; and then 1 s each");
    scene.world.run_for(seconds(600)).unwrap();
    assert!(scene.world.polls() - polls < 1000, "accepting pauses for less than 1 s at a time");
    assert_eq!(pauses() - before, 600, "a pause is not counted");
    scene.shutdown.drain();
    scene.world.run().unwrap();
}

#[test]
fn a_connection_that_is_aborted_in_the_backlog_does_not_end_the_server() {
    let scene = Scene::new(7);
    let client = scene.world.host("client");
    scene.server.set_faults(Faults { accept_aborted: 1000, ..Faults::NONE });
    let aborted = peer(&client, vec![Act::ReceiveAll]);
    assert_eq!(scene.world.run_until(&aborted).unwrap().error, Some(ConnectionError::Reset));
    scene.server.set_faults(Faults::NONE);
    scene.world.run_until(&load(&client, LoadConfig::default())).unwrap();
    scene.end();
    assert_eq!(scene.ended("finished"), 1);
    assert_eq!(scene.table.totals().accept_failures, BTreeMap::from([("aborted", 1)]));
}

/// A host that cannot start a task for the first connection.
#[derive(Clone)]
struct Busy {
    host: Host,
    has_failed: Arc<AtomicBool>,
}

impl Runtime for Busy {
    type Socket = <Host as Runtime>::Socket;
    type Listener = <Host as Runtime>::Listener;
    type Clock = <Host as Runtime>::Clock;

    fn clock(&self) -> Self::Clock {
        self.host.clock()
    }

    fn spawn<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        if self.has_failed.swap(true, Relaxed) {
            return self.host.spawn(task);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn listen(&self, address: &str) -> io::Result<Self::Listener> {
        self.host.listen(address)
    }

    fn resolve(&self, address: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send {
        self.host.resolve(address)
    }

    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Socket>> + Send {
        self.host.connect(address)
    }

    fn local_address(&self, socket: &Self::Socket) -> Option<SocketAddr> {
        self.host.local_address(socket)
    }
}

#[test]
fn accepting_pauses_and_resumes_if_a_task_cannot_be_started() {
    let world = World::new(8);
    let (server, client) = (world.host("server"), world.host("client"));
    let (listener, handle) = (server.listen("server:7").unwrap(), ServerHandle::default());
    let (table, shutdown) = (handle.table().clone(), handle.shutdown().clone());
    let runtime = Busy { host: server.clone(), has_failed: Arc::default() };
    let echo = Server::new(Config::default()).unwrap();
    server.run(async move {
        serve::Server::new(runtime, listener)
            .with_handle(&handle)
            .serve(|_, now| echo.machine(now))
            .await
    });
    let first = peer(&client, vec![Act::ReceiveAll]);
    world.run_until(&first).unwrap();
    let ended = world.run_until(&load(&client, LoadConfig::default())).unwrap();
    assert!(matches!(ended, Ended::Reason(LoadReason::Complete { .. })), "{ended:?}");
    shutdown.drain();
    world.run().unwrap();
    let totals = table.totals();
    assert_eq!(totals.accept_failures, BTreeMap::from([("no_task", 1)]));
    assert_eq!(totals.ended, BTreeMap::from([("aborted", 1), ("finished", 1)]));
}

#[test]
fn a_drain_flushes_pending_output() {
    for_each_seed(10, |seed| {
        let scene = Scene::new(seed);
        let client = scene.world.host("client");
        let bytes: Bytes = (0..=255).cycle().take(20_000).collect();
        let acts = vec![Act::Send(bytes.clone()), Act::Wait(seconds(3)), Act::ReceiveAll];
        let received = peer(&client, acts);
        scene.world.run_for(seconds(1)).unwrap();
        let report = scene.end();
        assert_eq!(report, DrainReport { drained: 1, aborted: 0 });
        let received = received.take().unwrap();
        assert_eq!((received.bytes, received.fin, received.error), (bytes.to_vec(), true, None));
        assert_eq!(scene.ended("shut_down"), 1);
    });
}

#[test]
fn a_drain_of_an_idle_connection_takes_no_time() {
    let scene = Scene::new(15);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Send("hi".into()), Act::ReceiveAll]);
    scene.world.run_for(seconds(1)).unwrap();
    let requested = scene.world.now();
    scene.end();
    assert!(received.take().unwrap().fin);
    assert!(scene.world.now().since(requested) < Duration::from_millis(100));
}

/// The runtime has not reported the input when the shutdown is requested.
#[test]
fn input_that_arrived_before_a_shutdown_is_requested_is_served() {
    for_each_seed(10, |seed| {
        let scene = Scene::new(seed);
        let client = scene.world.host("client");
        let acts = vec![
            Act::Send("hi".into()),
            Act::Receive(2),
            Act::Wait(seconds(3)),
            Act::Send("stop?".into()),
            Act::ReceiveAll,
        ];
        let received = peer(&client, acts);
        scene.world.run_for(seconds(2)).unwrap();
        scene.server.stop_for(seconds(5));
        scene.world.run_for(seconds(3)).unwrap();
        scene.end();
        assert_eq!(received.take().unwrap().bytes, b"histop?");
        assert_eq!(scene.ended("shut_down"), 1);
    });
}

/// The client has connected, and computes for a while before it sends its request.
#[test]
fn a_connection_that_has_just_been_accepted_is_served_by_a_drain() {
    for_each_seed(10, |seed| {
        let scene = Scene::new(seed);
        let client = scene.world.host("client");
        let think = Act::Wait(Duration::from_millis(25));
        let received = peer(&client, vec![think, Act::Send("asked".into()), Act::ReceiveAll]);
        while scene.table.connections().is_empty() {
            scene.world.run_for(Duration::from_millis(1)).unwrap();
        }
        let report = scene.end();
        assert_eq!(report, DrainReport { drained: 1, aborted: 0 });
        let received = received.take().unwrap();
        assert_eq!((&*received.bytes, received.fin, received.error), (&b"asked"[..], true, None));
    });
}

/// The server has not accepted the connections, but the clients are connected.
#[test]
fn connections_in_the_backlog_are_served_by_a_drain() {
    for_each_seed(10, |seed| {
        let scene = Scene::new(seed);
        scene.server.stop_for(seconds(5));
        let received: Vec<_> = (0..8)
            .map(|number| {
                let client = scene.world.host(&format!("client {number}"));
                peer(&client, vec![Act::Send("asked".into()), Act::ReceiveAll])
            })
            .collect();
        scene.world.run_for(seconds(3)).unwrap();
        let report = scene.end();
        assert_eq!(report, DrainReport { drained: 8, aborted: 0 });
        for received in received {
            let received = received.take().unwrap();
            assert_eq!(
                (&*received.bytes, received.fin, received.error),
                (&b"asked"[..], true, None)
            );
        }
    });
}

#[test]
fn connections_in_the_backlog_are_reset_by_an_immediate_shutdown() {
    let scene = Scene::new(17);
    let client = scene.world.host("client");
    scene.server.stop_for(seconds(5));
    let received = peer(&client, vec![Act::Send("asked".into()), Act::ReceiveAll]);
    scene.world.run_for(seconds(3)).unwrap();
    scene.shutdown.abort();
    scene.world.run().unwrap();
    assert_eq!(scene.serving.take(), Some(DrainReport { drained: 0, aborted: 0 }));
    assert_eq!(received.take().unwrap().error, Some(ConnectionError::Reset));
}

/// Without the lingering close, a reset would answer the input.
#[test]
fn a_drain_lingers_for_a_peer_that_still_sends() {
    let scene = Scene::new(16);
    let client = scene.world.host("client");
    let acts = vec![
        Act::Send("hi".into()),
        Act::Receive(2),
        Act::Wait(seconds(2)),
        Act::Send("too late".into()),
        Act::Wait(Duration::from_millis(500)),
        Act::ReceiveAll,
    ];
    let received = peer(&client, acts);
    scene.world.run_for(seconds(1)).unwrap();
    scene.end();
    let received = received.take().unwrap();
    assert_eq!((&*received.bytes, received.fin, received.error), (&b"hi"[..], true, None));
}

#[test]
fn a_peer_that_exceeds_the_drain_timeout_is_reset() {
    let scene = Scene::new(8);
    let client = scene.world.host("client");
    let acts = vec![Act::Send(vec![1; 40_000].into()), Act::Wait(seconds(60)), Act::ReceiveAll];
    let received = peer(&client, acts);
    scene.world.run_for(seconds(1)).unwrap();
    scene.shutdown.drain();
    scene.world.run_for(seconds(9)).unwrap();
    assert_eq!(scene.ended("aborted"), 0);
    scene.world.run_for(seconds(2)).unwrap();
    assert_eq!(scene.ended("aborted"), 1, "after 10 s");
    assert_eq!(scene.end(), DrainReport { drained: 0, aborted: 1 });
    assert_eq!(received.take().unwrap().error, Some(ConnectionError::Reset));
}

#[test]
fn an_immediate_shutdown_ends_a_drain_at_once() {
    let scene = Scene::new(9);
    let client = scene.world.host("client");
    peer(&client, vec![Act::Send(vec![1; 40_000].into()), Act::Wait(seconds(60))]);
    scene.world.run_for(seconds(1)).unwrap();
    scene.shutdown.drain();
    scene.world.run_for(seconds(1)).unwrap();
    scene.shutdown.abort();
    scene.world.run_for(Duration::ZERO).unwrap();
    assert_eq!(scene.serving.take(), Some(DrainReport { drained: 0, aborted: 1 }));
    scene.world.run().unwrap();
}

#[test]
fn a_machine_that_panics_ends_its_own_connection_only() {
    let world = World::with(11, Settings { catch_panics: true, ..Settings::default() });
    let echo = Server::new(Config::default()).unwrap();
    let scene = Scene::serving(world, ServerHandle::default(), move |now| {
        let panic_at_a_word =
            |input: Input<'_>| assert_ne!(input, Input::Read(b"panic"), "planted");
        Observed::new(echo.machine(now), panic_at_a_word)
    });
    let client = scene.world.host("client");
    let loading = load(&client, patient(20));
    let panicking = peer(&client, vec![Act::Send("panic".into()), Act::ReceiveAll]);
    assert!(scene.world.run_until(&panicking).unwrap().bytes.is_empty());
    let ended = scene.world.run_until(&loading).unwrap();
    assert!(matches!(ended, Ended::Reason(LoadReason::Complete { .. })), "{ended:?}");
    scene.end();
    assert_eq!((scene.world.panics(), scene.ended("panicked"), scene.ended("finished")), (1, 1, 1));
}

#[test]
fn without_a_listener_the_connection_is_refused() {
    let world = World::new(12);
    let client = world.host("client");
    let _server = world.host("server");
    let connect = |address: &'static str| {
        let runtime = client.clone();
        let task = client.run(async move { runtime.connect(address).await.err().unwrap().kind() });
        world.run_until(&task).unwrap()
    };
    assert_eq!(connect("server:7"), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(connect("192.0.2.1:7"), std::io::ErrorKind::HostUnreachable);
    assert_eq!(connect("nobody:7"), std::io::ErrorKind::NotFound);
    assert_eq!(connect("server"), std::io::ErrorKind::InvalidInput);
}
