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

    /// Ready when all tasks have ended, or shortly after the limit. With the limit, tasks are told
    /// to end at once.
    pub(super) fn poll_ended(&mut self, clock: &mut impl Clock, cx: &mut Context<'_>) -> Poll<()> {
        self.tasks.retain_mut(|task| Pin::new(&mut task.ended).poll(cx).is_pending());
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
