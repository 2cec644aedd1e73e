//! The list of bad inputs: each gives one error for every cut and decoder, and the peer gets an
//! error reply.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wirestate_core::{
    Fault, Reason as _,
    message::{
        ByteOrder, Config, DecodeError, FrameLimits, Header, HeaderError, Message, MessageReason,
    },
};
use wirestate_testkit::{
    message::{any_bad_frame, bad_frames, bad_headers, frames, golden, messages},
    proptest_config,
    script::{cut_invariant, cuts, pieces},
};

use crate::reading::{by_client, by_decoder, by_inbox, by_server, by_streaming_inbox};

#[test]
fn there_are_hundreds_of_different_inputs_with_different_names() {
    let mut names = BTreeMap::new();
    for bad in bad_frames() {
        let previous = names.insert(bad.name.clone(), bad.bytes.clone());
        assert_eq!(previous, None, "two inputs are named {:?}", bad.name);
    }
    assert_eq!((names.len(), bad_headers().len()), (COUNT, HEADERS));
    let mut inputs: Vec<&Vec<u8>> = names.values().collect();
    inputs.sort();
    inputs.dedup();
    assert_eq!(inputs.len(), COUNT, "two inputs are equal");
}

const COUNT: usize = 560;
const HEADERS: usize = 500;

#[test]
fn each_invalid_header_gives_its_error() {
    let mut wrong = Vec::new();
    for bad in bad_headers() {
        match Header::from_json(&bad.json) {
            Err(error) if bad.expects(&error) => {}
            other => wrong.push(format!("{}: {:?}, not {:?}", bad.name, other, bad.error)),
        }
    }
    assert!(wrong.is_empty(), "{} headers:\n{}", wrong.len(), wrong.join("\n"));
}

/// Compares `Decoder` with `Inbox`: on the whole input, byte by byte, and with random cuts.
#[test]
fn each_bad_input_has_its_error_for_every_cut_and_decoder() {
    let limits = FrameLimits::default();
    for bad in bad_frames() {
        let read = |pieces: &[&[u8]]| {
            let read = by_decoder(limits, pieces);
            assert_eq!(by_inbox(limits, 0, pieces), read, "{}", bad.name);
            read
        };
        // Long inputs are slow byte by byte.
        let (messages, error) = if bad.bytes.len() < 250 {
            cut_invariant(&bad.bytes, read)
        } else {
            let whole = read(&[&bad.bytes]);
            let pieces: Vec<&[u8]> =
                bad.bytes.chunks(if bad.bytes.len() < 5000 { 1 } else { 997 }).collect();
            assert_eq!(read(&pieces), whole, "{}", bad.name);
            whole
        };
        assert_eq!(messages.len(), bad.frames_before, "{}", bad.name);
        let error = error.unwrap_or_else(|| panic!("{} is accepted", bad.name));
        assert!(bad.expects(&error), "{}: {error:?}, not {:?}", bad.name, bad.error);
        assert_eq!(by_streaming_inbox(limits, 9, &[&bad.bytes]).1, Some(error.clone()));
        assert_eq!(by_client(limits, &[&bad.bytes]).1, Some(error), "{}", bad.name);
    }
}

/// The peer gets the replies to its valid requests, one error reply, and a FIN.
#[test]
fn a_peer_that_sends_bad_input_gets_an_error_reply() {
    for bad in bad_frames() {
        let config = Config::default();
        let expected = by_decoder(config.frame_limits, &[&bad.bytes]).1.unwrap();
        let byte_by_byte: Vec<&[u8]> = bad.bytes.chunks(1).collect();
        for pieces in [&[&bad.bytes[..]][..], &byte_by_byte] {
            let served = by_server(&config, pieces);
            assert!(served.fin, "{}", bad.name);
            let (error, replies) = served.replies.split_last().expect(&bad.name);
            assert_eq!(frames(replies), golden().repeat(bad.frames_before), "{}", bad.name);
            assert!(error.is_json() && error.byteorder == ByteOrder::NATIVE);
            let text: serde_json::Value = serde_json::from_slice(&error.content).unwrap();
            assert_eq!(text["result"], format!("Error: {expected}"), "{}", bad.name);
            assert!(error.content.len() < 300, "a long quotation is not cut: {}", bad.name);
            let reason = served.reason.unwrap();
            if let MessageReason::Malformed(error) = &reason {
                assert!(bad.expects(error), "{}: {error:?}", bad.name);
            }
            assert_eq!(reason.to_string(), expected.to_string(), "{}", bad.name);
            assert_eq!(reason.fault(), fault(&expected), "{}", bad.name);
        }
    }
}

/// The expected fault of an error.
fn fault(error: &DecodeError) -> Fault {
    match error {
        DecodeError::HeaderTooLong { .. } | DecodeError::ContentTooLong { .. } => Fault::Limit,
        DecodeError::EmptyHeader | DecodeError::Header(_) | DecodeError::Truncated { .. } => {
            Fault::Peer
        }
        _ => panic!("an unknown error: {error}"),
    }
}

/// The text of the most important error replies.
#[test]
fn error_replies_name_the_limit_and_the_figure() {
    let error_reply = |name: &str| {
        let bad = bad_frames().into_iter().find(|bad| bad.name == name);
        let bad = bad.unwrap_or_else(|| panic!("no bad frame is named {name}"));
        let served = by_server(&Config::default(), &[&bad.bytes]);
        String::from_utf8(served.replies.last().unwrap().content.to_vec()).unwrap()
    };
    for (name, error) in [
        (
            "invalid length: -1",
            concat!(
                r#"the header's \"content-length\" is -1 where "#,
                "a whole number of bytes below 2^64 is expected"
            ),
        ),
        (
            "wrong type: content-length: true",
            concat!(
                r#"the header's \"content-length\" is a boolean where "#,
                "a whole number of bytes is expected"
            ),
        ),
        (
            r#"wrong type: content-length: "3""#,
            concat!(
                r#"the header's \"content-length\" is a string where "#,
                "a whole number of bytes is expected"
            ),
        ),
        (
            "invalid length: 3.0",
            concat!(
                r#"the header's \"content-length\" is 3.0 where "#,
                "a whole number of bytes below 2^64 is expected"
            ),
        ),
        (
            "wrong type: content-length: null",
            concat!(
                r#"the header's \"content-length\" is null where "#,
                "a whole number of bytes is expected"
            ),
        ),
        (
            "invalid length: 18446744073709551616",
            concat!(
                r#"the header's \"content-length\" is 1.8446744073709552e19 where "#,
                "a whole number of bytes below 2^64 is expected"
            ),
        ),
        ("duplicate: an unknown key", r#"the header has the key \"x\" twice"#),
        (
            r#"not an object: ["little","text/json","utf-8",41]"#,
            "the header is an array where an object is expected",
        ),
        ("byte-order mark: in front", "the header begins with a byte-order mark"),
        ("not UTF-8: FF, in an unknown key", "the header is not UTF-8: byte 105 of 111"),
        (
            r"control character: '\n'",
            concat!(
                r"the header is not JSON: control character (\\u0000-\\u001F) found ",
                "while parsing a string at line 2 column 0"
            ),
        ),
        ("nesting: 1000 arrays", "the header is nested more than 16 levels deep"),
        (
            "content length: 4000000000000",
            "a content of 4000000000000 bytes, more than the limit of 1048576",
        ),
        ("header length: 0", "a header of 0 bytes"),
        ("header length: 65535", "a header of 65535 bytes, more than the limit of 4096"),
        ("truncated: after 105 bytes", "the input ended after 105 of a frame's 146 bytes"),
    ] {
        assert_eq!(error_reply(name), format!(r#"{{"result": "Error: {error}"}}"#), "{name}");
    }
}

/// Inputs that look bad, but are valid.
#[test]
fn unusual_but_valid_headers_are_accepted() {
    let header = |json: &str| {
        let mut bytes = u16::try_from(json.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        let (messages, error) = by_decoder(FrameLimits::default(), &[&bytes]);
        assert_eq!(
            by_inbox(FrameLimits::default(), 0, &[&bytes]),
            (messages.clone(), error.clone())
        );
        (messages, error)
    };
    let minimal = r#""content-length":0,"byteorder":"big","content-type":"","content-encoding":"""#;
    let deepest = ["[".repeat(15), "]".repeat(15)].concat();
    let keys = (0..300).map(|i| format!(r#""{i}": {i}, "#)).collect::<Vec<_>>().concat();
    for (name, json) in [
        (
            "an empty content",
            concat!(
                r#"{"content-length": 0, "byteorder": "big", "content-type": "text/json", "#,
                r#""content-encoding": "utf-8"}"#,
            )
            .to_owned(),
        ),
        (
            "empty texts",
            concat!(
                r#"{"content-length": 0, "byteorder": "big", "content-type": "", "#,
                r#""content-encoding": ""}"#,
            )
            .to_owned(),
        ),
        ("no space", format!("{{{minimal}}}")),
        (
            "much space",
            concat!(
                "\t\r\n {\"content-length\" \t:\n0 ,\"byteorder\": \"big\",",
                "\"content-type\":\"\",\"content-encoding\":\"\"\r}\n\n\t ",
            )
            .to_owned(),
        ),
        (
            "escapes",
            concat!(
                r#"{"content\u002dlength":0,"byteorder":"\u0062\u0069\u0067","#,
                r#""content-type":"\ud83d\udc36\/","content-encoding":"\"\\\b\f\n\r\t"}"#,
            )
            .to_owned(),
        ),
        (
            "a mark within a text",
            concat!(
                "{\"content-length\":0,\"byteorder\":\"big\",\"content-type\":\"\u{feff}\",",
                "\"content-encoding\":\"\u{7f}\u{2028}\"}",
            )
            .to_owned(),
        ),
        (
            "noncharacters",
            concat!(
                "{\"content-length\":0,\"byteorder\":\"big\",",
                "\"content-type\":\"\u{fffe}\u{10ffff}\",\"content-encoding\":\"\\uffff\"}",
            )
            .to_owned(),
        ),
        (
            "further keys of any kind",
            format!(
                r#"{{"x":null,"y":[1e5,-0.0,"",{{}}],"Byteorder":1,"deep":{deepest},{minimal}}}"#
            ),
        ),
        (
            "the same key at different levels",
            format!(r#"{{"x":{{"x":{{"x":1}},"y":{{"x":1}}}},"y":{{"byteorder":"?"}},{minimal}}}"#),
        ),
        ("hundreds of keys", format!("{{{keys}{minimal}}}")),
    ] {
        let (messages, error) = header(&json);
        assert_eq!(error, None, "{name}");
        assert_eq!((messages.len(), messages[0].content.len()), (1, 0), "{name}");
        assert_eq!(messages[0].byteorder, ByteOrder::Big, "{name}");
    }
}

#[test]
fn a_frame_may_be_exactly_as_long_as_the_limits() {
    let limits = FrameLimits::new(110, 10);
    let sent = Message { content_encoding: "".into(), ..Message::binary(vec![1; 10]) };
    let bytes = frames([&sent]);
    let header = u16::from_be_bytes([bytes[0], bytes[1]]);
    let exact = limits.with_max_header(header);
    assert_eq!(by_decoder(exact, &[&bytes]), (vec![sent], None));
    for (limits, error) in [
        (
            limits.with_max_header(header - 1),
            DecodeError::HeaderTooLong { declared: header, limit: header - 1 },
        ),
        (exact.with_max_content(9), DecodeError::ContentTooLong { declared: 10, limit: 9 }),
        (exact.with_max_content(0), DecodeError::ContentTooLong { declared: 10, limit: 0 }),
    ] {
        assert_eq!(by_decoder(limits, &[&bytes]), (vec![], Some(error.clone())));
        assert_eq!(by_inbox(limits, 0, &[&bytes]), (vec![], Some(error.clone())));
        assert_eq!(by_client(limits, &[&bytes]), (vec![], Some(error.clone())));
        let served = by_server(&Config::default().with_frame_limits(limits), &[&bytes]);
        assert_eq!(served.reason, Some(MessageReason::Malformed(error)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..proptest_config() })]

    /// Good frames, then a bad one, then random bytes.
    #[test]
    fn the_error_and_the_messages_before_it_do_not_depend_on_the_cut(
        (good, bad, bytes, cut) in
            (prop::collection::vec(messages(300), 0..3), any_bad_frame(), any::<[u8; 7]>())
                .prop_flat_map(|(good, bad, more)| {
                    let ends = matches!(bad.error, DecodeError::Truncated { .. });
                    let more = if ends { &[][..] } else { &more };
                    let bytes = [&frames(&good)[..], &bad.bytes, more].concat();
                    let cut = cuts(bytes.len());
                    (Just(good), Just(bad), Just(bytes), cut)
                }),
    ) {
        let limits = FrameLimits::default();
        let pieces: Vec<&[u8]> = pieces(&bytes, &cut).collect();
        let whole = by_decoder(limits, &[&bytes]);
        prop_assert_eq!(whole.0.len(), good.len() + bad.frames_before);
        prop_assert!(bad.expects(whole.1.as_ref().unwrap()), "{}: {:?}", bad.name, whole.1);
        prop_assert_eq!(&by_decoder(limits, &pieces), &whole);
        prop_assert_eq!(&by_inbox(limits, 0, &pieces), &whole);
        prop_assert_eq!(&by_streaming_inbox(limits, 500, &pieces), &whole);
        let served = by_server(&Config::default(), &pieces);
        let (error, replies) = served.replies.split_last().unwrap();
        prop_assert_eq!(replies, &whole.0[..]);
        prop_assert_eq!(error, &Message::error(whole.1.unwrap()));
    }

    /// Random bytes, and random bytes behind a valid length, give the same result for all decoders.
    #[test]
    fn the_decoders_agree_on_arbitrary_input(
        json in "[{}\\[\\],:\"\\\\0-9eE+. a-zé]{0,60}",
        noise in any::<bool>(),
    ) {
        let limits = FrameLimits::new(200, 20);
        let length = u16::try_from(json.len()).unwrap().to_be_bytes();
        let bytes =
            if noise { json.into_bytes() } else { [&length[..], json.as_bytes()].concat() };
        let read = cut_invariant(&bytes, |pieces| {
            let read = by_decoder(limits, pieces);
            assert_eq!(by_inbox(limits, 0, pieces), read);
            read
        });
        if let Some(DecodeError::Header(HeaderError::NotJson(text))) = read.1 {
            prop_assert!(text.len() < 200);
        }
    }
}
