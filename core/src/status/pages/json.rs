//! Responses in JSON.

use core::time::Duration;

use serde::Serialize;

use super::super::http::{Response, StatusCode};

/// A response with `value` as indented JSON.
pub(super) fn respond(value: &impl Serialize) -> Response {
    Response::new(StatusCode::Ok, "application/json", to_json(value))
}

pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("all keys are strings");
    bytes.push(b'\n');
    bytes
}

/// A time in seconds, to the millisecond.
pub(super) fn seconds(time: Duration) -> f64 {
    let millis = u32::try_from(time.as_millis()).map_or(time.as_secs_f64() * 1000.0, f64::from);
    millis / 1000.0
}
