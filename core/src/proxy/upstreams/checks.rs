//! The active health checks of the upstreams: when, and what they change.

use alloc::string::String;

use tracing::{debug, info, warn};

use super::{
    Upstreams,
    state::{EndpointId, EndpointState, State},
};
use crate::{
    Instant,
    dial::{CheckConfig, Endpoint},
    quantity::Time,
    shared::Shared,
};

/// The active health check of an endpoint. Without checks, it is never down.
#[derive(Debug, Default)]
pub(super) struct CheckState {
    /// When the next check begins.
    due: Instant,
    is_running: bool,
    /// How many checks in a row contradict `is_down`.
    streak: u32,
    is_down: bool,
}

/// A health check that is due. Report its result by [`finish`](Self::finish); a drop without it is
/// a check that was cancelled.
#[derive(Debug)]
pub struct DueCheck {
    upstreams: Upstreams,
    id: EndpointId,
    endpoint: Shared<Endpoint>,
}

impl CheckState {
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }

    /// Handles the result of a check. Returns whether `is_down` has changed.
    fn handle(&mut self, has_passed: bool, config: &CheckConfig) -> bool {
        if has_passed != self.is_down {
            self.streak = 0;
            return false;
        }
        self.streak += 1;
        let needed = if self.is_down { config.rise } else { config.fall };
        let changes = self.streak >= needed.get();
        if changes {
            (self.is_down, self.streak) = (!self.is_down, 0);
        }
        changes
    }
}

impl Upstreams {
    /// A health check that is due: each endpoint is checked at once, and then
    /// [`CheckConfig::interval`] after the end of its last check.
    ///
    /// An endpoint that a check has marked as down is not preferred until checks mark it as up. The
    /// passive checks continue to apply.
    pub fn poll_check(&self, now: Instant) -> Option<DueCheck> {
        self.state.with(|state| {
            let State { upstreams, endpoints, .. } = state;
            let mut endpoints = endpoints.iter_mut();
            let endpoint = endpoints.find(|endpoint| {
                let CheckState { due, is_running, .. } = endpoint.check;
                // A name is looked up first.
                endpoint.is_listed && !endpoint.is_name(upstreams) && !is_running && due <= now
            })?;
            endpoint.check.is_running = true;
            let (id, endpoint) = (endpoint.id, endpoint.endpoint.clone());
            Some(DueCheck { upstreams: self.clone(), id, endpoint })
        })
    }

    /// When the next check or lookup is due; `None`: none is, until one that runs has ended.
    pub fn next_check_or_lookup(&self) -> Option<Instant> {
        let check = self.state.with(|state| {
            let is_waiting =
                |it: &&EndpointState| !it.is_name(&state.upstreams) && !it.check.is_running;
            state.all_listed().filter(is_waiting).map(|endpoint| endpoint.check.due).min()
        });
        check.into_iter().chain(self.next_lookup()).min()
    }
}

impl DueCheck {
    /// What is checked.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Reports that the check could not be made for a local reason, for example a lack of open
    /// files. It counts neither as passed nor as failed.
    pub fn postpone(self, config: &CheckConfig, now: Instant) {
        self.upstreams.state.with(|state| {
            if let Some(endpoint) = state.endpoint(self.id) {
                endpoint.check.due = now + config.interval;
            }
        });
    }

    /// Reports the result. [`CheckConfig::fall`] failures in a row mark the endpoint as down, and
    /// [`CheckConfig::rise`] successes as up, which restarts its back-off as well.
    pub fn finish(self, result: Result<(), String>, config: &CheckConfig, now: Instant) {
        let server = self.upstreams.server();
        let server = server.as_deref();
        let (upstream, address) = (self.endpoint.upstream(), self.endpoint.resolved());
        let has_changed = self.upstreams.state.with(|state| {
            state.upstreams[self.id.upstream].check_failures += u64::from(result.is_err());
            let Some(endpoint) = state.endpoint(self.id) else { return false };
            endpoint.check.due = now + config.interval;
            let has_changed = endpoint.check.handle(result.is_ok(), config);
            if has_changed && result.is_ok() {
                endpoint.backoff.reset();
                endpoint.down_until = None;
            }
            has_changed
        });
        match result {
            Ok(()) if has_changed => {
                let rise = config.rise;
                info!(%upstream, address, server, "upstream up again; checks passed: {rise}");
            }
            Ok(()) => {}
            Err(error) if has_changed => {
                let (fall, interval) = (config.fall, Time(config.interval));
                warn!(
                    %upstream, address, server,
                    "upstream down: {error}; checks failed: {fall}; the next is in {interval}"
                );
            }
            Err(error) => debug!(%upstream, address, server, "check failed: {error}"),
        }
    }
}

impl Drop for DueCheck {
    fn drop(&mut self) {
        self.upstreams.state.with(|state| {
            if let Some(endpoint) = state.endpoint(self.id) {
                endpoint.check.is_running = false;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::num::NonZeroU32;

    use super::*;

    /// All sequences of ten checks, of which two in a row mark it as down, and three as up.
    #[test]
    fn only_checks_in_a_row_change_whether_it_is_down() {
        let number = |n| NonZeroU32::new(n).expect("it is not 0");
        let config = CheckConfig::default().with_fall(number(2)).with_rise(number(3));
        for results in 0..1 << 10_u32 {
            let (mut check, mut is_down) = (CheckState::default(), false);
            let mut since_change = Vec::new();
            for has_passed in (0..10).map(|i| results >> i & 1 == 1) {
                since_change.push(has_passed);
                let needed = if is_down { 3 } else { 2 };
                let last = since_change.iter().rev().take(needed);
                let changes =
                    since_change.len() >= needed && last.into_iter().all(|it| *it == is_down);
                if changes {
                    is_down = !is_down;
                    since_change.clear();
                }
                assert_eq!(check.handle(has_passed, &config), changes, "{results:#b}");
                assert_eq!(check.is_down(), is_down, "{results:#b}");
            }
        }
    }
}
