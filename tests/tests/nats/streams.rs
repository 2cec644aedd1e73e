//! Two publishers with a lease, and consumers, of a simulated cluster: nodes are killed, stopped
//! and slow, publishers are stopped for longer than their lease, and connections are reset.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    task::Context,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use rand_xorshift::XorShiftRng;
use wirestate_core::{
    Instant,
    dial::{Plain, Servers},
    nats::{
        Client, Config, Connection, Dial, Incoming, Session,
        jetstream::{
            Consumer, ConsumerConfig, ConsumerEvent, Lease, LeaseConfig, LeaseEvent, MessageId,
            Publisher, PublisherEvent, Start, StreamConfig,
        },
    },
    shared::Lock,
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Faults, Host, World},
};

use crate::model::{Api, Cluster, Settings, Version};

const NODES: [&str; 3] = ["n0:1", "n1:1", "n2:1"];
/// How often a publisher has a new message.
const GAP: Duration = Duration::from_millis(250);

fn stream() -> StreamConfig {
    let mut stream = StreamConfig::new("F", "feed");
    stream.replicas = 3;
    stream
}

/// Publishes while it holds the lease. The messages have their publisher's name and their position.
struct Publishing {
    name: String,
    lease: Lease,
    publisher: Publisher,
    /// When its first message is there.
    since: Instant,
    /// When its last one is there.
    until: Arc<Lock<Instant>>,
    acknowledged: Arc<Lock<BTreeSet<MessageId>>>,
    epoch: u64,
    /// The first position that is not in [`acknowledged`](Self::acknowledged).
    reported: u64,
}

impl Publishing {
    fn new(host: &Host, seed: u64, name: &str, until: &Arc<Lock<Instant>>) -> Self {
        let config = LeaseConfig::new("wirestate_F", name).with_replicas(3);
        Self {
            name: name.to_owned(),
            lease: Lease::new(&config, seed).unwrap(),
            publisher: Publisher::new(stream(), seed),
            since: host.world().now(),
            until: until.clone(),
            acknowledged: Arc::default(),
            epoch: 0,
            reported: 0,
        }
    }

    /// When the message at `position` is there.
    fn due(&self, position: u64) -> Instant {
        self.since + GAP * u32::try_from(position).unwrap()
    }

    fn begin(&mut self, epoch: u64, now: Instant) {
        let from = self.publisher.position();
        (self.epoch, self.reported) = (epoch, from);
        self.publisher.begin_epoch(epoch, from, now);
    }

    /// Handles events, and offers messages. Returns whether there was anything to do.
    fn pump(&mut self, client: &mut Client, now: Instant) -> bool {
        let mut has_changed = false;
        loop {
            if let Some(event) = self.lease.take_event() {
                match event {
                    LeaseEvent::Acquired { epoch } | LeaseEvent::Renewed { epoch } => {
                        self.begin(epoch, now);
                    }
                    LeaseEvent::Lost(_) => self.publisher.end_epoch(),
                    LeaseEvent::BucketCreated
                    | LeaseEvent::Taken { .. }
                    | LeaseEvent::Waiting(_)
                    | LeaseEvent::Released => {}
                }
            } else if let Some(event) = self.publisher.take_event() {
                match event {
                    PublisherEvent::Acknowledged { before } => {
                        let new = (self.reported..before)
                            .map(|position| MessageId { epoch: self.epoch, position });
                        self.acknowledged.with(|all| all.extend(new));
                        self.reported = before;
                    }
                    PublisherEvent::EpochEnded(end) => self.lease.renew(end.above()),
                    PublisherEvent::StreamCreated
                    | PublisherEvent::Resumed { .. }
                    | PublisherEvent::Waiting(_) => {}
                }
            } else if let Some(position) = self.next(now)
                && self.lease.epoch(now).is_some()
            {
                let payload = format!("{} {position}", self.name);
                if self.publisher.publish(client, position, payload.into(), now).is_err() {
                    break;
                }
            } else {
                break;
            }
            has_changed = true;
        }
        self.lease.pump(client, now);
        self.publisher.pump(client, now);
        has_changed
    }

    /// The position of the next message, if it is there.
    fn next(&self, now: Instant) -> Option<u64> {
        let position = self.publisher.next_position()?;
        let due = self.due(position);
        (due <= now && due < self.until.with(|until| *until)).then_some(position)
    }
}

impl Session for Publishing {
    fn connected(&mut self, client: &mut Client, now: Instant) {
        self.lease.connected(client, now);
        self.publisher.connected(client, now);
        self.pump(client, now);
    }

    fn handle(&mut self, client: &mut Client, incoming: Incoming, now: Instant) {
        if let Some(incoming) = self.lease.handle(client, incoming, now) {
            self.publisher.handle(client, incoming, now);
        }
        self.pump(client, now);
    }

    fn poll_shared(&mut self, client: &mut Client, now: Instant, _cx: &mut Context<'_>) -> bool {
        self.pump(client, now)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let next = self.publisher.next_position().map(|position| self.due(position));
        let next = next.filter(|due| *due < self.until.with(|until| *until));
        [self.lease.poll_timeout(), self.publisher.poll_timeout(), next].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, client: &mut Client, now: Instant) {
        self.lease.handle_timeout(now);
        self.publisher.handle_timeout(now);
        self.pump(client, now);
    }

    fn disconnected(&mut self, _now: Instant) {
        self.lease.disconnected();
        self.publisher.disconnected();
    }
}

/// What a consumer has received: sequences, ids and payloads, and its gaps.
#[derive(Clone, Debug, Default)]
struct Log {
    messages: Vec<(u64, Option<MessageId>, Vec<u8>)>,
    gaps: Vec<String>,
}

struct Consuming {
    consumer: Consumer,
    log: Arc<Lock<Log>>,
}

impl Consuming {
    fn take(&mut self, client: &mut Client, now: Instant) {
        while let Some(event) = self.consumer.take_event() {
            self.log.with(|log| match event {
                ConsumerEvent::Message(delivery) => {
                    let payload = delivery.message.payload().to_vec();
                    log.messages.push((delivery.sequence, delivery.id(), payload));
                }
                ConsumerEvent::Gap(gap) => log.gaps.push(format!("{gap:?}")),
                ConsumerEvent::Reading { .. } | ConsumerEvent::Waiting { .. } => {}
            });
        }
        self.consumer.pump(client, now);
    }
}

impl Session for Consuming {
    fn connected(&mut self, client: &mut Client, now: Instant) {
        self.consumer.connected(client, now);
    }

    fn handle(&mut self, client: &mut Client, incoming: Incoming, now: Instant) {
        self.consumer.handle(client, incoming, now);
        self.take(client, now);
    }

    fn poll_shared(&mut self, client: &mut Client, now: Instant, _cx: &mut Context<'_>) -> bool {
        self.take(client, now);
        false
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.consumer.poll_timeout()
    }

    fn handle_timeout(&mut self, client: &mut Client, now: Instant) {
        self.consumer.handle_timeout(client, now);
        self.take(client, now);
    }

    fn disconnected(&mut self, _now: Instant) {
        self.consumer.disconnected();
    }
}

/// Keeps `session` connected to the cluster.
fn run<S: Session + Send + 'static>(host: &Host, session: S, seed: u64) {
    let config = Config::default().with_ping_interval(Duration::from_secs(3));
    let servers = Servers::new(NODES, seed).unwrap();
    let runtime = host.clone();
    host.run(async move {
        let mut connection = Connection::new(session);
        let dial = Dial::new(servers, config).unwrap();
        dial.keep_connected(&runtime, &Plain, &mut connection, |_| {}).await;
    });
}

#[test]
fn a_stream_has_each_message_of_an_epoch_once_and_consumers_miss_none() {
    for_each_seed(2, |seed| {
        let world = World::new(seed);
        let version = if seed % 2 == 0 { Version::V2_9 } else { Version::V2_15 };
        let cluster = Cluster::new(Settings { version, seed, ..Settings::default() });
        let hosts = NODES.map(|address| world.host(address.strip_suffix(":1").unwrap()));
        let mut handles: Vec<_> =
            hosts.iter().zip(NODES).map(|(host, address)| cluster.start(host, address)).collect();
        let until = Arc::new(Lock::new(Instant::NEVER));
        let publishers = ["one", "two"].map(|name| world.host(name));
        let mut acknowledged = Vec::new();
        for (host, name) in publishers.iter().zip(["one", "two"]) {
            let publishing = Publishing::new(host, seed + name.len() as u64, name, &until);
            acknowledged.push(publishing.acknowledged.clone());
            run(host, publishing, seed);
        }
        let readers: Vec<_> = (0..3).map(|i| world.host(&format!("reader {i}"))).collect();
        let mut logs = Vec::new();
        for (i, host) in (0..).zip(&readers) {
            let config = ConsumerConfig::new("F", "feed");
            let config = config.with_start(Start::Sequence(1)).with_seed(seed + i);
            let consumer = Consumer::new(config).unwrap();
            let log = Arc::new(Lock::new(Log::default()));
            logs.push(log.clone());
            run(host, Consuming { consumer, log }, seed * 3 + i);
        }
        world.run_for(Duration::from_secs(5)).unwrap();

        let mut rng = XorShiftRng::seed_from_u64(seed);
        let mut random = |max: u64| rng.random_range(0..max);
        for _ in 0..12 {
            let node = usize::try_from(random(3)).unwrap();
            let (seconds, millis) = (1 + random(8), random(300));
            let (seconds, millis) = (Duration::from_secs(seconds), Duration::from_millis(millis));
            match random(9) {
                0 | 1 => {
                    handles[node].abort();
                    world.run_for(seconds).unwrap();
                    handles[node] = cluster.start(&hosts[node], NODES[node]);
                }
                2 => cluster.lame_duck(NODES[node]),
                3 => {
                    hosts[node].stop_for(seconds);
                    world.run_for(seconds).unwrap();
                }
                4 => publishers[node % 2].stop_for(3 * seconds),
                5 => cluster.set_commit_delay(millis),
                6 => cluster.set_route_delay(NODES[node], 3 * seconds),
                7 => {
                    let api =
                        if millis.as_millis() % 2 == 0 { Api::Silent } else { Api::Unavailable };
                    cluster.set_api(Some(api));
                    world.run_for(seconds).unwrap();
                    cluster.set_api(None);
                }
                _ => readers[node].set_faults(Faults::harmful(seed)),
            }
            world.run_for(seconds).unwrap();
            cluster.set_route_delay(NODES[node], Duration::ZERO);
        }
        for reader in &readers {
            reader.set_faults(Faults::NONE);
        }
        // Everything heals, and the last messages are published.
        world.run_for(Duration::from_secs(40)).unwrap();
        until.with(|until| *until = world.now());
        world.run_for(Duration::from_secs(20)).unwrap();

        let stored = cluster.messages("F");
        let mut last = BTreeMap::<u64, u64>::new();
        let mut ids = BTreeSet::new();
        for message in &stored {
            let id = MessageId::parse(message.id.as_ref().unwrap()).unwrap();
            assert!(last.keys().all(|epoch| *epoch <= id.epoch), "{id} in an earlier epoch");
            if let Some(before) = last.insert(id.epoch, id.position) {
                assert_eq!(id.position, before + 1, "in epoch {}", id.epoch);
            }
            ids.insert(id);
        }
        for acknowledged in &acknowledged {
            let acknowledged = acknowledged.with(|all| all.clone());
            assert!(acknowledged.is_subset(&ids), "an acknowledged message is lost");
        }
        assert!(stored.len() > 200, "{} messages", stored.len());
        for (reader, log) in logs.iter().enumerate() {
            let Log { messages, gaps } = log.with(|log| log.clone());
            assert_eq!(gaps, Vec::<String>::new(), "reader {reader}");
            assert_eq!(messages.len(), stored.len(), "reader {reader}");
            for ((sequence, id, payload), message) in messages.iter().zip(&stored) {
                assert_eq!(*sequence, message.sequence);
                assert_eq!(id.map(|id| id.to_string()), message.id);
                assert_eq!(*payload, message.payload);
            }
        }
        world.clear();
    });
}
