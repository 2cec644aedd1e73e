//! Echo: every byte is sent back, in order, also after the peer's FIN.
//!
//! - [`Server`] has the configuration and the buffers of one server. It makes the machine of each
//!   connection, a [`Connection`].
//! - [`Client`] is the machine of a client that sends a message and waits for the reply.
//! - [`StreamClient`] is the machine of a client that passes bytes through, in both directions.
//!
//! ```
//! use wirestate_core::{Event, Instant, Machine, Outbound, drive, echo};
//!
//! let server = echo::Server::default();
//! let now = Instant::EPOCH;
//! let mut connection = server.machine(now);
//!
//! let mut output = [0; 64];
//! drive::deliver(&mut connection, &mut &b"hello"[..], now);
//! connection.handle(now, Event::Eof); // the peer has closed its side; it still gets its reply
//! let n = drive::collect_into(&mut connection, &mut output, now);
//! assert_eq!(&output[..n], b"hello");
//! assert_eq!(connection.interest().write, Outbound::Finish);
//!
//! connection.handle(now, Event::Finished);
//! assert_eq!(connection.reason(), Some(echo::EchoReason::Finished));
//! ```

mod client;
mod connection;
mod server;
mod stream;

pub use self::{
    client::{Client, ClientConfig, ClientReason},
    connection::{Connection, EchoReason},
    server::{Config, Prefix, Server},
    stream::{StreamClient, StreamConfig, StreamReason},
};
