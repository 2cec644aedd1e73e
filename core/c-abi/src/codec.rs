//! Encodes and decodes messages without a machine.

use std::ffi::c_char;

use wirestate_core::message::{
    DecodeEvent, Decoder as CoreDecoder, EncodeError, FrameLimits, Header,
};

use crate::{
    message::{Message, borrow, byte_order},
    pointer::{self, Slice},
    result::{ResultCode, guard},
};

/// What a decoder has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DecodedKind {
    /// The input is consumed. Pass more.
    NeedsInput = 0,
    /// The header of a message.
    Header = 1,
    /// The next bytes of the content, at least one. An empty content has none.
    Content = 2,
    /// The end of the message.
    End = 3,
}

/// The result of `wirestate_decoder_decode`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Decoded {
    /// A `wirestate_decoded_kind`.
    pub kind: u32,
    /// How many bytes of the input were consumed. Pass the rest with the next call.
    pub consumed: usize,
    /// Of a header: the length of the whole content. Otherwise 0.
    pub content_length: u64,
    /// Of a header: type and encoding, valid until the next call with this decoder. Of a content:
    /// its next bytes, in the input. Otherwise empty.
    pub message: Message,
}

/// Splits a stream of bytes into messages. It stores no content, so a content may be of any length.
#[derive(Debug)]
pub struct Decoder {
    inner: CoreDecoder,
    /// The last header.
    header: Option<Header<'static>>,
    /// The text of the error.
    error: String,
}

/// Encodes a message: two bytes with the length of the header, the header, the content. Stores the
/// length of the whole, also if the buffer is too small.
///
/// - `WIRESTATE_RESULT_BUFFER`: it is longer than `size`. Nothing was written to the buffer.
/// - `WIRESTATE_RESULT_HEADER`, `WIRESTATE_RESULT_VALUE`: the message cannot be sent.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_encode(
    message: *const Message,
    buffer: *mut u8,
    size: usize,
    len: *mut usize,
) -> ResultCode {
    ResultCode::of(guard(|| {
        // SAFETY: the caller's pointer is valid.
        let message = unsafe { borrow(message) }?;
        // SAFETY: the caller's pointer is valid.
        let buffer = unsafe { pointer::bytes_mut(buffer, size) }?;
        let mut head = Vec::new();
        let encoded = message.header().encode(&mut head);
        encoded.map_err(|_: EncodeError| ResultCode::Header)?;
        let total = head.len() + message.content.len();
        // SAFETY: the caller's pointer is valid.
        unsafe { pointer::store(len, total) }?;
        let (first, rest) = buffer.split_at_mut_checked(head.len()).ok_or(ResultCode::Buffer)?;
        let content = rest.get_mut(..message.content.len()).ok_or(ResultCode::Buffer)?;
        first.copy_from_slice(&head);
        content.copy_from_slice(&message.content);
        Ok(())
    }))
}

/// Makes a decoder at the start of a message. `max_header` is at most 65,535; usual limits are
/// 4,096 and 1,048,576 bytes.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_decoder_new(
    max_header: u16,
    max_content: u64,
    decoder: *mut *mut Decoder,
) -> ResultCode {
    let new = CoreDecoder::new(FrameLimits::new(max_header, max_content));
    let new = Decoder { inner: new, header: None, error: String::new() };
    // SAFETY: the caller's pointer is valid.
    ResultCode::of(unsafe { pointer::store_new(decoder, new) })
}

/// Finds the next part of a message in the input. Call it until it has found
/// `WIRESTATE_DECODED_KIND_NEEDS_INPUT`, each time with the input that is not consumed.
///
/// `WIRESTATE_RESULT_MALFORMED`: the input is not a message, and cannot be continued. The result
/// does not depend on how the input was cut.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_decoder_decode(
    decoder: *mut Decoder,
    data: *const u8,
    len: usize,
    found: *mut Decoded,
) -> ResultCode {
    ResultCode::of(guard(|| {
        // SAFETY: the caller's pointer is valid.
        let decoder = unsafe { pointer::exclusive(decoder) }?;
        // SAFETY: the caller's pointer is valid.
        let input = unsafe { pointer::bytes(data, len) }?;
        let next = decoder.decode(input)?;
        // SAFETY: the caller's pointer is valid.
        unsafe { pointer::store(found, next) }
    }))
}

/// Checks that the stream has not ended within a message.
///
/// `WIRESTATE_RESULT_MALFORMED`: it has, or it was malformed before.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_decoder_finish(decoder: *mut Decoder) -> ResultCode {
    ResultCode::of(guard(|| {
        // SAFETY: the caller's pointer is valid.
        let decoder = unsafe { pointer::exclusive(decoder) }?;
        let finished = decoder.inner.finish();
        finished.map_err(|error| decoder.fail(&error))
    }))
}

/// Copies the text of the decoder's error, with limit and figure, to `buffer`, terminated by NUL,
/// as far as it fits into `size` bytes. Returns the length of the whole text. Empty without an
/// error.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_decoder_error(
    decoder: *const Decoder,
    buffer: *mut c_char,
    size: usize,
) -> usize {
    // SAFETY: the caller's pointer is valid.
    let decoder = unsafe { pointer::shared(decoder) };
    let text = decoder.map_or("", |decoder| &decoder.error);
    // SAFETY: the caller's pointer is valid.
    unsafe { pointer::store_text(text, buffer, size) }
}

/// Frees a decoder. NULL is ignored.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_decoder_free(decoder: *mut Decoder) {
    // SAFETY: the caller gives the pointer back.
    drop(unsafe { pointer::take(decoder) });
}

impl Decoder {
    fn fail(&mut self, error: &impl ToString) -> ResultCode {
        self.error = error.to_string();
        ResultCode::Malformed
    }

    fn decode(&mut self, input: &[u8]) -> Result<Decoded, ResultCode> {
        let mut rest = input;
        let found = match self.inner.decode(&mut rest) {
            Ok(Some(DecodeEvent::Header(header))) => Found::Header(header.into_owned()),
            Ok(Some(DecodeEvent::Content(content))) => Found::Content(content.into()),
            Ok(Some(DecodeEvent::End)) => Found::End,
            Ok(None) => Found::Nothing,
            Err(error) => return Err(self.fail(&error)),
        };
        let consumed = input.len() - rest.len();
        let (kind, message, content_length) = match found {
            Found::Nothing => (DecodedKind::NeedsInput, NO_MESSAGE, 0),
            Found::End => (DecodedKind::End, NO_MESSAGE, 0),
            Found::Content(content) => (DecodedKind::Content, Message { content, ..NO_MESSAGE }, 0),
            Found::Header(header) => {
                let header = self.header.insert(header);
                let message = Message {
                    byte_order: byte_order(header.byteorder),
                    content_type: header.content_type.as_bytes().into(),
                    content_encoding: header.content_encoding.as_bytes().into(),
                    content: Slice::EMPTY,
                };
                (DecodedKind::Header, message, header.content_length)
            }
        };
        Ok(Decoded { kind: kind as u32, consumed, content_length, message })
    }
}

/// As [`DecodeEvent`], without a borrow of the decoder.
enum Found {
    Nothing,
    Header(Header<'static>),
    Content(Slice),
    End,
}

const NO_MESSAGE: Message = Message {
    byte_order: 0,
    content_type: Slice::EMPTY,
    content_encoding: Slice::EMPTY,
    content: Slice::EMPTY,
};
