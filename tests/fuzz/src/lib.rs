//! The checks of the fuzz targets: for each target a function of arbitrary bytes.
//!
//! | function | its bytes are |
//! |---|---|
//! | [`header`] | a header of [`message`](wirestate_core::message) |
//! | [`decoder`] | limits, ways to cut the input, then the input |
//! | [`server`] | limits, then the events of a server's connection |
//! | [`client`] | limits, then the events of a client's connection and its users |
//! | [`nats`] | the events of a NATS client's connection and its uses |
//!
//! Each function panics if a check fails. libFuzzer searches for such bytes (see the README of this
//! crate). The test `corpus` calls the functions with the inputs in the repository.
//!
//! ```
//! wirestate_fuzz::header(br#"{"byteorder": "little", "content-length": -1}"#);
//! ```

#![forbid(unsafe_code)]

mod client;
mod decoder;
mod frames;
mod header;
mod nats;
mod server;
mod steps;

pub use self::{client::client, decoder::decoder, header::header, nats::nats, server::server};
