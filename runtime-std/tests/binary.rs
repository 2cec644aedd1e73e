//! The binary starts. What it does is tested for all runtimes alike in `tests/tests/real_sockets`,
//! which finds it built because this test asks for it.

use std::process::Command;

#[test]
fn it_says_its_name_and_version() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_wirestate-std")).arg("--version").output().unwrap();
    let expected = concat!("wirestate-std ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
