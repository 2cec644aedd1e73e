//! The lookups of the upstreams' names: when, and what they change.

use alloc::{
    string::{String, ToString as _},
    vec::Vec,
};
use core::{net::SocketAddr, time::Duration};

use tracing::{debug, info, warn};

use super::{NO_ADDRESS, State, Upstreams};
use crate::{Instant, shared::Shared};

/// A name that is an upstream's address.
#[derive(Debug, Default)]
pub(super) struct NameState {
    /// When the last lookup ended; `None`: there was none.
    looked_up: Option<Instant>,
    /// When the next lookup begins.
    due: Instant,
    /// A task looks it up.
    is_claimed: bool,
    pub(super) failures: u64,
    /// The last lookup failed, and that was logged.
    is_failing: bool,
}

/// A name that must be looked up. Report the addresses by [`finish`](Self::finish); a drop without
/// it is a lookup that was cancelled.
#[derive(Debug)]
pub struct Lookup {
    upstreams: Upstreams,
    index: usize,
    name: Shared<str>,
    /// It is the one that `is_claimed` counts.
    is_claim: bool,
}

impl NameState {
    /// `None` if `address` is an `IP:PORT` or a `unix:PATH`.
    pub(super) fn of(address: &str) -> Option<Self> {
        let is_name = !address.starts_with("unix:") && address.parse::<SocketAddr>().is_err();
        is_name.then(Self::default)
    }

    /// An address has failed: looks the name up soon.
    pub(super) fn handle_failure(&mut self, now: Instant) {
        if let Some(looked_up) = self.looked_up {
            self.due = self.due.min((looked_up + MIN_INTERVAL).max(now));
        }
    }
}

impl Upstreams {
    /// A name whose addresses were looked up the
    /// [`resolve_interval`](super::super::Config::resolve_interval) ago, or have failed since; with
    /// `first`, also one that was never looked up. Each name has one lookup at a time, and at most
    /// one a second.
    pub fn poll_lookup(&self, first: bool, now: Instant) -> Option<Lookup> {
        self.state.with(|state| {
            let is_due = |name: &NameState| {
                !name.is_claimed && name.due <= now && (first || name.looked_up.is_some())
            };
            let index = state
                .upstreams
                .iter()
                .position(|upstream| upstream.name.as_ref().is_some_and(is_due))?;
            let upstream = &mut state.upstreams[index];
            if let Some(name) = &mut upstream.name {
                name.is_claimed = true;
                name.due = now + MIN_INTERVAL;
            }
            let (upstreams, name) = (self.clone(), upstream.address.clone());
            Some(Lookup { upstreams, index, name, is_claim: true })
        })
    }

    /// When the next lookup is due, also of names that were never looked up.
    pub(super) fn next_lookup(&self) -> Option<Instant> {
        self.state.with(|state| {
            let names = state.upstreams.iter().filter_map(|upstream| upstream.name.as_ref());
            names.filter(|name| !name.is_claimed).map(|name| name.due).min()
        })
    }

    /// A lookup of the upstream with this index, beside those of
    /// [`poll_lookup`](Self::poll_lookup).
    pub(super) fn lookup(&self, index: usize) -> Lookup {
        let name = self.state.with(|state| state.upstreams[index].address.clone());
        Lookup { upstreams: self.clone(), index, name, is_claim: false }
    }

    /// Whether the upstream with this index has a name with addresses, which was not looked up
    /// since `since`.
    #[cfg(feature = "std")]
    pub(super) fn is_older_than(&self, index: usize, since: Instant) -> bool {
        self.state.with(|state| {
            let name = state.upstreams[index].name.as_ref();
            name.is_some_and(|name| name.looked_up.is_some_and(|at| at < since))
        })
    }
}

impl Lookup {
    /// The name and the port, `HOST:PORT`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the addresses of the name: at most 64, each an endpoint of its own. If the lookup has
    /// failed, or found none, the earlier ones stay in use, which is logged and counted. The next
    /// lookup is after `interval`; `None`: when an address has failed.
    pub fn finish(
        self,
        found: Result<Vec<SocketAddr>, String>,
        interval: Option<Duration>,
        now: Instant,
    ) {
        let Self { upstreams, index, name: upstream, .. } = &self;
        let server = upstreams.server();
        let server = server.as_deref();
        let no_address = || Err(NO_ADDRESS.into());
        let found = found.and_then(|found| if found.is_empty() { no_address() } else { Ok(found) });
        let (is_first, was_failing, changed) = upstreams.state.with(|state| {
            let was_down = state.listed(*index).any(|endpoint| endpoint.is_down_logged);
            let changed = found.as_ref().ok().map(|found| state.set_addresses(*index, found));
            let Some(name) = &mut state.upstreams[*index].name else { return (true, false, None) };
            let is_first = name.looked_up.replace(now).is_none();
            name.due = interval.map_or(Instant::NEVER, |interval| now + interval);
            name.failures += u64::from(found.is_err());
            let was_failing = core::mem::replace(&mut name.is_failing, found.is_err());
            if is_first && found.is_err() {
                // The next connection looks it up, and logs the failure of its attempt.
                (name.looked_up, name.is_failing) = (None, false);
                name.due = now + MIN_INTERVAL;
            }
            (is_first, was_failing || is_first && was_down, changed)
        });
        match found {
            // A health check, and not the attempt of a connection, which reports its failure.
            Err(error) if is_first && self.is_claim => {
                let id = upstreams.state.with(|state| state.listed(*index).next().map(|it| it.id));
                if let Some(id) = id {
                    upstreams.mark_failed(id, true, false, &error, now);
                }
            }
            Err(error) if is_first || was_failing => {
                debug!(%upstream, server, "the name cannot be looked up: {error}");
            }
            Err(error) => warn!(
                %upstream, server,
                "the name cannot be looked up, its last addresses stay in use: {error}"
            ),
            Ok(_) => {
                let changed = changed.filter(|changed| !changed.is_empty());
                match changed {
                    Some(addresses) if is_first && !was_failing => {
                        debug!(%upstream, addresses, server, "name looked up");
                    }
                    changed if was_failing => {
                        info!(
                            %upstream, addresses = changed, server,
                            "the name can be looked up again"
                        );
                    }
                    Some(addresses) => {
                        info!(%upstream, addresses, server, "the name has other addresses");
                    }
                    None => {}
                }
            }
        }
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        self.upstreams.state.with(|state| {
            if let Some(name) = &mut state.upstreams[self.index].name
                && self.is_claim
            {
                name.is_claimed = false;
            }
        });
    }
}

impl State {
    /// Sets the addresses of an upstream. Returns them as text, or an empty text if they are the
    /// same as before.
    fn set_addresses(&mut self, upstream: usize, found: &[SocketAddr]) -> String {
        let mut addresses: Vec<String> = Vec::new();
        for address in found.iter().map(SocketAddr::to_string) {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let mut has_changed = false;
        for endpoint in &mut self.endpoints {
            if endpoint.id.upstream == upstream {
                let is_listed = addresses.iter().any(|it| **it == **endpoint.endpoint.address());
                has_changed |= is_listed != endpoint.is_listed;
                endpoint.is_listed = is_listed;
            }
        }
        for address in &addresses {
            let mut own = self.endpoints.iter().filter(|it| it.id.upstream == upstream);
            if !own.any(|it| **it.endpoint.address() == **address) {
                self.add_endpoint(upstream, address.as_str().into());
                has_changed = true;
            }
        }
        self.endpoints.retain(|endpoint| endpoint.is_listed || endpoint.endpoint.open() > 0);
        self.earlier.retain(|endpoint| endpoint.open() > 0);
        self.sort();
        if has_changed { addresses.join(", ") } else { String::new() }
    }
}

/// A name is looked up at most once in this time because an address has failed.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The most addresses of a name that are used.
const MAX_ADDRESSES: usize = 64;
