//! libFuzzer calls [`wirestate_fuzz::nats`] with its inputs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wirestate_fuzz::nats(bytes));
