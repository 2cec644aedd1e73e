//! Message servers and their clients in the simulated world: `serve`, `Drive` and the machines,
//! under all faults.
//!
//! `WIRESTATE_SEEDS=1000 cargo test --release --test simulated_message` runs more seeds. A failing
//! test prints the `WIRESTATE_SEED` that replays it.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod faults;
mod handlers;
mod handles;
mod limits;
mod memory;
mod scene;
