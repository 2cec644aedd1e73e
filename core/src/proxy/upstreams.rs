//! Which upstream next, and how each of them is.

use alloc::{string::String, vec::Vec};
use core::{fmt, time::Duration};

use tracing::{debug, info, warn};

use crate::{
    Fault, Instant,
    dial::Backoff,
    log_limit::{LogDecision, LogLimit},
    shared::{Lock, Shared},
};

/// Where a proxy's connections go. Clones are the same upstreams.
///
/// Health is passive: an attempt that fails marks an upstream as down, for a back-off time with
/// jitter ([`Backoff`]) in which others are preferred; then one connection tries it again, for which
/// the others leave it 5 s. When all are down they are tried all the same.
///
/// A successful connect does not show that an upstream works, nor does an error message to each
/// client. A connection that the upstream ends within 5 s is a failure, if it ends it
/// - by a reset, whatever it has sent before;
/// - by a FIN, before the client's own, without having sent a byte or having been sent one of the
///   client's. (So a service that sends first and closes at once is always down; it is still tried
///   if all others are down.)
///
/// An upstream is up again, and its back-off begins anew, when a connection on which it has sent a
/// byte ends in any other way, or when bytes move on a connection to it that has lasted for 5 s
/// (some services only receive).
///
/// It holds a few words for each upstream, however many connections there are.
///
/// ```
/// use wirestate_core::{Instant, proxy::{Balance, Upstreams}};
///
/// let now = Instant::EPOCH;
/// let upstreams = Upstreams::new(["a:9000", "b:9000"], Balance::RoundRobin, 7);
/// let mut choice = upstreams.choose();
/// assert_eq!(choice.next(now).as_deref(), Some("a:9000"));
/// choice.failed("connection refused", now);
/// assert_eq!(choice.next(now).as_deref(), Some("b:9000"));
/// choice.connected(now);
/// let [a, b] = &upstreams.counters()[..] else { panic!() };
/// assert_eq!((a.up, a.failures, b.up, b.open), (false, 1, true, 1));
/// ```
#[derive(Clone, Debug)]
pub struct Upstreams {
    inner: Shared<Inner>,
}

/// How connections are spread over the upstreams that are up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest open connections (those that are being made among them); of equal
    /// ones, one after the other.
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
    members: Vec<Member>,
    /// Whose turn it is.
    turn: usize,
}

#[derive(Debug)]
struct Member {
    connects: u64,
    failures: u64,
    open: u64,
    backoff: Backoff,
    /// It is down, and not preferred before this time.
    down_until: Option<Instant>,
    /// The last connection to it reached the proxy itself: it is not tried at all before that time.
    is_itself: bool,
    /// Limits the lines that say that it is down: while it alternates, each connection causes one.
    log_limit: LogLimit,
    /// The last such line was logged, so its recovery is logged as well.
    is_down_logged: bool,
}

/// How an upstream is, and what became of the connections to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamCounters {
    /// Its `host:port`.
    pub address: Shared<str>,
    /// Connections made.
    pub connects: u64,
    /// Attempts that failed, and connections that it broke off early: see [`Upstreams`].
    pub failures: u64,
    /// Connections that are open or being made.
    pub open: u64,
    /// It has not failed since it was last of use.
    pub up: bool,
}

impl Upstreams {
    /// Upstreams, each a `host:port`, none of which has failed yet. The same `seed` gives the same
    /// back-off times.
    ///
    /// # Panics
    /// If there is none.
    pub fn new<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        balance: Balance,
        seed: u64,
    ) -> Self {
        let addresses: Vec<Shared<str>> =
            addresses.into_iter().map(|address| address.into().into()).collect();
        assert!(!addresses.is_empty(), "a proxy needs an upstream");
        let member = |seed| Member {
            connects: 0,
            failures: 0,
            open: 0,
            backoff: Backoff::new(seed),
            down_until: None,
            is_itself: false,
            log_limit: LogLimit::default(),
            is_down_logged: false,
        };
        let members =
            (0_u64..).zip(&addresses).map(|(i, _)| member(seed.wrapping_add(i))).collect();
        let state = Lock::new(State { members, turn: 0 });
        Self { inner: Shared::new(Inner { addresses, balance, state }) }
    }

    /// How each of them is, in the order in which they were given.
    pub fn counters(&self) -> Vec<UpstreamCounters> {
        self.inner.state.with(|state| {
            let counters = |(address, member): (&Shared<str>, &Member)| UpstreamCounters {
                address: address.clone(),
                connects: member.connects,
                failures: member.failures,
                open: member.open,
                up: member.down_until.is_none(),
            };
            self.inner.addresses.iter().zip(&state.members).map(counters).collect()
        })
    }

    /// Begins to look for an upstream for one connection.
    pub fn choose(&self) -> Choice {
        Choice { upstreams: self.clone(), tried: Vec::new(), present: None }
    }

    /// Marks it as up, and begins its back-off anew.
    fn restore(&self, member: usize) {
        let (was_down, is_logged) = self.with(member, |member| {
            member.backoff.reset();
            member.is_itself = false;
            (member.down_until.take().is_some(), member.is_down_logged)
        });
        let upstream = &self.inner.addresses[member];
        if was_down && is_logged {
            info!(%upstream, "upstream up again");
        } else if was_down {
            debug!(%upstream, "upstream up again");
        }
    }

    #[cfg(feature = "std")]
    pub(super) fn addresses(&self) -> &[Shared<str>] {
        &self.inner.addresses
    }

    /// Marks an upstream as the proxy itself, not to be tried for 5 s. Returns its address.
    #[cfg(feature = "std")]
    pub(super) fn mark_as_itself(&self, member: usize, now: Instant) -> Shared<str> {
        let is_news = self.with(member, |member| {
            member.failures += 1;
            member.down_until = Some(now + PROBE);
            member.is_down_logged = true;
            !core::mem::replace(&mut member.is_itself, true)
        });
        let upstream = &self.inner.addresses[member];
        if is_news {
            warn!(%upstream, "upstream down, not tried for {PROBE:?}: {ITSELF}");
        }
        upstream.clone()
    }

    fn with<T>(&self, member: usize, f: impl FnOnce(&mut Member) -> T) -> T {
        self.inner.state.with(|state| f(&mut state.members[member]))
    }
}

impl State {
    /// The next one of those that `may` holds for.
    fn pick(
        &mut self,
        balance: Balance,
        now: Instant,
        may: impl Fn(usize, &Member) -> bool,
    ) -> Option<Present> {
        let count = self.members.len();
        let in_turn = (0..count).map(|i| (self.turn + i) % count);
        let mut candidates = in_turn.filter(|&i| may(i, &self.members[i]));
        let picked = match balance {
            Balance::RoundRobin => candidates.next(),
            Balance::LeastConnections => candidates.min_by_key(|&i| self.members[i].open),
        }?;
        self.turn = (picked + 1) % count;
        let member = &mut self.members[picked];
        member.open += 1;
        let is_probe = member.down_until.is_some_and(|until| until <= now);
        if is_probe {
            // One connection finds out for all of them: the next ones keep away meanwhile.
            member.down_until = Some(now + PROBE);
        }
        Some(Present { member: picked, is_probe, progress: Progress::Connecting })
    }
}

/// One connection's upstream: the attempts to find one, each of them tried once at most, those that are
/// up before those that are down; and then how that one does.
#[derive(Debug)]
pub struct Choice {
    upstreams: Upstreams,
    tried: Vec<(usize, Attempt)>,
    present: Option<Present>,
}

/// The upstream that is tried or connected to, for which that counts as an open connection.
#[derive(Clone, Copy, Debug)]
struct Present {
    member: usize,
    /// Whether it is up again is for this connection to find out.
    is_probe: bool,
    progress: Progress,
}

#[derive(Clone, Copy, Debug)]
enum Progress {
    Connecting,
    Connected {
        since: Instant,
        /// It has sent a byte.
        has_spoken: bool,
        /// It was sent a byte of the client's.
        was_asked: bool,
    },
    /// It has been of use, or has failed.
    Judged,
}

impl Choice {
    /// The address to try now; `None` when all have been tried.
    ///
    /// One that is not said to have [`failed`](Self::failed) by the next call, or when this is dropped,
    /// was given up, and that is not held against it.
    pub fn next(&mut self, now: Instant) -> Option<Shared<str>> {
        self.put_down();
        self.leave_itself_out(now);
        let Inner { addresses, balance, state } = &*self.upstreams.inner;
        let untried = |i: usize| !self.tried.iter().any(|(tried, _)| *tried == i);
        let present = state.with(|state| {
            let is_due = |i, member: &Member| {
                untried(i) && member.down_until.is_none_or(|until| until <= now)
            };
            state
                .pick(*balance, now, is_due)
                .or_else(|| state.pick(*balance, now, |i, _| untried(i)))
        })?;
        self.present = Some(present);
        Some(addresses[present.member].clone())
    }

    /// Counts upstreams that are the proxy itself as tried, until they are due again.
    fn leave_itself_out(&mut self, now: Instant) {
        let Inner { addresses, state, .. } = &*self.upstreams.inner;
        state.with(|state| {
            for (i, member) in state.members.iter().enumerate() {
                if member.is_itself
                    && member.down_until.is_some_and(|until| until > now)
                    && !self.tried.iter().any(|(tried, _)| *tried == i)
                {
                    let (upstream, error) = (addresses[i].clone(), ITSELF.into());
                    self.tried.push((i, Attempt { upstream, error }));
                }
            }
        });
    }

    /// How many have not been tried yet, the present one not among them.
    pub fn left(&self) -> usize {
        let tried = self.tried.len() + usize::from(self.present.is_some());
        self.upstreams.inner.addresses.len() - tried
    }

    /// The attempt succeeded.
    pub fn connected(&mut self, now: Instant) {
        if let Some(present) = &mut self.present {
            present.progress =
                Progress::Connected { since: now, has_spoken: false, was_asked: false };
            self.upstreams.with(present.member, |member| {
                member.connects += 1;
                // If it is the proxy itself still, that is found anew; unless the accepting end of
                // this connection has already found it.
                member.is_itself &= member.down_until.is_some_and(|until| until > now);
            });
        }
    }

    /// Bytes have moved on the connection: `received` from the upstream, and `sent`, of the
    /// client's, to it.
    pub fn moved(&mut self, received: usize, sent: usize, now: Instant) {
        let Some(Present { member, progress, .. }) = &mut self.present else { return };
        let Progress::Connected { since, has_spoken, was_asked } = progress else { return };
        *has_spoken |= received > 0;
        *was_asked |= sent > 0;
        if received + sent > 0 && now.since(*since) >= PROBE {
            *progress = Progress::Judged;
            self.upstreams.restore(*member);
        }
    }

    /// The upstream has sent a FIN, and the client has not: [`blame`](Self::blame), unless the
    /// upstream has answered something.
    pub fn hung_up(&mut self, now: Instant) {
        let Some(Present { progress, .. }) = self.present else { return };
        let Progress::Connected { has_spoken, was_asked, .. } = progress else { return };
        if !has_spoken {
            self.blame("it closed the connection without sending a byte", now);
        } else if !was_asked {
            self.blame("it closed the connection before it was sent a byte", now);
        }
    }

    /// The attempt failed, or the connection was lost, for this reason: [`blame`](Self::blame), and it is
    /// over.
    pub fn failed(&mut self, error: impl Into<String>, now: Instant) {
        let error = error.into();
        self.blame(&error, now);
        self.not_made(error);
    }

    /// The attempt could not be made, for this reason, which is ours: the upstream has no part in it.
    pub fn not_made(&mut self, error: impl Into<String>) {
        if let Some(Present { member, .. }) = self.put_down() {
            let upstream = self.upstreams.inner.addresses[member].clone();
            self.tried.push((member, Attempt { upstream, error: error.into() }));
        }
    }

    /// The index in [`Upstreams::addresses`] of the upstream that is tried or connected to.
    #[cfg(feature = "std")]
    pub(super) fn present(&self) -> Option<usize> {
        self.present.map(|present| present.member)
    }

    /// The upstream that was connected to is the proxy itself.
    #[cfg(feature = "std")]
    pub(super) fn mark_as_itself(&mut self, now: Instant) {
        if let Some(member) = self.present() {
            self.upstreams.mark_as_itself(member, now);
        }
        self.not_made(ITSELF);
    }

    /// The upstream has ended the connection, or will, for this reason. It counts as a failure,
    /// unless the upstream has sent a byte and the connection has lasted for 5 s. It marks the
    /// upstream as down, unless the connection has lasted for 5 s.
    pub fn blame(&mut self, error: &str, now: Instant) {
        let Some(Present { member, is_probe, progress }) = &mut self.present else { return };
        let is_young = match *progress {
            Progress::Connecting => true,
            Progress::Connected { since, has_spoken, .. } => {
                let is_young = now.since(since) < PROBE;
                if has_spoken && !is_young {
                    return;
                }
                is_young
            }
            Progress::Judged => return,
        };
        *progress = Progress::Judged;
        let down = self.upstreams.with(*member, |member| {
            member.failures += 1;
            if member.is_itself && member.down_until.is_some_and(|until| until > now) {
                return None; // which has set the time until the next attempt
            }
            member.is_itself = false;
            // What fails together is one failure, as far as the back-off is concerned.
            let is_news = *is_probe || member.down_until.is_none();
            (is_young && is_news).then(|| {
                let wait = member.backoff.next();
                let was_up = member.down_until.replace(now + wait).is_none();
                was_up.then(|| {
                    let verdict = member.log_limit.check_unless_debugging(now);
                    member.is_down_logged = verdict != LogDecision::Suppress;
                    (wait, verdict)
                })
            })
        });
        let upstream = &self.upstreams.inner.addresses[*member];
        match down.flatten() {
            Some((wait, LogDecision::Log { suppressed })) => {
                if self.upstreams.inner.addresses.len() > 1 {
                    warn!(
                        %upstream, suppressed,
                        "upstream down, not preferred for {wait:.0?}: {error}"
                    );
                } else {
                    // There is no other one to prefer.
                    warn!(%upstream, suppressed, "upstream down: {error}");
                }
            }
            Some((_, LogDecision::Suppress)) | None => {
                debug!(%upstream, "upstream failed: {error}");
            }
        }
    }

    /// All attempts have failed, or the time for them has run out.
    pub fn give_up(mut self, ran_out: Option<Duration>) -> NoUpstream {
        let attempts = core::mem::take(&mut self.tried);
        NoUpstream { attempts: attempts.into_iter().map(|(_, attempt)| attempt).collect(), ran_out }
    }

    fn put_down(&mut self) -> Option<Present> {
        let present = self.present.take()?;
        self.upstreams.with(present.member, |member| member.open -= 1);
        if matches!(present.progress, Progress::Connected { has_spoken: true, .. }) {
            self.upstreams.restore(present.member);
        }
        Some(present)
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        self.put_down();
    }
}

/// No upstream could be connected to, or none stayed until a byte had passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoUpstream {
    /// What was tried, in order.
    pub attempts: Shared<[Attempt]>,
    /// The time for all attempts, if that has run out.
    pub ran_out: Option<Duration>,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The upstream's `host:port`.
    pub upstream: Shared<str>,
    /// Why it failed.
    pub error: String,
}

impl NoUpstream {
    pub(super) fn label(&self) -> &'static str {
        if self.ran_out.is_some() { "connect_timeout" } else { "no_upstream" }
    }

    pub(super) fn fault(&self) -> Fault {
        if self.ran_out.is_some() { Fault::Time } else { Fault::Lost }
    }
}

impl fmt::Display for NoUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no upstream reachable")?;
        if let Some(limit) = self.ran_out {
            write!(f, " within {limit:?}")?;
        }
        for (i, Attempt { upstream, error }) in self.attempts.iter().enumerate() {
            write!(f, "{} {upstream}: {error}", if i == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl core::error::Error for NoUpstream {}

/// So long is an upstream that was down left to the connection that tries it again, and so long has a
/// connection to last for the upstream not to be one that accepts and drops.
const PROBE: Duration = Duration::from_secs(5);
const ITSELF: &str = "it is this proxy itself";

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::EPOCH;

    fn upstreams(balance: Balance) -> Upstreams {
        Upstreams::new(["a:1", "b:1", "c:1"], balance, 1)
    }

    fn connect(upstreams: &Upstreams) -> (Shared<str>, Choice) {
        let mut choice = upstreams.choose();
        let address = choice.next(NOW).unwrap();
        choice.connected(NOW);
        (address, choice)
    }

    #[test]
    fn round_robin_takes_one_after_the_other() {
        let upstreams = upstreams(Balance::RoundRobin);
        let taken: Vec<_> = (0..4).map(|_| connect(&upstreams).0).collect();
        assert_eq!(taken.iter().map(|s| &**s).collect::<Vec<_>>(), ["a:1", "b:1", "c:1", "a:1"]);
    }

    #[test]
    fn least_connections_takes_the_one_with_the_fewest() {
        let upstreams = upstreams(Balance::LeastConnections);
        let (a, b, c) = (connect(&upstreams), connect(&upstreams), connect(&upstreams));
        drop(b.1);
        assert_eq!(&*connect(&upstreams).0, "b:1");
        drop((a.1, c.1));
        assert!(upstreams.counters().iter().all(|upstream| upstream.open == 0));
    }

    #[test]
    fn each_is_tried_once_and_those_that_are_down_last() {
        let upstreams = upstreams(Balance::RoundRobin);
        let mut choice = upstreams.choose();
        assert_eq!(choice.next(NOW).as_deref(), Some("a:1"));
        choice.failed("refused", NOW);
        assert_eq!(choice.left(), 2);
        drop(choice);

        let mut choice = upstreams.choose();
        let mut tried = Vec::new();
        while let Some(address) = choice.next(NOW) {
            tried.push(address);
            choice.failed("refused", NOW);
        }
        assert_eq!(tried.iter().map(|s| &**s).collect::<Vec<_>>(), ["b:1", "c:1", "a:1"]);
        let none = choice.give_up(None);
        assert_eq!(
            alloc::string::ToString::to_string(&none),
            "no upstream reachable: b:1: refused; c:1: refused; a:1: refused"
        );
        let [a, b, c] = &upstreams.counters()[..] else { panic!("three of them") };
        assert_eq!((a.failures, b.failures, c.failures, a.open), (2, 1, 1, 0));
    }

    #[test]
    fn one_connection_at_a_time_tries_one_that_was_down() {
        let upstreams = Upstreams::new(["a:1", "b:1"], Balance::RoundRobin, 1);
        let mut choice = upstreams.choose();
        choice.next(NOW).unwrap();
        choice.failed("no answer", NOW);
        drop(choice);
        let later = NOW + Duration::from_secs(1);
        let mut taken = Vec::new();
        let mut choices: Vec<_> = (0..4).map(|_| upstreams.choose()).collect();
        for choice in &mut choices {
            taken.push(choice.next(later).unwrap());
        }
        assert_eq!(taken.iter().filter(|address| &***address == "a:1").count(), 1, "{taken:?}");
    }

    #[test]
    fn one_that_is_given_up_is_not_blamed() {
        let upstreams = upstreams(Balance::RoundRobin);
        let mut choice = upstreams.choose();
        choice.next(NOW).unwrap();
        assert_eq!(upstreams.counters()[0].open, 1);
        drop(choice);
        let counters = &upstreams.counters()[0];
        assert_eq!((counters.open, counters.failures, counters.up), (0, 0, true));
    }

    /// Down after 20 failures, which is for up to 5 s.
    fn down() -> Upstreams {
        let upstreams = Upstreams::new(["a:1"], Balance::RoundRobin, 1);
        for i in 0..20 {
            // The one before is over by then.
            fail(&upstreams, NOW + i * PROBE);
        }
        upstreams
    }

    fn fail(upstreams: &Upstreams, now: Instant) {
        let mut choice = upstreams.choose();
        choice.next(now).unwrap();
        choice.failed("refused", now);
    }

    fn down_for(upstreams: &Upstreams) -> Duration {
        upstreams.with(0, |member| member.down_until).unwrap().since(NOW)
    }

    fn is_up(upstreams: &Upstreams) -> bool {
        upstreams.counters()[0].up
    }

    #[test]
    fn a_connection_with_an_answer_brings_it_up_at_its_end_and_begins_the_back_off_anew() {
        let upstreams = down();
        let mut choice = connect(&upstreams).1;
        choice.moved(0, 9, NOW);
        choice.moved(1, 0, NOW);
        assert!(!is_up(&upstreams), "it may be an error, and a reset the next thing");
        drop(choice);
        assert!(is_up(&upstreams));
        fail(&upstreams, NOW);
        assert!(down_for(&upstreams) < Duration::from_millis(50), "{:?}", down_for(&upstreams));

        let upstreams = down();
        let mut choice = connect(&upstreams).1;
        choice.moved(0, 9, NOW);
        drop(choice);
        assert!(!is_up(&upstreams), "to be connected to is not to be of use");
    }

    /// A server that is full sends an error to each client. The back-off must grow all the same.
    #[test]
    fn a_line_to_each_client_is_no_use() {
        type End = fn(&mut Choice, Instant);
        let ends: [End; 2] =
            [|choice, now| choice.failed("reset", now), |choice, now| choice.hung_up(now)];
        for end in ends {
            let upstreams = Upstreams::new(["full:1", "serves:1"], Balance::RoundRobin, 1);
            let mut taken = [0, 0];
            for i in 0..600 {
                let now = NOW + i * Duration::from_millis(100);
                let mut choice = upstreams.choose();
                let is_full = choice.next(now).as_deref() == Some("full:1");
                choice.connected(now);
                choice.moved(30, 0, now);
                if is_full {
                    end(&mut choice, now);
                }
                taken[usize::from(!is_full)] += 1;
            }
            assert!((5..50).contains(&taken[0]), "{taken:?} in a minute");
        }
    }

    #[test]
    fn a_fin_behind_an_answer_is_no_failure() {
        let upstreams = upstreams(Balance::RoundRobin);
        let mut choice = connect(&upstreams).1;
        choice.moved(0, 9, NOW);
        choice.moved(9, 0, NOW);
        choice.hung_up(NOW);
        drop(choice);
        let counters = &upstreams.counters()[0];
        assert_eq!((counters.failures, counters.up), (0, true));
    }

    /// Otherwise the back-off would be at its longest when a server with many connections is restarted.
    #[test]
    fn what_fails_together_is_one_failure_for_the_back_off() {
        let upstreams = Upstreams::new(["a:1"], Balance::RoundRobin, 1);
        let mut all: Vec<_> = (0..20).map(|_| connect(&upstreams).1).collect();
        for choice in &mut all {
            choice.failed("reset", NOW);
        }
        assert_eq!(upstreams.counters()[0].failures, 20);
        let wait = down_for(&upstreams);
        assert!(wait < Duration::from_millis(50), "{wait:?}");
        fail(&upstreams, NOW);
        assert_eq!(down_for(&upstreams), wait, "it was tried although it was not its turn");
    }

    /// One that only ever listens.
    #[test]
    fn a_connection_that_lasts_brings_it_up_as_well() {
        let upstreams = down();
        let mut choice = connect(&upstreams).1;
        choice.moved(0, 0, NOW + PROBE);
        assert!(!is_up(&upstreams), "to be left is not to be of use");
        choice.moved(0, 1, NOW + PROBE);
        assert!(is_up(&upstreams));
    }

    #[test]
    fn a_connection_that_is_lost_is_held_against_it_unless_it_has_spoken_and_lasted() {
        let lose = |received: usize, after: Duration| {
            let upstreams = upstreams(Balance::RoundRobin);
            let mut choice = connect(&upstreams).1;
            choice.moved(received, 0, NOW);
            choice.failed("reset", NOW + after);
            assert_eq!(choice.left(), 2, "it was tried");
            let UpstreamCounters { failures, open, up, .. } = upstreams.counters()[0];
            assert_eq!(open, 0);
            (failures, up)
        };
        assert_eq!(lose(0, Duration::ZERO), (1, false));
        assert_eq!(lose(1, Duration::ZERO), (1, false));
        assert_eq!(lose(0, PROBE), (1, true), "no sign that it drops what it accepts");
        assert_eq!(lose(1, PROBE), (0, true));
    }
}
