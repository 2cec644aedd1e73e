//! A peer that reads nothing, on real sockets: the deadline follows acknowledged bytes.
//!
//! The kernel enlarges a send buffer while the peer's window is closed, and takes a few more bytes
//! at each write. These are no progress.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

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
/// A test that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);

#[test]
fn on_tokio() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    every_stall_is_noticed_in_time(&wirestate_tokio::Tokio::new(runtime.handle().clone()));
    runtime.shutdown_background();
}

#[test]
fn on_smol() {
    let executor = Arc::new(smol::Executor::new());
    thread::spawn({
        let executor = executor.clone();
        move || smol::block_on(executor.run(pending::<()>()))
    });
    every_stall_is_noticed_in_time(&wirestate_smol::Smol::new(executor));
}

#[test]
fn on_std() {
    every_stall_is_noticed_in_time(&wirestate_std::Threads::new());
}

/// One peer of each server, all at the same time.
fn every_stall_is_noticed_in_time<R: Runtime<Socket: Splice>>(runtime: &R) {
    let request = frames([&Message::binary(vec![7; 1000])]);
    let peers = [
        ("idle_timeout", echo(runtime), request.clone()),
        ("write_stalled", message(runtime), request),
        ("write_stalled", subscription(runtime), Vec::new()),
        ("write_stalled", source(runtime), Vec::new()),
        ("idle_timeout", proxied(runtime), Vec::new()),
    ];
    let peers = peers.map(|(label, (address, table), says)| {
        thread::spawn(move || (label, stalls_for(address, &says, label, &table)))
    });
    for peer in peers {
        let (label, stalled) = peer.join().unwrap();
        // The peer's last check of its queue may be slightly old.
        assert!(stalled > LIMIT * 9 / 10, "{label} after {stalled:?}");
        assert!(stalled <= LIMIT * 12 / 10, "{label} after {stalled:?}");
    }
}

/// Sends `says` repeatedly and reads nothing until it is reset with that label. Returns for how
/// long nothing had arrived.
fn stalls_for(address: SocketAddr, says: &[u8], label: &str, table: &ConnectionTable) -> Duration {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut peer = TcpStream::from(socket);
    let began = SystemInstant::now();
    let (mut arrived, mut moved, mut said) = (0, began, 0);
    while !table.totals().ended.contains_key(label) {
        assert!(began.elapsed() < HANGS, "{label}: {:?}", table.totals());
        let now = SystemInstant::now();
        if let Ok(queued) = ioctl_fionread(&peer)
            && queued > arrived
        {
            (arrived, moved) = (queued, now);
        }
        // The server sends whenever its output is read.
        while !says.is_empty() {
            match peer.write(&says[said..]) {
                Ok(n) => said = (said + n) % says.len(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => break, // it was reset
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    moved.elapsed()
}

/// Serves a machine. Returns the address and the table.
fn server<R: Runtime, M>(
    runtime: &R,
    mut machine: impl FnMut(wirestate_core::Instant) -> M + Send + 'static,
) -> (SocketAddr, ConnectionTable)
where
    M: Machine<Reason: Send> + Unpin + Send + 'static,
{
    let (handle, listener) = (ServerHandle::default(), runtime.listen("127.0.0.1:0").unwrap());
    let place = (listener.local_address().unwrap().ip().unwrap(), handle.table().clone());
    let on = runtime.clone();
    let serving = async move {
        serve::Server::new(on, listener).with_handle(&handle).serve(|_, now| machine(now)).await
    };
    runtime.spawn(serving).unwrap();
    place
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

/// This one subscriber pauses the upstream, whose feed has no end.
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
    let place = (listener.local_address().unwrap().ip().unwrap(), handle.table().clone());
    let on = runtime.clone();
    let serving = async move {
        proxy::serve(serve::Server::new(on, listener).with_handle(&handle), proxy).await
    };
    runtime.spawn(serving).unwrap();
    place
}

/// Accepts one connection, and sends on it until it fails.
fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(&[7; 16 * 1024]).is_ok() {}
    });
    address
}
