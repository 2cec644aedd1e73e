//! The tasks of a world. Only a task that was woken is polled.

use std::{
    any::Any,
    collections::BTreeMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Wake, Waker},
};

use wirestate_core::{Instant, shared::Lock};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The unfinished tasks of a world.
#[derive(Default)]
pub(super) struct Executor {
    woken: Arc<Lock<Woken>>,
    tasks: Lock<Tasks>,
}

#[derive(Default)]
struct Tasks {
    by_id: BTreeMap<u64, Task>,
    spawned: u64,
    /// How often the time has advanced.
    advances: u64,
}

struct Task {
    info: TaskInfo,
    /// `None` while the task is polled.
    work: Option<(Work, Waker)>,
    /// How often it was polled since the time last advanced, and the number of that advance.
    polls: (u32, u64),
}

/// What a poll of a task has come to.
pub(super) enum Polled {
    Pending,
    Ended(TaskInfo),
    /// As with tokio, unwinding has dropped the task.
    Panicked(TaskInfo, Box<dyn Any + Send>),
}

/// A task's number, host and name.
#[derive(Clone)]
pub(super) struct TaskInfo {
    pub(super) id: u64,
    pub(super) host: usize,
    pub(super) name: Option<Arc<str>>,
}

struct TaskWaker {
    task: u64,
    woken: Arc<Lock<Woken>>,
}

/// The ids of the woken tasks, sorted. A step chooses one of them by index, and thousands may be
/// woken at the same time.
#[derive(Default)]
struct Woken {
    ids: Vec<u64>,
}

impl Woken {
    fn insert(&mut self, id: u64) {
        if let Err(index) = self.ids.binary_search(&id) {
            self.ids.insert(index, id);
        }
    }

    fn remove(&mut self, id: u64) {
        if let Ok(index) = self.ids.binary_search(&id) {
            self.ids.remove(index);
        }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.woken.with(|woken| woken.insert(self.task));
    }
}

impl Executor {
    /// Adds a task and wakes it.
    pub(super) fn spawn(&self, host: usize, name: Option<&str>, work: Work) {
        self.tasks.with(|tasks| {
            let id = tasks.spawned;
            tasks.spawned += 1;
            let waker = Waker::from(Arc::new(TaskWaker { task: id, woken: self.woken.clone() }));
            waker.wake_by_ref();
            let info = TaskInfo { id, host, name: name.map(Arc::from) };
            tasks.by_id.insert(id, Task { info, work: Some((work, waker)), polls: (0, 0) });
        });
    }

    /// Drops all tasks of a host.
    pub(super) fn kill(&self, host: usize) {
        let killed: Vec<Task> = self.tasks.with(|tasks| {
            tasks
                .by_id
                .extract_if(.., |_, task| task.info.host == host)
                .map(|(_, task)| task)
                .collect()
        });
        drop(killed); // without the lock, which the destructors of tasks may take
    }

    /// Takes a woken task of a host that is not in `stopped`. `choose` gets the number of these
    /// tasks and returns an index.
    pub(super) fn take_woken(
        &self,
        stopped: &BTreeMap<usize, Instant>,
        choose: impl FnOnce(usize) -> usize,
    ) -> Option<u64> {
        if stopped.is_empty() {
            return self.woken.with(|woken| {
                let count = Some(woken.ids.len()).filter(|count| *count > 0)?;
                Some(woken.ids.remove(choose(count)))
            });
        }
        let mut ids = self.woken.with(|woken| woken.ids.clone());
        self.tasks.with(|tasks| {
            ids.retain(|id| {
                tasks.by_id.get(id).is_some_and(|task| !stopped.contains_key(&task.info.host))
            });
        });
        let count = Some(ids.len()).filter(|count| *count > 0)?;
        let id = ids[choose(count)];
        self.woken.with(|woken| woken.remove(id));
        Some(id)
    }

    /// Counts a poll of a task. Returns the number of its polls since the time last advanced.
    pub(super) fn count_poll(&self, id: u64) -> u32 {
        self.tasks.with(|tasks| {
            let Some(task) = tasks.by_id.get_mut(&id) else { return 0 };
            let (polls, advance) = task.polls;
            let polls = if advance == tasks.advances { polls + 1 } else { 1 };
            task.polls = (polls, tasks.advances);
            polls
        })
    }

    /// The time advances.
    pub(super) fn advance(&self) {
        self.tasks.with(|tasks| tasks.advances += 1);
    }

    /// Polls a task once. `None` if it has ended before.
    pub(super) fn poll(&self, id: u64) -> Option<Polled> {
        let (mut work, waker) = self.tasks.with(|tasks| tasks.by_id.get_mut(&id)?.work.take())?;
        let polled = catch_unwind(AssertUnwindSafe(move || {
            let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
            polled.is_pending().then_some((work, waker))
        }));
        if let Ok(Some(work)) = polled {
            // A task that has killed its host is dropped without the lock.
            let dropped = self.tasks.with(|tasks| match tasks.by_id.get_mut(&id) {
                Some(task) => task.work.replace(work),
                None => Some(work),
            });
            drop(dropped);
            return Some(Polled::Pending);
        }
        let Task { info, .. } = self.tasks.with(|tasks| tasks.by_id.remove(&id))?;
        Some(match polled {
            Ok(_) => Polled::Ended(info),
            Err(panic) => Polled::Panicked(info, panic),
        })
    }

    /// How many tasks were spawned so far, and are woken.
    pub(super) fn counts(&self) -> (u64, usize) {
        (self.tasks.with(|tasks| tasks.spawned), self.woken.with(|woken| woken.ids.len()))
    }

    /// Whether all tasks have ended.
    pub(super) fn is_done(&self) -> bool {
        self.tasks.with(|tasks| tasks.by_id.is_empty())
    }

    /// Whether all tasks of these hosts have ended.
    pub(super) fn is_done_on(&self, hosts: &[usize]) -> bool {
        self.tasks.with(|tasks| tasks.by_id.values().all(|task| !hosts.contains(&task.info.host)))
    }

    /// A task; `None` if it has ended.
    pub(super) fn task(&self, id: u64) -> Option<TaskInfo> {
        self.tasks.with(|tasks| tasks.by_id.get(&id).map(|task| task.info.clone()))
    }

    /// The unfinished tasks.
    pub(super) fn unfinished(&self) -> Vec<TaskInfo> {
        self.tasks.with(|tasks| tasks.by_id.values().map(|task| task.info.clone()).collect())
    }

    /// Drops all tasks.
    pub(super) fn clear(&self) {
        let tasks = self.tasks.with(|tasks| std::mem::take(&mut tasks.by_id));
        drop(tasks); // without the lock, which the destructors of tasks may take
    }
}
