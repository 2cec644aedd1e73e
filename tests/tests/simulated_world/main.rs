//! What happens to hosts and to the network between them.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod killed;
mod links;
mod partitions;
mod phases;
mod struck;

use std::{future::poll_fn, task::Poll, time::Duration};

use wirestate_core::{
    ConnectionError, Instant,
    drive::{IoError, Sink as _, Source as _},
    runtime::{Listener as _, Runtime as _},
};
use wirestate_testkit::sim::{Host, Latency, Settings, Socket, Task, World};

/// A server, a client, and a connection between them.
struct Pair {
    world: World,
    server: Host,
    client: Host,
    accepted: Socket,
    dialled: Socket,
}

impl Pair {
    /// Segments take exactly 10 ms.
    fn new() -> Self {
        Self::with(Settings { latency: Latency::Constant(millis(10)), ..Settings::default() })
    }

    fn with(settings: Settings) -> Self {
        let world = World::with(1, settings);
        let (server, client) = (world.host("server"), world.host("client"));
        let mut listener = server.listen("server:7").unwrap();
        let accepted = server.run(async move {
            let accepted = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap().0;
            (accepted, listener)
        });
        let runtime = client.clone();
        let dialled = client.run(async move { runtime.connect("server:7").await.unwrap() });
        let (accepted, listener) = world.run_until(&accepted).unwrap();
        let dialled = world.run_until(&dialled).unwrap();
        drop(listener);
        Self { world, server, client, accepted, dialled }
    }
}

/// What a read that does not wait returns. `None`: it blocks.
fn read(socket: &mut Socket) -> Option<Result<usize, IoError>> {
    let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
    match socket.poll_read(cx, &mut [0; 64]) {
        Poll::Ready(read) => Some(read),
        Poll::Pending => None,
    }
}

/// Writes without waiting.
fn write(socket: &mut Socket, bytes: &[u8]) -> Result<usize, IoError> {
    let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
    let Poll::Ready(written) = socket.poll_write(cx, &[bytes]) else { panic!("the write blocks") };
    written
}

/// Connects to the server, and returns when that has come to an end.
fn dial(client: &Host) -> Task<(Result<Socket, std::io::ErrorKind>, Instant)> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("server:7").await.map_err(|error| error.kind());
        (socket, runtime.world().now())
    })
}

const RESET: IoError = IoError::Connection(ConnectionError::Reset);
const TIMED_OUT: IoError = IoError::Connection(ConnectionError::TimedOut);

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
