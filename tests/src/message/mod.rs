//! Messages, frames and bad frames to test the JSON-header protocol with, and your own variant of
//! it.
//!
//! | | to draw | for |
//! |---|---|---|
//! | good | [`texts`], [`headers`], [`contents`], [`messages`] | what was encoded is decoded again |
//! | bad | [`bad_headers`], [`bad_frames`], by name | each is refused, with the one error that it must give |
//! | cut | [`script::cuts`], [`script::cut_invariant`] | neither depends on how the bytes were cut |
//!
//! # Testing a variant of your own
//!
//! Many have this protocol with a change: here with four bytes of length in place of two, and a
//! number of its own in each header, under the key `id`. What is tested stays the same.
//!
//! ```
//! use proptest::prelude::*;
//! use wirestate_core::message::{Header, HeaderError, Message};
//! use wirestate_testkit::{message, script};
//!
//! # #[derive(Debug)]
//! enum Wrong { Header(HeaderError), NoId, TooLong(usize) }
//!
//! fn encode(id: u32, message: &Message<'_>) -> Vec<u8> {
//!     let mut header = message.header().to_json();
//!     header.pop(); // the brace
//!     header.extend(format!(", \"id\": {id}}}").bytes());
//!     let length = u32::try_from(header.len()).unwrap().to_be_bytes();
//!     [&length[..], &header, &message.content].concat()
//! }
//!
//! #[derive(Default)]
//! struct Decoder { buffer: Vec<u8> }
//!
//! impl Decoder {
//!     fn decode(&mut self, piece: &[u8]) -> Result<Option<(u32, Message<'static>)>, Wrong> {
//!         self.buffer.extend_from_slice(piece);
//!         let Some((length, rest)) = self.buffer.split_first_chunk() else { return Ok(None) };
//!         let length = u32::from_be_bytes(*length) as usize;
//!         if length > 4096 {
//!             return Err(Wrong::TooLong(length));
//!         }
//!         let Some((json, rest)) = rest.split_at_checked(length) else { return Ok(None) };
//!         // Strictly first; then what is beyond it.
//!         let header = Header::from_json(json).map_err(Wrong::Header)?;
//!         let json: serde_json::Value = serde_json::from_slice(json).expect("it was read before");
//!         let id = json["id"].as_u64().and_then(|id| id.try_into().ok()).ok_or(Wrong::NoId)?;
//!         let content_length = usize::try_from(header.content_length).unwrap();
//!         let Some(content) = rest.get(..content_length) else { return Ok(None) };
//!         let message = Message {
//!             byteorder: header.byteorder,
//!             content_type: header.content_type,
//!             content_encoding: header.content_encoding,
//!             content: content.into(),
//!         };
//!         let message = message.into_owned();
//!         self.buffer.drain(..4 + length + content_length);
//!         Ok(Some((id, message)))
//!     }
//! }
//!
//! // All that comes out of the pieces, and what ended it.
//! fn decode_all<'a>(
//!     pieces: impl IntoIterator<Item = &'a [u8]>,
//! ) -> (Vec<(u32, Message<'static>)>, Option<String>) {
//!     let (mut decoder, mut all) = (Decoder::default(), Vec::new());
//!     for mut piece in pieces {
//!         loop {
//!             match decoder.decode(std::mem::take(&mut piece)) {
//!                 Ok(Some(message)) => all.push(message),
//!                 Ok(None) => break,
//!                 Err(error) => return (all, Some(format!("{error:?}"))),
//!             }
//!         }
//!     }
//!     (all, None)
//! }
//!
//! // What was encoded comes out again, under every cut.
//! let some = prop::collection::vec((any::<u32>(), message::messages(64)), 0..4);
//! proptest!(ProptestConfig::with_cases(16), |(sent in some)| {
//!     let bytes: Vec<u8> = sent.iter().flat_map(|(id, message)| encode(*id, message)).collect();
//!     let (received, error) = script::cut_invariant(&bytes, |pieces| decode_all(pieces.to_vec()));
//!     prop_assert_eq!((received, error), (sent, None));
//! });
//!
//! // What is no header is none here either, under every cut: some hundreds of them, by name.
//! for bad in message::bad_headers() {
//!     let length = u32::try_from(bad.json.len()).unwrap().to_be_bytes();
//!     let bytes = [&length[..], &bad.json].concat();
//!     let (_, error) = script::cut_invariant(&bytes, |pieces| decode_all(pieces.to_vec()));
//!     assert!(error.expect(&bad.name).starts_with("Header("), "{}", bad.name);
//! }
//!
//! // And what is wrong with the variant's own part.
//! let no_id = [&103_u32.to_be_bytes()[..], message::GOLDEN_HEADER.as_bytes()].concat();
//! assert_eq!(decode_all([&no_id[..]]).1.unwrap(), "NoId");
//! assert_eq!(decode_all([&[0, 0, 255, 255][..]]).1.unwrap(), "TooLong(65535)");
//! ```
//!
//! A machine around it is tested like any other: [`script`], [`sim`](crate::sim).
//!
//! [`script`]: crate::script
//! [`script::cuts`]: crate::script::cuts
//! [`script::cut_invariant`]: crate::script::cut_invariant

mod bad;
mod strategy;

use wirestate_core::message::Message;

pub use self::{
    bad::{BadFrame, BadHeader, bad_frames, bad_headers},
    strategy::{any_bad_frame, byteorders, contents, headers, messages, texts},
};

/// The header of the frame that an implementation must write, and read, byte for byte.
pub const GOLDEN_HEADER: &str = "{\"byteorder\": \"little\", \"content-type\": \"text/json\", \
    \"content-encoding\": \"utf-8\", \"content-length\": 41}";

/// That frame's content.
pub const GOLDEN_CONTENT: &str = "{\"action\": \"search\", \"value\": \"morpheus\"}";

/// That frame: a search, as a peer in wide use sends it.
pub fn golden() -> Vec<u8> {
    [b"\0g", GOLDEN_HEADER.as_bytes(), GOLDEN_CONTENT.as_bytes()].concat()
}

/// The frames of `messages`, one behind the other.
///
/// # Panics
/// If a header is too long for its two bytes of length.
pub fn frames<'a>(messages: impl IntoIterator<Item = &'a Message<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        message.encode(&mut bytes).expect("its header fits");
    }
    bytes
}
