//! The code that the benchmarks share.

#![expect(dead_code, reason = "each benchmark uses a part")]

pub(crate) mod arguments;
pub(crate) mod costs;
pub(crate) mod cpu;
pub(crate) mod figures;
pub(crate) mod nginx;
pub(crate) mod other_build;
pub(crate) mod process;
pub(crate) mod runtimes;
pub(crate) mod socket;
pub(crate) mod turns;
