//! Records after the handshake: full buffers, key updates, and records that break the protocol.

use std::sync::{Arc, LazyLock};

use wirestate_core::{Event, Fault, Instant, Machine, Reason as _, echo};
use wirestate_testkit::contract::Checked;
use wirestate_tls::{
    Client, Clients, Config, Failure, Server, Tls, TlsReason, client_config,
    rustls::{
        AlertDescription, ClientConfig, ContentType, RootCertStore, ServerConfig,
        crypto::CryptoProvider,
    },
    server_config,
};

use crate::{
    certificates::SERVERS,
    forge::{KEY_LIMIT, forged, forging, tls12_with_limited_keys, tls13_with_limited_keys},
    pair::Pair,
    talker::{Talked, Talker},
};

pub(crate) type Talking = Checked<Tls<Talker>>;

/// A server whose certificate always has the same length.
pub(crate) fn server() -> Server {
    static CREDENTIALS: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
        let identity = SERVERS.sign(&["localhost"]);
        server_config(vec![identity], Clients::Anonymous, &[]).unwrap()
    });
    Server::new(Config::default(), CREDENTIALS.clone()).unwrap()
}

pub(crate) fn client() -> Client {
    let credentials = client_config(SERVERS.authorities(), None, &[]).unwrap();
    Client::new(Config::default(), credentials, "localhost".try_into().unwrap()).unwrap()
}

pub(crate) fn client_with(provider: Arc<CryptoProvider>) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(SERVERS.certificate()).unwrap();
    let credentials = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    Client::new(Config::default(), Arc::new(credentials), name).unwrap()
}

fn talking(client: &Client, a: Talker, b: Talker, max: usize) -> Pair<Talking, Talking> {
    let a = Checked::new(client.machine(a, Instant::EPOCH), 4 << 20);
    let b = Checked::new(server().machine(b, Instant::EPOCH), 4 << 20);
    Pair::new(a, b, max, 1)
}

#[test]
fn two_peers_that_both_send_without_a_pause_receive_everything() {
    let output = vec![7; 600_000];
    let talker = || Talker::sending(output.clone());
    let mut pair = talking(&client(), talker(), talker(), 100_000);
    pair.capacity = 10_000;
    pair.settle();
    for machine in [&pair.a, &pair.b] {
        assert_eq!(machine.machine().inner().received.len(), output.len());
        assert_eq!(machine.reason(), Some(TlsReason::Inner(Talked::Finished)));
    }
}

#[test]
fn a_peer_that_reads_nothing_is_still_heard() {
    let paused = Talker::sending(vec![1; 300_000]).paused();
    let mut pair = talking(&client(), paused, Talker::sending(vec![2; 600_000]), 100_000);
    pair.capacity = 10_000;
    pair.settle();
    let talker = pair.b.machine().inner();
    assert_eq!((talker.received.len(), &*talker.ends), (300_000, &[Event::Eof][..]));
    assert!(!talker.output.is_empty(), "the client has read it");
}

#[test]
fn keys_are_replaced_in_tls_1_3() {
    let client = client_with(tls13_with_limited_keys());
    // Records of every length, so that a key update meets a nearly full buffer.
    let output: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    for max in [700, 17_001, 100_000] {
        let mut pair =
            talking(&client, Talker::sending(output.clone()), Talker::sending(b"x"), max);
        pair.settle();
        assert!(pair.b.machine().inner().received == output, "{:?}", pair.a.reason());
        assert_eq!(pair.a.reason(), Some(TlsReason::Inner(Talked::Finished)));
        assert_eq!(pair.b.reason(), Some(TlsReason::Inner(Talked::Finished)));
    }
}

/// The record behind the key update would just fit without it.
#[test]
fn a_key_update_has_space_in_a_nearly_full_buffer() {
    let client = client_with(tls13_with_limited_keys());
    for before in 0..KEY_LIMIT {
        let mut pair = talking(&client, Talker::default(), Talker::default(), 100_000);
        pair.settle();
        for _ in 0..before {
            pair.a.machine_mut().inner_mut().output = b"x".to_vec();
            pair.settle();
        }
        // Twice a full record and this one: 65,536 bytes less 3 records leave 42 bytes more.
        let output = vec![1; 2 * (16_384 + 16_330)];
        let talker = pair.a.machine_mut().inner_mut();
        (talker.output, talker.most) = (output, 16_384 + 16_330);
        pair.settle();
        assert_eq!(pair.a.reason(), None);
        let received = pair.b.machine().inner().received.len();
        assert_eq!(received as u64, before + 2 * (16_384 + 16_330));
    }
}

/// The peer sees that the data is not complete: there is no `close_notify`.
#[test]
fn exhausted_keys_of_tls_1_2_end_the_connection_with_a_reason() {
    let client = client_with(tls12_with_limited_keys());
    let output = vec![1; 16_384 * usize::try_from(2 * KEY_LIMIT).unwrap()];
    let mut pair = talking(&client, Talker::sending(output), Talker::default(), 100_000);
    let (a, b) = pair.run();
    assert_eq!((a.label(), a.fault()), ("tls_keys_exhausted", Fault::Limit));
    assert_eq!(b, TlsReason::Tls(Failure::Truncated));
}

pub(crate) type Record<'a> = (ContentType, &'a [u8]);

/// A client that sends these records, and a server that sends `output` when they have arrived.
pub(crate) fn after_records(records: &[Record<'_>], output: &[u8]) -> Pair<Talking, Talking> {
    let client = client_with(forging());
    let mut pair = talking(&client, Talker::default(), Talker::default(), 100_000);
    pair.settle();
    for (kind, content) in records {
        pair.a.machine_mut().inner_mut().output = forged(*kind, content);
        pair.settle_a();
    }
    pair.b.machine_mut().inner_mut().output = output.to_vec();
    pair.settle();
    pair
}

/// RFC 8446, section 5.1, forbids handshake records without content. rustls skips them, and its
/// offsets into the input point behind them from then on.
#[test]
fn an_empty_handshake_record_before_data_is_skipped() {
    let echo = echo::Server::default().machine(Instant::EPOCH);
    let client = client_with(forging()).machine(Talker::default(), Instant::EPOCH);
    let server = server().machine(echo, Instant::EPOCH);
    let mut pair =
        Pair::new(Checked::new(client, 1 << 20), Checked::new(server, 1 << 20), 100_000, 1);
    pair.settle();
    for _ in 0..2 {
        for record in [forged(ContentType::Handshake, b""), b"hello".to_vec()] {
            pair.a.machine_mut().inner_mut().output = record;
            pair.settle_a();
        }
        pair.settle();
    }
    assert_eq!(pair.a.machine().inner().received, b"hellohello");
}

#[test]
fn a_flood_of_empty_records_ends_the_connection() {
    let records = [(ContentType::ApplicationData, &b""[..]); 40];
    let pair = after_records(&records, b"");
    let reason = pair.b.reason().expect("it has ended");
    assert_eq!((reason.label(), reason.fault()), ("tls_protocol", Fault::Peer));
}

/// A client that renegotiates in TLS 1.3, sends half a message, or an unknown record.
#[test]
fn records_that_break_the_protocol_end_the_connection_with_a_reason_and_an_alert() {
    let cases: [(&[Record<'_>], _, _); 4] = [
        (
            &[(ContentType::Handshake, &[1, 0, 0, 1, 0])],
            "tls_protocol",
            Some(AlertDescription::DecodeError),
        ),
        (
            &[(ContentType::Handshake, &[24, 0, 0, 1]), (ContentType::ApplicationData, b"x")],
            "tls_protocol",
            None,
        ),
        (&[(ContentType::Handshake, &[24, 0, 0, 1, 7])], "tls_protocol", None),
        (&[(ContentType::Handshake, &[8, 255, 255, 255, 7])], "tls_handshake_too_long", None),
    ];
    for (records, label, alert) in cases {
        let mut pair = after_records(records, b"");
        let (a, b) = pair.run();
        assert_eq!(b.label(), label, "{records:?}: {b}");
        if let Some(alert) = alert {
            assert_eq!(a, TlsReason::Tls(Failure::Alert(alert)), "{records:?}");
        }
    }
}
