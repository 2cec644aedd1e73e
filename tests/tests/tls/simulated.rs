//! TLS in the simulated world: the real servers, drivers and proxy, under its faults.

use std::{
    future::Future,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use wirestate_command_line::load::{Load, LoadConfig, LoadReason, Pace};
use wirestate_core::{
    Event, Instant, Interest, Machine, Reason as _, Runtime as _, Status,
    admission::ConnectionTable,
    buffer::Pool,
    drive::{Clock as _, Drive, Ended},
    echo,
    proxy::{self, Balance, Proxy, Upstreams},
    serve::{self, DrainReport, ServerHandle},
    shutdown::ShutdownHandle,
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    sim::{Act, Faults, Host, Leftovers, Task, World, act, digest, misbehaving},
};
use wirestate_tls::{Client, Server, TlsReason, TlsRuntime};

use crate::records::{client, server};

/// What the inner machines were told, in order.
type Notes = Arc<Mutex<Vec<String>>>;

/// A machine that notes its events. The ciphertext differs from run to run, because keys are
/// random: only what the inner machines see can be compared.
struct Noting<M> {
    inner: M,
    notes: Notes,
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded has no effect")]
impl<M: Machine> Machine for Noting<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.inner.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.inner.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.inner.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.inner.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        let content = match event {
            Event::Read(n) => digest(&self.inner.read_buf()[..n]),
            Event::Eof
            | Event::Written(_)
            | Event::Finished
            | Event::Error(..)
            | Event::Timeout { .. }
            | Event::ShutDown
            | Event::Release => 0,
        };
        self.notes.lock().unwrap().push(format!("{now} {event:?} {content}"));
        self.inner.handle(now, event);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.inner.poll_shared(now, cx)
    }

    fn work(&self) -> u64 {
        self.inner.work()
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn reason(&self) -> Option<M::Reason> {
        self.inner.reason()
    }
}

/// An echo server with TLS.
struct Scene {
    world: World,
    server: Host,
    table: ConnectionTable,
    shutdown: ShutdownHandle,
    serving: Task<DrainReport>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        Self::with(World::new(seed), &server())
    }

    fn with(world: World, tls: &Server) -> Self {
        let host = world.host("server");
        let handle = ServerHandle::default();
        let (table, shutdown) = (handle.table().clone(), handle.shutdown().clone());
        let (serving, tls) = (host.clone(), tls.clone());
        let listener = host.listen("server:7").unwrap();
        let serving = host.run(async move {
            let echo = echo::Server::default();
            serve::Server::new(serving, listener)
                .with_handle(&handle)
                .serve(|_, now| checked(tls.machine(echo.machine(now), now)))
                .await
        });
        Self { world, server: host, table, shutdown, serving }
    }

    /// Peers that do not speak TLS, or stop in the middle of it.
    fn misbehaving(&self, seed: u64) {
        let host = self.world.host("faulty");
        host.set_faults(Faults::harmful(seed));
        for i in 0..4 {
            let mut acts = misbehaving(seed * 100 + i);
            // The header of a handshake record, so that the rest is waited for.
            if i % 2 == 0 {
                acts.insert(0, Act::Send(b"\x16\x03\x01\x40\0".as_slice().into()));
            }
            let runtime = host.clone();
            host.run(async move {
                let socket = runtime.connect("server:7").await.unwrap();
                act(runtime, socket, acts).await
            });
        }
    }

    fn end(&self) {
        self.shutdown.drain();
        self.world.run().unwrap();
        assert_eq!(self.world.leftovers(), Leftovers::default());
        let totals = self.table.totals();
        assert_eq!((totals.open, totals.accepted), (0, totals.ended.values().sum()));
        self.serving.take().expect("all tasks have ended");
    }
}

/// A client that sends messages and verifies their echoes, and the notes of its machine.
fn talk(host: &Host, client: &Client, rounds: u64) -> (Task<Ended<TlsReason<LoadReason>>>, Notes) {
    let notes = Notes::default();
    let (runtime, client, kept) = (host.clone(), client.clone(), notes.clone());
    let task = host.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        let clock = runtime.clock();
        let inner = Noting { inner: load(rounds, clock.now()), notes: kept };
        Drive::new(checked(client.machine(inner, clock.now())), socket, clock).await
    });
    (task, notes)
}

fn checked<M: Machine>(machine: M) -> Checked<M> {
    Checked::new(machine, 256 * 1024)
}

fn load(rounds: u64, now: Instant) -> Load<fn(Duration)> {
    let messages: Vec<_> =
        [1, 700, 22, 3000, 20_000].map(|size| Bytes::from(vec![b'm'; size])).into();
    let config = LoadConfig::default()
        .with_messages(messages)
        .with_rounds(rounds)
        .with_pace(Pace::Pipelined(NonZeroUsize::new(5).unwrap()))
        .with_idle_timeout(Some(Duration::from_secs(600)))
        // Stalls can delay the server's FIN for longer than the default.
        .with_close_timeout(Duration::from_secs(600));
    Load::new(config, Pool::new(512, 1), now, (|_| {}) as fn(_)).unwrap()
}

/// The bytes of a round of [`load`].
const ROUND: u64 = 1 + 700 + 22 + 3000 + 20_000;

fn complete(rounds: u64) -> LoadReason {
    LoadReason::Complete { bytes: rounds * ROUND }
}

#[test]
fn every_byte_comes_back_under_faults_that_break_no_connection() {
    for_each_seed(8, |seed| {
        let (scene, client) = (Scene::new(seed), client());
        scene.server.set_faults(Faults::harmless(seed));
        let loads: Vec<_> = (0..3)
            .map(|i| {
                let host = scene.world.host(&format!("client {i}"));
                host.set_faults(Faults::harmless(seed * 100 + i));
                talk(&host, &client, 2).0
            })
            .collect();
        for loading in loads {
            let ended = scene.world.run_until(&loading).unwrap();
            assert_eq!(ended, Ended::Reason(TlsReason::Inner(complete(2))));
        }
        scene.world.run_for(Duration::from_secs(60)).unwrap();
        assert_eq!(scene.table.totals().ended.get("finished"), Some(&3));
        scene.end();
    });
}

#[test]
fn under_all_faults_every_connection_ends_and_healthy_ones_are_served() {
    for_each_seed(12, |seed| {
        let (scene, client) = (Scene::new(seed), client());
        scene.server.set_faults(Faults::harmful(seed));
        let healthy = scene.world.host("healthy");
        let loads: Vec<_> = (0..3).map(|_| talk(&healthy, &client, 2).0).collect();
        scene.misbehaving(seed);
        scene.world.run_for(Duration::from_secs(10)).unwrap();

        scene.server.set_faults(Faults::NONE);
        let (late, _) = talk(&healthy, &client, 2);
        scene.world.run_for(Duration::from_secs(5)).unwrap();
        let ended = late.take().expect("a healthy connection ends within 5 s");
        assert_eq!(ended, Ended::Reason(TlsReason::Inner(complete(2))));

        scene.world.run_for(Duration::from_secs(1800)).unwrap();
        for loading in loads {
            let label = loading.take().expect("a load ends").label();
            assert!(!matches!(label, "mismatch" | "surplus"), "{label}");
        }
        assert_eq!(scene.table.totals().open, 0);
        scene.end();
    });
}

/// With other peers, the driver's yields after a handshake fall between other tasks, so that not
/// every time is the same.
#[test]
fn the_same_seed_gives_the_same_run_and_faulty_peers_disturb_nobody() {
    let run = |seed: u64, is_faulty: bool| -> Vec<Vec<String>> {
        let scene = Scene::new(seed);
        scene.server.set_faults(Faults::harmless(seed));
        let loads: Vec<_> = ["one", "two"]
            .map(|name| {
                // A client of its own: a session that is resumed depends on the other connection.
                talk(&scene.world.host(name), &client(), 2)
            })
            .into();
        if is_faulty {
            scene.misbehaving(seed);
        }
        let notes = loads.into_iter().map(|(loading, notes)| {
            let ended = scene.world.run_until(&loading).unwrap();
            assert_eq!(ended, Ended::Reason(TlsReason::Inner(complete(2))));
            notes.lock().unwrap().clone()
        });
        notes.collect()
    };
    for_each_seed(4, |seed| {
        let alone = run(seed, false);
        assert!(alone.iter().all(|notes| notes.len() > 10));
        assert!(alone == run(seed, false), "the same seed gives the same run");
        run(seed, true);
    });
}

/// TLS on each side of a proxy, or on both. Bulk data must not go through a pipe.
#[test]
fn a_proxy_relays_between_tls_and_plain_connections() {
    for (client_tls, upstream_tls) in [(true, true), (true, false), (false, true)] {
        for_each_seed(2, |seed| {
            let world = World::new(seed);
            let faults = Faults { no_splice: 0, ..Faults::harmless(seed) };
            let (echoing, proxying, dialling) =
                (world.host("echo"), world.host("proxy"), world.host("client"));
            let shutdowns = [ShutdownHandle::new(), ShutdownHandle::new()];
            let [echo_handle, proxy_handle] = shutdowns
                .each_ref()
                .map(|shutdown| ServerHandle::default().with_shutdown(shutdown.clone()));
            for host in [&echoing, &proxying, &dialling] {
                host.set_faults(faults.clone());
            }
            serve_echo(&echoing, &echo_handle, upstream_tls);
            let table = proxy_handle.table().clone();
            serve_proxy(&proxying, &proxy_handle, client_tls, upstream_tls);
            let loads: Vec<_> = (0..2)
                .map(|_| {
                    let runtime = dialling.clone();
                    dialling.run(async move {
                        let socket = runtime.connect("proxy:9500").await.unwrap();
                        let clock = runtime.clock();
                        let load = load(3, clock.now());
                        if client_tls {
                            let tls = client().machine(load, clock.now());
                            Drive::new(checked(tls), socket, clock).await.to_string()
                        } else {
                            Drive::new(load, socket, clock).await.to_string()
                        }
                    })
                })
                .collect();
            for loading in loads {
                let ended = world.run_until(&loading).unwrap();
                assert_eq!(ended, complete(3).to_string(), "TLS {client_tls} {upstream_tls}");
            }
            world.run_for(Duration::from_secs(60)).unwrap();
            assert_eq!(table.totals().ended.get("finished"), Some(&2));
            for shutdown in shutdowns {
                shutdown.drain();
            }
            world.run().unwrap();
            assert_eq!(world.leftovers(), Leftovers::default());
        });
    }
}

fn serve_echo(host: &Host, handle: &ServerHandle, has_tls: bool) {
    let (runtime, tls, echo) = (host.clone(), server(), echo::Server::default());
    let listener = host.listen("echo:7").unwrap();
    let server = serve::Server::new(runtime, listener).with_handle(handle);
    if has_tls {
        host.run(server.serve(move |_, now| tls.machine(echo.machine(now), now)));
    } else {
        host.run(server.serve(move |_, now| echo.machine(now)));
    }
}

fn serve_proxy(host: &Host, handle: &ServerHandle, client_tls: bool, upstream_tls: bool) {
    let upstreams = Upstreams::new(["echo:7".to_owned()], Balance::RoundRobin, 1);
    let config = proxy::Config::default().with_buffer(NonZeroUsize::new(512).unwrap());
    let proxy = Proxy::new(config, upstreams).unwrap();
    let runtime = TlsRuntime::new(host.clone(), upstream_tls.then(client));
    let listener = runtime.listen("proxy:9500").unwrap();
    let server = serve::Server::new(runtime.clone(), listener).with_handle(handle);
    if client_tls {
        let clients = crate::records::server();
        let handshake = move |socket, admitted, clock| {
            runtime.clone().accept(clients.clone(), socket, admitted, clock)
        };
        run(host, proxy::serve_after(server, proxy, handshake));
    } else {
        run(host, proxy::serve(server, proxy));
    }
}

fn run(host: &Host, serving: impl Future<Output = DrainReport> + Send + 'static) {
    host.run(serving);
}
