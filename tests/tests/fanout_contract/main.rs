//! The fan-out's machines, alone and together on one feed. Under any script they keep the contract,
//! messages stay whole and in order, and the counts are right.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod alone;
mod by_hand;
mod exhaustive;
mod feed;
mod messages;
mod together;

use proptest::test_runner::{Config, FileFailurePersistence};

/// Keeps failing cases in `proptest-regressions` of this crate.
fn proptest_config() -> Config {
    let file = FileFailurePersistence::Direct("proptest-regressions/fanout_contract.txt");
    Config { failure_persistence: Some(Box::new(file)), ..Config::default() }
}
