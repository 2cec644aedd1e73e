//! The upstreams of a proxy: the selection of the next one to dial, and the health of each.

mod checks;
mod error;
mod lookups;
mod selection;
mod state;

use alloc::{string::String, vec::Vec};
use core::time::Duration;

use tracing::{debug, info, warn};

#[cfg(feature = "std")]
pub(super) use self::state::EndpointId;
#[cfg(not(feature = "std"))]
use self::state::EndpointId;
use self::state::{EndpointState, State, UpstreamState};
pub use self::{
    checks::DueCheck,
    error::{DialError, FailedAttempt},
    lookups::Lookup,
    selection::Selection,
};
use crate::{
    Instant,
    admission::{ConnectionTable, UpstreamConnection},
    dial::Endpoint,
    log_limit::LogDecision,
    quantity::Time,
    shared::{Lock, Shared},
};

/// The upstreams of a proxy. Clones are the same upstreams.
///
/// An upstream whose address has a name is an [`Endpoint`] for each address of that name, once it
/// was looked up ([`poll_lookup`](Self::poll_lookup), [`Selection::lookup`]). Connections are
/// distributed over the endpoints, and each endpoint is up or down by itself; what follows says
/// "upstream" for both.
///
/// Health checks are passive, unless there are [active](Self::poll_check) ones as well. A failed
/// attempt marks an upstream as down for a back-off time with jitter
/// ([`Backoff`](crate::dial::Backoff)), in which others are preferred. After that, one connection
/// tries it again, while the others prefer other upstreams for 5 s more. Backups are preferred to
/// upstreams that are down. If all upstreams are down, they are tried anyway.
///
/// Neither a successful connect nor a first reply shows that an upstream works: a server that is
/// full may send an error message to each client. So a connection counts as failed if the upstream
/// ends it within 5 s
/// - by a reset, even if the upstream has sent bytes before;
/// - by a FIN before the client's FIN, unless the upstream has both sent a byte and been sent a
///   byte of the client's. (A service that sends first and closes at once is therefore always down.
///   It is still tried when all others are down.)
///
/// An upstream is up again, and its back-off restarts, when a connection on which it has sent a
/// byte ends in any other way, or when bytes move on a connection that has lasted for 5 s. (The
/// latter covers services that only receive.)
///
/// It holds a small, fixed state for each upstream, for each of at most 64 addresses of a name, and
/// for each earlier address with open connections. It holds nothing for each connection.
///
/// ```
/// use wirestate_core::{Instant, proxy::{Balance, Upstreams}};
///
/// let now = Instant::EPOCH;
/// let upstreams = Upstreams::new(["a:9000", "b:9000"], Balance::RoundRobin, 7);
/// let mut selection = upstreams.select();
/// assert_eq!(selection.next_address(now).as_deref(), Some("a:9000"));
/// selection.handle_failure("connection refused", now);
/// assert_eq!(selection.next_address(now).as_deref(), Some("b:9000"));
/// selection.handle_connected(now);
/// let [a, b] = &upstreams.counters()[..] else { panic!() };
/// assert_eq!((a.up, a.failures, b.up, b.open), (false, 1, true, 1));
/// ```
#[derive(Clone, Debug)]
pub struct Upstreams {
    state: Shared<Lock<State>>,
}

/// How connections are distributed over the upstreams that are up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// One upstream after the other.
    #[default]
    RoundRobin,
    /// The upstream with the fewest connections, open or being made. Among equals, one after the
    /// other.
    LeastConnections,
}

/// The health of an upstream, and counts of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpstreamCounters {
    /// The address as configured, `host:port` or `unix:PATH`.
    pub address: Shared<str>,
    /// Whether it is used only while no other upstream is available.
    pub is_backup: bool,
    /// Connections made.
    pub connects: u64,
    /// Failed attempts, and connections that count as failed (see [`Upstreams`]).
    pub failures: u64,
    /// Connections that are open or being made.
    pub open: u64,
    /// Whether one of its addresses is up.
    pub up: bool,
    /// Lookups of its name that have failed.
    pub lookup_failures: u64,
    /// Health checks that have failed.
    pub check_failures: u64,
    /// Its addresses: one, unless `address` has a name with several.
    pub endpoints: Vec<EndpointCounters>,
}

/// The health of an address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointCounters {
    /// The address, `IP:PORT` or `unix:PATH`; or the name, before it was looked up.
    pub address: Shared<str>,
    /// Connections that are open or being made.
    pub open: u64,
    /// Whether it is up: it has not failed since it last worked.
    pub up: bool,
}

impl Upstreams {
    /// Upstreams at these addresses, each a `host:port` or a `unix:PATH`, all of them up. The same
    /// `seed` gives the same back-off times.
    pub fn new<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        balance: Balance,
        seed: u64,
    ) -> Self {
        let state = Shared::new(Lock::new(State::new(balance, seed)));
        Self { state }.with(addresses, false)
    }

    /// Adds upstreams that are used only while no other one is available.
    pub fn with_backups<A: Into<String>>(self, addresses: impl IntoIterator<Item = A>) -> Self {
        self.with(addresses, true)
    }

    fn with<A: Into<String>>(
        self,
        addresses: impl IntoIterator<Item = A>,
        is_backup: bool,
    ) -> Self {
        for address in addresses {
            let address = address.into().into();
            self.state.with(|state| state.add(address, is_backup));
        }
        self
    }

    /// Sets the name of the proxy, the field `server` of the log lines. Default: none.
    pub fn with_server(self, server: Option<Shared<str>>) -> Self {
        self.state.with(|state| state.server = server);
        self
    }

    /// Counts the open connections of `table`, which the proxy had to upstreams of the same
    /// addresses before it was configured anew. So [`Balance::LeastConnections`] takes them into
    /// account.
    ///
    /// Call it before the first [`select`](Self::select).
    pub fn continue_from(&self, table: &ConnectionTable) {
        let mut earlier: Vec<Shared<Endpoint>> = Vec::new();
        for connection in table.connections() {
            if let Some(UpstreamConnection { endpoint, .. }) = connection.upstream()
                && !earlier.iter().any(|other| Shared::ptr_eq(other, &endpoint))
            {
                earlier.push(endpoint);
            }
        }
        self.state.with(|state| {
            state.earlier = earlier;
            state.use_earlier();
        });
    }

    /// The health and the counts of each upstream: those without backups first, each in the order
    /// in which they are configured.
    pub fn counters(&self) -> Vec<UpstreamCounters> {
        self.state.with(|state| {
            let counters = |(index, upstream): (usize, &UpstreamState)| {
                let endpoint = |state: &EndpointState| EndpointCounters {
                    address: state.endpoint.address().clone(),
                    open: state.endpoint.open() as u64,
                    up: state.is_up(),
                };
                let endpoints: Vec<_> = state.listed(index).map(endpoint).collect();
                let all = state.endpoints.iter().filter(|it| it.id.upstream == index);
                UpstreamCounters {
                    address: upstream.address.clone(),
                    is_backup: upstream.is_backup,
                    connects: upstream.connects,
                    failures: upstream.failures,
                    open: all.map(|it| it.endpoint.open() as u64).sum(),
                    up: endpoints.iter().any(|endpoint| endpoint.up),
                    lookup_failures: upstream.name.as_ref().map_or(0, |name| name.failures),
                    check_failures: upstream.check_failures,
                    endpoints,
                }
            };
            state.upstreams.iter().enumerate().map(counters).collect()
        })
    }

    /// Begins the selection of an upstream for one connection.
    pub fn select(&self) -> Selection {
        Selection::new(self.clone())
    }

    #[cfg(feature = "std")]
    pub(super) fn addresses(&self) -> Vec<Shared<str>> {
        self.state
            .with(|state| state.upstreams.iter().map(|upstream| upstream.address.clone()).collect())
    }

    /// The field `server` of the log lines.
    fn server(&self) -> Option<Shared<str>> {
        self.state.with(|state| state.server.clone())
    }

    /// Marks an endpoint as up, and restarts its back-off.
    fn mark_up(&self, id: EndpointId) {
        let marked = self.state.with(|state| {
            let endpoint = state.endpoint(id)?;
            endpoint.backoff.reset();
            endpoint.is_self = false;
            let was_down = endpoint.down_until.take().is_some();
            was_down.then(|| (endpoint.endpoint.clone(), endpoint.is_down_logged))
        });
        let Some((endpoint, is_logged)) = marked else { return };
        let (upstream, address, server) = (endpoint.upstream(), endpoint.resolved(), self.server());
        let server = server.as_deref();
        if is_logged {
            info!(%upstream, address, server, "upstream up again");
        } else {
            debug!(%upstream, address, server, "upstream up again");
        }
    }

    /// Counts a failure, and logs it. The endpoint is marked as down if the connection `is_young`
    /// (younger than [`PROBATION`]) and either `is_probe` or the endpoint was up.
    fn mark_failed(
        &self,
        id: EndpointId,
        is_young: bool,
        is_probe: bool,
        error: &str,
        now: Instant,
    ) {
        let marked = self.state.with(|state| {
            let upstream = &mut state.upstreams[id.upstream];
            upstream.failures += 1;
            if let Some(name) = &mut upstream.name {
                name.handle_failure(now);
            }
            let has_others = state.all_listed().nth(1).is_some();
            let failed = state.endpoint(id)?;
            let endpoint = failed.endpoint.clone();
            if failed.is_excluded(now) {
                // `mark_as_self` has set the time until the next attempt.
                return Some((endpoint, has_others, None));
            }
            failed.is_self = false;
            // Connections that fail together are one failure for the back-off.
            let advances_backoff = is_probe || failed.down_until.is_none();
            let down = (is_young && advances_backoff).then(|| {
                let wait = failed.backoff.next();
                let was_up = failed.down_until.replace(now + wait).is_none();
                was_up.then(|| {
                    let decision = failed.log_limit.check_unless_debugging(now);
                    failed.is_down_logged = decision != LogDecision::Suppress;
                    (wait, decision)
                })
            });
            Some((endpoint, has_others, down.flatten()))
        });
        let Some((endpoint, has_others, down)) = marked else { return };
        let (upstream, address, server) = (endpoint.upstream(), endpoint.resolved(), self.server());
        let server = server.as_deref();
        match down {
            Some((wait, LogDecision::Log { suppressed })) if has_others => {
                warn!(
                    %upstream, address, suppressed, server,
                    "upstream down, not preferred for {}: {error}", Time(wait)
                );
            }
            // There is no other upstream to prefer.
            Some((_, LogDecision::Log { suppressed })) => {
                warn!(%upstream, address, suppressed, server, "upstream down: {error}");
            }
            Some((_, LogDecision::Suppress)) | None => {
                debug!(%upstream, address, server, "upstream failed: {error}");
            }
        }
    }

    /// Marks an endpoint as the proxy itself, not to be tried for 5 s. Returns the upstream's
    /// address.
    #[cfg(feature = "std")]
    pub(super) fn mark_as_self(&self, id: EndpointId, now: Instant) -> Shared<str> {
        let (upstream, is_new) = self.state.with(|state| {
            let upstream = &mut state.upstreams[id.upstream];
            upstream.failures += 1;
            let address = upstream.address.clone();
            let is_new = state.endpoint(id).is_some_and(|endpoint| {
                endpoint.down_until = Some(now + PROBATION);
                endpoint.is_down_logged = true;
                !core::mem::replace(&mut endpoint.is_self, true)
            });
            (address, is_new)
        });
        let server = self.server();
        let server = server.as_deref();
        if is_new {
            warn!(%upstream, server, "upstream down, not tried for {}: {IS_SELF}", Time(PROBATION));
        }
        upstream
    }
}

/// A connection that the upstream ends within this time counts as failed. An upstream that was down
/// is tried again by only one connection within this time.
const PROBATION: Duration = Duration::from_secs(5);
/// The error of a name that has no address.
pub(super) const NO_ADDRESS: &str = "the name has no address";
const IS_SELF: &str = "it is this proxy itself";
