//! The message machines, alone: whatever happens to them, the contract holds, requests are answered
//! in their order, and every deadline is kept to the millisecond.

#![expect(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

mod client;
mod connection;
mod deadlines;
mod owned;
mod services;

use proptest::{collection::vec, prelude::*, test_runner::FileFailurePersistence};
use wirestate_core::message::{Limits, Message};
use wirestate_testkit::{
    message::{any_bad_frame, frames},
    script::{self, Op},
};

/// Failures are kept beside the crate's sources.
fn proptest_config() -> ProptestConfig {
    let file = FileFailurePersistence::Direct("proptest-regressions/message_contract.txt");
    ProptestConfig {
        failure_persistence: Some(Box::new(file)),
        cases: 128,
        ..ProptestConfig::default()
    }
}

/// What may come: small, so that the scripts' small pieces have it whole at times.
const LIMITS: Limits = Limits { header: 200, content: 400 };

/// The number of a request, and in the reply to it.
fn numbered(number: usize, size: usize) -> Message<'static> {
    let mut content = number.to_string().into_bytes();
    content.resize(content.len() + size, b'.');
    Message::new("n", "", content)
}

fn number(message: &Message<'_>) -> usize {
    let digits = message.content.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(&message.content[..digits]).unwrap().parse().unwrap()
}

/// What a peer sends, and what else happens in between: drawn ops, of which those that bring bytes
/// bring the next bytes of frames, mostly good ones, numbered from 0.
fn ops_with_frames(longest: usize) -> impl Strategy<Value = Vec<Op>> {
    let good = (0..420_usize).prop_map(Some);
    let frame = prop_oneof![12 => good, 1 => Just(None)];
    (script::ops(longest), vec(frame, 0..12), any_bad_frame(), any::<bool>()).prop_map(
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
                    // Whole frames, or pieces of them in the noise's size.
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

/// The service that answers each request with itself.
fn itself(request: Message<'_>) -> Message<'static> {
    request.into_owned()
}

/// The messages that are whole in `bytes`, which are frames but for the last one's end.
fn whole_messages(bytes: &[u8]) -> Vec<Message<'static>> {
    use wirestate_core::{buffer::Pool, message::Inbox};
    let limits = Limits { header: 4096, content: 1 << 20 };
    let mut inbox = Inbox::new(limits, Pool::new(1 << 16, 1));
    let mut messages = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let spare = inbox.spare();
        let n = spare.len().min(rest.len());
        spare[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        inbox.commit(n);
        while let Some(message) = inbox.take().expect("what is sent is frames") {
            messages.push(message.into_owned());
        }
    }
    messages
}
