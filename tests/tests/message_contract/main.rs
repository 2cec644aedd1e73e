//! The message machines alone. Under any script they keep the contract, answer requests in order,
//! and meet every deadline to the millisecond.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod client;
mod connection;
mod deadlines;
mod owned;
mod reasons;
mod services;

use proptest::{collection::vec, prelude::*};
use wirestate_core::message::{FrameLimits, Message};
use wirestate_testkit::{
    message::{any_bad_frame, frames},
    script::{self, Op},
};

/// Small limits, so that the scripts' small pieces contain whole frames.
const LIMITS: FrameLimits = FrameLimits::new(200, 400);

/// The number of a request, which its reply repeats.
fn numbered(number: usize, size: usize) -> Message<'static> {
    let mut content = number.to_string().into_bytes();
    content.resize(content.len() + size, b'.');
    Message::new("n", "", content)
}

/// The number of a message that [`numbered`] has made.
fn number(message: &Message<'_>) -> usize {
    let digits = message.content.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(&message.content[..digits]).unwrap().parse().unwrap()
}

/// Random ops whose received bytes are the next bytes of frames. Most frames are valid, and they
/// are numbered from 0.
fn ops_with_frames(max_len: usize) -> impl Strategy<Value = Vec<Op>> {
    let good = (0..420_usize).prop_map(Some);
    let frame = prop_oneof![12 => good, 1 => Just(None)];
    (script::ops(max_len), vec(frame, 0..12), any_bad_frame(), any::<bool>()).prop_map(
        |(mut ops, sizes, bad, whole)| {
            let sizes = sizes.into_iter().enumerate();
            let frames: Vec<Vec<u8>> = sizes
                .map(|(i, size)| match size {
                    Some(size) => frames([&numbered(i, size)]),
                    None => bad.bytes.clone(),
                })
                .collect();
            let mut bytes = frames.concat();
            let mut next = frames.into_iter();
            for op in &mut ops {
                if let Op::Receive(noise) = op {
                    // Whole frames, or pieces of them as long as the random bytes.
                    *noise = if whole {
                        next.next().unwrap_or_default()
                    } else {
                        let n = (noise.len() * 8).min(bytes.len());
                        bytes.drain(..n).collect()
                    };
                }
                if let Op::Accept(n) = op {
                    *n *= 16;
                }
            }
            ops
        },
    )
}

/// A service that answers each request with the request itself.
fn itself(request: Message<'_>) -> Message<'static> {
    request.into_owned()
}

/// The whole messages in `bytes`, which are frames; the last one may be incomplete.
fn whole_messages(bytes: &[u8]) -> Vec<Message<'static>> {
    use wirestate_core::{buffer::Pool, message::Inbox};
    let limits = FrameLimits::new(4096, 1 << 20);
    let mut inbox = Inbox::new(limits, Pool::new(1 << 16, 1)).unwrap();
    let mut messages = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let spare = inbox.spare();
        let n = spare.len().min(rest.len());
        spare[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        inbox.commit(n);
        while let Some(message) = inbox.next_message().expect("the bytes are frames") {
            messages.push(message.into_owned());
        }
    }
    messages
}
