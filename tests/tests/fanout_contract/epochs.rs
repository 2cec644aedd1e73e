//! Epochs: which messages of which connection to the upstream a subscriber or a reader gets.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
    time::Duration,
};

use proptest::prelude::*;
use wirestate_core::{
    Event, Instant, Machine, Outbound, drive,
    fanout::{
        Config, Feed, FetchOutcome, GapPolicy, LagPolicy, Pace, Reader, Subscriber,
        SubscriberReason, Upstream,
    },
};
use wirestate_testkit::{for_each_case, script};

use crate::messages::fixed;

const NOW: Instant = Instant::EPOCH;

fn config(on_gap: GapPolicy) -> Config {
    Config::default()
        .with_framing(fixed(4))
        .with_lag_wait(Duration::ZERO)
        .with_replay(u64::MAX)
        .with_on_gap(on_gap)
}

fn poll_shared<M: Machine>(machine: &mut M) {
    while machine.poll_shared(NOW, &mut Context::from_waker(Waker::noop())) {}
}

fn receive(upstream: &mut Upstream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        poll_shared(upstream);
        drive::deliver(upstream, &mut bytes, NOW);
    }
}

/// Sends all output of `subscriber`, and a FIN if it wants to; returns the output.
fn sent(subscriber: &mut Subscriber) -> String {
    poll_shared(subscriber);
    let output = script::collect(subscriber, NOW);
    poll_shared(subscriber);
    if subscriber.interest().write == Outbound::Finish {
        subscriber.handle(NOW, Event::Finished);
        subscriber.handle(NOW, Event::Eof);
    }
    String::from_utf8(output).unwrap()
}

/// One subscriber has got everything when the epoch ends, another one nothing, and a third one is
/// polled only after the next epoch has messages.
#[test]
fn with_disconnect_no_connection_carries_messages_of_two_epochs() {
    let feed = Feed::new(config(GapPolicy::Disconnect)).unwrap();
    let mut upstream = Upstream::new(&feed, NOW);
    let [mut idle, mut slow, mut late] = [(); 3].map(|()| Subscriber::new(&feed, NOW));
    assert_eq!(sent(&mut idle), "");
    receive(&mut upstream, b"one.two.thr");
    assert_eq!(sent(&mut idle), "one.two.");
    poll_shared(&mut slow);
    drop(upstream);
    assert_eq!(sent(&mut idle), "", "an upstream that is away is no gap yet");
    assert_eq!(idle.reason(), None);

    let mut upstream = Upstream::new(&feed, NOW);
    let mut next = Subscriber::new(&feed, NOW);
    assert_eq!((sent(&mut idle), sent(&mut slow)), (String::new(), "one.two.".into()));
    assert_eq!([idle.reason(), slow.reason()], [(); 2].map(|()| Some(SubscriberReason::Gap)));
    receive(&mut upstream, b"1st.2nd.");
    assert_eq!((sent(&mut late), late.reason()), ("one.two.".into(), Some(SubscriberReason::Gap)));
    assert_eq!((sent(&mut next), next.reason()), ("1st.2nd.".into(), None));
    assert_eq!(sent(&mut Subscriber::new(&feed, NOW)), "1st.2nd.", "the replay has two epochs");
    let counters = feed.counters();
    assert_eq!((counters.epoch, counters.gap_ended, counters.delivered), (1, 3, 6 + 4));
    assert_eq!((counters.tail_bytes_dropped, counters.subscribers), (3, 1));
}

#[test]
fn with_continue_a_subscriber_gets_all_epochs_in_order() {
    let feed = Feed::new(config(GapPolicy::Continue)).unwrap();
    let mut subscriber = Subscriber::new(&feed, NOW);
    for stream in [&b"one.tw"[..], b"two.th", b"thr."] {
        receive(&mut Upstream::new(&feed, NOW), stream);
    }
    assert_eq!(sent(&mut subscriber), "one.two.thr.");
    assert_eq!(sent(&mut Subscriber::new(&feed, NOW)), "one.two.thr.");
    assert_eq!((feed.counters().epoch, feed.counters().gap_ended), (2, 0));
}

#[test]
fn an_epoch_without_messages_does_not_count() {
    let feed = Feed::new(config(GapPolicy::Disconnect)).unwrap();
    let mut subscriber = Subscriber::new(&feed, NOW);
    for stream in [&b""[..], b"on", b"one."] {
        receive(&mut Upstream::new(&feed, NOW), stream);
    }
    assert_eq!((sent(&mut subscriber), feed.counters().epoch), ("one.".into(), 0));
    for _ in 0..3 {
        Upstream::new(&feed, NOW);
    }
    assert_eq!(feed.counters().epoch, 1);
    assert_eq!(
        (sent(&mut subscriber), subscriber.reason()),
        (String::new(), Some(SubscriberReason::Gap))
    );
}

/// Its output was sent before the epoch, and the next epoch fills the window before it is polled.
#[test]
fn a_subscriber_that_has_got_its_epoch_does_not_lag() {
    let config = config(GapPolicy::Disconnect).with_window(4 + 128);
    let feed = Feed::new(config).unwrap();
    let mut subscriber = Subscriber::new(&feed, NOW);
    receive(&mut Upstream::new(&feed, NOW), b"one.");
    assert_eq!(sent(&mut subscriber), "one.");
    let mut upstream = Upstream::new(&feed, NOW);
    for _ in 0..3 {
        receive(&mut upstream, b"mess");
    }
    assert_eq!(sent(&mut subscriber), "");
    assert_eq!(subscriber.reason(), Some(SubscriberReason::Gap));
    let counters = feed.counters();
    assert_eq!((counters.gap_ended, counters.lagged, counters.never_caught_up), (1, 0, 0));
}

/// An action of the model. A number selects one of those that there are.
#[derive(Clone, Debug)]
enum Action {
    /// The upstream connects again.
    Connect,
    /// The upstream sends so many bytes.
    Send(usize),
    Join,
    Poll(usize),
    /// The kernel accepts so many bytes of a subscriber.
    Write(usize, usize),
    /// The reader that blocks fetches, after it has acknowledged so many chunks.
    Read(usize),
    /// The one that never blocks does so.
    ReadLatest(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        1 => Just(Action::Connect),
        6 => (1..20_usize).prop_map(Action::Send),
        1 => Just(Action::Join),
        3 => (0..9_usize).prop_map(Action::Poll),
        4 => (0..9_usize, 1..20_usize).prop_map(|(k, n)| Action::Write(k, n)),
        2 => (0..4_usize).prop_map(Action::Read),
        2 => (0..4_usize).prop_map(Action::ReadLatest),
    ]
}

/// A message: its connection, its number there, and a full stop.
type Message = [u8; 4];

fn message(connection: u8, number: usize) -> Message {
    [connection, u8::try_from(number >> 8).unwrap(), u8::try_from(number & 255).unwrap(), b'.']
}

/// A reader, and what it has acknowledged: messages with the feed's epoch.
struct Model {
    reader: Reader,
    chunks: VecDeque<wirestate_core::fanout::Chunk>,
    seen: Vec<(u64, Message)>,
    skipped: u64,
}

impl Model {
    fn new(feed: &Feed, pace: Pace) -> Self {
        let (chunks, seen) = (VecDeque::new(), Vec::new());
        Self { reader: Reader::join(feed, pace), chunks, seen, skipped: 0 }
    }

    /// Acknowledges, and fetches; returns false if there was nothing.
    fn read(&mut self, acknowledged: usize) -> bool {
        for chunk in self.chunks.drain(..acknowledged.min(self.chunks.len())) {
            self.reader.acknowledge(&chunk);
            let (messages, rest) = chunk.bytes.as_chunks::<4>();
            assert!(rest.is_empty());
            self.seen.extend(messages.iter().map(|message| (chunk.epoch, *message)));
        }
        let cx = &mut Context::from_waker(Waker::noop());
        match self.reader.fetch(&mut self.chunks, 3, cx) {
            FetchOutcome::Fetched => true,
            FetchOutcome::Pending => !self.chunks.is_empty(),
            FetchOutcome::Lagged => {
                self.chunks.clear();
                self.skipped += self.reader.skip();
                true
            }
        }
    }
}

#[test]
fn epochs_never_mix_and_a_reader_that_blocks_misses_nothing() {
    for_each_case(
        256,
        (
            prop::collection::vec(action(), 1..150),
            prop_oneof![Just(GapPolicy::Continue), Just(GapPolicy::Disconnect)],
            prop_oneof![Just(LagPolicy::Disconnect), Just(LagPolicy::Skip)],
            4..900_usize,
        ),
        |(actions, on_gap, on_lag, window)| {
            let feed = Feed::new(config(on_gap).with_on_lag(on_lag).with_window(window)).unwrap();
            let mut blocks = Model::new(&feed, Pace::Blocks);
            let mut never_blocks = Model::new(&feed, Pace::NeverBlocks);
            let mut upstream = Upstream::new(&feed, NOW);
            // How many bytes each connection has sent.
            let mut connections = vec![0_usize];
            let mut subscribers: Vec<(Subscriber, Vec<u8>)> = Vec::new();
            for action in actions {
                match action {
                    Action::Connect => {
                        upstream = Upstream::new(&feed, NOW);
                        connections.push(0);
                    }
                    Action::Send(n) => {
                        poll_shared(&mut upstream);
                        let connection = u8::try_from(connections.len() - 1).unwrap();
                        let sent = connections.last_mut().unwrap();
                        let stream: Vec<u8> =
                            (0..=(*sent + n) / 4).flat_map(|k| message(connection, k)).collect();
                        let mut rest = &stream[*sent..*sent + n];
                        drive::deliver(&mut upstream, &mut rest, NOW);
                        *sent += n - rest.len();
                    }
                    Action::Join => subscribers.push((Subscriber::new(&feed, NOW), Vec::new())),
                    Action::Poll(k) => {
                        if let Some((subscriber, _)) = subscribers.get_mut(k) {
                            poll_shared(subscriber);
                        }
                    }
                    Action::Write(k, n) => {
                        if let Some((subscriber, output)) = subscribers.get_mut(k)
                            && subscriber.interest().write == Outbound::Flush
                        {
                            let mut bufs = [&[][..]; 64];
                            let count = subscriber.write_bufs(&mut bufs);
                            let mut all = bufs[..count].concat();
                            all.truncate(n);
                            subscriber.handle(NOW, Event::Written(all.len()));
                            output.extend(all);
                        }
                    }
                    Action::Read(n) => _ = blocks.read(n),
                    Action::ReadLatest(n) => _ = never_blocks.read(n),
                }
            }
            while blocks.read(1) {}
            while never_blocks.read(1) {}
            for (subscriber, output) in &mut subscribers {
                poll_shared(subscriber);
                if subscriber.interest().write != Outbound::Reset {
                    output.extend(script::collect(subscriber, NOW));
                }
            }

            let mut published = Vec::new();
            for (connection, sent) in connections.iter().enumerate().filter(|(_, sent)| **sent >= 4)
            {
                let epoch = published.last().map_or(0, |(epoch, _)| epoch + 1);
                let connection = u8::try_from(connection).unwrap();
                published.extend((0..sent / 4).map(|n| (epoch, message(connection, n))));
            }
            assert_eq!(&blocks.seen, &published);
            let mut rest = published.iter();
            let in_order = never_blocks.seen.iter().all(|seen| rest.any(|other| other == seen));
            assert!(in_order, "{:?} of {:?}", never_blocks.seen, published);
            let seen = never_blocks.seen.len() as u64;
            assert_eq!(seen + never_blocks.skipped, published.len() as u64);
            let counters = feed.counters();
            assert_eq!((counters.readers, counters.reader_lag), (2, 0));
            assert_eq!(counters.reader_acknowledged, seen + published.len() as u64);
            assert_eq!(counters.reader_skipped, never_blocks.skipped);
            let open =
                subscribers.iter().filter(|(open, _)| open.interest().write != Outbound::Reset);
            assert_eq!(counters.subscribers, open.count() as u64);
            assert_eq!(counters.paused_waiting, Duration::ZERO);

            for (_, output) in &subscribers {
                assert_in_order(output, &published, on_lag, on_gap);
            }
        },
    );
}

/// Asserts that a subscriber has got published messages, in their order and without forbidden gaps.
fn assert_in_order(
    output: &[u8],
    published: &[(u64, Message)],
    on_lag: LagPolicy,
    on_gap: GapPolicy,
) {
    let (messages, _) = output.as_chunks::<4>();
    // The positions of its messages among the published ones.
    let position = |message| published.iter().position(|(_, other)| other == message).unwrap();
    let positions: Vec<_> = messages.iter().map(position).collect();
    let follows =
        |a: &usize, b: &usize| if on_lag == LagPolicy::Skip { a < b } else { a + 1 == *b };
    assert!(positions.is_sorted_by(follows), "{positions:?}");

    let epochs: Vec<_> = positions.iter().map(|position| published[*position].0).collect();
    if on_gap == GapPolicy::Disconnect {
        assert!(epochs.windows(2).all(|two| two[0] == two[1]), "{epochs:?}");
    }
}
