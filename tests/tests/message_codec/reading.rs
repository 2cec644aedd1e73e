//! The results of the decoders for the same bytes.

use wirestate_core::{
    Instant, Machine as _,
    buffer::Pool,
    drive::deliver,
    message::{
        Client, ClientConfig, Config, Connection, DecodeError, DecodeEvent, Decoder, Delivery,
        FrameLimits, Header, Inbox, Incoming, Message, MessageReason, Server, service,
    },
};
use wirestate_testkit::script;

/// The decoded messages, and the error; none if the input ends between two frames.
pub(crate) type Read = (Vec<Message<'static>>, Option<DecodeError>);

/// The messages of a decoder's events.
pub(crate) fn by_decoder(limits: FrameLimits, pieces: &[&[u8]]) -> Read {
    let mut decoder = Decoder::new(limits);
    let mut messages = Vec::new();
    let mut current: Option<(Header<'static>, Vec<u8>)> = None;
    for mut piece in pieces.iter().copied() {
        loop {
            match decoder.decode(&mut piece) {
                Ok(None) => break,
                Ok(Some(DecodeEvent::Header(header))) => {
                    assert!(current.is_none(), "a header within a content");
                    current = Some((header.into_owned(), Vec::new()));
                }
                Ok(Some(DecodeEvent::Content(bytes))) => {
                    assert!(!bytes.is_empty(), "an empty content event");
                    current.as_mut().unwrap().1.extend_from_slice(bytes);
                }
                Ok(Some(DecodeEvent::End)) => {
                    let (header, content) = current.take().unwrap();
                    assert_eq!(header.content_length, content.len() as u64);
                    messages.push(message(header, content));
                }
                Err(error) => {
                    assert_eq!(
                        decoder.decode(&mut &b"more"[..]),
                        Err(error.clone()),
                        "the second call returns another result"
                    );
                    assert_eq!(decoder.finish(), Err(error.clone()));
                    return (messages, Some(error));
                }
            }
        }
        assert!(piece.is_empty(), "not all input is consumed");
    }
    (messages, decoder.finish().err())
}

/// The messages of an [`Inbox`] whose buffer is `extra` bytes larger than the smallest one.
pub(crate) fn by_inbox(limits: FrameLimits, extra: usize, pieces: &[&[u8]]) -> Read {
    through_inbox(limits, extra, pieces, |_| Delivery::Collect)
}

/// The messages of an [`Inbox`] that streams contents of an even length.
pub(crate) fn by_streaming_inbox(limits: FrameLimits, extra: usize, pieces: &[&[u8]]) -> Read {
    through_inbox(limits, extra, pieces, |header| match header.content_length % 2 {
        0 => Delivery::Stream { max_content: limits.max_content },
        _ => Delivery::Collect,
    })
}

fn through_inbox(
    limits: FrameLimits,
    extra: usize,
    pieces: &[&[u8]],
    delivery: impl Fn(&Header<'_>) -> Delivery,
) -> Read {
    let pool = Pool::new(2 + usize::from(limits.max_header) + extra, 1);
    let mut inbox = Inbox::new(limits, pool).unwrap();
    let (mut messages, mut streamed) = (Vec::new(), Vec::new());
    for mut piece in pieces.iter().copied() {
        while !piece.is_empty() {
            let spare = inbox.spare();
            assert!(!spare.is_empty(), "there is no room although no message is ready");
            let n = spare.len().min(piece.len());
            spare[..n].copy_from_slice(&piece[..n]);
            piece = &piece[n..];
            inbox.commit(n);
            loop {
                match inbox.next_incoming(&delivery) {
                    Ok(None) => break,
                    Ok(Some(Incoming::Chunk(bytes))) => {
                        assert!(!bytes.is_empty(), "an empty chunk");
                        streamed.extend_from_slice(bytes);
                    }
                    Ok(Some(Incoming::Message(message))) => {
                        let mut message = message.into_owned();
                        if !streamed.is_empty() {
                            assert!(message.content.is_empty(), "the content was not streamed");
                            message.content = std::mem::take(&mut streamed).into();
                        }
                        messages.push(message);
                    }
                    Err(error) => {
                        let again = inbox.next_incoming(&delivery).unwrap_err();
                        assert_eq!(again, error, "the second call returns another result");
                        return (messages, Some(error));
                    }
                }
            }
        }
        inbox.release(); // as a driver does when no input is available
    }
    let truncated = inbox.partial().map(|partial| DecodeError::Truncated {
        received: partial.received,
        expected: partial.expected,
    });
    (messages, truncated)
}

/// The output of a server that answers each request with the request itself.
pub(crate) struct Served {
    pub(crate) replies: Vec<Message<'static>>,
    /// All bytes of its output.
    pub(crate) output: Vec<u8>,
    pub(crate) reason: Option<MessageReason>,
    /// Whether it has sent a FIN behind its output.
    pub(crate) fin: bool,
}

pub(crate) fn by_server(config: &Config, pieces: &[&[u8]]) -> Served {
    let now = Instant::EPOCH;
    let server = Server::new(config.clone(), service::function(itself)).unwrap();
    let mut machine = server.machine(now);
    let mut output = Vec::new();
    for mut piece in pieces.iter().copied() {
        loop {
            deliver(&mut machine, &mut piece, now);
            output.extend(script::collect(&mut machine, now));
            if piece.is_empty() || !machine.interest().read {
                break;
            }
        }
    }
    let fin = end(&mut machine, &mut output);
    let limits = FrameLimits::new(u16::MAX, u64::MAX);
    let (replies, error) = by_decoder(limits, &[&output]);
    assert_eq!(error, None, "the output is not a sequence of frames");
    Served { replies, output, reason: machine.reason(), fin }
}

/// A service that answers each request with the request itself.
fn itself(request: Message<'_>) -> Message<'static> {
    request.into_owned()
}

/// Sends the peer's FIN, then accepts output and FINs until the machine ends. Returns whether the
/// machine has sent a FIN.
fn end<S: service::Service>(machine: &mut Connection<S>, output: &mut Vec<u8>) -> bool {
    use wirestate_core::Outbound;
    let now = Instant::EPOCH;
    let mut fin = false;
    if machine.interest().read {
        machine.handle(now, wirestate_core::Event::Eof);
    }
    loop {
        output.extend(script::collect(machine, now));
        match machine.interest().write {
            Outbound::Finish => {
                fin = true;
                machine.handle(now, wirestate_core::Event::Finished);
            }
            Outbound::Finished if machine.interest().read => {
                machine.handle(now, wirestate_core::Event::Eof);
            }
            Outbound::Idle | Outbound::Flush | Outbound::Finished => return fin,
            Outbound::Reset => panic!("the machine resets the connection"),
        }
    }
}

/// The replies to a client with 32 requests.
pub(crate) fn by_client(limits: FrameLimits, pieces: &[&[u8]]) -> Read {
    use wirestate_core::message::ClientReason;
    let now = Instant::EPOCH;
    let buffer = 1.try_into().unwrap();
    let mut client =
        Client::new(ClientConfig::default().with_frame_limits(limits).with_buffer(buffer)).unwrap();
    for _ in 0..32 {
        client.request(&Message::binary("?"), now).unwrap();
    }
    script::collect(&mut client, now);
    for mut piece in pieces.iter().copied() {
        deliver(&mut client, &mut piece, now);
    }
    if client.interest().read {
        client.handle(now, wirestate_core::Event::Eof);
    }
    while !client.interest().is_done() {
        client.handle(now, wirestate_core::Event::Finished);
    }
    let replies = std::iter::from_fn(|| client.take_reply()).collect();
    let error = match client.reason().unwrap() {
        ClientReason::Malformed(error) => Some(error),
        ClientReason::ClosedEarly { .. } | ClientReason::Closed => None,
        reason @ (ClientReason::ShutDown
        | ClientReason::UnexpectedReply
        | ClientReason::ReplyTimeout { .. }
        | ClientReason::FrameTimeout { .. }
        | ClientReason::WriteStalled { .. }
        | ClientReason::Lost { .. }
        | ClientReason::Dropped
        | _) => panic!("{reason}"),
    };
    (replies, error)
}

fn message(header: Header<'static>, content: Vec<u8>) -> Message<'static> {
    let Header { byteorder, content_type, content_encoding, content_length: _ } = header;
    Message { byteorder, content_type, content_encoding, content: content.into() }
}
