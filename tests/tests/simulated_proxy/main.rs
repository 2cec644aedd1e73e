//! Proxies between clients and upstreams in the simulated world: the real [`serve`], relay and
//! dialler, under all faults of the simulator.
//!
//! [`serve`]: wirestate_core::proxy::serve

#![expect(clippy::unwrap_used, reason = "this is how a test fails, also outside of its function")]

mod buffering;
mod checks;
mod dialling;
mod faults;
mod headers;
mod injected;
mod loops;
mod names;
mod rates;
mod reasons;
mod relaying;
mod scene;
