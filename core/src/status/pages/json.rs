//! Responses in JSON.

use core::time::Duration;

use serde::{Serialize, Serializer};

use super::super::http::{Response, StatusCode};
use crate::quantity::Seconds;

/// A response with `value` as indented JSON.
pub(super) fn respond(value: &impl Serialize) -> Response {
    Response::new(StatusCode::Ok, "application/json", to_json(value))
}

pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("all keys are strings");
    bytes.push(b'\n');
    bytes
}

/// Serializes a time as a number of seconds.
pub(super) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(Seconds(*time).to_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_at_most_six_decimals_and_no_exponent() {
        #[derive(Serialize)]
        struct Times(#[serde(serialize_with = "seconds")] Duration);

        for (time, expected) in [
            (Duration::ZERO, "0.0\n"),
            (Duration::from_nanos(34), "0.0\n"),
            (Duration::from_micros(6), "0.00001\n"),
            (Duration::from_micros(34), "0.000034\n"),
            (Duration::from_nanos(1_999_998_729), "1.999999\n"),
            (Duration::from_secs(30), "30.0\n"),
        ] {
            assert_eq!(to_json(&Times(time)), expected.as_bytes());
        }
        let longest = String::from_utf8(to_json(&Times(Duration::MAX))).unwrap();
        assert!(!longest.contains('e') && longest.len() < 20, "{longest}");
    }
}
