//! A server of the process while it runs.

use core::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tracing::info;
use wirestate_core::{
    drive::Clock as _,
    runtime::Address,
    serve::{DrainReport, ServerHandle},
    shared::{Lock, Shared},
    shutdown::Shutdown,
    status::MetricsSource,
};

use super::{
    Definition,
    prepared::{ConnectFn, EndFn, ReloadFiles, Stage},
    tasks::Tasks,
};
use crate::{CommandError, CommandRuntime};

/// A server that accepts connections, or has accepted them.
pub(super) struct Running<R: CommandRuntime> {
    pub(super) definition: Definition,
    /// As configured.
    pub(super) listen: Option<String>,
    pub(super) addresses: Vec<Address>,
    pub(super) handle: ServerHandle,
    pub(super) upstreams: Vec<String>,
    pub(super) metrics: Shared<dyn MetricsSource>,
    pub(super) files: Vec<Shared<dyn ReloadFiles>>,
    /// Serves the connections from now on.
    pub(super) connect: Shared<Lock<Box<ConnectFn<R>>>>,
    pub(super) on_end: EndFn,
    /// Accepts connections and, unless the server moves, waits for their end.
    pub(super) serving: Pin<Box<dyn Future<Output = DrainReport> + Send>>,
    /// How the connections have ended.
    pub(super) report: Option<DrainReport>,
    /// What the end of the server waits for after that of its connections.
    pub(super) tasks: Tasks,
    pub(super) clock: R::Clock,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) is_draining: bool,
    pub(super) state: State,
    pub(super) failure: Shared<Lock<Option<CommandError>>>,
}

/// What a [`Running`] server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It accepts connections.
    Current,
    /// It was removed from the configuration, and accepts the backlog.
    Removed,
    /// It was removed, and its connections continue.
    Ending,
    /// Another server with the same table of connections listens in its place, on another address.
    /// This one accepts the backlog.
    Moved,
}

impl<R: CommandRuntime> Running<R> {
    /// Stops accepting, for the reason that `state` says.
    pub(super) fn retire(&mut self, state: State) {
        self.state = state;
        self.handle.soft_stop();
        (self.on_end)(Stage::Retired);
    }

    /// Tells the tasks that a drain has begun.
    pub(super) fn begin_drain(&mut self) {
        if !mem::replace(&mut self.is_draining, true) {
            (self.on_end)(Stage::Draining);
            self.tasks.limit(self.drain_timeout, self.clock.now());
        }
    }

    /// Ready when the connections and the tasks have ended.
    pub(super) fn poll_ended(&mut self, runtime: &R, cx: &mut Context<'_>) -> Poll<DrainReport> {
        // On threads, the waker of a task is an open file.
        self.tasks.forget_ended(cx);
        while self.report.is_none() {
            let report = ready!(self.serving.as_mut().poll(cx));
            if self.state == State::Removed {
                self.state = State::Ending;
                let (handle, mut clock) = (self.handle.clone(), runtime.clock());
                self.serving = Box::pin(async move { handle.ended(&mut clock).await });
                continue;
            }
            match self.handle.shutdown().requested() {
                Shutdown::None | Shutdown::SoftStop => {}
                // Also of a server that has drained itself.
                Shutdown::Drain => self.begin_drain(),
                Shutdown::Immediate => self.tasks.abort(self.clock.now()),
            }
            self.report = Some(report);
        }
        ready!(self.tasks.poll_ended(&mut self.clock, cx));
        Poll::Ready(self.report.take().unwrap_or_default())
    }

    /// Logs the end of the server. Returns why it has failed.
    pub(super) fn end(mut self, report: DrainReport) -> Option<CommandError> {
        if self.state == State::Moved {
            return None;
        }
        (self.on_end)(Stage::Stopped);
        let totals = self.handle.table().totals();
        info!(
            server = self.definition.shown_name(),
            connections = totals.accepted,
            drained = report.drained,
            aborted = report.aborted,
            refused = totals.refused.values().sum::<u64>(),
            received = totals.bytes_received,
            sent = totals.bytes_sent,
            "stopped"
        );
        self.failure.with(Option::take)
    }
}
