//! The binary starts. `tests/tests/real_sockets` has the tests of all three binaries. Cargo builds
//! the binary for this test, and those tests run the built file.

use std::process::Command;

#[test]
fn the_binary_prints_its_name_and_version() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_wirestate-tokio")).arg("--version").output().unwrap();
    let expected = concat!("wirestate-tokio ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
