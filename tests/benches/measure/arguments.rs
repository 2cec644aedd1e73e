//! What the benchmarks' command lines have in common.

use std::time::Duration;

/// What was asked for, once and in the order of the report; everything where nothing was.
pub(crate) fn or_all<T: clap::ValueEnum + PartialEq + Clone>(asked: &[T]) -> Vec<T> {
    let all = T::value_variants().iter().cloned();
    if asked.is_empty() { all.collect() } else { all.filter(|one| asked.contains(one)).collect() }
}

/// A time of seconds, 0.01 to 60.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|error| format!("{error}"))?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(10)..=Duration::from_mins(1);
    if allowed.contains(&duration) { Ok(duration) } else { Err("not within 0.01 to 60".into()) }
}
