//! The connections of an event loop.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
    vec::Vec,
};

use slab::Slab;

use super::{Next, Seat, Sink, Source};
use crate::{Instant, Machine, shared::Lock};

/// The connections of an event loop: each is polled when there is a reason to.
///
/// It keeps for each [`Seat`] its waker, its deadline, and whether its last poll returned
/// [`Next::Again`]. In each round, a loop
///
/// 1. waits for its sockets, for at most [`timeout`](Self::timeout);
/// 2. reports each event by [`ready`](Self::ready), and each new connection by
///    [`insert`](Self::insert);
/// 3. calls [`poll`](Self::poll).
///
/// ```
/// # use core::task::{Context, Poll, Waker};
/// # use wirestate_core::drive::{IoError, Sink, Source};
/// use std::time::Duration;
/// use wirestate_core::{Instant, drive::{Seat, Seats}, echo};
///
/// # struct Socket;
/// # impl Source for Socket {
/// #     fn poll_read(
/// #         &mut self, _: &mut Context<'_>, _: &mut [u8],
/// #     ) -> Poll<Result<usize, IoError>> {
/// #         Poll::Pending
/// #     }
/// # }
/// # impl Sink for Socket {
/// #     fn poll_write(
/// #         &mut self, _: &mut Context<'_>, _: &[&[u8]],
/// #     ) -> Poll<Result<usize, IoError>> {
/// #         Poll::Pending
/// #     }
/// #     fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
/// #         Poll::Pending
/// #     }
/// #     fn reset(&mut self) {}
/// # }
/// # let (socket, now) = (Socket, Instant::EPOCH);
/// let interrupt = Waker::noop(); // it makes the wait end, from any thread
/// let mut seats = Seats::new(interrupt.clone());
/// let id = seats.insert(Seat::new(echo::Server::default().machine(now), socket));
/// assert_eq!(seats.timeout(now), Some(Duration::ZERO)); // a new connection is polled at once
/// seats.poll(now, |id, _seat, next| println!("{id}: {next:?}"));
/// assert_eq!(seats.timeout(now), Some(Duration::from_secs(300))); // it is idle
/// seats.ready(id, true, false); // it is readable
/// assert_eq!(seats.timeout(now), Some(Duration::ZERO));
/// ```
///
/// Memory: a seat, and about 150 bytes, for each connection.
#[derive(Debug)]
pub struct Seats<M: Machine, S: Source + Sink> {
    entries: Slab<Entry<M, S>>,
    /// The ids that the next poll concerns, each once.
    due: VecDeque<usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    woken: Arc<WokenList>,
    /// Empty between polls. It keeps its memory.
    taken: Vec<usize>,
}

#[derive(Debug)]
struct Entry<M: Machine, S: Source + Sink> {
    seat: Seat<M, S>,
    /// Whether it is in `due`.
    is_due: bool,
    /// Whether it waits until its socket is readable, and until it is writable.
    waits: (bool, bool),
    /// Its deadline in `deadlines`.
    deadline: Option<Instant>,
    woken: Arc<Woken>,
    waker: Waker,
}

impl<M: Machine, S: Source + Sink> Seats<M, S> {
    /// Makes an empty collection.
    ///
    /// `interrupt` is woken when a connection was woken, from any thread, since the last
    /// [`timeout`](Self::timeout): make it end the wait of the loop, by an `eventfd(2)` or a byte
    /// in a pipe. If the loop never waits, [`Waker::noop`] is enough.
    pub fn new(interrupt: Waker) -> Self {
        let waiting = WokenIds { ids: Vec::new(), may_wait: false };
        let woken = Arc::new(WokenList { interrupt, state: Lock::new(waiting) });
        let (entries, due, deadlines) = (Slab::new(), VecDeque::new(), BTreeSet::new());
        Self { entries, due, deadlines, woken, taken: Vec::new() }
    }

    /// The id that the next [`insert`](Self::insert) returns.
    pub fn next_id(&self) -> usize {
        self.entries.vacant_key()
    }

    /// Adds a connection, and returns its id. The next [`poll`](Self::poll) polls it.
    ///
    /// An id is used again once its connection has ended. So an event or a wake-up for the earlier
    /// connection can reach the new one, which costs one poll.
    pub fn insert(&mut self, seat: Seat<M, S>) -> usize {
        let vacant = self.entries.vacant_entry();
        let id = vacant.key();
        let list = self.woken.clone();
        let woken = Arc::new(Woken { id, is_listed: AtomicBool::new(false), list });
        let waker = Waker::from(woken.clone());
        let (waits, deadline) = ((false, false), None);
        vacant.insert(Entry { seat, is_due: true, waits, deadline, woken, waker });
        self.due.push_back(id);
        id
    }

    /// Reports an event of a connection's socket, as [`Seat::ready`]. The next [`poll`](Self::poll)
    /// polls it. Without effect if the connection has ended.
    pub fn ready(&mut self, id: usize, read: bool, write: bool) {
        if let Some(seat) = self.seat_mut(id) {
            seat.ready(read, write);
        }
    }

    /// A connection, for calls that change its machine. The next [`poll`](Self::poll) polls it.
    /// `None` if it has ended.
    pub fn seat_mut(&mut self, id: usize) -> Option<&mut Seat<M, S>> {
        let entry = self.entries.get_mut(id)?;
        if !mem::replace(&mut entry.is_due, true) {
            self.due.push_back(id);
        }
        Some(&mut entry.seat)
    }

    /// How long the loop may wait before it calls [`poll`](Self::poll). `None`: until an event.
    ///
    /// Call it directly before each wait: from then on, a connection that is woken interrupts the
    /// wait.
    pub fn timeout(&mut self, now: Instant) -> Option<Duration> {
        let is_woken = self.woken.state.with(|woken| {
            woken.may_wait = woken.ids.is_empty();
            !woken.may_wait
        });
        if is_woken || !self.due.is_empty() {
            return Some(Duration::ZERO);
        }
        self.deadlines.first().map(|(deadline, _)| deadline.since(now))
    }

    /// Polls each connection that is new, was reported or woken, whose deadline has passed, or
    /// whose last poll returned [`Next::Again`]. Calls `polled` with each result. Then drops the
    /// seat if the result is [`Next::Done`].
    pub fn poll(
        &mut self,
        now: Instant,
        mut polled: impl FnMut(usize, &mut Seat<M, S>, Next<M::Reason>),
    ) {
        let mut woken = mem::take(&mut self.taken);
        self.woken.state.with(|list| mem::swap(&mut list.ids, &mut woken));
        for id in woken.drain(..) {
            self.ready(id, false, false);
        }
        self.taken = woken;
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.entries[id].deadline = None;
            self.ready(id, false, false);
        }
        for _ in 0..self.due.len() {
            let Some(id) = self.due.pop_front() else { break };
            let entry = &mut self.entries[id];
            entry.is_due = false;
            // This poll sees what an earlier wake-up was for; a later one leads to another poll.
            entry.woken.is_listed.swap(false, Ordering::AcqRel);
            let next = entry.seat.poll(now, &mut Context::from_waker(&entry.waker));
            let (again, done) = (matches!(next, Next::Again), matches!(next, Next::Done(_)));
            let (waits, deadline) = match next {
                Next::Sleep { until, read, write } => ((read, write), until),
                Next::Again | Next::Done(_) => ((false, false), None),
            };
            entry.waits = waits;
            let before = mem::replace(&mut entry.deadline, deadline);
            if before != deadline {
                self.deadlines.extend(deadline.map(|deadline| (deadline, id)));
                if let Some(before) = before {
                    self.deadlines.remove(&(before, id));
                }
            }
            polled(id, &mut entry.seat, next);
            if done {
                self.entries.remove(id);
            } else if again {
                self.ready(id, false, false);
            }
        }
    }

    /// The connections that wait for their sockets, for a level-triggered loop: the id, the socket,
    /// and whether it waits until the socket is readable, and until it is writable. At least one is
    /// true.
    pub fn waiting(&self) -> impl Iterator<Item = (usize, &S, bool, bool)> {
        self.entries.iter().filter_map(|(id, entry)| {
            let (read, write) = entry.waits;
            (read || write).then(|| (id, entry.seat.socket(), read, write))
        })
    }

    /// Reports that any socket may be ready, for a loop that does not know which.
    pub fn ready_all(&mut self) {
        self.for_each(|seat| seat.ready(true, true));
    }

    /// Requests a graceful end of all machines, for a loop without a
    /// [table](crate::admission::ConnectionTable::shut_down) of connections.
    pub fn shut_down(&mut self, now: Instant) {
        self.for_each(|seat| seat.shut_down(now));
    }

    /// Changes each connection. The next poll polls all.
    fn for_each(&mut self, mut change: impl FnMut(&mut Seat<M, S>)) {
        for (id, entry) in &mut self.entries {
            change(&mut entry.seat);
            if !mem::replace(&mut entry.is_due, true) {
                self.due.push_back(id);
            }
        }
    }

    /// The number of connections.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The waker of one connection.
#[derive(Debug)]
struct Woken {
    id: usize,
    /// Whether the list has the id already.
    is_listed: AtomicBool,
    list: Arc<WokenList>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let may_wait = self.list.state.with(|woken| {
            woken.ids.push(self.id);
            mem::take(&mut woken.may_wait)
        });
        if may_wait {
            self.list.interrupt.wake_by_ref();
        }
    }
}

struct WokenList {
    interrupt: Waker,
    state: Lock<WokenIds>,
}

impl fmt::Debug for WokenList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WokenList").finish_non_exhaustive()
    }
}

struct WokenIds {
    ids: Vec<usize>,
    /// Whether the loop may wait, and no wake-up has interrupted it yet.
    may_wait: bool,
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::VecDeque,
        rc::Rc,
        task::Poll,
    };

    use super::*;
    use crate::{
        Reason,
        admission::{ConnectionTable, Limits, Peer},
        drive::{Ended, IoError},
        echo,
        shared::WakeCount,
    };

    /// A socket that accepts all output.
    #[derive(Clone, Default)]
    struct Socket {
        /// What the next reads return. Then they block.
        input: Rc<RefCell<VecDeque<usize>>>,
        /// How many reads were tried.
        reads: Rc<Cell<usize>>,
    }

    impl Source for Socket {
        fn poll_read(
            &mut self,
            _: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<Result<usize, IoError>> {
            self.reads.set(self.reads.get() + 1);
            let next = self.input.borrow_mut().pop_front();
            next.map_or(Poll::Pending, |n| Poll::Ready(Ok(n.min(buf.len()))))
        }
    }

    impl Sink for Socket {
        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            bufs: &[&[u8]],
        ) -> Poll<Result<usize, IoError>> {
            Poll::Ready(Ok(bufs[0].len()))
        }

        fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
            Poll::Ready(Ok(()))
        }

        fn reset(&mut self) {}
    }

    type EchoSeats = Seats<echo::Connection, Socket>;

    fn at(seconds: u64) -> Instant {
        Instant::from_epoch(Duration::from_secs(seconds))
    }

    fn seats() -> (EchoSeats, Arc<WakeCount>) {
        let (interrupts, waker) = WakeCount::new();
        (Seats::new(waker), interrupts)
    }

    fn seat(socket: &Socket, now: Instant) -> Seat<echo::Connection, Socket> {
        let config = echo::Config::default().with_idle_timeout(Duration::from_secs(10));
        Seat::new(echo::Server::new(config).unwrap().machine(now), socket.clone())
    }

    /// The ids that a poll at this time concerns, with the labels of those that end.
    fn poll(seats: &mut EchoSeats, now: Instant) -> Vec<(usize, Option<&'static str>)> {
        let mut polled = Vec::new();
        seats.poll(now, |id, _, next| {
            let ended = match next {
                Next::Done(ended) => Some(ended),
                Next::Again | Next::Sleep { .. } => None,
            };
            polled.push((id, ended.as_ref().map(Ended::label)));
        });
        polled
    }

    #[test]
    fn only_connections_with_a_reason_are_polled() {
        let (mut seats, _) = seats();
        assert_eq!(seats.timeout(at(0)), None);
        let sockets = [Socket::default(), Socket::default()];
        let ids = sockets.each_ref().map(|socket| {
            assert_eq!(seats.next_id(), seats.len());
            seats.insert(seat(socket, at(0)))
        });
        assert_eq!(seats.timeout(at(0)), Some(Duration::ZERO), "new ones are polled at once");
        assert_eq!(poll(&mut seats, at(0)), ids.map(|id| (id, None)));
        assert_eq!(seats.timeout(at(0)), Some(Duration::from_secs(10)));
        assert_eq!(poll(&mut seats, at(1)), []);
        let waiting: Vec<_> =
            seats.waiting().map(|(id, _, read, write)| (id, read, write)).collect();
        assert_eq!(waiting, ids.map(|id| (id, true, false)));

        // Readiness to write is no reason to read.
        seats.ready(ids[1], false, true);
        assert_eq!(poll(&mut seats, at(1)), [(ids[1], None)]);
        assert_eq!(sockets[1].reads.get(), 1);
        seats.ready(ids[1], true, false);
        seats.ready_all();
        assert_eq!(poll(&mut seats, at(1)), [ids[1], ids[0]].map(|id| (id, None)), "once");
        assert_eq!(sockets.map(|socket| socket.reads.get()), [2, 2]);
    }

    #[test]
    fn a_connection_is_polled_at_its_deadline() {
        let (mut seats, _) = seats();
        let [first, second] = [at(0), at(5)].map(|now| {
            let id = seats.insert(seat(&Socket::default(), now));
            poll(&mut seats, now);
            id
        });
        assert_eq!(seats.timeout(at(7)), Some(Duration::from_secs(3)));
        assert_eq!(poll(&mut seats, at(10)), [(first, Some("idle_timeout"))]);
        assert_eq!(seats.timeout(at(10)), Some(Duration::from_secs(5)));
        assert_eq!(poll(&mut seats, at(15)), [(second, Some("idle_timeout"))]);
        assert!(seats.is_empty() && seats.deadlines.is_empty());
        seats.ready(first, true, true); // without effect
        assert_eq!(seats.timeout(at(15)), None);
    }

    #[test]
    fn a_wake_up_interrupts_a_wait_once() {
        let (mut seats, interrupts) = seats();
        let table = ConnectionTable::new(Limits::default());
        for _ in 0..3 {
            let admitted = table.admit(Peer::Local, at(0)).unwrap();
            seats.insert(seat(&Socket::default(), at(0)).admitted(admitted));
        }
        poll(&mut seats, at(0));
        assert!(seats.timeout(at(0)).is_some_and(|timeout| timeout > Duration::ZERO));
        table.shut_down();
        assert_eq!(interrupts.get(), 1, "three wake-ups");
        assert_eq!(poll(&mut seats, at(0)).len(), 3);

        // The loop does not wait: nothing is interrupted, and the next wait is short.
        let admitted = table.admit(Peer::Local, at(0)).unwrap();
        seats.insert(seat(&Socket::default(), at(0)).admitted(admitted));
        poll(&mut seats, at(0));
        table.abort();
        assert_eq!(interrupts.get(), 1);
        assert_eq!(seats.timeout(at(0)), Some(Duration::ZERO));
        assert_eq!(poll(&mut seats, at(0)).len(), 4);
        assert!(seats.is_empty());
    }

    #[test]
    fn a_connection_whose_budget_is_used_up_is_polled_again_after_the_others() {
        let (mut seats, _) = seats();
        let (flooding, other) = (Socket::default(), Socket::default());
        flooding.input.borrow_mut().extend([1 << 20; 200]);
        let ids = [seats.insert(seat(&flooding, at(0))), seats.insert(seat(&other, at(0)))];
        assert_eq!(poll(&mut seats, at(0)), ids.map(|id| (id, None)));
        assert_eq!(seats.timeout(at(0)), Some(Duration::ZERO));
        assert_eq!(poll(&mut seats, at(0)), [(ids[0], None)]);
    }

    #[test]
    fn all_connections_are_shut_down() {
        let (mut seats, _) = seats();
        let ids = [(); 2].map(|()| seats.insert(seat(&Socket::default(), at(0))));
        poll(&mut seats, at(0));
        seats.shut_down(at(1));
        assert_eq!(poll(&mut seats, at(1)), ids.map(|id| (id, None)), "they linger");
        poll(&mut seats, at(5));
        assert_eq!(poll(&mut seats, at(10)), ids.map(|id| (id, Some("shut_down"))));
    }
}
