//! libFuzzer plays bytes to [`fuzz::server`](wirestate_testkit::fuzz::server).
#![no_main]

use libfuzzer_sys::fuzz_target;
use wirestate_testkit::fuzz;

fuzz_target!(|bytes: &[u8]| fuzz::server(bytes));
