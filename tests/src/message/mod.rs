//! Valid and invalid messages of the JSON-header protocol, to test it or a variant of your own.
//!
//! - Valid: [`texts`], [`headers`], [`contents`] and [`messages`] are strategies. Test that
//!   encoding and decoding returns the same message.
//! - Invalid: [`bad_headers`] and [`bad_frames`] have a name and the error that a decoder must
//!   return.
//! - Cuts: [`script::cuts`] and [`script::cut_invariant`] split the input. Test that the result
//!   does not depend on the cut.
//!
//! # Testing a variant of your own
//!
//! This variant has a header length of four bytes instead of two, and a number in each header under
//! the key `id`.
//!
//! ```
//! use proptest::prelude::*;
//! use wirestate_core::message::{Header, HeaderError, Message};
//! use wirestate_testkit::{message, script};
//!
//! # #[derive(Debug)]
//! enum Error { Header(HeaderError), NoId, TooLong(usize) }
//!
//! fn encode(id: u32, message: &Message<'_>) -> Vec<u8> {
//!     let mut header = message.header().to_json();
//!     header.pop(); // the closing brace
//!     header.extend(format!(", \"id\": {id}}}").bytes());
//!     let length = u32::try_from(header.len()).unwrap().to_be_bytes();
//!     [&length[..], &header, &message.content].concat()
//! }
//!
//! #[derive(Default)]
//! struct Decoder { buffer: Vec<u8> }
//!
//! impl Decoder {
//!     fn decode(&mut self, piece: &[u8]) -> Result<Option<(u32, Message<'static>)>, Error> {
//!         self.buffer.extend_from_slice(piece);
//!         let Some((length, rest)) = self.buffer.split_first_chunk() else { return Ok(None) };
//!         let length = u32::from_be_bytes(*length) as usize;
//!         if length > 4096 {
//!             return Err(Error::TooLong(length));
//!         }
//!         let Some((json, rest)) = rest.split_at_checked(length) else { return Ok(None) };
//!         // First the header of the protocol, strictly; then the added key.
//!         let header = Header::from_json(json).map_err(Error::Header)?;
//!         let json: serde_json::Value = serde_json::from_slice(json).expect("it is valid JSON");
//!         let id = json["id"].as_u64().and_then(|id| id.try_into().ok()).ok_or(Error::NoId)?;
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
//! // Decodes all pieces: returns the messages and the error, if any.
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
//! // Encoded messages are decoded again, under every cut.
//! let some = prop::collection::vec((any::<u32>(), message::messages(64)), 0..4);
//! proptest!(ProptestConfig::with_cases(16), |(sent in some)| {
//!     let bytes: Vec<u8> = sent.iter().flat_map(|(id, message)| encode(*id, message)).collect();
//!     let (received, error) = script::cut_invariant(&bytes, |pieces| decode_all(pieces.to_vec()));
//!     prop_assert_eq!((received, error), (sent, None));
//! });
//!
//! // Every invalid header is an error of the variant too, under every cut.
//! for bad in message::bad_headers() {
//!     let length = u32::try_from(bad.json.len()).unwrap().to_be_bytes();
//!     let bytes = [&length[..], &bad.json].concat();
//!     let (_, error) = script::cut_invariant(&bytes, |pieces| decode_all(pieces.to_vec()));
//!     assert!(error.expect(&bad.name).starts_with("Header("), "{}", bad.name);
//! }
//!
//! // Errors of the variant's own part.
//! let no_id = [&103_u32.to_be_bytes()[..], message::GOLDEN_HEADER.as_bytes()].concat();
//! assert_eq!(decode_all([&no_id[..]]).1.unwrap(), "NoId");
//! assert_eq!(decode_all([&[0, 0, 255, 255][..]]).1.unwrap(), "TooLong(65535)");
//! ```
//!
//! Test a machine around the decoder with [`script`] and [`sim`](crate::sim).
//!
//! [`script`]: crate::script
//! [`script::cuts`]: crate::script::cuts
//! [`script::cut_invariant`]: crate::script::cut_invariant

mod bad_frames;
mod bad_headers;
mod strategy;

use wirestate_core::message::Message;

pub use self::{
    bad_frames::{BadFrame, bad_frames},
    bad_headers::{BadHeader, bad_headers},
    strategy::{any_bad_frame, byteorders, contents, headers, messages, texts},
};

/// The header of [`golden`], which an implementation must write byte for byte.
pub const GOLDEN_HEADER: &str = "{\"byteorder\": \"little\", \"content-type\": \"text/json\", \
    \"content-encoding\": \"utf-8\", \"content-length\": 41}";

/// The content of [`golden`].
pub const GOLDEN_CONTENT: &str = "{\"action\": \"search\", \"value\": \"morpheus\"}";

/// A request frame as the client of Real Python's socket tutorial sends it, byte for byte.
pub fn golden() -> Vec<u8> {
    [b"\0g", GOLDEN_HEADER.as_bytes(), GOLDEN_CONTENT.as_bytes()].concat()
}

/// The frames of `messages`, concatenated.
///
/// # Panics
/// If a header is longer than 65,535 bytes.
#[track_caller]
pub fn frames<'a>(messages: impl IntoIterator<Item = &'a Message<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        message.encode(&mut bytes).expect("the header is at most 65,535 bytes");
    }
    bytes
}
