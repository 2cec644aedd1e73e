//! A fan-out server in the simulated world: an upstream with numbered messages, the machines on
//! [`serve`] and [`Drive`], and subscribers of every kind.
//!
//! `WIRESTATE_SEEDS=100 cargo test --release --test simulated_fanout` runs more seeds. A failing
//! test prints the `WIRESTATE_SEED` that replays it.
//!
//! [`serve`]: wirestate_core::serve::serve
//! [`Drive`]: wirestate_core::drive::Drive

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod attack;
mod crowd;
mod lag;
mod lifecycle;
mod meter;
mod scene;
