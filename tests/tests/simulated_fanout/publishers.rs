//! Many publishers of every kind, and subscribers, on one feed.

use std::time::Duration;

use wirestate_core::{
    admission::Limits,
    fanout::{Feed, LagPolicy, Publisher, Subscriber},
    runtime::Runtime as _,
    serve::{self, ServerHandle},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    sim::{Act, Faults, Leftovers, Received, Settings, Task, World, act},
};

use crate::scene::{LINES, SIZE, all, config, millis};

/// A publisher's message: its number, its own number, and dots. The length depends on both.
fn message(publisher: u64, number: u64) -> Vec<u8> {
    let spread = usize::try_from((publisher * 7 + number * 31) % 79).unwrap();
    format!("{publisher:03} {number:06} {}\n", ".".repeat(spread)).into_bytes()
}

/// How many messages each publisher sends.
const MESSAGES: u64 = 80;
const HEALTHY: u64 = 4;
const FAULTY: u64 = 6;

/// The pieces in which a publisher sends its messages, and `tail` behind them.
fn sends(publisher: u64, tail: &[u8]) -> Vec<Act> {
    let mut bytes: Vec<u8> = (0..MESSAGES).flat_map(|n| message(publisher, n)).collect();
    bytes.extend(tail);
    let size = usize::try_from(37 + publisher * 61).unwrap();
    let pieces = bytes.chunks(size).map(|piece| Act::Send(piece.to_vec().into()));
    pieces.flat_map(|send| [send, Act::Wait(millis(1))]).collect()
}

/// Runs publishers and subscribers in one world. Returns what the subscribers received, and the
/// feed.
fn run(seed: u64, on_lag: LagPolicy, window: usize) -> (World, Vec<Received>, Feed) {
    let world = World::with(seed, Settings { buffer: 8192, ..Settings::default() });
    let server = world.host("server");
    let config = config().with_framing(LINES).with_on_lag(on_lag).with_window(window);
    let config = config.with_publisher_message_timeout(millis(3000));
    let feed = Feed::new(config).unwrap();
    let limits = Limits { per_address: None, ..Limits::default() };
    let handles = [(); 2].map(|()| ServerHandle::new(serve::Config::default().with_limits(limits)));
    for (index, address) in ["server:1235", "server:1236"].into_iter().enumerate() {
        let listener = server.listen(address).unwrap();
        let listening = serve::Server::new(server.clone(), listener).with_handle(&handles[index]);
        let shared = feed.clone();
        if index == 0 {
            let subscriber = move |_: &_, now| Checked::new(Subscriber::new(&shared, now), 4 << 20);
            server.run(async move { listening.serve(subscriber).await });
        } else {
            let publisher = move |_: &_, now| Checked::new(Publisher::new(&shared, now), 0);
            server.run(async move { listening.serve(publisher).await });
        }
    }
    let subscribers: Vec<Task<Received>> = (0..4)
        .map(|number| {
            // One reads nothing for a while.
            let acts = match number {
                0 => vec![Act::Wait(millis(700)), Act::ReceiveAll],
                _ => all(),
            };
            crate::scene::subscribe(&world.host(&format!("subscriber {number}")), acts)
        })
        .collect();
    for publisher in 0..HEALTHY + FAULTY {
        let host = world.host(&format!("publisher {publisher}"));
        let is_faulty = publisher >= HEALTHY;
        let faults = if is_faulty { Faults::harmful(seed) } else { Faults::harmless(seed) };
        host.set_faults(Faults { stall: 0, delay: millis(0)..=millis(2), ..faults });
        let mut acts = sends(publisher, b"a tail");
        match publisher % 3 {
            _ if !is_faulty => acts.push(Act::Finish),
            0 => acts.push(Act::Reset),
            // It stops within a message.
            1 => acts.push(Act::Wait(millis(600_000))),
            _ => acts.truncate(acts.len() / 2),
        }
        let runtime = host.clone();
        host.run(async move {
            runtime.sleep(millis(100 + 7 * publisher)).await;
            let socket = runtime.connect("server:1236").await.unwrap();
            act(runtime, socket, acts).await
        });
    }
    // A connection that has timed out at the publisher is probed after a minute.
    world.run_for(millis(100_000)).unwrap();
    assert_eq!(feed.counters().publishers, 0, "a publisher that stops is not reset");
    for handle in &handles {
        handle.drain();
    }
    world.run().unwrap();
    assert_eq!(world.leftovers(), Leftovers::default());
    let received = subscribers.iter().map(|task| task.take().unwrap()).collect();
    (world, received, feed)
}

/// Asserts that a subscriber received complete messages, in order for each publisher, without a
/// gap, and all those of the healthy publishers.
fn assert_complete(received: &Received, feed: &Feed) {
    assert!(received.fin);
    let mut next = vec![0; usize::try_from(HEALTHY + FAULTY).unwrap()];
    let mut count = 0;
    for line in received.bytes.split_inclusive(|byte| *byte == b'\n') {
        let text = str::from_utf8(line).unwrap();
        let publisher: u64 = text[..3].parse().expect("a whole message");
        let next = &mut next[usize::try_from(publisher).unwrap()];
        assert_eq!(line, message(publisher, *next));
        *next += 1;
        count += 1;
    }
    assert_eq!(count, feed.counters().messages_in);
    assert!(next[..usize::try_from(HEALTHY).unwrap()].iter().all(|next| *next == MESSAGES));
}

#[test]
fn messages_of_publishers_arrive_whole_whatever_others_do() {
    for_each_seed(2, |seed| {
        // With the small window, the slow subscriber pauses all publishers.
        for (on_lag, window) in [(LagPolicy::Disconnect, 1 << 20), (LagPolicy::Block, 20 * SIZE)] {
            let (_, received, feed) = run(seed, on_lag, window);
            let counters = feed.counters();
            assert_eq!(counters.paused > Duration::ZERO, on_lag == LagPolicy::Block);
            assert!(counters.tail_bytes_dropped >= HEALTHY * 6);
            for received in received {
                assert_complete(&received, &feed);
            }
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_run_with_publishers() {
    let hash = || run(3, LagPolicy::Block, 20 * SIZE).0.trace().hash();
    assert_eq!(hash(), hash());
}
