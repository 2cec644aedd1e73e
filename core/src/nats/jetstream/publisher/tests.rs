use alloc::{format, string::String, vec, vec::Vec};
use core::time::Duration;

use super::*;
use crate::nats::jetstream::{
    StreamError,
    wire::{Request, Wire, refusal, stored, stream_info},
};

/// A publisher on one connection. The test is the server.
struct Fixture {
    wire: Wire,
    publisher: Publisher,
    now: Instant,
}

impl Fixture {
    /// In epoch 3, from position 10.
    fn new() -> Self {
        let mut publisher = Publisher::new(StreamConfig::new("s", "a"), 7);
        publisher.begin_epoch(3, 10, Instant::EPOCH);
        let mut wire = Wire::connect(Instant::EPOCH);
        publisher.connected(&mut wire.client, Instant::EPOCH);
        Self { wire, publisher, now: Instant::EPOCH }
    }

    /// Behind sequence 7, with `count` messages in flight, which are returned.
    fn in_flight(count: u64) -> (Self, Vec<Request>) {
        let mut fixture = Self::new();
        fixture.resync(7, "");
        assert_eq!(fixture.events(), [PublisherEvent::Resumed { from: 10 }]);
        let requests = (10..10 + count).map(|position| fixture.publish(position)).collect();
        (fixture, requests)
    }

    fn publish(&mut self, position: u64) -> Request {
        let payload = format!("{position}").into();
        self.publisher.publish(&mut self.wire.client, position, payload, self.now).unwrap();
        self.request()
    }

    /// The only request that was sent.
    fn request(&mut self) -> Request {
        let mut requests = self.wire.requests(self.now);
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    fn handle(&mut self) -> Vec<PublisherEvent> {
        self.take();
        self.events()
    }

    fn events(&mut self) -> Vec<PublisherEvent> {
        core::iter::from_fn(|| self.publisher.take_event()).collect()
    }

    fn reply(&mut self, request: &Request, payload: &str) -> Vec<PublisherEvent> {
        self.wire.reply(request, payload);
        self.handle()
    }

    fn ack(&mut self, request: &Request, sequence: u64) -> Vec<PublisherEvent> {
        self.reply(request, &format!(r#"{{"stream":"s","seq":{sequence}}}"#))
    }

    /// Replies to the requests about the stream.
    fn resync(&mut self, last: u64, id: &str) {
        self.resync_with("A", last, &stored(last, &format!("NATS/1.0\r\n{id}\r\n\r\n"), b""));
    }

    fn resync_with(&mut self, created: &str, last: u64, message: &str) {
        let request = self.request();
        assert_eq!(request.subject, "$JS.API.STREAM.INFO.s");
        self.wire.reply(&request, &stream_info("s", "a", created, last));
        self.take();
        if last > 0 {
            let request = self.request();
            assert_eq!(request.subject, "$JS.API.STREAM.MSG.GET.s");
            assert_eq!(request.payload, format!(r#"{{"seq":{last}}}"#).as_bytes());
            self.wire.reply(&request, message);
            self.take();
        }
    }

    fn take(&mut self) {
        while let Some(incoming) = self.wire.take(self.now) {
            self.publisher.handle(&mut self.wire.client, incoming, self.now);
        }
    }

    /// Waits for the back-off to end.
    fn wait(&mut self) {
        self.now = self.publisher.poll_timeout().expect("it waits");
        self.publisher.handle_timeout(self.now);
        self.publisher.pump(&mut self.wire.client, self.now);
    }

    fn reconnect(&mut self) {
        self.publisher.disconnected();
        assert_eq!(self.publisher.next_position(), None);
        self.wire = Wire::connect(self.now);
        self.publisher.connected(&mut self.wire.client, self.now);
    }
}

/// Checks that publishing waits, and why.
#[track_caller]
fn assert_waits(events: &[PublisherEvent], text: &str) {
    let [PublisherEvent::Waiting(problem)] = events else { panic!("{events:?}") };
    let problem = format!("{problem}");
    assert!(problem.contains(text), "{problem}");
}

#[track_caller]
fn assert_ends(events: &[PublisherEvent], text: &str) {
    let [PublisherEvent::EpochEnded(end)] = events else { panic!("{events:?}") };
    assert_eq!(format!("{end}"), text);
}

const ID: &str = "Nats-Msg-Id";

#[test]
fn messages_are_sent_at_once_and_acknowledged_in_order() {
    let (mut fixture, requests) = Fixture::in_flight(3);
    let headers = requests.iter().map(|request| {
        let header = |name| request.header(name).map(String::from);
        let after = header("Nats-Expected-Last-Msg-Id");
        (header(ID).unwrap(), header("Nats-Expected-Last-Sequence").unwrap(), after)
    });
    let expected = [
        ("3-10".into(), "7".into(), None),
        ("3-11".into(), "8".into(), Some("3-10".into())),
        ("3-12".into(), "9".into(), Some("3-11".into())),
    ];
    assert_eq!(headers.collect::<Vec<_>>(), expected);
    assert_eq!(requests[2].payload, b"12");
    assert_eq!((fixture.publisher.in_flight(), fixture.publisher.next_position()), (3, Some(13)));

    // Two acknowledgements are one event.
    for (request, sequence) in requests.iter().zip(8..10) {
        let ack = format!(r#"{{"stream":"s","seq":{sequence},"domain":"d"}}"#);
        fixture.wire.reply(request, &ack);
    }
    assert_eq!(fixture.handle(), [PublisherEvent::Acknowledged { before: 12 }]);
    let state = (fixture.publisher.position(), fixture.publisher.sequence());
    assert_eq!(state, (12, Some(9)));
}

#[test]
fn only_the_next_message_can_be_published_and_no_more_than_the_limit() {
    let (mut fixture, requests) = Fixture::in_flight(2);
    fixture.publisher = fixture.publisher.with_max_in_flight(2.try_into().unwrap());
    let Fixture { wire, publisher, now } = &mut fixture;
    for position in [11, 12, 13] {
        let error = publisher.publish(&mut wire.client, position, "".into(), *now).unwrap_err();
        assert_eq!(error, PublishError::NotNext { position, next: None });
    }
    fixture.ack(&requests[0], 8);
    let Fixture { wire, publisher, now } = &mut fixture;
    let error = publisher.publish(&mut wire.client, 13, "".into(), *now).unwrap_err();
    assert_eq!(format!("{error}"), "message 13 is not the next one (Some(12))");
    fixture.publish(12);
}

#[test]
fn a_message_that_is_not_stored_is_offered_again() {
    type Fail = fn(&mut Fixture, &Request) -> Vec<PublisherEvent>;
    let failures: [(&str, Fail); 10] = [
        ("message 10: error 10071: text", |fixture, request| {
            fixture.reply(request, &refusal(10_071))
        }),
        ("message 10: error 10077: text", |fixture, request| {
            fixture.reply(request, &refusal(10_077))
        }),
        ("no responders", |fixture, request| {
            fixture.wire.no_responders(request);
            fixture.handle()
        }),
        ("no reply within 5s", |fixture, _| {
            fixture.now += Duration::from_secs(5);
            fixture.wire.time_out(fixture.now);
            fixture.handle()
        }),
        ("message 10 was acknowledged with sequence 9, expected 8", |fixture, request| {
            fixture.ack(request, 9)
        }),
        ("sequence 18446744073709551615, expected 8", |fixture, request| {
            fixture.ack(request, u64::MAX)
        }),
        ("message 10 was acknowledged with sequence 8, expected 8", |fixture, request| {
            fixture.reply(request, r#"{"stream":"other","seq":8}"#)
        }),
        ("message 10: malformed reply: ", |fixture, request| fixture.reply(request, "+OK")),
        ("message 10: malformed reply: ", |fixture, request| fixture.reply(request, "")),
        ("message 10: malformed reply: ", |fixture, request| {
            fixture.reply(request, &"[".repeat(1 << 20))
        }),
    ];
    for (text, fail) in failures {
        let (mut fixture, requests) = Fixture::in_flight(3);
        let events = fail(&mut fixture, &requests[0]);
        assert_waits(&events, text);
        assert_eq!((fixture.publisher.next_position(), fixture.publisher.in_flight()), (None, 0));
        // What comes late is ignored.
        for (request, sequence) in requests.iter().zip(8..) {
            let ack = format!(r#"{{"stream":"s","seq":{sequence}}}"#);
            fixture.wire.reply(request, &ack);
        }
        assert_eq!(fixture.handle(), [], "{text}");
        fixture.wait();
        fixture.resync(7, "");
        assert_eq!(fixture.events(), [PublisherEvent::Resumed { from: 10 }], "{text}");
        let request = fixture.publish(10);
        let after = request.header("Nats-Expected-Last-Msg-Id");
        assert_eq!((request.header(ID), after), (Some("3-10"), None));
    }
}

#[test]
fn a_message_that_is_stored_is_not_offered_again() {
    // A lost acknowledgement, in a new connection.
    let (mut fixture, _) = Fixture::in_flight(3);
    fixture.reconnect();
    fixture.resync(9, "Nats-Msg-Id: 3-11");
    let expected =
        [PublisherEvent::Acknowledged { before: 12 }, PublisherEvent::Resumed { from: 12 }];
    assert_eq!(fixture.events(), expected);
    let request = fixture.publish(12);
    assert_eq!(request.header("Nats-Expected-Last-Sequence"), Some("9"));

    // A duplicate, which the old connection has delivered late.
    let (mut fixture, requests) = Fixture::in_flight(1);
    let ack = r#"{"stream":"s","seq":8,"duplicate":true}"#;
    assert_eq!(fixture.reply(&requests[0], ack), [PublisherEvent::Acknowledged { before: 11 }]);
}

#[test]
fn acknowledgements_out_of_order_are_not_trusted() {
    let (mut fixture, requests) = Fixture::in_flight(3);
    let events = fixture.ack(&requests[1], 9);
    assert_waits(&events, "a later message was acknowledged or refused before message 10");
    fixture.wait();
    fixture.resync(9, "Nats-Msg-Id: 3-11");
    assert_eq!(fixture.events()[1], PublisherEvent::Resumed { from: 12 });
}

#[test]
fn the_stream_is_asked_again_until_it_answers_with_a_back_off() {
    let mut fixture = Fixture::new();
    let start = fixture.now;
    for _ in 0..20 {
        let request = fixture.request();
        fixture.wire.no_responders(&request);
        assert_waits(&fixture.handle(), "stream s: the API of JetStream: no responders");
        assert_eq!(fixture.wire.requests(fixture.now), []);
        fixture.wait();
    }
    let waited = fixture.now.since(start);
    assert!((20..100).contains(&waited.as_secs()), "{waited:?}");
    let request = fixture.request();
    let events = fixture.reply(&request, &stream_info("s", "b", "A", 0));
    let [PublisherEvent::Waiting(PublisherProblem::Stream(StreamError::Subjects { .. }))] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    fixture.wait();
    let request = fixture.request();
    assert_eq!(fixture.reply(&request, &stream_info("s", "a", "A", 1)), []);
    let request = fixture.request();
    assert_waits(&fixture.reply(&request, "{}"), "reading the last message: malformed reply");
}

#[test]
fn a_stream_that_was_deleted_is_created_and_begins_an_epoch() {
    let (mut fixture, requests) = Fixture::in_flight(2);
    fixture.wire.no_responders(&requests[0]);
    fixture.handle();
    fixture.wait();
    let request = fixture.request();
    assert_eq!(fixture.reply(&request, &refusal(10_059)), []);
    let request = fixture.request();
    assert_eq!(request.subject, "$JS.API.STREAM.CREATE.s");
    let events = fixture.reply(&request, &stream_info("s", "a", "B", 0));
    let [PublisherEvent::StreamCreated, end] = &events[..] else { panic!("{events:?}") };
    assert_ends(core::slice::from_ref(end), "the stream was created anew");

    // Nothing is sent until the next epoch, not even on a new connection.
    fixture.reconnect();
    assert_eq!(fixture.wire.requests(fixture.now), []);
    fixture.publisher.begin_epoch(4, fixture.publisher.position(), fixture.now);
    fixture.wait();
    fixture.resync_with("B", 0, "");
    assert_eq!(fixture.events(), [PublisherEvent::Resumed { from: 10 }]);
    let request = fixture.publish(10);
    assert_eq!(request.header(ID), Some("4-10"));
    assert_eq!(request.header("Nats-Expected-Last-Sequence"), Some("0"));
}

/// What the stream has, after messages 10 and 11 were acknowledged with the sequences 8 and 9, and
/// 12 was sent.
#[test]
fn an_epoch_ends_where_the_stream_may_not_have_each_message_once() {
    let id = |id: &str| stored(0, &format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\n\r\n"), b"");
    let removed = refusal(10_037);
    for (created, last, message, expected) in [
        ("A", 9, &id("3-11"), Ok(12)),
        ("A", 10, &id("3-12"), Ok(13)),
        ("A", 12, &id("3-12"), Ok(13)), // others were between
        ("A", 9, &removed, Ok(12)),
        ("B", 9, &id("3-11"), Err("the stream was created anew")),
        ("A", 8, &id("3-10"), Err("sequence 9 was acknowledged, but the stream ends with 8")),
        ("A", 0, &removed, Err("sequence 9 was acknowledged, but the stream ends with 0")),
        ("A", 9, &id("3-10"), Err(CHANGED)),
        ("A", 9, &id("3-12"), Err(CHANGED)),
        ("A", 10, &id("3-11"), Err(CHANGED)),
        ("A", 9, &id("2-99"), Err(CHANGED)),
        ("A", 9, &id("x"), Err(CHANGED)),
        ("A", 10, &removed, Err("sequence 10 is not of this publisher")),
        ("A", 10, &id("2-99"), Err("sequence 10 is not of this publisher")),
        ("A", 10, &id("x"), Err("sequence 10 is not of this publisher")),
        ("A", 10, &id("18446744073709551615-1"), Err("sequence 10 is not of this publisher")),
        ("A", 10, &id("3-13"), Err("sequence 10 has epoch 3")),
        ("A", 10, &id("4-0"), Err("sequence 10 has epoch 4")),
    ] {
        let (mut fixture, requests) = Fixture::in_flight(3);
        fixture.ack(&requests[0], 8);
        fixture.ack(&requests[1], 9);
        fixture.reconnect();
        fixture.resync_with(created, last, message);
        let events = fixture.events();
        match expected {
            Ok(from) => {
                assert_eq!(events.last(), Some(&PublisherEvent::Resumed { from }), "{events:?}");
                let request = fixture.publish(from);
                assert_eq!(
                    request.header("Nats-Expected-Last-Sequence"),
                    Some(&*format!("{last}"))
                );
            }
            Err(text) => {
                assert_ends(&events, text);
                assert_eq!(fixture.publisher.position(), 12);
                assert_eq!(fixture.publisher.next_position(), None);
            }
        }
    }
}

const CHANGED: &str = "sequence 9 was acknowledged, but the stream has other messages";

#[test]
fn somebody_elses_message_ends_the_epoch_even_if_none_is_in_flight() {
    let (mut fixture, requests) = Fixture::in_flight(1);
    fixture.ack(&requests[0], 8);
    fixture.reconnect();
    fixture.resync(20, "");
    let events = fixture.events();
    assert_ends(&events, "sequence 20 is not of this publisher");
    fixture.publisher.begin_epoch(4, 11, fixture.now);
    fixture.wait();
    fixture.resync(20, "");
    assert_eq!(fixture.events(), [PublisherEvent::Resumed { from: 11 }]);
    let request = fixture.publish(11);
    assert_eq!(request.header("Nats-Expected-Last-Sequence"), Some("20"));
}

#[test]
fn an_epoch_begins_above_all_in_the_stream() {
    for (id, expected) in [("2-10", None), ("3-9", Some(3)), ("3-10", Some(3)), ("9-0", Some(9))] {
        let mut fixture = Fixture::new();
        fixture.resync(7, &format!("Nats-Msg-Id: {id}"));
        let events = fixture.events();
        match expected {
            None => assert_eq!(events, [PublisherEvent::Resumed { from: 10 }]),
            Some(found) => {
                let [PublisherEvent::EpochEnded(end)] = &events[..] else { panic!("{events:?}") };
                assert_eq!(*end, EpochEnd::HigherEpoch { sequence: 7, found });
                assert_eq!(end.above(), found);
            }
        }
    }
    // The last message has no id, but the stream knows an earlier one.
    let (mut fixture, requests) = Fixture::in_flight(1);
    let events = fixture.reply(&requests[0], r#"{"stream":"s","seq":5,"duplicate":true}"#);
    assert_ends(&events, "sequence 5 has epoch 3");
}

#[test]
fn a_message_that_is_too_long_is_dropped_and_ends_the_epoch() {
    // For the server: the message is not sent, and those in flight are acknowledged first.
    let (mut fixture, requests) = Fixture::in_flight(1);
    let Fixture { wire, publisher, now } = &mut fixture;
    let error = publisher.publish(&mut wire.client, 11, vec![0; 5000].into(), *now).unwrap_err();
    assert!(matches!(error, PublishError::Send(SendError::TooLong { limit: 4096, .. })));
    assert_eq!((publisher.next_position(), publisher.take_event()), (None, None));
    let events = fixture.ack(&requests[0], 8);
    assert_eq!(events[0], PublisherEvent::Acknowledged { before: 11 });
    assert_ends(&events[1..], "message 11: a message of 4.98KiB, above the server's limit of 4KiB");
    assert_eq!(fixture.publisher.position(), 12);

    // For the stream.
    let (mut fixture, requests) = Fixture::in_flight(3);
    fixture.ack(&requests[0], 8);
    let events = fixture.reply(&requests[1], &refusal(10_054));
    assert_ends(&events, "message 11: error 10054: text");
    assert_eq!((fixture.publisher.position(), fixture.publisher.in_flight()), (12, 0));
    fixture.publisher.begin_epoch(4, 12, fixture.now);
    fixture.wait();
    fixture.resync(8, "Nats-Msg-Id: 3-10");
    assert_eq!(fixture.events(), [PublisherEvent::Resumed { from: 12 }]);

    // A failure before: the messages in flight are offered again, and then the long one.
    let (mut fixture, requests) = Fixture::in_flight(1);
    let Fixture { wire, publisher, now } = &mut fixture;
    publisher.publish(&mut wire.client, 11, vec![0; 5000].into(), *now).unwrap_err();
    fixture.wire.no_responders(&requests[0]);
    assert_waits(&fixture.handle(), "no responders");
    fixture.wait();
    fixture.resync(7, "");
    assert_eq!(fixture.publisher.next_position(), Some(10));
}

#[test]
fn a_suspended_epoch_goes_on_if_nobody_else_has_published() {
    for (last, id, expected) in [(8, "3-10", Ok(11)), (9, "3-11", Ok(12)), (9, "4-0", Err(()))] {
        let (mut fixture, requests) = Fixture::in_flight(3);
        fixture.ack(&requests[0], 8);
        fixture.publisher.suspend();
        // The acknowledgement is ignored: the stream will say it.
        assert_eq!(fixture.ack(&requests[1], 9), []);
        assert_eq!((fixture.publisher.next_position(), fixture.publisher.in_flight()), (None, 0));
        fixture.reconnect();
        assert_eq!(fixture.wire.requests(fixture.now), []);
        assert_eq!(fixture.publisher.epoch(), Some(3));
        fixture.publisher.resume();
        fixture.publisher.pump(&mut fixture.wire.client, fixture.now);
        fixture.resync(last, &format!("Nats-Msg-Id: {id}"));
        let events = fixture.events();
        match expected {
            Ok(from) => assert_eq!(events.last(), Some(&PublisherEvent::Resumed { from })),
            Err(()) => assert_ends(&events, "sequence 9 has epoch 4"),
        }
    }
}

#[test]
fn what_the_client_cannot_take_is_sent_later() {
    let mut wire = Wire::connect(Instant::EPOCH);
    let now = Instant::EPOCH;
    // No request can be sent.
    let requests = (0..1024)
        .map(|_| wire.client.request(&Publish::new("x", ""), now).unwrap())
        .collect::<Vec<_>>();
    wire.requests(now);
    let mut publisher = Publisher::new(StreamConfig::new("s", "a"), 7);
    publisher.begin_epoch(1, 0, now);
    publisher.connected(&mut wire.client, now);
    assert_eq!((wire.requests(now), publisher.take_event()), (vec![], None));
    wire.client.cancel(requests[0]);
    publisher.pump(&mut wire.client, now);
    assert_eq!(wire.requests(now)[0].subject, "$JS.API.STREAM.INFO.s");
}
