//! TLS around the machines.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod certificates;
mod ends;
mod exchange;
mod forge;
mod machines;
mod memory;
mod pair;
mod reasons;
mod records;
mod scripts;
mod simulated;
mod talker;
