//! Recordings of real sessions, and their replay.
//!
//! A machine has no IO, no clock and no randomness, so what it does depends only on its
//! configuration and on what happens to it. [`Recorded`] is a machine around a machine that
//! encodes what happens: the events and their times, and a digest of the output. [`replay`] plays
//! a [`Recording`] to a machine of the same configuration, and compares the output and the end. The
//! runtime that recorded it does not matter.
//!
//! The servers' flag `--record` writes recordings, and the command `replay` reads them. The page
//! `docs/recordings.md` describes both, and the format.
//!
//! What a machine uses from outside is recorded as well, by [`Recordable`]: the answers of
//! asynchronous services, and a subscriber's positions in the log.

mod digest;
mod format;
mod header;
mod recorded;
mod recorder;
mod recording;
mod replay;
#[cfg(feature = "std")]
mod script;
#[cfg(feature = "std")]
mod shrink;
#[cfg(feature = "std")]
mod shrunk_test;

pub(crate) use self::replay::{Sides, run};
pub use self::{
    digest::Digest,
    format::{put_number, take_number},
    header::Header,
    recorded::{Recordable, Recorded},
    recorder::{BlockSink, Ended, Recorder, Stop},
    recording::{End, ReadError, ReadErrorKind, Recording, Step, Steps, What},
    replay::{Difference, DifferenceKind, Observed, Replay, replay, replay_observed},
};
#[cfg(feature = "std")]
pub use self::{
    shrink::{ShrinkError, shrink, shrink_relay},
    shrunk_test::ShrunkTest,
};
