//! The status server's machine: alone, cut in every way, and in a world beside a service.

#![allow(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

mod alone;
mod attacks;
mod heads;
mod together;
