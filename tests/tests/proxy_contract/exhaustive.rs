//! Every order of events that end a side, with buffers of one, two and three bytes.

use wirestate_core::{ConnectionError, proxy::Side};
use wirestate_testkit::script::Ending;

use crate::pair::{Act, Other, Pair};

const EVENTS: [Act; 8] = [
    Act::Receive(2),
    Act::Take(1),
    Act::Fin,
    Act::LostIn(ConnectionError::Reset),
    Act::LostOut(ConnectionError::Reset),
    Act::LostOut(ConnectionError::TimedOut),
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

/// How both sides ended, and the reason, after `list` and then the idle time.
fn end(mut pair: Pair, list: &[(Side, Act)]) -> Pair {
    for (side, event) in list {
        pair.happen(*side, *event);
    }
    pair.play_out();
    // The deadline ends the rest; play that out as well.
    pair.happen(Side::Client, Act::Timeout);
    pair.play_out();
    pair.happen(Side::Upstream, Act::Timeout);
    pair.play_out();
    pair
}

#[test]
fn every_interleaving_of_fin_reset_and_timeout() {
    let pairs: [fn() -> Pair; 6] = [
        || Pair::new(1),
        || Pair::new(2).piping(1),
        || Pair::announced(1, &[Other::Accepts]),
        || Pair::announced(2, &[]),
        || Pair::announced(2, &[Other::Refuses]),
        || Pair::announced(3, &[Other::Refuses, Other::Accepts, Other::Refuses]),
    ];
    for pair in pairs {
        let lists = every_list(4, |list| {
            let pair = end(pair(), list);
            assert!(pair.relay.is_done(), "{list:?}: it does not end");
            assert_eq!(pair.relay.status().queued, 0, "{list:?}: bytes are left");
            let label = pair.label().unwrap();
            for side in Side::BOTH {
                let (peer, other) = (pair.peer(side), pair.peer(side.other()));
                match (label, peer.ending) {
                    // The connection to the upstream is gone, and the client gets nothing that
                    // looks like an answer.
                    ("no_upstream", None) if side == Side::Upstream => {}
                    ("no_upstream", Some(Ending::Fin)) => {
                        assert!(peer.output.is_empty(), "{list:?}");
                    }
                    // Each FIN follows the other side's FIN and all its bytes: `Pair` checks that.
                    ("finished", sent) => assert_eq!(sent, Some(Ending::Fin), "{list:?}"),
                    // A side that has failed gets nothing more. The other side must not see a clean
                    // end.
                    (_, Some(Ending::Rst)) => {}
                    (_, Some(Ending::Fin)) => {
                        assert!(other.fin || pair.asked, "{list:?}: a FIN out of nothing");
                    }
                    (_, None) => assert!(peer.lost, "{list:?}: the {side} was told nothing"),
                }
                // A reset before any other end: all bytes, then an RST.
                if label == format!("{}_lost", side.other())
                    && other.lost
                    && other.broken.is_none()
                    && !peer.lost
                    && peer.ending == Some(Ending::Rst)
                    && !list.iter().any(|(_, event)| *event == Act::Timeout)
                {
                    assert_eq!(pair.relayed(side), other.input, "{list:?}: not flushed");
                }
            }
        });
        assert_eq!(lists, 65_536);
    }
}
