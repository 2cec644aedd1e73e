//! The proxy's machine alone. Under any events both sides keep the contract, and each is sent the
//! bytes of the other.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod exhaustive;
mod pair;
mod sides;
