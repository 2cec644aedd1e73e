//! The fan-out's machines, alone and together on one feed: whatever happens to them, the contract
//! holds, messages stay whole and in order, and what is counted adds up.

#![expect(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

mod alone;
mod by_hand;
mod exhaustive;
mod feed;
mod messages;
mod together;

use proptest::test_runner::{Config, FileFailurePersistence};

/// Failures are kept beside the crate's sources.
fn proptest_config() -> Config {
    let file = FileFailurePersistence::Direct("proptest-regressions/fanout_contract.txt");
    Config { failure_persistence: Some(Box::new(file)), ..Config::default() }
}
