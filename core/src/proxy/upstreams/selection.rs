//! The selection of an upstream for one connection, and the report of its health.

use alloc::{format, string::String, vec::Vec};
use core::{mem, time::Duration};

use super::{
    DialError, FailedAttempt, IS_SELF, Lookup, PROBATION, Upstreams,
    state::{Chosen, EndpointId},
};
use crate::{Instant, dial::Endpoint, shared::Shared};

/// The selection of an upstream for one connection, and then that upstream's connection.
///
/// Each endpoint is tried at most once: first those that are up, then backups that are up, then
/// those that are down, and then backups that are down. The endpoint that is being tried or is
/// connected to counts as an open connection.
#[derive(Debug)]
pub struct Selection {
    upstreams: Upstreams,
    /// The failed attempts, each with its endpoint.
    failed: Vec<(EndpointId, FailedAttempt)>,
    current: Option<Current>,
}

/// The endpoint that is being tried or is connected to. It has the fields of [`Chosen`], because
/// there is one for each connection, and a nested struct would be padded.
#[derive(Debug)]
struct Current {
    id: EndpointId,
    endpoint: Shared<Endpoint>,
    is_name: bool,
    is_probe: bool,
    progress: Progress,
    /// When it was connected to.
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Progress {
    Connecting,
    Connected {
        /// The upstream has sent a byte.
        has_received: bool,
        /// The upstream was sent a byte of the client's.
        has_sent: bool,
    },
    /// The connection was counted as failed, or has marked the upstream as up.
    Reported,
}

impl Selection {
    pub(super) fn new(upstreams: Upstreams) -> Self {
        Self { upstreams, failed: Vec::new(), current: None }
    }

    /// The address to try now; `None` when all upstreams have been tried.
    ///
    /// Report the result by the next call to [`handle_connected`](Self::handle_connected) or
    /// [`handle_failure`](Self::handle_failure). Otherwise the attempt counts as cancelled, which
    /// is not a failure of the upstream. The same holds if `self` is dropped.
    pub fn next_address(&mut self, now: Instant) -> Option<Shared<str>> {
        self.finish_current();
        self.skip_self(now);
        let is_untried = |id| !self.has_failed(id);
        let chosen = self.upstreams.state.with(|state| state.choose(now, is_untried))?;
        let Chosen { id, endpoint, is_name, is_probe } = chosen;
        let (address, progress) = (endpoint.address().clone(), Progress::Connecting);
        self.current = Some(Current { id, endpoint, is_name, is_probe, progress, since: now });
        Some(address)
    }

    /// The upstreams.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// The endpoint that is being tried or is connected to.
    pub fn endpoint(&self) -> Option<&Shared<Endpoint>> {
        self.current.as_ref().map(|current| &current.endpoint)
    }

    /// The endpoint that is connected to, and since when.
    #[cfg(feature = "std")]
    pub(in super::super) fn connected(&self) -> Option<(&Shared<Endpoint>, Instant)> {
        self.current.as_ref().map(|current| (&current.endpoint, current.since))
    }

    /// The lookup of the upstream that is being tried, if its address is a name that was never
    /// looked up. After [`Lookup::finish`], call [`next_address`](Self::next_address) again.
    pub fn lookup(&self) -> Option<Lookup> {
        let Current { id, is_name, .. } = self.current.as_ref()?;
        is_name.then(|| self.upstreams.lookup(id.upstream))
    }

    /// The lookup of a name whose addresses have failed, if it was not looked up since `since`.
    #[cfg(feature = "std")]
    pub(in super::super) fn lookup_again(&self, since: Instant) -> Option<Lookup> {
        let mut failed = self.failed.iter().map(|(id, _)| id.upstream);
        let index = failed.find(|&index| self.upstreams.is_older_than(index, since))?;
        Some(self.upstreams.lookup(index))
    }

    fn has_failed(&self, id: EndpointId) -> bool {
        self.failed.iter().any(|(failed, _)| *failed == id)
    }

    /// The number of endpoints that were not tried yet, without the current one.
    pub fn remaining(&self) -> usize {
        let current = self.current.as_ref().map(|current| current.id);
        let is_untried = |id| current != Some(id) && !self.has_failed(id);
        self.upstreams.state.with(|state| state.all_listed().filter(|it| is_untried(it.id)).count())
    }

    /// Records that the attempt succeeded.
    pub fn handle_connected(&mut self, now: Instant) {
        if let Some(current) = &mut self.current {
            current.progress = Progress::Connected { has_received: false, has_sent: false };
            current.since = now;
            let id = current.id;
            self.upstreams.state.with(|state| {
                state.upstreams[id.upstream].connects += 1;
                // Whether it is still the proxy itself is detected again, unless the accepting end
                // of this very connection has already detected it.
                if let Some(endpoint) = state.endpoint(id) {
                    endpoint.is_self = endpoint.is_excluded(now);
                }
            });
        }
    }

    /// Records that `received` bytes came from the upstream, and that `sent` bytes of the client
    /// were sent to it.
    pub fn handle_transfer(&mut self, received: usize, sent: usize, now: Instant) {
        let Some(Current { id, progress, since, .. }) = &mut self.current else { return };
        let Progress::Connected { has_received, has_sent } = progress else { return };
        *has_received |= received > 0;
        *has_sent |= sent > 0;
        if received + sent > 0 && now.since(*since) >= PROBATION {
            *progress = Progress::Reported;
            self.upstreams.mark_up(*id);
        }
    }

    /// Handles a FIN of the upstream, before a FIN of the client. That is a
    /// [failure](Self::handle_loss), unless bytes have moved in both directions.
    pub fn handle_fin(&mut self, now: Instant) {
        let Some(Current { progress, .. }) = &self.current else { return };
        let Progress::Connected { has_received, has_sent } = *progress else { return };
        if !has_received {
            self.handle_loss("it closed the connection without sending a byte", now);
        } else if !has_sent {
            self.handle_loss("it closed the connection before it was sent a byte", now);
        }
    }

    /// Handles the loss of the connection, or a failed attempt. The connection counts as failed,
    /// unless it has lasted for 5 s and the upstream has sent a byte. The upstream is marked as
    /// down, unless the connection has lasted for 5 s.
    pub fn handle_loss(&mut self, error: &str, now: Instant) {
        let Some(Current { id, is_probe, progress, since, .. }) = &mut self.current else { return };
        let is_young = match *progress {
            Progress::Connecting => true,
            Progress::Connected { has_received, .. } => {
                let is_young = now.since(*since) < PROBATION;
                if has_received && !is_young {
                    return;
                }
                is_young
            }
            Progress::Reported => return,
        };
        *progress = Progress::Reported;
        self.upstreams.mark_failed(*id, is_young, *is_probe, error, now);
    }

    /// Records that the attempt failed or the connection was [lost](Self::handle_loss). This
    /// selection does not try the upstream again.
    pub fn handle_failure(&mut self, error: impl Into<String>, now: Instant) {
        let error = error.into();
        self.handle_loss(&error, now);
        self.handle_local_failure(error);
    }

    /// Records that the attempt failed for a local reason, for example a lack of open files. This
    /// selection does not try the upstream again, but it does not count as failed.
    pub fn handle_local_failure(&mut self, error: impl Into<String>) {
        if let Some(Current { id, endpoint, .. }) = self.finish_current() {
            let mut error = error.into();
            if let Some(address) = endpoint.resolved() {
                error = format!("{address}: {error}");
            }
            let upstream = endpoint.upstream().clone();
            self.failed.push((id, FailedAttempt { upstream, error }));
        }
    }

    /// The error with all failed attempts. `timeout`: the time for all attempts, if it has elapsed.
    pub fn into_error(mut self, timeout: Option<Duration>) -> DialError {
        let failed = mem::take(&mut self.failed);
        DialError { attempts: failed.into_iter().map(|(_, attempt)| attempt).collect(), timeout }
    }

    /// The endpoint that is being tried or is connected to.
    #[cfg(feature = "std")]
    pub(in super::super) fn current(&self) -> Option<EndpointId> {
        self.current.as_ref().map(|current| current.id)
    }

    /// Marks the current endpoint as the proxy itself.
    #[cfg(feature = "std")]
    pub(in super::super) fn mark_as_self(&mut self, now: Instant) {
        if let Some(id) = self.current() {
            self.upstreams.mark_as_self(id, now);
        }
        self.handle_local_failure(IS_SELF);
    }

    /// Counts each endpoint that is the proxy itself as tried, until it may be tried again.
    fn skip_self(&mut self, now: Instant) {
        let Self { upstreams, failed, .. } = self;
        upstreams.state.with(|state| {
            for excluded in state.all_listed().filter(|endpoint| endpoint.is_excluded(now)) {
                if !failed.iter().any(|(failed, _)| *failed == excluded.id) {
                    let upstream = excluded.endpoint.upstream().clone();
                    failed.push((excluded.id, FailedAttempt { upstream, error: IS_SELF.into() }));
                }
            }
        });
    }

    /// Ends the current attempt or connection.
    fn finish_current(&mut self) -> Option<Current> {
        let current = self.current.take()?;
        current.endpoint.end();
        if matches!(current.progress, Progress::Connected { has_received: true, .. }) {
            self.upstreams.mark_up(current.id);
        }
        Some(current)
    }
}

impl Drop for Selection {
    fn drop(&mut self) {
        self.finish_current();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Balance, PROBATION, UpstreamCounters},
        *,
    };

    const NOW: Instant = Instant::EPOCH;

    fn upstreams(balance: Balance) -> Upstreams {
        Upstreams::new(["a:1", "b:1", "c:1"], balance, 1)
    }

    fn connect(upstreams: &Upstreams) -> (Shared<str>, Selection) {
        let mut selection = upstreams.select();
        let address = selection.next_address(NOW).unwrap();
        selection.handle_connected(NOW);
        (address, selection)
    }

    #[test]
    fn round_robin_selects_one_upstream_after_the_other() {
        let upstreams = upstreams(Balance::RoundRobin);
        let selected: Vec<_> = (0..4).map(|_| connect(&upstreams).0).collect();
        assert_eq!(selected.iter().map(|s| &**s).collect::<Vec<_>>(), ["a:1", "b:1", "c:1", "a:1"]);
    }

    #[test]
    fn least_connections_selects_the_upstream_with_the_fewest() {
        let upstreams = upstreams(Balance::LeastConnections);
        let (a, b, c) = (connect(&upstreams), connect(&upstreams), connect(&upstreams));
        drop(b.1);
        assert_eq!(&*connect(&upstreams).0, "b:1");
        drop((a.1, c.1));
        assert!(upstreams.counters().iter().all(|upstream| upstream.open == 0));
    }

    #[test]
    fn each_upstream_is_tried_once_and_those_that_are_down_last() {
        let upstreams = upstreams(Balance::RoundRobin);
        let mut selection = upstreams.select();
        assert_eq!(selection.next_address(NOW).as_deref(), Some("a:1"));
        selection.handle_failure("refused", NOW);
        assert_eq!(selection.remaining(), 2);
        drop(selection);

        let mut selection = upstreams.select();
        let mut tried = Vec::new();
        while let Some(address) = selection.next_address(NOW) {
            tried.push(address);
            selection.handle_failure("refused", NOW);
        }
        assert_eq!(tried.iter().map(|s| &**s).collect::<Vec<_>>(), ["b:1", "c:1", "a:1"]);
        let none = selection.into_error(None);
        assert_eq!(
            alloc::string::ToString::to_string(&none),
            "no upstream reachable: b:1: refused; c:1: refused; a:1: refused"
        );
        let [a, b, c] = &upstreams.counters()[..] else { panic!("there are three") };
        assert_eq!((a.failures, b.failures, c.failures, a.open), (2, 1, 1, 0));
    }

    #[test]
    fn one_connection_at_a_time_tries_an_upstream_that_was_down() {
        let upstreams = Upstreams::new(["a:1", "b:1"], Balance::RoundRobin, 1);
        let mut selection = upstreams.select();
        selection.next_address(NOW).unwrap();
        selection.handle_failure("no answer", NOW);
        drop(selection);
        let later = NOW + Duration::from_secs(1);
        let mut selected = Vec::new();
        let mut selections: Vec<_> = (0..4).map(|_| upstreams.select()).collect();
        for selection in &mut selections {
            selected.push(selection.next_address(later).unwrap());
        }
        assert_eq!(
            selected.iter().filter(|address| &***address == "a:1").count(),
            1,
            "{selected:?}"
        );
    }

    #[test]
    fn a_cancelled_attempt_is_no_failure() {
        let upstreams = upstreams(Balance::RoundRobin);
        let mut selection = upstreams.select();
        selection.next_address(NOW).unwrap();
        assert_eq!(upstreams.counters()[0].open, 1);
        drop(selection);
        let counters = &upstreams.counters()[0];
        assert_eq!((counters.open, counters.failures, counters.up), (0, 0, true));
    }

    /// An upstream that is down for up to 5 s, after 20 failures.
    fn down() -> Upstreams {
        let upstreams = Upstreams::new(["a:1"], Balance::RoundRobin, 1);
        for i in 0..20 {
            // The last back-off is over by then.
            fail(&upstreams, NOW + i * PROBATION);
        }
        upstreams
    }

    fn fail(upstreams: &Upstreams, now: Instant) {
        let mut selection = upstreams.select();
        selection.next_address(now).unwrap();
        selection.handle_failure("refused", now);
    }

    fn down_for(upstreams: &Upstreams) -> Duration {
        upstreams.state.with(|state| state.endpoints[0].down_until).unwrap().since(NOW)
    }

    fn is_up(upstreams: &Upstreams) -> bool {
        upstreams.counters()[0].up
    }

    #[test]
    fn the_end_of_a_connection_with_a_reply_marks_the_upstream_up_and_restarts_its_back_off() {
        let upstreams = down();
        let mut selection = connect(&upstreams).1;
        selection.handle_transfer(0, 9, NOW);
        selection.handle_transfer(1, 0, NOW);
        assert!(!is_up(&upstreams), "the reply may be an error that a reset follows");
        drop(selection);
        assert!(is_up(&upstreams));
        fail(&upstreams, NOW);
        assert!(down_for(&upstreams) < Duration::from_millis(50), "{:?}", down_for(&upstreams));

        let upstreams = down();
        let mut selection = connect(&upstreams).1;
        selection.handle_transfer(0, 9, NOW);
        drop(selection);
        assert!(!is_up(&upstreams), "the upstream has accepted, but sent nothing");
    }

    /// For example a server that is full. The back-off must grow nevertheless.
    #[test]
    fn an_upstream_that_sends_an_error_to_each_client_stays_down() {
        type Ending = fn(&mut Selection, Instant);
        let ends: [Ending; 2] = [
            |selection, now| selection.handle_failure("reset", now),
            |selection, now| selection.handle_fin(now),
        ];
        for end in ends {
            let upstreams = Upstreams::new(["full:1", "serves:1"], Balance::RoundRobin, 1);
            let mut selected = [0, 0];
            for i in 0..600 {
                let now = NOW + i * Duration::from_millis(100);
                let mut selection = upstreams.select();
                let is_full = selection.next_address(now).as_deref() == Some("full:1");
                selection.handle_connected(now);
                selection.handle_transfer(30, 0, now);
                if is_full {
                    end(&mut selection, now);
                }
                selected[usize::from(!is_full)] += 1;
            }
            assert!((5..50).contains(&selected[0]), "{selected:?} in a minute");
        }
    }

    #[test]
    fn a_fin_after_a_reply_is_no_failure() {
        let upstreams = upstreams(Balance::RoundRobin);
        let mut selection = connect(&upstreams).1;
        selection.handle_transfer(0, 9, NOW);
        selection.handle_transfer(9, 0, NOW);
        selection.handle_fin(NOW);
        drop(selection);
        let counters = &upstreams.counters()[0];
        assert_eq!((counters.failures, counters.up), (0, true));
    }

    /// Otherwise the restart of a server with many connections would cause the longest back-off.
    #[test]
    fn connections_that_fail_together_are_one_failure_for_the_back_off() {
        let upstreams = Upstreams::new(["a:1"], Balance::RoundRobin, 1);
        let mut all: Vec<_> = (0..20).map(|_| connect(&upstreams).1).collect();
        for selection in &mut all {
            selection.handle_failure("reset", NOW);
        }
        assert_eq!(upstreams.counters()[0].failures, 20);
        let wait = down_for(&upstreams);
        assert!(wait < Duration::from_millis(50), "{wait:?}");
        fail(&upstreams, NOW);
        assert_eq!(down_for(&upstreams), wait, "the back-off is not over, so the wait stays");
    }

    /// A service that only receives.
    #[test]
    fn bytes_on_a_connection_that_lasts_mark_the_upstream_up() {
        let upstreams = down();
        let mut selection = connect(&upstreams).1;
        selection.handle_transfer(0, 0, NOW + PROBATION);
        assert!(!is_up(&upstreams), "no byte has moved");
        selection.handle_transfer(0, 1, NOW + PROBATION);
        assert!(is_up(&upstreams));
    }

    #[test]
    fn a_lost_connection_is_a_failure_unless_it_lasted_and_had_a_reply() {
        let lose = |received: usize, after: Duration| {
            let upstreams = upstreams(Balance::RoundRobin);
            let mut selection = connect(&upstreams).1;
            selection.handle_transfer(received, 0, NOW);
            selection.handle_failure("reset", NOW + after);
            assert_eq!(selection.remaining(), 2, "the upstream counts as tried");
            let UpstreamCounters { failures, open, up, .. } = upstreams.counters()[0];
            assert_eq!(open, 0);
            (failures, up)
        };
        assert_eq!(lose(0, Duration::ZERO), (1, false));
        assert_eq!(lose(1, Duration::ZERO), (1, false));
        assert_eq!(lose(0, PROBATION), (1, true), "the connection has lasted");
        assert_eq!(lose(1, PROBATION), (0, true));
    }
}
