//! A relay: both sides are in one recording.

use std::time::Duration;

use proptest::prelude::*;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Machine, Outbound,
    proxy::{self, Config, ProxyReason, Relay, RelayCall, RelayFactory, Side},
    record::{Recording, What},
};
use wirestate_testkit::proptest_config;

use crate::Blocks;

/// Something that happens to a side, or to the relay.
#[derive(Clone, Copy, Debug)]
enum Act {
    Receive(u8),
    Eof,
    Fail(Direction),
    Accept(u8),
    Finish,
    Wait(u8),
    ShutDown,
    Connect(bool),
    Refuse,
    InjectReset(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => any::<u8>().prop_map(Act::Receive),
        2 => Just(Act::Eof),
        1 => Just(Act::Fail(Direction::Read)),
        1 => Just(Act::Fail(Direction::Write)),
        6 => any::<u8>().prop_map(Act::Accept),
        3 => Just(Act::Finish),
        4 => any::<u8>().prop_map(Act::Wait),
        1 => Just(Act::ShutDown),
        3 => any::<bool>().prop_map(Act::Connect),
        1 => Just(Act::Refuse),
        1 => any::<u8>().prop_map(Act::InjectReset),
    ]
}

fn factory() -> RelayFactory {
    let config = Config::default()
        .with_buffer(16.try_into().unwrap())
        .with_idle_timeout(Duration::from_secs(20));
    RelayFactory::new(config).unwrap()
}

/// Performs what the contract allows of `act`. Returns the new time.
fn perform(relay: &mut Relay, side: Side, act: Act, mut now: Instant) -> Instant {
    let is_dialling = relay.status().state == "dialling";
    match act {
        Act::Connect(has_another) if is_dialling => relay.handle_connected(now, has_another),
        Act::Refuse if is_dialling => relay.refuse(ProxyReason::ShutDown, now),
        Act::InjectReset(after) if !is_dialling && relay.is_open(Side::Upstream) => {
            relay.inject_reset(side, after.into(), now);
        }
        Act::ShutDown => relay.shut_down(now),
        Act::Wait(seconds) => {
            now += Duration::from_secs(u64::from(seconds % 16));
            relay.handle_timeout(now, usize::from(seconds / 32), usize::from(seconds % 3));
        }
        Act::Connect(_) | Act::Refuse | Act::InjectReset(_) => {}
        Act::Receive(_) | Act::Eof | Act::Fail(_) | Act::Accept(_) | Act::Finish => {
            let mut side = relay.side(side);
            let interest = side.interest();
            let event = match act {
                Act::Receive(byte) if interest.read => {
                    let buf = side.read_buf();
                    let n = buf.len().min(usize::from(byte % 8) + 1);
                    buf[..n].fill(byte);
                    Event::Read(n)
                }
                Act::Eof if interest.read => Event::Eof,
                Act::Fail(Direction::Read) if interest.read => {
                    Event::Error(Direction::Read, ConnectionError::Reset)
                }
                Act::Fail(Direction::Write) if interest.write == Outbound::Flush => {
                    Event::Error(Direction::Write, ConnectionError::Reset)
                }
                Act::Accept(max) if interest.write == Outbound::Flush => {
                    let mut bufs = [&[][..]; 4];
                    let count = side.write_bufs(&mut bufs);
                    let offered: usize = bufs[..count].iter().map(|buf| buf.len()).sum();
                    Event::Written(offered.min(usize::from(max % 16) + 1))
                }
                Act::Finish if matches!(interest.write, Outbound::Finish | Outbound::Reset) => {
                    Event::Finished
                }
                Act::Receive(_)
                | Act::Eof
                | Act::Fail(_)
                | Act::Accept(_)
                | Act::Finish
                | Act::Wait(_)
                | Act::ShutDown
                | Act::Connect(_)
                | Act::Refuse
                | Act::InjectReset(_) => return now,
            };
            side.handle(now, event);
        }
    }
    now
}

/// The calls of a recorded relay in words.
fn calls(acts: &[(Side, Act)]) -> Vec<String> {
    let (relays, blocks) = (factory(), Blocks::default());
    let mut relay = relays.relay(Instant::EPOCH);
    relay.record(blocks.recorder(Instant::EPOCH));
    for (side, act) in acts {
        perform(&mut relay, *side, *act, Instant::EPOCH);
    }
    drop(relay);
    let bytes = blocks.bytes();
    let steps = Recording::read(&bytes).unwrap().steps().filter_map(|step| match step.what {
        What::Note(note) => Some(RelayCall::decode(note).unwrap().to_string()),
        _ => None,
    });
    steps.collect()
}

#[test]
fn a_note_says_in_words_what_has_happened() {
    let client = |act| (Side::Client, act);
    let relayed =
        [client(Act::Connect(false)), client(Act::Wait(67)), client(Act::InjectReset(40))];
    assert_eq!(
        calls(&relayed),
        [
            "an upstream was connected",
            "a deadline was handled; not acknowledged are 2 bytes by the client and 1 by the upstream",
            "reset by the plan of faults, after 40 bytes to the client",
        ]
    );
    let refused = [client(Act::Wait(0)), client(Act::Refuse), client(Act::ShutDown)];
    assert_eq!(
        calls(&refused),
        [
            "a deadline was handled",
            "the client is refused: shutdown requested",
            "a shutdown was requested",
        ]
    );
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn any_session_of_a_relay_replays(
        acts in prop::collection::vec((any::<bool>(), act()), 0..60),
        header in prop_oneof![Just(&b""[..]), Just(&b"PROXY"[..])],
    ) {
        let (relays, blocks) = (factory(), Blocks::default());
        let mut now = Instant::EPOCH;
        let mut relay = relays.relay(now);
        relay.record(blocks.recorder(now));
        relay.send_proxy_header(header.to_vec());
        for (is_client, act) in acts {
            let side = if is_client { Side::Client } else { Side::Upstream };
            now = perform(&mut relay, side, act, now);
        }
        let reason = relay.reason().map(|reason| reason.to_string());
        drop(relay);
        let bytes = blocks.bytes();
        let recording = Recording::read(&bytes).unwrap();
        let replay = proxy::replay(&mut relays.relay(Instant::EPOCH), &recording);
        prop_assert_eq!(replay.difference, None);
        prop_assert_eq!(replay.reason.map(|(_, text)| text), reason);
    }

    #[test]
    fn any_note_is_decoded_or_refused(note in prop::collection::vec(any::<u8>(), 0..8)) {
        if let Some(call) = RelayCall::decode(&note) {
            prop_assert!(!call.to_string().is_empty());
        }
    }

    #[test]
    fn any_records_are_replayed_or_are_an_error(
        records in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let head = b"wirestate recording 1\nstarted 7\npayloads yes\n\n";
        let bytes = [&head[..], &records].concat();
        let (recording, _) = Recording::salvage(&bytes).unwrap();
        proxy::replay(&mut factory().relay(Instant::EPOCH), &recording);
    }
}
