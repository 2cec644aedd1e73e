//! A proxy on sockets that buffer output and cannot splice.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    task::{Context, Poll},
    time::Duration,
};

use wirestate_core::{
    ConnectionError,
    admission::Peer,
    proxy::{Balance, Config, ProxiedConnection, Proxy, Upstreams},
    runtime::{AcceptError, Address, Listener, Runtime},
};
use wirestate_testkit::sim::{self, Act, Buffering, Host, Received, Settings, Socket, World, act};

/// A host whose sockets buffer up to 4 KiB.
#[derive(Clone)]
struct BufferingHost(Host);

struct BufferingListener(sim::Listener);

fn buffered(socket: Socket) -> Buffering<Socket> {
    Buffering::new(socket, const { NonZeroUsize::new(4096).unwrap() })
}

impl Listener for BufferingListener {
    type Socket = Buffering<Socket>;

    fn local_address(&self) -> io::Result<Address> {
        self.0.local_address()
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Self::Socket, Peer), AcceptError>> {
        self.0.poll_accept(cx).map_ok(|(socket, peer)| (buffered(socket), peer))
    }

    fn shut_down(&mut self) {
        self.0.shut_down();
    }
}

impl Runtime for BufferingHost {
    type Socket = Buffering<Socket>;
    type Listener = BufferingListener;
    type Clock = <Host as Runtime>::Clock;

    fn clock(&self) -> Self::Clock {
        self.0.clock()
    }

    fn spawn<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        self.0.spawn(task)
    }

    fn listen(&self, address: &str) -> io::Result<BufferingListener> {
        self.0.listen(address).map(BufferingListener)
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        self.0.resolve(address).await
    }

    async fn connect(&self, address: &str) -> io::Result<Self::Socket> {
        self.0.connect(address).await.map(buffered)
    }

    fn local_address(&self, _socket: &Self::Socket) -> Option<SocketAddr> {
        None
    }
}

/// The input of a client that plays `acts`, through a proxy whose upstream plays `replies`.
fn received_by_client(settings: Settings, acts: Vec<Act>, replies: Vec<Act>) -> Received {
    let world = World::with(3, settings);
    let hosts = ["proxy", "upstream", "client"].map(|name| world.host(name));
    let [host, upstream, client] = hosts;
    let mut listener = upstream.listen("upstream:7").unwrap();
    upstream.clone().run(async move {
        let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        act(upstream, socket, replies).await
    });
    let runtime = BufferingHost(host.clone());
    let mut listener = runtime.listen("proxy:7").unwrap();
    let upstreams = Upstreams::new(["upstream:7"], Balance::RoundRobin, 1);
    let proxy = Proxy::new(Config::default(), upstreams).unwrap();
    host.run(async move {
        let (socket, peer) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        ProxiedConnection::new(&runtime, &proxy, socket, peer, runtime.clock()).await
    });
    let received = client.clone().run(async move {
        let socket = client.connect("proxy:7").await.unwrap();
        act(client, socket, acts).await
    });
    world.run().unwrap();
    received.take().unwrap()
}

#[test]
fn output_that_a_sink_holds_is_flushed_in_both_directions() {
    let requests = vec![Act::Send("ping".into()), Act::Receive(4), Act::Finish, Act::ReceiveAll];
    let replies = vec![Act::Receive(4), Act::Send("pong".into()), Act::ReceiveAll];
    let received = received_by_client(Settings::default(), requests, replies);
    assert_eq!((&*received.bytes, received.fin, received.error), (&b"pong"[..], true, None));
}

#[test]
fn a_forwarded_reset_waits_for_output_that_a_sink_holds() {
    let settings = Settings { buffer: 64, ..Settings::default() };
    let reads_late = vec![Act::Wait(Duration::from_secs(8)), Act::ReceiveAll];
    let wait = Act::Wait(Duration::from_secs(3));
    let replies = vec![Act::Send(vec![b'x'; 2000].into()), wait, Act::Reset];
    let received = received_by_client(settings, reads_late, replies);
    assert_eq!((received.bytes.len(), received.error), (2000, Some(ConnectionError::Reset)));
}

#[test]
fn a_download_that_pauses_longer_than_the_flush_timeout_continues() {
    let settings = Settings { buffer: 64, ..Settings::default() };
    let pauses = vec![Act::Wait(Duration::from_secs(60)), Act::ReceiveAll];
    let replies = vec![Act::Send(vec![b'x'; 2000].into()), Act::Finish, Act::ReceiveAll];
    let received = received_by_client(settings, [pauses, vec![Act::Finish]].concat(), replies);
    assert_eq!((received.bytes.len(), received.fin, received.error), (2000, true, None));
}
