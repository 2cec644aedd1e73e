//! Keeping a connection open: when to dial again.
//!
//! - [`Backoff`] says how long to wait before the next attempt.
//! - [`Servers`] says which server of a cluster to dial, and when.
//! - [`Dial`] runs a machine on a connection, and dials again when it has ended (feature `std`).

mod backoff;
#[cfg(feature = "std")]
mod redial;
mod servers;

#[cfg(feature = "std")]
pub use self::redial::Dial;
pub use self::{backoff::Backoff, servers::Servers};
