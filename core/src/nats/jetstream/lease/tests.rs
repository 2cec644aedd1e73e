use alloc::{format, vec::Vec};

use super::*;
use crate::nats::jetstream::wire::{Request, Wire, refusal, stored, stream_info};

/// A lease on one connection. The test is the server.
struct Fixture {
    wire: Wire,
    lease: Lease,
    now: Instant,
}

impl Fixture {
    /// The bucket is found. The key is asked for.
    fn new() -> Self {
        let lease = Lease::new(&LeaseConfig::new("b", "me"), 7).unwrap();
        let now = Instant::EPOCH;
        let mut fixture = Self { wire: Wire::connect(now), lease, now };
        fixture.lease.connected(&mut fixture.wire.client, now);
        assert_eq!(fixture.find(), []);
        fixture
    }

    /// Acquired at time 0, with the revision 5.
    fn held() -> Self {
        let mut fixture = Self::new();
        assert_eq!(fixture.read(&refusal(10_037)), []);
        assert_eq!(fixture.ack(5), [LeaseEvent::Acquired { epoch: 5 }]);
        fixture
    }

    /// The only request that was sent.
    #[track_caller]
    fn request(&mut self) -> Request {
        let mut requests = self.wire.requests(self.now);
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    fn reply(&mut self, request: &Request, payload: &str) -> Vec<LeaseEvent> {
        self.wire.reply(request, payload);
        self.handle()
    }

    fn handle(&mut self) -> Vec<LeaseEvent> {
        while let Some(incoming) = self.wire.take(self.now) {
            self.lease.handle(&mut self.wire.client, incoming, self.now);
        }
        self.events()
    }

    fn events(&mut self) -> Vec<LeaseEvent> {
        core::iter::from_fn(|| self.lease.take_event()).collect()
    }

    fn find(&mut self) -> Vec<LeaseEvent> {
        let request = self.request();
        assert_eq!(request.subject, "$JS.API.STREAM.INFO.KV_b");
        self.reply(&request, &stream_info("KV_b", "$KV.b.>", "A", 4))
    }

    #[track_caller]
    fn read(&mut self, reply: &str) -> Vec<LeaseEvent> {
        let request = self.request();
        assert_eq!(request.subject, "$JS.API.STREAM.MSG.GET.KV_b");
        assert_eq!(request.payload, br#"{"last_by_subj":"$KV.b.lease"}"#);
        self.reply(&request, reply)
    }

    /// The key is written, which is returned.
    #[track_caller]
    fn write(&mut self) -> Request {
        let request = self.request();
        assert_eq!(request.subject, "$KV.b.lease");
        request
    }

    #[track_caller]
    fn ack(&mut self, revision: u64) -> Vec<LeaseEvent> {
        let request = self.write();
        self.reply(&request, &format!(r#"{{"stream":"KV_b","seq":{revision}}}"#))
    }

    /// Goes on to the next deadline.
    fn wait(&mut self) -> Vec<LeaseEvent> {
        self.now = self.lease.poll_timeout().expect("it waits");
        self.lease.handle_timeout(self.now);
        self.lease.pump(&mut self.wire.client, self.now);
        self.events()
    }

    fn reconnect(&mut self) {
        self.lease.disconnected();
        self.wire = Wire::connect(self.now);
        self.lease.connected(&mut self.wire.client, self.now);
        assert_eq!(self.find(), []);
    }

    fn seconds(&self) -> u64 {
        self.now.since_epoch().as_secs()
    }
}

fn key(sequence: u64, value: &[u8]) -> alloc::string::String {
    stored(sequence, "", value)
}

const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// What the key has while the fixture's lease is held.
const VALUE: &[u8] = b"me 0000000000000007";

#[test]
fn a_free_lease_is_acquired_and_renewed() {
    let marker = stored(4, "NATS/1.0\r\nKV-Operation: PURGE\r\n\r\n", b"");
    for (reply, expected) in [(refusal(10_037), "0"), (marker, "4")] {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.read(&reply), []);
        assert_eq!(fixture.lease.epoch(fixture.now), None);
        let request = fixture.write();
        assert_eq!((request.header(EXPECTED), &request.payload[..]), (Some(expected), VALUE));
        let events = fixture.reply(&request, r#"{"stream":"KV_b","seq":5}"#);
        assert_eq!(events, [LeaseEvent::Acquired { epoch: 5 }]);
        for revision in 6..20 {
            assert_eq!(fixture.wait(), []);
            let request = fixture.write();
            assert_eq!(request.header(EXPECTED), Some(&*format!("{}", revision - 1)));
            let ack = format!(r#"{{"stream":"KV_b","seq":{revision}}}"#);
            assert_eq!(fixture.reply(&request, &ack), []);
            assert_eq!(fixture.lease.epoch(fixture.now), Some(5));
        }
        assert_eq!(fixture.seconds(), 14 * 10 / 3);
    }
}

#[test]
fn a_bucket_is_created_and_must_have_an_age() {
    let mut lease = Lease::new(&LeaseConfig::new("b", "me"), 7).unwrap();
    let now = Instant::EPOCH;
    let mut wire = Wire::connect(now);
    lease.connected(&mut wire.client, now);
    let mut fixture = Fixture { wire, lease, now };
    let request = fixture.request();
    fixture.reply(&request, &refusal(10_059));
    let request = fixture.request();
    let expected = r#"{"name":"KV_b","subjects":["$KV.b.>"],"storage":"file","num_replicas":1,"#
        .to_owned()
        + r#""max_bytes":-1,"max_age":10000000000,"max_msgs_per_subject":1,"#
        + r#""duplicate_window":10000000000,"discard":"new","allow_rollup_hdrs":true,"#
        + r#""deny_delete":true}"#;
    assert_eq!(core::str::from_utf8(&request.payload).unwrap(), expected);
    let info = stream_info("KV_b", "$KV.b.>", "A", 0);
    assert_eq!(fixture.reply(&request, &info), [LeaseEvent::BucketCreated]);

    fixture.reconnect();
    fixture.read(&refusal(10_025));
    fixture.wait();
    let request = fixture.request();
    let [LeaseEvent::Waiting(problem)] =
        &fixture.reply(&request, &info.replace("10000000000", "0"))[..]
    else {
        panic!()
    };
    assert_eq!(format!("{problem}"), "stream KV_b of the lease's bucket has no `max_age`");

    let error = Lease::new(&LeaseConfig::new("b", "x").with_ttl(Duration::from_millis(999)), 0);
    assert_eq!(error.unwrap_err().to_string(), "ttl in ms is 999, but must be at least 1000");
}

#[test]
fn a_standby_waits_until_the_lease_is_free() {
    let mut fixture = Fixture::new();
    let taken = |holder: &str| [LeaseEvent::Taken { holder: holder.into() }];
    assert_eq!(fixture.read(&key(4, b"you\n")), taken("you\\n"));
    for sequence in 5..15 {
        assert_eq!(fixture.wait(), []);
        assert_eq!(fixture.read(&key(sequence, b"you\n")), []);
    }
    assert!((5..15).contains(&fixture.seconds()), "{:?}", fixture.now);
    fixture.wait();
    assert_eq!(fixture.read(&key(20, &[b'x'; 5000])), taken(&"x".repeat(128)));
    // It is free, but another process is faster.
    fixture.wait();
    fixture.read(&refusal(10_037));
    let request = fixture.write();
    assert_eq!(fixture.reply(&request, &refusal(10_071)), []);
    fixture.wait();
    assert_eq!(fixture.read(&key(21, b"third")), taken("third"));
    fixture.wait();
    fixture.read(&refusal(10_037));
    assert_eq!(fixture.ack(22), [LeaseEvent::Acquired { epoch: 22 }]);
}

#[test]
fn a_lost_acknowledgement_is_found_in_the_key() {
    // Of the acquisition.
    let mut fixture = Fixture::new();
    fixture.read(&refusal(10_037));
    fixture.write();
    fixture.reconnect();
    assert_eq!(fixture.read(&key(5, VALUE)), []);
    let request = fixture.write();
    assert_eq!(request.header(EXPECTED), Some("5"));
    let events = fixture.reply(&request, r#"{"stream":"KV_b","seq":6}"#);
    assert_eq!(events, [LeaseEvent::Acquired { epoch: 6 }]);

    // Of a renewal: after a third of the age, it counts as lost.
    fixture.wait();
    fixture.write();
    let events = fixture.wait();
    let [LeaseEvent::Waiting(problem)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(format!("{problem}"), "the lease: no reply within 3.33s");
    fixture.wait();
    fixture.find();
    fixture.read(&key(7, VALUE));
    assert_eq!(fixture.ack(8), []);
    assert_eq!(fixture.lease.epoch(fixture.now), Some(6));
}

#[test]
fn a_lease_that_is_not_renewed_in_time_is_lost() {
    // With a connection that does not answer, and without one.
    for is_connected in [true, false] {
        let mut fixture = Fixture::held();
        let mut events = Vec::new();
        if !is_connected {
            fixture.lease.disconnected();
        }
        while fixture.lease.epoch(fixture.now).is_some() {
            events.extend(fixture.wait());
        }
        assert_eq!(fixture.seconds(), 10);
        let ttl = Duration::from_secs(10);
        assert_eq!(events.pop(), Some(LeaseEvent::Lost(LeaseLost::Expired { ttl })));
        assert_eq!(events.is_empty(), !is_connected, "{events:?}");
        // Its own key is no obstacle, but the epoch is another one.
        fixture.reconnect();
        fixture.read(&key(6, VALUE));
        assert_eq!(fixture.ack(7), [LeaseEvent::Acquired { epoch: 7 }]);
    }

    // The process was stopped while the acknowledgement was on its way.
    let mut fixture = Fixture::new();
    fixture.read(&refusal(10_037));
    let request = fixture.write();
    fixture.now += Duration::from_secs(10);
    assert_eq!(fixture.reply(&request, r#"{"stream":"KV_b","seq":5}"#), []);
    fixture.wait();
    let events = fixture.read(&key(6, b"you"));
    assert_eq!(events, [LeaseEvent::Taken { holder: "you".into() }]);
}

#[test]
fn a_lease_that_another_process_has_or_that_was_removed_is_lost() {
    for (reply, lost) in [
        (key(9, b"you"), LeaseLost::Taken { holder: "you".into() }),
        (stored(9, "NATS/1.0\r\nKV-Operation: DEL\r\n\r\n", b""), LeaseLost::Removed),
        (refusal(10_037), LeaseLost::Removed),
    ] {
        let mut fixture = Fixture::held();
        fixture.lease.renew(0);
        fixture.lease.pump(&mut fixture.wire.client, fixture.now);
        let request = fixture.write();
        assert_eq!(fixture.reply(&request, &refusal(10_071)), []);
        fixture.wait();
        assert_eq!(fixture.read(&reply), [LeaseEvent::Lost(lost)]);
        assert_eq!(fixture.lease.epoch(fixture.now), None);
        // It wants it again, with an epoch that nobody has asked for.
        fixture.wait();
        fixture.read(&refusal(10_037));
        assert_eq!(fixture.ack(10), [LeaseEvent::Acquired { epoch: 10 }]);
        assert_eq!(fixture.wire.requests(fixture.now), []);
    }
}

/// A publisher may keep its epoch meanwhile: the next one must be higher.
#[test]
fn epochs_ascend_in_a_bucket_that_was_made_anew() {
    let mut fixture = Fixture::held();
    fixture.reconnect();
    assert_eq!(fixture.read(&refusal(10_037)), [LeaseEvent::Lost(LeaseLost::Removed)]);
    fixture.wait();
    assert_eq!(fixture.read(&refusal(10_037)), []);
    assert_eq!(fixture.ack(1), [LeaseEvent::Acquired { epoch: 6 }]);
    fixture.lease.renew(0);
    fixture.lease.pump(&mut fixture.wire.client, fixture.now);
    assert_eq!(fixture.ack(2), [LeaseEvent::Renewed { epoch: 7 }]);
}

#[test]
fn a_renewal_for_a_new_epoch_exceeds_what_it_must() {
    let mut fixture = Fixture::held();
    let renewed = |epoch| [LeaseEvent::Renewed { epoch }];
    let mut renew = |above, revision| {
        fixture.lease.renew(above);
        fixture.lease.pump(&mut fixture.wire.client, fixture.now);
        fixture.ack(revision)
    };
    assert_eq!(renew(0, 6), renewed(6));
    assert_eq!(renew(6, 7), renewed(7));
    // An epoch of an earlier bucket is exceeded, and so it stays.
    assert_eq!(renew(100, 8), renewed(108));
    assert_eq!(renew(0, 9), renewed(109));
    assert_eq!(renew(109, 10), renewed(110));
    fixture.wait();
    assert_eq!(fixture.ack(11), []);
    assert_eq!(fixture.lease.epoch(fixture.now), Some(110));

    // While another renewal has no reply: that one proves nothing.
    fixture.wait();
    let request = fixture.write();
    fixture.lease.renew(200);
    fixture.lease.pump(&mut fixture.wire.client, fixture.now);
    assert_eq!(fixture.reply(&request, r#"{"stream":"KV_b","seq":12}"#), []);
    assert_eq!(fixture.ack(13), renewed(213));
    // Its acknowledgement is lost.
    fixture.lease.renew(0);
    fixture.lease.pump(&mut fixture.wire.client, fixture.now);
    fixture.write();
    fixture.reconnect();
    fixture.read(&key(14, VALUE));
    assert_eq!(fixture.ack(15), renewed(215));
}

#[test]
fn a_lease_is_released() {
    let mut fixture = Fixture::held();
    fixture.lease.release();
    assert_eq!(fixture.lease.epoch(fixture.now), None);
    fixture.lease.pump(&mut fixture.wire.client, fixture.now);
    let request = fixture.write();
    assert_eq!(
        (request.header(EXPECTED), request.header("KV-Operation")),
        (Some("5"), Some("PURGE"))
    );
    assert!(request.payload.is_empty());
    let events = fixture.reply(&request, r#"{"stream":"KV_b","seq":6}"#);
    assert_eq!(events, [LeaseEvent::Released]);
    fixture.lease.connected(&mut fixture.wire.client, fixture.now);
    assert_eq!((fixture.wire.requests(fixture.now), fixture.events()), (Vec::new(), Vec::new()));
    assert_eq!(fixture.lease.poll_timeout(), None);

    // A renewal is on its way: it comes first.
    let mut fixture = Fixture::held();
    fixture.wait();
    let request = fixture.write();
    fixture.lease.release();
    assert_eq!(fixture.reply(&request, r#"{"stream":"KV_b","seq":6}"#), []);
    assert_eq!(fixture.ack(7), [LeaseEvent::Released]);

    // The acquisition is on its way.
    let mut fixture = Fixture::new();
    fixture.read(&refusal(10_037));
    fixture.lease.release();
    assert_eq!(fixture.ack(5), []);
    assert_eq!(fixture.ack(6), [LeaseEvent::Released]);

    // It is not held.
    let mut fixture = Fixture::new();
    fixture.lease.release();
    fixture.lease.pump(&mut fixture.wire.client, fixture.now);
    assert_eq!(fixture.events(), [LeaseEvent::Released]);

    // There is no connection, or it ends.
    for is_first in [true, false] {
        let mut fixture = Fixture::held();
        if is_first {
            fixture.lease.disconnected();
        }
        fixture.lease.release();
        fixture.lease.disconnected();
        assert_eq!(fixture.events(), [LeaseEvent::Released]);
    }

    // Nobody answers.
    let mut fixture = Fixture::held();
    fixture.lease.release();
    fixture.lease.pump(&mut fixture.wire.client, fixture.now);
    let mut events = Vec::new();
    while events.last() != Some(&LeaseEvent::Released) {
        events.extend(fixture.wait());
    }
    assert_eq!(fixture.seconds(), 10);
}

#[test]
fn bad_replies_are_waited_out() {
    let mut fixture = Fixture::held();
    for (reply, text) in [
        (r#"{"stream":"KV_b","seq":5}"#.into(), "sequence 5, expected one above 5"),
        ("?".into(), "writing the lease: malformed reply"),
        ("{".repeat(1 << 20), "writing the lease: malformed reply"),
        (refusal(10_077), "writing the lease: error 10077: text"),
    ] {
        fixture.lease.renew(0);
        fixture.lease.pump(&mut fixture.wire.client, fixture.now);
        let request = fixture.write();
        let events = fixture.reply(&request, &reply);
        let [LeaseEvent::Waiting(problem)] = &events[..] else { panic!("{events:?}") };
        let problem = format!("{problem}");
        assert!(problem.contains(text), "{problem}");
        fixture.now = Instant::EPOCH;
        fixture.reconnect();
        fixture.read(&key(5, VALUE));
        assert_eq!(fixture.ack(6), [LeaseEvent::Renewed { epoch: 6 }]);
        fixture = Fixture::held();
    }
}
