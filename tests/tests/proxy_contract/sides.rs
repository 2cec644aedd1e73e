//! Random events at the two sides, and single cases.

use proptest::{prelude::*, sample::select, test_runner::FileFailurePersistence};
use wirestate_core::{ConnectionError, Outbound, proxy::Side};
use wirestate_testkit::script::Ending;

use crate::pair::{Act, Other, Pair};

fn proptest_config() -> ProptestConfig {
    let file = FileFailurePersistence::Direct("proptest-regressions/proxy_contract.txt");
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

const OTHERS: [&[Other]; 3] = [&[], &[Other::Refuses], &[Other::Accepts, Other::Refuses]];

fn events() -> impl Strategy<Value = Vec<(Side, Act)>> {
    let lost = prop_oneof![
        3 => Just(ConnectionError::Reset),
        1 => Just(ConnectionError::TimedOut),
        1 => Just(ConnectionError::WriteZero),
        1 => any::<i32>().prop_map(|errno| ConnectionError::Other { errno }),
    ];
    // Events that end a connection are rare, so that others come before them.
    let event = prop_oneof![
        24 => (1..20_u8).prop_map(Act::Receive),
        24 => (1..20_u8).prop_map(Act::Take),
        8 => Just(Act::Release),
        4 => (0..400_u16).prop_map(Act::Wait),
        1 => Just(Act::Timeout),
        2 => Just(Act::Fin),
        1 => lost.clone().prop_map(Act::LostIn),
        1 => lost.prop_map(Act::LostOut),
        1 => Just(Act::ShutDown),
        4 => (0..20_u8).prop_map(Act::Pipe),
    ];
    let side = prop_oneof![Just(Side::Client), Just(Side::Upstream)];
    prop::collection::vec((side, event), 0..200)
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn both_sides_keep_the_contract(
        capacity in 1..40_usize,
        others in select(&OTHERS),
        events in events(),
    ) {
        let mut pair = Pair::announced(capacity, others);
        for (side, event) in events {
            pair.happen(side, event);
        }
        pair.play_out();
        let ended = Side::BOTH.map(|side| pair.peer(side).ending);
        if pair.label() == Some("finished") {
            prop_assert_eq!(ended, [Some(Ending::Fin), Some(Ending::Fin)]);
        }
    }
}

fn play(events: &[(Side, Act)]) -> Pair {
    let mut pair = Pair::new(8);
    for (side, event) in events {
        pair.happen(*side, *event);
    }
    pair
}

#[test]
fn a_late_answer_follows_the_clients_fin() {
    let mut pair = play(&[
        (Side::Client, Act::Receive(3)),
        (Side::Client, Act::Fin),
        (Side::Upstream, Act::Take(9)),
        (Side::Upstream, Act::Take(9)),
        (Side::Upstream, Act::Wait(500)),
        (Side::Upstream, Act::Receive(5)),
    ]);
    assert_eq!(pair.peer(Side::Upstream).ending, Some(Ending::Fin));
    assert_eq!(pair.relay.status().state, "client_finished");
    pair.happen(Side::Upstream, Act::Fin);
    pair.play_out();
    assert_eq!(pair.peer(Side::Client).output.len(), 5);
    assert_eq!(
        (pair.peer(Side::Client).ending, pair.label()),
        (Some(Ending::Fin), Some("finished"))
    );
}

/// Bytes that were received before it are still flushed.
#[test]
fn a_reset_is_passed_on_as_one_in_each_direction() {
    for side in Side::BOTH {
        let other = side.other();
        let mut pair = play(&[
            (side, Act::Receive(4)),
            (other, Act::Receive(2)),
            (side, Act::LostIn(ConnectionError::Reset)),
        ]);
        assert!(pair.relay.interest(side).is_done(), "nothing more can be done for it");
        assert_eq!(pair.relay.interest(other).write, Outbound::Flush);
        pair.play_out();
        assert_eq!(
            (pair.peer(other).output.len(), pair.peer(other).ending),
            (4, Some(Ending::Rst))
        );
        let reason = pair.relay.reason().unwrap().to_string();
        let said =
            format!("{side} lost while receiving: connection reset by peer; bytes owed to it: 2");
        assert_eq!(reason, said);
    }
}

#[test]
fn bytes_keep_their_order_from_memory_to_a_pipe_and_back() {
    let mut pair = play(&[
        (Side::Client, Act::Pipe(5)),
        (Side::Client, Act::Receive(8)), // the buffer is full
        (Side::Client, Act::Receive(7)),
        (Side::Upstream, Act::Take(7)),
    ]);
    let seen = |pair: &mut Pair| {
        let in_pipe = pair.relay.side(Side::Upstream).in_pipe();
        (in_pipe, pair.relay.status().queued, pair.relay.interest(Side::Client).read)
    };
    assert_eq!(seen(&mut pair), (0, 1, false));
    pair.happen(Side::Upstream, Act::Take(1));
    assert_eq!(seen(&mut pair), (5, 5, false));
    pair.happen(Side::Upstream, Act::Take(3));
    assert_eq!(seen(&mut pair), (2, 2, false));
    pair.happen(Side::Upstream, Act::Take(2));
    assert_eq!(seen(&mut pair), (2, 2, false));
    pair.happen(Side::Client, Act::Pipe(0)); // all pipes are in use
    pair.happen(Side::Client, Act::Receive(1));
    pair.happen(Side::Upstream, Act::Take(2));
    assert_eq!(seen(&mut pair), (0, 1, true), "one byte is no bulk");
    pair.happen(Side::Client, Act::Fin);
    pair.play_out();
    assert_eq!(pair.relayed(Side::Upstream), (0..16).collect::<Vec<_>>());
    assert_eq!(
        (pair.peer(Side::Upstream).ending, pair.peer(Side::Client).piped),
        (Some(Ending::Fin), 7)
    );
}

/// A pair with 8 relayed bytes and 6 bytes in a pipe in each direction.
fn piped() -> Pair {
    let mut pair = Pair::new(8).piping(6);
    for side in Side::BOTH {
        pair.happen(side, Act::Receive(14));
        pair.happen(side.other(), Act::Take(8));
    }
    assert_eq!(Side::BOTH.map(|side| pair.relay.side(side).in_pipe()), [6, 6]);
    pair
}

#[test]
fn a_fin_or_a_reset_follows_the_bytes_in_a_pipe() {
    for side in Side::BOTH {
        let other = side.other();
        for (event, sent) in
            [(Act::Fin, Ending::Fin), (Act::LostIn(ConnectionError::Reset), Ending::Rst)]
        {
            let mut pair = piped();
            pair.happen(side, event);
            // The next read returns it, and there is no read while bytes are in the pipe.
            assert_eq!(pair.relay.interest(other).write, Outbound::Flush);
            pair.play_out();
            assert_eq!((pair.peer(other).output.len(), pair.peer(other).ending), (14, Some(sent)));
        }
    }
}

#[test]
fn bytes_in_a_pipe_to_a_side_that_is_lost_are_discarded() {
    for side in Side::BOTH {
        let mut pair = piped();
        pair.happen(side, Act::LostOut(ConnectionError::TimedOut));
        assert_eq!(pair.relay.side(side).in_pipe(), 0);
        pair.play_out();
        let other = pair.peer(side.other());
        assert_eq!((other.output.len(), other.ending), (14, Some(Ending::Rst)));
        let reason = pair.relay.reason().unwrap().to_string();
        assert!(reason.ends_with("bytes owed to it: 6"), "{reason}");
    }
}

#[test]
fn a_drain_waits_for_bytes_in_a_pipe() {
    let mut pair = piped();
    pair.happen(Side::Client, Act::ShutDown);
    pair.happen(Side::Client, Act::Wait(5));
    assert_eq!((pair.relay.status().state, pair.relay.status().queued), ("draining", 12));
    for side in Side::BOTH {
        pair.happen(side, Act::Take(6));
    }
    pair.happen(Side::Client, Act::Wait(1));
    pair.play_out();
    assert_eq!(pair.label(), Some("shut_down"));
    assert_eq!(Side::BOTH.map(|side| pair.peer(side).output.len()), [14, 14]);
}

/// This holds even if the other side's FIN was relayed before, since that side waits for replies.
#[test]
fn a_reset_that_a_write_meets_is_passed_on_behind_a_fin() {
    let mut pair = play(&[
        (Side::Client, Act::Fin),
        (Side::Upstream, Act::Take(1)),
        (Side::Upstream, Act::Receive(6)),
        (Side::Client, Act::LostOut(ConnectionError::Reset)),
    ]);
    pair.play_out();
    let upstream = pair.peer(Side::Upstream);
    assert_eq!((upstream.ending, pair.label()), (Some(Ending::Rst), Some("client_lost")));
}

#[test]
fn what_had_arrived_before_a_failed_write_is_still_forwarded() {
    let mut pair = Pair::new(2);
    for (side, event) in [
        (Side::Upstream, Act::Receive(1)),
        (Side::Client, Act::Receive(5)),
        (Side::Client, Act::LostOut(ConnectionError::Reset)),
        (Side::Client, Act::Fin), // the kernel reports a lost connection as 0 bytes
    ] {
        pair.happen(side, event);
    }
    pair.play_out();
    let upstream = pair.peer(Side::Upstream);
    assert_eq!((upstream.output.len(), upstream.ending), (5, Some(Ending::Rst)));
}

/// The next upstream gets the header, the client's bytes and its FIN, once.
#[test]
fn an_upstream_that_is_lost_untouched_is_replaced() {
    let mut pair = Pair::announced(8, &[Other::Accepts]);
    for (side, event) in [
        (Side::Upstream, Act::Take(2)), // bytes of the header
        (Side::Client, Act::Receive(4)),
        (Side::Client, Act::Fin),
        (Side::Upstream, Act::LostIn(ConnectionError::TimedOut)),
    ] {
        pair.happen(side, event);
    }
    assert_eq!((pair.deserters.len(), pair.deserters[0].output.len()), (1, 2));
    assert_eq!(pair.relay.status().state, "client_finished");
    pair.play_out();
    pair.happen(Side::Upstream, Act::Fin);
    pair.play_out();
    assert_eq!(pair.relayed(Side::Upstream), [0, 1, 2, 3]);
    assert_eq!(
        (pair.peer(Side::Client).ending, pair.label()),
        (Some(Ending::Fin), Some("finished"))
    );
}

/// The client gets its reset, since no other upstream is left.
#[test]
fn the_last_upstream_is_not_replaced() {
    for others in [&[][..], &[Other::Accepts]] {
        let mut pair = Pair::announced(8, others);
        pair.happen(Side::Client, Act::Receive(4));
        for _ in 0..=others.len() {
            pair.happen(Side::Upstream, Act::LostIn(ConnectionError::Reset));
        }
        pair.play_out();
        assert_eq!(pair.deserters.len(), others.len());
        assert_eq!(
            (pair.peer(Side::Client).ending, pair.label()),
            (Some(Ending::Rst), Some("upstream_lost"))
        );
    }
}

#[test]
fn no_byte_of_the_clients_is_sent_to_a_second_upstream() {
    for (side, event) in [(Side::Upstream, Act::Take(4)), (Side::Upstream, Act::Receive(1))] {
        let mut pair = Pair::announced(8, &[Other::Accepts]);
        pair.happen(Side::Client, Act::Receive(4));
        pair.happen(side, event);
        pair.happen(Side::Upstream, Act::LostIn(ConnectionError::Reset));
        pair.play_out();
        assert!(pair.deserters.is_empty());
        assert_eq!(
            (pair.peer(Side::Client).ending, pair.label()),
            (Some(Ending::Rst), Some("upstream_lost"))
        );
    }
}

/// A full server sends an error and closes. The error can still be read after the failed write.
#[test]
fn what_an_upstream_had_said_before_it_broke_is_its_answer() {
    let mut pair = Pair::announced(8, &[Other::Accepts]);
    for (side, event) in [
        (Side::Client, Act::Receive(4)),
        (Side::Upstream, Act::LostOut(ConnectionError::Reset)),
        (Side::Upstream, Act::Receive(3)),
        (Side::Upstream, Act::Fin), // the kernel reports a lost connection as 0 bytes
    ] {
        pair.happen(side, event);
    }
    pair.play_out();
    let client = pair.peer(Side::Client);
    assert_eq!(
        (client.output.len(), client.ending, pair.deserters.len()),
        (3, Some(Ending::Rst), 0)
    );
}

/// Otherwise an RST would answer what it still sends, and might overtake the FIN.
#[test]
fn a_client_for_which_there_is_no_upstream_is_listened_to_for_a_while() {
    let refused = |events: &[Act]| {
        let mut pair = Pair::announced(8, &[Other::Refuses]);
        pair.happen(Side::Upstream, Act::LostIn(ConnectionError::Reset));
        pair.happen(Side::Client, Act::Receive(5));
        pair.play_out();
        assert_eq!(pair.peer(Side::Client).ending, Some(Ending::Fin));
        assert_eq!((pair.relay.status().state, pair.relay.status().queued), ("lingering", 0));
        for event in events {
            assert!(!pair.relay.is_done());
            pair.happen(Side::Client, *event);
        }
        assert_eq!(pair.label(), Some("no_upstream"), "{events:?}");
        pair.peer(Side::Client).input.len()
    };
    assert_eq!(refused(&[Act::Receive(9), Act::Fin]), 14);
    assert_eq!(refused(&[Act::LostIn(ConnectionError::Reset)]), 5);
    assert_eq!(refused(&[Act::Receive(9), Act::Wait(1), Act::Wait(1)]), 14);
    let flood = [Act::Receive(255); 65_536 / 255];
    assert!(refused(&flood) < 65_536 + 255);
}

#[test]
fn a_byte_on_any_side_moves_the_one_deadline() {
    let mut pair = Pair::new(8);
    for event in [Act::Receive(1), Act::Take(1), Act::Receive(1), Act::Take(1)] {
        pair.happen(Side::Client, Act::Wait(400));
        let side = if event == Act::Take(1) { Side::Upstream } else { Side::Client };
        pair.happen(side, event);
    }
    assert_eq!(pair.relay.status().state, "open");
    pair.happen(Side::Upstream, Act::Wait(600));
    pair.play_out();
    for side in Side::BOTH {
        assert_eq!(pair.peer(side).ending, Some(Ending::Rst), "a FIN would say that all was said");
    }
    let reason = pair.relay.reason().unwrap().to_string();
    assert!(reason.starts_with("no byte moved for 600s; bytes owed to the client: 0"), "{reason}");
}

#[test]
fn a_drain_ends_with_two_fins_when_it_is_quiet() {
    let mut pair = play(&[
        (Side::Client, Act::ShutDown),
        (Side::Client, Act::Wait(0)),
        (Side::Client, Act::Receive(3)),
        (Side::Upstream, Act::Wait(5)),
    ]);
    assert_eq!(pair.relay.status().state, "draining", "bytes wait to be sent");
    pair.happen(Side::Upstream, Act::Take(3));
    pair.happen(Side::Upstream, Act::Wait(1));
    pair.play_out();
    for side in Side::BOTH {
        assert_eq!(pair.peer(side).ending, Some(Ending::Fin));
    }
    assert_eq!(pair.label(), Some("shut_down"));
}
