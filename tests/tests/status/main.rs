//! The status server's machine: alone, with every cut, and in a world with a service.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod alone;
mod attacks;
mod browser;
mod heads;
mod reasons;
mod services;
mod texts;
mod together;
