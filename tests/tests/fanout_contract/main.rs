//! The fan-out's machines, alone and together on one feed. Under any input they keep the contract,
//! messages stay complete and in order, and the counters are right.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod alone;
mod epochs;
mod exhaustive;
mod feed;
mod messages;
mod owned_buffers;
mod publishers;
mod readers;
mod reasons;
mod together;
