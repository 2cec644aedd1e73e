//! Random events on the two sides, and single cases.

use proptest::prelude::*;
use wirestate_core::{ConnectionError, Outbound, proxy::Side};
use wirestate_testkit::{for_each_case, script::Ending};

use crate::pair::{Act, HEADER, Next, Pair};

const UPSTREAMS: [&[Next]; 4] = [
    &[Next::Accepts],
    &[Next::Accepts, Next::Refuses],
    &[Next::Accepts, Next::Accepts, Next::Refuses],
    &[Next::Refuses],
];

fn events() -> impl Strategy<Value = Vec<(Side, Act)>> {
    let error = prop_oneof![
        3 => Just(ConnectionError::Reset),
        1 => Just(ConnectionError::TimedOut),
        1 => Just(ConnectionError::WriteZero),
        1 => any::<i32>().prop_map(|errno| ConnectionError::Other { errno }),
    ];
    let transfer = || {
        prop_oneof![
            6 => (1..20_u8).prop_map(Act::Receive),
            6 => (1..20_u8).prop_map(Act::Accept),
            2 => Just(Act::Release),
            1 => (0..400_u16).prop_map(Act::Wait),
            1 => (0..20_u8).prop_map(Act::Pipe),
            1 => Just(Act::Dial),
        ]
    };
    let end = prop_oneof![
        2 => (0..3_u16).prop_map(Act::Wait),
        2 => Just(Act::Timeout),
        4 => Just(Act::Fin),
        2 => error.clone().prop_map(Act::ReadError),
        3 => error.prop_map(Act::WriteError),
        1 => Just(Act::ShutDown),
        1 => (0..20_u8).prop_map(Act::Reset),
    ];
    let side = || prop_oneof![Just(Side::Client), Just(Side::Upstream)];
    let transfers = prop_oneof![4 => 0..3_usize, 1 => 0..100_usize]
        .prop_flat_map(move |len| prop::collection::vec((side(), transfer()), len));
    let ends = prop::collection::vec((side(), prop_oneof![transfer(), end]), 0..20);
    (transfers, ends).prop_map(|(transfers, ends)| [transfers, ends].concat())
}

#[test]
fn both_sides_keep_the_contract() {
    // Most lists are short, so there are many.
    for_each_case(
        1500,
        (1..40_usize, 0..UPSTREAMS.len(), any::<bool>(), events()),
        |(capacity, upstreams, is_connected, events)| {
            let mut pair = Pair::dialling(capacity, UPSTREAMS[upstreams], HEADER);
            if is_connected {
                pair.play(Side::Client, Act::Dial);
            }
            for (side, event) in events {
                pair.play(side, event);
            }
            pair.play_out();
        },
    );
}

fn play(events: &[(Side, Act)]) -> Pair {
    let mut pair = Pair::new(8);
    for (side, event) in events {
        pair.play(*side, *event);
    }
    pair
}

#[test]
fn a_reply_after_the_clients_fin_is_forwarded() {
    let mut pair = play(&[
        (Side::Client, Act::Receive(3)),
        (Side::Client, Act::Fin),
        (Side::Upstream, Act::Accept(9)),
        (Side::Upstream, Act::Accept(9)),
        (Side::Upstream, Act::Wait(500)),
        (Side::Upstream, Act::Receive(5)),
    ]);
    assert_eq!(pair.peer(Side::Upstream).ending, Some(Ending::Fin));
    assert_eq!(pair.relay.status().state, "client_finished");
    pair.play(Side::Upstream, Act::Fin);
    pair.play_out();
    assert_eq!(pair.peer(Side::Client).output.len(), 5);
    assert_eq!(
        (pair.peer(Side::Client).ending, pair.label()),
        (Some(Ending::Fin), Some("finished"))
    );
}

/// Bytes that were received before are flushed first.
#[test]
fn a_reset_of_one_side_resets_the_other() {
    for side in Side::BOTH {
        let other = side.other();
        let mut pair = play(&[
            (side, Act::Receive(4)),
            (other, Act::Receive(2)),
            (side, Act::ReadError(ConnectionError::Reset)),
        ]);
        assert!(pair.relay.interest(side).is_done(), "the lost side has ended");
        assert_eq!(pair.relay.interest(other).write, Outbound::Flush);
        pair.play_out();
        assert_eq!(
            (pair.peer(other).output.len(), pair.peer(other).ending),
            (4, Some(Ending::Rst))
        );
        let reason = pair.relay.reason().unwrap().to_string();
        let expected =
            format!("{side} lost while receiving: connection reset by peer; unsent bytes: 2");
        assert_eq!(reason, expected);
    }
}

#[test]
fn bytes_keep_their_order_from_memory_to_a_pipe_and_back() {
    let mut pair = play(&[
        (Side::Client, Act::Pipe(5)),
        (Side::Client, Act::Receive(8)), // the buffer is full
        (Side::Client, Act::Receive(7)),
        (Side::Upstream, Act::Accept(7)),
    ]);
    let figures = |pair: &mut Pair| {
        let in_pipe = pair.relay.side(Side::Upstream).in_pipe();
        (in_pipe, pair.relay.status().queued, pair.relay.interest(Side::Client).read)
    };
    assert_eq!(figures(&mut pair), (0, 1, false));
    pair.play(Side::Upstream, Act::Accept(1));
    assert_eq!(figures(&mut pair), (5, 5, false));
    pair.play(Side::Upstream, Act::Accept(3));
    assert_eq!(figures(&mut pair), (2, 2, false));
    pair.play(Side::Upstream, Act::Accept(2));
    assert_eq!(figures(&mut pair), (2, 2, false));
    pair.play(Side::Client, Act::Pipe(0)); // all pipes are in use
    pair.play(Side::Client, Act::Receive(1));
    pair.play(Side::Upstream, Act::Accept(2));
    assert_eq!(figures(&mut pair), (0, 1, true), "a read of one byte ends the bulk");
    pair.play(Side::Client, Act::Fin);
    pair.play_out();
    assert_eq!(pair.relayed(Side::Upstream), (0..16).collect::<Vec<_>>());
    assert_eq!(
        (pair.peer(Side::Upstream).ending, pair.peer(Side::Client).piped),
        (Some(Ending::Fin), 7)
    );
}

/// A pair whose sides have each sent 14 bytes. 8 of them were forwarded, and 6 are in a pipe.
fn piped() -> Pair {
    let mut pair = Pair::new(8).piping(6);
    for side in Side::BOTH {
        pair.play(side, Act::Receive(14));
        pair.play(side.other(), Act::Accept(8));
    }
    assert_eq!(Side::BOTH.map(|side| pair.relay.side(side).in_pipe()), [6, 6]);
    pair
}

#[test]
fn a_fin_or_a_reset_follows_the_bytes_in_a_pipe() {
    for side in Side::BOTH {
        let other = side.other();
        for (event, ending) in
            [(Act::Fin, Ending::Fin), (Act::ReadError(ConnectionError::Reset), Ending::Rst)]
        {
            let mut pair = piped();
            pair.play(side, event);
            // The next read reports the end. The relay does not read while bytes are in the pipe.
            assert_eq!(pair.relay.interest(other).write, Outbound::Flush);
            pair.play_out();
            assert_eq!(
                (pair.peer(other).output.len(), pair.peer(other).ending),
                (14, Some(ending))
            );
        }
    }
}

#[test]
fn bytes_in_a_pipe_to_a_side_that_is_lost_are_discarded() {
    for side in Side::BOTH {
        let mut pair = piped();
        pair.play(side, Act::WriteError(ConnectionError::TimedOut));
        assert_eq!(pair.relay.side(side).in_pipe(), 0);
        pair.play_out();
        let other = pair.peer(side.other());
        assert_eq!((other.output.len(), other.ending), (14, Some(Ending::Rst)));
        let reason = pair.relay.reason().unwrap().to_string();
        assert!(reason.ends_with("unsent bytes: 6"), "{reason}");
    }
}

#[test]
fn a_drain_waits_for_bytes_in_a_pipe() {
    let mut pair = piped();
    pair.play(Side::Client, Act::ShutDown);
    pair.play(Side::Client, Act::Wait(5));
    assert_eq!((pair.relay.status().state, pair.relay.status().queued), ("draining", 12));
    for side in Side::BOTH {
        pair.play(side, Act::Accept(6));
    }
    pair.play(Side::Client, Act::Wait(2));
    pair.play_out();
    assert_eq!(pair.label(), Some("shut_down"));
    assert_eq!(Side::BOTH.map(|side| pair.peer(side).output.len()), [14, 14]);
}

/// The upstream has received the client's FIN. The RST reports that the client does not read the
/// reply.
#[test]
fn a_failed_write_to_the_client_resets_the_upstream_also_after_a_fin() {
    let mut pair = play(&[
        (Side::Client, Act::Fin),
        (Side::Upstream, Act::Accept(1)),
        (Side::Upstream, Act::Receive(6)),
        (Side::Client, Act::WriteError(ConnectionError::Reset)),
    ]);
    pair.play_out();
    let upstream = pair.peer(Side::Upstream);
    assert_eq!((upstream.ending, pair.label()), (Some(Ending::Rst), Some("client_lost")));
}

#[test]
fn bytes_that_had_arrived_before_a_failed_write_are_forwarded() {
    let mut pair = Pair::new(2);
    for (side, event) in [
        (Side::Upstream, Act::Receive(1)),
        (Side::Client, Act::Receive(5)),
        (Side::Client, Act::WriteError(ConnectionError::Reset)),
        (Side::Client, Act::Fin), // an end of stream in place of the reset
    ] {
        pair.play(side, event);
    }
    pair.play_out();
    let upstream = pair.peer(Side::Upstream);
    assert_eq!((upstream.output.len(), upstream.ending), (5, Some(Ending::Rst)));
}

/// The next upstream is sent the header, the client's bytes and its FIN, each once.
#[test]
fn an_upstream_that_is_lost_before_a_byte_passed_is_replaced() {
    let mut pair = Pair::with_header(8, &[Next::Accepts]);
    for (side, event) in [
        (Side::Upstream, Act::Accept(2)), // bytes of the header
        (Side::Client, Act::Receive(4)),
        (Side::Client, Act::Fin),
        (Side::Upstream, Act::ReadError(ConnectionError::TimedOut)),
    ] {
        pair.play(side, event);
    }
    assert_eq!((pair.replaced.len(), pair.replaced[0].output.len()), (1, 2));
    assert_eq!(pair.relay.status().state, "client_finished");
    pair.play_out();
    pair.play(Side::Upstream, Act::Fin);
    pair.play_out();
    assert_eq!(pair.relayed(Side::Upstream), [0, 1, 2, 3]);
    assert_eq!(
        (pair.peer(Side::Client).ending, pair.label()),
        (Some(Ending::Fin), Some("finished"))
    );
}

/// No other upstream is left, so the client is reset.
#[test]
fn the_last_upstream_is_not_replaced() {
    for others in [&[][..], &[Next::Accepts]] {
        let mut pair = Pair::with_header(8, others);
        pair.play(Side::Client, Act::Receive(4));
        for _ in 0..=others.len() {
            pair.play(Side::Upstream, Act::ReadError(ConnectionError::Reset));
        }
        pair.play_out();
        assert_eq!(pair.replaced.len(), others.len());
        assert_eq!(
            (pair.peer(Side::Client).ending, pair.label()),
            (Some(Ending::Rst), Some("upstream_lost"))
        );
    }
}

#[test]
fn an_upstream_is_not_replaced_after_a_byte_in_either_direction() {
    for (side, event) in [(Side::Upstream, Act::Accept(4)), (Side::Upstream, Act::Receive(1))] {
        let mut pair = Pair::with_header(8, &[Next::Accepts]);
        pair.play(Side::Client, Act::Receive(4));
        pair.play(side, event);
        pair.play(Side::Upstream, Act::ReadError(ConnectionError::Reset));
        pair.play_out();
        assert!(pair.replaced.is_empty());
        assert_eq!(
            (pair.peer(Side::Client).ending, pair.label()),
            (Some(Ending::Rst), Some("upstream_lost"))
        );
    }
}

/// A server that is full sends an error, then closes. The error can still be read after the write
/// has failed.
#[test]
fn bytes_that_the_upstream_sent_before_its_reset_reach_the_client() {
    let mut pair = Pair::with_header(8, &[Next::Accepts]);
    for (side, event) in [
        (Side::Client, Act::Receive(4)),
        (Side::Upstream, Act::WriteError(ConnectionError::Reset)),
        (Side::Upstream, Act::Receive(3)),
        (Side::Upstream, Act::Fin), // an end of stream in place of the reset
    ] {
        pair.play(side, event);
    }
    pair.play_out();
    let client = pair.peer(Side::Client);
    assert_eq!(
        (client.output.len(), client.ending, pair.replaced.len()),
        (3, Some(Ending::Rst), 0)
    );
}

/// Otherwise its bytes would be answered by a reset, which may overtake the FIN.
#[test]
fn the_input_of_a_refused_client_is_read_for_a_while() {
    let refused = |events: &[Act]| {
        let mut pair = Pair::with_header(8, &[Next::Refuses]);
        pair.play(Side::Upstream, Act::ReadError(ConnectionError::Reset));
        pair.play(Side::Client, Act::Receive(5));
        pair.play_out();
        assert_eq!(pair.peer(Side::Client).ending, Some(Ending::Fin));
        assert_eq!((pair.relay.status().state, pair.relay.status().queued), ("lingering", 0));
        for event in events {
            assert!(!pair.relay.is_done());
            pair.play(Side::Client, *event);
        }
        assert_eq!(pair.label(), Some("no_upstream"), "{events:?}");
        pair.peer(Side::Client).input.len()
    };
    assert_eq!(refused(&[Act::Receive(9), Act::Fin]), 14);
    assert_eq!(refused(&[Act::ReadError(ConnectionError::Reset)]), 5);
    assert_eq!(refused(&[Act::Receive(9), Act::Wait(1), Act::Wait(1)]), 14);
    let flood = [Act::Receive(255); 65_536 / 255];
    assert!(refused(&flood) < 65_536 + 255);
}

/// The side that has ended is not affected. The other one lacks bytes, so it must not get a FIN.
#[test]
fn an_injected_reset_is_no_fin_behind_a_side_that_has_ended() {
    for side in Side::BOTH {
        let other = side.other();
        let mut pair = play(&[
            (other, Act::Fin),
            (side, Act::Accept(1)),
            (side, Act::Receive(3)),
            (side, Act::Fin),
            (other, Act::Accept(2)),
            (other, Act::Reset(2)),
        ]);
        pair.play_out();
        assert_eq!(
            (pair.peer(side).ending, pair.peer(other).ending, pair.label()),
            (Some(Ending::Fin), Some(Ending::Rst), Some("injected_reset"))
        );
    }
}

#[test]
fn a_byte_on_either_side_restarts_the_idle_timeout() {
    let mut pair = Pair::new(8);
    for event in [Act::Receive(1), Act::Accept(1), Act::Receive(1), Act::Accept(1)] {
        pair.play(Side::Client, Act::Wait(400));
        let side = if event == Act::Accept(1) { Side::Upstream } else { Side::Client };
        pair.play(side, event);
    }
    assert_eq!(pair.relay.status().state, "open");
    pair.play(Side::Upstream, Act::Wait(600));
    pair.play_out();
    for side in Side::BOTH {
        assert_eq!(pair.peer(side).ending, Some(Ending::Rst), "a FIN would hide the timeout");
    }
    let reason = pair.relay.reason().unwrap().to_string();
    assert!(reason.starts_with("no byte moved for 10m; unsent bytes: 0 to the client"), "{reason}");
}

/// The upstream accepts not even the header.
#[test]
fn bytes_behind_a_pending_header_do_not_restart_the_idle_timeout() {
    for wait in [0, 75, 300] {
        let mut pair = Pair::with_header(8, &[]);
        pair.play(Side::Upstream, Act::Wait(wait));
        pair.play(Side::Client, Act::Receive(1));
        pair.play(Side::Upstream, Act::Wait(600 - wait));
        pair.play_out();
        assert_eq!(pair.label(), Some("idle_timeout"), "{wait}");
    }
}

#[test]
fn a_drain_ends_by_a_fin_on_each_side_when_no_byte_moves() {
    let mut pair = play(&[
        (Side::Client, Act::ShutDown),
        (Side::Client, Act::Wait(0)),
        (Side::Client, Act::Receive(3)),
        (Side::Upstream, Act::Wait(5)),
    ]);
    assert_eq!(pair.relay.status().state, "draining", "bytes are pending");
    pair.play(Side::Upstream, Act::Accept(3));
    pair.play(Side::Upstream, Act::Wait(2));
    pair.play_out();
    for side in Side::BOTH {
        assert_eq!(pair.peer(side).ending, Some(Ending::Fin));
    }
    assert_eq!(pair.label(), Some("shut_down"));
}
