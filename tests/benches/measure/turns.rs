//! The order in which servers get their load.

use std::io;

use super::{cpu::CpuUsage, process::Process};

/// A server and its load.
pub(crate) struct Running<T, L> {
    /// The server, or the series of its figures.
    pub(crate) owner: T,
    pub(crate) process: Process,
    pub(crate) load: L,
    pub(crate) usage: CpuUsage,
}

impl<T, L> Running<T, L> {
    pub(crate) fn new(owner: T, process: Process, load: L) -> Self {
        Self { owner, process, load, usage: CpuUsage::default() }
    }
}

/// Gives each server a turn to warm up and then `turns` turns, in alternating order.
///
/// So a slow minute of the machine affects all servers, and no server always follows the same other
/// one. `take` gets the number of the turn; 0 is the warm-up, which does not count.
pub(crate) fn alternate<T, L>(
    all: &mut [Running<T, L>],
    turns: u32,
    mut take: impl FnMut(&mut Running<T, L>, u32) -> io::Result<CpuUsage>,
) -> io::Result<()> {
    for turn in 0..=turns {
        let mut order: Vec<_> = all.iter_mut().filter(|one| !one.usage.spins).collect();
        if turn % 2 == 1 {
            order.reverse();
        }
        for running in order {
            let usage = take(running, turn)?;
            if turn > 0 || usage.spins {
                running.usage.add(&usage);
            }
            if usage.spins {
                // A server that does not sleep would take the core from the others.
                running.process.end();
            }
        }
    }
    Ok(())
}
