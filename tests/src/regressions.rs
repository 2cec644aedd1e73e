//! Failing cases of property tests, saved beside the test.

use std::panic::Location;

use proptest::test_runner::{Config, FileFailurePersistence};

/// The default configuration of proptest, but a failing case is saved beside the test: the cases of
/// `tests/codec.rs` in `tests/codec.regressions`.
///
/// The next runs try the saved cases first. Commit the file. Nothing is written while all tests
/// pass, or with `PROPTEST_DISABLE_FAILURE_PERSISTENCE` set. (The default of proptest expects a
/// `lib.rs` or `main.rs` above the test, so it warns in a single-file integration test.)
///
/// ```
/// use proptest::prelude::*;
/// use wirestate_testkit::proptest_config;
///
/// proptest! {
///     #![proptest_config(proptest_config())]
///     fn addition_commutes(a in 0..100, b in 0..100) {
///         prop_assert_eq!(a + b, b + a);
///     }
/// }
/// addition_commutes();
/// ```
#[track_caller]
pub fn proptest_config() -> Config {
    let config = Config::default();
    let is_on = config.failure_persistence.is_some();
    let file = FileFailurePersistence::WithSource("regressions");
    Config {
        failure_persistence: is_on.then(|| Box::new(file) as _),
        source_file: Some(Location::caller().file()),
        ..config
    }
}
