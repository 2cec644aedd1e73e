//! Environment variables that choose what a test tries.

use std::{env, time::Duration};

/// The value of an environment variable. `None` if it is not set.
#[track_caller]
pub(crate) fn variable<T>(name: &str, form: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let value = env::var(name).ok()?;
    let Some(parsed) = parse(&value) else { panic!("{name} must be {form}, not {value:?}") };
    Some(parsed)
}

/// The time that an environment variable has in seconds.
#[track_caller]
pub(crate) fn seconds(name: &str) -> Option<Duration> {
    variable(name, "a number of seconds", |text| {
        Duration::try_from_secs_f64(text.parse().ok()?).ok()
    })
}

/// For how long a failure is made smaller, if `WIRESTATE_SHRINK_SECONDS` is set.
#[track_caller]
pub(crate) fn shrink_for() -> Option<Duration> {
    seconds("WIRESTATE_SHRINK_SECONDS")
}

/// For how long a failure is made smaller otherwise.
pub(crate) const SHRINK_FOR: Duration = Duration::from_secs(10);
