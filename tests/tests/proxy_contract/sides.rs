//! Whatever happens to the two sides, drawn; and the cases that have a name.

use proptest::{prelude::*, test_runner::FileFailurePersistence};
use wirestate_core::{Lost, Outbound, proxy::Side};
use wirestate_testkit::script::Sent;

use crate::pair::{Event, Pair};

fn proptest_config() -> ProptestConfig {
    let file = FileFailurePersistence::Direct("proptest-regressions/proxy_contract.txt");
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

fn events() -> impl Strategy<Value = Vec<(Side, Event)>> {
    let lost = prop_oneof![
        3 => Just(Lost::Reset),
        1 => Just(Lost::TimedOut),
        1 => Just(Lost::WroteZero),
        1 => any::<i32>().prop_map(|errno| Lost::Other { errno }),
    ];
    // What ends a connection is rare, so that something happens before it.
    let event = prop_oneof![
        24 => (1..20_u8).prop_map(Event::Receive),
        24 => (1..20_u8).prop_map(Event::Take),
        8 => Just(Event::Release),
        4 => (0..400_u16).prop_map(Event::Wait),
        1 => Just(Event::Timeout),
        2 => Just(Event::Fin),
        1 => lost.clone().prop_map(Event::LostIn),
        1 => lost.prop_map(Event::LostOut),
        1 => Just(Event::ShutDown),
    ];
    let side = prop_oneof![Just(Side::Client), Just(Side::Upstream)];
    prop::collection::vec((side, event), 0..200)
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn both_sides_keep_the_contract(capacity in 1..40_usize, events in events()) {
        let mut pair = Pair::new(capacity);
        for (side, event) in events {
            pair.happen(side, event);
        }
        pair.play_out();
        let ended = Side::BOTH.map(|side| pair.peer(side).sent);
        if pair.label() == Some("finished") {
            prop_assert_eq!(ended, [Some(Sent::Fin), Some(Sent::Fin)]);
        }
    }
}

fn play(events: &[(Side, Event)]) -> Pair {
    let mut pair = Pair::new(8);
    for (side, event) in events {
        pair.happen(*side, *event);
    }
    pair
}

#[test]
fn a_late_answer_follows_the_clients_fin() {
    let mut pair = play(&[
        (Side::Client, Event::Receive(3)),
        (Side::Client, Event::Fin),
        (Side::Upstream, Event::Take(9)),
        (Side::Upstream, Event::Take(9)),
        (Side::Upstream, Event::Wait(500)),
        (Side::Upstream, Event::Receive(5)),
    ]);
    assert_eq!(pair.peer(Side::Upstream).sent, Some(Sent::Fin));
    assert_eq!(pair.relay.status().state, "client_finished");
    pair.happen(Side::Upstream, Event::Fin);
    pair.play_out();
    assert_eq!(pair.peer(Side::Client).output.len(), 5);
    assert_eq!((pair.peer(Side::Client).sent, pair.label()), (Some(Sent::Fin), Some("finished")));
}

/// What was received first is still flushed.
#[test]
fn a_reset_is_passed_on_as_one_in_each_direction() {
    for side in Side::BOTH {
        let other = side.other();
        let mut pair = play(&[
            (side, Event::Receive(4)),
            (other, Event::Receive(2)),
            (side, Event::LostIn(Lost::Reset)),
        ]);
        assert!(pair.relay.interest(side).is_done(), "nothing more can be done for it");
        assert_eq!(pair.relay.interest(other).write, Outbound::Flush);
        pair.play_out();
        assert_eq!((pair.peer(other).output.len(), pair.peer(other).sent), (4, Some(Sent::Rst)));
        let reason = pair.relay.reason().unwrap().to_string();
        let said = format!(
            "{side} lost while receiving: connection reset by peer; 2 bytes to it are owed"
        );
        assert_eq!(reason, said);
    }
}

/// Also when the other side's FIN was relayed before: it learns of the end of what it waits for.
#[test]
fn a_reset_that_a_write_meets_is_passed_on_behind_a_fin() {
    let mut pair = play(&[
        (Side::Client, Event::Fin),
        (Side::Upstream, Event::Take(1)),
        (Side::Upstream, Event::Receive(6)),
        (Side::Client, Event::LostOut(Lost::Reset)),
    ]);
    pair.play_out();
    let upstream = pair.peer(Side::Upstream);
    assert_eq!((upstream.sent, pair.label()), (Some(Sent::Rst), Some("client_lost")));
}

#[test]
fn what_had_arrived_before_a_failed_write_is_still_forwarded() {
    let mut pair = Pair::new(2);
    for (side, event) in [
        (Side::Upstream, Event::Receive(1)),
        (Side::Client, Event::Receive(5)),
        (Side::Client, Event::LostOut(Lost::Reset)),
        (Side::Client, Event::Fin), // as the kernel says it; it is no FIN
    ] {
        pair.happen(side, event);
    }
    pair.play_out();
    let upstream = pair.peer(Side::Upstream);
    assert_eq!((upstream.output.len(), upstream.sent), (5, Some(Sent::Rst)));
}

#[test]
fn a_byte_on_any_side_moves_the_one_deadline() {
    let mut pair = Pair::new(8);
    for event in [Event::Receive(1), Event::Take(1), Event::Receive(1), Event::Take(1)] {
        pair.happen(Side::Client, Event::Wait(400));
        let side = if event == Event::Take(1) { Side::Upstream } else { Side::Client };
        pair.happen(side, event);
    }
    assert_eq!(pair.relay.status().state, "open");
    pair.happen(Side::Upstream, Event::Wait(600));
    pair.play_out();
    for side in Side::BOTH {
        assert_eq!(pair.peer(side).sent, Some(Sent::Rst), "a FIN would say that all was said");
    }
    let reason = pair.relay.reason().unwrap().to_string();
    assert!(
        reason.starts_with("no byte moved for 600s; 0 bytes to the client are owed"),
        "{reason}"
    );
}

#[test]
fn a_drain_ends_with_two_fins_when_it_is_quiet() {
    let mut pair = play(&[
        (Side::Client, Event::ShutDown),
        (Side::Client, Event::Wait(0)),
        (Side::Client, Event::Receive(3)),
        (Side::Upstream, Event::Wait(5)),
    ]);
    assert_eq!(pair.relay.status().state, "draining", "bytes wait to be sent");
    pair.happen(Side::Upstream, Event::Take(3));
    pair.happen(Side::Upstream, Event::Wait(1));
    pair.play_out();
    for side in Side::BOTH {
        assert_eq!(pair.peer(side).sent, Some(Sent::Fin));
    }
    assert_eq!(pair.label(), Some("shut_down"));
}
