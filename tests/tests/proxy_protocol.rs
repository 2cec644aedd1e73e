//! A machine behind a PROXY header keeps the contract under any script, and its output does not
//! depend on the cut.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::num::NonZeroUsize;

use proptest::{prelude::*, test_runner::FileFailurePersistence};
use wirestate_core::{
    Instant, Machine, Reason as _,
    admission::{Peer, Refused},
    echo::{Config, Echo, Prefix, Server},
    proxy_protocol::{self, Header, HeaderReader, Version, WithProxyHeader, announce},
};
use wirestate_testkit::{
    contract::Checked,
    script::{self, Ending, Op},
};

/// The most bytes that the echo queues, and that the wrapper queues.
const BUFFER: usize = 16;
const MOST: usize = BUFFER + 256;

fn proxy() -> Peer {
    Peer::Ip("127.0.0.1:4000".parse().unwrap())
}

fn header(version: Version) -> Vec<u8> {
    let client = Peer::Ip("192.0.2.7:50000".parse().unwrap());
    announce(version, client, Some("198.51.100.1:443".parse().unwrap()))
}

fn echo(prefix: bool) -> Config {
    let buffer = NonZeroUsize::new(BUFFER).unwrap();
    let prefix = prefix.then(|| Prefix { text: "> ".into(), chunk: buffer });
    Config::default().with_buffer(buffer).with_prefix(prefix)
}

fn behind(config: Config) -> impl Machine {
    let server = Server::new(config).unwrap();
    let make = move |header, _length, now| -> Result<Echo, Refused> {
        if let Header::Tcp { source, .. } = header
            && source.to_string() != "192.0.2.7:50000"
        {
            let network = source.ip();
            return Err(Refused::AddressFull { network, limit: 1 });
        }
        Ok(server.machine(now))
    };
    let config = proxy_protocol::Config::default();
    Checked::new(WithProxyHeader::new(&config, proxy(), Instant::EPOCH, make), MOST)
}

fn proptest_config() -> ProptestConfig {
    let file = FileFailurePersistence::Direct("proptest-regressions/proxy_protocol.txt");
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn an_echo_behind_a_header_keeps_the_contract(
        ops in script::ops(120),
        version in prop_oneof![Just(Version::V1), Just(Version::V2)],
        at in 0..200_usize,
        prefix: bool,
    ) {
        // The header comes first, cut at a random place.
        let header = header(version);
        let (head, tail) = header.split_at(at.min(header.len()));
        let mut all = vec![Op::Receive(head.to_vec()), Op::Receive(tail.to_vec())];
        all.extend(ops);
        let transcript = script::play_out(&mut behind(echo(prefix)), &all);
        prop_assert_eq!(transcript.done, transcript.reason.is_some());
        if !prefix {
            let echoed = transcript.input.get(header.len()..).unwrap_or_default();
            prop_assert!(echoed.starts_with(&transcript.output), "not what was received");
            if transcript.label == Some("finished") {
                prop_assert_eq!(echoed, &transcript.output[..]);
            }
        }
    }

    #[test]
    fn noise_in_place_of_a_header_keeps_the_contract(ops in script::ops(120)) {
        let transcript = script::play_out(&mut behind(echo(false)), &ops);
        prop_assert_eq!(transcript.done, transcript.reason.is_some());
        prop_assert!(transcript.output.is_empty(), "nobody has announced a client");
        if transcript.label == Some("proxy_header_malformed") {
            prop_assert_eq!(transcript.ending, Some(Ending::Rst));
        }
    }
}

/// This holds even if the machine reads little at a time, so that the bytes behind the header wait.
#[test]
fn what_comes_out_does_not_depend_on_the_cut() {
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    for version in [Version::V1, Version::V2] {
        let input = [&header(version)[..], &bytes].concat();
        let transcript = script::split_invariant(|| behind(echo(false)), &input);
        assert_eq!((transcript.output, transcript.label), (bytes.clone(), Some("finished")));
        for cut in 0..=input.len().min(300) {
            let ops = [
                Op::Receive(input[..cut].to_vec()),
                Op::Release,
                Op::Receive(input[cut..].to_vec()),
                Op::Eof,
            ];
            let mut machine = behind(echo(false));
            let mut player = script::Player::new(&mut machine);
            for op in &ops {
                player.play(op);
            }
            player.play_out();
            assert_eq!(player.transcript().output, bytes, "cut at {cut}");
        }
    }
}

#[test]
fn a_header_that_is_cut_short_is_named_with_its_length() {
    for version in [Version::V1, Version::V2] {
        let header = header(version);
        for end in 0..header.len() {
            let ops = [Op::Receive(header[..end].to_vec()), Op::Eof];
            let transcript = script::play_out(&mut behind(echo(false)), &ops);
            assert_eq!(
                (transcript.label, transcript.reason),
                (
                    Some("proxy_header_truncated"),
                    Some(format!("closed after {end} bytes of a PROXY header"))
                )
            );
        }
    }
}

#[test]
fn each_way_not_to_get_a_header_has_a_name() {
    let refused = announce(Version::V2, Peer::Ip("192.0.2.8:1".parse().unwrap()), None);
    let cases = [
        (vec![Op::Receive(b"GET / HTTP/1.1\r\n".to_vec())], "proxy_header_malformed"),
        (vec![Op::Receive(b"PROXY".to_vec()), Op::Timeout], "proxy_header_late"),
        (vec![Op::Timeout], "proxy_header_late"),
        (vec![Op::Eof], "proxy_header_truncated"),
        (vec![Op::Receive(refused)], "announced_refused"),
        (vec![Op::ShutDown], "shut_down"),
    ];
    for (ops, label) in cases {
        let transcript = script::play_out(&mut behind(echo(false)), &ops);
        assert!(transcript.done && transcript.output.is_empty(), "{ops:?}");
        assert_eq!(transcript.label, Some(label), "{ops:?}");
    }
}

/// The five seconds count from the accept, not from the last byte.
#[test]
fn a_slow_sender_does_not_move_the_deadline() {
    let second = std::time::Duration::from_secs(1);
    let line = header(Version::V1);
    let mut ops = Vec::new();
    for byte in &line[..6] {
        ops.extend([Op::Receive(vec![*byte]), Op::Advance(second), Op::SpuriousTimeout]);
    }
    let transcript = script::play_out(&mut behind(echo(false)), &ops);
    let said = "no whole PROXY header within 5s, but 5 bytes";
    assert_eq!(transcript.reason.as_deref(), Some(said));
}

#[test]
fn a_header_from_an_untrusted_address_is_reset_unread() {
    let stranger = Peer::Ip("192.0.2.1:4000".parse().unwrap());
    let config = proxy_protocol::Config::default();
    let reader = HeaderReader::new(&config, stranger, Instant::EPOCH);
    let mut machine = Checked::new(reader, 0);
    let ops = [Op::Receive(header(Version::V1))];
    let transcript = script::play_out(&mut machine, &ops);
    assert_eq!((transcript.input.len(), transcript.ending), (0, Some(Ending::Rst)));
    let reason = machine.reason().unwrap();
    assert_eq!(reason.label(), "proxy_header_untrusted");
    assert!(config.trusts(Peer::Local), "a Unix socket's permissions say who may");
    for (peer, trusted) in [("127.8.9.1:1", true), ("[::1]:1", true), ("[::2]:1", false)] {
        assert_eq!(config.trusts(Peer::Ip(peer.parse().unwrap())), trusted, "{peer}");
    }
}

/// Memory grows with the received bytes, not with the declared length.
#[test]
fn a_long_header_is_read_to_its_end_and_no_further() {
    let mut long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xf0".to_vec();
    long.extend([192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb]);
    long.resize(4096, 0);
    long.extend(b"hello");
    for piece in [long.len(), 300, 1] {
        let receive = |piece: &[u8]| Op::Receive(piece.to_vec());
        let ops: Vec<_> = long.chunks(piece).map(receive).collect();
        let transcript = script::play_out(&mut behind(echo(false)), &ops);
        assert_eq!(transcript.output, b"hello", "in pieces of {piece}");
    }
}
