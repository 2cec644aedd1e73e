//! Tasks of a server beside its connections, which its end waits for.

use core::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tracing::warn;
use wirestate_core::{
    Instant,
    drive::Clock,
    quantity::Time,
    shared::{Promise, Promised, promise},
    shutdown::ShutdownHandle,
};

use crate::{CommandError, CommandRuntime};

/// A task of a server beside its connections.
pub(crate) struct Task {
    shutdown: ShutdownHandle,
    ended: Promised<()>,
}

impl Task {
    /// Starts a task that ends after a request to `shutdown`.
    pub(super) fn spawn<R: CommandRuntime>(
        runtime: &R,
        shutdown: &ShutdownHandle,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Self, CommandError> {
        let (promise, ended) = promise();
        let end = End(Some(promise));
        // A runtime moves it several times, and a thread's stack is small.
        let task = Box::pin(task);
        let task = async move {
            task.await;
            drop(end);
        };
        runtime.spawn(task).map_err(CommandError::Spawn)?;
        Ok(Self { shutdown: shutdown.clone(), ended })
    }
}

/// Says that a task has ended when it is dropped, also by a panic.
struct End(Option<Promise<()>>);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(promise) = self.0.take() {
            // If the server is gone, it does not matter.
            let _ = promise.fulfil(());
        }
    }
}

/// The tasks of a server.
#[derive(Default)]
pub(super) struct Tasks {
    tasks: Vec<Task>,
    limit: Option<Limit>,
}

/// The limit of a drain.
#[derive(Clone, Copy)]
struct Limit {
    timeout: Duration,
    until: Instant,
    /// The tasks were told to end at once.
    is_over: bool,
}

impl Tasks {
    pub(super) fn add(&mut self, tasks: Vec<Task>) {
        self.tasks.extend(tasks);
    }

    /// Limits the time that the tasks may take to end from `now` on.
    pub(super) fn limit(&mut self, timeout: Option<Duration>, now: Instant) {
        self.limit = timeout.map(|timeout| Limit { timeout, until: now + timeout, is_over: false });
    }

    /// Forgets the tasks that have ended. `cx` is woken when another one ends.
    pub(super) fn forget_ended(&mut self, cx: &mut Context<'_>) {
        self.tasks.retain_mut(|task| Pin::new(&mut task.ended).poll(cx).is_pending());
    }

    /// Ready when all tasks have ended, or shortly after the limit. With the limit, tasks are told
    /// to end at once.
    pub(super) fn poll_ended(&mut self, clock: &mut impl Clock, cx: &mut Context<'_>) -> Poll<()> {
        self.forget_ended(cx);
        if self.tasks.is_empty() {
            return Poll::Ready(());
        }
        let Some(limit) = &mut self.limit else { return Poll::Pending };
        while clock.poll_until(cx, limit.until).is_ready() {
            if limit.is_over {
                return Poll::Ready(());
            }
            warn!("ending what has not ended within {} (--drain-timeout)", Time(limit.timeout));
            self.tasks.iter().for_each(|task| task.shutdown.abort());
            *limit = Limit { until: clock.now() + ABORT_TIMEOUT, is_over: true, ..*limit };
        }
        Poll::Pending
    }

    /// Tells all tasks to end at once.
    pub(super) fn abort(&mut self, now: Instant) {
        self.tasks.iter().for_each(|task| task.shutdown.abort());
        let until = now + ABORT_TIMEOUT;
        self.limit = Some(Limit { timeout: Duration::ZERO, until, is_over: true });
    }
}

/// How long tasks that are told to end at once may take.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use core::task::Waker;
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    use wirestate_core::shutdown::Shutdown;

    use super::*;

    /// A clock that the test sets, in seconds.
    #[derive(Clone, Default)]
    struct Seconds(Arc<AtomicU64>);

    impl Clock for Seconds {
        fn now(&self) -> Instant {
            Instant::from_epoch(Duration::from_secs(self.0.load(Relaxed)))
        }

        fn poll_until(&mut self, _cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
            if self.now() >= deadline { Poll::Ready(()) } else { Poll::Pending }
        }

        fn yield_now(&mut self, _cx: &mut Context<'_>) {}
    }

    fn task() -> (Task, End, ShutdownHandle) {
        let (promise, ended) = promise();
        let shutdown = ShutdownHandle::new();
        (Task { shutdown: shutdown.clone(), ended }, End(Some(promise)), shutdown)
    }

    #[test]
    fn the_end_waits_for_all_tasks_and_the_limit_ends_them_at_once() {
        let mut clock = Seconds::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut tasks = Tasks::default();
        assert!(tasks.poll_ended(&mut clock, &mut cx).is_ready());
        let (one, end, _) = task();
        let (two, stuck, shutdown) = task();
        tasks.add(vec![one, two]);
        drop(end);
        clock.0.store(1000, Relaxed);
        assert!(tasks.poll_ended(&mut clock, &mut cx).is_pending(), "without a limit");
        tasks.limit(Some(Duration::from_secs(10)), clock.now());
        clock.0.store(1009, Relaxed);
        assert!(tasks.poll_ended(&mut clock, &mut cx).is_pending());
        assert_eq!(shutdown.requested(), Shutdown::None);
        clock.0.store(1010, Relaxed);
        assert!(tasks.poll_ended(&mut clock, &mut cx).is_pending());
        assert_eq!(shutdown.requested(), Shutdown::Immediate);
        clock.0.store(1011, Relaxed);
        assert!(tasks.poll_ended(&mut clock, &mut cx).is_ready(), "it does not end");
        drop(stuck);
        assert!(tasks.poll_ended(&mut clock, &mut cx).is_ready());
    }

    #[test]
    fn a_server_that_fails_does_not_wait_for_its_tasks() {
        let (mut clock, mut tasks) = (Seconds::default(), Tasks::default());
        let mut cx = Context::from_waker(Waker::noop());
        let (one, end, shutdown) = task();
        tasks.add(vec![one]);
        tasks.abort(clock.now());
        assert_eq!(shutdown.requested(), Shutdown::Immediate);
        assert!(tasks.poll_ended(&mut clock, &mut cx).is_pending());
        drop(end);
        assert!(tasks.poll_ended(&mut clock, &mut cx).is_ready());
    }
}
