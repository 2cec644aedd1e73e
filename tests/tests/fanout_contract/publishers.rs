//! Publishers: each alone, and many on one feed.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use proptest::prelude::*;
use wirestate_core::{
    Event, Instant, Machine, Outbound, drive,
    fanout::{Chunk, Config, Feed, Framing, Pace, Publisher, PublisherReason, Reader, Subscriber},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{self, Op, Player},
};

use crate::messages::{any_frames, fixed, lines, parse, plausible};

const NOW: Instant = Instant::EPOCH;

fn at(millis: u64) -> Instant {
    Instant::from_epoch(Duration::from_millis(millis))
}

fn poll_shared<M: Machine>(machine: &mut M, now: Instant) {
    while machine.poll_shared(now, &mut Context::from_waker(Waker::noop())) {}
}

/// Receives as many of `bytes` as the machine reads.
fn receive(publisher: &mut Publisher, mut bytes: &[u8], now: Instant) -> usize {
    let all = bytes.len();
    loop {
        let before = bytes.len();
        poll_shared(publisher, now);
        drive::deliver(publisher, &mut bytes, now);
        poll_shared(publisher, now);
        if bytes.len() == before {
            return all - before;
        }
    }
}

/// Acknowledges all that was published, and returns it.
fn read_all(reader: &mut Reader) -> Vec<u8> {
    let (mut chunks, mut bytes) = (VecDeque::new(), Vec::new());
    loop {
        reader.fetch(&mut chunks, 64, &mut Context::from_waker(Waker::noop()));
        let Some(chunk) = chunks.pop_front() else { return bytes };
        reader.acknowledge(&chunk);
        bytes.extend_from_slice(&chunk.bytes);
    }
}

#[test]
fn a_publisher_publishes_complete_messages_and_counts_the_rest() {
    for_each_case(256, (any_frames(), script::ops(120)), |(frames, ops)| {
        let framing = frames.framing();
        let config = Config::default()
            .with_framing(framing)
            .with_publisher_idle_timeout(Duration::from_secs(100))
            .with_publisher_message_timeout(Duration::from_secs(50));
        let feed = Feed::new(config).unwrap();
        let mut subscriber = Subscriber::new(&feed, NOW);
        let mut publisher = Checked::new(Publisher::new(&feed, NOW), 0).with_deadlines();
        let mut player = Player::new(&mut publisher);
        for op in ops {
            if let Op::Receive(bytes) = &op {
                player.play(&Op::Receive(plausible(framing, bytes)));
            } else {
                player.play(&op);
            }
            assert!(player.output().is_empty(), "a publisher has output");
        }
        player.play_out();
        let transcript = player.transcript();
        let (messages, tail) = parse(framing, &transcript.input);
        let stream = script::play_out(&mut subscriber, &[Op::Release]).output;
        assert_eq!(stream, messages.concat());
        let counters = feed.counters();
        assert_eq!(counters.publishers, u64::from(!transcript.done));
        let dropped = if transcript.done { tail.len() as u64 } else { 0 };
        assert_eq!(counters.tail_bytes_dropped, dropped);
        assert_eq!((counters.epoch, counters.upstream_connects), (0, 0));
    });
}

/// An action of the model. A number selects one of the publishers that there are.
#[derive(Clone, Debug)]
enum Action {
    Connect,
    /// A publisher has sent so many more bytes.
    Send(usize, usize),
    /// A publisher closes its side behind what it has sent.
    Finish(usize),
    /// A publisher's task is dropped.
    Abort(usize),
    /// The reader acknowledges so many chunks, and so ends a pause.
    Read(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => Just(Action::Connect),
        9 => (0..6_usize, 1..30_usize).prop_map(|(k, n)| Action::Send(k, n)),
        1 => (0..6_usize).prop_map(Action::Finish),
        1 => (0..6_usize).prop_map(Action::Abort),
        3 => (0..4_usize).prop_map(Action::Read),
    ]
}

/// A waker that records whether it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// A publisher with its connection. Its task polls it only when it is woken, or something arrives.
struct Task {
    /// `None`: it has ended.
    machine: Option<Publisher>,
    woken: Arc<Woken>,
    number: u8,
    sent: usize,
    /// What has arrived and is not read.
    pending: VecDeque<u8>,
    finished: bool,
}

impl Task {
    fn new(feed: &Feed, number: u8) -> Self {
        let machine = Some(Publisher::new(feed, NOW));
        let woken = Arc::default();
        Self { machine, woken, number, sent: 0, pending: VecDeque::new(), finished: false }
    }

    /// Message `n`: the publisher's number, its own number, and a full stop.
    fn message(number: u8, n: usize) -> [u8; 4] {
        [number, u8::try_from(n >> 8).unwrap(), u8::try_from(n & 255).unwrap(), b'.']
    }

    fn send(&mut self, n: usize) {
        if !self.finished {
            let stream = (0..=(self.sent + n) / 4).flat_map(|k| Self::message(self.number, k));
            self.pending.extend(stream.skip(self.sent).take(n));
            self.sent += n;
        }
    }

    /// Does what a driver does, until the machine waits.
    fn run(&mut self) {
        let waker = Waker::from(self.woken.clone());
        let cx = &mut Context::from_waker(&waker);
        while let Some(machine) = &mut self.machine {
            let mut moved = machine.poll_shared(NOW, cx);
            if machine.interest().read {
                let bytes: Vec<u8> = self.pending.drain(..self.pending.len().min(7)).collect();
                if !bytes.is_empty() {
                    drive::deliver(machine, &mut &bytes[..], NOW);
                    moved = true;
                } else if self.finished {
                    machine.handle(NOW, Event::Eof);
                    assert_eq!(machine.interest().write, Outbound::Finish);
                    self.machine = None;
                    return;
                }
            }
            if !moved {
                return;
            }
        }
    }
}

#[test]
fn messages_of_many_publishers_never_mix_and_none_is_forgotten() {
    for_each_case(
        256,
        (prop::collection::vec(action(), 1..150), 4..600_usize),
        |(actions, window)| {
            let feed =
                Feed::new(Config::default().with_framing(fixed(4)).with_window(window)).unwrap();
            let mut reader = Reader::join(&feed, Pace::Blocks);
            let mut chunks = VecDeque::<Chunk>::new();
            let mut published = Vec::new();
            let mut tasks: Vec<Task> = Vec::new();
            let mut read = |n: usize| {
                for chunk in chunks.drain(..n.min(chunks.len())) {
                    reader.acknowledge(&chunk);
                    published.extend_from_slice(&chunk.bytes);
                }
                reader.fetch(&mut chunks, 64, &mut Context::from_waker(Waker::noop()));
                !chunks.is_empty()
            };
            let run_woken = |tasks: &mut Vec<Task>| {
                while let Some(task) =
                    tasks.iter_mut().find(|task| task.woken.0.swap(false, Relaxed))
                {
                    task.run();
                }
            };
            for action in actions {
                let index = match action {
                    Action::Connect if tasks.len() < 6 => {
                        let number = u8::try_from(tasks.len()).unwrap();
                        tasks.push(Task::new(&feed, number));
                        None
                    }
                    Action::Connect => None,
                    Action::Send(k, n) => {
                        tasks.get_mut(k).into_iter().for_each(|task| task.send(n));
                        Some(k)
                    }
                    Action::Finish(k) => {
                        tasks.get_mut(k).into_iter().for_each(|task| task.finished = true);
                        Some(k)
                    }
                    Action::Abort(k) => {
                        if let Some(task) = tasks.get_mut(k) {
                            task.machine = None;
                            task.finished = true;
                        }
                        None
                    }
                    Action::Read(n) => {
                        read(n);
                        None
                    }
                };
                if let Some(task) = index.and_then(|index| tasks.get_mut(index)) {
                    task.run();
                }
                run_woken(&mut tasks);
            }
            // The reader's task is woken as well.
            let mut idle = 0;
            while idle < 2 {
                idle = if read(1) { 0 } else { idle + 1 };
                run_woken(&mut tasks);
            }
            let (messages, rest) = published.as_chunks::<4>();
            assert!(rest.is_empty());
            let mut next = [0_usize; 6];
            for message in messages {
                let n = &mut next[usize::from(message[0])];
                assert_eq!(message, &Task::message(message[0], *n));
                *n += 1;
            }
            for task in &tasks {
                let read = task.sent - task.pending.len();
                if let Some(machine) = &task.machine {
                    assert!(task.pending.is_empty(), "{} waits for ever", task.number);
                    assert_eq!(machine.status().state, "open");
                    assert_eq!(next[usize::from(task.number)], task.sent / 4);
                } else {
                    assert!(next[usize::from(task.number)] <= read / 4);
                }
            }
            let open = tasks.iter().filter(|task| task.machine.is_some()).count();
            assert_eq!(feed.counters().publishers, open as u64);
        },
    );
}

/// It holds nobody up, and is reset in the end.
#[test]
fn a_publisher_that_stops_within_a_message_stops_no_other() {
    let feed = Feed::new(Config::default().with_framing(lines(10))).unwrap();
    let mut reader = Reader::join(&feed, Pace::NeverBlocks);
    let [mut stops, mut other] = [(); 2].map(|()| Publisher::new(&feed, at(0)));
    assert_eq!(receive(&mut stops, b"one\ntw", at(0)), 6);
    for second in 1..30 {
        assert_eq!(receive(&mut other, b"other\n", at(1000 * second)), 6);
        // Another byte does not extend the time for the message.
        receive(&mut stops, b"w".repeat(usize::from(second < 5)).as_slice(), at(1000 * second));
        stops.handle(at(1000 * second), Event::Timeout { unacknowledged: 0 });
    }
    assert_eq!(stops.poll_timeout(), Some(at(30_000)));
    stops.handle(at(30_000), Event::Timeout { unacknowledged: 0 });
    assert_eq!(stops.interest().write, Outbound::Reset);
    stops.handle(at(30_000), Event::Finished);
    let limit = Duration::from_secs(30);
    assert_eq!(stops.reason(), Some(PublisherReason::MessageTimeout { limit, tail: 6 }));
    let expected = format!("one\n{}", "other\n".repeat(29));
    assert_eq!(String::from_utf8(read_all(&mut reader)).unwrap(), expected);
    let counters = feed.counters();
    assert_eq!((counters.publishers, counters.tail_bytes_dropped), (1, 6));
    // The other one has no message that is incomplete.
    assert_eq!(other.poll_timeout(), Some(at(29_000) + Duration::from_mins(10)));
}

/// The time of a pause counts neither as silence nor for the message that follows.
#[test]
fn a_pause_stops_the_deadlines_of_publishers() {
    let config = Config::default().with_framing(fixed(4)).with_window(4 + 128);
    let feed = Feed::new(config).unwrap();
    let mut reader = Reader::join(&feed, Pace::Blocks);
    let mut publisher = Publisher::new(&feed, at(0));
    receive(&mut publisher, b"one.", at(0));
    assert_eq!(receive(&mut publisher, b"two.th", at(0)), 6);
    assert_eq!((publisher.interest().read, publisher.poll_timeout()), (false, None));
    assert_eq!(read_all(&mut reader), b"one.");
    poll_shared(&mut publisher, at(1_000_000));
    assert_eq!(publisher.poll_timeout(), Some(at(1_030_000)));
    assert_eq!(receive(&mut publisher, b"r.", at(1_020_000)), 2);
    assert_eq!(read_all(&mut reader), b"two.");
    poll_shared(&mut publisher, at(1_020_000));
    assert_eq!(read_all(&mut reader), b"thr.");
}

#[test]
fn messages_before_one_that_is_too_long_are_published() {
    let feed = Feed::new(Config::default().with_framing(lines(5))).unwrap();
    let mut reader = Reader::join(&feed, Pace::NeverBlocks);
    let mut publisher = Publisher::new(&feed, NOW);
    receive(&mut publisher, b"one\ntwo\nthree", NOW);
    assert_eq!(publisher.interest().write, Outbound::Reset);
    publisher.handle(NOW, Event::Finished);
    assert!(matches!(publisher.reason(), Some(PublisherReason::TooLong(_))));
    assert_eq!(read_all(&mut reader), b"one\ntwo\n");
    assert_eq!(feed.counters().tail_bytes_dropped, 5);
}

/// Before the end, what has been received is published, even if the feed is paused.
#[test]
fn a_shutdown_publishes_the_complete_messages_first() {
    let config = Config::default().with_framing(fixed(4)).with_window(4 + 128);
    let feed = Feed::new(config).unwrap();
    let mut reader = Reader::join(&feed, Pace::Blocks);
    let mut publisher = Publisher::new(&feed, NOW);
    receive(&mut publisher, b"one.", NOW);
    receive(&mut publisher, b"two.th", NOW);
    publisher.handle(NOW, Event::ShutDown);
    assert_eq!(publisher.interest().write, Outbound::Idle);
    assert_eq!(read_all(&mut reader), b"one.");
    poll_shared(&mut publisher, NOW);
    assert_eq!(publisher.interest().write, Outbound::Finish);
    publisher.handle(NOW, Event::Finished);
    assert_eq!(publisher.reason(), Some(PublisherReason::ShutDown));
    assert_eq!(read_all(&mut reader), b"two.");
    assert_eq!(feed.counters().tail_bytes_dropped, 2);
}

/// A chunk keeps its block in memory. Small messages of publishers that come and go share one.
#[test]
fn messages_of_several_publishers_are_adjacent_in_memory() {
    let feed = Feed::new(Config::default().with_framing(fixed(4))).unwrap();
    let mut reader = Reader::join(&feed, Pace::NeverBlocks);
    for _ in 0..64 {
        let mut publisher = Publisher::new(&feed, NOW);
        receive(&mut publisher, b"mess", NOW);
    }
    let mut chunks = VecDeque::new();
    reader.fetch(&mut chunks, 64, &mut Context::from_waker(Waker::noop()));
    let chunks: Vec<_> = chunks.iter().map(|chunk| chunk.bytes.as_ptr_range()).collect();
    assert_eq!(chunks.len(), 64);
    assert!(chunks.windows(2).all(|two| two[0].end == two[1].start));
}

/// A buffer grows with what has arrived, not with a length that the publisher declares.
#[test]
fn a_publisher_holds_a_buffer_of_what_it_has_sent() {
    let max = 1 << 20;
    let framing = Framing::LengthPrefixed { max: max.try_into().unwrap() };
    let feed = Feed::new(Config::default().with_framing(framing)).unwrap();
    let mut publisher = Publisher::new(&feed, NOW);
    let mut message = vec![0; max];
    message[..4].copy_from_slice(&u32::try_from(max - 4).unwrap().to_be_bytes());
    let mut rest = &message[..max - 1];
    while !rest.is_empty() {
        let (filled, space) = (max - 1 - rest.len(), publisher.read_buf().len());
        assert!(filled + space <= (2 * filled).max(16 * 1024).min(max + 4096), "{filled} {space}");
        let n = space.min(rest.len()).min(5000);
        drive::deliver(&mut publisher, &mut &rest[..n], NOW);
        rest = &rest[n..];
    }
    receive(&mut publisher, &message[max - 1..], NOW);
    assert_eq!((feed.counters().messages_in, feed.counters().bytes_received), (1, 1 << 20));
}
