//! Message servers and their clients in the simulated world: `serve`, `Drive` and the machines as
//! they are, under every fault that the world knows.
//!
//! `WIRESTATE_SEEDS=1000 cargo test --release --test simulated_message` tries more of it; what fails
//! says which `WIRESTATE_SEED` replays it.

#![expect(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

mod faults;
mod handlers;
mod handles;
mod limits;
mod memory;
mod scene;
