//! The client of a NATS server: publish, subscribe, and requests with replies.
//!
//! A [`Client`] is the machine of one connection to a server
//! ([client protocol](https://docs.nats.io/reference/reference-protocols/nats-protocol)). It is
//! used inline: call its methods between two turns of the driver, or from a machine that wraps it.
//!
//! ```
//! use wirestate_core::{Instant, drive};
//! use wirestate_core::nats::{Client, Config, Incoming, Publish};
//!
//! let now = Instant::EPOCH;
//! let mut client = Client::new(Config::default(), now)?;
//! let receive = |client: &mut Client, mut text: &[u8]| drive::deliver(client, &mut text, now);
//! let sent = |client: &mut Client| {
//!     let mut buffer = [0; 4096];
//!     let n = drive::collect_into(client, &mut buffer, now);
//!     String::from_utf8_lossy(&buffer[..n]).into_owned()
//! };
//!
//! // The server begins. The client answers by CONNECT, and by a PING.
//! receive(&mut client, b"INFO {\"server_id\":\"S\",\"headers\":true}\r\n");
//! assert!(sent(&mut client).ends_with("}\r\nPING\r\n"));
//! receive(&mut client, b"PONG\r\n");
//! assert!(matches!(client.take_incoming(now), Some(Incoming::Connected)));
//!
//! // Subscribe, and receive.
//! let orders = client.subscribe("orders.>", None, now)?;
//! assert_eq!(sent(&mut client), "SUB orders.> 1\r\n");
//! receive(&mut client, b"MSG orders.new 1 5\r\nhello\r\n");
//! let Some(Incoming::Message(message)) = client.take_incoming(now) else { panic!() };
//! assert_eq!(message.subscription(), orders);
//! assert_eq!((&*message.subject(), message.payload()), ("orders.new", &b"hello"[..]));
//!
//! // Publish, with a header.
//! let mut headers = wirestate_core::nats::HeaderBlock::new();
//! headers.push("Nats-Msg-Id", 7)?;
//! client.publish(&Publish::new("orders.done", "bye").with_headers(&headers), now)?;
//! let expected = "HPUB orders.done 28 31\r\nNATS/1.0\r\nNats-Msg-Id: 7\r\n\r\nbye\r\n";
//! assert_eq!(sent(&mut client), expected);
//!
//! // A request. Nobody has subscribed to its subject.
//! let request = client.request(&Publish::new("time", ""), now)?;
//! assert_eq!(sent(&mut client), "SUB _INBOX.S.0.* 2\r\nPUB time _INBOX.S.0.0 0\r\n\r\n");
//! receive(&mut client, b"HMSG _INBOX.S.0.0 2 16 16\r\nNATS/1.0 503\r\n\r\n\r\n");
//! let Some(Incoming::Reply { request: id, reply }) = client.take_incoming(now) else { panic!() };
//! assert_eq!(id, request);
//! assert_eq!(reply.unwrap_err().to_string(), "no responders");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is received
//!
//! [`Client::take_incoming`] returns what the server has sent, in its order: take everything after
//! each turn. The client parses no further than the next [`Incoming`], and reads nothing while one
//! waits to be taken: that is the backpressure to the server. (A server disconnects a client that
//! does not keep up, by default at 64 MiB of pending output or after 10 s.) PINGs are answered
//! inside.
//!
//! A [`Message`] is one handle to a part of the receive buffer: nothing is copied, and a message
//! that is kept also keeps the memory of its neighbours, up to [`Config::buffer`] bytes. So what
//! keeps few messages for long should copy them.
//!
//! # What is sent
//!
//! Methods queue output, and fail while [`Config::max_pending`] bytes are pending:
//! [`SendError::Full`] is the backpressure to the publisher. A payload of less than 4 KiB is copied
//! into the send buffer, so that many are written at once; a longer one is a slice of its own.
//!
//! # Another server
//!
//! A client ends with its connection. A [`Session`] outlives it: it gets the client of each
//! [`Connection`], and makes its subscriptions anew, because which of them, and from which
//! position, is known only there. [`Dial`] keeps it connected (feature `std`). It learns the
//! servers of the cluster, and dials another one when a connection ends or its server is about to
//! stop.
//!
//! ```no_run
//! use wirestate_core::{
//!     ConfigError, Instant,
//!     dial::{Plain, Servers},
//!     nats::{Client, Config, Connection, Dial, Incoming, Session},
//!     runtime::Runtime,
//! };
//!
//! /// Prints what is published to a subject.
//! struct Print(&'static str);
//!
//! impl Session for Print {
//!     fn connected(&mut self, client: &mut Client, now: Instant) {
//!         client.subscribe(self.0, None, now).expect("the subject is valid");
//!     }
//!
//!     fn handle(&mut self, _client: &mut Client, incoming: Incoming, _now: Instant) {
//!         println!("{incoming:?}");
//!     }
//! }
//!
//! async fn print<R: Runtime>(runtime: R, servers: Servers) -> Result<(), ConfigError> {
//!     let dial = Dial::new(servers, Config::default())?;
//!     let mut connection = Connection::new(Print("news"));
//!     let print = &mut connection;
//!     dial.keep_connected(&runtime, &Plain, print, |event| println!("{event:?}")).await;
//!     Ok(())
//! }
//! ```
//!
//! Without `std`, drive the [`Connection`] with one client after another, and ask
//! [`dial::Servers`](crate::dial::Servers) which server is next, and when:
//!
//! - When [`Connection::take_servers`] returns addresses, call
//!   [`Servers::learn`](crate::dial::Servers::learn).
//! - When the machine has ended, which it also does after [`Incoming::LameDuck`], call
//!   [`Servers::ended`](crate::dial::Servers::ended), wait, and dial again.
//!
//! # TLS
//!
//! A server sends its first INFO in plain text, and the TLS handshake follows, unless it is
//! configured with `handshake_first`. So there are two machines in turn on one socket:
//!
//! 1. [`Greeting`] receives INFO, and nothing after it. Drive it with a borrowed socket until
//!    [`Greeting::info`] is there, and call [`Drive::hand_over`](crate::drive::Drive::hand_over).
//! 2. [`Client::after_greeting`], inside the machine around TLS
//!    (`wirestate_tls::Client::machine`), on the same socket. `Tls::inner_mut` gives the client.
//!
//! [`Dial`] does so with a [`Layer`](crate::dial::Layer) that encrypts, such as
//! `wirestate_tls::Client`.
//!
//! With `handshake_first`, wrap [`Client::new`]: INFO arrives inside TLS. In both cases set
//! [`Config::encrypted`]; without it, a server that requires TLS ends the connection with
//! [`ClientReason::TlsRequired`].
//!
//! # Credentials
//!
//! [`Credentials`] has user and password, token, nkey, and the JWT of a `.creds` file. The last two
//! sign the nonce of INFO: the core takes a [`Signer`], and the crate `wirestate-nats-credentials`
//! makes one from a seed or a file.

mod client;
mod config;
mod connect;
mod credentials;
#[cfg(feature = "std")]
mod dial;
mod greeting;
mod headers;
mod info;
pub mod jetstream;
mod message;
mod operation;
mod publish;
mod reason;
mod receiver;
mod requests;
mod session;
mod subject;

#[cfg(feature = "std")]
pub use self::dial::{Dial, DialEvent};
pub use self::{
    client::{Client, FlushId, Incoming},
    config::Config,
    credentials::{Credentials, Signer},
    greeting::Greeting,
    headers::{HeaderBlock, Headers, InvalidHeader, InvalidHeaders, StatusCode},
    info::{Info, InvalidInfo},
    message::{Message, Subscription},
    operation::Malformed,
    publish::{Publish, SendError},
    reason::{ClientReason, ServerError, ServerErrorKind},
    requests::{RequestError, RequestId},
    session::{Connection, Session},
    subject::{InvalidSubject, check_subject},
};
