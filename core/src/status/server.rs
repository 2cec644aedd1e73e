//! A status server: the state that its connections share.

use core::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use super::{
    Config, Connection, Metric, MetricsSource,
    http::Input,
    rate_limiter::{RateLimiter, Turn},
};
use crate::{
    ConfigError, Instant,
    admission::Limits,
    buffer::Pool,
    idle::IdleConnections,
    runtime::Runtime,
    serve::{self, DrainReport, ServerHandle},
    shared::Shared,
    shutdown::Shutdown,
    teardown::DiscardBudget,
};

/// A status server. Clones are the same server.
#[derive(Clone, Debug)]
pub struct Server {
    inner: Shared<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: Config,
    /// The handle of the server whose status this is.
    pub(super) service: ServerHandle,
    /// The handle of the status server itself.
    pub(super) own: ServerHandle,
    metrics_source: Option<Shared<dyn MetricsSource>>,
    readiness: ReadinessHandle,
    pub(super) started: Instant,
    /// All connections, in the order in which they are evicted.
    pub(super) idle: IdleConnections,
    /// The rate of all answers.
    pub(super) answers: RateLimiter,
    /// The rate of expensive pages.
    pub(super) pages: RateLimiter,
    pub(super) discards: DiscardBudget,
    pool: Pool,
}

/// A handle that makes `/readyz` fail before the shutdown of the service. Clones are the same
/// handle.
#[derive(Clone, Debug, Default)]
pub struct ReadinessHandle {
    ended: Shared<AtomicBool>,
}

impl ReadinessHandle {
    /// Makes `/readyz` fail from now on. The service still accepts connections, so a load balancer
    /// has time to notice.
    pub fn end(&self) {
        self.ended.store(true, Relaxed);
    }
}

impl Server {
    /// The status server of the server that has the handle `service` and started at `now`.
    /// `metrics_source` adds metrics to those of that server's table of connections.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn new(
        config: Config,
        service: &ServerHandle,
        metrics_source: Option<Shared<dyn MetricsSource>>,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let limits = Limits { connections: MAX_CONNECTIONS, per_address: None };
        let own = serve::Config::default()
            .with_limits(limits)
            .with_name("status")
            .with_drain_timeout(DRAIN_TIMEOUT);
        let inner = Inner {
            answers: RateLimiter::new(config.answers_per_second, ANSWER_BURST),
            pages: RateLimiter::new(config.pages_per_second, PAGE_BURST),
            config,
            service: service.clone(),
            own: ServerHandle::new(own),
            metrics_source,
            readiness: ReadinessHandle::default(),
            started: now,
            idle: IdleConnections::new(),
            discards: DiscardBudget::default(),
            pool: Pool::new(MAX_HEAD, IDLE_BUFFERS),
        };
        Ok(Self { inner: Shared::new(inner) })
    }

    /// The handle of the status server itself. It has its own table, of [`MAX_CONNECTIONS`]. Shut
    /// the status server down after the service has ended.
    pub fn handle(&self) -> &ServerHandle {
        &self.inner.own
    }

    /// The connections of the status server, in the order of eviction
    /// ([`Activity`](crate::idle::Activity)).
    pub fn idle_connections(&self) -> &IdleConnections {
        &self.inner.idle
    }

    /// Serves the status on `server`, under its own [`handle`](Self::handle).
    pub async fn serve<R: Runtime>(self, server: serve::Server<R>) -> DrainReport {
        let server = server.with_handle(self.handle());
        let server = server.with_idle_connections(self.idle_connections().clone());
        server.serve(|_, now| self.machine(now)).await
    }

    /// The handle that makes `/readyz` fail before the shutdown of the service.
    pub fn readiness(&self) -> ReadinessHandle {
        self.inner.readiness.clone()
    }

    /// The machine for a connection that was accepted at `now`.
    pub fn machine(&self, now: Instant) -> Connection {
        Connection::new(self.inner.clone(), Input::new(self.inner.pool.clone()), now)
    }
}

impl Inner {
    /// Whether the service accepts connections, and its readiness has not ended.
    pub(super) fn is_ready(&self) -> bool {
        !self.readiness.ended.load(Relaxed) && self.service.shutdown().requested() == Shutdown::None
    }

    /// The state of the service, for the pages.
    pub(super) fn state(&self) -> &'static str {
        if self.is_ready() { "accepting" } else { "stopping" }
    }

    /// The metrics of the service's [`MetricsSource`].
    pub(super) fn own_metrics(&self) -> Vec<Metric> {
        self.metrics_source.as_ref().map_or_else(Vec::new, |source| source.metrics())
    }

    /// The turn of an expensive page that is requested at `now`; `None` if it is refused.
    pub(super) fn page_turn(&self, now: Instant) -> Option<Turn> {
        self.pages.turn_within(now, MAX_PAGE_WAIT, MAX_PAGES_IN_PROGRESS)
    }
}

/// The most connections of a status server.
pub const MAX_CONNECTIONS: usize = 64;
/// The most of the [`MAX_CONNECTIONS`] that wait for an expensive page or send one: `/`, `/metrics`
/// or `/connections`.
pub const MAX_PAGES_IN_PROGRESS: usize = 48;
/// The longest wait of a page for its turn.
pub const MAX_PAGE_WAIT: Duration = Duration::from_secs(1);

/// The longest head of a request, in bytes. The message of [`TOO_LONG`](super::http::TOO_LONG) has
/// the same number.
const MAX_HEAD: usize = 8 * 1024;
/// The most unused buffers that the status server keeps.
const IDLE_BUFFERS: usize = 4;
/// The longest drain. It is short, since the service has ended before the status server drains.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The burst of expensive pages.
const PAGE_BURST: u32 = 10;
/// The burst of answers: one for each connection.
const ANSWER_BURST: u32 = 64;
