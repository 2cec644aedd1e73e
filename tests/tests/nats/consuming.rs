//! A consumer that reads a stream of a real `nats-server`.

use std::{env, fs, path::PathBuf, time::Duration};

use wirestate_core::{
    Instant,
    drive::{Clock as _, Drive},
    nats::{
        Client, Config, Connection, Incoming, Publish, Session,
        jetstream::{
            ApiReply, ApiRequest, Consumer, ConsumerConfig, ConsumerEvent, GapKind, Start,
            StreamConfig, StreamGap, StreamInfo,
        },
    },
    runtime::Runtime as _,
};
use wirestate_tokio::Tokio;

use crate::real_server::{Driven, Server, call, connect, next, on_tokio};

/// A directory for streams, removed when it is dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("wirestate-{}-consuming-{name}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn server(&self) -> Option<Server> {
        Server::start(&["-js", "-sd", self.0.to_str().unwrap()])
    }

    /// Copies the files of all streams, while no server uses them.
    fn copy(&self, name: &str) -> Self {
        fn copy(from: &std::path::Path, to: &std::path::Path) {
            for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
                let to = to.join(entry.file_name());
                if entry.path().is_dir() {
                    fs::create_dir(&to).unwrap();
                    copy(&entry.path(), &to);
                } else {
                    fs::copy(entry.path(), to).unwrap();
                }
            }
        }
        let copied = Self::new(name);
        copy(&self.0, &copied.0);
        copied
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A client that changes streams.
pub(crate) struct Admin(Driven<Tokio>);

impl Admin {
    pub(crate) async fn new(runtime: &Tokio, server: &Server) -> Self {
        Self(connect(runtime, &server.address, Config::default()).await)
    }

    /// Sends a request to the API, and returns the reply.
    pub(crate) async fn ask(&mut self, subject: &str, payload: String) -> String {
        let ask = Publish::new(subject, payload);
        call::<Tokio, _>(&mut self.0, |client, now| client.request(&ask, now)).await.unwrap();
        let incoming = next::<Tokio>(&mut self.0).await.unwrap();
        let Incoming::Reply { reply: Ok(reply), .. } = incoming else { panic!("{incoming:?}") };
        let text = String::from_utf8_lossy(reply.payload()).into_owned();
        assert!(!text.contains("\"error\""), "{subject}: {text}");
        text
    }

    async fn create(&mut self, stream: &str) {
        let request = ApiRequest::create_stream(&StreamConfig::new(stream, stream));
        let payload = String::from_utf8(request.payload().to_vec()).unwrap();
        self.ask(request.subject(), payload).await;
    }

    /// Publishes messages whose payload is their number.
    async fn publish(&mut self, stream: &str, numbers: std::ops::RangeInclusive<u64>) {
        let (mut number, last) = numbers.into_inner();
        let sending = self.0.until(|client, now| {
            while number < last {
                let message = Publish::new(stream, number.to_string());
                if client.machine_mut().publish(&message, now).is_err() {
                    return None;
                }
                number += 1;
            }
            (client.machine().pending() == 0).then_some(())
        });
        sending.await.unwrap();
        // The stream has stored the last one, and so all.
        self.ask(stream, last.to_string()).await;
    }

    async fn consumers(&mut self, stream: &str) -> String {
        self.ask(&format!("$JS.API.CONSUMER.LIST.{stream}"), String::new()).await
    }
}

/// Takes the events of a consumer, while it `takes`.
struct Reader {
    consumer: Consumer,
    takes: bool,
    /// The sequences of the messages, and their payloads.
    messages: Vec<(u64, u64)>,
    gaps: Vec<StreamGap>,
    waits: Vec<String>,
}

impl Reader {
    fn new(config: ConsumerConfig) -> Connection<Self> {
        let consumer = Consumer::new(config).unwrap();
        let (messages, gaps, waits) = (Vec::new(), Vec::new(), Vec::new());
        Connection::new(Self { consumer, takes: true, messages, gaps, waits })
    }

    fn take(&mut self, client: &mut Client, now: Instant) -> bool {
        let mut has_changed = false;
        while self.takes
            && let Some(event) = self.consumer.take_event()
        {
            has_changed = true;
            match event {
                ConsumerEvent::Message(delivery) => {
                    let text = str::from_utf8(delivery.message.payload()).unwrap();
                    self.messages.push((delivery.sequence, text.trim().parse().unwrap()));
                }
                ConsumerEvent::Gap(gap) => self.gaps.push(gap),
                ConsumerEvent::Waiting { reason, .. } => self.waits.push(reason.to_string()),
                ConsumerEvent::Reading { .. } => {}
            }
        }
        self.consumer.pump(client, now);
        has_changed
    }
}

impl Session for Reader {
    fn connected(&mut self, client: &mut Client, now: Instant) {
        self.consumer.connected(client, now);
    }

    fn handle(&mut self, client: &mut Client, incoming: Incoming, now: Instant) {
        let other = self.consumer.handle(client, incoming, now);
        assert!(other.is_none(), "{other:?}");
        self.take(client, now);
    }

    fn poll_shared(
        &mut self,
        client: &mut Client,
        now: Instant,
        _cx: &mut std::task::Context<'_>,
    ) -> bool {
        self.take(client, now)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.consumer.poll_timeout()
    }

    fn handle_timeout(&mut self, client: &mut Client, now: Instant) {
        self.consumer.handle_timeout(client, now);
    }

    fn disconnected(&mut self, _now: Instant) {
        self.consumer.disconnected();
    }
}

type Reading<'a> = Drive<
    &'a mut Connection<Reader>,
    <Tokio as wirestate_core::runtime::Runtime>::Socket,
    <Tokio as wirestate_core::runtime::Runtime>::Clock,
>;

async fn dial<'a>(
    runtime: &Tokio,
    server: &Server,
    reader: &'a mut Connection<Reader>,
) -> Reading<'a> {
    let socket = runtime.connect(&server.address).await.unwrap();
    let clock = runtime.clock();
    let now = clock.now();
    reader.connect(Client::new(Config::default(), now).unwrap(), now);
    Drive::new(reader, socket, clock)
}

/// Drives a reader until it has the condition.
async fn until(reading: &mut Reading<'_>, mut condition: impl FnMut(&mut Reader) -> bool) {
    let met = reading.until(|reader, _| condition(reader.session_mut()).then_some(()));
    let met = tokio::time::timeout(Duration::from_secs(20), met).await;
    if !matches!(met, Ok(Ok(()))) {
        let reader = reading.machine().session();
        let Reader { gaps, waits, consumer, messages, .. } = reader;
        panic!("{} messages, {gaps:?}, {waits:?}, {consumer:?}", messages.len());
    }
}

/// Sets whether a reader takes what was received.
async fn set_takes(reading: &mut Reading<'_>, takes: bool) {
    until(reading, |reader| {
        reader.takes = takes;
        true
    })
    .await;
}

async fn until_last(reading: &mut Reading<'_>, sequence: u64) {
    until(reading, |reader| reader.messages.last().is_some_and(|last| last.0 == sequence)).await;
}

/// The sequences and the payloads from `first` on.
fn numbered(numbers: std::ops::RangeInclusive<u64>) -> Vec<(u64, u64)> {
    numbers.map(|number| (number, number)).collect()
}

#[test]
fn ten_thousand_messages_arrive_in_order_and_wait_for_their_reader() {
    let directory = Directory::new("order");
    let Some(server) = directory.server() else { return };
    on_tokio(async |runtime| {
        let max_bytes = 16 * 1024;
        let config = ConsumerConfig::new("a", "a")
            .with_start(Start::Sequence(1))
            .with_max_bytes(max_bytes.try_into().unwrap());
        let mut reader = Reader::new(config);
        let mut reading = dial(&runtime, &server, &mut reader).await;
        // There is no stream yet.
        until(&mut reading, |reader| !reader.waits.is_empty()).await;
        let mut admin = Admin::new(&runtime, &server).await;
        admin.create("a").await;
        until(&mut reading, |reader| reader.consumer.is_reading()).await;
        set_takes(&mut reading, false).await;
        admin.publish("a", 1..=10_000).await;
        // As much as may wait is received, and no more is asked for.
        let nothing = reading.until(|_, _| None::<()>);
        tokio::time::timeout(Duration::from_millis(300), nothing).await.unwrap_err();
        let info = admin.consumers("a").await;
        let delivered = info.split("\"stream_seq\":").nth(1).unwrap();
        let delivered: usize = delivered.split(['}', ',']).next().unwrap().parse().unwrap();
        assert!((max_bytes / 200..=max_bytes / 30).contains(&delivered), "{info}");

        set_takes(&mut reading, true).await;
        until_last(&mut reading, 10_000).await;
        let reader = reading.machine().session();
        assert_eq!(reader.messages, numbered(1..=10_000));
        assert!(reader.gaps.is_empty(), "{:?}", reader.gaps);
        let is_wait = |text: &String| text.contains("error 10059: stream not found");
        assert!(reader.waits.iter().all(is_wait), "{:?}", reader.waits);
    });
}

#[test]
fn a_message_that_is_longer_than_the_space_is_read_alone() {
    let directory = Directory::new("long");
    let Some(server) = directory.server() else { return };
    on_tokio(async |runtime| {
        let mut admin = Admin::new(&runtime, &server).await;
        admin.create("a").await;
        for number in 1..=30u64 {
            let blanks = if number % 3 == 0 { 100_000 } else { 10 };
            admin.ask("a", format!("{number}{}", " ".repeat(blanks))).await;
        }
        let config = ConsumerConfig::new("a", "a")
            .with_start(Start::Last(29))
            .with_max_bytes(1024.try_into().unwrap());
        let mut reader = Reader::new(config);
        let mut reading = dial(&runtime, &server, &mut reader).await;
        until_last(&mut reading, 30).await;
        let reader = reading.machine().session();
        assert_eq!(reader.messages, numbered(2..=30));
        assert!(reader.waits.is_empty(), "{:?}", reader.waits);
    });
}

#[test]
fn purges_deleted_consumers_and_a_stream_that_is_made_again_are_noticed() {
    let directory = Directory::new("purge");
    let Some(server) = directory.server() else { return };
    on_tokio(async |runtime| {
        let mut admin = Admin::new(&runtime, &server).await;
        admin.create("a").await;
        admin.publish("a", 1..=50).await;
        let mut reader = Reader::new(ConsumerConfig::new("a", "a"));
        let mut reading = dial(&runtime, &server, &mut reader).await;
        until(&mut reading, |reader| reader.consumer.is_reading()).await;
        admin.publish("a", 51..=60).await;
        until_last(&mut reading, 60).await;

        // A purge below the position is no gap.
        admin.ask("$JS.API.STREAM.PURGE.a", "{\"seq\":40}".into()).await;
        admin.publish("a", 61..=70).await;
        until_last(&mut reading, 70).await;
        assert_eq!(reading.machine().session().messages, numbered(51..=70));
        assert_eq!(reading.machine().session().gaps, []);

        // One above it is. The reader is not driven meanwhile, and has asked for 4 MiB already.
        let names = admin.consumers("a").await;
        let name = names.split("\"name\":\"").nth(1).unwrap().split('"').next().unwrap();
        admin.ask(&format!("$JS.API.CONSUMER.DELETE.a.{name}"), String::new()).await;
        admin.publish("a", 71..=80).await;
        admin.ask("$JS.API.STREAM.PURGE.a", "{\"seq\":76}".into()).await;
        until_last(&mut reading, 80).await;
        let reader = reading.machine().session();
        let gap = StreamGap { expected: 71, found: 76, kind: GapKind::Missing };
        assert_eq!((reader.gaps.as_slice(), gap.missing()), ([gap].as_slice(), Some(5)));
        assert_eq!(reader.messages[20..], numbered(76..=80));
        assert_eq!(reader.waits, ["the consumer was deleted"]);

        // The server's consumer ends with its stream.
        admin.ask("$JS.API.STREAM.DELETE.a", String::new()).await;
        admin.create("a").await;
        admin.publish("a", 1..=100).await;
        until_last(&mut reading, 100).await;
        let reader = reading.machine().session();
        let gap = StreamGap { expected: 81, found: 1, kind: GapKind::Replaced };
        assert_eq!((reader.gaps[1], gap.missing()), (gap, None));
        assert_eq!((reader.gaps.len(), &reader.messages[25..]), (2, &*numbered(1..=100)));

        // It has another subject now, and is not read.
        admin.ask("$JS.API.STREAM.DELETE.a", String::new()).await;
        let mut config = StreamConfig::new("a", "a");
        config.subjects.push("b".into());
        let request = ApiRequest::create_stream(&config);
        let reply = admin
            .ask(request.subject(), String::from_utf8(request.payload().to_vec()).unwrap())
            .await;
        ApiReply::parse::<StreamInfo>(reply.as_bytes()).unwrap();
        let expected = "stream a has the subjects [\"a\", \"b\"], expected only [\"a\"]";
        until(&mut reading, |reader| reader.waits.iter().any(|text| text == expected)).await;
    });
}

#[test]
fn a_consumer_reads_on_after_its_server_was_killed() {
    let directory = Directory::new("killed");
    let Some(mut server) = directory.server() else { return };
    on_tokio(async |runtime| {
        let mut reader = Reader::new(ConsumerConfig::new("a", "a").with_start(Start::Sequence(1)));
        let mut admin = Admin::new(&runtime, &server).await;
        admin.create("a").await;
        admin.publish("a", 1..=100).await;
        let mut reading = dial(&runtime, &server, &mut reader).await;
        until_last(&mut reading, 100).await;
        server.kill();
        assert!(reading.until(|_, _| None::<()>).await.is_err());
        let earlier = directory.copy("earlier");

        server = directory.server().unwrap();
        let mut admin = Admin::new(&runtime, &server).await;
        admin.publish("a", 101..=150).await;
        drop(reading);
        let mut reading = dial(&runtime, &server, &mut reader).await;
        until_last(&mut reading, 150).await;
        assert_eq!(reading.machine().session().messages, numbered(1..=150));
        assert_eq!(reading.machine().session().gaps, []);
        assert_eq!(reading.machine().session().waits, [] as [&str; 0]);

        // Its files are lost, and an earlier copy is taken.
        server.kill();
        server = earlier.server().unwrap();
        drop(reading);
        let mut reading = dial(&runtime, &server, &mut reader).await;
        until(&mut reading, |reader| !reader.gaps.is_empty()).await;
        let mut admin = Admin::new(&runtime, &server).await;
        admin.publish("a", 101..=110).await;
        until_last(&mut reading, 110).await;
        let reader = reading.machine().session();
        let gap = StreamGap { expected: 151, found: 101, kind: GapKind::Truncated };
        assert_eq!(reader.gaps, [gap]);
        assert_eq!(reader.messages[150..], numbered(101..=110));
    });
}
