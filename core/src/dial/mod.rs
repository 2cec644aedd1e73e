//! Keeping a connection open: when to dial again.
//!
//! - [`Backoff`] says how long to wait before the next attempt.
//! - [`Dial`] runs a machine on a connection, and dials again when it has ended (feature `std`).

mod backoff;
#[cfg(feature = "std")]
mod redial;

pub use self::backoff::Backoff;
#[cfg(feature = "std")]
pub use self::redial::Dial;
