//! The codec of the JSON-header protocol: encoded messages are decoded again, and a bad frame gives
//! one error, for every cut and every decoder.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod corpus;
mod golden;
mod lengths;
mod reading;
mod round_trip;
