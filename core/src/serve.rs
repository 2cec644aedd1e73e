//! Accepting connections under admission, and ending them in order.

use std::{
    future::{Future, poll_fn},
    mem,
    task::{Context, Poll, ready},
    time::Duration,
};

use tracing::{debug, info, warn};

use crate::{
    Instant, Machine,
    admission::{Admitted, Conn, ConnectionTable, Limits, Peer},
    drive::{Clock, Drive},
    idle::IdleConnections,
    log_limit::{LogLimit, Verdict},
    runtime::{AcceptError, BACKLOG, Listener, Runtime, within},
    shutdown::{Shutdown, ShutdownHandle},
};

/// What a server keeps to, and the handles by which others see and stop it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who is admitted, and who is connected.
    pub table: ConnectionTable,
    /// Asks the server to stop.
    pub stop: ShutdownHandle,
    /// How long connections may take to end after a drain was requested; then they are reset. Time
    /// in which the process is stopped does not count. `None`: as long as they take. Default: 10 s.
    pub drain_timeout: Option<Duration>,
    /// The connections in the order in which they give way, which the server's machines have to
    /// enter. When the table is full, a new connection waits for up to 1 s until the first of them
    /// has given way. Otherwise, or with `None`, the new connection is refused. Default: `None`.
    pub idle: Option<IdleConnections>,
}

impl Options {
    /// The default options, under `limits`.
    pub fn new(limits: Limits) -> Self {
        Self {
            table: ConnectionTable::new(limits),
            stop: ShutdownHandle::new(),
            drain_timeout: Some(Duration::from_secs(10)),
            idle: None,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

/// What a server that was stopped leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Connections that were open when it was asked to stop, and ended by themselves.
    pub drained: usize,
    /// Connections that were reset, when [`Options::drain_timeout`] had passed or it was asked to
    /// stop at once.
    pub aborted: usize,
}

/// Accepts connections and runs a machine on each, until [`Options::stop`] is asked.
///
/// `machine` makes the machine for a connection that was admitted. It is called by the accept
/// loop: a panic in it ends the server.
pub async fn serve<R, M>(
    runtime: &R,
    listener: impl Listener<Socket = R::Socket>,
    options: &Options,
    mut machine: impl FnMut(&Conn, Instant) -> M + Send,
) -> Served
where
    R: Runtime,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    accept(runtime, listener, options, |socket, admitted, clock| {
        let machine = machine(&admitted, clock.now());
        Drive::new(machine, socket, clock).admitted(admitted)
    })
    .await
}

/// Accepts connections and spawns a task for each, until [`Options::stop`] is asked: what
/// [`serve`] is made of, for connections that are more than one machine on one socket.
///
/// When a drain is requested, it first accepts the backlog, and the connections whose handshakes
/// have begun and end within 50 ms, since those peers consider themselves connected: at most
/// [`BACKLOG`] of them, in at most 1 s. The drain then answers what they have sent. A peer whose
/// handshake takes longer is reset. An immediate stop resets all of them.
///
/// `task` makes the future for a connection that was admitted. It is to do what is asked by way of
/// the [`Admitted`] ([`Drive::admitted`] does), or it will not end with the server.
pub async fn accept<R, T>(
    runtime: &R,
    mut listener: impl Listener<Socket = R::Socket>,
    options: &Options,
    mut task: impl FnMut(R::Socket, Admitted, R::Clock) -> T + Send,
) -> Served
where
    R: Runtime,
    T: Future + Send + 'static,
    T::Output: Send + 'static,
{
    let Options { table, stop, drain_timeout, idle } = options;
    let server = table.name();
    let mut clock = runtime.clock();
    let mut pause = Pause::default();
    let mut last = None;
    // One line a second is enough, since it is always the same; with `-v` each connection has its
    // own.
    let once_a_second = LogLimit::new(1, Duration::from_secs(1));
    let (mut refused, mut relieved) = (once_a_second.clone(), once_a_second);
    let mut paused = LogLimit::default();
    let mut accepted: u32 = 0;
    loop {
        accepted = accepted.wrapping_add(1);
        if accepted.is_multiple_of(ACCEPTS_IN_A_ROW) {
            yield_now(&mut clock).await;
        }
        let next = poll_fn(|cx| match stop.poll_requested(cx) {
            Shutdown::None => pause.poll_accept(&mut listener, &mut clock, cx).map(Some),
            Shutdown::Drain => last
                .get_or_insert_with(|| LastAccepts::new(&mut listener, table, &clock))
                .poll_accept(&mut listener, &mut clock, cx),
            Shutdown::Immediate => Poll::Ready(None),
        });
        match next.await {
            None => break,
            Some(Ok((socket, peer))) => {
                if let Some(idle) = idle
                    && table.is_full()
                    && make_room(&mut clock, table, idle, stop).await
                    && let Verdict::Log { suppressed } = relieved.check(clock.now())
                {
                    let limit = table.limits().connections;
                    warn!(
                        evicted = suppressed.unwrap_or_default() + 1,
                        server,
                        "a connection gives way to a new one: the limit of open connections is \
                         reached: {limit}"
                    );
                }
                let now = clock.now();
                let admitted = match table.admit(peer, now) {
                    Ok(admitted) => admitted,
                    Err(why) => {
                        // Dropping the socket closes it: the peer is told so.
                        let reason = why.label();
                        debug!(%peer, reason, server, "connection refused: {why}");
                        if let Verdict::Log { suppressed } = refused.check(now) {
                            let refusals = suppressed.unwrap_or_default() + 1;
                            warn!(refusals, reason, server, "refusing connections: {why}");
                        }
                        continue;
                    }
                };
                if let Some(last) = &mut last {
                    last.open += 1;
                }
                let id = admitted.id();
                let task = task(socket, admitted, runtime.clock());
                // Said when the machine is there: whoever reads it can count on that.
                debug!(id, %peer, server, "connected");
                if let Err(error) = runtime.spawn_connection(task) {
                    table.accept_failed(NO_TASK);
                    let length = pause.begin(now);
                    if let Verdict::Log { suppressed } = paused.check_unless_debugging(now) {
                        warn!(
                            %peer, %error, suppressed, server,
                            "cannot spawn a task for a connection: accepting pauses for {length:?}"
                        );
                    }
                }
            }
            Some(Err(failed)) => {
                table.accept_failed(failed.label());
                match failed {
                    AcceptError::Aborted(error) => debug!(%error, server, "accept"),
                    AcceptError::Exhausted(error) if last.is_some() => {
                        warn!(%error, server, "accepting failed: the rest of the backlog is reset");
                        break;
                    }
                    AcceptError::Exhausted(error) => {
                        let now = clock.now();
                        let length = pause.begin(now);
                        if let Verdict::Log { suppressed } = paused.check_unless_debugging(now) {
                            warn!(%error, suppressed, server, "accepting pauses for {length:?}");
                        }
                    }
                }
            }
        }
    }
    drop(listener);
    let open = last.map_or_else(|| table.connections().len(), |last| last.open);
    let outcome = drain(&mut clock, table, open, stop, *drain_timeout).await;
    table.log_suppressed();
    outcome
}

/// What a listener accepts.
type Accepted<L> = Result<(<L as Listener>::Socket, Peer), AcceptError>;

/// What is accepted after a stop was requested: the backlog, within bounds.
struct LastAccepts {
    left: u16,
    /// Connections that were open when the stop was requested, or were admitted since.
    open: usize,
    /// When handshakes that had begun are assumed to be complete.
    complete: Instant,
    deadline: Instant,
}

impl LastAccepts {
    /// Lets no further connection into the backlog, and asks those that are open to end.
    fn new(listener: &mut impl Listener, table: &ConnectionTable, clock: &impl Clock) -> Self {
        listener.shut_down();
        let (now, open) = (clock.now(), table.connections().len());
        table.shut_down();
        Self {
            left: BACKLOG,
            open,
            complete: now + HANDSHAKE_TIMEOUT,
            deadline: now + BACKLOG_TIMEOUT,
        }
    }

    /// `None` when no more is accepted.
    fn poll_accept<L: Listener>(
        &mut self,
        listener: &mut L,
        clock: &mut impl Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Accepted<L>>> {
        if self.left == 0 || clock.now() >= self.deadline {
            return Poll::Ready(None);
        }
        if let Poll::Ready(accepted) = listener.poll_accept(cx) {
            self.left -= 1;
            return Poll::Ready(Some(accepted));
        }
        clock.poll_until(cx, self.complete).map(|()| None)
    }
}

/// The pause after accepting failed for want of something: 10 ms, doubling to 1 s.
#[derive(Debug, Default)]
struct Pause {
    until: Option<Instant>,
    /// The last pause, halved by each connection that was accepted since.
    length: Duration,
}

impl Pause {
    fn begin(&mut self, now: Instant) -> Duration {
        self.length = (self.length * 2).clamp(MIN_PAUSE, MAX_PAUSE);
        self.until = Some(now + self.length);
        self.length
    }

    fn poll_accept<L: Listener>(
        &mut self,
        listener: &mut L,
        clock: &mut impl Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Accepted<L>> {
        if let Some(until) = self.until {
            ready!(clock.poll_until(cx, until));
            self.until = None;
        }
        let accepted = ready!(listener.poll_accept(cx));
        if accepted.is_ok() {
            self.length /= 2;
        }
        Poll::Ready(accepted)
    }
}

/// Asks a connection to give way to the one that was just accepted. Returns whether there is room.
async fn make_room(
    clock: &mut impl Clock,
    table: &ConnectionTable,
    idle: &IdleConnections,
    stop: &ShutdownHandle,
) -> bool {
    let gives_way =
        poll_fn(|cx| if table.is_full() { idle.poll_evict(cx) } else { Poll::Ready(()) });
    let _ = within(clock, Some(ABORT_TIMEOUT), stop.unless_requested(gives_way)).await;
    !table.is_full()
}

/// A duration that elapses only while this process runs. What arrived while the process was stopped
/// (SIGSTOP, a suspended machine) is still served in the remaining time.
#[derive(Debug)]
struct RunningTime {
    left: Duration,
    /// Up to when time was counted.
    counted: Instant,
}

impl RunningTime {
    /// Ready once the duration has elapsed.
    fn poll_over(&mut self, clock: &mut impl Clock, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // An alarm that goes off late shows that the process did not run.
            let now = clock.now();
            let passed = now.since(self.counted).min(TICK + MAX_ALARM_DELAY);
            self.left = self.left.saturating_sub(passed);
            self.counted = now;
            if self.left.is_zero() {
                return Poll::Ready(());
            }
            ready!(clock.poll_until(cx, now + self.left.min(TICK)));
        }
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

/// Lets the connections end, for as long as they may take.
async fn drain(
    clock: &mut impl Clock,
    table: &ConnectionTable,
    open: usize,
    stop: &ShutdownHandle,
    timeout: Option<Duration>,
) -> Served {
    if open > 0 && stop.requested() == Shutdown::Drain {
        info!(connections = open, server = table.name(), "draining");
        table.shut_down();
        let mut running = timeout.map(|left| RunningTime { left, counted: clock.now() });
        poll_fn(|cx| {
            let over = table.poll_empty(cx).is_ready()
                || stop.poll_requested(cx) == Shutdown::Immediate
                || running.as_mut().is_some_and(|running| running.poll_over(clock, cx).is_ready());
            if over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    let aborted = table.connections().len();
    if aborted > 0 {
        warn!(
            connections = aborted,
            server = table.name(),
            "resetting the connections that are still open"
        );
        table.abort();
        // They have only to be polled once more; but a handler may be stuck.
        let _ = within(clock, Some(ABORT_TIMEOUT), poll_fn(|cx| table.poll_empty(cx))).await;
    }
    Served { drained: open.saturating_sub(aborted), aborted }
}

/// As what it is counted that there was no room for a connection's task.
const NO_TASK: &str = "no_task";
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How long handshakes that have begun when the stop is requested may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(50);
/// How long the backlog is accepted after the stop was requested.
const BACKLOG_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may take to notice that it is to end at once.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// The interval in which a [`RunningTime`] is counted.
const TICK: Duration = Duration::from_millis(250);
/// The longest delay of an alarm in a process that runs, however busy its machine is.
const MAX_ALARM_DELAY: Duration = Duration::from_millis(500);
/// Then other tasks have their turn.
const ACCEPTS_IN_A_ROW: u32 = 64;
