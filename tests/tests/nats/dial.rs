//! A session that is kept connected: in the simulator, to servers that are none, and to real ones.

use std::{
    io::Write,
    net::TcpListener,
    sync::Arc,
    thread,
    time::{Duration, Instant as WallTime},
};

use wirestate_core::{
    Instant,
    dial::{Layer, Plain, Servers},
    nats::{Client, Config, Connection, Dial, DialEvent, FlushId, Incoming, Publish, Session},
    runtime::Runtime,
    shared::Lock,
    shutdown::ShutdownHandle,
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Faults, Host, Task, World},
};

use crate::{
    model::Cluster,
    real_server::{Server, TlsFiles, on_tokio},
};

/// What has happened, as text.
#[derive(Clone, Default)]
struct Log(Arc<Lock<Vec<String>>>);

impl Log {
    fn push(&self, text: String) {
        self.0.with(|log| log.push(text));
    }

    fn all(&self) -> Vec<String> {
        self.0.with(|log| log.clone())
    }

    fn observe(&self, event: DialEvent<'_>) {
        self.push(match event {
            DialEvent::Failed { address, error } => format!("failed {address}: {error}"),
            DialEvent::Connected { address } => format!("connected {address}"),
            DialEvent::Ended { address, reason } => format!("ended {address}: {reason}"),
        });
    }

    /// The addresses that were connected to, in their order.
    fn connected(&self) -> Vec<String> {
        let all = self.all();
        let addresses = all.iter().filter_map(|text| text.strip_prefix("connected "));
        addresses.map(str::to_owned).collect()
    }

    /// The end of the last line.
    fn last(&self) -> String {
        let last = self.all().pop().unwrap_or_default();
        last.split_once(": ").map_or(last.clone(), |(_, text)| text.to_owned())
    }
}

/// Has one message to publish. Until a shutdown, it keeps it.
#[derive(Clone, Default)]
struct Reluctant {
    is_asked: bool,
    flush: Option<FlushId>,
    is_published: bool,
}

impl Reluctant {
    fn publish(&mut self, client: &mut Client, now: Instant) {
        client.publish(&Publish::new("last", "words"), now).unwrap();
        self.flush = Some(client.flush(now).unwrap());
    }
}

impl Session for Reluctant {
    fn connected(&mut self, client: &mut Client, now: Instant) {
        self.flush = None;
        if self.is_asked {
            self.publish(client, now);
        }
    }

    fn handle(&mut self, client: &mut Client, incoming: Incoming, now: Instant) {
        if let Incoming::Flushed(id) = incoming
            && self.flush == Some(id)
        {
            self.is_published = true;
            wirestate_core::Machine::handle(client, now, wirestate_core::Event::ShutDown);
        }
    }

    fn shut_down(&mut self, client: Option<&mut Client>, now: Instant) {
        self.is_asked = true;
        if let Some(client) = client {
            self.publish(client, now);
        }
    }

    fn is_done(&self) -> bool {
        self.is_published
    }
}

/// Keeps connected, and has nothing to do.
struct Idle;

impl Session for Idle {
    fn connected(&mut self, _client: &mut Client, _now: Instant) {}

    fn handle(&mut self, _client: &mut Client, incoming: Incoming, _now: Instant) {
        panic!("{incoming:?}");
    }
}

fn dial(addresses: &[&str], seed: u64) -> Dial {
    let config = Config::default().with_ping_interval(Duration::from_secs(3));
    Dial::new(Servers::new(addresses.to_vec(), seed).unwrap(), config).unwrap()
}

fn run<S: Session + Send + 'static>(
    host: &Host,
    dial: Dial,
    session: S,
) -> (Log, ShutdownHandle, Task<bool>) {
    let (log, shutdown, runtime) = (Log::default(), dial.shutdown.clone(), host.clone());
    let log_of_task = log.clone();
    let task = host.run(async move {
        let observe = |event: DialEvent<'_>| log_of_task.observe(event);
        let mut connection = Connection::new(session);
        dial.keep_connected(&runtime, &Plain, &mut connection, observe).await;
        assert!(!connection.is_connected());
        connection.session().is_done()
    });
    (log, shutdown, task)
}

const NODES: [&str; 3] = ["n0:1", "n1:1", "n2:1"];

/// Harmless faults whose delays add up to less than the 2 s in which a session notices an end: a
/// lame-duck INFO and the FINs of both ends can each be delayed many times.
fn faults(seed: u64) -> Faults {
    Faults { delay: Duration::from_micros(1)..=Duration::from_millis(50), ..Faults::harmless(seed) }
}

fn cluster(world: &World, seed: u64) -> (Cluster, Vec<Host>) {
    let hosts = ["n0", "n1", "n2"].map(|name| world.host(name));
    for host in &hosts {
        host.set_faults(faults(seed));
    }
    (Cluster::default(), hosts.to_vec())
}

#[test]
fn a_session_moves_to_another_node_when_its_own_dies_or_announces_its_end() {
    for_each_seed(8, |seed| {
        let world = World::new(seed);
        let (cluster, hosts) = cluster(&world, seed);
        let mut handles: Vec<_> =
            hosts.iter().zip(NODES).map(|(host, node)| cluster.start(host, node)).collect();
        let client = world.host("client");
        client.set_faults(faults(seed + 1));
        // The other nodes are learned.
        let (log, shutdown, task) = run(&client, dial(&NODES[..1], seed), Idle);
        for round in 0..6 {
            world.run_for(Duration::from_secs(12)).unwrap();
            let connected = log.connected();
            assert_eq!(connected.len(), round + 1, "{:?}", log.all());
            let node = NODES.iter().position(|node| *node == connected[round]).unwrap();
            if round > 0 {
                assert_ne!(connected[round - 1], connected[round], "the next one");
            }
            let is_killed = (seed + round as u64).is_multiple_of(2);
            if is_killed {
                handles[node].abort();
            } else {
                cluster.lame_duck(NODES[node]);
            }
            world.run_for(Duration::from_secs(2)).unwrap();
            let ends: Vec<_> =
                log.all().into_iter().filter(|line| line.starts_with("ended")).collect();
            assert_eq!(ends.len(), round + 1);
            let is_said = ends[round].ends_with("the server is about to stop");
            assert_eq!(is_said, !is_killed, "{ends:?}");
            if is_killed {
                handles[node] = cluster.start(&hosts[node], NODES[node]);
            }
        }
        world.run_for(Duration::from_secs(12)).unwrap();
        shutdown.drain();
        world.run_until(&task).unwrap();
        assert_eq!(log.last(), "closed");
        for handle in &handles {
            handle.abort();
        }
        world.run().unwrap();
    });
}

#[test]
fn a_drain_waits_for_a_connection_on_which_the_session_completes_what_it_has_to_do() {
    for_each_seed(4, |seed| {
        let world = World::new(seed);
        let (cluster, hosts) = cluster(&world, seed);
        let client = world.host("client");
        let (log, shutdown, task) = run(&client, dial(&NODES, seed), Reluctant::default());
        let handle = if seed % 2 == 0 {
            // No node is there.
            world.run_for(Duration::from_secs(1)).unwrap();
            shutdown.drain();
            world.run_for(Duration::from_secs(30)).unwrap();
            assert!(log.connected().is_empty() && !log.all().is_empty());
            cluster.start(&hosts[0], NODES[0])
        } else {
            let handle = cluster.start(&hosts[0], NODES[0]);
            world.run_for(Duration::from_secs(30)).unwrap();
            assert_eq!(log.connected(), [NODES[0]]);
            shutdown.drain();
            handle
        };
        assert!(world.run_until(&task).unwrap());
        assert_eq!((log.connected().len(), &*log.last()), (1, "closed"));
        handle.abort();
        world.run().unwrap();
    });
}

#[test]
fn an_immediate_shutdown_does_not_wait_for_the_session() {
    let world = World::new(1);
    let (cluster, hosts) = cluster(&world, 1);
    let handle = cluster.start(&hosts[0], NODES[0]);
    let client = world.host("client");
    for nodes in [&NODES[..1], &NODES[1..]] {
        let (_, shutdown, task) = run(&client, dial(nodes, 1), Reluctant::default());
        world.run_for(Duration::from_secs(20)).unwrap();
        shutdown.abort();
        world.run_for(Duration::from_millis(1)).unwrap();
        assert_eq!(task.take(), Some(false));
    }
    handle.abort();
    world.run().unwrap();
}

/// The first byte of an alert of TLS.
const ALERT: u8 = 0x15;

/// Accepts connections and sends `bytes` on each, then keeps it for a second.
fn serve(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let bytes = bytes.clone();
            thread::spawn(move || {
                // The client resets the connection before it has read all.
                let _ = socket.write_all(&bytes);
                // An alert is followed by a FIN.
                if bytes.first() != Some(&ALERT) {
                    thread::sleep(Duration::from_secs(1));
                }
            });
        }
    });
    address
}

/// Dials `address` for a while. Each attempt ends by `what` and with `reason`.
async fn try_for_a_while<R: Runtime, L: Layer>(
    runtime: R,
    address: &str,
    layer: &L,
    what: &str,
    reason: &str,
) {
    let is_silent = reason.starts_with("no INFO");
    let limit = Duration::from_millis(if is_silent { 50 } else { 5000 });
    let config = Config::default().with_info_timeout(limit);
    let dial = Dial::new(Servers::new([address], 3).unwrap(), config).unwrap();
    let (log, shutdown) = (Log::default(), dial.shutdown.clone());
    let timer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        shutdown.drain();
    });
    let mut connection = Connection::new(Idle);
    dial.keep_connected(&runtime, layer, &mut connection, |event| log.observe(event)).await;
    timer.join().unwrap();
    let log = log.all();
    // The waits of the back-off are below 50, 100, 200 and 400 ms.
    assert!((2..20).contains(&log.len()), "{log:?}");
    // The last attempt may have been interrupted.
    let (_, tried) = log.split_last().unwrap();
    for line in tried {
        assert!(line.starts_with(what) && line.contains(reason), "{line}");
    }
}

#[test]
fn a_server_that_is_none_is_dialled_again_after_a_growing_time() {
    let files = TlsFiles::new("none");
    let megabyte = format!("INFO {{\"a\":\"{}", "x".repeat(1 << 20)).into_bytes();
    let rows = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "not a NATS server: it begins with"),
        (vec![ALERT, 3, 3, 0, 2, 2, 40], "not a NATS server: it begins with \"\\x15"),
        (megabyte, "a line of more than 64KiB, which is the limit"),
        (Vec::new(), "no INFO within 50ms"),
    ];
    let before_tls = [
        (b"INFO {\"tls_required\":false}\r\n".to_vec(), "the server has no TLS"),
        (b"INFO {\"tls_required\":true}\r\nPING\r\n".to_vec(), "6 bytes in plain text before"),
    ];
    thread::scope(|scope| {
        for (bytes, reason) in rows.iter().chain(&before_tls) {
            let tls = files.client();
            scope.spawn(move || {
                let address = serve(bytes.clone());
                on_tokio(async |runtime| {
                    try_for_a_while(runtime, &address, &tls, "failed", reason).await;
                });
            });
        }
        for (bytes, reason) in &rows {
            scope.spawn(move || {
                let address = serve(bytes.clone());
                on_tokio(async |runtime| {
                    try_for_a_while(runtime, &address, &Plain, "ended", reason).await;
                });
            });
        }
    });
}

/// Waits until `found` says so, for at most 10 s.
async fn wait_until<R: Runtime>(runtime: &R, what: &str, mut found: impl FnMut() -> bool) {
    use wirestate_core::drive::Clock as _;
    let mut clock = runtime.clock();
    let end = WallTime::now() + Duration::from_secs(10);
    while !found() {
        assert!(WallTime::now() < end, "{what}");
        let next = clock.now() + Duration::from_millis(5);
        std::future::poll_fn(|cx| clock.poll_until(cx, next)).await;
    }
}

/// Keeps connected to `address` while `test` runs, then drains.
fn while_connected<L: Layer>(
    addresses: &[&str],
    layer: &L,
    set_up: impl FnOnce(Dial) -> Dial,
    test: impl AsyncFnOnce(&wirestate_tokio::Tokio, &Log),
) {
    let dial = set_up(dial(addresses, 3));
    on_tokio(async |runtime| {
        let (log, shutdown) = (Log::default(), dial.shutdown.clone());
        let (log_of_dial, runtime_of_dial) = (log.clone(), runtime.clone());
        let mut connection = Connection::new(Idle);
        let observe = |event: DialEvent<'_>| log_of_dial.observe(event);
        let dialling = dial.keep_connected(&runtime_of_dial, layer, &mut connection, observe);
        let testing = async {
            test(&runtime, &log).await;
            shutdown.drain();
        };
        crate::real_server::futures_join(dialling, testing).await;
        assert_eq!(log.last(), "closed");
    });
}

#[test]
fn a_session_moves_when_its_real_server_is_killed_or_about_to_stop() {
    let Some(servers) = Server::start_two() else { return };
    let mut servers = servers.map(Some);
    let addresses = servers.each_ref().map(|server| server.as_ref().unwrap().address.clone());
    let first = addresses[0].clone();
    while_connected(
        &[&first],
        &Plain,
        |dial| dial,
        async |runtime, log| {
            wait_until(runtime, "connected", || log.connected() == [&*first]).await;
            servers[0].as_ref().unwrap().signal(rustix::process::Signal::USR2);
            wait_until(runtime, "moved", || log.connected().len() == 2).await;
            assert_eq!(log.connected()[1], addresses[1]);
            let ended = format!("ended {first}: the server is about to stop");
            assert_eq!(log.all()[1], ended);
            drop(servers[0].take());
            servers[0] = Server::start(&["-p", first.rsplit_once(':').unwrap().1]);
            servers[1].as_mut().unwrap().kill();
            wait_until(runtime, "moved back", || log.connected().len() == 3).await;
            assert_eq!(log.connected()[2], first);
        },
    );
}

#[test]
fn a_session_connects_with_tls_behind_info_or_before_it() {
    let files = TlsFiles::new("dial");
    let Some(server) = Server::with_config("dial", &files.config("")) else { return };
    while_connected(
        &[&server.address],
        &files.client(),
        |dial| dial,
        async |runtime, log| {
            wait_until(runtime, "connected", || log.connected().len() == 1).await;
        },
    );
    let other = TlsFiles::new("other").client();
    on_tokio(async |runtime| {
        let reason = "certificate is not valid";
        try_for_a_while(runtime, &server.address, &other, "ended", reason).await;
    });

    let version = std::process::Command::new(crate::program::path()).arg("-v").output();
    let version = String::from_utf8(version.unwrap().stdout).unwrap();
    if version.contains("v2.9.") {
        eprintln!("NOT TESTED: handshake_first, which {} does not have", version.trim());
        return;
    }
    let config = files.config("handshake_first: true");
    let Some(server) = Server::with_config("first", &config) else { return };
    let set_up = |dial: Dial| dial.with_tls_first(true);
    while_connected(&[&server.address], &files.client(), set_up, async |runtime, log| {
        wait_until(runtime, "connected", || log.connected().len() == 1).await;
    });
}
