//! What a server spends on a load.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{figures::ratio, process::Process};

/// What a server spent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// On how many requests, deliveries, bytes.
    pub(crate) work: u64,
    pub(crate) cpu: Duration,
    pub(crate) time: Duration,
    /// Whether it went on running when no byte was on its way.
    pub(crate) restless: bool,
}

impl Spent {
    /// On the work that `load` gives it, and answers the amount of.
    pub(crate) fn on(server: &Process, load: impl FnOnce() -> io::Result<u64>) -> io::Result<Self> {
        let (before, _) = server.asleep()?;
        let start = Instant::now();
        let work = load()?;
        let time = start.elapsed();
        let (after, asleep) = server.asleep()?;
        Ok(Self { work, cpu: after.saturating_sub(before), time, restless: !asleep })
    }

    /// The same. A server whose core is not full has waited for the load: on a virtual machine that
    /// can tip over, when waking the other core takes longer than serving a request, and then each
    /// is served alone, at several times the cost. So it is measured again, as long as there are
    /// `retakes`.
    pub(crate) fn on_full_core(
        server: &Process,
        retakes: &mut u32,
        mut load: impl FnMut() -> io::Result<u64>,
    ) -> io::Result<Self> {
        loop {
            let spent = Self::on(server, &mut load)?;
            if spent.busy() >= FULL || *retakes == 0 {
                return Ok(spent);
            }
            *retakes -= 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.work += other.work;
        self.cpu += other.cpu;
        self.time += other.time;
        self.restless |= other.restless;
    }

    /// How full its core was, from 0 to 1.
    pub(crate) fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.time.as_secs_f64()
    }

    /// The CPU that a unit of work took, in nanoseconds.
    pub(crate) fn nanoseconds(&self) -> f64 {
        let nanoseconds = u64::try_from(self.cpu.as_nanos()).expect("less than centuries");
        ratio(nanoseconds, self.work)
    }
}

/// How many slices a run measures again at most.
pub(crate) const RETAKES: u32 = 100;
/// A core that is fuller than that did not wait for the load.
const FULL: f64 = 0.9;
