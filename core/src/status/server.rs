//! What the connections of one status server share.

use core::{
    num::NonZeroU32,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use super::{
    AllowedHosts, Connection, MetricsSource,
    head::Input,
    pacer::{Pacer, Turn},
};
use crate::{
    Instant, Linger,
    admission::Limits,
    buffer::Pool,
    idle::IdleConnections,
    runtime::Runtime,
    serve::{self, DrainReport, ServerHandle},
    shared::Shared,
    shutdown::Shutdown,
    teardown::DiscardBudget,
};

/// How a status server answers, and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the server is: `echo-server`.
    pub name: &'static str,
    /// By which names it may be asked. Default: `localhost` and addresses.
    pub hosts: AllowedHosts,
    /// How long the head of a request may take from its first byte. Default: 5 s.
    pub head_timeout: Duration,
    /// How long a connection may be without a request. Default: 30 s.
    pub idle_timeout: Duration,
    /// A peer that acknowledges no byte for this long, although a response or a FIN is pending, is
    /// reset within 1.125 times this. Default: 10 s.
    pub write_timeout: Duration,
    /// The close behind a response that was the last.
    pub linger: Linger,
    /// How many connections are listed. Default: 1,000.
    pub listed: usize,
    /// How often a second `/`, `/metrics` and `/connections` are made at most, for all connections
    /// together; 10 of them may come at once. One that would have to wait for more than
    /// [`MAX_PAGE_WAIT`] is refused. Default: 100.
    pub pages_per_second: NonZeroU32,
    /// How many requests a second are answered at most, for all connections together; 64 of them
    /// may be answered at once. The others wait for their turn, at most [`CONNECTIONS`] times the
    /// interval. Default: 5,000.
    pub answers_per_second: NonZeroU32,
}

impl Config {
    /// The default configuration of the status of a server called `name`.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            hosts: AllowedHosts::Named(Vec::new()),
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
            linger: Linger::default(),
            listed: 1000,
            pages_per_second: const { NonZeroU32::new(100).unwrap() },
            answers_per_second: const { NonZeroU32::new(5000).unwrap() },
        }
    }

    /// The most bytes that a response has: 64 KiB for its head, its frame and the counts, and 512
    /// for each connection that is [`listed`](Self::listed). At most [`PAGES_IN_PROGRESS`]
    /// connections hold one of that length, the others one of at most 1 KiB; each connection holds
    /// 8 KiB for requests. An idle one holds neither.
    pub fn response_size(&self) -> usize {
        MOST_COUNTS + self.listed.saturating_mul(MOST_LISTED)
    }
}

/// A status server. Clones are the same server.
#[derive(Clone, Debug)]
pub struct Server {
    inner: Shared<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: Config,
    /// The server whose status this is.
    pub(super) service: ServerHandle,
    pub(super) own: ServerHandle,
    pub(super) subject: Option<Shared<dyn MetricsSource>>,
    pub(super) readiness: Readiness,
    pub(super) started: Instant,
    /// All connections, in the order in which they give way.
    pub(super) idle: IdleConnections,
    pub(super) answers: Pacer,
    pub(super) pages: Pacer,
    pub(super) discards: DiscardBudget,
    pool: Pool,
}

/// Whether it is worth connecting. Clones are the same answer.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    over: Shared<AtomicBool>,
}

impl Readiness {
    /// It no longer is, although connections are accepted for a while: whoever balances load has the
    /// time to notice.
    pub fn end(&self) {
        self.over.store(true, Relaxed);
    }
}

impl Server {
    /// The status of the server whose handle is `service`, and which started `now`. `subject` has
    /// metrics of its own, if there are any.
    ///
    /// # Panics
    /// If a time in `config` is zero: it would have passed before anything could happen.
    pub fn new(
        config: Config,
        service: &ServerHandle,
        subject: Option<Shared<dyn MetricsSource>>,
        now: Instant,
    ) -> Self {
        let Config { head_timeout, idle_timeout, write_timeout, linger, .. } = &config;
        for time in [*head_timeout, *idle_timeout, *write_timeout, linger.time] {
            assert!(time > Duration::ZERO, "a timeout must be a time");
        }
        let limits = Limits { connections: CONNECTIONS, per_address: None };
        let idle = IdleConnections::new();
        let own = serve::Config::default()
            .with_limits(limits)
            .with_name("status")
            .with_drain_timeout(DRAIN_TIMEOUT);
        let inner = Inner {
            answers: Pacer::new(config.answers_per_second, ANSWERS_AT_ONCE, now),
            pages: Pacer::new(config.pages_per_second, PAGES_AT_ONCE, now),
            config,
            service: service.clone(),
            own: ServerHandle::new(own),
            subject,
            readiness: Readiness::default(),
            started: now,
            idle,
            discards: DiscardBudget::default(),
            pool: Pool::new(MAX_HEAD, IDLE_BUFFERS),
        };
        Self { inner: Shared::new(inner) }
    }

    /// The handle on the status server itself. It has a table of its own, of [`CONNECTIONS`]. Shut
    /// it down after the service has ended.
    pub fn handle(&self) -> &ServerHandle {
        &self.inner.own
    }

    /// Its connections, in the order of [`Activity`](crate::idle::Activity) in which they give way
    /// when it is full.
    pub fn idle_connections(&self) -> &IdleConnections {
        &self.inner.idle
    }

    /// Serves the status on `server`, under its own [`handle`](Self::handle).
    pub async fn serve<R: Runtime>(self, server: serve::Server<R>) -> DrainReport {
        let server = server.with_handle(self.handle());
        let server = server.with_idle_connections(self.idle_connections().clone());
        server.serve(|_, now| self.machine(now)).await
    }

    /// The handle by which readiness ends before the service is asked to stop.
    pub fn readiness(&self) -> Readiness {
        self.inner.readiness.clone()
    }

    /// The machine for a connection that was made `now`.
    pub fn machine(&self, now: Instant) -> Connection {
        Connection::new(self.inner.clone(), Input::new(self.inner.pool.clone()), now)
    }
}

impl Inner {
    /// Whether it is worth connecting.
    pub(super) fn is_ready(&self) -> bool {
        !self.readiness.over.load(Relaxed) && self.service.shutdown().requested() == Shutdown::None
    }

    /// The turn of a page that is requested at `now`; `None` if it is refused.
    pub(super) fn page_turn(&self, now: Instant) -> Option<Turn> {
        self.pages.turn_within(now, MAX_PAGE_WAIT, PAGES_IN_PROGRESS)
    }
}

/// How many connections a status server has at most.
pub const CONNECTIONS: usize = 64;
/// How many of the [`CONNECTIONS`] may wait for a page or send one: `/`, `/metrics` and
/// `/connections`.
pub const PAGES_IN_PROGRESS: usize = 48;
/// How long a page waits for its turn at most.
pub const MAX_PAGE_WAIT: Duration = Duration::from_secs(1);

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 8 * 1024;
const IDLE_BUFFERS: usize = 4;
/// By then, what was owed when the service had ended is with the kernel, or nobody takes it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const PAGES_AT_ONCE: u32 = 10;
/// One for each connection.
const ANSWERS_AT_ONCE: u32 = 64;
/// What [`Config::response_size`] says.
const MOST_COUNTS: usize = 64 * 1024;
const MOST_LISTED: usize = 512;
