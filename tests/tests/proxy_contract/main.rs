//! The proxy's machine, alone: whatever happens to its two sides, each keeps the contract, and what
//! the one is sent is what the other has sent.

#![expect(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

mod exhaustive;
mod pair;
mod sides;
