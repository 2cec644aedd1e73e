//! Publishers with a lease, and a real `nats-server`.

use std::time::Duration;

use wirestate_core::{
    Instant,
    drive::{Clock as _, Drive},
    nats::{
        Client, Config, Connection, Incoming, Session,
        jetstream::{
            ApiReply, ApiRequest, Lease, LeaseConfig, LeaseEvent, MESSAGE_ID, Publisher,
            PublisherEvent, StoredMessage, StreamConfig, StreamInfo,
        },
    },
    runtime::Runtime,
};
use wirestate_tokio::Tokio;

use crate::{
    consuming::{Admin, Directory},
    real_server::{Server, on_tokio},
};

/// Publishes numbers to the stream `s` while it holds the lease.
struct Worker {
    lease: Lease,
    publisher: Publisher,
    /// How many numbers there are.
    count: u64,
    /// The epochs that it has begun, and what else has happened.
    epochs: Vec<u64>,
    log: Vec<String>,
}

impl Worker {
    fn new(name: &str, seed: u64, ttl: Duration) -> Connection<Self> {
        let config = LeaseConfig::new("lease_of_s", name).with_ttl(ttl);
        let lease = Lease::new(&config, seed).unwrap();
        let mut stream = StreamConfig::new("s", "numbers");
        stream.duplicate_window = Some(Duration::from_millis(100));
        let publisher = Publisher::new(stream, seed);
        let (epochs, log) = (Vec::new(), Vec::new());
        Connection::new(Self { lease, publisher, count: 0, epochs, log })
    }

    /// Handles what has happened, and publishes what it can.
    fn go_on(&mut self, client: &mut Client, now: Instant) -> bool {
        let mut has_changed = false;
        while let Some(event) = self.lease.take_event() {
            has_changed = true;
            match event {
                LeaseEvent::Acquired { epoch } | LeaseEvent::Renewed { epoch } => {
                    self.epochs.push(epoch);
                    self.publisher.begin_epoch(epoch, self.publisher.position(), now);
                }
                LeaseEvent::Lost(lost) => {
                    self.publisher.end_epoch();
                    self.log.push(lost.to_string());
                }
                LeaseEvent::Taken { holder } => self.log.push(format!("taken by {holder}")),
                LeaseEvent::Waiting(problem) => self.log.push(problem.to_string()),
                LeaseEvent::Released => self.log.push("released".into()),
                LeaseEvent::BucketCreated => {}
            }
        }
        while let Some(event) = self.publisher.take_event() {
            has_changed = true;
            match event {
                PublisherEvent::EpochEnded(end) => {
                    self.lease.renew(end.above());
                    self.log.push(end.to_string());
                }
                PublisherEvent::Waiting(problem) => self.log.push(problem.to_string()),
                PublisherEvent::StreamCreated
                | PublisherEvent::Acknowledged { .. }
                | PublisherEvent::Resumed { .. } => {}
            }
        }
        self.lease.pump(client, now);
        self.publisher.pump(client, now);
        while let Some(position) = self.publisher.next_position()
            && position < self.count
        {
            let payload = position.to_string().into();
            if self.publisher.publish(client, position, payload, now).is_err() {
                break;
            }
            has_changed = true;
        }
        has_changed
    }
}

impl Session for Worker {
    fn connected(&mut self, client: &mut Client, now: Instant) {
        self.lease.connected(client, now);
        self.publisher.connected(client, now);
    }

    fn handle(&mut self, client: &mut Client, incoming: Incoming, now: Instant) {
        let Some(incoming) = self.lease.handle(client, incoming, now) else { return };
        // What is for neither comes too late.
        self.publisher.handle(client, incoming, now);
    }

    fn poll_shared(
        &mut self,
        client: &mut Client,
        now: Instant,
        _cx: &mut std::task::Context<'_>,
    ) -> bool {
        self.go_on(client, now)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.lease.poll_timeout(), self.publisher.poll_timeout()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, client: &mut Client, now: Instant) {
        self.lease.handle_timeout(now);
        self.publisher.handle_timeout(now);
        self.go_on(client, now);
    }

    fn disconnected(&mut self, _now: Instant) {
        self.lease.disconnected();
        self.publisher.disconnected();
    }
}

type Working<'a> =
    Drive<&'a mut Connection<Worker>, <Tokio as Runtime>::Socket, <Tokio as Runtime>::Clock>;

async fn dial<'a>(
    runtime: &Tokio,
    server: &Server,
    worker: &'a mut Connection<Worker>,
) -> Working<'a> {
    let socket = runtime.connect(&server.address).await.unwrap();
    let clock = runtime.clock();
    let now = clock.now();
    worker.connect(Client::new(Config::default(), now).unwrap(), now);
    Drive::new(worker, socket, clock)
}

/// Drives a worker until it has the condition.
async fn until(working: &mut Working<'_>, mut condition: impl FnMut(&mut Worker) -> bool) {
    let met = working.until(|worker, _| condition(worker.session_mut()).then_some(()));
    let met = tokio::time::timeout(Duration::from_secs(20), met).await;
    if !matches!(met, Ok(Ok(()))) {
        let Worker { lease, publisher, epochs, log, .. } = working.machine().session();
        panic!("{epochs:?}, {log:?}, {lease:?}, {publisher:?}");
    }
}

/// Drives a worker until it has published `count` numbers in all.
async fn publish(working: &mut Working<'_>, count: u64) {
    until(working, |worker| {
        worker.count = count;
        worker.publisher.position() == count
    })
    .await;
}

/// The ids in the stream, and its numbers.
async fn content(admin: &mut Admin) -> (Vec<String>, Vec<u64>) {
    let request = ApiRequest::stream_info("s");
    let info = admin.ask(request.subject(), String::new()).await;
    let info: StreamInfo = ApiReply::parse(info.as_bytes()).unwrap();
    let (mut ids, mut numbers) = (Vec::new(), Vec::new());
    for sequence in info.state.first_sequence..=info.state.last_sequence {
        let request = ApiRequest::message("s", sequence);
        let payload = String::from_utf8(request.payload().to_vec()).unwrap();
        let message = admin.ask(request.subject(), payload).await;
        let message: StoredMessage = ApiReply::parse(message.as_bytes()).unwrap();
        ids.push(message.headers().unwrap().get(MESSAGE_ID).unwrap_or("-").to_owned());
        numbers.push(str::from_utf8(&message.payload).unwrap().parse().unwrap());
    }
    (ids, numbers)
}

/// The age of the lease where a test waits for it.
const SHORT: Duration = Duration::from_secs(2);

fn ids(epoch: u64, positions: std::ops::Range<u64>) -> Vec<String> {
    positions.map(|position| format!("{epoch}-{position}")).collect()
}

#[test]
fn a_lease_passes_on_when_it_is_released_and_when_its_holder_has_died() {
    let directory = Directory::new("lease");
    let Some(server) = directory.server() else { return };
    on_tokio(async |runtime| {
        let [mut one, mut two, mut three] = [("one", 1), ("two", 2), ("three", 3)]
            .map(|(name, seed)| Worker::new(name, seed, SHORT));
        let mut one = dial(&runtime, &server, &mut one).await;
        publish(&mut one, 5).await;
        let mut two = dial(&runtime, &server, &mut two).await;
        until(&mut two, |two| !two.log.is_empty()).await;
        assert_eq!(two.machine().session().log, ["taken by one 0000000000000001"]);

        // The first one releases it, and the second one has it before it would be too old.
        until(&mut one, |one| {
            one.lease.release();
            one.log.last().is_some_and(|last| last == "released")
        })
        .await;
        let since = std::time::Instant::now();
        publish(&mut two, 5).await;
        assert!(since.elapsed() < SHORT * 2 / 3, "{:?}", since.elapsed());

        // The second one dies, and the third one has it after its age.
        let since = std::time::Instant::now();
        let epoch = two.machine().session().epochs[0];
        drop(two);
        let mut three = dial(&runtime, &server, &mut three).await;
        publish(&mut three, 5).await;
        assert!(since.elapsed() > SHORT / 2, "{:?}", since.elapsed());
        let three = three.machine().session();
        assert_eq!(three.log, ["taken by two 0000000000000002"]);
        let epochs = [1, epoch, three.epochs[0]];
        assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
        let (found, numbers) = content(&mut Admin::new(&runtime, &server).await).await;
        assert_eq!(found, epochs.map(|epoch| ids(epoch, 0..5)).concat());
        assert_eq!(numbers, [0, 1, 2, 3, 4].repeat(3));
    });
}

#[test]
fn a_holder_that_was_stopped_stores_nothing_more() {
    let directory = Directory::new("fenced");
    let Some(server) = directory.server() else { return };
    on_tokio(async |runtime| {
        let (mut one, mut two) = (Worker::new("one", 1, SHORT), Worker::new("two", 2, SHORT));
        let mut one = dial(&runtime, &server, &mut one).await;
        publish(&mut one, 10).await;
        // It has published more, and is stopped before that is sent.
        until(&mut one, |one| {
            one.count = 100;
            true
        })
        .await;
        let mut two = dial(&runtime, &server, &mut two).await;
        let now = runtime.clock().now();
        let (one_epoch, stopped) = {
            let worker = one.machine().session();
            (worker.epochs[0], worker.lease.epoch(now))
        };
        assert_eq!(stopped, Some(one_epoch));
        publish(&mut two, 30).await;
        // It goes on: its lease has expired, or the stream shows it a later holder.
        until(&mut one, |one| !one.log.is_empty()).await;
        publish(&mut two, 60).await;
        assert_eq!(one.machine().session().publisher.position(), 10);
        assert_eq!(two.machine().session().epochs.len(), 1);
        let (found, _) = content(&mut Admin::new(&runtime, &server).await).await;
        let two_epoch = two.machine().session().epochs[0];
        assert_eq!(found, [ids(one_epoch, 0..10), ids(two_epoch, 0..60)].concat());
    });
}

#[test]
fn numbers_are_stored_once_whatever_happens_to_connections_and_stream() {
    let directory = Directory::new("stored");
    let Some(server) = directory.server() else { return };
    on_tokio(async |runtime| {
        let mut admin = Admin::new(&runtime, &server).await;
        let mut worker = Worker::new("one", 1, Duration::from_secs(10));
        // Ten connections are lost while 30 numbers are in flight. The server has forgotten their
        // ids when they are offered again.
        for round in 1..=10 {
            let mut working = dial(&runtime, &server, &mut worker).await;
            publish(&mut working, 50 * round - 30).await;
            until(&mut working, |worker| {
                worker.count = 50 * round;
                worker.publisher.next_position() == Some(worker.count)
            })
            .await;
            drop(working);
            tokio::time::sleep(Duration::from_millis(if round == 1 { 200 } else { 1 })).await;
        }
        let mut working = dial(&runtime, &server, &mut worker).await;
        publish(&mut working, 500).await;
        let (found, numbers) = content(&mut admin).await;
        assert_eq!(numbers, (0..500).collect::<Vec<_>>());
        let first = working.machine().session().epochs[0];
        let only_first = working.machine().session().epochs.len() == 1;
        assert!(!only_first || found == ids(first, 0..500), "{found:?}");

        // Somebody else publishes: a new epoch.
        let before = working.machine().session().epochs.len();
        admin.ask("numbers", "7".into()).await;
        publish(&mut working, 510).await;
        let session = working.machine().session();
        assert_eq!(session.epochs.len(), before + 1, "{:?}", session.log);
        let (found, _) = content(&mut admin).await;
        assert_eq!(
            found[500..],
            [vec!["-".into()], ids(session.epochs[before], 500..510)].concat()
        );

        // The stream is purged: publishing goes on.
        admin.ask("$JS.API.STREAM.PURGE.s", String::new()).await;
        publish(&mut working, 520).await;
        let session = working.machine().session();
        assert_eq!(session.epochs.len(), before + 1, "{:?}", session.log);

        // It is deleted: a new one, and a new epoch, which begins behind what was acknowledged.
        admin.ask("$JS.API.STREAM.DELETE.s", String::new()).await;
        publish(&mut working, 540).await;
        let session = working.machine().session();
        assert_eq!(session.epochs.len(), before + 2, "{:?}", session.log);
        assert_eq!(session.log.last().unwrap(), "the stream was created anew");
        let (found, _) = content(&mut admin).await;
        assert_eq!(found, ids(session.epochs[before + 1], 520..540));
    });
}
