//! libFuzzer calls [`wirestate_fuzz::server`] with its inputs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wirestate_fuzz::server(bytes));
