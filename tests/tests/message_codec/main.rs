//! The codec of the JSON-header protocol: what was encoded is decoded again, and what is no frame
//! gives one error, however the bytes are cut and whoever decodes them.

#![expect(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

mod corpus;
mod golden;
mod lengths;
mod reading;
mod round_trip;

use proptest::test_runner::{Config, FileFailurePersistence};

/// Failures are kept beside the crate's sources.
fn proptest_config(cases: u32) -> Config {
    let file = FileFailurePersistence::Direct("proptest-regressions/message_codec.txt");
    Config { failure_persistence: Some(Box::new(file)), cases, ..Config::default() }
}
