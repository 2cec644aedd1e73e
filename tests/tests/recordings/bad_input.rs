//! Recordings that are cut, changed, of another version, or hostile.

use proptest::prelude::*;
use wirestate_core::{
    Instant, echo,
    fanout::{Config, Feed, Framing, Publisher, Subscriber, Upstream},
    message::{self, service::RequestQueue},
    proxy::{self, RelayFactory},
    record::{DifferenceKind, ReadErrorKind, Recording, put_number, replay},
};
use wirestate_testkit::{
    message::{frames, messages},
    proptest_config,
    script::{self, Op},
};

use crate::recorded;

/// Some recording.
fn session() -> Vec<u8> {
    let server = message::Server::with_default_config(message::service::function(|request| {
        request.into_owned()
    }));
    let (mut machine, blocks) = recorded(server.machine(Instant::EPOCH));
    let mut frame = Vec::new();
    message::Message::json("{}").encode(&mut frame).unwrap();
    let ops = [
        Op::Receive(frame.clone()),
        Op::Accept(7),
        Op::Receive(frame),
        Op::ShutDown,
        Op::Timeout,
        Op::Accept(usize::MAX),
    ];
    script::play_out(&mut machine, &ops);
    drop(machine);
    blocks.bytes()
}

/// Reads and replays what may be anything.
fn try_replay(bytes: &[u8]) -> Option<ReadErrorKind> {
    let error = match Recording::salvage(bytes) {
        Err(error) => Some(error),
        Ok((recording, error)) => {
            let now = recording.header().started_at;
            let server = message::Server::with_default_config(RequestQueue::default());
            let framing = Framing::Delimited { delimiter: b'a', max: 10.try_into().unwrap() };
            let feed = Feed::for_replay(Config::default().with_framing(framing)).unwrap();
            for replay in [
                replay(&mut echo::Server::default().machine(now), &recording),
                replay(&mut server.machine(now), &recording),
                replay(&mut Upstream::new(&feed, now), &recording),
                replay(&mut Publisher::new(&feed, now), &recording),
                replay(&mut Subscriber::new(&feed, now), &recording),
                proxy::replay(&mut RelayFactory::default().relay(now), &recording),
            ] {
                let kind = replay.difference.map(|difference| difference.kind);
                assert!(!matches!(kind, Some(DifferenceKind::Panicked(_))), "{kind:?}");
            }
            error
        }
    };
    let error = error?;
    assert!(error.offset <= bytes.len(), "{error}");
    assert!(error.to_string().starts_with(&format!("at byte {}: ", error.offset)));
    Some(error.kind)
}

#[test]
fn a_recording_that_is_cut_is_an_error_with_the_offset() {
    let bytes = session();
    assert_eq!(try_replay(&bytes), None);
    let len = |number: usize| bytes.len() - number;
    // The last five bytes are a checksum, without which the recording is whole.
    for cut in (0..len(5)).chain(len(4)..bytes.len()) {
        assert_eq!(try_replay(&bytes[..cut]), Some(ReadErrorKind::Cut), "{cut}");
    }
}

#[test]
fn a_recording_of_another_version_is_an_error_that_names_it() {
    let other =
        String::from_utf8_lossy(&session()[..200]).replacen("recording 1", "recording 2", 1);
    let error = Recording::read(other.as_bytes()).unwrap_err().to_string();
    let expected = "at byte 20: the recording is of version `2`, but this program reads version 1";
    assert_eq!(error, expected);
    for other in [&b"\x7fELF"[..], b"wirestat", b"{\"a\": 1}\n", &[0; 10_000]] {
        let is_prefix = other == b"wirestat";
        let expected = if is_prefix { ReadErrorKind::Cut } else { ReadErrorKind::NoRecording };
        assert_eq!(Recording::read(other).unwrap_err().kind, expected);
    }
}

#[test]
fn a_recording_with_a_changed_bit_is_an_error() {
    let bytes = session();
    for bit in 0..8 * bytes.len() {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(try_replay(&changed), None, "bit {bit}");
    }
}

#[test]
fn nothing_before_a_wrong_checksum_counts() {
    let mut bytes = session();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    let (recording, error) = Recording::salvage(&bytes).unwrap();
    assert_eq!(error.unwrap().kind, ReadErrorKind::Checksum);
    assert_eq!((recording.steps().count(), recording.end()), (1, None));
}

#[test]
fn a_declared_length_allocates_nothing() {
    let head = b"wirestate recording 1\nstarted 0\npayloads yes\n\n";
    // Something is received, noted, or comes from outside: 2^40 bytes.
    for kind in [1, 10, 11] {
        let hostile = [&head[..], &[kind, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20]].concat();
        let (recording, error) = Recording::salvage(&hostile).unwrap();
        assert_eq!(error.unwrap().kind, ReadErrorKind::Cut);
        assert_eq!(recording.steps().count(), 1);
    }
    // A header without an end.
    let endless = [&head[..22], &vec![b'a'; 1 << 20]].concat();
    let error = Recording::salvage(&endless).unwrap_err();
    assert_eq!(error.kind, ReadErrorKind::WrongHeader);
}

/// What the machines of a fan-out use from outside, perhaps after the same event.
fn outside() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof![3 => 0..4_u64, 1 => any::<u64>()];
    let numbers = prop::collection::vec(number(), 0..6);
    (any::<bool>(), numbers).prop_map(|(is_after_event, numbers)| {
        let mut text = Vec::new();
        for number in numbers {
            put_number(&mut text, number);
        }
        let mut records = if is_after_event { vec![9, 11] } else { vec![11] };
        put_number(&mut records, text.len() as u64);
        [records, text].concat()
    })
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn any_records_are_read_and_replayed_or_are_an_error(
        records in prop::collection::vec(
            prop_oneof![
                2 => prop::collection::vec(any::<u8>(), 0..20),
                2 => (1..15_u8, prop_oneof![Just(0), Just(0x80), Just(0x40)], any::<[u8; 6]>())
                    .prop_map(|(kind, flags, rest)| [&[kind | flags], &rest[..]].concat()),
                2 => outside(),
                1 => messages(64).prop_map(|message| {
                    let frame = frames([&message]);
                    let mut record = vec![1];
                    put_number(&mut record, frame.len() as u64);
                    [record, frame].concat()
                }),
            ],
            0..20,
        ),
        payloads in any::<bool>(),
    ) {
        let payloads = if payloads { "yes" } else { "no" };
        let head = format!("wirestate recording 1\nstarted 7\npayloads {payloads}\n\n");
        try_replay(&[head.as_bytes(), &records.concat()].concat());
    }
}
