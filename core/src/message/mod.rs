//! Requests and replies: a length, a JSON header, a content.
//!
//! # On the wire
//!
//! | bytes | what |
//! |---|---|
//! | 2 | the header's length, big-endian, from 1 to 65,535 |
//! | … | the header: UTF-8, a JSON object |
//! | … | the content |
//!
//! | header key | value |
//! |---|---|
//! | `byteorder` | `"little"` or `"big"`: the sender's; who reads integers out of the content swaps |
//! | `content-type` | `"text/json"`, or anything else, which is binary |
//! | `content-encoding` | the character set of a text, or `"binary"` |
//! | `content-length` | bytes of content, a whole number |
//!
//! All four are required, in any order; further keys are allowed. What is written is always
//! `{"byteorder": …, "content-type": …, "content-encoding": …, "content-length": …}`, with a space
//! behind each `:` and `,` and characters beyond ASCII as they are, as the peer in wide use writes
//! it.
//!
//! A request has one reply; requests may be sent without waiting, and are answered in order.
//!
//! # What is here
//!
//! | | for |
//! |---|---|
//! | [`Message`], [`Header`] | what is sent and received, and its bytes |
//! | [`Decoder`] | frames out of bytes as they come, as events; holds no content |
//! | [`Inbox`] | whole messages, received where they are used |
//! | [`Server`], [`Connection`], [`service`] | a server's machine, and what it answers with |
//! | [`Client`], [`Handle`] | a client's machine: used inline, or by many tasks and threads |
//!
//! ```
//! use wirestate_core::{Instant, Machine, drive, message::{self, Message, service}};
//!
//! let shout = service::function(|request| {
//!     let text = request.text().map(|text| text.to_uppercase());
//!     text.map_or_else(|error| Message::error(error), Message::json)
//! });
//! let server = message::Server::new(message::Config::default(), shout);
//! let now = Instant::EPOCH;
//! let mut machine = server.machine(now); // one for each connection
//!
//! let (mut input, mut output) = (Vec::new(), [0; 1024]);
//! Message::json(r#""hear""#).encode(&mut input)?;
//! Message::json(r#""hear""#).encode(&mut input)?;
//! drive::deliver(&mut machine, &mut &input[..], now);
//! let n = drive::collect_into(&mut machine, &mut output, now);
//! assert!(output[..n].ends_with(br#""HEAR""#) && n == input.len());
//! # Ok::<(), message::EncodeError>(())
//! ```
//!
//! # Bad input
//!
//! Each has a typed error ([`DecodeError`], [`HeaderError`]) that names the limit and the figure. A
//! server answers it with one error reply, `{"result": "Error: …"}`, behind the replies that it
//! owes, and closes; a client resets the connection. Memory follows the bytes that have arrived,
//! never what was declared.
//!
//! JSON is read by `serde_json`, whose feature `arbitrary_precision` must not be switched on in the
//! same program: it shows numbers as objects.

mod client;
#[cfg(feature = "std")]
mod connect;
mod decoder;
mod frame;
mod handle;
mod header;
mod inbox;
mod outbox;
mod reception;
mod server;
pub mod service;
pub mod text;

#[cfg(feature = "std")]
pub use self::connect::connect;
pub use self::{
    client::{Client, ClientConfig, ClientReason, RequestError},
    decoder::{DecodeError, Decoder, Event, Limits},
    frame::{Content, EncodeError, Message},
    handle::{Handle, Request},
    header::{ByteOrder, Header, HeaderError, Kind, MAX_DEPTH},
    inbox::{Delivery, Inbox, Incoming, Partial},
    reception::FrameTimeouts,
    server::{Config, Connection, MessageReason, Server},
};
