//! Proxies between clients and echo servers in the simulated world: [`serve`], the relay and the
//! dialler as they are, under every fault that the world knows.
//!
//! [`serve`]: wirestate_core::proxy::serve

#![expect(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

mod buffering;
mod dialling;
mod faults;
mod headers;
mod loops;
mod relaying;
mod scene;
