//! The state that the connections of one status server share.

use core::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use super::{
    Config, Metric, MetricsSource, Service, Services,
    rate_limiter::{RateLimiter, Turn},
};
use crate::{
    Instant,
    admission::Limits,
    serve::{self, ServerHandle},
    shared::Shared,
};

/// The state that the connections of one status server share.
#[derive(Debug)]
pub(super) struct ServerState {
    pub(super) config: Config,
    /// The servers whose status this is.
    pub(super) services: Services,
    /// The handle of the status server itself.
    pub(super) own_handle: ServerHandle,
    /// The metrics of the process.
    metrics_source: Option<Shared<dyn MetricsSource>>,
    pub(super) readiness: ReadinessHandle,
    pub(super) started: Instant,
    /// The rate of all answers.
    pub(super) answers: RateLimiter,
    /// The rate of expensive pages.
    pub(super) pages: RateLimiter,
}

/// A handle that makes `/readyz` fail before the shutdown of the services. Clones are the same
/// handle.
#[derive(Clone, Debug, Default)]
pub struct ReadinessHandle {
    ended: Shared<AtomicBool>,
}

impl ReadinessHandle {
    /// Makes `/readyz` fail from now on. The services still accept connections, so a load balancer
    /// has time to notice.
    pub fn end(&self) {
        self.ended.store(true, Relaxed);
    }
}

impl ServerState {
    pub(super) fn new(
        config: Config,
        services: Services,
        metrics_source: Option<Shared<dyn MetricsSource>>,
        now: Instant,
    ) -> Self {
        let limits = Limits { connections: MAX_CONNECTIONS, per_address: None };
        let own_config = serve::Config::default()
            .with_limits(limits)
            .with_name("status")
            .with_drain_timeout(DRAIN_TIMEOUT);
        Self {
            answers: RateLimiter::new(config.answers_per_second, ANSWER_BURST),
            pages: RateLimiter::new(config.pages_per_second, PAGE_BURST),
            config,
            services,
            own_handle: ServerHandle::new(own_config),
            metrics_source,
            readiness: ReadinessHandle::default(),
            started: now,
        }
    }

    /// Whether the service accepts connections, and readiness has not ended.
    pub(super) fn is_ready(&self, service: &Service) -> bool {
        !self.readiness.ended.load(Relaxed) && service.is_accepting()
    }

    /// Whether there are services that are ready, as `/readyz` says, and no other ones except after
    /// a soft stop.
    pub(super) fn are_ready(&self, services: &[Service]) -> bool {
        let mut wanted = services.iter().filter(|service| !service.is_soft_stopped()).peekable();
        wanted.peek().is_some() && wanted.all(|service| self.is_ready(service))
    }

    /// The state of a service, for the pages.
    pub(super) fn state(&self, service: &Service) -> &'static str {
        match self.is_ready(service) {
            true if service.listens() => "accepting",
            true => "running",
            false => "stopping",
        }
    }

    /// The metrics of the process' [`MetricsSource`].
    pub(super) fn process_metrics(&self, now: Instant) -> Vec<Metric> {
        self.metrics_source.as_ref().map_or_else(Vec::new, |source| source.metrics(now))
    }

    /// The turn of an expensive page that is requested at `now`; `None` if it is refused.
    pub(super) fn page_turn(&self, now: Instant) -> Option<Turn> {
        self.pages.turn_within(now, MAX_PAGE_WAIT, MAX_PAGES_IN_PROGRESS)
    }
}

/// The most connections of a status server.
pub const MAX_CONNECTIONS: usize = 64;
/// The most connections, out of [`MAX_CONNECTIONS`], that wait for an expensive page or send one:
/// `/`, `/metrics` or `/connections`.
pub const MAX_PAGES_IN_PROGRESS: usize = 48;
/// The longest wait of a page for its turn.
pub const MAX_PAGE_WAIT: Duration = Duration::from_secs(1);

/// The longest head of a request, in bytes. The message of [`TOO_LONG`](super::http::TOO_LONG) has
/// the same number.
pub(super) const MAX_HEAD: usize = 8 * 1024;
/// The longest drain. It is short, since the services have ended before the status server drains.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The burst of expensive pages.
const PAGE_BURST: u32 = 10;
/// The burst of answers: one for each connection.
const ANSWER_BURST: u32 = 64;
