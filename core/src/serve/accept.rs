//! The accept loop: admission, eviction, pauses, and the backlog at the end.

use std::{
    future::{Future, poll_fn},
    io, mem,
    ops::ControlFlow,
    task::{Context, Poll, ready},
    time::Duration,
};

use tracing::{debug, warn};

use crate::{
    Instant,
    admission::{Admitted, ConnectionTable, Peer},
    drive::Clock,
    idle::IdleConnections,
    log_limit::{LogDecision, LogLimit},
    quantity::Time,
    runtime::{AcceptError, BACKLOG, Runtime, within},
    serve::Listening,
    shutdown::{Shutdown, ShutdownHandle},
};

/// The accept loop of a server.
pub(super) struct Accepting<R: Runtime> {
    runtime: R,
    clock: R::Clock,
    table: ConnectionTable,
    shutdown: ShutdownHandle,
    idle: Option<IdleConnections>,
    pause: Pause,
    /// `None` until a soft stop or a drain is requested.
    backlog: Option<Backlog>,
    refusals: LogLimit,
    evictions: LogLimit,
    pauses: LogLimit,
}

impl<R: Runtime> Accepting<R> {
    pub(super) fn new(
        runtime: R,
        table: &ConnectionTable,
        shutdown: &ShutdownHandle,
        idle: Option<IdleConnections>,
    ) -> Self {
        // One line a second is enough, because the lines are all alike. With debug messages (`-v`),
        // each connection has its own line.
        let once_a_second = LogLimit::new(1, Duration::from_secs(1));
        Self {
            clock: runtime.clock(),
            runtime,
            table: table.clone(),
            shutdown: shutdown.clone(),
            idle,
            pause: Pause::default(),
            backlog: None,
            refusals: once_a_second.clone(),
            evictions: once_a_second,
            pauses: LogLimit::default(),
        }
    }

    /// Accepts connections until a shutdown is requested, and then the backlog. Closes the
    /// listeners.
    pub(super) async fn run<T>(
        &mut self,
        listening: &Listening<R>,
        task: &mut (impl FnMut(R::Socket, Admitted, R::Clock) -> T + Send),
    ) where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        for count in (1..=ACCEPTS_IN_A_ROW).cycle() {
            if count == ACCEPTS_IN_A_ROW {
                yield_now(&mut self.clock).await;
            }
            match poll_fn(|cx| self.poll_accept(listening, cx)).await {
                None => break,
                Some(Ok((socket, peer))) => {
                    let Some(admitted) = self.admit(peer).await else {
                        // The socket is dropped, which closes the connection.
                        continue;
                    };
                    let id = admitted.id();
                    let task = task(socket, admitted, self.runtime.clock());
                    // Log this only after the machine exists: readers of the log rely on that.
                    debug!(id, %peer, server = self.table.name(), "connected");
                    if let Err(error) = self.runtime.spawn_connection(task) {
                        self.spawn_failed(peer, &error);
                    }
                }
                Some(Err(error)) => {
                    if self.accept_failed(&error).is_break() {
                        break;
                    }
                }
            }
        }
        listening.close();
    }

    /// Returns the clock, and the number of connections that were open when the shutdown was
    /// requested, or were admitted since.
    pub(super) fn end(self) -> (R::Clock, usize) {
        let open =
            self.backlog.map_or_else(|| self.table.connections().len(), |backlog| backlog.open);
        (self.clock, open)
    }

    /// The next connection; `None` when no more is accepted.
    fn poll_accept(
        &mut self,
        listening: &Listening<R>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Accepted<R>>> {
        let Self { clock, table, shutdown, pause, backlog, .. } = self;
        match shutdown.poll_requested(cx) {
            Shutdown::None => {
                if let Some(at) = table.accepts_at(clock.now()) {
                    ready!(clock.poll_until(cx, at));
                }
                pause.poll_accept(listening, clock, cx).map(Some)
            }
            requested @ (Shutdown::SoftStop | Shutdown::Drain) => backlog
                .get_or_insert_with(|| Backlog::new(requested, listening, table, clock))
                .poll_accept(listening, clock, cx),
            Shutdown::Immediate => Poll::Ready(None),
        }
    }

    /// Admits a connection, and evicts an idle one for it if needed. `None` if it is refused.
    async fn admit(&mut self, peer: Peer) -> Option<Admitted> {
        self.evict(peer).await;
        let now = self.clock.now();
        match self.table.admit(peer, now) {
            Ok(admitted) => {
                if let Some(backlog) = &mut self.backlog {
                    backlog.open += 1;
                }
                Some(admitted)
            }
            Err(refused) => {
                let (reason, server) = (refused.label(), self.table.name());
                debug!(%peer, reason, server, "connection refused: {refused}");
                if let LogDecision::Log { suppressed } = self.refusals.check(now) {
                    let refusals = suppressed.unwrap_or_default() + 1;
                    warn!(refusals, reason, server, "refusing connections: {refused}");
                }
                None
            }
        }
    }

    /// If the table is full, evicts an idle connection to admit the accepted one.
    async fn evict(&mut self, peer: Peer) {
        let Self { clock, table, shutdown, idle: Some(idle), evictions, .. } = self else { return };
        if !table.is_full() || table.denies(peer) {
            return;
        }
        let evicted =
            poll_fn(|cx| if table.is_full() { idle.poll_evict(cx) } else { Poll::Ready(()) });
        let _ = within(clock, Some(EVICTION_TIMEOUT), shutdown.unless_requested(evicted)).await;
        if !table.is_full()
            && let LogDecision::Log { suppressed } = evictions.check(clock.now())
        {
            let limit = table.limits().connections;
            warn!(
                evicted = suppressed.unwrap_or_default() + 1,
                server = table.name(),
                "an idle connection was evicted for a new one: the limit of open connections is \
                 reached: {limit}"
            );
        }
    }

    /// Pauses after a connection's task could not be spawned.
    fn spawn_failed(&mut self, peer: Peer, error: &io::Error) {
        let (now, server) = (self.clock.now(), self.table.name());
        self.table.accept_failed(NO_TASK);
        let pause = Time(self.pause.begin(now));
        if let LogDecision::Log { suppressed } = self.pauses.check_unless_debugging(now) {
            warn!(
                %peer, %error, suppressed, server,
                "cannot spawn a task for a connection: accepting pauses for {pause}"
            );
        }
    }

    /// Pauses after a failed accept, if resources are exhausted. During a drain it breaks instead.
    fn accept_failed(&mut self, error: &AcceptError) -> ControlFlow<()> {
        let (now, server) = (self.clock.now(), self.table.name());
        self.table.accept_failed(error.label());
        match error {
            AcceptError::Aborted(error) => debug!(%error, server, "accept"),
            AcceptError::Exhausted(error) if self.backlog.is_some() => {
                warn!(%error, server, "accepting failed: the rest of the backlog is reset");
                return ControlFlow::Break(());
            }
            AcceptError::Exhausted(error) => {
                let pause = Time(self.pause.begin(now));
                if let LogDecision::Log { suppressed } = self.pauses.check_unless_debugging(now) {
                    warn!(%error, suppressed, server, "accepting pauses for {pause}");
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// What a listener's `poll_accept` returns.
type Accepted<R> = Result<(<R as Runtime>::Socket, Peer), AcceptError>;

/// The backlog that is accepted after a soft stop or a drain was requested: at most [`BACKLOG`]
/// connections within [`BACKLOG_TIMEOUT`].
struct Backlog {
    /// How many more connections may be accepted.
    remaining: u16,
    /// Connections that were open when the drain was requested, or were admitted since.
    open: usize,
    /// When handshakes that had begun before the drain are assumed to be complete.
    handshakes_end: Instant,
    deadline: Instant,
}

impl Backlog {
    /// Closes the backlog for new connections. For a drain, requests a graceful end of the open
    /// ones, except for those that are as young as a handshake can be. Like the connections from
    /// the backlog, they are shut down when accepting ends. Otherwise a connection that waits for
    /// its first request, for the TLS handshake or for an upstream would end without a reply.
    fn new<R: Runtime>(
        requested: Shutdown,
        listening: &Listening<R>,
        table: &ConnectionTable,
        clock: &R::Clock,
    ) -> Self {
        listening.shut_down();
        let (now, open) = (clock.now(), table.connections().len());
        for connection in table.connections() {
            let is_young = now.since(connection.since()) < HANDSHAKE_TIMEOUT;
            if requested == Shutdown::Drain && !is_young {
                connection.shut_down();
            }
        }
        Self {
            remaining: BACKLOG,
            open,
            handshakes_end: now + HANDSHAKE_TIMEOUT,
            deadline: now + BACKLOG_TIMEOUT,
        }
    }

    /// The next connection; `None` when no more is accepted.
    fn poll_accept<R: Runtime>(
        &mut self,
        listening: &Listening<R>,
        clock: &mut R::Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Accepted<R>>> {
        if self.remaining == 0 || clock.now() >= self.deadline {
            return Poll::Ready(None);
        }
        if let Poll::Ready(accepted) = listening.poll_accept(cx) {
            self.remaining -= 1;
            return Poll::Ready(Some(accepted));
        }
        clock.poll_until(cx, self.handshakes_end).map(|()| None)
    }
}

/// The pause of the accept loop after resources were exhausted: from 10 ms, doubling, to 1 s.
#[derive(Debug, Default)]
struct Pause {
    until: Option<Instant>,
    /// The length of the last pause, halved by each accepted connection since.
    length: Duration,
}

impl Pause {
    /// Begins a pause, and returns its length.
    fn begin(&mut self, now: Instant) -> Duration {
        self.length = (self.length * 2).clamp(MIN_PAUSE, MAX_PAUSE);
        self.until = Some(now + self.length);
        self.length
    }

    /// The next connection, once the pause is over.
    fn poll_accept<R: Runtime>(
        &mut self,
        listening: &Listening<R>,
        clock: &mut R::Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Accepted<R>> {
        if let Some(until) = self.until {
            ready!(clock.poll_until(cx, until));
            self.until = None;
        }
        let accepted = ready!(listening.poll_accept(cx));
        if accepted.is_ok() {
            self.length /= 2;
        }
        Poll::Ready(accepted)
    }
}

/// Lets other tasks run.
async fn yield_now(clock: &mut impl Clock) {
    let mut yielded = false;
    poll_fn(|cx| {
        if mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        clock.yield_now(cx);
        Poll::Pending
    })
    .await;
}

/// The label of a failed accept: no task could be spawned for the connection.
const NO_TASK: &str = "no_task";
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How long a new connection waits for the eviction of an idle one.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a drain waits for handshakes that have begun, and for the first request of a connection
/// that has just been accepted.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(50);
/// How long the backlog is accepted after a drain was requested.
const BACKLOG_TIMEOUT: Duration = Duration::from_secs(1);
/// How many accepts may follow each other before other tasks run.
const ACCEPTS_IN_A_ROW: u32 = 64;
