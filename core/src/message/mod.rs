//! A request/response protocol: frames with a JSON header.
//!
//! It is the protocol of the application client and server in Real Python's tutorial
//! [Socket Programming in Python](https://realpython.com/python-sockets/).
//!
//! # Wire format
//!
//! | part of a frame | size in bytes |
//! |---|---|
//! | length of the header, an unsigned integer in network byte order | 2 |
//! | header: a JSON object in UTF-8 | 1 to 65,535 |
//! | content | as the header declares |
//!
//! | header key | value |
//! |---|---|
//! | `byteorder` | `"little"` or `"big"`: the sender's byte order |
//! | `content-type` | `"text/json"`; any other type is binary |
//! | `content-encoding` | the character set of a text, or `"binary"` |
//! | `content-length` | the length of the content in bytes, an integer |
//!
//! All four keys are required, in any order. Unknown keys are ignored. [`Header::to_json`]
//! documents the format in which a header is written.
//!
//! Each request has one reply. A client may send requests without waiting for replies. Replies are
//! sent in the order of the requests.
//!
//! # What to use
//!
//! | item | purpose |
//! |---|---|
//! | [`Message`], [`Header`], [`text`] | a message; encoding and decoding it |
//! | [`Decoder`] | finds frames in a stream of bytes; holds no content |
//! | [`Inbox`] | a receive buffer that returns whole messages |
//! | [`Server`], [`Connection`], [`service`] | a server, its machine, the services that answer |
//! | [`Client`], [`Handle`] | a client's machine: inline, or shared by tasks and threads |
//!
//! ```
//! use wirestate_core::{Instant, Machine, drive, message::{Config, Message, Server, service}};
//!
//! let shout = service::function(|request| {
//!     let text = request.text().map(|text| text.to_uppercase());
//!     text.map_or_else(|error| Message::error(error), Message::json)
//! });
//! let server = Server::new(Config::default().with_max_memory(64 * 1024 * 1024), shout)?;
//! let now = Instant::EPOCH;
//! let mut machine = server.machine(now); // one for each connection
//!
//! let (mut input, mut output) = (Vec::new(), [0; 1024]);
//! Message::json(r#""hear""#).encode(&mut input)?;
//! Message::json(r#""hear""#).encode(&mut input)?;
//! drive::deliver(&mut machine, &mut &input[..], now);
//! let n = drive::collect_into(&mut machine, &mut output, now);
//! assert!(output[..n].ends_with(br#""HEAR""#) && n == input.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The codec alone
//!
//! [`Message::encode`], [`Decoder`] and [`Inbox`] need no machine, driver or runtime. Here they use
//! any [`Read`](std::io::Read) and [`Write`](std::io::Write):
//!
//! ```
//! use std::io::{self, Read, Write};
//! use wirestate_core::message::{DecodeEvent, Decoder, FrameLimits, Message};
//!
//! fn send(output: &mut impl Write, message: &Message<'_>) -> io::Result<()> {
//!     let mut frame = Vec::new();
//!     message.encode(&mut frame).map_err(io::Error::other)?;
//!     output.write_all(&frame)
//! }
//!
//! /// Returns the contents of all frames up to the end of the input.
//! fn receive_all(input: &mut impl Read) -> io::Result<Vec<Vec<u8>>> {
//!     let mut decoder = Decoder::new(FrameLimits::default().with_max_content(1000));
//!     let (mut contents, mut content, mut buffer) = (Vec::new(), Vec::new(), [0; 4096]);
//!     loop {
//!         let mut received = match input.read(&mut buffer)? {
//!             0 => break,
//!             n => &buffer[..n],
//!         };
//!         while let Some(event) = decoder.decode(&mut received).map_err(io::Error::other)? {
//!             match event {
//!                 DecodeEvent::Header(_) => {}
//!                 DecodeEvent::Content(bytes) => content.extend_from_slice(bytes),
//!                 DecodeEvent::End => contents.push(core::mem::take(&mut content)),
//!             }
//!         }
//!     }
//!     decoder.finish().map_err(io::Error::other)?;
//!     Ok(contents)
//! }
//!
//! let mut stream = Vec::new();
//! send(&mut stream, &Message::json(r#"{"a": 1}"#))?;
//! send(&mut stream, &Message::binary("hello"))?;
//! assert_eq!(receive_all(&mut &stream[..])?, [&br#"{"a": 1}"#[..], b"hello"]);
//! # Ok::<(), io::Error>(())
//! ```
//!
//! # Invalid input
//!
//! Invalid input is a [`DecodeError`], which names the limit and the figure. A server answers it
//! with one error reply, `{"result": "Error: …"}`, after the replies to earlier requests, and
//! closes the connection. A client resets the connection. Memory is allocated for the bytes
//! received, not for the length that a header declares.
//!
//! Headers are parsed by `serde_json`. Do not enable its feature `arbitrary_precision` in the same
//! program: it represents numbers as objects, so `content-length` would be refused.

mod byte_order;
mod client;
mod content;
mod decoder;
mod frame;
mod frame_limits;
mod header;
mod inbox;
mod server;
pub mod service;
pub mod text;

#[cfg(feature = "std")]
pub use self::client::connect;
pub use self::{
    byte_order::ByteOrder,
    client::{Client, ClientConfig, ClientReason, Handle, ReplyFuture, RequestError},
    content::Content,
    decoder::{DecodeError, DecodeEvent, Decoder},
    frame::{EncodeError, Message},
    frame_limits::FrameLimits,
    header::{Header, HeaderError, JsonType, MAX_DEPTH},
    inbox::{Delivery, Inbox, Incoming},
    server::{Config, Connection, MessageReason, PendingReply, Server, ServiceProtocol},
};
pub use crate::protocol::{FrameTimeouts, PartialFrame};
