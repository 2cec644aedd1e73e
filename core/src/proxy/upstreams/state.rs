//! The state of the upstreams and of their endpoints, and the choice of the next one.

use alloc::vec::Vec;

use super::{Balance, PROBATION, checks::CheckState, lookups::NameState};
use crate::{
    Instant,
    dial::{Backoff, Endpoint},
    log_limit::LogLimit,
    shared::Shared,
};

/// The state of all upstreams.
#[derive(Debug)]
pub(super) struct State {
    /// The name of the proxy, for the log.
    pub(super) server: Option<Shared<str>>,
    pub(super) balance: Balance,
    /// Of the back-offs.
    seed: u64,
    /// As configured: first those that are no backups, then the backups.
    pub(super) upstreams: Vec<UpstreamState>,
    /// Ascending by their ids. At least one of each upstream is listed.
    pub(super) endpoints: Vec<EndpointState>,
    /// The next selection begins with the first endpoint that has this id or a later one.
    pub(super) next: EndpointId,
    /// The number of the endpoint that was made last.
    last_number: u64,
    /// Endpoints to which the server had connections before it was configured anew.
    pub(super) earlier: Vec<Shared<Endpoint>>,
}

/// An upstream, as it is configured.
#[derive(Debug)]
pub(super) struct UpstreamState {
    pub(super) address: Shared<str>,
    pub(super) is_backup: bool,
    pub(super) connects: u64,
    pub(super) failures: u64,
    pub(super) check_failures: u64,
    /// `None`: the address has no name that is looked up.
    pub(super) name: Option<NameState>,
}

/// Identifies an endpoint. They are in the order of their upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct EndpointId {
    /// The index of the upstream.
    pub(super) upstream: usize,
    /// Counts all endpoints that were made.
    number: u64,
}

/// An address of an upstream.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) id: EndpointId,
    pub(super) endpoint: Shared<Endpoint>,
    /// It is an address of the upstream. Otherwise it is kept for its open connections.
    pub(super) is_listed: bool,
    pub(super) backoff: Backoff,
    /// If it is down: the time before which it is not preferred.
    pub(super) down_until: Option<Instant>,
    /// The last connection reached the proxy itself: it is not tried before `down_until`.
    pub(super) is_self: bool,
    /// Limits the log lines about a failure: a flapping upstream causes one for each connection.
    pub(super) log_limit: LogLimit,
    /// The last failure was logged, so the recovery is logged as well.
    pub(super) is_down_logged: bool,
    pub(super) check: CheckState,
}

/// An endpoint that was chosen for a connection.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) id: EndpointId,
    pub(super) endpoint: Shared<Endpoint>,
    pub(super) is_name: bool,
    /// It was down, and this connection tries whether it is up again.
    pub(super) is_probe: bool,
}

impl EndpointId {
    pub(in super::super) const fn new(upstream: usize, number: u64) -> Self {
        Self { upstream, number }
    }
}

impl State {
    pub(super) fn new(balance: Balance, seed: u64) -> Self {
        Self {
            server: None,
            balance,
            seed,
            upstreams: Vec::new(),
            endpoints: Vec::new(),
            next: EndpointId::new(0, 0),
            last_number: 0,
            earlier: Vec::new(),
        }
    }

    /// Adds an upstream after the others.
    pub(super) fn add(&mut self, address: Shared<str>, is_backup: bool) {
        let name = NameState::of(&address);
        let (connects, failures, check_failures) = (0, 0, 0);
        let upstream = self.upstreams.len();
        self.upstreams.push(UpstreamState {
            address: address.clone(),
            is_backup,
            connects,
            failures,
            check_failures,
            name,
        });
        self.add_endpoint(upstream, address);
    }

    /// Adds an endpoint of an upstream. Call [`sort`](Self::sort) after the last one.
    pub(super) fn add_endpoint(&mut self, upstream: usize, address: Shared<str>) {
        self.last_number += 1;
        let id = EndpointId::new(upstream, self.last_number);
        let configured = &self.upstreams[upstream].address;
        let endpoint = self.earlier_endpoint(configured, &address);
        let endpoint =
            endpoint.unwrap_or_else(|| Shared::new(Endpoint::new(configured.clone(), address)));
        self.endpoints.push(EndpointState {
            id,
            endpoint,
            is_listed: true,
            backoff: Backoff::new(self.seed.wrapping_add(self.last_number)),
            down_until: None,
            is_self: false,
            log_limit: LogLimit::default(),
            is_down_logged: false,
            check: CheckState::default(),
        });
    }

    pub(super) fn sort(&mut self) {
        self.endpoints.sort_by_key(|endpoint| endpoint.id);
    }

    fn earlier_endpoint(&self, upstream: &str, address: &str) -> Option<Shared<Endpoint>> {
        let mut earlier = self.earlier.iter();
        earlier.find(|it| &**it.upstream() == upstream && &**it.address() == address).cloned()
    }

    /// Uses the endpoints to which the server had connections before.
    pub(super) fn use_earlier(&mut self) {
        for i in 0..self.endpoints.len() {
            let own = &self.endpoints[i].endpoint;
            if let Some(earlier) = self.earlier_endpoint(own.upstream(), own.address()) {
                self.endpoints[i].endpoint = earlier;
            }
        }
    }

    /// An endpoint, unless it is forgotten: it is not listed, and had no connection.
    pub(super) fn endpoint(&mut self, id: EndpointId) -> Option<&mut EndpointState> {
        let index = self.endpoints.binary_search_by_key(&id, |endpoint| endpoint.id).ok()?;
        self.endpoints.get_mut(index)
    }

    /// The addresses of an upstream.
    pub(super) fn listed(&self, upstream: usize) -> impl Iterator<Item = &EndpointState> {
        self.all_listed().filter(move |endpoint| endpoint.id.upstream == upstream)
    }

    /// The addresses of all upstreams.
    pub(super) fn all_listed(&self) -> impl Iterator<Item = &EndpointState> {
        self.endpoints.iter().filter(|endpoint| endpoint.is_listed)
    }

    /// Chooses an endpoint that `is_untried`: an available one, or an available backup, or one that
    /// is down, or a backup that is down.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        is_untried: impl Fn(EndpointId) -> bool,
    ) -> Option<Chosen> {
        let best = |is_available: bool, is_backup: bool| {
            self.best(|endpoint| {
                endpoint.is_listed
                    && self.upstreams[endpoint.id.upstream].is_backup == is_backup
                    && (!is_available || endpoint.is_available(now))
                    && is_untried(endpoint.id)
            })
        };
        let ranks = [(true, false), (true, true), (false, false), (false, true)];
        let index = ranks.into_iter().find_map(|(available, backup)| best(available, backup))?;
        let is_name = self.endpoints[index].is_name(&self.upstreams);
        let EndpointState { id, endpoint, down_until, .. } = &mut self.endpoints[index];
        self.next = EndpointId::new(id.upstream, id.number + 1);
        endpoint.begin();
        let is_probe = down_until.is_some_and(|until| until <= now);
        if is_probe {
            // Meanwhile, other connections prefer other upstreams.
            *down_until = Some(now + PROBATION);
        }
        Some(Chosen { id: *id, endpoint: endpoint.clone(), is_name, is_probe })
    }

    /// The index of the next one of the endpoints that are `eligible`.
    fn best(&self, eligible: impl Fn(&EndpointState) -> bool) -> Option<usize> {
        let first = self.endpoints.partition_point(|endpoint| endpoint.id < self.next);
        let in_turn = (first..self.endpoints.len()).chain(0..first);
        let mut candidates = in_turn.filter(|&i| eligible(&self.endpoints[i]));
        match self.balance {
            Balance::RoundRobin => candidates.next(),
            Balance::LeastConnections => {
                candidates.min_by_key(|&i| self.endpoints[i].endpoint.open())
            }
        }
    }
}

impl EndpointState {
    /// Whether its address is a name that was not looked up yet.
    pub(super) fn is_name(&self, upstreams: &[UpstreamState]) -> bool {
        upstreams[self.id.upstream].name.is_some() && self.endpoint.resolved().is_none()
    }

    /// Whether connections prefer it at `now`.
    pub(super) fn is_available(&self, now: Instant) -> bool {
        !self.check.is_down() && self.down_until.is_none_or(|until| until <= now)
    }

    pub(super) fn is_up(&self) -> bool {
        !self.check.is_down() && self.down_until.is_none()
    }

    /// Whether it is the proxy itself, and not to be tried at `now`.
    pub(super) fn is_excluded(&self, now: Instant) -> bool {
        self.is_self && self.down_until.is_some_and(|until| until > now)
    }
}
