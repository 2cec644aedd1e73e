//! Publishers and subscribers of a simulated cluster, whose nodes are killed, restarted, slow, or
//! announce their end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use wirestate_core::{
    Event, Machine as _,
    dial::Servers,
    drive::{Clock as _, Drive},
    nats::{Client, Config, FlushId, Incoming, Publish},
    runtime::Runtime as _,
    shared::Lock,
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    sim::{Faults, Host, Settings, Task, World},
};

use crate::model::Cluster;

const NODES: [&str; 3] = ["n0:1", "n1:1", "n2:1"];
const COUNT: u64 = 60;
/// The payload of a message has its number and this many bytes.
const SIZE: usize = 500;

/// What a client has done so far.
#[derive(Clone, Debug, Default)]
struct Log {
    state: Arc<Lock<LogState>>,
}

#[derive(Clone, Debug, Default)]
struct LogState {
    /// What was received on each connection: a number, and which of the publisher's connections has
    /// sent it.
    epochs: Vec<Vec<(u64, u128)>>,
    reasons: Vec<String>,
}

/// What a client does on a connection.
enum Role {
    /// Publishes the numbers up to [`COUNT`]. It goes on behind the last flush that was answered.
    Publisher { confirmed: u64 },
    /// Receives until the last number.
    Subscriber,
}

/// Keeps a client connected to one of the nodes until it is done.
fn run(host: &Host, mut role: Role, seed: u64) -> (Log, Task<()>) {
    let log = Log::default();
    let (runtime, log_of_task) = (host.clone(), log.clone());
    let task = host.run(async move {
        let log = log_of_task;
        // Only one address is given: the others are learned.
        let mut servers = Servers::new([NODES[0], NODES[1]], seed).unwrap();
        let clock = runtime.clock();
        loop {
            let since = clock.now();
            let address = servers.current().to_owned();
            if let Ok(socket) = runtime.connect(&address).await {
                log.state.with(|log| log.epochs.push(Vec::new()));
                let done = connection(&runtime, socket, &mut servers, &mut role, &log).await;
                if done {
                    return;
                }
            }
            let wait = servers.ended(clock.now().since(since));
            runtime.sleep(wait).await;
        }
    });
    (log, task)
}

/// Runs one connection. Returns whether the role is done.
async fn connection(
    runtime: &Host,
    socket: <Host as wirestate_core::Runtime>::Socket,
    servers: &mut Servers,
    role: &mut Role,
    log: &Log,
) -> bool {
    let config = Config::default().with_ping_interval(Duration::from_secs(3));
    let clock = runtime.clock();
    let id = clock.now().since_epoch().as_nanos();
    let client = Client::new(config, clock.now()).unwrap();
    let mut drive = Drive::new(Checked::new(client, 4 << 20), socket, clock);
    let (mut is_connected, mut next, mut pending) = (false, 0, None::<(FlushId, u64)>);
    let mut is_done = false;
    let ended = drive
        .until(|client, now| {
            let mut shuts_down = false;
            let machine = client.machine_mut();
            while let Some(incoming) = machine.take_incoming(now) {
                match incoming {
                    Incoming::Connected => {
                        is_connected = true;
                        servers.learn(machine.info().connect_urls.iter().map(|url| &**url));
                        match role {
                            Role::Publisher { confirmed } => next = *confirmed,
                            Role::Subscriber => drop(machine.subscribe("n.*", None, now)),
                        }
                    }
                    Incoming::Message(message) => {
                        let text = str::from_utf8(message.payload()).unwrap();
                        let mut words = text.splitn(3, ' ');
                        let mut word = || words.next().unwrap();
                        let (number, publisher, rest) = (word(), word(), word());
                        let number: u64 = number.parse().unwrap();
                        let publisher = publisher.parse().unwrap();
                        assert!(rest.len() == SIZE && rest.bytes().all(|byte| byte == b'x'));
                        log.state
                            .with(|log| log.epochs.last_mut().unwrap().push((number, publisher)));
                        is_done |= number == COUNT - 1;
                        shuts_down |= is_done;
                    }
                    Incoming::Flushed(id) => {
                        let (expected, number) = pending.take().unwrap();
                        assert_eq!(id, expected);
                        let Role::Publisher { confirmed } = role else { panic!() };
                        *confirmed = number;
                    }
                    Incoming::LameDuck => {
                        servers.skip();
                        shuts_down = true;
                    }
                    Incoming::Servers => {}
                    Incoming::Reply { .. } | Incoming::Error(_) => panic!("{incoming:?}"),
                }
            }
            if let Role::Publisher { confirmed } = role
                && is_connected
            {
                is_done = *confirmed == COUNT;
                shuts_down |= is_done;
                while !is_done && pending.is_none() && next < COUNT {
                    let payload = format!("{next} {id} {}", "x".repeat(SIZE));
                    let message = Publish::new("n.1", payload);
                    if machine.publish(&message, now).is_err() {
                        break;
                    }
                    next += 1;
                    if next % 5 == 0 {
                        pending = machine.flush(now).ok().map(|id| (id, next));
                    }
                }
            }
            if shuts_down {
                client.handle(now, Event::ShutDown);
            }
            None::<()>
        })
        .await
        .unwrap_err();
    log.state.with(|log| log.reasons.push(ended.to_string()));
    is_done
}

/// Of each connection of the publisher, the numbers have no gap. A node that was stopped may still
/// deliver what an earlier connection has sent.
fn check_order(log: &Log) {
    for epoch in log.state.with(|log| log.epochs.clone()) {
        let mut last = BTreeMap::new();
        for (number, publisher) in epoch {
            if let Some(before) = last.insert(publisher, number) {
                assert_eq!(number, before + 1, "of connection {publisher}");
            }
        }
    }
}

#[test]
fn numbered_messages_arrive_in_order_while_nodes_come_and_go() {
    for_each_seed(12, |seed| {
        let settings = Settings { buffer: 1 << (9 + seed % 6), ..Settings::default() };
        let world = World::with(seed, settings);
        // The waits are below a second, so that nodes come and go while messages are published.
        let pace = seed % 12;
        let cluster = Cluster::default();
        let hosts = ["n0", "n1", "n2"].map(|name| world.host(name));
        let mut handles = Vec::new();
        for (host, address) in hosts.iter().zip(NODES) {
            host.set_faults(Faults::harmless(seed));
            handles.push(cluster.start(host, address));
        }
        let subscribers: Vec<_> = (0..3)
            .map(|i| {
                let host = world.host(&format!("subscriber {i}"));
                host.set_faults(Faults::harmless(seed * 10 + i));
                run(&host, Role::Subscriber, seed + i)
            })
            .collect();
        world.run_for(Duration::from_secs(5)).unwrap();
        let host = world.host("publisher");
        host.set_faults(Faults::harmless(seed * 10 + 9));
        let (publisher, publishing) = run(&host, Role::Publisher { confirmed: 0 }, seed);
        world.run_for(Duration::from_millis(pace * 40)).unwrap();

        // Each node in turn dies, announces its end, or stops for longer than a PONG may take.
        for round in 0..6 {
            let node = usize::try_from(seed + round).unwrap() % 3;
            match (seed + round) % 4 {
                0 | 1 => {
                    handles[node].abort();
                    world.run_for(Duration::from_millis(200)).unwrap();
                    handles[node] = cluster.start(&hosts[node], NODES[node]);
                }
                2 => cluster.lame_duck(NODES[node]),
                _ => hosts[node].stop_for(Duration::from_secs(15)),
            }
            world.run_for(Duration::from_millis(300 + pace * 50)).unwrap();
        }
        world.run_until(&publishing).unwrap();
        // Who was away at the last number has missed it: core NATS keeps nothing.
        let (last, publishing) = run(&host, Role::Publisher { confirmed: COUNT - 5 }, seed);
        world.run_until(&publishing).unwrap();
        let mut rounds = 0;
        for (log, task) in &subscribers {
            loop {
                world.run_for(Duration::from_secs(20)).unwrap();
                if task.take().is_some() {
                    break;
                }
                rounds += 1;
                assert!(rounds < 20, "{:?}", log.state.with(|log| log.clone()));
                let (_, again) = run(&host, Role::Publisher { confirmed: COUNT - 5 }, seed);
                world.run_until(&again).unwrap();
            }
            check_order(log);
        }
        drop((publisher, last));
        for handle in &handles {
            handle.abort();
        }
        world.run().unwrap();
    });
}
