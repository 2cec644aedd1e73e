//! Responses in JSON.

use core::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

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

/// Serializes a time as a number of seconds, with at most six decimals and without an exponent.
pub(super) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let number = RawValue::from_string(Seconds(*time).to_string());
    number.expect("the text of `Seconds` is a number").serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_at_most_six_decimals_and_no_exponent() {
        #[derive(Serialize)]
        struct Times(#[serde(serialize_with = "seconds")] Duration);

        for (time, expected) in [
            (Duration::ZERO, "0\n"),
            (Duration::from_nanos(34), "0\n"),
            (Duration::from_micros(1), "0.000001\n"),
            (Duration::from_nanos(1_999_998_729), "1.999999\n"),
            (Duration::MAX, "18446744073709551616\n"),
        ] {
            assert_eq!(to_json(&Times(time)), expected.as_bytes());
        }
    }
}
