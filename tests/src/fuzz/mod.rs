//! What the fuzz targets assert: of each, one function of any bytes.
//!
//! | function | its bytes are |
//! |---|---|
//! | [`header`] | a header of [`message`](wirestate_core::message) |
//! | [`decoder`] | limits, ways to cut, then what arrives |
//! | [`server`] | limits, then what happens to a connection of a server |
//! | [`client`] | limits, then what happens to a client, used inline and by handles |
//!
//! Each panics at what must not be. libFuzzer looks for such bytes (`tests/fuzz` in the repository,
//! whose README has the commands); what it has found and kept, the ordinary tests play again.
//!
//! ```
//! use wirestate_testkit::fuzz;
//!
//! fuzz::header(br#"{"byteorder": "little", "content-length": -1}"#);
//! ```

mod client;
mod decoder;
mod frames;
mod header;
mod server;
mod steps;

pub use self::{client::client, decoder::decoder, header::header, server::server};
