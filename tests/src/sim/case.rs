//! The worlds that a test creates with one seed, and whether they are recorded or replayed.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Instant,
};

use wirestate_core::shared::Lock;

use super::{
    Decisions,
    decisions::{Log, Streams},
    world::WeakWorld,
};

thread_local! {
    /// The running cases of this thread. A case may run another one.
    static CASES: RefCell<Vec<Case>> = const { RefCell::new(Vec::new()) };
}

/// How the worlds of a case decide.
#[derive(Clone)]
pub(crate) enum Mode {
    /// By random numbers.
    Random,
    /// By random numbers, and the decisions are kept.
    Record,
    /// As listed. A world that runs after the deadline panics.
    Replay(Arc<Decisions>, Option<Instant>),
}

struct Case {
    mode: Mode,
    log: Arc<Lock<Log>>,
    worlds: Vec<WeakWorld>,
}

/// What a case has done.
pub(crate) struct Run<T> {
    /// Its result or panic.
    pub(crate) result: thread::Result<T>,
    /// How many worlds it has created on this thread.
    pub(crate) worlds: u64,
    /// Empty if its decisions were random.
    pub(crate) log: Log,
}

/// Runs `test`. Afterwards it drops the unfinished tasks of its worlds: tasks own their world, so a
/// long run would keep each world otherwise.
pub(crate) fn run<T>(mode: Mode, test: impl FnOnce() -> T) -> Run<T> {
    let log = Arc::new(Lock::new(Log::default()));
    let case = Case { mode, log: log.clone(), worlds: Vec::new() };
    CASES.with_borrow_mut(|cases| cases.push(case));
    let result = catch_unwind(AssertUnwindSafe(test));
    let worlds = CASES.with_borrow_mut(Vec::pop).map(|case| case.worlds).unwrap_or_default();
    let count = worlds.len() as u64;
    let cleared = catch_unwind(AssertUnwindSafe(|| {
        worlds.iter().filter_map(WeakWorld::upgrade).for_each(|world| world.clear());
    }));
    let result = result.and_then(|value| cleared.map(|()| value));
    Run { result, worlds: count, log: log.with(std::mem::take) }
}

/// The streams of the world that is being created. `None` if its decisions are random only.
pub(super) fn streams() -> Option<Streams> {
    CASES.with_borrow(|cases| {
        let case = cases.last()?;
        let replayed = match &case.mode {
            Mode::Random => return None,
            Mode::Record => None,
            Mode::Replay(decisions, _) => Some(decisions.clone()),
        };
        let number = case.worlds.len();
        let prefix = if number == 0 { String::new() } else { format!("world {number} ") };
        Some(Streams { prefix, replayed, log: case.log.clone() })
    })
}

/// Until when the worlds of the case may run.
pub(super) fn deadline() -> Option<Instant> {
    CASES.with_borrow(|cases| match cases.last()?.mode {
        Mode::Random | Mode::Record => None,
        Mode::Replay(_, deadline) => deadline,
    })
}

/// Adds a world to the case that runs on this thread, if any.
pub(super) fn add(world: WeakWorld) {
    CASES.with_borrow_mut(|cases| cases.last_mut().map(|case| case.worlds.push(world)));
}
