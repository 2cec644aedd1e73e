//! A machine with a PROXY header, without a runtime: after any events it keeps the contract, and
//! its output does not depend on how the input was split.

#![expect(clippy::unwrap_used, reason = "this is how a test fails, also outside of its function")]

use std::num::NonZeroUsize;

use proptest::prelude::*;
use wirestate_core::{
    Direction, Instant, Machine, Reason as _,
    admission::{Peer, Refused},
    echo::{Config, Connection, Prefix, Server},
    proxy_protocol::{
        Header, HeaderPolicy, HeaderReader, ProxyHeaderReason, Version, WithProxyHeader, encode,
    },
};
use wirestate_testkit::{
    contract::Checked,
    coverage::Coverage,
    for_each_case,
    script::{self, CONNECTION_ERRORS, Ending, Op},
};

/// The size of the echo's buffer.
const BUFFER: usize = 16;
/// The most bytes that the machine may hold: that buffer, and bytes received with the header.
const MAX_HELD: usize = BUFFER + 256;

fn proxy() -> Peer {
    Peer::Ip("127.0.0.1:4000".parse().unwrap())
}

fn header(version: Version) -> Vec<u8> {
    let client = Peer::Ip("192.0.2.7:50000".parse().unwrap());
    encode(version, client, Some("198.51.100.1:443".parse().unwrap()))
}

fn echo(prefix: bool) -> Config {
    let buffer = NonZeroUsize::new(BUFFER).unwrap();
    let prefix = prefix.then(|| Prefix { text: "> ".into(), chunk: buffer });
    Config::default().with_buffer(buffer).with_prefix(prefix)
}

fn with_header(config: Config) -> impl Machine {
    let server = Server::new(config).unwrap();
    let make = move |header, _length, now| -> Result<Connection, Refused> {
        if let Header::Tcp { source, .. } = header
            && source.to_string() != "192.0.2.7:50000"
        {
            let network = source.ip();
            return Err(Refused::AddressFull { network, limit: 1 });
        }
        Ok(server.machine(now))
    };
    let policy = HeaderPolicy::default();
    Checked::new(WithProxyHeader::new(&policy, proxy(), Instant::EPOCH, make), MAX_HELD)
}

#[test]
fn an_echo_after_a_header_keeps_the_contract() {
    for_each_case(
        256,
        (
            script::ops(120),
            prop_oneof![Just(Version::V1), Just(Version::V2)],
            0..200_usize,
            any::<bool>(),
        ),
        |(ops, version, at, prefix)| {
            // The header comes first, split at a random byte.
            let header = header(version);
            let (head, tail) = header.split_at(at.min(header.len()));
            let mut all = vec![Op::Receive(head.to_vec()), Op::Receive(tail.to_vec())];
            all.extend(ops);
            let transcript = script::play_out(&mut with_header(echo(prefix)), &all);
            assert_eq!(transcript.done, transcript.reason.is_some());
            if !prefix {
                let echoed = transcript.input.get(header.len()..).unwrap_or_default();
                assert!(echoed.starts_with(&transcript.output), "the output is not the input");
                if transcript.label == Some("finished") {
                    assert_eq!(echoed, &transcript.output[..]);
                }
            }
        },
    );
}

#[test]
fn noise_in_place_of_a_header_keeps_the_contract() {
    for_each_case(256, script::ops(120), |ops| {
        let transcript = script::play_out(&mut with_header(echo(false)), &ops);
        assert_eq!(transcript.done, transcript.reason.is_some());
        assert!(transcript.output.is_empty(), "there is output without a client");
        if transcript.label == Some("proxy_header_malformed") {
            assert_eq!(transcript.ending, Some(Ending::Rst));
        }
    });
}

/// The echo's buffer is small, so bytes that were received with the header have to wait.
#[test]
fn the_output_does_not_depend_on_how_the_input_was_split() {
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    for version in [Version::V1, Version::V2] {
        let input = [&header(version)[..], &bytes].concat();
        let transcript = script::split_invariant(|| with_header(echo(false)), &input);
        assert_eq!((transcript.output, transcript.label), (bytes.clone(), Some("finished")));
        for cut in 0..=input.len().min(300) {
            let ops = [
                Op::Receive(input[..cut].to_vec()),
                Op::Release,
                Op::Receive(input[cut..].to_vec()),
                Op::Eof,
            ];
            let mut machine = with_header(echo(false));
            let mut player = script::Player::new(&mut machine);
            for op in &ops {
                player.play(op);
            }
            player.play_out();
            assert_eq!(player.transcript().output, bytes, "split at {cut}");
        }
    }
}

#[test]
fn the_reason_of_a_truncated_header_has_its_length() {
    for version in [Version::V1, Version::V2] {
        let header = header(version);
        for end in 0..header.len() {
            let ops = [Op::Receive(header[..end].to_vec()), Op::Eof];
            let transcript = script::play_out(&mut with_header(echo(false)), &ops);
            assert_eq!(
                (transcript.label, transcript.reason),
                (
                    Some("proxy_header_truncated"),
                    Some(format!("FIN after {end} bytes of a PROXY header"))
                )
            );
        }
    }
}

#[test]
fn each_end_without_a_header_has_its_own_reason() {
    let refused = encode(Version::V2, Peer::Ip("192.0.2.8:1".parse().unwrap()), None);
    let cases = [
        (vec![Op::Receive(b"GET / HTTP/1.1\r\n".to_vec())], "proxy_header_malformed"),
        (vec![Op::Receive(b"PROXY".to_vec()), Op::Timeout], "proxy_header_late"),
        (vec![Op::Timeout], "proxy_header_late"),
        (vec![Op::Eof], "proxy_header_truncated"),
        (vec![Op::Receive(refused)], "proxy_header_refused"),
        (vec![Op::ShutDown], "shut_down"),
    ];
    for (ops, label) in cases {
        let transcript = script::play_out(&mut with_header(echo(false)), &ops);
        assert!(transcript.done && transcript.output.is_empty(), "{ops:?}");
        assert_eq!(transcript.label, Some(label), "{ops:?}");
    }
}

/// The 5 s count from the connection, not from the last byte.
#[test]
fn a_slow_sender_does_not_extend_the_timeout() {
    let second = std::time::Duration::from_secs(1);
    let line = header(Version::V1);
    let mut ops = Vec::new();
    for byte in &line[..6] {
        ops.extend([Op::Receive(vec![*byte]), Op::Advance(second), Op::SpuriousTimeout]);
    }
    let transcript = script::play_out(&mut with_header(echo(false)), &ops);
    let expected = "no complete PROXY header within 5s; bytes received: 5";
    assert_eq!(transcript.reason.as_deref(), Some(expected));
}

#[test]
fn an_untrusted_peer_is_reset_without_being_read() {
    let untrusted = Peer::Ip("192.0.2.1:4000".parse().unwrap());
    let policy = HeaderPolicy::default();
    let reader = HeaderReader::new(&policy, untrusted, Instant::EPOCH);
    let mut machine = Checked::new(reader, 0);
    let ops = [Op::Receive(header(Version::V1))];
    let transcript = script::play_out(&mut machine, &ops);
    assert_eq!((transcript.input.len(), transcript.ending), (0, Some(Ending::Rst)));
    let reason = machine.reason().unwrap();
    assert_eq!(reason.label(), "proxy_header_untrusted");
    assert!(policy.trusts(Peer::Local), "the permissions of a Unix socket decide");
    for (peer, trusted) in [("127.8.9.1:1", true), ("[::1]:1", true), ("[::2]:1", false)] {
        assert_eq!(policy.trusts(Peer::Ip(peer.parse().unwrap())), trusted, "{peer}");
    }
}

/// Nothing after the header is read into its buffer.
#[test]
fn a_long_header_is_read_to_its_end_and_no_further() {
    let mut long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xf0".to_vec();
    long.extend([192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb]);
    long.resize(4096, 0);
    long.extend(b"hello");
    for piece in [long.len(), 300, 1] {
        let receive = |piece: &[u8]| Op::Receive(piece.to_vec());
        let ops: Vec<_> = long.chunks(piece).map(receive).collect();
        let transcript = script::play_out(&mut with_header(echo(false)), &ops);
        assert_eq!(transcript.output, b"hello", "in pieces of {piece}");
    }
}

#[test]
fn every_reason_of_a_header_is_reached() {
    let coverage = Coverage::start();
    let end = |peer: &str, ops: &[Op]| {
        let peer = Peer::Ip(peer.parse().unwrap());
        let reader = HeaderReader::new(&HeaderPolicy::default(), peer, Instant::EPOCH);
        script::play_to_end(&mut Checked::new(reader, 0), ops).label.unwrap()
    };
    let trusted = "127.0.0.1:4000";
    let receive = |text: &str| Op::Receive(text.into());
    assert_eq!(end("192.0.2.1:4000", &[]), "proxy_header_untrusted");
    for (ops, label) in [
        (vec![receive("GET / HTTP/1.1")], "proxy_header_malformed"),
        (vec![receive("PROXY"), Op::Eof], "proxy_header_truncated"),
        (vec![receive("PROXY"), Op::Timeout], "proxy_header_late"),
        (vec![Op::ShutDown], "shut_down"),
    ] {
        assert_eq!(end(trusted, &ops), label, "{ops:?}");
    }
    for error in CONNECTION_ERRORS {
        assert_eq!(end(trusted, &[Op::Error(Direction::Read, error)]), error.label());
    }
    let mut refused = HeaderReader::new(&HeaderPolicy::default(), proxy(), Instant::EPOCH);
    refused.refuse(Refused::AddressFull { network: "192.0.2.7".parse().unwrap(), limit: 1 });
    script::play_to_end(&mut Checked::new(refused, 0), &[]);
    coverage.demand_reasons::<ProxyHeaderReason>();
}
