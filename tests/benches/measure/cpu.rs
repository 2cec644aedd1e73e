//! The CPU that a server uses for a load.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{figures::ratio, process::Process};

/// The CPU that a server has used for a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuUsage {
    /// The number of requests, deliveries or bytes.
    pub(crate) work: u64,
    pub(crate) cpu: Duration,
    pub(crate) time: Duration,
    /// Whether the server did not sleep after the load, while no byte was in flight.
    pub(crate) spins: bool,
}

impl CpuUsage {
    /// Measures the CPU for the work of `load`, which returns the amount of work.
    pub(crate) fn on(server: &Process, load: impl FnOnce() -> io::Result<u64>) -> io::Result<Self> {
        let (before, _) = server.wait_until_asleep()?;
        let start = Instant::now();
        let work = load()?;
        let time = start.elapsed();
        let (after, asleep) = server.wait_until_asleep()?;
        Ok(Self { work, cpu: after.saturating_sub(before), time, spins: !asleep })
    }

    /// Like [`on`](Self::on), but measures again while the server's core was not full, at most
    /// `retakes` times.
    ///
    /// A server whose core is not full has waited for the load. On a virtual machine, waking
    /// the other core may take longer than serving a request: then each request is served alone, at
    /// several times the cost.
    pub(crate) fn on_full_core(
        server: &Process,
        retakes: &mut u32,
        mut load: impl FnMut() -> io::Result<u64>,
    ) -> io::Result<Self> {
        loop {
            let usage = Self::on(server, &mut load)?;
            if usage.busy() >= FULL || *retakes == 0 {
                return Ok(usage);
            }
            *retakes -= 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.work += other.work;
        self.cpu += other.cpu;
        self.time += other.time;
        self.spins |= other.spins;
    }

    /// The share of the time that the server used its core, from 0 to 1.
    pub(crate) fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.time.as_secs_f64()
    }

    /// The CPU for a unit of work, in nanoseconds.
    pub(crate) fn nanoseconds(&self) -> f64 {
        let nanoseconds =
            u64::try_from(self.cpu.as_nanos()).expect("the time is less than 500 years");
        ratio(nanoseconds, self.work)
    }
}

/// The most slices that one run measures again.
pub(crate) const RETAKES: u32 = 100;
/// The share of its core above which a server has not waited for the load.
const FULL: f64 = 0.9;
