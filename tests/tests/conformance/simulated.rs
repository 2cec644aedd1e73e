//! Scenes in a simulated world.

use std::future::poll_fn;

use wirestate_core::{
    Instant, Machine,
    drive::{Clock as _, Drive},
    echo,
    fanout::{Subscriber, Upstream},
    proxy::{self, Balance, Proxy, Upstreams},
    runtime::{Listener as _, Runtime as _},
    serve,
};
use wirestate_testkit::sim::{Faults, Host, Received, Settings, Task, World, act};

use crate::{
    fanout::feed,
    message::server,
    scene::{End, Peer, Scene, Transcript},
};

/// Starts a server on this host.
pub(crate) type Start = fn(&Host);

/// Plays a scene in a world with harmless faults, which depend on `seed`. The server listens on
/// [`SERVER`]; its upstream is [`UPSTREAM`]. Returns the transcripts of its peers.
pub(crate) fn play(scene: &Scene, start: Start, seed: u64) -> Vec<Transcript> {
    // As much as the scenes send before they read.
    let world = World::with(seed, Settings { buffer: 1 << 18, ..Settings::default() });
    let host = |name: &str| {
        let host = world.host(name);
        host.set_faults(Faults::harmless(seed));
        host
    };
    let upstream = host("upstream");
    let upstream = scene.upstream.as_ref().map(|peer| accept(&upstream, peer));
    start(&host("server"));
    let client = |(index, peer)| connect(&host(&format!("client {index}")), peer);
    let clients: Vec<_> = scene.clients.iter().enumerate().map(client).collect();
    let tasks = clients.into_iter().chain(upstream);
    let transcripts = tasks.map(|task| match world.run_until(&task) {
        Ok(Received { bytes, fin: true, .. }) => Transcript { bytes, end: End::Fin },
        Ok(Received { bytes, error: Some(_), .. }) => Transcript { bytes, end: End::Rst },
        Ok(Received { bytes, .. }) => Transcript { bytes, end: End::Open },
        Err(halted) => panic!("{}: {halted}", scene.name),
    });
    let transcripts = transcripts.collect();
    world.clear();
    transcripts
}

fn connect(host: &Host, peer: &Peer) -> Task<Received> {
    let (runtime, acts) = (host.clone(), peer.acts.clone());
    host.run(async move {
        let socket = runtime.connect(SERVER).await.expect("the server listens");
        act(runtime, socket, acts).await
    })
}

fn accept(host: &Host, peer: &Peer) -> Task<Received> {
    let (runtime, acts) = (host.clone(), peer.acts.clone());
    let mut listener = host.listen(UPSTREAM).expect("the port is free");
    host.run(async move {
        let accepted = poll_fn(|cx| listener.poll_accept(cx)).await;
        act(runtime, accepted.expect("nothing fails").0, acts).await
    })
}

pub(crate) fn echo(host: &Host) {
    let server = echo::Server::default();
    serve(host, move |now| server.machine(now));
}

pub(crate) fn message(host: &Host) {
    let server = server();
    serve(host, move |now| server.machine(now));
}

pub(crate) fn relay(host: &Host) {
    let upstreams = Upstreams::new([UPSTREAM.to_owned()], Balance::RoundRobin, 1);
    let proxy = Proxy::new(proxy::Config::default(), upstreams).expect("it is valid");
    let server = serve::Server::new(host.clone(), host.listen(SERVER).expect("the port is free"));
    host.run(async move { proxy::serve(server, proxy).await });
}

pub(crate) fn fan_out(host: &Host) {
    let (feed, runtime) = (feed(), host.clone());
    let upstream = feed.clone();
    host.run(async move {
        let socket = runtime.connect(UPSTREAM).await.expect("the upstream listens");
        let clock = runtime.clock();
        Drive::new(Upstream::new(&upstream, clock.now()), socket, clock).await
    });
    serve(host, move |now| Subscriber::new(&feed, now));
}

/// Serves a machine for each connection.
fn serve<M>(host: &Host, mut machine: impl FnMut(Instant) -> M + Send + 'static)
where
    M: Machine<Reason: Send> + Unpin + Send + 'static,
{
    let server = serve::Server::new(host.clone(), host.listen(SERVER).expect("the port is free"));
    host.run(async move { server.serve(|_, now| machine(now)).await });
}

const SERVER: &str = "server:7";
const UPSTREAM: &str = "upstream:7";
