//! Each way in which a server's consumer, its stream or a reply can fail, as bytes.

use super::*;
use crate::nats::{
    RequestError,
    jetstream::{ApiError, StreamError},
};

/// The number of the last request, and the inbox of the last subscription.
struct Server {
    bench: Bench,
    request: u64,
    inbox: String,
    subscription: u64,
}

const ALL: u64 = 4 * 1024 * 1024;

impl Server {
    /// A consumer that has asked for the stream.
    fn asked(start: Start) -> Self {
        let bench = Bench::new(ConsumerConfig::new("orders", "new").with_start(start));
        Self { bench, request: 0, inbox: String::new(), subscription: 0 }
    }

    /// A consumer that has asked for messages behind the last of 10.
    fn reading() -> Self {
        let mut server = Self::asked(Start::Last(0));
        server.reply(&stream_json(1, 1, 10));
        server.open(11, &stream_json(1, 1, 10));
        assert!(matches!(server.take(), Some(ConsumerEvent::Reading { next: 11, .. })));
        server
    }

    fn take(&mut self) -> Option<ConsumerEvent> {
        self.bench.take()
    }

    /// Answers the last request.
    fn reply(&mut self, json: &str) {
        let request = self.request;
        self.request += 1;
        let length = json.len();
        self.bench.receive(&format!("MSG _INBOX.S.0.{request} 1 {length}\r\n{json}\r\n"));
    }

    /// Makes a consumer as it was asked for, and answers the look at the stream that follows.
    fn open(&mut self, next: u64, stream: &str) {
        let sent = self.bench.take_sent();
        let create = format!("\"opt_start_seq\":{next},\"ack_policy\":\"none\"");
        assert!(sent.contains("PUB $JS.API.CONSUMER.CREATE.orders "), "{sent}");
        assert!(sent.contains(&create), "{sent}");
        self.reply("{\"name\":\"c1\",\"config\":{\"max_batch\":-1}}");
        let sent = self.bench.take_sent();
        let subscribe = sent.split("\r\n").find(|line| line.starts_with("SUB ")).unwrap();
        let (inbox, id) = subscribe["SUB ".len()..].split_once(' ').unwrap();
        (self.inbox, self.subscription) = (inbox.into(), id.parse().unwrap());
        assert!(sent.contains("PUB $JS.API.STREAM.INFO.orders "), "{sent}");
        self.reply(stream);
    }

    fn deliver(&mut self, sequence: u64, delivery: u64) {
        let (id, ack) = (self.subscription, ack(sequence, delivery));
        self.bench.receive(&format!("MSG new {id} {ack} 2\r\nhi\r\n"));
    }

    /// Sends a status to the inbox.
    fn status(&mut self, text: &str) {
        let (inbox, id) = (&self.inbox, self.subscription);
        let headers = format!("NATS/1.0 {text}\r\n\r\n");
        let length = headers.len();
        self.bench.receive(&format!("HMSG {inbox} {id} {length} {length}\r\n{headers}\r\n"));
    }

    fn expect_message(&mut self, sequence: u64) {
        let event = self.take();
        let Some(ConsumerEvent::Message(message)) = event else { panic!("{event:?}") };
        assert_eq!((message.sequence, message.message.payload()), (sequence, &b"hi"[..]));
    }

    fn expect_gap(&mut self, kind: GapKind, expected: u64, found: u64) {
        let gap = ConsumerEvent::Gap(StreamGap { expected, found, kind });
        assert_eq!(self.take(), Some(gap));
    }

    /// The reason for which nothing is read. The consumer is made again from `next`, and delivers.
    fn expect_interrupt(&mut self, next: u64) -> ConsumerError {
        let event = self.take();
        let Some(ConsumerEvent::Waiting { reason, retry }) = event else { panic!("{event:?}") };
        assert!(!self.bench.consumer.is_reading());
        assert!(retry < Duration::from_millis(50), "{retry:?}");
        // The request whose reply is not awaited any more.
        let sent = self.bench.take_sent();
        self.request += sent.matches("PUB $JS.API.STREAM.INFO").count() as u64;
        let old = self.subscription;
        self.bench.wait(retry);
        self.open(next, &stream_json(1, 1, 30));
        assert!(self.bench.consumer.is_reading());
        assert!(matches!(self.take(), Some(ConsumerEvent::Reading { .. })));
        // What the old consumer has sent since is not for the new one.
        let (new, ack) = (self.subscription, ack(next, 1));
        assert_ne!(new, old);
        self.bench.receive(&format!("MSG new {old} {ack} 3\r\nold\r\n"));
        assert_eq!(self.take(), None);
        self.deliver(next, 1);
        self.expect_message(next);
        reason
    }

    /// The next request for messages.
    fn expect_pull(&mut self) -> String {
        let sent = self.bench.take_sent();
        let count = sent.matches("PUB $JS.API.CONSUMER.MSG.NEXT.orders.c1 ").count();
        assert_eq!(count, 1, "{sent}");
        sent
    }
}

#[test]
fn the_start_is_a_place_in_the_stream() {
    for (start, first, last, next) in [
        (Start::Last(0), 0, 0, 1),
        (Start::Last(0), 5, 10, 11),
        (Start::Last(3), 5, 10, 8),
        (Start::Last(30), 5, 10, 5),
        (Start::Last(30), 11, 10, 11),
        (Start::Last(u64::MAX), 0, 0, 1),
        (Start::Sequence(0), 5, 10, 1),
        (Start::Sequence(7), 5, 10, 7),
    ] {
        let mut server = Server::asked(start);
        server.reply(&stream_json(1, first, last));
        server.open(next, &stream_json(1, first, last));
        assert_eq!(server.bench.consumer.next_sequence(), Some(next), "{start:?}");
        let state = server.take();
        assert!(matches!(state, Some(ConsumerEvent::Reading { next: n, .. }) if n == next));
    }
}

#[test]
fn a_request_that_expires_is_sent_again_and_the_stream_is_looked_at() {
    let mut server = Server::reading();
    let pull = "{\"batch\":1000000,\"max_bytes\":4194304,\"expires\":30000000000,\
                \"idle_heartbeat\":1000000000}";
    assert!(server.expect_pull().contains(pull));
    for text in ["408 Request Timeout", "408 Interest Expired", "409 Batch Completed"] {
        let pending = format!("Nats-Pending-Messages: 1000000\r\nNats-Pending-Bytes: {ALL}");
        server.status(&format!("{text}\r\n{pending}"));
        assert_eq!(server.take(), None);
        let sent = server.expect_pull();
        assert!(sent.contains(pull));
        if text.starts_with("408") {
            assert!(sent.contains("STREAM.INFO"), "{text}: {sent}");
            server.reply(&stream_json(1, 1, 10));
        }
    }
    assert!(server.bench.consumer.is_reading());
}

#[test]
fn the_stream_that_is_looked_at_may_have_no_answer() {
    let mut server = Server::reading();
    let expire = format!(
        "408 Request Timeout\r\nNats-Pending-Messages: 1000000\r\nNats-Pending-Bytes: {ALL}"
    );
    server.expect_pull();
    server.status(&expire);
    server.expect_pull();
    server.reply("{\"error\":{\"code\":503,\"err_code\":10008,\"description\":\"unavailable\"}}");
    assert_eq!(server.take(), None);
    server.deliver(11, 1);
    server.expect_message(11);
    // It does not exist any more, but the consumer does not know.
    server.status(&expire);
    server.expect_pull();
    server.reply("{\"error\":{\"code\":404,\"err_code\":10059,\"description\":\"none\"}}");
    let reason = server.expect_interrupt(12);
    assert!(matches!(&reason, ConsumerError::Stream(error) if error.is_not_found()), "{reason}");
}

#[test]
fn a_late_answer_about_the_stream_is_for_nobody() {
    let mut server = Server::reading();
    server.expect_pull();
    server.status(&format!(
        "408 Request Timeout\r\nNats-Pending-Messages: 1000000\r\nNats-Pending-Bytes: {ALL}"
    ));
    server.status("409 Consumer Deleted");
    server.take();
    server.reply("");
    assert_eq!(server.take(), None);
    server.bench.wait(Duration::from_millis(50));
    server.open(11, &stream_json(1, 1, 10));
    assert!(matches!(server.take(), Some(ConsumerEvent::Reading { .. })));
}

#[test]
fn a_consumer_that_is_lost_is_made_again_from_the_next_sequence() {
    for (text, expected) in [
        ("409 Consumer Deleted", "the consumer was deleted"),
        ("409 Leadership Change", "another server has become responsible for the consumer"),
        ("503", "the consumer does not exist any more"),
        ("404 No Messages", "a request for messages ended with status 404 \"No Messages\""),
        ("409 Exceeded MaxWaiting", "… 409 \"Exceeded MaxWaiting\""),
        ("409 Exceeded MaxRequestBatch of 5", "… 409 \"Exceeded MaxRequestBatch of 5\""),
        ("409 Consumer is push based", "… 409 \"Consumer is push based\""),
        ("409 Message Size Exceeds MaxBytes", "… 409 \"Message Size Exceeds MaxBytes\""),
        ("408 Requests Pending", "… 408 \"Requests Pending\""),
        (
            "408 Request Timeout\r\nNats-Pending-Messages: x\r\nNats-Pending-Bytes: 1",
            "… 408 \"Request Timeout\"",
        ),
        ("400 Bad Request", "… 400 \"Bad Request\""),
        ("412 Required Api Level", "… 412 \"Required Api Level\""),
        (
            "423 Nats-Wrong-Pin-Id\r\nNats-Pending-Messages: 1\r\nNats-Pending-Bytes: 1",
            "… 423 \"Nats-Wrong-Pin-Id\"",
        ),
        ("100 Idle Heartbeat\r\nNats-Last-Consumer: 4", "delivery 4 of the consumer, expected 2"),
        ("100 Idle Heartbeat\r\nNats-Last-Consumer: 0", "delivery 0 of the consumer, expected 2"),
    ] {
        let mut server = Server::reading();
        server.deliver(11, 1);
        server.deliver(12, 2);
        server.expect_message(11);
        server.expect_message(12);
        server.status(text);
        let reason = server.expect_interrupt(13).to_string();
        assert_eq!(reason, expected.replace('…', "a request for messages ended with status"));
    }
}

#[test]
fn what_a_lying_server_says_is_cut_for_the_log() {
    let mut server = Server::reading();
    server.status(&format!("409 {}", "ä".repeat(1000)));
    let ConsumerError::Status { description, .. } = server.expect_interrupt(11) else { panic!() };
    assert_eq!(description, "ä".repeat(64));
}

#[test]
fn a_missing_heartbeat_is_a_loss() {
    let mut server = Server::reading();
    for last in ["Nats-Last-Consumer: 0", "Other: 1"] {
        server.bench.wait(Duration::from_millis(2900));
        server.status(&format!("100 Idle Heartbeat\r\n{last}"));
    }
    server.bench.wait(Duration::from_millis(2900));
    // What has no status is from somebody else, and shows nothing.
    let (inbox, id) = (server.inbox.clone(), server.subscription);
    server.bench.receive(&format!("MSG {inbox} {id} 1\r\nx\r\n"));
    assert_eq!(server.take(), None);
    server.bench.wait(Duration::from_millis(100));
    let reason = server.expect_interrupt(11).to_string();
    assert_eq!(reason, "no message and no heartbeat within 3s");
}

#[test]
fn heartbeats_are_not_awaited_while_nothing_is_asked_for() {
    let config = ConsumerConfig::new("orders", "new").with_max_bytes(1024.try_into().unwrap());
    let bench = Bench::new(config);
    let mut server = Server { bench, request: 0, inbox: String::new(), subscription: 0 };
    server.reply(&stream_json(1, 1, 10));
    server.open(11, &stream_json(1, 1, 10));
    server.take();
    server.expect_pull();
    let (id, payload) = (server.subscription, "x".repeat(600));
    server.bench.receive(&format!("MSG new {id} {} 600\r\n{payload}\r\n", ack(11, 1)));
    let left = 1024 - 600 - "new".len() - ack(11, 1).len();
    server.status(&format!(
        "408 Request Timeout\r\nNats-Pending-Messages: 999999\r\nNats-Pending-Bytes: {left}"
    ));
    assert!(!server.bench.take_sent().contains("MSG.NEXT"), "600 bytes wait to be taken");
    server.request += 1;
    assert_eq!(server.bench.consumer.poll_timeout(), None);
    server.bench.wait(Duration::from_secs(100));
    assert!(matches!(server.take(), Some(ConsumerEvent::Message(_))));
    assert!(server.expect_pull().contains("\"max_bytes\":1024"));
    let timeout = server.bench.consumer.poll_timeout();
    assert_eq!(timeout, Some(server.bench.now + Duration::from_secs(3)));
}

#[test]
fn a_delivery_that_was_lost_or_repeated_is_noticed() {
    for (delivery, sequence) in [(1, 11), (3, 12), (3, 13), (2, 11), (1, 12), (2, 1)] {
        let mut server = Server::reading();
        server.deliver(11, 1);
        server.expect_message(11);
        server.deliver(sequence, delivery);
        let reason = server.expect_interrupt(12);
        let expected = if delivery == 2 {
            ConsumerError::Sequence { expected: 12, found: sequence }
        } else {
            ConsumerError::Delivery { expected: 2, found: delivery }
        };
        assert_eq!(reason, expected);
    }
}

#[test]
fn a_reply_subject_that_says_nothing_is_a_loss() {
    let mut server = Server::reading();
    let id = server.subscription;
    server.bench.receive(&format!("MSG new {id} $JS.ACK.orders.c1.1.x.1.1.1 2\r\nhi\r\n"));
    let reason = server.expect_interrupt(11).to_string();
    assert_eq!(reason, "a message with the reply subject \"$JS.ACK.orders.c1.1.x.1.1.1\"");
}

#[test]
fn removed_messages_are_a_gap() {
    let mut server = Server::reading();
    server.deliver(11, 1);
    server.deliver(15, 2);
    server.deliver(16, 3);
    server.expect_message(11);
    server.expect_gap(GapKind::Missing, 12, 15);
    server.expect_message(15);
    server.expect_message(16);
    assert_eq!(server.take(), None);
    // A purge while there is no consumer, above and below the position.
    server.bench.connect();
    (server.request, server.subscription) = (0, 0);
    server.open(17, &stream_json(1, 30, 40));
    assert!(matches!(server.take(), Some(ConsumerEvent::Reading { next: 17, .. })));
    server.deliver(30, 1);
    server.expect_gap(GapKind::Missing, 17, 30);
    server.expect_message(30);
    server.bench.connect();
    server.request = 0;
    server.open(31, &stream_json(1, 20, 40));
    server.take();
    server.deliver(31, 1);
    server.expect_message(31);
}

#[test]
fn a_stream_that_was_made_again_is_read_from_its_first_message() {
    let mut server = Server::reading();
    server.deliver(11, 1);
    server.expect_message(11);
    server.status("409 Consumer Deleted");
    server.take();
    server.bench.wait(Duration::from_millis(50));
    // It has as many messages as before.
    server.open(12, &stream_json(2, 0, 40));
    server.expect_gap(GapKind::Replaced, 12, 1);
    assert!(!server.bench.consumer.is_reading());
    server.bench.wait(Duration::from_secs(1));
    server.open(1, &stream_json(2, 1, 40));
    assert!(matches!(server.take(), Some(ConsumerEvent::Reading { next: 1, .. })));
    server.deliver(1, 1);
    server.expect_message(1);
}

#[test]
fn a_stream_counts_as_truncated_when_its_end_stays_before_the_position() {
    let mut server = Server::reading();
    for is_for_good in [false, true] {
        server.bench.connect();
        server.request = 0;
        let mut waited = Duration::ZERO;
        for _ in 0..100 {
            server.open(11, &stream_json(1, 1, 7));
            match server.take() {
                Some(ConsumerEvent::Waiting { reason, retry }) => {
                    assert_eq!(reason, ConsumerError::Behind { last: 7, expected: 11 });
                    assert!(waited < Duration::from_secs(2));
                    waited += retry;
                    server.bench.wait(retry);
                }
                Some(ConsumerEvent::Gap(gap)) => {
                    let kind = GapKind::Truncated;
                    assert_eq!(gap, StreamGap { expected: 11, found: 8, kind });
                    assert!(waited >= Duration::from_secs(2));
                    break;
                }
                other => panic!("{other:?}"),
            }
            if !is_for_good {
                // A leader that did not know its last messages yet.
                server.open(11, &stream_json(1, 1, 10));
                assert!(matches!(server.take(), Some(ConsumerEvent::Reading { next: 11, .. })));
                break;
            }
        }
    }
    server.bench.wait(Duration::from_secs(5));
    server.open(8, &stream_json(1, 1, 7));
    server.take();
    server.deliver(8, 1);
    server.expect_message(8);
}

#[test]
fn replies_that_are_none_are_named_and_tried_again() {
    let no_stream = "{\"error\":{\"code\":404,\"err_code\":10059,\"description\":\"none\"}}";
    for (reply, expected) in [
        (no_stream, "error 10059: none"),
        ("{\"error\":{\"code\":503,\"err_code\":10008,\"description\":\"busy\"}}", "10008: busy"),
        ("", "malformed reply"),
        ("[]", "malformed reply"),
        ("{\"name\":7}", "malformed reply"),
        ("{\"name\":\"a b\",\"config\":{}}", "a request could not be sent: a subject has byte"),
        ("{\"name\":\"*\",\"config\":{}}", "a request could not be sent: a subject has a wild"),
        ("{\"name\":\"\",\"config\":{}}", "a request could not be sent: a subject has an empty"),
    ] {
        let mut server = Server::asked(Start::Last(0));
        server.reply(&stream_json(1, 1, 10));
        server.reply(reply);
        if server.bench.take_sent().contains("SUB _INBOX.S.0.2.s ") {
            // The name has a meaning only for the first request.
            server.reply(&stream_json(1, 1, 10));
            assert!(matches!(server.take(), Some(ConsumerEvent::Reading { .. })));
        }
        let event = server.take();
        let Some(ConsumerEvent::Waiting { reason, retry }) = event else { panic!("{event:?}") };
        assert!(reason.to_string().contains(expected), "{reason}");
        if reply == no_stream {
            let is_not_found = |error: &StreamError| error.is_not_found();
            assert!(matches!(&reason, ConsumerError::Stream(error) if is_not_found(error)));
        }
        server.bench.wait(retry);
        server.open(11, &stream_json(1, 1, 10));
        assert!(matches!(server.take(), Some(ConsumerEvent::Reading { next: 11, .. })));
    }
    // The same for the stream.
    for reply in [no_stream, "", "{}", "{\"state\":{}}"] {
        let mut server = Server::asked(Start::Last(0));
        server.reply(reply);
        let event = server.take();
        let Some(ConsumerEvent::Waiting { reason, retry }) = event else { panic!("{event:?}") };
        assert!(matches!(reason, ConsumerError::Stream(_)), "{reason}");
        server.bench.wait(retry);
        server.reply(&stream_json(1, 1, 10));
        // All messages of a stream that did not exist are newer than the consumer.
        server.open(if reply == no_stream { 1 } else { 11 }, &stream_json(1, 1, 10));
    }
}

#[test]
fn sequences_at_the_end_of_all_numbers_are_no_overflow() {
    let mut server = Server::asked(Start::Last(0));
    server.reply(&stream_json(1, 1, 10).replace("\"last_seq\":10", &last(u64::MAX)));
    server.open(u64::MAX, &stream_json(1, 1, 10).replace("\"last_seq\":10", &last(u64::MAX)));
    server.take();
    server.deliver(u64::MAX, 1);
    let event = server.take();
    let Some(ConsumerEvent::Waiting { reason, .. }) = event else { panic!("{event:?}") };
    assert!(matches!(reason, ConsumerError::Malformed { .. }), "{reason}");
}

fn last(sequence: u64) -> String {
    format!("\"last_seq\":{sequence}")
}

#[test]
fn without_a_reply_it_tries_again() {
    let mut server = Server::asked(Start::Last(0));
    let now = server.bench.now + Duration::from_secs(5);
    server.bench.now = now;
    server.bench.client.handle(now, crate::Event::Timeout { unacknowledged: 0 });
    server.bench.receive("");
    let event = server.take();
    let Some(ConsumerEvent::Waiting { reason, .. }) = event else { panic!("{event:?}") };
    let limit = Duration::from_secs(5);
    let expected = ApiError::NoReply(RequestError::Timeout { limit });
    assert!(matches!(reason, ConsumerError::Stream(StreamError::Api { error, .. })
        if error == expected));
}

#[test]
fn a_server_that_sends_more_than_was_asked_for_is_left() {
    let mut server = Server::reading();
    let (id, payload) = (server.subscription, "x".repeat(100_000));
    let mut delivery = 0;
    while server.bench.consumer.is_reading() {
        delivery += 1;
        let ack = ack(10 + delivery, delivery);
        server.bench.receive(&format!("MSG new {id} {ack} 100000\r\n{payload}\r\n"));
        assert!(server.bench.consumer.queued <= 4 * 1024 * 1024 + 100_100);
    }
    assert_eq!(delivery, 43);
    // Nothing begins before the rest is taken.
    server.bench.wait(Duration::from_secs(10));
    assert!(!server.bench.take_sent().contains("CREATE"));
    for _ in 1..43 {
        assert!(matches!(server.take(), Some(ConsumerEvent::Message(_))));
    }
    let event = server.take();
    let Some(ConsumerEvent::Waiting { reason, .. }) = event else { panic!("{event:?}") };
    assert!(matches!(reason, ConsumerError::TooMany { .. }), "{reason}");
    assert!(server.bench.take_sent().contains("CREATE"));
}

#[test]
fn requests_wait_until_the_client_has_room() {
    let mut server = Server::reading();
    server.status("409 Consumer Deleted");
    server.take();
    server.bench.take_sent();
    // The client's output is full.
    let long = Publish::new("x", vec![0; 1024 * 1024]);
    server.bench.client.publish(&long, server.bench.now).unwrap();
    server.bench.wait(Duration::from_millis(50));
    assert_eq!(server.bench.consumer.stale, None);
    assert!(matches!(server.bench.consumer.state, State::Making { request: None }));
    let mut buffer = vec![0; 2 * 1024 * 1024];
    let now = server.bench.now;
    drive::collect_into(&mut server.bench.client, &mut buffer, now);
    server.bench.consumer.pump(&mut server.bench.client, now);
    server.open(11, &stream_json(1, 1, 10));
    server.take();
    server.deliver(11, 1);
    server.expect_message(11);
}

#[test]
fn what_is_for_others_is_returned() {
    let mut server = Server::reading();
    let Bench { client, consumer, now, .. } = &mut server.bench;
    let request = client.request(&Publish::new("time", ""), *now).unwrap();
    let other = client.subscribe("other", None, *now).unwrap();
    for text in
        [format!("MSG other {} 2\r\nhi\r\n", other.id()), "MSG _INBOX.S.0.3 1 2\r\nhi\r\n".into()]
    {
        drive::deliver(client, &mut text.as_bytes(), *now);
        let incoming = client.take_incoming(*now).unwrap();
        match consumer.handle(client, incoming, *now) {
            Some(Incoming::Message(message)) => assert_eq!(message.subscription(), other),
            Some(Incoming::Reply { request: id, .. }) => assert_eq!(id, request),
            handled => panic!("{handled:?}"),
        }
    }
}

#[test]
fn a_bad_setting_is_an_error() {
    let config = ConsumerConfig::new("orders", "new");
    for (bad, text) in [
        (config.clone().with_heartbeat(Duration::ZERO), "heartbeat must be non-zero"),
        (
            config.clone().with_heartbeat(Duration::from_secs(16)),
            "heartbeat in ms is 16000, but must be at most 15000",
        ),
        (
            config.with_max_bytes(1023.try_into().unwrap()),
            "max_bytes is 1023, but must be at least 1024",
        ),
    ] {
        assert_eq!(Consumer::new(bad).unwrap_err().to_string(), text);
    }
}
