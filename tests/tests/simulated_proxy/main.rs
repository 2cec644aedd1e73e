//! Proxies between clients and echo servers in the simulated world: [`serve`], the relay and the
//! dialler, under all faults.
//!
//! [`serve`]: wirestate_core::proxy::serve

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod buffering;
mod dialling;
mod faults;
mod headers;
mod loops;
mod relaying;
mod scene;
