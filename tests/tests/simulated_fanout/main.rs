//! A fan-out server in the simulated world: an upstream that numbers its messages, the machines on
//! [`serve`] and [`Drive`] as they are, and subscribers of every kind.
//!
//! `WIRESTATE_SEEDS=100 cargo test --release --test simulated_fanout` tries more of it; what fails
//! says which `WIRESTATE_SEED` replays it.
//!
//! [`serve`]: wirestate_core::serve::serve
//! [`Drive`]: wirestate_core::drive::Drive

#![expect(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

mod attack;
mod crowd;
mod lag;
mod lifecycle;
mod meter;
mod scene;
