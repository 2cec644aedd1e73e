//! Each kind of machine inside of TLS, under the check of the contract, with any fragmentation.

use wirestate_core::{
    Instant, Machine, Reason as _,
    fanout::{self, Feed, Subscriber},
    message::{self, Message, service},
};
use wirestate_testkit::contract::Checked;
use wirestate_tls::{
    Client, Clients, Config, Server, TlsReason, client_config,
    rustls::{
        ProtocolVersion, SupportedCipherSuite,
        crypto::{CryptoProvider, aws_lc_rs},
    },
    server_config,
};

use crate::{
    certificates::SERVERS,
    pair::Pair,
    records::{client, client_with, server},
    talker::{Talked, Talker},
};
/// A client that sends `input`, and a server with the machine `inner`. Returns what comes back.
fn answers<M: Machine>(input: &[u8], inner: M, max: usize) -> Vec<u8> {
    let a = client().machine(Talker::sending(input), Instant::EPOCH);
    let b = server().machine(inner, Instant::EPOCH);
    let mut pair = Pair::new(Checked::new(a, 1 << 20), Checked::new(b, 1 << 20), max, max as u64);
    let (a, b) = pair.run();
    assert_eq!(a, TlsReason::Inner(Talked::Finished));
    assert_eq!(b.label(), "finished");
    pair.a.machine().inner().received.clone()
}

#[test]
fn a_message_server_answers_in_tls() {
    let mut requests = Vec::new();
    for size in [5; 300].into_iter().chain([0, 1, 20_000]) {
        Message::binary(vec![7; size]).encode(&mut requests).unwrap();
    }
    let service = service::function(|request: Message<'_>| request.into_owned());
    let server = message::Server::new(message::Config::default(), service).unwrap();
    for max in [1000, 100_000] {
        let replies = answers(&requests, server.machine(Instant::EPOCH), max);
        assert!(replies == requests, "{max}: {} bytes", replies.len());
    }
}

#[test]
fn a_subscriber_gets_every_message_in_tls() {
    let messages: Vec<u8> = (0..100 * 1024_u32).map(|i| i.to_le_bytes()[1]).collect();
    for max in [3000, 100_000] {
        let feed = Feed::new(fanout::Config::default()).unwrap();
        let a = client().machine(Talker::default(), Instant::EPOCH);
        let b = server().machine(Subscriber::new(&feed, Instant::EPOCH), Instant::EPOCH);
        let mut pair = Pair::new(Checked::new(a, 1 << 20), Checked::new(b, 1 << 20), max, 1);
        feed.publish(messages.clone().into(), 100, Instant::EPOCH);
        pair.settle();
        let received = &pair.a.machine().inner().received;
        assert!(*received == messages, "{max}: {} bytes", received.len());
    }
}

#[test]
fn tls_1_2_carries_both_directions() {
    let provider = aws_lc_rs::default_provider();
    let mut cipher_suites = provider.cipher_suites.clone();
    cipher_suites.retain(|suite| matches!(suite, SupportedCipherSuite::Tls12(_)));
    let client = client_with(CryptoProvider { cipher_suites, ..provider }.into());
    for max in [3000, 100_000] {
        let talker = || Talker::sending(vec![3; 200_000]);
        let a = Checked::new(client.machine(talker(), Instant::EPOCH), 1 << 20);
        let b = Checked::new(server().machine(talker(), Instant::EPOCH), 1 << 20);
        let mut pair = Pair::new(a, b, max, 1);
        let finished = TlsReason::Inner(Talked::Finished);
        assert_eq!(pair.run(), (finished.clone(), finished));
        let version = pair.a.machine().connection().protocol_version();
        assert_eq!(version, Some(ProtocolVersion::TLSv1_2));
        assert_eq!(pair.a.machine().inner().received.len(), 200_000);
    }
}

/// The handshake message is longer than three records.
#[test]
fn a_long_certificate_has_the_limit_of_the_buffer() {
    let mut names = vec!["localhost".to_owned()];
    names.extend((0..2300).map(|i| format!("host-{i}.example.org")));
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let credentials = server_config(vec![SERVERS.sign(&names)], Clients::Anonymous, &[]).unwrap();
    let server = Server::new(Config::default(), credentials).unwrap();
    for (buffer, max, label) in [
        (64 * 1024, 1000, "finished"),
        (64 * 1024, 100_000, "finished"),
        (34_821, 1000, "tls_handshake_too_long"),
    ] {
        let credentials = client_config(SERVERS.authorities(), None, &[]).unwrap();
        let config = Config::default().with_buffer(buffer);
        let client = Client::new(config, credentials, "localhost".try_into().unwrap()).unwrap();
        let a = client.machine(Talker::sending(b"a"), Instant::EPOCH);
        let b = server.machine(Talker::sending(b"b"), Instant::EPOCH);
        let mut pair = Pair::new(Checked::new(a, 1 << 20), Checked::new(b, 1 << 20), max, 1);
        let (a, b) = pair.run();
        assert_eq!(a.label(), label, "{b}");
    }
}
