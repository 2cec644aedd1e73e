//! The golden frames, which every implementation must decode and encode.

use wirestate_command_line::search::{self, Table};
use wirestate_core::message::{Config, DecodeError, FrameLimits, Message};
use wirestate_testkit::{
    message::{GOLDEN_CONTENT, GOLDEN_HEADER, frames, golden},
    script::{byte_by_byte, every_cut_in_two, pieces},
};

use crate::reading::{by_client, by_decoder, by_inbox, by_server, by_streaming_inbox};

const LIMITS: FrameLimits = FrameLimits::new(140, 1000);

/// The golden request, and the replies to it, to a search without a result and to binary content.
fn goldens() -> Vec<Vec<u8>> {
    let table = Table::default();
    let little = |mut message: Message<'static>| {
        message.byteorder = wirestate_core::message::ByteOrder::Little;
        frames([&message])
    };
    let requests = [("search", "morpheus"), ("search", "it's"), ("shout", "🐶, and more")];
    requests
        .into_iter()
        .flat_map(|(action, value)| {
            let request = search::request(action, value);
            let reply = table.answer(&request);
            [little(request), little(reply)]
        })
        .collect()
}

#[test]
fn the_golden_frames_have_the_expected_bytes() {
    let binary = |kind: &str, content: &str| {
        let header = format!(
            "{{\"byteorder\": \"little\", \"content-type\": \"binary/custom-{kind}-binary-type\", \
             \"content-encoding\": \"binary\", \"content-length\": {}}}",
            content.len()
        );
        format!("\0{}{header}{content}", char::from(u8::try_from(header.len()).unwrap()))
    };
    let goldens: Vec<String> =
        goldens().into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
    assert_eq!(goldens[0].as_bytes(), golden());
    assert_eq!(goldens[0], format!("\0g{GOLDEN_HEADER}{GOLDEN_CONTENT}"));
    assert!(goldens[1].ends_with(r#"{"result": "Shaper of dreams, son of sleep."}"#));
    assert!(goldens[3].ends_with(r#"{"result": "No match for 'it's'."}"#));
    assert_eq!(goldens[4].len() - goldens[4].find('}').unwrap(), 1 + "shout🐶, and more".len());
    assert_eq!(&goldens[4][1..], &binary("client", "shout🐶, and more")[1..]);
    assert!(goldens[5].ends_with("First 10 bytes of request: shout🐶,"));
}

#[test]
fn a_golden_frame_is_decoded_wherever_it_is_cut() {
    for frame in goldens() {
        let expected = by_decoder(LIMITS, &[&frame]);
        assert_eq!((expected.0.len(), &expected.1), (1, &None));
        for cut in every_cut_in_two(frame.len()).chain([byte_by_byte(frame.len())]) {
            let pieces: Vec<&[u8]> = pieces(&frame, &cut).collect();
            assert_eq!(by_decoder(LIMITS, &pieces), expected, "{cut:?}");
            assert_eq!(by_inbox(LIMITS, 0, &pieces), expected, "{cut:?}");
            assert_eq!(by_streaming_inbox(LIMITS, 0, &pieces), expected, "{cut:?}");
            assert_eq!(by_client(LIMITS, &pieces), expected, "{cut:?}");
            let served = by_server(&Config::default().with_frame_limits(LIMITS), &pieces);
            assert_eq!(served.output, frame, "{cut:?}");
        }
    }
}

#[test]
fn a_truncated_golden_frame_is_an_error_with_both_lengths() {
    for frame in goldens() {
        let head = 2 + usize::from(u16::from_be_bytes([frame[0], frame[1]]));
        for received in 0..frame.len() {
            let expected = match received {
                0..2 => 2,
                2.. if received < head => head,
                2.. => frame.len(),
            };
            let (received_64, expected) = (received as u64, expected as u64);
            let truncated = DecodeError::Truncated { received: received_64, expected };
            let truncated = (received > 0).then_some(truncated);
            for piece in [1, 7, usize::MAX] {
                let pieces: Vec<&[u8]> = frame[..received].chunks(piece).collect();
                assert_eq!(by_decoder(LIMITS, &pieces), (vec![], truncated.clone()));
                assert_eq!(by_inbox(LIMITS, 0, &pieces), (vec![], truncated.clone()));
                assert_eq!(by_streaming_inbox(LIMITS, 0, &pieces), (vec![], truncated.clone()));
                assert_eq!(by_client(LIMITS, &pieces), (vec![], truncated.clone()));
                let served = by_server(&Config::default().with_frame_limits(LIMITS), &pieces);
                let errors: Vec<Message<'_>> = truncated.iter().map(Message::error).collect();
                assert_eq!(served.replies, errors);
                assert!(served.fin);
            }
        }
    }
}

/// The next frame begins exactly 2 + header + content bytes after the last one.
#[test]
fn consecutive_golden_frames_are_decoded_in_order() {
    let bytes = goldens().concat();
    let expected = by_decoder(LIMITS, &[&bytes]);
    assert_eq!(expected.0.len(), 6);
    for cut in every_cut_in_two(bytes.len()).chain([byte_by_byte(bytes.len())]) {
        let pieces: Vec<&[u8]> = pieces(&bytes, &cut).collect();
        assert_eq!(by_inbox(LIMITS, 0, &pieces), expected, "{cut:?}");
        assert_eq!(by_decoder(LIMITS, &pieces), expected, "{cut:?}");
    }
}
