//! Runs one future on a thread. The thread sleeps in poll(2) or in a blocking read.

use std::{
    cell::RefCell,
    future::Future,
    mem,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant as SystemInstant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use wirestate_core::{Instant, drive::Clock};

/// Runs `future` on this thread until it is done, and returns its output.
///
/// Sockets and clocks of this crate work only inside it. Other futures are woken by their waker, as
/// on every executor.
///
/// # Panics
/// If poll(2) fails, which happens only if the kernel is out of memory.
pub fn block_on<F: Future>(future: F) -> F::Output {
    run(future, 0)
}

/// [`block_on`] for the task of an admitted connection.
///
/// The task may block in a read although the table of connections holds its waker. The table's
/// commands then take effect up to [`READ_TIMEOUT`] late.
pub(crate) fn block_on_connection<F: Future>(future: F) -> F::Output {
    run(future, 1)
}

/// Runs `future`. The thread may block in a read while at most `ignored_wakers` wakers exist.
fn run<F: Future>(future: F, ignored_wakers: usize) -> F::Output {
    let parker = Arc::new(Parker::default());
    let waker = Waker::from(parker.clone());
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    let _outer = OuterWait(WAIT.take());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        WAIT.with_borrow_mut(|wait| wait.sleep(&parker, ignored_wakers));
    }
}

/// The [`WAIT`] of an outer `block_on` on this thread. It is restored on drop.
struct OuterWait(Wait);

impl Drop for OuterWait {
    fn drop(&mut self) {
        WAIT.replace(mem::take(&mut self.0));
    }
}

thread_local! {
    /// The wait of the innermost `block_on` on this thread.
    static WAIT: RefCell<Wait> = RefCell::default();
}

/// The sockets and the deadline that a thread's future waits for, and how its thread sleeps.
#[derive(Default)]
struct Wait {
    /// The sockets that the last poll of the future has begun to wait for.
    sockets: Vec<Awaited>,
    /// The time until the earliest deadline.
    timeout: Option<Duration>,
    /// The sockets without bytes to read, as the last poll(2) or a later read has found.
    drained: Vec<RawFd>,
    /// When the last sleep began.
    last_sleep: Option<SystemInstant>,
    /// The number of short sleeps in a row ([`SHORT_SLEEP`]), the last sleep excluded.
    short_sleeps: u32,
    /// The socket whose next read blocks, in place of a poll(2).
    blocking_read: Option<RawFd>,
}

/// A socket that the future waits for.
struct Awaited {
    socket: Arc<OwnedFd>,
    events: PollFlags,
    /// The future waits for a read, which can block in place of a poll(2).
    is_read: bool,
}

impl Awaited {
    fn fd(&self) -> PollFd<'_> {
        PollFd::new(&self.socket, self.events)
    }
}

/// Makes this thread's next sleep end when `socket` is ready for `events`.
pub(crate) fn wait_for(socket: Arc<OwnedFd>, events: PollFlags) {
    WAIT.with_borrow_mut(|wait| wait.sockets.push(Awaited { socket, events, is_read: false }));
}

/// Makes this thread's next sleep end when `socket` is readable. That sleep can be a blocking read.
pub(crate) fn wait_for_read(socket: Arc<OwnedFd>) {
    let events = PollFlags::IN;
    WAIT.with_borrow_mut(|wait| wait.sockets.push(Awaited { socket, events, is_read: true }));
}

/// Whether the next read of `socket` must block, for at most [`READ_TIMEOUT`]. Call it before each
/// read: it returns true once.
pub(crate) fn next_read_blocks(socket: RawFd) -> bool {
    WAIT.with_borrow_mut(|wait| wait.blocking_read.take_if(|chosen| *chosen == socket).is_some())
}

/// Removes `socket`, which is about to be closed, from the sockets that the thread waits for.
/// Otherwise the list, which shares the descriptor, would keep it open during the next sleep.
pub(crate) fn unregister(socket: RawFd) {
    // A thread whose thread-local data is destroyed waits for nothing.
    let _ = WAIT.try_with(|wait| {
        let Wait { sockets, drained, .. } = &mut *wait.borrow_mut();
        sockets.retain(|awaited| awaited.socket.as_raw_fd() != socket);
        drained.retain(|drained| *drained != socket);
    });
}

/// Records, until the next sleep, that a read has emptied `socket`.
pub(crate) fn mark_drained(socket: RawFd) {
    WAIT.with_borrow_mut(|wait| wait.drained.push(socket));
}

/// Whether `socket` is recorded to have no bytes to read. If bytes have arrived since, the next
/// poll(2) returns at once.
pub(crate) fn is_drained(socket: RawFd) -> bool {
    WAIT.with_borrow(|wait| wait.drained.contains(&socket))
}

impl Wait {
    fn sleep(&mut self, parker: &Arc<Parker>, ignored_wakers: usize) {
        let mut sockets = mem::take(&mut self.sockets);
        let timeout = self.timeout.take();
        let now = SystemInstant::now();
        let was_short = self.last_sleep.replace(now).is_some_and(|last| now - last < SHORT_SLEEP);
        self.short_sleeps = if was_short { self.short_sleeps.saturating_add(1) } else { 0 };
        self.drained.clear();
        // If the future did not make the blocking read of the last sleep, this sleep is a poll(2).
        let was_unused = self.blocking_read.take().is_some();
        // A blocking read saves a poll(2): the future is polled again at once, and its read blocks.
        // Only a busy connection does so, since the read holds a buffer while it blocks.
        if let [Awaited { socket, is_read: true, .. }] = &sockets[..]
            && !was_unused
            && self.short_sleeps >= BUSY_SLEEPS
            && parker.waker_count() <= ignored_wakers
            && timeout.is_none_or(|timeout| timeout > READ_TIMEOUT)
            && !parker.was_woken()
        {
            self.blocking_read = Some(socket.as_raw_fd());
        } else {
            sleep(parker, &sockets, timeout, &mut self.drained);
        }
        // Keeps the list's memory for the next sleep.
        sockets.clear();
        self.sockets = sockets;
    }
}

/// Sleeps in poll(2), and adds the sockets that have no bytes to read to `drained`.
fn sleep(
    parker: &Arc<Parker>,
    sockets: &[Awaited],
    mut timeout: Option<Duration>,
    drained: &mut Vec<RawFd>,
) {
    if parker.waker_count() > 0 && !parker.ensure_eventfd() {
        timeout =
            Some(timeout.map_or(MAX_SLEEP_WITHOUT_EVENTFD, |timeout| {
                timeout.min(MAX_SLEEP_WITHOUT_EVENTFD)
            }));
    }
    if !parker.park() {
        return;
    }
    let event = parker.event.get();
    let (mut one, mut two, mut many);
    let fds: &mut [PollFd<'_>] = match (sockets, event) {
        ([socket], None) => {
            one = [socket.fd()];
            &mut one
        }
        // The common case, without an allocation.
        ([socket], Some(event)) => {
            two = [socket.fd(), PollFd::new(event, PollFlags::IN)];
            &mut two
        }
        (sockets, event) => {
            let event = event.map(|event| PollFd::new(event, PollFlags::IN));
            many = sockets.iter().map(Awaited::fd).chain(event).collect::<Vec<_>>();
            &mut many
        }
    };
    match poll(fds, timeout.map(timespec).as_ref()) {
        // After a signal (EINTR), the future is polled again.
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => panic!("poll(2): {error}"),
    }
    parker.unpark();
    for (awaited, fd) in sockets.iter().zip(&*fds) {
        if awaited.events == PollFlags::IN && fd.revents().is_empty() {
            drained.push(awaited.socket.as_raw_fd());
        }
    }
    if let (Some(event), Some(fd)) = (event, fds.get(sockets.len()))
        && !fd.revents().is_empty()
    {
        // The read resets the eventfd (eventfd(2)). Its value does not matter.
        let _ = rustix::io::read(event, &mut [0; 8]);
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Wakes a thread that sleeps in poll(2), by an eventfd. The eventfd is created before the first
/// sleep in which a waker exists.
#[derive(Default)]
struct Parker {
    /// [`AWAKE`], [`PARKED`] or [`WOKEN`].
    state: AtomicU8,
    event: OnceLock<OwnedFd>,
}

impl Parker {
    /// The number of wakers, without the two handles that [`run`] holds.
    fn waker_count(self: &Arc<Self>) -> usize {
        Arc::strong_count(self) - 2
    }

    /// Creates the eventfd if it does not exist. False if no descriptor is free.
    fn ensure_eventfd(&self) -> bool {
        if self.event.get().is_none()
            && let Ok(event) = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        {
            self.event.get_or_init(|| event);
        }
        self.event.get().is_some()
    }

    /// Whether a waker was used, so that the future must be polled again at once.
    fn was_woken(&self) -> bool {
        self.state.load(SeqCst) == WOKEN
    }

    /// Prepares a sleep. False if the thread was already woken and must not sleep.
    fn park(&self) -> bool {
        if self.state.compare_exchange(AWAKE, PARKED, SeqCst, SeqCst).is_ok() {
            return true;
        }
        self.state.store(AWAKE, SeqCst);
        false
    }

    fn unpark(&self) {
        self.state.store(AWAKE, SeqCst);
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, SeqCst) == PARKED
            && let Some(event) = self.event.get()
        {
            // The write fails only if 2^64 - 2 wake-ups are pending (eventfd(2)). One is enough.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }
}

/// The clock of [`Threads`](crate::Threads): the system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock {
    epoch: SystemInstant,
}

impl ThreadClock {
    pub(crate) fn new(epoch: SystemInstant) -> Self {
        Self { epoch }
    }
}

impl Clock for ThreadClock {
    fn now(&self) -> Instant {
        Instant::from_epoch(self.epoch.elapsed())
    }

    fn poll_until(&mut self, _cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // A deadline that the system's time cannot represent is never reached.
        let Some(deadline) = self.epoch.checked_add(deadline.since_epoch()) else {
            return Poll::Pending;
        };
        let timeout = deadline.saturating_duration_since(SystemInstant::now());
        if timeout.is_zero() {
            return Poll::Ready(());
        }
        WAIT.with_borrow_mut(|wait| {
            wait.timeout = Some(wait.timeout.map_or(timeout, |other| other.min(timeout)));
        });
        Poll::Pending
    }
}

/// The longest time that a read blocks.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_millis(20);
/// A sleep is short if the next one begins within this time. It is well below [`READ_TIMEOUT`],
/// which the kernel rounds to its ticks, so a read that times out is not short.
const SHORT_SLEEP: Duration = Duration::from_millis(8);
/// The number of short sleeps in a row after which a connection is busy: its next sleep is a
/// blocking read.
const BUSY_SLEEPS: u32 = 4;
/// The longest sleep of a thread that cannot be woken, since no descriptor is free for an eventfd.
const MAX_SLEEP_WITHOUT_EVENTFD: Duration = Duration::from_millis(50);

/// The future is being polled.
const AWAKE: u8 = 0;
/// The thread sleeps, or is about to: a waker writes to the eventfd.
const PARKED: u8 = 1;
/// The thread was woken, and does not sleep.
const WOKEN: u8 = 2;

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, thread};

    use super::*;

    #[test]
    fn a_waker_that_is_kept_wakes_the_thread_from_another_one() {
        let mut polls = 0;
        block_on(poll_fn(|cx| {
            polls += 1;
            if polls == 100 {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            thread::spawn(move || waker.wake());
            Poll::Pending
        }));
    }

    #[test]
    fn a_clock_wakes_its_thread_and_not_before_the_deadline() {
        let mut clock = ThreadClock::new(SystemInstant::now());
        let deadline = clock.now() + Duration::from_millis(20);
        block_on(poll_fn(|cx| clock.poll_until(cx, deadline)));
        assert!(clock.now() >= deadline);
    }

    /// A wake-up that came before the sleep must not leave the eventfd readable for ever.
    #[test]
    fn a_thread_that_woke_itself_sleeps_afterwards() {
        let mut clock = ThreadClock::new(SystemInstant::now());
        let deadline = clock.now() + Duration::from_millis(50);
        let mut kept = None;
        let mut polls = 0;
        block_on(poll_fn(|cx| {
            polls += 1;
            kept = Some(cx.waker().clone());
            if polls < 10 {
                let other = cx.waker().clone();
                thread::spawn(move || other.wake()).join().unwrap();
                cx.waker().wake_by_ref();
            }
            clock.poll_until(cx, deadline)
        }));
        assert!(polls < 15, "{polls} polls for one sleep");
        drop(kept);
    }
}
