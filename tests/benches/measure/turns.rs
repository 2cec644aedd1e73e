//! The order in which servers get their load.

use std::io;

use super::{process::Process, spent::Spent};

/// A server with its load.
pub(crate) struct Running<T, L> {
    /// Whose server it is.
    pub(crate) whose: T,
    pub(crate) process: Process,
    pub(crate) load: L,
    pub(crate) spent: Spent,
}

impl<T, L> Running<T, L> {
    pub(crate) fn new(whose: T, process: Process, load: L) -> Self {
        Self { whose, process, load, spent: Spent::default() }
    }
}

/// All get a turn, so often, back and forth: a slow minute of the machine hits all of them, and
/// nobody always comes behind the same. The turn's number is handed on; that of the first is 0, and
/// it is one more than `turns`, to warm up: it does not count.
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
                // It would take the core from the others.
                running.process.end();
            }
        }
    }
    Ok(())
}
