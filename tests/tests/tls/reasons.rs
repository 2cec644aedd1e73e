//! Every reason for which TLS can end a connection.

use std::sync::Arc;

use wirestate_core::{Direction, Instant, Reason as _};
use wirestate_testkit::{
    contract::Checked,
    coverage::Coverage,
    script::{self, CONNECTION_ERRORS, Op},
};
use wirestate_tls::{
    Clients, Config, Server, TlsReason,
    rustls::{
        CipherSuite, ContentType,
        crypto::{CryptoProvider, aws_lc_rs},
    },
    server_config,
};

use crate::{
    certificates::{CLIENTS, SERVERS},
    ends::Case,
    forge::{KEY_LIMIT, tls12_with_limited_keys},
    pair::{Fault, Pair},
    records::{after_records, client, client_with, server},
    talker::{Talked, Talker},
};

const NOW: Instant = Instant::EPOCH;
const MAX_QUEUED: usize = 4 << 20;

/// The label of a server that gets this in place of a handshake.
fn end(ops: &[Op]) -> &'static str {
    let machine = server().machine(Talker::default(), NOW);
    script::play_to_end(&mut Checked::new(machine, MAX_QUEUED), ops).label.unwrap()
}

/// The labels of a client with this cryptography that sends `output`, and of a server.
fn exchange(
    provider: Arc<CryptoProvider>,
    output: Vec<u8>,
    fault: Option<(usize, Fault)>,
) -> [&'static str; 2] {
    let a = client_with(provider).machine(Talker::sending(output), NOW);
    let b = server().machine(Talker::sending(b"answer"), NOW);
    let checked = |machine| Checked::new(machine, MAX_QUEUED);
    let mut pair = Pair::new(checked(a), checked(b), 100_000, 1);
    pair.pipes[0].fault = fault;
    let (a, b) = pair.run();
    [a.label(), b.label()]
}

#[test]
fn every_reason_is_reached() {
    let coverage = Coverage::start();
    let receive = |bytes: &[u8]| Op::Receive(bytes.to_vec());
    // A hello of 65,000 bytes, in records of 100.
    let mut hello = vec![1, 0, 0xfd, 0xe8];
    hello.resize(65_000, 7);
    let records = hello.chunks(100).map(|part| [&[22, 3, 1, 0, 100], part].concat());
    for (ops, label) in [
        (vec![receive(b"GET / HTTP/1.1\r\n\r\n")], "tls_not_tls"),
        (vec![Op::Timeout], "tls_handshake_timeout"),
        (vec![receive(&[22]), Op::Eof], "tls_handshake_truncated"),
        (records.map(Op::Receive).collect(), "tls_handshake_too_long"),
        (vec![Op::ShutDown], "tls_shut_down"),
        (vec![receive(b"\x17\x03\x03\x00\x05hello")], "tls_protocol"),
    ] {
        assert_eq!(end(&ops), label);
    }
    for error in CONNECTION_ERRORS {
        assert_eq!(end(&[Op::Error(Direction::Read, error)]), error.label());
    }
    // A FIN ends a connection that an alert does not.
    for code in 0..=u8::MAX {
        let label = end(&[receive(&[21, 3, 3, 0, 2, 2, code]), Op::Eof]);
        assert!(label.starts_with("tls_"), "{code}: {label}");
    }

    let must = Clients::MustAuthenticate(CLIENTS.authorities());
    let localhost = ["localhost"];
    for (case, label) in [
        (Case { server: SERVERS.sign(&["other"]), ..Case::default() }, "wrong_name"),
        (Case { server: SERVERS.sign_until(&localhost, 2021), ..Case::default() }, "expired"),
        (
            Case { server: SERVERS.sign_between(&localhost, 2098, 2099), ..Case::default() },
            "not_valid_yet",
        ),
        (Case { server: SERVERS.sign_for_clients(&localhost), ..Case::default() }, "invalid"),
        (Case { trusted: CLIENTS.authorities(), ..Case::default() }, "unknown_issuer"),
        (Case { clients: must, ..Case::default() }, "missing"),
    ] {
        let (a, b) = case.pair().run();
        let label = format!("tls_certificate_{label}");
        assert!([a.label(), b.label()].contains(&&*label), "{label}: {a}; {b}");
    }
    let alpn = Case { alpn: [&[b"a"], &[b"b"]], ..Case::default() };
    assert_eq!(alpn.pair().run().1.label(), "tls_no_application_protocol");

    let provider = aws_lc_rs::default_provider();
    let rsa = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    let cipher_suites =
        provider.cipher_suites.iter().copied().filter(|suite| suite.suite() == rsa).collect();
    let rsa = CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() };
    assert_eq!(exchange(rsa.into(), Vec::new(), None)[1], "tls_incompatible");
    let output = vec![1; 16_384 * usize::try_from(2 * KEY_LIMIT).unwrap()];
    let exhausted = exchange(tls12_with_limited_keys(), output, None);
    assert_eq!(exhausted, ["tls_keys_exhausted", "tls_truncated"]);
    // The handshake of a client is shorter.
    let flip = Some((20_000, Fault::Flip(1)));
    assert_eq!(exchange(provider.into(), vec![1; 40_000], flip)[1], "tls_decrypt_error");
    let mut flood = after_records(&[(ContentType::ApplicationData, &b""[..]); 40], b"");
    assert_eq!(flood.run().1.label(), "tls_protocol");

    // The peer reads nothing, and the inner machine has no deadline.
    let config = Config::default().with_write_timeout(std::time::Duration::from_secs(5));
    let credentials =
        server_config(vec![SERVERS.sign(&localhost)], Clients::Anonymous, &[]).unwrap();
    let stalled = Server::new(config, credentials).unwrap();
    let a = client().machine(Talker::default(), NOW);
    let b = stalled.machine(Talker::sending(vec![1; 200_000]), NOW);
    let mut pair = Pair::new(Checked::new(a, MAX_QUEUED), Checked::new(b, MAX_QUEUED), 100_000, 1);
    pair.capacity = 10_000;
    pair.settle_a();
    script::play(&mut pair.b, &[]);
    let hello = pair.pipes[0].bytes.drain(..).collect();
    let transcript =
        script::play_to_end(&mut pair.b, &[Op::Receive(hello), Op::Timeout, Op::Timeout]);
    assert_eq!(transcript.label, Some("tls_write_stalled"));

    // No certificate is revoked, since there is no list of such. A client of rustls requests no new
    // keys of the server.
    let unreachable = ["tls_certificate_revoked", "tls_too_many_requests"];
    coverage.demand_reasons_except::<TlsReason<Talked>>(unreachable);
}
