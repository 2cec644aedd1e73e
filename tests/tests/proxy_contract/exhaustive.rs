//! All interleavings of the events that can end a side, with buffers of one, two and three bytes.

use std::thread;

use wirestate_core::{ConnectionError, proxy::Side};

use crate::pair::{Act, Next, Pair};

const EVENTS: [Act; 8] = [
    Act::Receive(2),
    Act::Accept(1),
    Act::Fin,
    Act::ReadError(ConnectionError::Reset),
    Act::WriteError(ConnectionError::Reset),
    Act::WriteError(ConnectionError::TimedOut),
    Act::Timeout,
    Act::ShutDown,
];

/// Calls `f` with every list of `length` events on either side.
fn every_list(length: usize, f: impl Fn(&[(Side, Act)])) -> usize {
    let all: Vec<_> =
        Side::BOTH.into_iter().flat_map(|side| EVENTS.map(|event| (side, event))).collect();
    let lists = all.len().pow(u32::try_from(length).unwrap());
    for mut number in 0..lists {
        let list: Vec<_> = (0..length)
            .map(|_| {
                let event = all[number % all.len()];
                number /= all.len();
                event
            })
            .collect();
        f(&list);
    }
    lists
}

/// Prints a list if its test fails.
struct ShownOnPanic<'a>(&'a [(Side, Act)]);

impl Drop for ShownOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the events: {:?}", self.0);
        }
    }
}

/// Plays the events in `list`, then lets the idle timeout elapse.
fn end(mut pair: Pair, list: &[(Side, Act)]) -> Pair {
    for (side, event) in list {
        pair.play(*side, *event);
    }
    pair.play_out();
    // The timeout may leave a FIN or an RST to be sent, with a deadline of its own.
    pair.play(Side::Client, Act::Timeout);
    pair.play_out();
    pair.play(Side::Upstream, Act::Timeout);
    pair.play_out();
    pair
}

#[test]
fn after_any_four_events_both_sides_end_as_the_other_side_did() {
    let pairs: [fn() -> Pair; 6] = [
        || Pair::new(1),
        || Pair::new(2).piping(1),
        || Pair::with_header(1, &[Next::Accepts]),
        || Pair::with_header(2, &[]),
        || Pair::with_header(2, &[Next::Refuses]),
        || Pair::with_header(3, &[Next::Refuses, Next::Accepts, Next::Refuses]),
    ];
    for pair in pairs {
        let lists = every_list(4, |list| {
            let _shown = ShownOnPanic(list);
            let pair = end(pair(), list);
            assert!(pair.relay.is_done(), "the relay does not end");
            assert_eq!(pair.relay.status().queued, 0, "bytes are still pending");
        });
        assert_eq!(lists, 65_536);
    }
}
