//! libFuzzer plays bytes to [`fuzz::decoder`](wirestate_testkit::fuzz::decoder).
#![no_main]

use libfuzzer_sys::fuzz_target;
use wirestate_testkit::fuzz;

fuzz_target!(|bytes: &[u8]| fuzz::decoder(bytes));
