//! Publishers and a model of a stream that fails in any way: each epoch is whole and in order.

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::nats::jetstream::wire::{Request, Wire, refusal, stored, stream_info};

/// What happens, to one of two publishers where it says so.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Offers messages.
    Offer(usize, u8),
    /// The server handles requests.
    Serve(usize, u8),
    /// Replies arrive.
    Deliver(usize, u8),
    LoseReply(usize),
    /// Requests have timed out, a back-off is over, and the next requests are answered.
    Resync(usize),
    /// The connection is lost. The server handles what was sent on it later ([`Op::Late`]), but for
    /// the last requests, which are lost.
    Reconnect(usize, u8),
    /// The server handles requests of old connections.
    Late(u8),
    /// A second publisher begins, with a higher epoch.
    TakeOver,
    /// Somebody else publishes.
    Foreign,
    Purge,
    Delete,
    /// The server has lost the last messages.
    LoseTail(u8),
}

#[derive(Clone, Debug)]
struct Entry {
    id: String,
    is_removed: bool,
}

#[derive(Debug, Default)]
struct Stream {
    created: Option<u32>,
    next_created: u32,
    /// The message with sequence `n` is at `n - 1`.
    log: Vec<Entry>,
    /// Messages that were stored, and that the stream has lost.
    lost: Vec<Entry>,
    deduplicates: bool,
    known: BTreeMap<String, usize>,
}

impl Stream {
    /// The reply to a request; `None`: there are no responders.
    fn handle(&mut self, request: &Request) -> Option<String> {
        let created = self.created.map(|created| created.to_string());
        match (&*request.subject, created) {
            ("$JS.API.STREAM.INFO.s", None) => Some(refusal(10_059)),
            ("$JS.API.STREAM.CREATE.s", None) => {
                self.created = Some(self.next_created);
                self.next_created += 1;
                Some(stream_info("s", "a", &(self.next_created - 1).to_string(), 0))
            }
            ("$JS.API.STREAM.INFO.s" | "$JS.API.STREAM.CREATE.s", Some(created)) => {
                Some(stream_info("s", "a", &created, self.log.len() as u64))
            }
            ("$JS.API.STREAM.MSG.GET.s", Some(_)) => {
                let text = String::from_utf8(request.payload.clone()).unwrap();
                let digits = text.trim_matches(|c: char| !c.is_ascii_digit());
                let sequence = digits.parse::<usize>().unwrap();
                let entry = self.log.get(sequence - 1).filter(|entry| !entry.is_removed);
                let headers = |id| format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\n\r\n");
                let message = entry.map(|entry| stored(sequence as u64, &headers(&entry.id), b""));
                Some(message.unwrap_or_else(|| refusal(10_037)))
            }
            ("a", Some(_)) => Some(self.publish(request)),
            (_, None) => None,
            (subject, Some(_)) => panic!("{subject}"),
        }
    }

    /// As `processJetStreamMsg` of the server.
    fn publish(&mut self, request: &Request) -> String {
        let id = request.header("Nats-Msg-Id").unwrap();
        if let Some(sequence) = self.known.get(id).filter(|_| self.deduplicates) {
            return format!(r#"{{"stream":"s","seq":{sequence},"duplicate":true}}"#);
        }
        let sequence = request.header("Nats-Expected-Last-Sequence").unwrap();
        if sequence != self.log.len().to_string() {
            return refusal(10_071);
        }
        let last = self.log.last().map_or("", |entry| &entry.id);
        if request.header("Nats-Expected-Last-Msg-Id").is_some_and(|after| after != last) {
            return refusal(10_070);
        }
        let MessageId { epoch, position } = MessageId::parse(id).unwrap();
        assert_eq!(request.payload, position.to_string().as_bytes());
        let ids = self.log.iter().filter_map(|entry| MessageId::parse(&entry.id));
        let highest = ids.map(|id| id.epoch).max().unwrap_or(0);
        assert!(epoch >= highest, "{id} is stored behind epoch {highest}");
        self.log.push(Entry { id: id.to_string(), is_removed: false });
        self.known.insert(id.to_string(), self.log.len());
        format!(r#"{{"stream":"s","seq":{}}}"#, self.log.len())
    }

    /// Each epoch has consecutive positions.
    fn check_epochs(&self) {
        let mut last = BTreeMap::<u64, u64>::new();
        for id in self.log.iter().filter_map(|entry| MessageId::parse(&entry.id)) {
            if let Some(before) = last.insert(id.epoch, id.position) {
                assert_eq!(id.position, before + 1, "in epoch {}", id.epoch);
            }
        }
    }
}

/// A publisher of `COUNT` messages, and its connection.
struct Peer {
    publisher: Publisher,
    wire: Wire,
    first: u64,
    /// What was sent, and is not handled.
    queue: VecDeque<Request>,
    replies: VecDeque<(Request, Option<String>)>,
    ends: usize,
}

impl Peer {
    fn reconnect(&mut self, now: Instant) {
        self.replies.clear();
        self.publisher.disconnected();
        self.wire = Wire::connect(now);
        self.publisher.connected(&mut self.wire.client, now);
    }
}

struct World {
    now: Instant,
    stream: Stream,
    peers: Vec<Peer>,
    /// What old connections have sent.
    late: VecDeque<Request>,
    /// The last epoch.
    epoch: u64,
}

impl World {
    fn new(deduplicates: bool) -> Self {
        let stream = Stream { deduplicates, ..Stream::default() };
        let now = Instant::EPOCH;
        let mut world = Self { now, stream, peers: Vec::new(), late: VecDeque::new(), epoch: 0 };
        world.start(0);
        world.settle();
        world
    }

    fn start(&mut self, first: u64) {
        self.epoch += 1;
        let mut publisher = Publisher::new(StreamConfig::new("s", "a"), 7)
            .with_max_in_flight(8.try_into().unwrap());
        publisher.begin_epoch(self.epoch, first, self.now);
        let mut wire = Wire::connect(self.now);
        publisher.connected(&mut wire.client, self.now);
        let (queue, replies) = (VecDeque::new(), VecDeque::new());
        self.peers.push(Peer { publisher, wire, first, queue, replies, ends: 0 });
    }

    fn apply(&mut self, op: Op) {
        let peers = self.peers.len();
        let peer = |index: usize| index % peers;
        match op {
            Op::Offer(index, count) => {
                let peer = &mut self.peers[peer(index)];
                for _ in 0..count {
                    let Some(position) = peer.publisher.next_position() else { break };
                    if position == peer.first + COUNT {
                        break;
                    }
                    let payload = position.to_string().into();
                    let Peer { publisher, wire, .. } = peer;
                    publisher.publish(&mut wire.client, position, payload, self.now).unwrap();
                }
            }
            Op::Serve(index, count) => {
                let peer = &mut self.peers[peer(index)];
                for request in peer.queue.drain(..peer.queue.len().min(count.into())) {
                    let reply = self.stream.handle(&request);
                    peer.replies.push_back((request, reply));
                }
            }
            Op::Deliver(index, count) => {
                let peer = &mut self.peers[peer(index)];
                for (request, reply) in peer.replies.drain(..peer.replies.len().min(count.into())) {
                    match reply {
                        Some(reply) => peer.wire.reply(&request, &reply),
                        None => peer.wire.no_responders(&request),
                    }
                }
            }
            Op::LoseReply(index) => {
                self.peers[peer(index)].replies.pop_front();
            }
            Op::Reconnect(index, lost) => {
                let peer = &mut self.peers[peer(index)];
                let kept = peer.queue.len().saturating_sub(lost.into());
                self.late.extend(peer.queue.drain(..).take(kept));
                peer.reconnect(self.now);
            }
            Op::Resync(index) => {
                self.now += Duration::from_secs(5);
                self.peers[peer(index)].wire.time_out(self.now);
                self.settle();
                for _ in 0..3 {
                    self.apply(Op::Serve(index, u8::MAX));
                    self.apply(Op::Deliver(index, u8::MAX));
                }
            }
            Op::Late(count) => {
                for request in self.late.drain(..self.late.len().min(count.into())) {
                    self.stream.handle(&request);
                }
            }
            Op::TakeOver if self.peers.len() == 1 => self.start(COUNT),
            Op::Foreign if self.stream.created.is_some() => {
                self.stream.log.push(Entry { id: String::new(), is_removed: false });
            }
            // There is one already, or no stream.
            Op::TakeOver | Op::Foreign => {}
            Op::Purge => self.stream.log.iter_mut().for_each(|entry| entry.is_removed = true),
            Op::Delete => self.lose(usize::MAX),
            Op::LoseTail(count) => self.lose(count.into()),
        }
        self.settle();
    }

    /// The stream loses its last messages, or is lost itself. The server has crashed: requests and
    /// connections are lost as well.
    fn lose(&mut self, count: usize) {
        let kept = self.stream.log.len().saturating_sub(count);
        let lost = self.stream.log.split_off(kept);
        self.stream.lost.extend(lost);
        self.stream.known.retain(|_, sequence| *sequence <= kept);
        if count == usize::MAX {
            self.stream.created = None;
        }
        self.late.clear();
        for peer in &mut self.peers {
            peer.queue.clear();
            peer.reconnect(self.now);
        }
    }

    /// The publishers handle what they have received.
    fn settle(&mut self) {
        let (now, count) = (self.now, self.peers.len());
        for (index, peer) in self.peers.iter_mut().enumerate() {
            while let Some(incoming) = peer.wire.take(now) {
                peer.publisher.handle(&mut peer.wire.client, incoming, now);
            }
            peer.publisher.handle_timeout(now);
            while let Some(event) = peer.publisher.take_event() {
                let PublisherEvent::EpochEnded(end) = event else { continue };
                peer.ends += 1;
                // The first one has lost its lease when there is a second one.
                if index + 1 == count {
                    self.epoch = end.above().max(self.epoch) + 1;
                    peer.publisher.begin_epoch(self.epoch, peer.publisher.position(), now);
                }
            }
            peer.publisher.pump(&mut peer.wire.client, now);
            peer.queue.extend(peer.wire.requests(now));
        }
        self.stream.check_epochs();
    }

    /// Nothing fails any more: all is published.
    fn heal(&mut self) {
        let last = self.peers.len() - 1;
        for _ in 0..100 {
            for _ in 0..10 {
                self.apply(Op::Offer(last, u8::MAX));
                self.apply(Op::Serve(last, u8::MAX));
                self.apply(Op::Deliver(last, u8::MAX));
            }
            let Peer { publisher, first, .. } = &self.peers[last];
            if publisher.position() == first + COUNT {
                return;
            }
            self.apply(Op::Resync(last));
        }
        panic!("it is stuck: {:?}", self.peers[last].publisher);
    }
}

fn ops(has_losses: bool) -> impl Strategy<Value = Vec<Op>> {
    let (peer, count) = (0..2_usize, 1..6_u8);
    let work = prop_oneof![
        4 => (peer.clone(), count.clone()).prop_map(|(peer, count)| Op::Offer(peer, count)),
        6 => (peer.clone(), count.clone()).prop_map(|(peer, count)| Op::Serve(peer, count)),
        6 => (peer.clone(), count.clone()).prop_map(|(peer, count)| Op::Deliver(peer, count)),
        2 => peer.clone().prop_map(Op::LoseReply),
        2 => (peer.clone(), 0..4_u8).prop_map(|(peer, lost)| Op::Reconnect(peer, lost)),
        3 => peer.prop_map(Op::Resync),
        2 => count.clone().prop_map(Op::Late),
    ];
    let loss = prop_oneof![
        1 => Just(Op::TakeOver),
        6 => Just(Op::Foreign),
        2 => Just(Op::Purge),
        1 => Just(Op::Delete),
        2 => count.prop_map(Op::LoseTail),
    ];
    let op = if has_losses { prop_oneof![6 => work, 1 => loss].boxed() } else { work.boxed() };
    prop::collection::vec(op, 0..200)
}

/// The number of messages of each publisher.
const COUNT: u64 = 60;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn the_stream_has_each_message_once_and_in_order(
        ops in ops(false),
        deduplicates: bool,
    ) {
        let mut world = World::new(deduplicates);
        for op in ops {
            world.apply(op);
        }
        world.heal();
        world.apply(Op::Late(u8::MAX));
        let ids = world.stream.log.iter().map(|entry| &*entry.id).collect::<Vec<_>>();
        let expected = (0..COUNT).map(|position| format!("1-{position}")).collect::<Vec<_>>();
        prop_assert_eq!(ids, expected);
        prop_assert_eq!(world.peers[0].ends, 0);
    }

    #[test]
    fn each_epoch_is_whole_and_in_order_and_nothing_is_missing_but_what_the_stream_has_lost(
        ops in ops(true),
        deduplicates: bool,
    ) {
        let mut world = World::new(deduplicates);
        for op in ops {
            world.apply(op);
        }
        world.heal();
        world.apply(Op::Late(u8::MAX));
        let Stream { log, lost, .. } = &world.stream;
        let ids = log.iter().chain(lost).filter_map(|entry| MessageId::parse(&entry.id));
        let positions = ids.map(|id| id.position).collect::<BTreeSet<_>>();
        for peer in &world.peers {
            for position in peer.first..peer.publisher.position() {
                prop_assert!(positions.contains(&position), "{position} is missing");
            }
        }
    }
}
