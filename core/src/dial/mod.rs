//! Keeping a connection open: when to dial again.
//!
//! - [`Backoff`] says how long to wait before the next attempt.
//! - [`Servers`] says which server of a cluster to dial, and when.
//! - [`Dial`] runs a machine on a connection, and dials again when it has ended (feature `std`).
//! - [`Check`] is a health check of a server, and [`CheckConfig`] says when it is checked.
//! - [`Endpoint`] is an address of an upstream.
//! - [`Layer`] is what each connection has around its machine: nothing, or TLS.

mod backoff;
mod check;
mod endpoint;
mod layer;
#[cfg(feature = "std")]
mod redial;
mod servers;

#[cfg(feature = "std")]
pub use self::redial::Dial;
pub use self::{
    backoff::Backoff,
    check::{Check, CheckConfig, CheckReason},
    endpoint::Endpoint,
    layer::{Layer, Plain},
    servers::Servers,
};
