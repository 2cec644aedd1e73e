//! A relay: both sides are in one recording.

use std::time::Duration;

use proptest::prelude::*;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Machine, Outbound,
    faults::{Kind, Strike},
    proxy::{self, Config, DialError, ProxyReason, Relay, RelayCall, RelayFactory, Side},
    record::{DifferenceKind, Recording, ShrinkError, What, put_number, shrink, shrink_relay},
};
use wirestate_testkit::proptest_config;

use crate::{Blocks, printed};

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
    factory_with(16, 20)
}

fn factory_with(buffer: usize, idle_seconds: u64) -> RelayFactory {
    let config = Config::default()
        .with_buffer(buffer.try_into().unwrap())
        .with_idle_timeout(Duration::from_secs(idle_seconds));
    RelayFactory::new(config).unwrap()
}

/// Records what `acts` do to a relay that begins at `start`.
fn session(
    relays: &RelayFactory,
    start: Instant,
    header: &[u8],
    acts: &[(Side, Act)],
) -> (Vec<u8>, Option<String>) {
    let (blocks, mut now) = (Blocks::default(), start);
    let mut relay = relays.relay(now);
    relay.record(blocks.recorder(now));
    relay.send_proxy_header(header.to_vec());
    for (side, act) in acts {
        now = perform(&mut relay, *side, *act, now);
    }
    let reason = relay.reason().map(|reason| reason.to_string());
    drop(relay);
    (blocks.bytes(), reason)
}

fn acts() -> impl Strategy<Value = Vec<(Side, Act)>> {
    let side = prop_oneof![Just(Side::Client), Just(Side::Upstream)];
    prop::collection::vec((side, act()), 0..60).prop_map(|mut acts| {
        for side in Side::BOTH {
            let acts = acts.iter_mut().filter(|(of, _)| *of == side);
            let mut has_failed = false;
            for (_, act) in acts {
                has_failed |= matches!(act, Act::Fail(Direction::Write));
                // After a failed write, the end of the input is an error.
                if has_failed && matches!(act, Act::Eof) {
                    *act = Act::Fail(Direction::Read);
                }
            }
        }
        acts
    })
}

fn headers() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![Just(&b""[..]), Just(&b"PROXY"[..])]
}

/// What follows the code of a call, or any bytes.
fn notes() -> impl Strategy<Value = Vec<u8>> {
    let numbers = (any::<u64>(), any::<u64>()).prop_map(|(first, second)| {
        let mut bytes = Vec::new();
        put_number(&mut bytes, first);
        put_number(&mut bytes, second);
        bytes
    });
    let of_side = (0..3_u8, any::<u64>()).prop_map(|(side, number)| {
        let mut bytes = vec![side];
        put_number(&mut bytes, number);
        bytes
    });
    let text = "[ -~\n\x1b]{0,8}".prop_map(String::into_bytes);
    prop_oneof![
        Just(Vec::new()),
        (0..3_u8).prop_map(|byte| vec![byte]),
        numbers,
        of_side,
        text,
        prop::collection::vec(any::<u8>(), 0..8),
    ]
}

/// Performs what the contract allows of `act`. Returns the new time.
fn perform(relay: &mut Relay, side: Side, act: Act, mut now: Instant) -> Instant {
    match act {
        Act::Connect(has_another) if relay.is_dialling() => {
            relay.handle_connected(now, has_another);
        }
        Act::Refuse if relay.is_dialling() => {
            relay.refuse(ProxyReason::NoUpstream(DialError::new(None)), now);
        }
        Act::InjectReset(after) if relay.is_connected() => {
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
    let (kind, bytes, time) = (Kind::Stall, None, Some(Duration::from_millis(300)));
    let stall = Strike { kind, at: 5, bytes, time, is_first: true };
    relay.record_fault(Side::Upstream, &stall, Instant::EPOCH);
    drop(relay);
    let bytes = blocks.bytes();
    let recording = Recording::read(&bytes).unwrap();
    let result = proxy::replay(&mut relays.relay(Instant::EPOCH), &recording);
    assert_eq!(result.difference, None);
    let notes = recording.steps().filter_map(|step| {
        let What::Note(note) = step.what else { return None };
        Some(RelayCall::decode(note).unwrap().to_string())
    });
    notes.collect()
}

fn shrunk(acts: &[(Side, Act)], replaying: &RelayFactory) -> Result<String, ShrinkError> {
    let (bytes, _) = session(&factory(), Instant::EPOCH, b"", acts);
    let recording = Recording::read(&bytes).unwrap();
    let replay = proxy::replay(&mut replaying.relay(Instant::EPOCH), &recording);
    let test = shrink_relay(&recording, replay, || replaying.relay(Instant::EPOCH))?;
    Ok(test.source(&["proxy"], "proxy::RelayFactory::default().relay(Instant::EPOCH)"))
}

/// `shrunk_relay.rs` is one of the tests of this file's crate, so it compiles and passes.
#[test]
fn a_session_shrinks_to_a_test_as_by_hand() {
    let acts = [
        (Side::Client, Act::Connect(false)),
        (Side::Client, Act::Receive(b'a')),
        (Side::Upstream, Act::Accept(15)),
        (Side::Upstream, Act::Receive(b'b')),
        (Side::Client, Act::Accept(15)),
        (Side::Client, Act::Eof),
        (Side::Upstream, Act::Finish),
        (Side::Upstream, Act::Fail(Direction::Read)),
        (Side::Client, Act::Finish),
    ];
    assert_eq!(shrunk(&acts, &factory()).unwrap(), include_str!("shrunk_relay.rs"));
}

#[test]
fn a_difference_names_what_each_side_of_both_relays_does() {
    let acts = [
        (Side::Client, Act::Connect(false)),
        (Side::Client, Act::Receive(b'a')),
        (Side::Upstream, Act::Accept(15)),
        (Side::Client, Act::Wait(15)),
        (Side::Client, Act::Eof),
        (Side::Upstream, Act::Finish),
    ];
    let test = shrunk(&acts, &factory_with(16, 10)).unwrap();
    for line in [
        "    // Recorded, client: 2 bytes read, 0 bytes sent, no FIN or RST.\n",
        "    // Recorded, upstream: 0 bytes read, 2 bytes sent (0x",
        "    // This program, upstream: 0 bytes read, 2 bytes sent (0x",
        "    // It sends b\"aa\" to the upstream.\n",
        "    assert_eq!((client.input.len(), client.output.len()), (2, 0));\n",
    ] {
        assert!(test.contains(line), "{line}\n{test}");
    }
}

/// What the test of a session plays, if it is replayed by `replaying`.
fn ops_of_test(acts: &[(Side, Act)], replaying: &RelayFactory) -> String {
    let test = shrunk(acts, replaying).unwrap();
    let (_, ops) = test.split_once("    let ops = [").unwrap();
    let (ops, _) = ops.split_once("];\n").unwrap();
    let ops = ops.split_whitespace().collect::<Vec<_>>().join(" ");
    ops.trim_end_matches(',').to_owned()
}

#[test]
fn the_calls_of_a_relay_are_ops_of_the_test() {
    let (client, upstream) = (|act| (Side::Client, act), |act| (Side::Upstream, act));
    let refused =
        [Act::Receive(2), Act::Refuse, Act::Finish, Act::Receive(3), Act::Eof].map(client);
    assert_eq!(
        ops_of_test(&refused, &factory()),
        "Refused(proxy::ProxyReason::NoUpstream(proxy::DialError::new(None))), \
         Client(Op::Finished), Client(Op::Eof)"
    );
    let reset = [
        client(Act::Connect(true)),
        client(Act::Receive(2)),
        upstream(Act::InjectReset(3)),
        client(Act::Finish),
        upstream(Act::Finish),
    ];
    assert_eq!(
        ops_of_test(&reset, &factory()),
        "Connected { has_another: false }, InjectReset { to: proxy::Side::Upstream, after: 3 }, \
         Client(Op::Finished), Upstream(Op::Finished)"
    );
    let shut_down = [Act::Wait(3), Act::ShutDown, Act::Finish, Act::Eof].map(client);
    assert_eq!(
        ops_of_test(&shut_down, &factory()),
        "Client(Op::ShutDown), Client(Op::Finished), Client(Op::Eof)"
    );
    let replaced = [
        client(Act::Receive(0)),
        client(Act::Connect(true)),
        upstream(Act::Fail(Direction::Read)),
        client(Act::Connect(false)),
        upstream(Act::Accept(15)),
        client(Act::Wait(15)),
        client(Act::Eof),
        upstream(Act::Finish),
    ];
    assert_eq!(
        ops_of_test(&replaced, &factory_with(16, 10)),
        "Client(Op::Receive(b\"\\x00\".to_vec())), Connected { has_another: true }, \
         Upstream(Op::Error(Direction::Read, ConnectionError::Reset)), \
         Connected { has_another: false }, Upstream(Op::Accept(1)), \
         Client(Op::Advance(Duration::from_secs(15))), Client(Op::SpuriousTimeout), \
         Client(Op::Eof), Upstream(Op::Finished)"
    );
}

#[test]
fn a_call_of_a_relay_that_cannot_be_read_has_no_test() {
    let error = |notes: &[u8]| {
        let head = b"wirestate recording 1\nstarted 0\npayloads yes\n\n";
        let bytes = [&head[..], notes].concat();
        let (recording, _) = Recording::salvage(&bytes).unwrap();
        let replay = proxy::replay(&mut factory().relay(Instant::EPOCH), &recording);
        shrink_relay(&recording, replay, || factory().relay(Instant::EPOCH)).unwrap_err()
    };
    let unknown = ShrinkError::Relay("a record of a call has no call of a relay");
    // An unknown call, before and after an upstream was connected.
    assert_eq!(error(b"\x0a\x01\x09"), unknown);
    assert_eq!(error(b"\x0a\x02\x01\0\x0a\x01\x09"), unknown);
}

#[test]
fn only_a_step_that_sends_has_sent_bytes() {
    let acts = [
        (Side::Client, Act::Connect(false)),
        (Side::Client, Act::Receive(2)),
        (Side::Upstream, Act::Accept(15)),
        (Side::Client, Act::Wait(1)),
        (Side::Client, Act::Eof),
    ];
    let (bytes, _) = session(&factory(), Instant::EPOCH, b"", &acts);
    let recording = Recording::read(&bytes).unwrap();
    let (mut relay, mut sent) = (factory().relay(Instant::EPOCH), Vec::new());
    let result = proxy::replay_observed(&mut relay, &recording, |step, observed| {
        let is_sent = matches!(step.what, What::Sent { .. });
        sent.push((is_sent, observed.sent.to_vec()));
    });
    assert_eq!(result.difference, None);
    let (mut sent, other): (Vec<_>, Vec<_>) = sent.into_iter().partition(|(is_sent, _)| *is_sent);
    assert_eq!(sent.pop(), Some((true, vec![2; 3])));
    assert!(other.iter().all(|(_, bytes)| bytes.is_empty()), "{other:?}");
}

#[test]
fn a_session_of_a_relay_is_none_of_a_machine() {
    let acts = [(Side::Client, Act::Connect(false)), (Side::Upstream, Act::Eof)];
    let (bytes, _) = session(&factory(), Instant::EPOCH, b"", &acts);
    let recording = Recording::read(&bytes).unwrap();
    let replay = proxy::replay(&mut factory().relay(Instant::EPOCH), &recording);
    let echo = || wirestate_core::echo::Server::default().machine(Instant::EPOCH);
    assert_eq!(shrink(&recording, replay, echo).unwrap_err(), ShrinkError::OfRelay);
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
            "a deadline was handled; unacknowledged: 2 bytes by the client, 1 by the upstream",
            "reset by the plan of faults, after 40 bytes to the client",
            "fault to the upstream: stall after 5 bytes, 300ms",
        ]
    );
    let refused = [client(Act::Wait(0)), client(Act::Refuse), client(Act::ShutDown)];
    assert_eq!(
        calls(&refused),
        [
            "a deadline was handled",
            "the client is refused: no upstream reachable",
            "a shutdown was requested",
            "fault to the upstream: stall after 5 bytes, 300ms",
        ]
    );
}

#[test]
fn a_fault_after_one_byte_says_so() {
    let strike = |at, bytes| Strike { kind: Kind::Rate, at, bytes, time: None, is_first: true };
    assert_eq!(strike(1, Some(1)).to_string(), "rate after 1 byte, 1 byte a second");
    assert_eq!(strike(0, Some(2)).to_string(), "rate after 0 bytes, 2 bytes a second");
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn any_session_of_a_relay_replays(
        acts in acts(),
        header in headers(),
    ) {
        let relays = factory();
        let (bytes, reason) = session(&relays, Instant::EPOCH, header, &acts);
        let recording = Recording::read(&bytes).unwrap();
        let replay = proxy::replay(&mut relays.relay(Instant::EPOCH), &recording);
        prop_assert_eq!(replay.difference, None);
        prop_assert_eq!(replay.reason.map(|(_, text)| text), reason);
    }

    /// The test of an end passes with the relay. The test of a difference passes with the relay
    /// that was recorded, and fails with the one that replays the session.
    #[test]
    fn any_session_of_a_relay_shrinks_to_a_test(
        acts in acts(),
        header in headers(),
        (buffer, idle) in prop_oneof![Just((16, 20)), Just((16, 10)), Just((8, 20))],
    ) {
        let (recorded, replaying) = (factory(), factory_with(buffer, idle));
        let start = Instant::EPOCH + Duration::from_secs(1000);
        let (bytes, _) = session(&recorded, start, header, &acts);
        let recording = Recording::read(&bytes).unwrap();
        let replay = proxy::replay(&mut replaying.relay(start), &recording);
        let difference = replay.difference.clone();
        let has_end = replay.reason.is_some();
        match shrink_relay(&recording, replay, || replaying.relay(Instant::EPOCH)) {
            Ok(test) => {
                let source = test.source(&["proxy"], "relay()");
                let passes = |relays: &RelayFactory| {
                    printed::passes_with_relay(&source, relays.relay(Instant::EPOCH))
                };
                let expected = difference.is_none();
                prop_assert_eq!(passes(&replaying), expected, "{:?}\n{}", difference, source);
                prop_assert!(expected || passes(&recorded), "{difference:?}\n{source}");
            }
            Err(ShrinkError::NothingToShow) => {
                prop_assert!(difference.is_none() && !has_end);
            }
            // What differs is not part of a transcript, and nothing else follows from it.
            Err(ShrinkError::NotReproduced) if difference.is_some() => {
                let difference = difference.unwrap();
                let step = recording.steps().find(|step| step.offset == difference.offset);
                let is_unseen = matches!(step.unwrap().what, What::Event(_) | What::Note(_))
                    || matches!(difference.kind, DifferenceKind::Accepted { .. });
                prop_assert!(is_unseen, "{difference}");
            }
            Err(error) => prop_assert!(false, "{error}: {difference:?}"),
        }
    }

    #[test]
    fn any_note_is_decoded_or_refused(code in 0..9_u8, rest in notes()) {
        let note = [&[code], &rest[..]].concat();
        if let Some(call) = RelayCall::decode(&note) {
            let words = call.to_string();
            prop_assert!(!words.is_empty() && !words.contains(char::is_control), "{words:?}");
            let encoded = call.encode();
            prop_assert_eq!(RelayCall::decode(&encoded), Some(call));
            // A number may have more bytes than it needs.
            prop_assert!(encoded == note || [3, 5].contains(&code) && encoded.len() < note.len());
            // Other calls end in text.
            if [1, 3, 4, 5].contains(&code) {
                let longer = [&note[..], &[0]].concat();
                prop_assert_eq!(RelayCall::decode(&longer), None);
            }
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
