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
    serve::{DrainReport, Listening, Server, ServerHandle},
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
    status::MetricsSource,
};

use super::{
    Definition,
    listening::Bound,
    prepared::{ConnectFn, EndFn, ReloadFiles, Stage},
    tasks::Tasks,
};
use crate::{CommandError, CommandRuntime};

/// A server that accepts connections, or has accepted them.
pub(super) struct Running<R: CommandRuntime> {
    pub(super) definition: Definition,
    pub(super) bound: Vec<Bound>,
    pub(super) listening: Listening<R>,
    pub(super) handle: ServerHandle,
    pub(super) upstreams: Vec<String>,
    pub(super) metrics: Shared<dyn MetricsSource>,
    pub(super) files: Vec<Shared<dyn ReloadFiles>>,
    /// Serves the connections from now on.
    pub(super) connect: Shared<Lock<Box<ConnectFn<R>>>>,
    pub(super) on_end: EndFn,
    /// Accepts connections, and waits for their end.
    pub(super) serving: Accepting,
    /// Accept the backlog of listeners that were removed.
    pub(super) retiring: Vec<Accepting>,
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

/// An accept loop.
type Accepting = Pin<Box<dyn Future<Output = DrainReport> + Send>>;

/// What a [`Running`] server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It accepts connections.
    Current,
    /// It was removed from the configuration, and accepts the backlog.
    Removed,
    /// It was removed, and its connections continue.
    Ending,
}

impl<R: CommandRuntime> Running<R> {
    /// Stops listening on `addresses`, and accepts their backlog.
    pub(super) fn stop_listening(&mut self, addresses: &[Address]) {
        if !addresses.is_empty() {
            let handle = self.handle.clone().with_shutdown(ShutdownHandle::new());
            handle.soft_stop();
            let removed = self.listening.remove(addresses);
            self.retiring.push(accept(removed, &handle, &self.connect));
        }
    }

    /// Stops accepting, because the server was removed.
    pub(super) fn retire(&mut self) {
        self.state = State::Removed;
        self.handle.soft_stop();
        (self.on_end)(Stage::Retired);
    }

    /// Leaves the connections to another server, which has to accept the backlog (`retiring`).
    pub(super) fn handed_over(mut self) -> Self {
        match self.state {
            State::Current => self.retire(),
            State::Removed => {}
            // It waits for the end of all connections, which are the other server's now.
            State::Ending => return self,
        }
        let serving = mem::replace(&mut self.serving, Box::pin(async { DrainReport::default() }));
        self.retiring.push(serving);
        self
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
        self.retiring.retain_mut(|accepting| accepting.as_mut().poll(cx).is_pending());
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
        if !self.retiring.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(self.report.take().unwrap_or_default())
    }

    /// Logs the end of the server. Returns why it has failed.
    pub(super) fn end(mut self, report: DrainReport) -> Option<CommandError> {
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

/// Accepts connections for the server of `handle`.
pub(super) fn accept<R: CommandRuntime>(
    server: Server<R>,
    handle: &ServerHandle,
    connect: &Shared<Lock<Box<ConnectFn<R>>>>,
) -> Accepting {
    let connect = connect.clone();
    let server = server.with_handle(handle);
    Box::pin(server.accept(move |socket, admitted, clock| {
        connect.with(|connect| connect(socket, admitted, clock))
    }))
}
