//! libFuzzer calls [`wirestate_fuzz::header`] with its inputs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wirestate_fuzz::header(bytes));
