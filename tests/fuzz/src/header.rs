//! libFuzzer plays bytes to [`fuzz::header`](wirestate_testkit::fuzz::header).
#![no_main]

use libfuzzer_sys::fuzz_target;
use wirestate_testkit::fuzz;

fuzz_target!(|bytes: &[u8]| fuzz::header(bytes));
