//! The worlds that the benchmark runs.

use std::future::poll_fn;

use wirestate_core::{
    Machine,
    admission::Limits,
    drive::{Clock as _, Drive},
    echo,
    fanout::{Config, Feed, Subscriber, Upstream},
    runtime::{Listener as _, Runtime as _},
    serve::{self, Server, ServerHandle},
};
use wirestate_testkit::sim::{Faults, Host, Settings, World};

/// What a world does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// 50 connections to an echo server, with one message of 64 bytes in flight on each
    Echo,
    /// As `echo`, under harmless faults on both hosts
    Faults,
    /// As `echo`, beside 2,000 idle connections
    Idle,
    /// A fan-out server with 100 subscribers; the upstream sends a message of 1 KiB at a time
    Fanout,
}

impl Workload {
    /// A world that is ready to run. The number of its events grows with `size`.
    pub(crate) fn world(self, seed: u64, size: usize) -> World {
        let world = World::with(seed, Settings { backlog: 10_000, ..Settings::default() });
        let (server, client) = (world.host("server"), world.host("client"));
        match self {
            Self::Echo => echo(&server, &client, size),
            Self::Faults => {
                echo(&server, &client, size);
                server.set_faults(Faults::harmless(seed));
                client.set_faults(Faults::harmless(seed + 1));
            }
            Self::Idle => {
                for _ in 0..2000 {
                    idle(&client);
                }
                echo(&server, &client, size);
            }
            Self::Fanout => fan_out(&server, &client, size),
        }
        world
    }
}

fn echo(server: &Host, client: &Host, size: usize) {
    let echo = echo::Server::default();
    serve(server, move |now| echo.machine(now));
    for _ in 0..50 {
        let runtime = client.clone();
        client.run(async move {
            let mut socket = runtime.connect("server:7").await.expect("the server accepts");
            let (message, mut buf) = ([7; 64], [0; 64]);
            for _ in 0..size {
                socket.send(&message).await.expect("no fault breaks a connection");
                let mut received = 0;
                while received < message.len() {
                    received += socket.receive(&mut buf[received..]).await.expect("as above");
                }
                assert_eq!(buf, message, "the server has sent other bytes");
            }
        });
    }
}

/// A connection that sends nothing until the server ends it.
fn idle(client: &Host) {
    let runtime = client.clone();
    client.run(async move {
        let mut socket = runtime.connect("server:7").await.expect("the server accepts");
        let _ = socket.receive(&mut [0; 64]).await;
    });
}

fn fan_out(server: &Host, client: &Host, size: usize) {
    let feed = Feed::new(Config::default()).expect("the default is valid");
    let subscribers = feed.clone();
    serve(server, move |now| Subscriber::new(&subscribers, now));
    let runtime = server.clone();
    server.run(async move {
        let socket = runtime.connect("client:1234").await.expect("the upstream listens");
        let clock = runtime.clock();
        Drive::new(Upstream::new(&feed, clock.now()), socket, clock).await;
    });
    let mut upstream = client.listen("client:1234").expect("the port is free");
    let runtime = client.clone();
    client.run(async move {
        let accepted = poll_fn(|cx| upstream.poll_accept(cx)).await;
        let (mut socket, _) = accepted.expect("no fault breaks a connection");
        for _ in 0..size {
            socket.send(&[7; 1024]).await.expect("no fault breaks a connection");
            runtime.sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    for _ in 0..100 {
        let runtime = client.clone();
        client.run(async move {
            let mut socket = runtime.connect("server:7").await.expect("the server accepts");
            let mut buf = [0; 4096];
            // Until the upstream has ended.
            for _ in 0..size / 2 {
                socket.receive(&mut buf).await.expect("no fault breaks a connection");
            }
        });
    }
}

fn serve<M>(server: &Host, mut machine: impl FnMut(wirestate_core::Instant) -> M + Send + 'static)
where
    M: Machine<Reason: Send> + Unpin + Send + 'static,
{
    let limits = Limits { per_address: None, ..Limits::default() };
    let handle = ServerHandle::new(serve::Config::default().with_limits(limits));
    let listener = server.listen("server:7").expect("the port is free");
    let serving = Server::new(server.clone(), listener).with_handle(&handle);
    server.run(async move { serving.serve(|_, now| machine(now)).await });
}
