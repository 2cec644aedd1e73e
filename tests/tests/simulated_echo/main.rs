//! Echo servers and their clients in the simulated world: the real [`serve`], [`Drive`] and
//! machines, under every fault of the world.
//!
//! `WIRESTATE_SEEDS=1000 cargo test --release --test simulated_echo` tries more seeds; a failure
//! names the `WIRESTATE_SEED` that replays it.
//!
//! [`serve`]: wirestate_core::serve::serve
//! [`Drive`]: wirestate_core::drive::Drive

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod clients;
mod clocks;
mod faults;
mod limits;
mod listeners;
mod logging;
mod observed;
mod rates;
mod scene;
