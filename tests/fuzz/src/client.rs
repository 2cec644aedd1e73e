//! libFuzzer plays bytes to [`fuzz::client`](wirestate_testkit::fuzz::client).
#![no_main]

use libfuzzer_sys::fuzz_target;
use wirestate_testkit::fuzz;

fuzz_target!(|bytes: &[u8]| fuzz::client(bytes));
