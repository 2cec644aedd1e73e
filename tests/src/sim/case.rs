//! The worlds that a test creates with one seed.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use super::world::WeakWorld;

thread_local! {
    /// The worlds of each running case of this thread. A case may run another one.
    static CASES: RefCell<Vec<Vec<WeakWorld>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `test`, and returns its panic, and how many worlds it has created on this thread.
///
/// Afterwards it drops the unfinished tasks of these worlds. Tasks own their world, so a long run
/// would keep each world otherwise.
pub(crate) fn run(test: impl FnOnce()) -> (thread::Result<()>, u64) {
    CASES.with_borrow_mut(|cases| cases.push(Vec::new()));
    let result = catch_unwind(AssertUnwindSafe(test));
    let worlds = CASES.with_borrow_mut(Vec::pop).unwrap_or_default();
    let count = worlds.len() as u64;
    let cleared = catch_unwind(AssertUnwindSafe(|| {
        worlds.iter().filter_map(WeakWorld::upgrade).for_each(|world| world.clear());
    }));
    (result.and(cleared), count)
}

/// Adds a world to the case that runs on this thread, if any.
pub(super) fn add(world: WeakWorld) {
    CASES.with_borrow_mut(|cases| cases.last_mut().map(|worlds| worlds.push(world)));
}
