//! A client and a server, connected to each other without a network.

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use wirestate_command_line::load::{Load, LoadConfig, LoadReason, Pace};
use wirestate_core::{
    Event, Instant, Machine as _, Outbound, Reason as _,
    buffer::Pool,
    echo::{self, EchoReason},
};
use wirestate_testkit::contract::Checked;
use wirestate_tls::{
    Client, Clients, Config, Failure, Server, Tls, TlsReason, client_config,
    rustls::AlertDescription, server_config,
};

use crate::{
    certificates::{CLIENTS, SERVERS},
    pair::Pair,
};

type TlsClient = Checked<Tls<Load<fn(Duration)>>>;
type TlsServer = Checked<Tls<echo::Connection>>;

fn server(clients: Clients) -> Server {
    let identity = SERVERS.sign(&["localhost"]);
    Server::new(Config::default(), server_config(vec![identity], clients, &[]).unwrap()).unwrap()
}

fn client(name: &'static str) -> Client {
    let credentials = client_config(SERVERS.authorities(), None, &[]).unwrap();
    Client::new(Config::default(), credentials, name.try_into().unwrap()).unwrap()
}

fn load(rounds: u64) -> Load<fn(Duration)> {
    let messages: Vec<_> =
        [1, 700, 22, 3000, 40_000].map(|size| Bytes::from(vec![b'm'; size])).into();
    let config = LoadConfig::default()
        .with_messages(messages)
        .with_rounds(rounds)
        .with_pace(Pace::Pipelined(NonZeroUsize::new(3).unwrap()));
    Load::new(config, Pool::new(512, 1), Instant::EPOCH, (|_| {}) as fn(_)).unwrap()
}

fn pair(client: &Client, server: &Server, max: usize, seed: u64) -> Pair<TlsClient, TlsServer> {
    let echo = echo::Server::default().machine(Instant::EPOCH);
    // Ciphertext, and the plaintext of the inner machine.
    let limit = 256 * 1024;
    let a = Checked::new(client.machine(load(3), Instant::EPOCH), limit).with_deadlines();
    let b = Checked::new(server.machine(echo, Instant::EPOCH), limit).with_deadlines();
    Pair::new(a, b, max, seed)
}

#[test]
fn every_byte_comes_back() {
    for (max, seed) in [(100, 2), (1000, 3), (17_000, 4), (100_000, 5)] {
        let mut pair = pair(&client("localhost"), &server(Clients::Anonymous), max, seed);
        let ended = pair.run();
        let bytes = 3 * (1 + 700 + 22 + 3000 + 40_000);
        assert_eq!(
            ended,
            (
                TlsReason::Inner(LoadReason::Complete { bytes }),
                TlsReason::Inner(EchoReason::Finished)
            )
        );
    }
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let mut pair = pair(&client("example.org"), &server(Clients::Anonymous), 1000, 1);
    let (client, server) = pair.run();
    assert_eq!(client.label(), "tls_certificate_wrong_name");
    assert_eq!(server, TlsReason::Tls(Failure::Alert(AlertDescription::BadCertificate)));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let clients = Clients::MustAuthenticate(CLIENTS.authorities());
    let mut pair = pair(&client("localhost"), &server(clients), 1000, 1);
    let (client, server) = pair.run();
    assert_eq!(server, TlsReason::Tls(Failure::NoCertificate));
    assert_eq!(client, TlsReason::Tls(Failure::Alert(AlertDescription::CertificateRequired)));
}

/// It lingers for an alert only, and there is no alert for a timeout.
#[test]
fn a_handshake_that_takes_too_long_ends_without_lingering() {
    let echo = echo::Server::default().machine(Instant::EPOCH);
    let mut server = server(Clients::Anonymous).machine(echo, Instant::EPOCH);
    let deadline = server.poll_timeout().unwrap();
    server.handle(deadline, Event::Timeout { unacknowledged: 0 });
    assert_eq!(server.interest().write, Outbound::Finish);
    server.handle(deadline, Event::Finished);
    assert!(server.interest().is_done(), "{:?}", server.interest());
    assert_eq!(server.reason().unwrap().label(), "tls_handshake_timeout");
}
