//! The upstreams of a proxy: the selection of the next one to dial, and the health of each.

mod error;
mod selection;

use alloc::{string::String, vec::Vec};
use core::time::Duration;

use tracing::{debug, info, warn};

pub use self::{
    error::{DialError, FailedAttempt},
    selection::Selection,
};
use crate::{
    Instant,
    dial::Backoff,
    log_limit::{LogDecision, LogLimit},
    quantity::Time,
    shared::{Lock, Shared},
};

/// The upstreams of a proxy. Clones are the same upstreams.
///
/// Health checks are passive. A failed attempt marks an upstream as down for a back-off time with
/// jitter ([`Backoff`]), in which others are preferred. After that, one connection tries it again,
/// while the others prefer other upstreams for 5 s more. If all upstreams are down, they are tried
/// anyway.
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
/// It holds a small, fixed state for each upstream, and nothing for each connection.
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
    inner: Shared<Inner>,
    server: Option<Shared<str>>,
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

#[derive(Debug)]
struct Inner {
    addresses: Vec<Shared<str>>,
    balance: Balance,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    /// In the order of the addresses.
    upstreams: Vec<UpstreamState>,
    /// The index at which the next selection begins.
    next: usize,
}

#[derive(Debug)]
struct UpstreamState {
    connects: u64,
    failures: u64,
    open: u64,
    backoff: Backoff,
    /// If the upstream is down: the time before which it is not preferred.
    down_until: Option<Instant>,
    /// The last connection reached the proxy itself: the upstream is not tried before `down_until`.
    is_self: bool,
    /// Limits the log lines about a failure: a flapping upstream causes one for each connection.
    log_limit: LogLimit,
    /// The last failure was logged, so the recovery is logged as well.
    is_down_logged: bool,
}

/// The health of an upstream, and counts of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpstreamCounters {
    /// The address, `host:port` or `unix:PATH`.
    pub address: Shared<str>,
    /// Connections made.
    pub connects: u64,
    /// Failed attempts, and connections that count as failed (see [`Upstreams`]).
    pub failures: u64,
    /// Connections that are open or being made.
    pub open: u64,
    /// Whether the upstream is up: it has not failed since it last worked.
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
        let addresses: Vec<Shared<str>> =
            addresses.into_iter().map(|address| address.into().into()).collect();
        let upstream = |seed| UpstreamState {
            connects: 0,
            failures: 0,
            open: 0,
            backoff: Backoff::new(seed),
            down_until: None,
            is_self: false,
            log_limit: LogLimit::default(),
            is_down_logged: false,
        };
        let upstreams =
            (0_u64..).zip(&addresses).map(|(i, _)| upstream(seed.wrapping_add(i))).collect();
        let state = Lock::new(State { upstreams, next: 0 });
        Self { inner: Shared::new(Inner { addresses, balance, state }), server: None }
    }

    /// Sets the name of the proxy, the field `server` of the log lines. Default: none.
    pub fn with_server(self, server: Option<Shared<str>>) -> Self {
        Self { server, ..self }
    }

    /// The health and the counts of each upstream, in the order of the addresses.
    pub fn counters(&self) -> Vec<UpstreamCounters> {
        self.inner.state.with(|state| {
            let counters = |(address, upstream): (&Shared<str>, &UpstreamState)| UpstreamCounters {
                address: address.clone(),
                connects: upstream.connects,
                failures: upstream.failures,
                open: upstream.open,
                up: upstream.down_until.is_none(),
            };
            self.inner.addresses.iter().zip(&state.upstreams).map(counters).collect()
        })
    }

    /// Begins the selection of an upstream for one connection.
    pub fn select(&self) -> Selection {
        Selection::new(self.clone())
    }

    #[cfg(feature = "std")]
    pub(super) fn addresses(&self) -> &[Shared<str>] {
        &self.inner.addresses
    }

    /// Marks an upstream as up, and restarts its back-off.
    fn mark_up(&self, index: usize) {
        let (was_down, is_logged) = self.with(index, |upstream| {
            upstream.backoff.reset();
            upstream.is_self = false;
            (upstream.down_until.take().is_some(), upstream.is_down_logged)
        });
        let (upstream, server) = (&self.inner.addresses[index], self.server.as_deref());
        if was_down && is_logged {
            info!(%upstream, server, "upstream up again");
        } else if was_down {
            debug!(%upstream, server, "upstream up again");
        }
    }

    /// Counts a failure, and logs it. The upstream is marked as down if the connection `is_young`
    /// (younger than [`PROBATION`]) and either `is_probe` or the upstream was up.
    fn mark_failed(&self, index: usize, is_young: bool, is_probe: bool, error: &str, now: Instant) {
        let down = self.with(index, |upstream| {
            upstream.failures += 1;
            if upstream.is_self && upstream.down_until.is_some_and(|until| until > now) {
                return None; // `mark_as_self` has set the time until the next attempt
            }
            upstream.is_self = false;
            // Connections that fail together are one failure for the back-off.
            let advances_backoff = is_probe || upstream.down_until.is_none();
            (is_young && advances_backoff).then(|| {
                let wait = upstream.backoff.next();
                let was_up = upstream.down_until.replace(now + wait).is_none();
                was_up.then(|| {
                    let decision = upstream.log_limit.check_unless_debugging(now);
                    upstream.is_down_logged = decision != LogDecision::Suppress;
                    (wait, decision)
                })
            })
        });
        let (upstream, server) = (&self.inner.addresses[index], self.server.as_deref());
        match down.flatten() {
            Some((wait, LogDecision::Log { suppressed })) if self.inner.addresses.len() > 1 => {
                warn!(
                    %upstream, suppressed, server,
                    "upstream down, not preferred for {}: {error}", Time(wait)
                );
            }
            // There is no other upstream to prefer.
            Some((_, LogDecision::Log { suppressed })) => {
                warn!(%upstream, suppressed, server, "upstream down: {error}");
            }
            Some((_, LogDecision::Suppress)) | None => {
                debug!(%upstream, server, "upstream failed: {error}");
            }
        }
    }

    /// Marks an upstream as the proxy itself, not to be tried for 5 s. Returns its address.
    #[cfg(feature = "std")]
    pub(super) fn mark_as_self(&self, index: usize, now: Instant) -> Shared<str> {
        let is_new = self.with(index, |upstream| {
            upstream.failures += 1;
            upstream.down_until = Some(now + PROBATION);
            upstream.is_down_logged = true;
            !core::mem::replace(&mut upstream.is_self, true)
        });
        let (upstream, server) = (&self.inner.addresses[index], self.server.as_deref());
        if is_new {
            warn!(%upstream, server, "upstream down, not tried for {}: {IS_SELF}", Time(PROBATION));
        }
        upstream.clone()
    }

    fn with<T>(&self, index: usize, f: impl FnOnce(&mut UpstreamState) -> T) -> T {
        self.inner.state.with(|state| f(&mut state.upstreams[index]))
    }
}

/// A connection that the upstream ends within this time counts as failed. An upstream that was down
/// is tried again by only one connection within this time.
const PROBATION: Duration = Duration::from_secs(5);
const IS_SELF: &str = "it is this proxy itself";
