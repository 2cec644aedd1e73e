//! Echo servers and their clients in the simulated world: [`serve`], [`Drive`] and the machines as
//! they are, under every fault that the world knows.
//!
//! `WIRESTATE_SEEDS=1000 cargo test --release --test simulated_echo` tries more of it; what fails
//! says which `WIRESTATE_SEED` replays it.
//!
//! [`serve`]: wirestate_core::serve::serve
//! [`Drive`]: wirestate_core::drive::Drive

#![expect(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

mod clocks;
mod faults;
mod limits;
mod logging;
mod scene;
mod spied;
