//! Runs the decoder and the inbox on several cuts of the input.

use arbitrary::Unstructured;
use wirestate_core::{
    buffer::Pool,
    message::{
        DecodeError, DecodeEvent, Decoder, Delivery, FrameLimits, Header, Inbox, Incoming, Message,
        PartialFrame,
    },
};

use crate::frames::{self, Frames, Rest, with_content};

/// Decodes limits and four sizes of pieces from `bytes`. The rest is the input: whole, byte by
/// byte, and in pieces of these sizes in turn.
///
/// For every cut, a [`Decoder`] finds the same frames, and an [`Inbox`] with small buffers the same
/// messages, whole or streamed. Then both find the same part of a frame, or return the same error
/// at every further call.
///
/// # Panics
/// If a check fails.
pub fn decoder(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(choice) = u.arbitrary::<u8>() else { return };
    let Ok(sizes) = u.arbitrary::<[u8; 4]>() else { return };
    let input = u.take_rest();

    let content = [100, 5000, 0, 24][usize::from(choice & 3)];
    let content = if choice >= 0xf0 { i64::MAX.unsigned_abs() } else { content };
    let header = [200, 128, 4096, 104][usize::from(choice >> 2 & 3)];
    let limits = FrameLimits::new(header, content);
    // The smallest possible buffer, or a slightly larger one.
    let extra = [0, 1, 100][usize::from(choice >> 4) % 3];
    let pool = Pool::new(2 + usize::from(header) + extra, 1);

    let expected = frames::read(input, limits, |_| limits.max_content);
    let streamed = frames::read(input, limits, |header| max_content(header, limits));
    let sizes = sizes.map(|size| usize::from(size).max(1));
    for sizes in [&[usize::MAX][..], &[1], &sizes] {
        assert_eq!(decode(input, sizes, limits), expected, "decoder, {sizes:?}");
        let inbox = || Inbox::new(limits, pool.clone()).expect("the buffer is large enough");
        assert_eq!(collect(inbox(), input, sizes, None), expected, "inbox, {sizes:?}");
        assert_eq!(
            collect(inbox(), input, sizes, Some(limits)),
            streamed,
            "inbox that streams, {sizes:?}"
        );
    }
}

/// Whether the content is streamed, which depends on its type.
fn is_streamed(header: &Header<'_>) -> bool {
    header.content_type.starts_with("binary/s")
}

fn max_content(header: &Header<'_>, limits: FrameLimits) -> u64 {
    if is_streamed(header) { MAX_STREAMED } else { limits.max_content }
}

/// `input` in pieces of these sizes, in turn.
fn pieces<'a>(mut input: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    sizes.iter().cycle().map_while(move |size| {
        let (piece, rest) = input.split_at((*size).min(input.len()));
        input = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The frames that a decoder finds.
fn decode(input: &[u8], sizes: &[usize], limits: FrameLimits) -> Frames {
    let mut decoder = Decoder::new(limits);
    let mut messages = Vec::new();
    let mut partial: Option<(Header<'static>, Vec<u8>)> = None;
    for mut piece in pieces(input, sizes) {
        loop {
            let event = match decoder.decode(&mut piece) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    let mut more = &b"\0\x02{}"[..];
                    assert_eq!(decoder.decode(&mut more), Err(error.clone()), "the second time");
                    assert_eq!(more.len(), 4, "a byte was consumed after an error");
                    assert_eq!(decoder.finish(), Err(error.clone()), "at the end");
                    return Frames { messages, rest: Rest::Invalid(error) };
                }
            };
            match event {
                DecodeEvent::Header(header) => {
                    let before = partial.replace((header.into_owned(), Vec::new()));
                    assert_eq!(before, None, "a header within a frame");
                }
                DecodeEvent::Content(content) => {
                    assert!(!content.is_empty(), "an empty content event");
                    let (_, all) = partial.as_mut().expect("a content without a header");
                    all.extend_from_slice(content);
                }
                DecodeEvent::End => {
                    let (header, content) = partial.take().expect("an end without a header");
                    assert_eq!(content.len() as u64, header.content_length);
                    messages.push(with_content(header, &content));
                }
            }
        }
        assert_eq!(piece, b"", "the decoder waits for input, but has not consumed all bytes");
    }
    let partial = partial.map(|(header, content)| with_content(header, &content));
    let rest = match decoder.finish() {
        Ok(()) => Rest::Nothing,
        Err(DecodeError::Truncated { received, expected }) => {
            Rest::Incomplete { received, expected, partial }
        }
        Err(error) => Rest::Invalid(error),
    };
    Frames { messages, rest }
}

/// The frames that an inbox finds. Some contents are streamed if `streaming` has limits.
fn collect(
    mut inbox: Inbox,
    input: &[u8],
    sizes: &[usize],
    streaming: Option<FrameLimits>,
) -> Frames {
    let mut messages = Vec::new();
    let mut streamed_content: Option<Vec<u8>> = None;
    let mut partial: Option<Header<'static>> = None;
    for mut piece in pieces(input, sizes) {
        while !piece.is_empty() {
            let spare = inbox.spare();
            assert!(!spare.is_empty(), "the inbox has no space");
            assert!(spare.len() <= MAX_SPARE, "space for {} bytes", spare.len());
            let n = spare.len().min(piece.len());
            spare[..n].copy_from_slice(&piece[..n]);
            inbox.commit(n);
            piece = &piece[n..];
            loop {
                let incoming = inbox.next_incoming(|header| {
                    partial = Some(header.clone().into_owned());
                    let streamed = streaming.filter(|_| is_streamed(header));
                    if streamed.is_some() {
                        streamed_content = Some(Vec::new());
                        Delivery::Stream { max_content: MAX_STREAMED }
                    } else {
                        Delivery::Collect
                    }
                });
                match incoming.map(|incoming| incoming.map(own)) {
                    Ok(Some(Ok(message))) => {
                        partial = None;
                        messages.push(match streamed_content.take() {
                            None => message,
                            Some(content) => {
                                assert!(
                                    message.content.is_empty(),
                                    "a streamed message has content"
                                );
                                Message { content: content.into(), ..message }
                            }
                        });
                    }
                    Ok(Some(Err(piece))) => {
                        assert!(!piece.is_empty(), "an empty piece");
                        streamed_content.as_mut().expect("the content is streamed").extend(piece);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let again = inbox.next_message().map(|_| ());
                        // `next_message` has the limit of collected contents, not of streamed ones.
                        if streaming.is_none() {
                            assert_eq!(again, Err(error.clone()), "the second time");
                        }
                        return Frames { messages, rest: Rest::Invalid(error) };
                    }
                }
            }
        }
        inbox.release();
    }
    let rest = match inbox.partial() {
        None => Rest::Nothing,
        Some(PartialFrame { received, expected, has_header, .. }) => {
            assert_eq!(
                has_header,
                partial.is_some(),
                "the inbox and its callback disagree on the header"
            );
            // A collected content is not visible before it is complete.
            let partial = partial.map(|header| {
                let frame_start =
                    input.len() - usize::try_from(received).expect("the bytes are in memory");
                let head = expected - header.content_length.min(expected);
                let start = frame_start + usize::try_from(head).expect("the bytes are in memory");
                let content = streamed_content.unwrap_or_else(|| input[start..].to_vec());
                with_content(header, &content)
            });
            Rest::Incomplete { received, expected, partial }
        }
    };
    Frames { messages, rest }
}

/// An owned message, or an owned piece of a content.
fn own(incoming: Incoming<'_>) -> Result<Message<'static>, Vec<u8>> {
    match incoming {
        Incoming::Message(message) => Ok(message.into_owned()),
        Incoming::Chunk(piece) => Err(piece.to_vec()),
    }
}

/// The limit on streamed contents, which is larger than that on collected ones.
const MAX_STREAMED: u64 = 1 << 40;
/// The most space that an [`Inbox`] offers, as documented.
const MAX_SPARE: usize = 1 << 20;
