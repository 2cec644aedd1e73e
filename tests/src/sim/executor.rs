//! The tasks of a world. Only a task that was woken is polled.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use wirestate_core::shared::Lock;

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
}

struct Task {
    info: TaskInfo,
    /// `None` while the task is polled.
    work: Option<Work>,
    waker: Waker,
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
            tasks.by_id.insert(id, Task { info, work: Some(work), waker });
        });
    }

    /// Chooses a woken task of a host that is not in `stopped`. `choose` gets the number of these
    /// tasks and returns an index.
    pub(super) fn choose(
        &self,
        stopped: &BTreeSet<usize>,
        choose: impl FnOnce(usize) -> usize,
    ) -> Option<u64> {
        if stopped.is_empty() {
            return self.woken.with(|woken| {
                let count = Some(woken.ids.len()).filter(|count| *count > 0)?;
                Some(woken.ids[choose(count)])
            });
        }
        let mut ids = self.woken.with(|woken| woken.ids.clone());
        self.tasks.with(|tasks| {
            ids.retain(|id| {
                tasks.by_id.get(id).is_some_and(|task| !stopped.contains(&task.info.host))
            });
        });
        let count = Some(ids.len()).filter(|count| *count > 0)?;
        Some(ids[choose(count)])
    }

    /// Polls a task once.
    ///
    /// # Errors
    /// The task and its panic. As with tokio, unwinding has dropped the task.
    pub(super) fn poll(&self, id: u64) -> Result<(), (TaskInfo, Box<dyn Any + Send>)> {
        self.woken.with(|woken| woken.remove(id));
        let task = self.tasks.with(|tasks| {
            let task = tasks.by_id.get_mut(&id)?;
            Some((task.work.take()?, task.waker.clone(), task.info.clone()))
        });
        let Some((mut work, waker, info)) = task else { return Ok(()) };
        let polled = catch_unwind(AssertUnwindSafe(move || {
            match work.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => Some(work),
                Poll::Ready(()) => None,
            }
        }));
        let (work, result) = match polled {
            Ok(work) => (work, Ok(())),
            Err(panic) => (None, Err((info, panic))),
        };
        self.tasks.with(|tasks| match (work, tasks.by_id.get_mut(&id)) {
            (Some(work), Some(task)) => task.work = Some(work),
            (None | Some(_), _) => {
                tasks.by_id.remove(&id);
            }
        });
        result
    }

    /// How many tasks were spawned so far, are unfinished, and are woken.
    pub(super) fn counts(&self) -> (u64, usize, usize) {
        let (spawned, unfinished) = self.tasks.with(|tasks| (tasks.spawned, tasks.by_id.len()));
        (spawned, unfinished, self.woken.with(|woken| woken.ids.len()))
    }

    /// Whether all tasks have ended.
    pub(super) fn is_done(&self) -> bool {
        self.tasks.with(|tasks| tasks.by_id.is_empty())
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
