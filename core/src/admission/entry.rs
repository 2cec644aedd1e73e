//! One connection's entry in the table.

use alloc::string::String;
use core::{
    mem,
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
    task::{Context, Waker},
    time::Duration,
};

use super::{Peer, Throttle};
use crate::{
    Instant, Status,
    dial::Endpoint,
    shared::{AtomicU64, Lock, Shared, register_waker, wake},
};

/// One connection's entry in the [`ConnectionTable`](super::ConnectionTable).
///
/// Anyone may read it, and send a [`Command`]. Only the connection's own driver calls
/// [`count`](Self::count), [`set_header`](Self::set_header) and [`publish`](Self::publish).
/// [`Drive`](crate::drive::Drive) and [`Seat`](crate::drive::Seat) do so. Call them yourself only
/// from a driver of your own.
#[derive(Debug)]
pub struct ConnectionEntry {
    id: u64,
    since: Instant,
    // Only the connection's own driver writes these three.
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    last_activity: AtomicU64,
    command: AtomicU8,
    /// The size of the PROXY header that the received bytes begin with.
    header_bytes: AtomicU32,
    /// Whether the connection counts under its peer's address.
    counts_under_address: AtomicBool,
    /// The limits of its bytes, if there are any.
    throttle: Option<Shared<Throttle>>,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    peer: Peer,
    identity: Option<Shared<str>>,
    upstream: Option<UpstreamConnection>,
    /// The machine's status when its driver last went to sleep.
    status: Status,
    /// Wakes the driver.
    driver: Option<Waker>,
}

/// The connection of a proxy to an upstream, for one client.
#[derive(Clone, Debug)]
pub struct UpstreamConnection {
    /// The upstream, and which of its addresses was dialled.
    pub endpoint: Shared<Endpoint>,
    /// How long connecting took, with the lookup of the name and the attempts that have failed
    /// before.
    pub connect_time: Duration,
}

/// A command to a connection. A later variant overrides an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// No command.
    None,
    /// End gracefully: [`Event::ShutDown`](crate::Event::ShutDown).
    ShutDown,
    /// End at once, by a reset.
    Abort,
}

impl ConnectionEntry {
    pub(super) fn new(
        id: u64,
        peer: Peer,
        counts_under_address: bool,
        throttle: Option<Shared<Throttle>>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            since: now,
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            last_activity: AtomicU64::new(now.nanos()),
            command: AtomicU8::new(Command::None as u8),
            header_bytes: AtomicU32::new(0),
            counts_under_address: AtomicBool::new(counts_under_address),
            throttle,
            state: Lock::new(State {
                peer,
                identity: None,
                upstream: None,
                status: Status::default(),
                driver: None,
            }),
        }
    }

    /// The connection's number in its table, from 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The peer. Behind a proxy, it is the client that the PROXY header names
    /// ([`ConnectionTable::identify`](super::ConnectionTable::identify)).
    pub fn peer(&self) -> Peer {
        self.state.with(|state| state.peer)
    }

    /// As whom the peer has authenticated itself, such as the subject of its TLS certificate.
    pub fn identity(&self) -> Option<Shared<str>> {
        self.state.with(|state| state.identity.clone())
    }

    /// Records as whom the peer has authenticated itself, for the log and the list of connections.
    /// Control characters are escaped. The text is cut off after 100 bytes.
    pub fn set_identity(&self, identity: &str) {
        let mut text = String::new();
        for c in identity.escape_debug() {
            if text.len() + c.len_utf8() > MAX_IDENTITY {
                break;
            }
            text.push(c);
        }
        self.state.with(|state| state.identity = Some(text.into()));
    }

    /// The upstream that a proxied connection was relayed to last.
    pub fn upstream(&self) -> Option<UpstreamConnection> {
        self.state.with(|state| state.upstream.clone())
    }

    /// Records the upstream of a proxied connection, for the log and the list of connections.
    pub fn set_upstream(&self, upstream: UpstreamConnection) {
        self.state.with(|state| state.upstream = Some(upstream));
    }

    /// When the connection was admitted.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Bytes received so far.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Relaxed)
    }

    /// Bytes sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Relaxed)
    }

    /// When a byte was last received or sent; before the first one, when the connection was
    /// admitted.
    pub fn last_activity(&self) -> Instant {
        Instant::from_nanos(self.last_activity.load(Relaxed))
    }

    /// The machine's status when its driver last went to sleep.
    pub fn status(&self) -> Status {
        self.state.with(|state| state.status)
    }

    /// Requests a graceful end.
    pub fn shut_down(&self) {
        self.send(Command::ShutDown);
    }

    /// Requests an immediate end, by a reset.
    pub fn abort(&self) {
        self.send(Command::Abort);
    }

    /// The strongest command so far.
    pub fn command(&self) -> Command {
        match self.command.load(Relaxed) {
            command if command == Command::None as u8 => Command::None,
            command if command == Command::ShutDown as u8 => Command::ShutDown,
            _ => Command::Abort,
        }
    }

    /// Counts the bytes that one turn read and wrote.
    pub fn count(&self, read: usize, written: usize, now: Instant) {
        if read > 0 {
            self.bytes_received.store(self.bytes_received().wrapping_add(read as u64), Relaxed);
        }
        if written > 0 {
            self.bytes_sent.store(self.bytes_sent().wrapping_add(written as u64), Relaxed);
        }
        if read + written > 0 {
            self.last_activity.store(now.nanos(), Relaxed);
        }
    }

    /// Records that the first `bytes` bytes received are a PROXY header.
    pub fn set_header(&self, bytes: usize) {
        self.header_bytes.store(u32::try_from(bytes).unwrap_or(u32::MAX), Relaxed);
    }

    /// Publishes the machine's status before the driver sleeps, and registers the waker of `cx`,
    /// which a command wakes.
    ///
    /// `applied` is the last command that the driver has applied. Returns true if there is a new
    /// [`command`](Self::command): the driver must apply it before it sleeps.
    pub fn publish(&self, status: Status, cx: &mut Context<'_>, applied: Command) -> bool {
        let (previous, is_pending) = self.state.with(|state| {
            state.status = status;
            (register_waker(&mut state.driver, cx), self.command() != applied)
        });
        drop(previous); // outside the lock: it may be the last handle on a task
        is_pending
    }

    /// Whether no byte was received or sent, except for a PROXY header.
    pub(crate) fn is_untouched(&self) -> bool {
        self.bytes_sent() == 0
            && self.bytes_received() == u64::from(self.header_bytes.load(Relaxed))
    }

    /// The limits of its bytes, if there are any.
    pub(crate) fn throttle(&self) -> Option<&Shared<Throttle>> {
        self.throttle.as_ref()
    }

    /// The network that the connection counts under; `None` if it counts under none.
    pub(super) fn network(&self) -> Option<IpAddr> {
        if self.counts_under_address.load(Relaxed) { self.peer().network() } else { None }
    }

    /// Sets the peer, and counts the connection under its address. Returns the previous peer.
    pub(super) fn set_peer(&self, peer: Peer) -> Peer {
        self.counts_under_address.store(true, Relaxed);
        self.state.with(|state| mem::replace(&mut state.peer, peer))
    }

    /// Drops the driver's waker, at the connection's end.
    pub(super) fn drop_waker(&self) {
        let driver = self.state.with(|state| state.driver.take());
        drop(driver); // outside the lock: it may be the last handle on a task
    }

    fn send(&self, command: Command) {
        if self.command.fetch_max(command as u8, Relaxed) >= command as u8 {
            return;
        }
        // The lock orders this after or before `publish`: either `publish` sees the command, or it
        // has registered the waker.
        wake(self.state.with(|state| state.driver.take()));
    }
}

/// The most bytes of an identity.
const MAX_IDENTITY: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{ConnectionTable, Limits},
        shared::WakeCount,
    };

    #[test]
    fn an_identity_is_printable_and_short() {
        let table = ConnectionTable::new(Limits::default());
        let entry = table.admit(Peer::Local, Instant::EPOCH).unwrap();
        assert_eq!(entry.identity(), None);
        entry.set_identity("CN=a\n\u{1b}b");
        assert_eq!(entry.identity().as_deref(), Some("CN=a\\n\\u{1b}b"));
        entry.set_identity(&"ö".repeat(100));
        assert_eq!(entry.identity().as_deref(), Some(&*"ö".repeat(50)));
    }

    #[test]
    fn a_command_wakes_the_driver_and_is_seen_before_it_sleeps() {
        let (count, waker) = WakeCount::new();
        let table = ConnectionTable::new(Limits::default());
        let entry = table.admit(Peer::Local, Instant::EPOCH).unwrap();
        let mut cx = Context::from_waker(&waker);
        let publish = |cx: &mut Context<'_>| entry.publish(Status::default(), cx, Command::None);
        assert!(!publish(&mut cx));
        table.shut_down();
        assert_eq!((entry.command(), count.get()), (Command::ShutDown, 1));
        assert!(publish(&mut cx), "the command is pending");
    }
}
