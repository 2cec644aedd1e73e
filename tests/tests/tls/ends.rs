//! How connections end: every phase, both sides, with reason and fault.

use std::time::Duration;

use wirestate_core::{
    ConnectionError, Direction, Event, Fault, Instant, Machine, Outbound, Reason as _,
};
use wirestate_testkit::contract::Checked;
use wirestate_tls::{
    Authorities, Client, Clients, Config, Failure, Identity, Server, Tls, TlsReason, client_config,
    rustls::AlertDescription, server_config,
};

use crate::{
    certificates::{CLIENTS, SERVERS},
    pair::{Fault as Harm, Pair},
    records::{client, server},
    talker::{Talked, Talker},
};

pub(crate) type Talking = Checked<Tls<Talker>>;

fn checked(machine: Tls<Talker>) -> Talking {
    Checked::new(machine, 1 << 20)
}

fn pair(a: Talker, b: Talker) -> Pair<Talking, Talking> {
    let a = checked(client().machine(a, Instant::EPOCH));
    Pair::new(a, checked(server().machine(b, Instant::EPOCH)), 100_000, 1)
}

/// What a side trusts, and presents.
pub(crate) struct Case {
    pub(crate) server: Identity,
    pub(crate) clients: Clients,
    pub(crate) client: Option<Identity>,
    pub(crate) trusted: Authorities,
    pub(crate) alpn: [&'static [&'static [u8]]; 2],
}

impl Default for Case {
    fn default() -> Self {
        Self {
            server: SERVERS.sign(&["localhost"]),
            clients: Clients::Anonymous,
            client: None,
            trusted: SERVERS.authorities(),
            alpn: [&[], &[]],
        }
    }
}

impl Case {
    pub(crate) fn pair(self) -> Pair<Talking, Talking> {
        let [client_alpn, server_alpn] = self.alpn;
        let credentials = server_config(vec![self.server], self.clients, server_alpn).unwrap();
        let server = Server::new(Config::default(), credentials).unwrap();
        let credentials = client_config(self.trusted, self.client, client_alpn).unwrap();
        let name = "localhost".try_into().unwrap();
        let client = Client::new(Config::default(), credentials, name).unwrap();
        let a = checked(client.machine(Talker::sending(b"question"), Instant::EPOCH));
        let b = checked(server.machine(Talker::sending(b"answer"), Instant::EPOCH));
        Pair::new(a, b, 3000, 1)
    }
}

#[test]
fn each_refusal_has_a_reason_on_both_sides() {
    let must = || Clients::MustAuthenticate(CLIENTS.authorities());
    let may = || Clients::MayAuthenticate(CLIENTS.authorities());
    let client = |identity| Case { client: Some(identity), ..Case::default() };
    let fine = ("finished", "finished");
    let cases = [
        ("plain", Case::default(), fine),
        (
            "wrong name",
            Case { server: SERVERS.sign(&["example.org"]), ..Case::default() },
            ("tls_certificate_wrong_name", "tls_alert_bad_certificate"),
        ),
        (
            "expired",
            Case { server: SERVERS.sign_until(&["localhost"], 2021), ..Case::default() },
            ("tls_certificate_expired", "tls_alert_certificate_expired"),
        ),
        (
            "not yet valid",
            Case { server: SERVERS.sign_between(&["localhost"], 2098, 2099), ..Case::default() },
            ("tls_certificate_not_valid_yet", "tls_alert_certificate_expired"),
        ),
        (
            "unknown issuer",
            Case { trusted: CLIENTS.authorities(), ..Case::default() },
            ("tls_certificate_unknown_issuer", "tls_alert_unknown_ca"),
        ),
        ("optional, none", Case { clients: may(), ..Case::default() }, fine),
        ("optional, valid", Case { clients: may(), ..client(CLIENTS.sign(&["c"])) }, fine),
        ("required, valid", Case { clients: must(), ..client(CLIENTS.sign(&["c"])) }, fine),
        (
            "required, none",
            Case { clients: must(), ..Case::default() },
            ("tls_alert_certificate_required", "tls_certificate_missing"),
        ),
        (
            "optional, wrong authority",
            Case { clients: may(), ..client(SERVERS.sign(&["c"])) },
            ("tls_alert_unknown_ca", "tls_certificate_unknown_issuer"),
        ),
        (
            "required, expired",
            Case { clients: must(), ..client(CLIENTS.sign_until(&["c"], 2021)) },
            ("tls_alert_certificate_expired", "tls_certificate_expired"),
        ),
        ("ALPN in common", Case { alpn: [&[b"a", b"b"], &[b"b"]], ..Case::default() }, fine),
        ("ALPN of the client", Case { alpn: [&[b"a"], &[]], ..Case::default() }, fine),
        (
            "no ALPN in common",
            Case { alpn: [&[b"a"], &[b"b"]], ..Case::default() },
            ("tls_alert_no_application_protocol", "tls_no_application_protocol"),
        ),
    ];
    for (name, case, expected) in cases {
        let (a, b) = case.pair().run();
        assert_eq!((a.label(), b.label()), expected, "{name}: {a}; {b}");
        let fault = if expected == fine { Fault::None } else { Fault::Peer };
        assert_eq!((a.fault(), b.fault()), (fault, fault), "{name}");
    }
}

#[test]
fn the_host_name_selects_the_certificate_and_alpn_the_protocol() {
    let identities = vec![SERVERS.sign(&["first"]), SERVERS.sign(&["localhost", "*.example.test"])];
    let credentials = server_config(identities, Clients::Anonymous, &[b"b"]).unwrap();
    let server = Server::new(Config::default(), credentials).unwrap();
    for (name, expected) in
        [("localhost", "CN=localhost"), ("a.example.test", "CN=localhost"), ("first", "CN=first")]
    {
        let credentials = client_config(SERVERS.authorities(), None, &[b"a", b"b"]).unwrap();
        let client = Client::new(Config::default(), credentials, name.try_into().unwrap()).unwrap();
        let a = checked(client.machine(Talker::default(), Instant::EPOCH));
        let b = checked(server.machine(Talker::default(), Instant::EPOCH));
        let mut pair = Pair::new(a, b, 3000, 1);
        pair.settle();
        let connection = pair.a.machine().connection();
        let certificate = wirestate_tls::peer_certificate(connection).expect("it is complete");
        assert_eq!(
            (&*certificate.subject, connection.alpn_protocol()),
            (expected, Some(&b"b"[..]))
        );
    }
}

#[test]
fn new_certificates_leave_open_connections_alone() {
    let server = server();
    let open = || {
        let a = checked(client().machine(Talker::default(), Instant::EPOCH));
        let b = checked(server.machine(Talker::default(), Instant::EPOCH));
        let mut pair = Pair::new(a, b, 3000, 1);
        pair.settle();
        pair
    };
    let mut before = open();
    let other = server_config(vec![CLIENTS.sign(&["localhost"])], Clients::Anonymous, &[]).unwrap();
    server.set_credentials(other).unwrap();
    before.a.machine_mut().inner_mut().output = b"still there?".to_vec();
    before.settle();
    assert_eq!(before.b.machine().inner().received, b"still there?");
    assert_eq!(open().run().0.label(), "tls_certificate_unknown_issuer");
}

#[test]
fn each_direction_ends_by_itself() {
    let mut pair = pair(Talker::sending(b"all I have"), Talker::default());
    pair.settle();
    let (client, server) = (pair.a.machine().inner(), pair.b.machine().inner());
    assert_eq!((&*client.ends, &*server.ends), (&[Event::Finished][..], &[Event::Eof][..]));
    assert!(pair.pipes[0].fin && !pair.pipes[1].fin);
    let talker = pair.b.machine_mut().inner_mut();
    (talker.output, talker.closes) = (b"late answer".to_vec(), true);
    let (a, b) = pair.run();
    assert_eq!(pair.a.machine().inner().received, b"late answer");
    let finished = TlsReason::Inner(Talked::Finished);
    assert_eq!((a, b), (finished.clone(), finished));
}

/// How many bytes each side sends in a handshake and an exchange, so far as it does not vary.
fn lengths() -> [usize; 2] {
    let mut pair = pair(Talker::sending(b"question"), Talker::sending(b"answer"));
    pair.settle();
    pair.pipes.each_ref().map(|pipe| pipe.sent.len())
}

/// Cuts the bytes of each direction at many places.
fn for_each_cut(fault: Harm, mut check: impl FnMut(&str, Pair<Talking, Talking>)) {
    for (direction, len) in lengths().into_iter().enumerate() {
        // The start, and places all over.
        for at in (0..8).chain((8..len).step_by(len / 25)).chain(len - 30..len) {
            let mut pair = pair(Talker::sending(b"question"), Talker::sending(b"answer"));
            pair.pipes[direction].fault = Some((at, fault));
            pair.settle();
            check(&format!("direction {direction}, byte {at} of {len}"), pair);
        }
    }
}

#[test]
fn a_fin_at_any_place_has_a_reason() {
    for_each_cut(Harm::Fin, |place, mut pair| {
        let (a, b) = pair.run();
        let cut = if place.starts_with("direction 0") { &b } else { &a };
        let complete = matches!(cut, TlsReason::Inner(Talked::Finished));
        let truncated =
            matches!(cut, TlsReason::Tls(Failure::Truncated | Failure::HandshakeTruncated { .. }));
        assert!(truncated && !complete, "{place}: {cut}");
        assert_eq!(cut.fault(), Fault::Peer, "{place}");
    });
}

#[test]
fn a_reset_at_any_place_is_a_reset() {
    for_each_cut(Harm::Reset, |place, mut pair| {
        let (a, b) = pair.run();
        let cut = if place.starts_with("direction 0") { &b } else { &a };
        assert_eq!((cut.label(), cut.fault()), ("reset", Fault::Lost), "{place}: {cut}");
    });
}

#[test]
fn silence_at_any_place_of_the_handshake_ends_at_its_deadline() {
    for_each_cut(Harm::Silence, |place, mut pair| {
        let is_handshaking = [&pair.a, &pair.b].map(|machine| machine.machine().is_handshaking());
        if is_handshaking == [false; 2] {
            return; // the inner machines have deadlines of their own, these ones not
        }
        let (a, b) = pair.run_for(Duration::from_secs(60));
        for (reason, is_handshaking) in [a, b].into_iter().zip(is_handshaking) {
            if is_handshaking {
                let reason = reason.expect("it has ended");
                let timeout = ("tls_handshake_timeout", Fault::Time);
                let closed = ("tls_handshake_truncated", Fault::Peer);
                let is_timeout = (reason.label(), reason.fault()) == timeout;
                let is_closed = (reason.label(), reason.fault()) == closed;
                assert!(is_timeout || is_closed, "{place}: {reason}");
            }
        }
    });
}

/// One byte at a time is no progress: the deadline counts from the start.
#[test]
fn a_slow_handshake_ends_at_its_deadline() {
    let mut machine = checked(server().machine(Talker::default(), Instant::EPOCH));
    let mut now = Instant::EPOCH;
    // The header of a long record.
    let bytes = [22, 3, 1, 16, 0].into_iter().chain(std::iter::repeat(0));
    let mut sent = 0;
    for byte in bytes.take(100) {
        if !machine.interest().read {
            break;
        }
        machine.read_buf()[0] = byte;
        machine.handle(now, Event::Read(1));
        machine.handle(now, Event::Release);
        sent += 1;
        now += Duration::from_millis(300);
        machine.handle(now, Event::Timeout { unacknowledged: 0 });
    }
    assert_eq!(sent, 34, "10 s in steps of 300 ms");
    assert_eq!(machine.interest().write, Outbound::Finish);
    machine.handle(now, Event::Finished);
    machine.handle(now + Duration::from_secs(2), Event::Timeout { unacknowledged: 0 });
    let reason = machine.reason().expect("it has lingered");
    let limit = Duration::from_secs(10);
    assert_eq!(reason, TlsReason::Tls(Failure::HandshakeTimeout { limit, received: 34 }));
}

/// If the peer acknowledges nothing either, the deadline for writing has passed too.
#[test]
fn a_handshake_that_times_out_with_output_pending_ends_by_a_reset() {
    let mut machine = checked(client().machine(Talker::default(), Instant::EPOCH));
    let mut now = Instant::EPOCH;
    while machine.interest().write == Outbound::Flush {
        now = machine.poll_timeout().expect("output is pending");
        machine.handle(now, Event::Timeout { unacknowledged: 0 });
    }
    assert_eq!(machine.interest().write, Outbound::Reset);
    machine.handle(now, Event::Finished);
    assert_eq!(machine.reason().expect("it has ended").label(), "tls_handshake_timeout");
}

#[test]
fn an_inverted_bit_ends_the_connection_with_a_reason_or_changes_nothing() {
    for (direction, len) in lengths().into_iter().enumerate() {
        for at in (0..12).chain((12..len - 60).step_by(len / 40)).chain(len - 60..len) {
            let mut pair = pair(Talker::sending(b"question"), Talker::sending(b"answer"));
            pair.pipes[direction].fault = Some((at, Harm::Flip(1 << (at % 8))));
            pair.settle();
            // A record that became longer: its rest does not come.
            let reasons = pair.run_for(Duration::from_secs(60));
            for talker in [pair.a.machine().inner(), pair.b.machine().inner()] {
                let sent: [&[u8]; 2] = [b"question", b"answer"];
                assert!(sent.iter().any(|sent| sent.starts_with(&talker.received)));
            }
            let (Some(a), Some(b)) = reasons else { continue };
            for reason in [&a, &b] {
                assert_ne!(reason.fault(), Fault::Bug, "{reason}");
                assert_ne!(reason.label(), "layer", "direction {direction}, byte {at}");
            }
        }
    }
}

#[test]
fn what_is_not_tls_has_a_reason() {
    let cases: [(&[u8], _); 7] = [
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "tls_not_tls"),
        (b"\0\0\0\0\0\0\0\0", "tls_not_tls"),
        (b"\x16\x02\x00\x00\x05hello", "tls_not_tls"),
        (b"\x16\x03\x01\xff\xffhello", "tls_not_tls"),
        (b"\x16\x03\x01\x00\x04\x01\0\0\0", "tls_protocol"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "tls_alert_handshake_failure"),
        (b"\x17\x03\x03\x00\x05hello", "tls_protocol"),
    ];
    for (input, label) in cases {
        for mut machine in [
            checked(server().machine(Talker::default(), Instant::EPOCH)),
            checked(client().machine(Talker::default(), Instant::EPOCH)),
        ] {
            let read = machine.read_buf();
            read[..input.len()].copy_from_slice(input);
            machine.handle(Instant::EPOCH, Event::Read(input.len()));
            assert_eq!(machine.status().state, "tls_failed", "{input:?}");
            end(&mut machine);
            let reason = machine.reason().expect("it has ended");
            assert_eq!((reason.label(), reason.fault()), (label, Fault::Peer), "{input:?}");
        }
    }
}

/// Sends what is pending, and the peer's FIN after it.
fn end(machine: &mut Talking) {
    let now = Instant::EPOCH;
    while machine.interest().write == Outbound::Flush {
        let mut bufs = [&[][..]; 1];
        machine.write_bufs(&mut bufs);
        let n = bufs[0].len();
        machine.handle(now, Event::Written(n));
    }
    if machine.interest().write == Outbound::Finish {
        machine.handle(now, Event::Finished);
    }
    if machine.interest().read {
        machine.handle(now, Event::Eof);
    }
}

#[test]
fn a_shut_down_ends_the_connection_in_every_phase() {
    let mut machine = checked(server().machine(Talker::default(), Instant::EPOCH));
    machine.handle(Instant::EPOCH, Event::ShutDown);
    machine.handle(Instant::EPOCH, Event::ShutDown);
    end(&mut machine);
    let reason = machine.reason().expect("it has ended");
    assert_eq!((reason.label(), reason.fault()), ("tls_shut_down", Fault::Requested));

    let mut handshake = Checked::new(server().handshake(Instant::EPOCH), 1 << 20);
    handshake.handle(Instant::EPOCH, Event::ShutDown);
    assert_eq!(handshake.interest().write, Outbound::Finish, "a FIN, not a reset");
    handshake.handle(Instant::EPOCH, Event::Finished);
    assert!(handshake.interest().is_done(), "there is no alert to linger for");
    assert_eq!(handshake.reason().expect("it has ended").label(), "tls_shut_down");

    let mut pair = pair(Talker::default(), Talker::default());
    pair.settle();
    pair.b.handle(pair.now, Event::ShutDown);
    pair.settle();
    assert_eq!(pair.a.machine().inner().ends, [Event::Eof]);
    pair.a.machine_mut().inner_mut().closes = true;
    let (a, b) = pair.run();
    let finished = TlsReason::Inner(Talked::Finished);
    assert_eq!((a, b), (finished.clone(), finished));
}

/// The peer's alert may still be there.
#[test]
fn a_failed_write_in_the_handshake_leaves_the_peers_explanation_readable() {
    let lost = Event::Error(Direction::Write, ConnectionError::Reset);
    let mut machine = checked(client().machine(Talker::default(), Instant::EPOCH));
    machine.handle(Instant::EPOCH, lost);
    let alert = b"\x15\x03\x03\x00\x02\x02\x28";
    machine.read_buf()[..alert.len()].copy_from_slice(alert);
    machine.handle(Instant::EPOCH, Event::Read(alert.len()));
    let failure = Failure::Alert(AlertDescription::HandshakeFailure);
    assert_eq!(machine.reason(), Some(TlsReason::Tls(failure)));

    // The handshake completes all the same: a sink that holds output reports an error later.
    let mut pair = pair(Talker::default(), Talker::default());
    pair.settle_a();
    pair.a.handle(pair.now, lost);
    pair.settle();
    assert_eq!(pair.a.reason(), Some(TlsReason::Tls(Failure::Lost(ConnectionError::Reset))));
}
