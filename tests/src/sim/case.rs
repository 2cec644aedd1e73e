//! The worlds that a test creates with one seed, and whether they are recorded or replayed.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
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
    /// As listed.
    Replay(Arc<Decisions>),
}

/// How far the worlds of a case may run, all together. A world that goes on panics.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    /// How many steps: polls of woken tasks, alarms, and events of the network.
    pub(crate) steps: u64,
    pub(crate) until: Instant,
}

/// How far the worlds of a case have run.
pub(super) struct Progress {
    steps: AtomicU64,
    limit: Option<Limit>,
}

impl Progress {
    /// Counts a step of a world.
    ///
    /// # Panics
    /// If it is beyond the limit.
    pub(super) fn step(&self) {
        let steps = self.steps.fetch_add(1, Relaxed) + 1;
        let is_over = |limit: Limit| steps > limit.steps || Instant::now() >= limit.until;
        assert!(!self.limit.is_some_and(is_over), "the world has run for too long");
    }
}

struct Case {
    mode: Mode,
    log: Arc<Lock<Log>>,
    progress: Arc<Progress>,
    worlds: Vec<WeakWorld>,
}

/// What a case has done.
pub(crate) struct Run<T> {
    /// Its result or panic.
    pub(crate) result: thread::Result<T>,
    /// How many worlds it has created on this thread.
    pub(crate) worlds: u64,
    /// How many steps they have run.
    pub(crate) steps: u64,
    /// Empty if its decisions were random.
    pub(crate) log: Log,
}

/// Runs `test`. Afterwards it drops the unfinished tasks of its worlds: tasks own their world, so a
/// long run would keep each world otherwise.
///
/// Without a limit of its own, it counts towards the limit of the case that it is in.
pub(crate) fn run<T>(mode: Mode, limit: Option<Limit>, test: impl FnOnce() -> T) -> Run<T> {
    let log = Arc::new(Lock::new(Log::default()));
    let outer = if limit.is_none() { progress() } else { None };
    let progress = outer.unwrap_or_else(|| Arc::new(Progress { steps: AtomicU64::new(0), limit }));
    let before = progress.steps.load(Relaxed);
    let case = Case { mode, log: log.clone(), progress: progress.clone(), worlds: Vec::new() };
    CASES.with_borrow_mut(|cases| cases.push(case));
    let result = catch_unwind(AssertUnwindSafe(test));
    let worlds = CASES.with_borrow_mut(Vec::pop).map(|case| case.worlds).unwrap_or_default();
    let count = worlds.len() as u64;
    let cleared = catch_unwind(AssertUnwindSafe(|| {
        worlds.iter().filter_map(WeakWorld::upgrade).for_each(|world| world.clear());
    }));
    let result = result.and_then(|value| cleared.map(|()| value));
    let steps = progress.steps.load(Relaxed) - before;
    Run { result, worlds: count, steps, log: log.with(std::mem::take) }
}

/// The streams of the world that is being created. `None` if its decisions are random only.
pub(super) fn streams() -> Option<Streams> {
    CASES.with_borrow(|cases| {
        let case = cases.last()?;
        let replayed = match &case.mode {
            Mode::Random => return None,
            Mode::Record => None,
            Mode::Replay(decisions) => Some(decisions.clone()),
        };
        let number = case.worlds.len();
        let prefix = if number == 0 { String::new() } else { format!("world {number} ") };
        Some(Streams { prefix, replayed, log: case.log.clone() })
    })
}

/// The progress of the case that runs on this thread, if any.
pub(super) fn progress() -> Option<Arc<Progress>> {
    CASES.with_borrow(|cases| cases.last().map(|case| case.progress.clone()))
}

/// How many worlds the case that runs on this thread has created so far.
pub(super) fn worlds() -> usize {
    CASES.with_borrow(|cases| cases.last().map_or(0, |case| case.worlds.len()))
}

/// Adds a world to the case that runs on this thread, if any.
pub(super) fn add(world: WeakWorld) {
    CASES.with_borrow_mut(|cases| cases.last_mut().map(|case| case.worlds.push(world)));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sim::World;

    #[test]
    fn the_worlds_of_a_case_and_of_cases_in_it_count_towards_its_limit() {
        let run = |steps| {
            let until = Instant::now() + Duration::from_secs(3600);
            let mode = Mode::Replay(Arc::default());
            run(mode, Some(Limit { steps, until }), || {
                let run_for = |world: &World| world.run_for(Duration::from_secs(1)).unwrap();
                run_for(&World::new(1));
                Decisions::record(|| run_for(&World::new(2)));
                Decisions::record(|| run_for(&World::new(3)));
            })
        };
        let enough = run(3);
        assert!(enough.result.is_ok());
        assert_eq!((enough.steps, enough.worlds), (3, 1));
        assert!(run(2).result.is_err());
    }
}
