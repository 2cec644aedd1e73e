//! Any sequence of faults against a model of the server.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{
    server::{Server, Stream},
    *,
};

#[derive(Clone, Copy, Debug)]
enum Op {
    Publish {
        count: u64,
        size: usize,
    },
    /// Removes the messages up to this part of the stream, in percent.
    Purge(u64),
    /// Removes one message, at this part of the stream.
    Remove(u64),
    /// Deletes the stream, and creates it again with as many messages.
    Replace(u64),
    /// The stream loses this many messages at its end, and its consumers.
    Truncate(u64),
    LoseDelivery,
    DeleteConsumers {
        says: bool,
    },
    RestartConsumers,
    ExpirePulls,
    Heartbeat,
    Reconnect,
    /// The client receives this many messages of the server, and what it sends arrives.
    Exchange(usize),
    Take(usize),
    /// Time passes, in milliseconds.
    Wait(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (1..8u64, 0..300usize).prop_map(|(count, size)| Op::Publish { count, size }),
        1 => (1..3u64, 900..2000usize).prop_map(|(count, size)| Op::Publish { count, size }),
        2 => (0..=100u64).prop_map(Op::Purge),
        2 => (0..100u64).prop_map(Op::Remove),
        1 => (0..20u64).prop_map(Op::Replace),
        1 => (1..10u64).prop_map(Op::Truncate),
        2 => Just(Op::LoseDelivery),
        2 => any::<bool>().prop_map(|says| Op::DeleteConsumers { says }),
        1 => Just(Op::RestartConsumers),
        2 => Just(Op::ExpirePulls),
        2 => Just(Op::Heartbeat),
        2 => Just(Op::Reconnect),
        12 => (1..20usize).prop_map(Op::Exchange),
        8 => (1..20usize).prop_map(Op::Take),
        4 => (0..4000u64).prop_map(Op::Wait),
    ];
    proptest::collection::vec(op, 1..80)
}

/// A consumer with a server, and what must be true of its events.
struct World {
    bench: Bench,
    server: Server,
    published: u64,
    /// Each stream that there was, with all of its messages, also of sequences that were reused.
    logs: Vec<Vec<Vec<String>>>,
    /// The sequence that is expected next, and the first stream that may have it.
    expected: Option<(u64, usize)>,
    taken: VecDeque<String>,
}

impl World {
    fn new(start: Start) -> Self {
        let config = ConsumerConfig::new("orders", "new")
            .with_start(start)
            .with_max_bytes(1024.try_into().unwrap())
            .with_seed(3);
        let (server, taken) = (Server::default(), VecDeque::new());
        let bench = Bench::new(config);
        let mut world =
            Self { bench, server, published: 0, logs: Vec::new(), expected: None, taken };
        world.replace(0);
        world
    }

    fn replace(&mut self, count: u64) {
        self.server.stream = None;
        self.server.delete_consumers(true);
        let created = self.logs.len() as u64;
        self.server.stream = Some(Stream { created, ..Stream::default() });
        self.logs.push(Vec::new());
        self.publish(count, 0);
    }

    fn publish(&mut self, count: u64, size: usize) {
        let stream = self.server.stream.as_mut().unwrap();
        for _ in 0..count {
            self.published += 1;
            stream.last += 1;
            let payload = format!("{}{}", self.published, " ".repeat(size));
            let log = self.logs.last_mut().unwrap();
            let index = usize::try_from(stream.last).unwrap() - 1;
            if log.len() <= index {
                log.resize(index + 1, Vec::new());
            }
            log[index].push(payload.trim().into());
            stream.messages.insert(stream.last, payload);
        }
        self.server.serve();
    }

    fn exchange(&mut self, count: usize) {
        self.server.handle(&self.bench.take_sent());
        for number in 0..count {
            assert!(number < 10_000, "the server and the consumer never stop");
            let Some(message) = self.server.outgoing.pop_front() else { break };
            self.bench.receive(&message);
            self.server.handle(&self.bench.take_sent());
        }
    }

    /// Exchanges everything, takes everything, and lets time pass until nothing happens any more.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.server.heartbeat();
            self.exchange(usize::MAX);
            while self.take() {}
            self.bench.wait(Duration::from_millis(500));
        }
        assert!(self.bench.consumer.is_reading(), "{:?}", self.bench.consumer);
    }

    fn take(&mut self) -> bool {
        let Some(event) = self.bench.take() else { return false };
        // The position begins with the first thing that is said of it.
        let begin = |sequence| (sequence, 0);
        match event {
            ConsumerEvent::Waiting { .. } => {}
            ConsumerEvent::Reading { next, .. } => {
                self.expected.get_or_insert(begin(next));
            }
            ConsumerEvent::Gap(gap) => {
                let (expected, stream) = *self.expected.get_or_insert(begin(gap.expected));
                assert_eq!(gap.expected, expected);
                match gap.kind {
                    GapKind::Missing => {
                        assert!(gap.found > expected, "{gap:?}");
                        // All of them were removed. A later stream is not compared.
                        let now = self.server.stream.as_ref().unwrap();
                        if now.created == stream as u64 {
                            let mut missing = now.messages.range(expected..gap.found);
                            assert_eq!(missing.next(), None, "{gap:?}");
                        }
                        self.expected = Some((gap.found, stream));
                    }
                    GapKind::Replaced => {
                        assert!(stream + 1 < self.logs.len(), "{gap:?}");
                        let current = self.server.stream.as_ref().unwrap().created;
                        // Some may have been replaced before they were looked at.
                        let stream = usize::try_from(current).unwrap();
                        self.expected = Some((gap.found, stream));
                    }
                    GapKind::Truncated => {
                        assert!(gap.found < expected, "{gap:?}");
                        self.expected = Some((gap.found, stream));
                    }
                }
            }
            ConsumerEvent::Message(delivery) => {
                let (expected, stream) = self.expected.unwrap();
                assert_eq!(delivery.sequence, expected);
                let payload = String::from_utf8_lossy(delivery.message.payload());
                let payload: String = payload.trim().into();
                let index = usize::try_from(expected).unwrap() - 1;
                let is_in = |log: &Vec<Vec<String>>| {
                    log.get(index).is_some_and(|messages| messages.contains(&payload))
                };
                assert!(is_in(&self.logs[stream]), "{expected} of {stream}: {payload}");
                assert!(!self.taken.contains(&payload), "{payload} is a duplicate");
                self.taken.push_back(payload);
                self.expected = Some((expected + 1, stream));
            }
        }
        true
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Publish { count, size } => self.publish(count, size),
            Op::Purge(percent) => {
                let stream = self.server.stream.as_mut().unwrap();
                let first = stream.last * percent / 100 + 1;
                stream.messages = stream.messages.split_off(&first);
            }
            Op::Remove(percent) => {
                let stream = self.server.stream.as_mut().unwrap();
                let sequence = stream.last * percent / 100 + 1;
                stream.messages.remove(&sequence);
            }
            Op::Replace(count) => {
                // A look at the stream must see each one.
                self.settle();
                self.replace(count);
                self.exchange(usize::MAX);
            }
            Op::Truncate(count) => {
                self.settle();
                let (expected, _) = self.expected.unwrap();
                let stream = self.server.stream.as_mut().unwrap();
                stream.last -= count.min(stream.last);
                let end = stream.last + 1;
                stream.messages.split_off(&end);
                self.server.delete_consumers(true);
                self.settle();
                // If the last messages were removed, the next one will show that they are missing.
                assert_eq!(self.expected.unwrap().0, expected.min(end));
            }
            Op::LoseDelivery => self.server.lose_delivery(),
            Op::DeleteConsumers { says } => self.server.delete_consumers(says),
            Op::RestartConsumers => self.server.restart_consumers(),
            Op::ExpirePulls => self.server.expire_pulls(),
            Op::Heartbeat => self.server.heartbeat(),
            Op::Reconnect => {
                self.server.disconnect();
                self.bench.connect();
            }
            Op::Exchange(count) => self.exchange(count),
            Op::Take(count) => {
                for _ in 0..count {
                    self.take();
                }
            }
            Op::Wait(millis) => self.bench.wait(Duration::from_millis(millis)),
        }
        let consumer = &self.bench.consumer;
        assert!(consumer.queued <= 1024 + 2200, "{}", consumer.queued);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn messages_ascend_without_duplicates_and_each_gap_is_reported(
        ops in ops(),
        start in prop_oneof![(0..5u64).prop_map(Start::Last), (0..5u64).prop_map(Start::Sequence)],
    ) {
        let mut world = World::new(start);
        for op in ops {
            world.apply(op);
        }
        // All faults have healed.
        world.settle();
        world.publish(1, 0);
        world.settle();
        let last = world.server.stream.as_ref().unwrap().last;
        prop_assert_eq!(world.expected.unwrap().0, last + 1);
        prop_assert_eq!(world.taken.back().cloned(), Some(world.published.to_string()));
    }
}
