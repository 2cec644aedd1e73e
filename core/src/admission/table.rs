//! The table of open connections, and the counters of all connections.

use alloc::{collections::BTreeMap, vec::Vec};
use core::{
    mem,
    net::IpAddr,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tracing::{debug, info};

use super::{
    AccessList, Admitted, ConnectionEnd, ConnectionEntry, EndObserver, Limits, OnExcess, Peer,
    Rates, Refused,
    addresses::Addresses,
    rates::{CONNECTION_BURST, cost},
    throttle::{Buckets, Throttle, Waits},
};
use crate::{
    Instant,
    log_limit::{LogDecision, LogLimit},
    shared::{Lock, Shared, wake},
    token_bucket::TokenBucket,
};

/// The table of open connections, and the counters of all connections. Clones are the same table.
///
/// It holds one [`ConnectionEntry`] per open connection, and one count per reason for an end, a
/// refusal or a failed accept; and the rates of each address with an open connection, and of at
/// most 16,384 others, for about a second after their last connection has ended.
#[derive(Clone, Debug)]
pub struct ConnectionTable {
    inner: Shared<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: Option<Shared<str>>,
    state: Lock<State>,
}

/// The settings of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableConfig {
    pub(crate) limits: Limits,
    /// Whether the peers are proxies. Their own addresses do not count.
    pub(crate) behind_proxies: bool,
    pub(crate) access: Shared<AccessList>,
    pub(crate) rates: Rates,
    /// Is called at each end.
    pub(crate) on_end: Option<EndObserver>,
}

#[derive(Debug, Default)]
struct State {
    config: TableConfig,
    open: BTreeMap<u64, Shared<ConnectionEntry>>,
    addresses: Addresses,
    /// For [`Rates::connections`].
    new_connections: TokenBucket,
    /// The bytes of all connections; made for the first connection after the rates were set.
    bytes: Option<Shared<Buckets>>,
    waits: Shared<Waits>,
    totals: Totals,
    /// For each reason label, the limit of the ends that are logged at `info` or above.
    log_limits: BTreeMap<&'static str, LogLimit>,
    /// The latest time that was passed to a call.
    now: Instant,
    /// The wakers of tasks that wait for the table to be empty.
    waiting: Vec<Waker>,
}

/// The counters of a table since it was made. `accepted` is always the sum of `open` and `ended`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Connections admitted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes received on connections that have ended.
    pub bytes_received: u64,
    /// Bytes sent on connections that have ended.
    pub bytes_sent: u64,
    /// Connections ended, by [`Reason::label`](crate::Reason::label). Connections without a reason
    /// count as `aborted`, or as `panicked`.
    pub ended: BTreeMap<&'static str, u64>,
    /// Connections refused, by [`Refused::label`]. A client that a PROXY header names
    /// ([`ConnectionTable::identify`]) is refused on an open connection, which counts as accepted
    /// and ended as well.
    pub refused: BTreeMap<&'static str, u64>,
    /// Failed accepts, by the label that [`ConnectionTable::accept_failed`] was called with.
    pub accept_failures: BTreeMap<&'static str, u64>,
    /// How often bytes have waited for a rate ([`Rates`]), by `receive` and `send`.
    pub rate_waits: BTreeMap<&'static str, u64>,
}

/// A [`ConnectionTable`] at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The counters.
    pub totals: Totals,
    /// The open connections, in the order in which they were admitted.
    pub connections: Vec<Shared<ConnectionEntry>>,
}

impl ConnectionTable {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self::with(None, TableConfig { limits, ..TableConfig::default() })
    }

    /// An empty table of connections that come through proxies. None of them counts under an
    /// address before [`identify`](Self::identify) names its client.
    pub fn behind_proxies(limits: Limits) -> Self {
        let config = TableConfig { limits, behind_proxies: true, ..TableConfig::default() };
        Self::with(None, config)
    }

    /// An empty table with the same settings, for a server called `name`. Its log lines have
    /// the name in the field `server`, since each server of a process numbers its own connections.
    pub fn named(&self, name: impl Into<Shared<str>>) -> Self {
        let config = self.inner.state.with(|state| state.config.clone());
        Self::with(Some(name.into()), config)
    }

    pub(crate) fn with(name: Option<Shared<str>>, config: TableConfig) -> Self {
        let state = Lock::new(State { config, ..State::default() });
        Self { inner: Shared::new(Inner { name, state }) }
    }

    /// Sets the settings for connections from now on. Open connections stay; their ends are
    /// observed as `config` says.
    #[cfg(feature = "std")]
    pub(crate) fn reconfigure(&self, config: TableConfig) {
        let previous = self.inner.state.with(|state| {
            if state.config.rates != config.rates {
                (state.new_connections, state.bytes) = (TokenBucket::FULL, None);
                state.addresses.forget_rates();
            }
            mem::replace(&mut state.config, config)
        });
        drop(previous); // outside the lock: it may be the last handle on an observer
    }

    /// The server's name, if it has one ([`named`](Self::named)).
    pub fn name(&self) -> Option<&str> {
        self.inner.name.as_deref()
    }

    /// The limits under which it admits connections.
    pub fn limits(&self) -> Limits {
        self.inner.state.with(|state| state.config.limits)
    }

    /// Whether the address of `peer` is denied, at the server itself.
    #[cfg(feature = "std")]
    pub(crate) fn denies(&self, peer: Peer) -> bool {
        self.inner
            .state
            .with(|state| !state.config.behind_proxies && state.check_access(peer).is_err())
    }

    /// When the rate allows the next connection to be accepted, if connections wait for it.
    #[cfg(feature = "std")]
    pub(crate) fn accepts_at(&self, now: Instant) -> Option<Instant> {
        self.inner.state.with(|state| {
            let waits = state.config.rates.on_excess == OnExcess::Wait;
            let wait = if waits { state.wait_for_rate(now) } else { Duration::ZERO };
            (!wait.is_zero()).then(|| now + wait)
        })
    }

    /// Whether [`Limits::connections`] are open.
    pub fn is_full(&self) -> bool {
        self.inner.state.with(|state| state.check_total().is_err())
    }

    /// Admits a connection. It is open until the [`Admitted`] is dropped.
    ///
    /// # Errors
    /// The peer is denied, or a limit is reached. The table counts the refusal; close the socket.
    pub fn admit(&self, peer: Peer, now: Instant) -> Result<Admitted, Refused> {
        let entry = self.inner.state.with(|state| {
            let behind_proxies = state.config.behind_proxies;
            let network = if behind_proxies { None } else { peer.network() };
            let client = if behind_proxies { Peer::Local } else { peer };
            let checked = state
                .check_access(client)
                .and_then(|()| state.check_total())
                .and_then(|()| state.check_address(network, now))
                .and_then(|()| state.take_new_connection(now));
            state.count_refusal(checked)?;
            state.now = now;
            state.totals.accepted += 1;
            state.totals.open += 1;
            let id = state.totals.accepted;
            let throttle = state.throttle(network, now);
            let entry = ConnectionEntry::new(id, peer, !behind_proxies, throttle, now);
            let entry = Shared::new(entry);
            state.open.insert(id, entry.clone());
            Ok(entry)
        })?;
        Ok(Admitted::new(self.clone(), entry))
    }

    /// Records the client that a PROXY header names. It becomes the [`ConnectionEntry::peer`], also
    /// in the log, and the connection counts under its address.
    ///
    /// # Errors
    /// The address is denied, or a limit of an address is reached. The table counts the refusal;
    /// end the connection. Until then the connection counts under its previous address.
    pub fn identify(&self, connection: &ConnectionEntry, peer: Peer) -> Result<(), Refused> {
        let proxy = self.inner.state.with(|state| {
            let now = state.now;
            let checked = state.check_access(peer);
            let checked = checked.and_then(|()| state.check_address(peer.network(), now));
            state.count_refusal(checked)?;
            state.uncount(connection.network());
            let buckets = state.count(peer.network(), now);
            if let Some(throttle) = connection.throttle() {
                throttle.set_address(buckets);
            }
            Ok(connection.set_peer(peer))
        })?;
        debug!(id = connection.id(), %peer, %proxy, server = self.name(), "client identified");
        Ok(())
    }

    /// Counts a failed accept under `label`.
    pub fn accept_failed(&self, label: &'static str) {
        self.inner.state.with(|state| {
            *state.totals.accept_failures.entry(label).or_default() += 1;
        });
    }

    /// The counters.
    pub fn totals(&self) -> Totals {
        self.inner.state.with(|state| state.totals())
    }

    /// The open connections, in the order in which they were admitted.
    pub fn connections(&self) -> Vec<Shared<ConnectionEntry>> {
        self.inner.state.with(|state| state.open.values().cloned().collect())
    }

    /// The counters and the open connections at one moment. A connection's bytes are either in its
    /// [`ConnectionEntry`] or in [`Totals`], so their sum never decreases.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.state.with(|state| Snapshot {
            totals: state.totals(),
            connections: state.open.values().cloned().collect(),
        })
    }

    /// Requests a graceful end of all open connections.
    pub fn shut_down(&self) {
        for connection in self.connections() {
            connection.shut_down();
        }
    }

    /// Aborts all open connections.
    pub fn abort(&self) {
        for connection in self.connections() {
            connection.abort();
        }
    }

    /// Ready when no connection is open.
    pub fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.state.with(|state| {
            if state.open.is_empty() {
                return Poll::Ready(());
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Logs, for each reason, how many ends were left out of the log and are in no `suppressed`
    /// field yet. Call it when a server has ended.
    pub fn log_suppressed(&self) {
        let suppressed: Vec<_> = self.inner.state.with(|state| {
            let suppressed = |(&reason, limit): (_, &mut LogLimit)| {
                limit.take_suppressed().map(|suppressed| (reason, suppressed))
            };
            state.log_limits.iter_mut().filter_map(suppressed).collect()
        });
        for (reason, suppressed) in suppressed {
            info!(reason, suppressed, server = self.name(), "connections closed, not logged");
        }
    }

    /// Whether to log an end with this reason label, at `info` or above. `now` defaults to the
    /// latest time that was passed to a call.
    pub(super) fn check_log(&self, label: &'static str, now: Option<Instant>) -> LogDecision {
        self.inner.state.with(|state| {
            state.now = now.unwrap_or(state.now);
            let limit = state.log_limits.entry(label).or_default();
            limit.check_unless_debugging(state.now)
        })
    }

    /// Removes a connection that has ended, and counts its end under `label`. `at` defaults to the
    /// latest time that was passed to a call.
    pub(super) fn remove(
        &self,
        connection: &ConnectionEntry,
        label: &'static str,
        at: Option<Instant>,
    ) {
        let (woken, on_end, at) = self.inner.state.with(|state| {
            state.open.remove(&connection.id());
            state.now = at.unwrap_or(state.now);
            state.uncount(connection.network());
            state.totals.open -= 1;
            state.totals.bytes_received += connection.bytes_received();
            state.totals.bytes_sent += connection.bytes_sent();
            *state.totals.ended.entry(label).or_default() += 1;
            let woken =
                if state.open.is_empty() { mem::take(&mut state.waiting) } else { Vec::new() };
            (woken, state.config.on_end.clone(), state.now)
        });
        if let Some(on_end) = on_end {
            let server = self.name();
            on_end.observe(&ConnectionEnd { server, connection, reason: label, at });
        }
        connection.drop_waker();
        wake(woken);
    }
}

impl State {
    fn totals(&self) -> Totals {
        Totals { rate_waits: self.waits.counts(), ..self.totals.clone() }
    }

    fn check_access(&self, peer: Peer) -> Result<(), Refused> {
        match peer {
            Peer::Ip(address) if !self.config.access.allows(address.ip()) => {
                Err(Refused::Denied { address: address.ip().to_canonical() })
            }
            Peer::Ip(_) | Peer::Local => Ok(()),
        }
    }

    fn check_total(&self) -> Result<(), Refused> {
        let limit = self.config.limits.connections;
        if self.open.len() >= limit {
            return Err(Refused::Full { limit });
        }
        Ok(())
    }

    fn check_address(&self, network: Option<IpAddr>, now: Instant) -> Result<(), Refused> {
        let Some(network) = network else { return Ok(()) };
        match self.config.limits.per_address {
            Some(limit) if self.addresses.open(network) >= limit => {
                Err(Refused::AddressFull { network, limit })
            }
            Some(_) | None => self.addresses.check_rate(network, &self.config.rates, now),
        }
    }

    /// Counts a new connection against [`Rates::connections`].
    fn take_new_connection(&mut self, now: Instant) -> Result<(), Refused> {
        let Rates { connections, on_excess, .. } = self.config.rates;
        let Some(limit) = connections else { return Ok(()) };
        // Those that may wait have waited, or are from the backlog of a server that ends.
        if on_excess == OnExcess::Refuse && self.wait_for_rate(now) > Duration::ZERO {
            return Err(Refused::Rate { limit: limit.get() });
        }
        self.new_connections.borrow(cost(1, limit), now);
        Ok(())
    }

    /// How long it takes until [`Rates::connections`] allows a new connection.
    fn wait_for_rate(&self, now: Instant) -> Duration {
        let wait = |rate| self.new_connections.wait(cost(1, rate), CONNECTION_BURST, now);
        self.config.rates.connections.map_or(Duration::ZERO, wait)
    }

    /// Counts a new connection of `network`. Returns the limits of its bytes, if there are any.
    fn throttle(&mut self, network: Option<IpAddr>, now: Instant) -> Option<Shared<Throttle>> {
        let address = self.count(network, now);
        let rates = &self.config.rates;
        if !rates.limits_bytes() {
            return None;
        }
        let all = self.bytes.get_or_insert_with(|| Shared::new(Buckets::of_all(rates)));
        let throttle = Throttle::new(rates, all.clone(), self.waits.clone());
        throttle.set_address(address);
        Some(Shared::new(throttle))
    }

    fn count_refusal(&mut self, checked: Result<(), Refused>) -> Result<(), Refused> {
        checked.inspect_err(|refused| {
            *self.totals.refused.entry(refused.label()).or_default() += 1;
        })
    }

    fn count(&mut self, network: Option<IpAddr>, now: Instant) -> Option<Shared<Buckets>> {
        self.addresses.add(network?, &self.config.rates, now)
    }

    fn uncount(&mut self, network: Option<IpAddr>) {
        if let Some(network) = network {
            self.addresses.remove(network, &self.config.rates, self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use core::{net::SocketAddr, time::Duration};

    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Ip(SocketAddr::new(address.parse().unwrap(), 4000))
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_loopback_as_none() {
        let table = ConnectionTable::new(Limits { connections: 100, per_address: Some(1) });
        let now = Instant::EPOCH;
        let _first = table.admit(peer("2001:db8::1"), now).unwrap();
        let refused = table.admit(peer("2001:db8::2"), now).unwrap_err();
        assert_eq!(
            refused,
            Refused::AddressFull { network: "2001:db8::".parse().unwrap(), limit: 1 }
        );
        let _other = table.admit(peer("2001:db8:0:1::1"), now).unwrap();
        let _v4 = table.admit(peer("192.0.2.1"), now).unwrap();
        table.admit(peer("::ffff:192.0.2.1"), now).expect_err("the same IPv4 address, mapped");
        let _loopback: Vec<_> =
            (0..10).map(|_| table.admit(peer("127.0.0.1"), now).unwrap()).collect();
        assert_eq!(table.totals().refused["per_address"], 2);
    }

    #[test]
    fn a_client_named_by_a_proxy_counts_under_its_own_address() {
        let limits = Limits { connections: 100, per_address: Some(1) };
        let (table, now) = (ConnectionTable::behind_proxies(limits), Instant::EPOCH);
        let proxy = || table.admit(peer("10.0.0.1"), now).unwrap();
        let identify = |admitted: &Admitted, peer| table.identify(admitted, peer);
        let (first, second, third) = (proxy(), proxy(), proxy());
        identify(&first, peer("192.0.2.1")).unwrap();
        assert_eq!(first.peer(), peer("192.0.2.1"));
        let refused = identify(&second, peer("192.0.2.1")).unwrap_err();
        assert_eq!(
            refused,
            Refused::AddressFull { network: "192.0.2.1".parse().unwrap(), limit: 1 }
        );
        assert_eq!(second.peer(), peer("10.0.0.1"));
        identify(&third, peer("192.0.2.2")).unwrap();
        drop(first);
        identify(&second, peer("192.0.2.1")).unwrap();
        assert_eq!(table.totals().refused["per_address"], 1);
        drop((second, third));
        assert_eq!(table.inner.state.with(|state| state.addresses.len()), 0);
    }

    #[test]
    fn a_denied_address_is_refused_and_counted_and_behind_a_proxy_it_is_the_clients() {
        let mut access = AccessList::default();
        access.deny("192.0.2.0/24".parse().unwrap());
        let config = TableConfig { access: access.into(), ..TableConfig::default() };
        let table = ConnectionTable::with(None, config.clone());
        let now = Instant::EPOCH;
        let denied = Refused::Denied { address: "192.0.2.1".parse().unwrap() };
        assert_eq!(table.admit(peer("::ffff:192.0.2.1"), now).unwrap_err(), denied);
        assert_eq!(denied.to_string(), "connections from 192.0.2.1 are denied");
        let _allowed = [peer("192.0.3.1"), Peer::Local].map(|peer| table.admit(peer, now).unwrap());
        assert_eq!(table.totals().refused, BTreeMap::from([("denied", 1)]));

        let config = TableConfig { behind_proxies: true, ..config };
        let table = ConnectionTable::with(None, config);
        let connection = table.admit(peer("192.0.2.200"), now).unwrap();
        assert_eq!(table.identify(&connection, peer("192.0.2.1")), Err(denied));
        assert_eq!(table.identify(&connection, peer("192.0.3.1")), Ok(()));
        assert_eq!(table.totals().refused, BTreeMap::from([("denied", 1)]));
    }

    #[test]
    fn accepted_is_the_sum_of_open_and_ended() {
        let table = ConnectionTable::new(Limits::default());
        let now = Instant::EPOCH + Duration::from_secs(1);
        let kept = table.admit(Peer::Local, now).unwrap();
        table.admit(Peer::Local, now).unwrap().end(&crate::echo::EchoReason::Finished, now);
        drop(table.admit(Peer::Local, now).unwrap());
        let totals = table.totals();
        assert_eq!((totals.accepted, totals.open), (3, 1));
        assert_eq!(totals.ended, BTreeMap::from([("finished", 1), ("aborted", 1)]));
        assert_eq!(table.connections()[0].id(), kept.id());
    }
}
