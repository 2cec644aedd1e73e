//! A fan-out server in the simulated world: an upstream that numbers its messages, the real
//! machines, [`serve`] and [`Drive`], and subscribers of every kind.
//!
//! `WIRESTATE_SEEDS=100 cargo test --release --test simulated_fanout` tries more seeds; a
//! failure names the `WIRESTATE_SEED` that replays it.
//!
//! [`serve`]: wirestate_core::serve::serve
//! [`Drive`]: wirestate_core::drive::Drive

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod attack;
mod crowd;
mod epochs;
mod lag;
mod lifecycle;
mod meter;
mod publishers;
mod scene;
