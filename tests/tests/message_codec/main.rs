//! The codec of the JSON-header protocol: encoded messages are decoded again, and a bad frame gives
//! one error, for every cut and every decoder.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod corpus;
mod golden;
mod lengths;
mod reading;
mod round_trip;

use proptest::test_runner::{Config, FileFailurePersistence};

/// Keeps failing cases in `proptest-regressions` of this crate.
fn proptest_config(cases: u32) -> Config {
    let file = FileFailurePersistence::Direct("proptest-regressions/message_codec.txt");
    Config { failure_persistence: Some(Box::new(file)), cases, ..Config::default() }
}
