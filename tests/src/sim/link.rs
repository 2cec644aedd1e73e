//! The network between two hosts: partitions, latency and bandwidth.

use std::{
    collections::BTreeMap,
    mem::{replace, take},
    num::NonZeroU64,
    time::Duration,
};

use wirestate_core::Instant;

use super::{
    Latency, Settings, TraceEvent,
    network::{Network, State},
};

/// What was set for the segments from one host to another.
#[derive(Default)]
pub(super) struct Link {
    pub(super) blocked: bool,
    /// `None`: as the world's settings say.
    pub(super) latency: Option<Latency>,
}

impl Link {
    const fn has_fault(&self) -> bool {
        self.blocked || self.latency.is_some()
    }
}

/// The bandwidth of a host in one direction, which all of its connections share.
pub(super) struct Bandwidth {
    /// Bytes a second. `None`: no limit.
    pub(super) rate: Option<NonZeroU64>,
    /// When all bytes so far have passed.
    busy_until: Instant,
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self { rate: None, busy_until: Instant::EPOCH }
    }
}

impl Bandwidth {
    /// When `bytes` bytes that begin to pass at `start` have passed.
    fn pass(&mut self, start: Instant, bytes: usize) -> Instant {
        let Some(rate) = self.rate else { return start };
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(rate.get().into());
        let time = u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos);
        self.busy_until = self.busy_until.max(start) + time;
        self.busy_until
    }
}

impl Network {
    /// Whether segments pass from one host to another. A host always reaches itself.
    pub(super) fn passes(&self, from: usize, to: usize) -> bool {
        let is_plugged = |host: usize| !self.hosts[host].unplugged;
        let is_blocked = || self.links.get(&(from, to)).is_some_and(|link| link.blocked);
        from == to || is_plugged(from) && is_plugged(to) && !is_blocked()
    }

    /// Whether segments of `from` reach the kernel of `to`, and its answers come back.
    pub(super) fn is_connected(&self, from: usize, to: usize) -> bool {
        self.hosts[to].state != State::Off && self.passes(from, to) && self.passes(to, from)
    }

    /// How long `bytes` bytes that `from` sends now wait for the bandwidth of both hosts.
    pub(super) fn transmit(&mut self, from: usize, to: usize, bytes: usize) -> Duration {
        if from == to {
            return Duration::ZERO;
        }
        let sent = self.hosts[from].upload.pass(self.now, bytes);
        self.hosts[to].download.pass(sent, bytes).since(self.now)
    }

    /// Ends all faults, but does not restart hosts.
    pub(super) fn heal(&mut self) {
        let links = take(&mut self.links);
        for host in 0..self.hosts.len() {
            let state = &mut self.hosts[host];
            let has_faults = [
                self.stopped.contains_key(&host),
                links.iter().any(|((from, _), link)| *from == host && link.has_fault()),
                take(&mut state.faults).any(),
                replace(&mut state.unplugged, false),
                take(&mut state.upload).rate.is_some(),
                take(&mut state.download).rate.is_some(),
                state.clock.heal(self.now),
            ];
            self.resume(host);
            self.probe_all(host);
            if has_faults.contains(&true) {
                self.trace_host(host, TraceEvent::Healed("all", None));
            }
        }
        self.deliver_queued();
    }
}

/// The latency from one host to another.
pub(super) fn latency<'a>(
    links: &'a BTreeMap<(usize, usize), Link>,
    settings: &'a Settings,
    from: usize,
    to: usize,
) -> &'a Latency {
    let link = links.get(&(from, to));
    link.and_then(|link| link.latency.as_ref()).unwrap_or(&settings.latency)
}
