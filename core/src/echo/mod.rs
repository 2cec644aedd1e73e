//! Echo: every byte back, in order, also after the peer's FIN.
//!
//! - [`Server`] is what the connections of one server share, and makes an [`Echo`], the machine,
//!   for each of them.
//! - [`Client`] is the machine of a client that says something and waits for the reply.
//!
//! ```
//! use wirestate_core::{Event, Instant, Machine, Outbound, drive, echo};
//!
//! let server = echo::Server::default();
//! let now = Instant::EPOCH;
//! let mut machine = server.machine(now);
//!
//! let mut output = [0; 64];
//! drive::deliver(&mut machine, &mut &b"hello"[..], now);
//! machine.handle(now, Event::Eof); // the peer has closed its side; it still gets its bytes
//! let n = drive::collect_into(&mut machine, &mut output, now);
//! assert_eq!(&output[..n], b"hello");
//! assert_eq!(machine.interest().write, Outbound::Finish);
//!
//! machine.handle(now, Event::Finished);
//! assert_eq!(machine.reason(), Some(echo::EchoReason::Finished));
//! ```

mod client;
mod server;

pub use self::{
    client::{Client, ClientConfig, ClientReason},
    server::{Config, Echo, EchoReason, Prefix, Server},
};
