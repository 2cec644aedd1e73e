//! Who may connect, and the table of who is connected.
//!
//! A [`ConnectionTable`] admits connections under its [`Limits`] and knows every one that is open; a
//! [`Conn`] is a connection's line in it. [`Drive`](crate::drive::Drive) keeps the line up to date
//! and obeys what is asked through it, so no machine does any accounting.
//!
//! ```
//! use wirestate_core::{Instant, admission::{Limits, Peer, Refused, ConnectionTable}};
//!
//! let table = ConnectionTable::new(Limits { connections: 1, ..Limits::default() });
//! let first = table.admit(Peer::Local, Instant::EPOCH)?;
//! assert_eq!(table.admit(Peer::Local, Instant::EPOCH).unwrap_err(), Refused::Full { limit: 1 });
//! drop(first); // the connection has ended, however it did
//! assert!(table.admit(Peer::Local, Instant::EPOCH).is_ok());
//! # Ok::<(), Refused>(())
//! ```

use alloc::{collections::BTreeMap, vec::Vec};
use core::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::Deref,
    sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use tracing::{debug, error, info, warn};

use crate::{
    Fault, Instant, Reason, Status,
    log_limit::{LogLimit, Verdict},
    shared::{AtomicU64, Lock, Shared, register_waker},
};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// An address and port.
    Ip(SocketAddr),
    /// Somebody on this machine without an address of their own (a Unix socket).
    Local,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Local => f.write_str("local"),
        }
    }
}

/// How many connections may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one IPv4 address or one IPv6 /64 network (what one subscriber is commonly given;
    /// RFC 6177); `None`: no limit. The loopback addresses have none.
    pub per_address: Option<usize>,
}

impl Default for Limits {
    /// 10,000 connections, 64 of them per address.
    fn default() -> Self {
        Self { connections: 10_000, per_address: Some(64) }
    }
}

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// [`Limits::connections`] are open.
    #[error("the limit of open connections is reached: {limit}")]
    Full {
        /// The limit, and thereby the figure.
        limit: usize,
    },
    /// [`Limits::per_address`] are open from the peer's network.
    #[error("the limit of open connections from {network} is reached: {limit}")]
    AddressFull {
        /// The peer's IPv4 address, or the first address of its IPv6 /64.
        network: IpAddr,
        /// The limit, and thereby the figure.
        limit: usize,
    },
}

impl Refused {
    /// The name under which it is counted.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full { .. } => "connections",
            Self::AddressFull { .. } => "per_address",
        }
    }
}

/// The open connections, and the counts of all that were. Clones are the same table.
///
/// It holds one [`Conn`] per open connection, and one count per way to end, to be refused, or not to
/// be accepted.
#[derive(Clone, Debug)]
pub struct ConnectionTable {
    inner: Shared<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: Option<&'static str>,
    limits: Limits,
    /// Peers are proxies: their own addresses don't count.
    behind_proxies: bool,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<u64, Shared<Conn>>,
    per_address: BTreeMap<IpAddr, usize>,
    totals: Totals,
    /// Limits how many ends are logged at `info` or above, for each label.
    log_limits: BTreeMap<&'static str, LogLimit>,
    /// The last time that the table was told.
    now: Instant,
    /// Who waits for the table to be empty.
    waiting: Vec<Waker>,
}

/// What a table has counted since it was made. `accepted` is always the sum of `open` and `ended`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections admitted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes received on connections that have ended.
    pub bytes_in: u64,
    /// Bytes sent on connections that have ended.
    pub bytes_out: u64,
    /// Connections ended, by [`Reason::label`]; `aborted` and `panicked` for
    /// those that were cut short.
    pub ended: BTreeMap<&'static str, u64>,
    /// Connections refused, by [`Refused::label`]. A client that a proxy has announced
    /// ([`ConnectionTable::identify`]) is refused when its connection is open: that one has been accepted, and
    /// ends, as well.
    pub refused: BTreeMap<&'static str, u64>,
    /// What came to nothing before it could be admitted or refused, or for want of a task, by the
    /// name that [`ConnectionTable::accept_failed`] was told.
    pub accept_failures: BTreeMap<&'static str, u64>,
}

/// A [`ConnectionTable`] at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The counts.
    pub totals: Totals,
    /// The open connections, in the order in which they were admitted.
    pub connections: Vec<Shared<Conn>>,
}

impl ConnectionTable {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self::with(None, limits, false)
    }

    /// An empty table of connections that come through proxies, and say whose they are: none counts
    /// under an address before it is [`identify`](Self::identify)-ed.
    pub fn behind_proxies(limits: Limits) -> Self {
        Self::with(None, limits, true)
    }

    /// An empty table of the same kind, for a server of this name: what is logged of its connections
    /// has it in the field `server`, since each server of a process numbers its own.
    pub fn named(&self, name: &'static str) -> Self {
        let Inner { limits, behind_proxies, .. } = *self.inner;
        Self::with(Some(name), limits, behind_proxies)
    }

    fn with(name: Option<&'static str>, limits: Limits, behind_proxies: bool) -> Self {
        Self { inner: Shared::new(Inner { name, limits, behind_proxies, state: Lock::default() }) }
    }

    /// The server's name, if it was given one ([`named`](Self::named)).
    pub fn name(&self) -> Option<&'static str> {
        self.inner.name
    }

    /// The limits that it admits under.
    pub fn limits(&self) -> Limits {
        self.inner.limits
    }

    /// Whether [`Limits::connections`] are open.
    pub fn is_full(&self) -> bool {
        self.inner.state.with(|state| state.has_room(self.inner.limits).is_err())
    }

    /// Admits a connection, which is open until the [`Admitted`] is dropped.
    ///
    /// # Errors
    /// A limit is reached. The caller closes the socket; it is counted here.
    pub fn admit(&self, peer: Peer, now: Instant) -> Result<Admitted, Refused> {
        let Inner { limits, behind_proxies, .. } = *self.inner;
        let network = if behind_proxies { None } else { network(peer) };
        let conn = self.inner.state.with(|state| {
            let may = state.has_room(limits).and_then(|()| state.may_count(limits, network));
            state.note(may)?;
            state.now = now;
            state.totals.accepted += 1;
            state.totals.open += 1;
            let conn = Shared::new(Conn::new(state.totals.accepted, peer, !behind_proxies, now));
            state.open.insert(conn.id, conn.clone());
            state.count(network);
            Ok(conn)
        })?;
        Ok(Admitted { table: self.clone(), conn, label: None })
    }

    /// A connection is really `peer`'s: a proxy has said so. It is its [`Conn::peer`] from now on, in
    /// the log as well, and it counts under its address.
    ///
    /// # Errors
    /// That address has reached its limit. The caller ends the connection; the refusal is counted
    /// here. The connection counts under its old address still.
    pub fn identify(&self, conn: &Conn, peer: Peer) -> Result<(), Refused> {
        let limits = self.inner.limits;
        let proxy = self.inner.state.with(|state| {
            let may = state.may_count(limits, network(peer));
            state.note(may)?;
            state.uncount(conn.network());
            state.count(network(peer));
            conn.counted.store(true, Relaxed);
            Ok(conn.parked.with(|parked| core::mem::replace(&mut parked.peer, peer)))
        })?;
        debug!(id = conn.id, %peer, %proxy, server = self.name(), "announced");
        Ok(())
    }

    /// Accepting came to nothing, for a reason of this name. For whoever accepts.
    pub fn accept_failed(&self, label: &'static str) {
        self.inner.state.with(|state| {
            *state.totals.accept_failures.entry(label).or_default() += 1;
        });
    }

    /// The counts.
    pub fn totals(&self) -> Totals {
        self.inner.state.with(|state| state.totals.clone())
    }

    /// The open connections, in the order in which they were admitted.
    pub fn connections(&self) -> Vec<Shared<Conn>> {
        self.inner.state.with(|state| state.open.values().cloned().collect())
    }

    /// The counts and the open connections of one moment: a connection's bytes are either in
    /// [`Totals`] or in its [`Conn`], so their sum never goes back.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.state.with(|state| Snapshot {
            totals: state.totals.clone(),
            connections: state.open.values().cloned().collect(),
        })
    }

    /// Asks all open connections for a graceful end.
    pub fn shut_down(&self) {
        for conn in self.connections() {
            conn.shut_down();
        }
    }

    /// Aborts all open connections.
    pub fn abort(&self) {
        for conn in self.connections() {
            conn.abort();
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

    /// Whether an end with this label, at `info` or above, is logged. Where `now` is `None`, the
    /// time of the table's last call is taken.
    fn check_log(&self, label: &'static str, now: Option<Instant>) -> Verdict {
        self.inner.state.with(|state| {
            state.now = now.unwrap_or(state.now);
            let limit = state.log_limits.entry(label).or_default();
            limit.check_unless_debugging(state.now)
        })
    }

    /// Logs, for each reason, how many ends were left out of the log and are in the `suppressed`
    /// field of no line yet. For a server that has stopped accepting.
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

    fn close(&self, conn: &Conn, label: &'static str) {
        let woken = self.inner.state.with(|state| {
            state.open.remove(&conn.id);
            state.uncount(conn.network());
            state.totals.open -= 1;
            state.totals.bytes_in += conn.bytes_in();
            state.totals.bytes_out += conn.bytes_out();
            *state.totals.ended.entry(label).or_default() += 1;
            if state.open.is_empty() { core::mem::take(&mut state.waiting) } else { Vec::new() }
        });
        drop(conn.parked.with(|parked| parked.driver.take()));
        for waker in woken {
            waker.wake();
        }
    }
}

impl State {
    fn has_room(&self, limits: Limits) -> Result<(), Refused> {
        if self.open.len() >= limits.connections {
            return Err(Refused::Full { limit: limits.connections });
        }
        Ok(())
    }

    fn may_count(&self, limits: Limits, network: Option<IpAddr>) -> Result<(), Refused> {
        if let (Some(network), Some(limit)) = (network, limits.per_address)
            && self.per_address.get(&network).is_some_and(|&count| count >= limit)
        {
            return Err(Refused::AddressFull { network, limit });
        }
        Ok(())
    }

    /// Counts a refusal.
    fn note(&mut self, may: Result<(), Refused>) -> Result<(), Refused> {
        may.inspect_err(|refused| {
            *self.totals.refused.entry(refused.label()).or_default() += 1;
        })
    }

    fn count(&mut self, network: Option<IpAddr>) {
        if let Some(network) = network {
            *self.per_address.entry(network).or_default() += 1;
        }
    }

    fn uncount(&mut self, network: Option<IpAddr>) {
        if let Some(network) = network
            && let Some(count) = self.per_address.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&network);
            }
        }
    }
}

/// What a peer's connections are counted under, where they are.
fn network(peer: Peer) -> Option<IpAddr> {
    let Peer::Ip(address) = peer else { return None };
    let ip = address.ip().to_canonical();
    if ip.is_loopback() {
        return None;
    }
    Some(match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    })
}

/// One connection's line in the [`ConnectionTable`].
#[derive(Debug)]
pub struct Conn {
    id: u64,
    since: Instant,
    // Only the connection's own driver writes these three.
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    moved: AtomicU64,
    command: AtomicU8,
    /// How many of the received bytes belong to a PROXY header.
    header: AtomicUsize,
    /// It is counted under its peer's address.
    counted: AtomicBool,
    parked: Lock<Parked>,
}

/// Who is at the other end, and what its driver left when it last went to sleep.
#[derive(Debug)]
struct Parked {
    peer: Peer,
    status: Status,
    driver: Option<Waker>,
}

/// What was asked of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing.
    None,
    /// A graceful end: [`Event::ShutDown`](crate::Event::ShutDown).
    ShutDown,
    /// An end at once, by a reset.
    Abort,
}

impl Conn {
    fn new(id: u64, peer: Peer, counted: bool, now: Instant) -> Self {
        Self {
            id,
            since: now,
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            moved: AtomicU64::new(now.nanos()),
            command: AtomicU8::new(Command::None as u8),
            header: AtomicUsize::new(0),
            counted: AtomicBool::new(counted),
            parked: Lock::new(Parked { peer, status: Status::default(), driver: None }),
        }
    }

    /// Its number in its table, counted from 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end: where a proxy has announced a client ([`ConnectionTable::identify`]), that one.
    pub fn peer(&self) -> Peer {
        self.parked.with(|parked| parked.peer)
    }

    /// What it is counted under.
    fn network(&self) -> Option<IpAddr> {
        if self.counted.load(Relaxed) { network(self.peer()) } else { None }
    }

    /// When it was admitted.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Bytes received so far.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Relaxed)
    }

    /// Bytes sent so far.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Relaxed)
    }

    /// The first `bytes` bytes received are a PROXY header. For the connection's own driver.
    pub fn set_header(&self, bytes: usize) {
        self.header.store(bytes, Relaxed);
    }

    /// Whether no byte was received or sent, except for a PROXY header.
    pub(crate) fn is_untouched(&self) -> bool {
        self.bytes_out() == 0 && self.bytes_in() == self.header.load(Relaxed) as u64
    }

    /// The machine's status when it last had nothing to do.
    pub fn status(&self) -> Status {
        self.parked.with(|parked| parked.status)
    }

    /// When a byte last moved, either way; at first, when it was admitted.
    pub fn moved(&self) -> Instant {
        Instant::from_nanos(self.moved.load(Relaxed))
    }

    /// Asks for a graceful end.
    pub fn shut_down(&self) {
        self.ask(Command::ShutDown);
    }

    /// Asks for an end at once.
    pub fn abort(&self) {
        self.ask(Command::Abort);
    }

    /// What was asked so far.
    pub fn command(&self) -> Command {
        match self.command.load(Relaxed) {
            command if command == Command::None as u8 => Command::None,
            command if command == Command::ShutDown as u8 => Command::ShutDown,
            _ => Command::Abort,
        }
    }

    fn ask(&self, command: Command) {
        if self.command.fetch_max(command as u8, Relaxed) >= command as u8 {
            return;
        }
        // The lock orders this against `park`: either the driver sees what is asked when it has
        // parked, or its waker is here.
        if let Some(driver) = self.parked.with(|parked| parked.driver.take()) {
            driver.wake();
        }
    }

    /// Counts what a turn has moved. For the connection's own driver.
    pub fn count(&self, read: usize, written: usize, now: Instant) {
        if read > 0 {
            self.bytes_in.store(self.bytes_in().wrapping_add(read as u64), Relaxed);
        }
        if written > 0 {
            self.bytes_out.store(self.bytes_out().wrapping_add(written as u64), Relaxed);
        }
        if read + written > 0 {
            self.moved.store(now.nanos(), Relaxed);
        }
    }

    /// Publishes the status and leaves a waker to be woken when something is asked. For the
    /// connection's own driver, before it sleeps; true where it must look at
    /// [`command`](Self::command) first, since it has only `seen` less.
    pub fn park(&self, status: Status, cx: &mut Context<'_>, seen: Command) -> bool {
        let (replaced, news) = self.parked.with(|parked| {
            parked.status = status;
            (register_waker(&mut parked.driver, cx), self.command() != seen)
        });
        drop(replaced); // outside the lock: it may be the last handle on a task
        news
    }
}

/// A connection that was admitted. Dropping it closes its line in the table.
///
/// Its end is counted and logged: with the reason that [`end`](Self::end) is told, at `info` where
/// somebody was at fault and at `debug` otherwise; else as `aborted`.
///
/// Since peers can cause any number of lines at `info` or above, a table limits them for each
/// reason: to 50 lines at once, and 10 a second. The next line for that reason has the number of
/// lines that were left out, in the field `suppressed`. Where `debug` is logged, nothing is left
/// out.
#[derive(Debug)]
pub struct Admitted {
    table: ConnectionTable,
    conn: Shared<Conn>,
    label: Option<&'static str>,
}

impl Admitted {
    /// A handle on the line, which outlives the connection.
    pub fn handle(&self) -> Shared<Conn> {
        self.conn.clone()
    }

    /// The table.
    pub fn table(&self) -> &ConnectionTable {
        &self.table
    }

    /// Closes the line, for a reason.
    pub fn end(mut self, reason: &impl Reason, now: Instant) {
        let (server, id, peer) = (self.table.name(), self.conn.id, self.conn.peer());
        let (received, sent) = (self.conn.bytes_in(), self.conn.bytes_out());
        // In seconds, as the metrics have them: a log is read by programs as well.
        let (label, age) = (reason.label(), now.since(self.conn.since).as_secs_f64());
        macro_rules! closed {
            ($log:ident, $suppressed:expr) => {
                $log!(
                    id, %peer, received, sent, age, reason = label, suppressed = $suppressed, server,
                    "closed: {reason}"
                )
            };
        }
        let check = || self.table.check_log(label, Some(now));
        match reason.fault() {
            Fault::None | Fault::Requested => closed!(debug, None::<u64>),
            Fault::Peer | Fault::Limit | Fault::Time | Fault::Lost => {
                if let Verdict::Log { suppressed } = check() {
                    closed!(info, suppressed);
                }
            }
            Fault::Bug => {
                if let Verdict::Log { suppressed } = check() {
                    closed!(error, suppressed);
                }
            }
        }
        self.label = Some(label);
    }
}

impl Deref for Admitted {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.label.is_none()
            && let Verdict::Log { suppressed } = self.table.check_log(ABORTED, None)
        {
            let (server, id, peer) = (self.table.name(), self.conn.id, self.conn.peer());
            warn!(id, %peer, reason = ABORTED, suppressed, server, "closed: aborted");
        }
        self.table.close(&self.conn, self.label.unwrap_or(ABORTED));
    }
}

/// What an end is counted as for which no reason was told.
pub(crate) const ABORTED: &str = "aborted";

#[cfg(test)]
mod tests {
    use core::time::Duration;

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
        let _here: Vec<_> = (0..10).map(|_| table.admit(peer("127.0.0.1"), now).unwrap()).collect();
        assert_eq!(table.totals().refused["per_address"], 2);
    }

    #[test]
    fn an_announced_client_counts_under_its_own_address() {
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
        assert!(table.inner.state.with(|state| state.per_address.is_empty()));
    }

    #[test]
    fn accepted_is_open_and_ended() {
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

    #[test]
    #[cfg(feature = "std")]
    fn what_is_asked_wakes_the_driver_that_is_parked() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

        #[derive(Default)]
        struct Count(AtomicUsize);
        impl alloc::task::Wake for Count {
            fn wake(self: alloc::sync::Arc<Self>) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let count = alloc::sync::Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let table = ConnectionTable::new(Limits::default());
        let conn = table.admit(Peer::Local, Instant::EPOCH).unwrap();
        let mut cx = Context::from_waker(&waker);
        let park = |cx: &mut Context<'_>| conn.park(Status::default(), cx, Command::None);
        assert!(!park(&mut cx));
        table.shut_down();
        assert_eq!((conn.command(), count.0.load(SeqCst)), (Command::ShutDown, 1));
        assert!(park(&mut cx), "what was asked meanwhile must be seen before sleeping");
    }
}
