//! The load generator: echo clients that send many messages, verify every byte that comes back, and
//! measure round-trip times.
//!
//! [`Load`] is the machine of one connection. `multiconn-client` and the demo run many of them.
//!
//! ```
//! use wirestate_command_line::load::{Load, LoadConfig, LoadReason};
//! use wirestate_core::{Event, Instant, Machine, buffer::Pool, drive};
//!
//! let now = Instant::EPOCH;
//! let mut load = Load::new(LoadConfig::default(), Pool::new(1024, 1), now, |_| {})?;
//!
//! let mut output = [0; 64];
//! let n = drive::collect_into(&mut load, &mut output, now);
//! drive::deliver(&mut load, &mut &output[..n], now); // the echo
//! load.handle(now, Event::Finished);
//! load.handle(now, Event::Eof); // the server's FIN
//! assert_eq!(load.reason(), Some(LoadReason::Complete { bytes: n as u64 }));
//! # Ok::<(), wirestate_core::ConfigError>(())
//! ```

mod config;
mod machine;
mod report;
mod run;

pub use self::{
    config::{LoadConfig, Pace, Schedule},
    machine::{Load, LoadReason},
};
pub(super) use self::{
    report::Report,
    run::{LoadRun, Progress},
};

/// A message of `size` bytes that reveals a shift: neighbouring runs of bytes differ.
pub(super) fn pattern(size: usize) -> bytes::Bytes {
    (0..size).map(|i| i.wrapping_mul(31).wrapping_add(i >> 8).to_le_bytes()[0]).collect()
}
