//! An ingest and an edge keep the contract of a machine over connections, whatever the server
//! answers.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroUsize,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use wirestate_core::{
    Instant, Machine as _,
    fanout::{
        Capacity, Config as FeedConfig, Feed, Pace, Reader,
        nats::{Edge, Ingest},
    },
    nats::{
        Client, Config, Connection, Session,
        jetstream::{ConsumerConfig, LeaseConfig, Start, StreamConfig},
    },
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{Op, Player},
};

use self::Answer::{Good, Lost, Malformed, NoResponders, Refused, Skewed};
use super::{FRAMING, Message, SIZE};
use crate::INFO;

/// A step of a script.
#[derive(Clone, Debug)]
enum Step {
    Op(Op),
    /// The server answers the oldest request that it has received, or as if it had.
    Answer(Answer),
    /// The server delivers a message of the stream.
    Deliver(Answer),
    /// Messages are published to the ingest's feed, or read from the edge's feed.
    Feed(u8),
    BeginEpoch,
}

/// How the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Good,
    /// The sequence is another one.
    Skewed,
    Refused,
    NoResponders,
    Malformed,
    Lost,
}

/// What the server knows.
#[derive(Default)]
struct Server {
    scanned: usize,
    /// Subject and reply subject of the requests without an answer.
    requests: VecDeque<(String, String)>,
    /// The subscriptions by subject.
    subscriptions: BTreeMap<String, String>,
    sequence: u64,
    revision: u64,
    deliveries: u64,
}

impl Server {
    /// Learns what the client has sent.
    fn receive(&mut self, output: &[u8]) {
        while let Some(end) = output[self.scanned..].windows(2).position(|two| two == b"\r\n") {
            let line = output[self.scanned..self.scanned + end].escape_ascii().to_string();
            self.scanned += end + 2;
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["SUB", subject, id] => drop(self.subscriptions.insert(subject.into(), id.into())),
                ["PUB" | "HPUB", subject, reply, .., total] => {
                    self.requests.push_back((subject.into(), reply.into()));
                    self.scanned += total.parse::<usize>().unwrap_or(0) + 2;
                    self.scanned = self.scanned.min(output.len());
                }
                _ => {}
            }
        }
    }

    fn answer(&mut self, how: Answer) -> Vec<u8> {
        let Some((subject, reply)) = self.requests.pop_front() else { return Vec::new() };
        let inbox = reply.rsplit_once('.').map_or("", |(inbox, _)| inbox);
        let Some(id) = self.subscriptions.get(&format!("{inbox}.*")) else { return Vec::new() };
        let skew = u64::from(how == Skewed) * 2;
        let (stream, is_api) = ("\"stream\":\"F\"", subject.starts_with("$JS.API."));
        let json = match how {
            Lost => return Vec::new(),
            NoResponders => {
                return format!("HMSG {reply} {id} 16 16\r\nNATS/1.0 503\r\n\r\n\r\n").into();
            }
            Malformed => "{\"sequence\":".to_owned(),
            Refused => {
                let (code, number) =
                    [(404, 10059), (400, 10071), (503, 10008), (400, 10054)][self.scanned % 4];
                format!("{{\"error\":{{\"code\":{code},\"err_code\":{number}}}}}")
            }
            Good | Skewed if !is_api => {
                let own = if subject.starts_with("$KV") {
                    &mut self.revision
                } else {
                    &mut self.sequence
                };
                *own += 1 + skew;
                format!("{{{stream},\"seq\":{own}}}")
            }
            Good | Skewed if subject.contains("MSG.GET") => {
                format!("{{\"error\":{{\"code\":404,\"err_code\":{}}}}}", 10037 + skew)
            }
            Good | Skewed if subject.contains("CONSUMER") => {
                self.deliveries = 0;
                "{\"name\":\"c1\",\"config\":{}}".to_owned()
            }
            Good | Skewed => {
                let (name, subject, age) = if subject.ends_with("wirestate_F") {
                    ("KV_wirestate_F", "$KV.wirestate_F.>", 10_000_000_000_u64)
                } else {
                    ("F", "feed", 0)
                };
                let last = self.sequence + skew;
                format!(
                    "{{\"config\":{{\"name\":{name:?},\"subjects\":[{subject:?}],\
                     \"storage\":\"file\",\"num_replicas\":1,\"max_bytes\":-1,\"max_age\":{age},\
                     \"discard\":\"old\"}},\"created\":\"{skew}\",\
                     \"state\":{{\"first_seq\":1,\"last_seq\":{last},\"messages\":{last}}}}}"
                )
            }
        };
        format!("MSG {reply} {id} {}\r\n{json}\r\n", json.len()).into()
    }

    fn deliver(&mut self, how: Answer) -> Vec<u8> {
        let inbox = self.subscriptions.iter().find(|(subject, _)| is_inbox(subject));
        let Some((inbox, id)) = inbox else { return Vec::new() };
        let status = |text: &str| {
            let length = text.len();
            format!("HMSG {inbox} {id} {length} {length}\r\n{text}\r\n").into_bytes()
        };
        match how {
            Lost => self.deliveries += 1,
            NoResponders => return status("NATS/1.0 503\r\n\r\n"),
            Malformed => return status("NATS/1.0 100 Idle Heartbeat\r\n\r\n"),
            Good | Skewed | Refused => {}
        }
        self.deliveries += 1;
        self.sequence += if how == Skewed { 3 } else { 1 };
        let (sequence, delivery) = (self.sequence, self.deliveries);
        let headers = format!("NATS/1.0\r\nNats-Msg-Id: 1-{sequence}\r\n\r\n");
        let mut text = Message { connection: 1, number: sequence }.text();
        text.truncate(SIZE - usize::from(how == Refused));
        let (length, total) = (headers.len(), headers.len() + text.len());
        let reply = format!("$JS.ACK.F.c1.1.{sequence}.{delivery}.1700000000.0");
        format!("HMSG feed {id} {reply} {length} {total}\r\n{headers}{text}\r\n").into()
    }
}

/// Whether a subscription is for what a consumer delivers.
fn is_inbox(subject: &str) -> bool {
    subject.rsplit('.').next() == Some("s")
}

/// Plays `steps` over connections of at most 60 of them, and checks the contract.
fn play<S: Session + std::fmt::Debug>(
    session: S,
    steps: &[Step],
    mut feed: impl FnMut(&Step, Instant),
) {
    let config = Config::default()
        .with_max_pending(NonZeroUsize::new(600).unwrap())
        .with_max_requests(NonZeroUsize::new(6).unwrap())
        .with_request_timeout(Duration::from_secs(2));
    let (mut connection, mut now) = (Connection::new(session), Instant::EPOCH);
    let mut server = Server::default();
    for steps in steps.chunks(60) {
        connection.connect(Client::new(config.clone(), now).unwrap(), now);
        let mut machine = Checked::new(&mut connection, MAX_QUEUED);
        let mut player = Player::new(&mut machine);
        player.play(&Op::Advance(now.since(Instant::EPOCH)));
        player.play(&Op::Receive(INFO.replace("100", "400").into()));
        player.play(&Op::Receive(b"PONG\r\n".to_vec()));
        server.scanned = 0;
        (server.requests, server.subscriptions) = Default::default();
        for step in steps {
            match step {
                Step::Op(op) => player.play(op),
                Step::Answer(how) => player.play(&Op::Receive(server.answer(*how))),
                Step::Deliver(how) => player.play(&Op::Receive(server.deliver(*how))),
                Step::Feed(_) | Step::BeginEpoch => {
                    feed(step, player.now());
                    // The waker was woken.
                    player.machine().machine_mut();
                }
            }
            player.play(&Op::Accept(if matches!(step, Step::BeginEpoch) { 0 } else { 4096 }));
            server.receive(player.output());
        }
        now = player.now();
    }
    connection.disconnect(now);
    assert!(connection.reason().is_none());
}

/// [`Config::max_pending`], and one message.
const MAX_QUEUED: usize = 600 + 800;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let answer = || {
        prop_oneof![
            24 => Just(Good),
            2 => Just(Skewed),
            2 => Just(Refused),
            1 => Just(NoResponders),
            1 => Just(Malformed),
            1 => Just(Lost),
        ]
    };
    let op = prop_oneof![
        4 => (1..4000_u64).prop_map(|millis| Op::Advance(Duration::from_millis(millis))),
        4 => Just(Op::Timeout),
        2 => Just(Op::SpuriousTimeout),
        2 => Just(Op::Release),
        4 => Just(Op::Receive(b"PING\r\n".to_vec())),
        2 => Just(Op::Receive(b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n".to_vec())),
        1 => Just(Op::ShutDown),
    ];
    let step = prop_oneof![
        8 => answer().prop_map(Step::Answer),
        6 => answer().prop_map(Step::Deliver),
        4 => (0..9_u8).prop_map(Step::Feed),
        1 => Just(Step::BeginEpoch),
        3 => op.prop_map(Step::Op),
    ];
    prop::collection::vec(step, 0..240)
}

fn small_feed() -> Feed {
    Feed::new(FeedConfig::default().with_framing(FRAMING).with_window(10 * (SIZE + 128))).unwrap()
}

#[test]
fn an_ingest_keeps_the_contract_whatever_the_server_answers() {
    for_each_case(64, (steps(), any::<bool>()), |(steps, blocks)| {
        let (feed, mut number) = (small_feed(), 0);
        let pace = if blocks { Pace::Blocks } else { Pace::NeverBlocks };
        let lease = LeaseConfig::new("wirestate_F", "ingest");
        let ingest = Ingest::new(&feed, pace, StreamConfig::new("F", "feed"), &lease, 7).unwrap();
        let handle = ingest.handle();
        let own = feed.clone();
        play(ingest, &steps, move |step, now| match step {
            Step::BeginEpoch => own.begin_epoch(),
            Step::Feed(count) => {
                let cx = &mut Context::from_waker(Waker::noop());
                for count in 1..u64::from(*count) {
                    let bytes: Vec<u8> = (number..number + count)
                        .flat_map(|number| Message { connection: 1, number }.text().into_bytes())
                        .collect();
                    if own.poll_capacity(now, bytes.len(), cx) != Capacity::Available {
                        break;
                    }
                    own.publish(Bytes::from(bytes), count, now);
                    number += count;
                }
            }
            Step::Op(_) | Step::Answer(_) | Step::Deliver(_) => {}
        });
        let (feed, ingest) = (feed.counters(), handle.counters());
        assert_eq!(ingest.epoch, None);
        assert!(feed.reader_acknowledged + feed.reader_skipped <= feed.messages_in);
        assert!(!blocks || ingest.leases_lost > 0 || feed.reader_skipped == 0);
    });
}

#[test]
fn an_edge_keeps_the_contract_whatever_the_server_answers() {
    for_each_case(64, steps(), |steps| {
        let feed = small_feed();
        let mut reader = Reader::join(&feed, Pace::Blocks);
        let config = ConsumerConfig::new("F", "feed").with_start(Start::Sequence(1));
        let config = config.with_max_bytes(NonZeroUsize::new(2000).unwrap());
        let edge = Edge::new(&feed, config).unwrap();
        let handle = edge.handle();
        let mut chunks = VecDeque::new();
        let mut last = None::<(u64, u64)>;
        play(edge, &steps, |step, _now| {
            let Step::Feed(count) = step else { return };
            let cx = &mut Context::from_waker(Waker::noop());
            reader.fetch(&mut chunks, usize::from(*count), cx);
            while let Some(chunk) = chunks.pop_front() {
                for bytes in chunk.bytes.chunks(SIZE) {
                    let number = Message::parse(bytes).0.number;
                    if let Some((epoch, before)) = last.replace((chunk.epoch, number)) {
                        let follows = number == before + 1;
                        assert_eq!(follows, epoch == chunk.epoch, "{before}, {number}");
                    }
                }
                reader.acknowledge(&chunk);
            }
            reader.fetch(&mut chunks, 0, cx);
        });
        let (feed, edge) = (feed.counters(), handle.counters());
        assert!(feed.epoch <= edge.gaps);
        assert!(feed.messages_in + edge.rejected <= edge.messages);
    });
}
