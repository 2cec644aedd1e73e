//! A peer that reads nothing, on real sockets: the deadline follows acknowledged bytes.
//!
//! While the peer's window is closed, the kernel enlarges the send buffer and accepts a few more
//! bytes at each write. Such writes must not count as progress.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{
    future::pending,
    io::{ErrorKind, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant as SystemInstant},
};

use rustix::io::ioctl_fionread;
use socket2::{Domain, Socket, Type};
use wirestate_core::{
    Machine,
    admission::ConnectionTable,
    drive::{Clock as _, Drive, Splice},
    echo,
    fanout::{self, Feed, LagPolicy, MessageSource, MessageSourceConfig, Subscriber, Upstream},
    message::{self, Message, service},
    proxy::{self, Balance, Proxy, Upstreams},
    runtime::{Listener as _, Runtime},
    serve::{self, ServerHandle},
};
use wirestate_testkit::message::frames;

const LIMIT: Duration = Duration::from_secs(3);
/// How long a test waits for an event. Longer than it takes on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn on_tokio() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    every_stalled_peer_is_reset_in_time(&wirestate_tokio::Tokio::new(runtime.handle().clone()));
    runtime.shutdown_background();
}

#[test]
fn on_smol() {
    let executor = Arc::new(smol::Executor::new());
    thread::spawn({
        let executor = executor.clone();
        move || smol::block_on(executor.run(pending::<()>()))
    });
    every_stalled_peer_is_reset_in_time(&wirestate_smol::Smol::new(executor));
}

#[test]
fn on_std() {
    every_stalled_peer_is_reset_in_time(&wirestate_std::Threads::new());
}

/// Runs one peer for each server, all at the same time.
fn every_stalled_peer_is_reset_in_time<R: Runtime<Socket: Splice>>(runtime: &R) {
    let request = frames([&Message::binary(vec![7; 1000])]);
    let peers = [
        ("idle_timeout", echo(runtime), request.clone()),
        ("write_stalled", message(runtime), request),
        ("write_stalled", subscription(runtime), Vec::new()),
        ("write_stalled", source(runtime), Vec::new()),
        ("idle_timeout", proxied(runtime), Vec::new()),
    ];
    let peers = peers.map(|(label, (address, table), output)| {
        thread::spawn(move || (label, stalls_for(address, &output, label, &table)))
    });
    for peer in peers {
        let (label, stalled) = peer.join().unwrap();
        // The peer may notice the last bytes slightly late.
        assert!(stalled > LIMIT * 9 / 10, "{label} after {stalled:?}");
        assert!(stalled <= LIMIT * 12 / 10, "{label} after {stalled:?}");
    }
}

/// Connects, sends `output` repeatedly, and reads nothing until the connection ends with this
/// label. Returns the time since the last bytes arrived.
fn stalls_for(
    address: SocketAddr,
    output: &[u8],
    label: &str,
    table: &ConnectionTable,
) -> Duration {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut peer = TcpStream::from(socket);
    let began = SystemInstant::now();
    let (mut arrived, mut last_arrival, mut sent) = (0, began, 0);
    while !table.totals().ended.contains_key(label) {
        assert!(began.elapsed() < TEST_TIMEOUT, "{label}: {:?}", table.totals());
        let now = SystemInstant::now();
        if let Ok(queued) = ioctl_fionread(&peer)
            && queued > arrived
        {
            (arrived, last_arrival) = (queued, now);
        }
        // Sends requests, so that the server always has output.
        while !output.is_empty() {
            match peer.write(&output[sent..]) {
                Ok(n) => sent = (sent + n) % output.len(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => break, // the server has reset the connection
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    last_arrival.elapsed()
}

/// Serves a machine. Returns the server's address and its table of connections.
fn server<R: Runtime, M>(
    runtime: &R,
    mut machine: impl FnMut(wirestate_core::Instant) -> M + Send + 'static,
) -> (SocketAddr, ConnectionTable)
where
    M: Machine<Reason: Send> + Unpin + Send + 'static,
{
    let (handle, listener) = (ServerHandle::default(), runtime.listen("127.0.0.1:0").unwrap());
    let address_and_table =
        (listener.local_address().unwrap().ip().unwrap(), handle.table().clone());
    let on = runtime.clone();
    let serving = async move {
        serve::Server::new(on, listener).with_handle(&handle).serve(|_, now| machine(now)).await
    };
    runtime.spawn(serving).unwrap();
    address_and_table
}

fn echo<R: Runtime>(runtime: &R) -> (SocketAddr, ConnectionTable) {
    let config = echo::Config::default().with_idle_timeout(LIMIT);
    let echo = echo::Server::new(config).unwrap();
    server(runtime, move |now| echo.machine(now))
}

fn message<R: Runtime>(runtime: &R) -> (SocketAddr, ConnectionTable) {
    let config = message::Config::default().with_write_timeout(Some(LIMIT));
    let messages = message::Server::new(
        config,
        service::function(|request: Message<'_>| request.into_owned()),
    )
    .unwrap();
    server(runtime, move |now| messages.machine(now))
}

/// The subscriber pauses the upstream, which sends without end.
fn subscription<R: Runtime>(runtime: &R) -> (SocketAddr, ConnectionTable) {
    let feed = Feed::new(
        fanout::Config::default().with_on_lag(LagPolicy::Block).with_write_timeout(LIMIT),
    )
    .unwrap();
    let (source, shared, on) = (endless(), feed.clone(), runtime.clone());
    let upstream = async move {
        let socket = on.connect(&source.to_string()).await.unwrap();
        let clock = on.clock();
        Drive::new(Upstream::new(&shared, clock.now()), socket, clock).await;
    };
    runtime.spawn(upstream).unwrap();
    server(runtime, move |now| Subscriber::new(&feed, now))
}

fn source<R: Runtime>(runtime: &R) -> (SocketAddr, ConnectionTable) {
    let config = MessageSourceConfig::default().with_rate(0).with_write_timeout(LIMIT);
    server(runtime, move |now| MessageSource::new(config, now).unwrap())
}

fn proxied<R: Runtime<Socket: Splice>>(runtime: &R) -> (SocketAddr, ConnectionTable) {
    let config = proxy::Config::default().with_idle_timeout(LIMIT);
    let upstreams = Upstreams::new([endless().to_string()], Balance::RoundRobin, 1);
    let proxy = Proxy::new(config, upstreams).unwrap();
    let (handle, listener) = (ServerHandle::default(), runtime.listen("127.0.0.1:0").unwrap());
    let address_and_table =
        (listener.local_address().unwrap().ip().unwrap(), handle.table().clone());
    let on = runtime.clone();
    let serving = async move {
        proxy::serve(serve::Server::new(on, listener).with_handle(&handle), proxy).await
    };
    runtime.spawn(serving).unwrap();
    address_and_table
}

/// Listens, accepts one connection, and sends until a write fails. Returns the address.
fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(&[7; 16 * 1024]).is_ok() {}
    });
    address
}
