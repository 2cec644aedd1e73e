//! Machines on buffering sinks: every byte arrives, and the FIN follows the last one.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{
    convert::Infallible,
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

use wirestate_core::{
    ConnectionError, Event, Instant, Machine,
    drive::{Clock as _, IoError, Seat, Sink},
    echo,
    fanout::{self, Feed, Framing, LagPolicy, Subscriber, Upstream},
    message::{self, Message, service},
    runtime::{Listener as _, Runtime as _},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    message::frames,
    script::Ending,
    sim::{
        Act, Buffering, Faults, Host, Received, Record, Settings, Side, Socket, TraceEvent, World,
        act,
    },
};

/// Accepts one connection and drives `machine` on it, with a sink that buffers `capacity` bytes and
/// is reset after `flush_timeout` without progress. Shuts the machine down after `shut_down`.
fn serve_one<M>(
    host: &Host,
    (capacity, flush_timeout): (usize, Duration),
    shut_down: Duration,
    machine: impl FnOnce(Instant) -> M + Send + 'static,
) where
    M: Machine + Send + 'static,
{
    let mut listener = host.listen("server:7").unwrap();
    let host = host.clone();
    host.clone().run(async move {
        let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        let (clock, mut alarm) = (host.clock(), host.clock());
        let until = clock.now() + shut_down;
        let socket = Buffering::new(socket, capacity.try_into().unwrap());
        let seat = Seat::new(machine(clock.now()), socket);
        let mut drive = seat.flush_timeout(Some(flush_timeout)).with_clock(clock);
        poll_fn(|cx| {
            let is_due = alarm.poll_until(cx, until).is_ready();
            drive.poll_until(cx, |machine, now| {
                if is_due {
                    machine.handle(now, Event::ShutDown);
                }
                None::<Infallible>
            })
        })
        .await
        .unwrap_err();
    });
}

/// Performs `acts` as a peer of the host "server", and returns what it received.
fn run_peer(world: &World, acts: Vec<Act>) -> Received {
    let client = world.host("client");
    let runtime = client.clone();
    let received = client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        act(runtime, socket, acts).await
    });
    world.run().unwrap();
    received.take().unwrap()
}

/// Asserts that a peer gets back all that it sends, and then a FIN.
fn check_echo(world: &World, sent: Vec<u8>) {
    let received =
        run_peer(world, vec![Act::Send(sent.clone().into()), Act::Finish, Act::ReceiveAll]);
    assert_eq!((received.bytes, received.fin, received.error), (sent, true, None));
}

/// A world with small buffers, and faults on the server.
fn faulty(seed: u64) -> (World, Host) {
    let settings = Settings { buffer: 16 << (seed % 8), ..Settings::default() };
    let world = World::with(seed, settings);
    let server = world.host("server");
    server.set_faults(Faults {
        short_write: 500,
        would_block: 100,
        interrupted: 100,
        ..Faults::harmless(seed)
    });
    (world, server)
}

fn capacity(seed: u64) -> usize {
    [1, 7, 100, 4096, 1 << 20][usize::try_from(seed).unwrap() % 5]
}

fn server_end(world: &World) -> Record {
    world.records().into_iter().find(|record| record.side == Side::Server).unwrap()
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn an_echo_arrives_whole_and_then_the_fin() {
    for_each_seed(20, |seed| {
        let (world, server) = faulty(seed);
        let config = echo::Config::default().with_idle_timeout(LONG);
        let limit = config.buffer_size();
        let echo = echo::Server::new(config).unwrap();
        let machine = move |now| Checked::new(echo.machine(now), limit);
        serve_one(&server, (capacity(seed), LONG), Duration::MAX, machine);
        // Without reads, a peer can send only what the network holds.
        let sent = bytes(2000);
        let exchange = |part: &[u8]| [Act::Send(part.to_vec().into()), Act::Receive(part.len())];
        let acts = sent.chunks(16).flat_map(exchange).chain([Act::Finish, Act::ReceiveAll]);
        let received = run_peer(&world, acts.collect());
        assert_eq!((received.bytes, received.fin, received.error), (sent, true, None));
    });
}

#[test]
fn an_echo_arrives_whole_if_the_machine_ends_while_the_sink_holds_output() {
    for_each_seed(20, |seed| {
        let (world, server) = faulty(seed);
        let config = echo::Config::default().with_idle_timeout(LONG);
        let echo = echo::Server::new(config).unwrap();
        serve_one(&server, (1 << 20, LONG), Duration::MAX, move |now| echo.machine(now));
        check_echo(&world, bytes(2000));
    });
}

#[test]
fn replies_arrive_whole_and_then_the_fin() {
    for_each_seed(20, |seed| {
        let (world, server) = faulty(seed);
        let mut config = message::Config::default().with_write_timeout(Some(LONG));
        config.frame_timeouts.header = Some(LONG);
        config.frame_timeouts.content = Some(LONG);
        let itself = |request: Message<'_>| request.into_owned();
        let messages = message::Server::new(config, service::function(itself)).unwrap();
        let machine = move |now| Checked::new(messages.machine(now), 1 << 20);
        serve_one(&server, (capacity(seed), LONG), Duration::MAX, machine);
        let requests: Vec<_> =
            [0, 1, 700, 22, 3000].map(|size| Message::new("", "binary", bytes(size))).into();
        check_echo(&world, frames(&requests));
    });
}

#[test]
fn a_subscriber_gets_all_that_is_published_and_then_the_fin() {
    for_each_seed(20, |seed| {
        let (world, server) = faulty(seed);
        let config = fanout::Config::default()
            .with_framing(Framing::None)
            .with_on_lag(LagPolicy::Block)
            .with_write_timeout(LONG);
        // The subscriber ends with its server, or when it has received everything.
        let (shut_down, acts) = if seed % 2 == 0 {
            (Duration::from_secs(60), vec![Act::ReceiveAll])
        } else {
            (Duration::MAX, vec![Act::Receive(2000), Act::Finish, Act::ReceiveAll])
        };
        let feed = Feed::new(config).unwrap();
        let subscribed = feed.clone();
        let machine = move |now| Checked::new(Subscriber::new(&subscribed, now), 1 << 20);
        serve_one(&server, (capacity(seed), LONG), shut_down, machine);
        let upstream = world.host("upstream");
        let mut listener = upstream.listen("upstream:7").unwrap();
        let (runtime, published) = (upstream.clone(), bytes(2000));
        let sends = vec![Act::Wait(Duration::from_secs(1)), Act::Send(published.clone().into())];
        upstream.run(async move {
            let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            act(runtime, socket, sends).await
        });
        let runtime = server.clone();
        server.run(async move {
            let socket = runtime.connect("upstream:7").await.unwrap();
            let socket = Buffering::new(socket, capacity(seed).try_into().unwrap());
            let clock = runtime.clock();
            let upstream = Checked::new(Upstream::new(&feed, clock.now()), 0);
            Seat::new(upstream, socket).flush_timeout(Some(LONG)).with_clock(clock).await
        });
        let received = run_peer(&world, acts);
        assert_eq!((received.bytes, received.fin, received.error), (published, true, None));
    });
}

/// The sink holds the machine's output, and the FIN waits behind it. Held bytes count as not
/// acknowledged.
#[test]
fn a_peer_that_does_not_read_is_reset_although_only_the_sink_holds_output() {
    let settings = Settings { buffer: 64, ..Settings::default() };
    let world = World::with(1, settings);
    let server = world.host("server");
    let idle_timeout = Some(Duration::from_secs(10));
    let echo = echo::Server::new(echo::Config::default().with_idle_timeout(idle_timeout)).unwrap();
    let sink = (1 << 20, LONG);
    serve_one(&server, sink, Duration::MAX, move |now| echo.machine(now));
    let (began, send) = (world.now(), Act::Send(bytes(2000).into()));
    let received = run_peer(&world, vec![send, Act::Finish, Act::Wait(LONG), Act::ReceiveAll]);
    assert_eq!((received.fin, received.error), (false, Some(ConnectionError::Reset)));
    assert_eq!(server_end(&world).ending, Some(Ending::Rst));
    let trace = world.trace();
    let reset = trace.entries().iter().find(|entry| entry.event == TraceEvent::Reset).unwrap();
    let after = reset.at.since(began);
    assert!(after < Duration::from_secs(30), "reset after {after:?}");
}

/// The two ends of a connection. The first end buffers 5 bytes, and the network 3.
fn with_buffering_sink<F>(test: impl FnOnce(Host, Buffering<Socket>, Socket) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let world = World::with(1, Settings { buffer: 3, ..Settings::default() });
    let host = world.host("host");
    let mut listener = host.listen("host:7").unwrap();
    let accepted = host.run(async move { poll_fn(|cx| listener.poll_accept(cx)).await.unwrap().0 });
    let runtime = host.clone();
    let dialled = host.run(async move { runtime.connect("host:7").await.unwrap() });
    let sink = Buffering::new(world.run_until(&accepted).unwrap(), 5.try_into().unwrap());
    let peer = world.run_until(&dialled).unwrap();
    let done = host.run(test(host.clone(), sink, peer));
    world.run_until(&done).unwrap();
}

/// The result of a call that does not block.
async fn poll_once<T>(mut call: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    poll_fn(|cx| {
        Poll::Ready(match call(cx) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn a_sink_accepts_its_capacity_and_sends_it_when_it_is_flushed() {
    with_buffering_sink(|host, mut sink, mut peer| async move {
        let write = poll_once(|cx| sink.poll_write(cx, &[b"abc", b"defg"])).await;
        assert_eq!((write, sink.held(), sink.unacknowledged()), (Some(Ok(5)), 5, 5));
        assert_eq!(poll_once(|cx| sink.poll_flush(cx)).await, None);
        assert_eq!((sink.held(), sink.unacknowledged()), (2, 5));
        assert_eq!(poll_once(|cx| sink.poll_write(cx, &[b"fghi"])).await, Some(Ok(3)));
        assert_eq!(poll_once(|cx| sink.poll_write(cx, &[b"i"])).await, None, "the sink is full");
        assert_eq!(poll_once(|cx| sink.poll_finish(cx)).await, None);
        host.sleep(Duration::from_secs(1)).await;
        assert_eq!(sink.unacknowledged(), 5, "the network has not delivered three bytes");
        let mut received = Vec::new();
        let mut finished = None::<Result<(), IoError>>;
        while finished.is_none() {
            let mut buf = [0; 8];
            let n = peer.receive(&mut buf).await.unwrap();
            received.extend_from_slice(&buf[..n]);
            host.sleep(Duration::from_secs(1)).await;
            finished = poll_once(|cx| sink.poll_finish(cx)).await;
        }
        assert_eq!((finished, sink.held()), (Some(Ok(())), 0));
        let mut buf = [0; 8];
        while let n @ 1.. = peer.receive(&mut buf).await.unwrap() {
            received.extend_from_slice(&buf[..n]);
        }
        assert_eq!(received, b"abcdefgh");
    });
}
