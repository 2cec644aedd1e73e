//! The proxy's machine without a runtime: after any events, both sides keep the contract, and each
//! side is sent the bytes that were received from the other.

#![expect(clippy::unwrap_used, reason = "this is how a test fails, also outside of its function")]

mod exhaustive;
mod model;
mod pair;
mod sides;
