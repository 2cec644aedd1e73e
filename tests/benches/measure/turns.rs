//! The order in which servers get their load.

use std::io;

use super::{process::Process, spent::Spent};

/// A server and its load.
pub(crate) struct Running<T, L> {
    /// The server, or the series of its figures.
    pub(crate) owner: T,
    pub(crate) process: Process,
    pub(crate) load: L,
    pub(crate) spent: Spent,
}

impl<T, L> Running<T, L> {
    pub(crate) fn new(owner: T, process: Process, load: L) -> Self {
        Self { owner, process, load, spent: Spent::default() }
    }
}

/// Gives all servers `turns` turns and a first one to warm up, in alternating order.
///
/// So a slow minute of the machine hits all servers, and no server always follows the same other.
/// `take` gets the number of the turn; 0 is the warm-up, which does not count.
pub(crate) fn back_and_forth<T, L>(
    all: &mut [Running<T, L>],
    turns: u32,
    mut take: impl FnMut(&mut Running<T, L>, u32) -> io::Result<Spent>,
) -> io::Result<()> {
    for turn in 0..=turns {
        let mut order: Vec<_> = all.iter_mut().filter(|one| !one.spent.restless).collect();
        if turn % 2 == 1 {
            order.reverse();
        }
        for running in order {
            let spent = take(running, turn)?;
            if turn > 0 || spent.restless {
                running.spent.add(&spent);
            }
            if spent.restless {
                // It would take the core from the other servers.
                running.process.end();
            }
        }
    }
    Ok(())
}
