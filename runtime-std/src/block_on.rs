//! A thread that runs one future, and sleeps on what it waits for: in `poll(2)`, or, where that is
//! one read, in the read.

use std::{
    cell::RefCell,
    future::Future,
    mem,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
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

/// Runs `future` on this thread until it is done.
///
/// Sockets and clocks of this crate work only inside it; a future of another kind is woken by its
/// waker, as on any executor.
///
/// # Panics
/// If `poll(2)` fails for want of memory, which is its only failure that can happen here.
pub fn block_on<F: Future>(future: F) -> F::Output {
    run(future, 0)
}

/// [`block_on`] for the task of a connection that was admitted: it may wait in a read although one
/// place keeps its waker. That is the table of connections, whose commands are then noticed up to
/// [`READ_TIMEOUT`] late.
pub(crate) fn block_on_connection<F: Future>(future: F) -> F::Output {
    run(future, 1)
}

fn run<F: Future>(future: F, patient: usize) -> F::Output {
    let parker = Arc::new(Parker::default());
    let waker = Waker::from(parker.clone());
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    let _outer = Outer(WAIT.take());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        WAIT.with_borrow_mut(|wait| wait.sleep(&parker, patient));
    }
}

/// What an outer `block_on` of this thread waited for, which comes back at the end.
struct Outer(Wait);

impl Drop for Outer {
    fn drop(&mut self) {
        WAIT.replace(mem::take(&mut self.0));
    }
}

thread_local! {
    static WAIT: RefCell<Wait> = RefCell::default();
}

/// What this thread's future waits for, as of its last poll.
#[derive(Default)]
struct Wait {
    sockets: Vec<Awaited>,
    timeout: Option<Duration>,
    /// Sockets that have nothing to read, as the last sleep or a read since then has found.
    silent: Vec<RawFd>,
    /// When the last sleep began, and how many before it were [`QUICK`].
    slept: Option<SystemInstant>,
    quick: u32,
    /// The next read of this socket is the sleep.
    in_read: Option<RawFd>,
}

struct Awaited {
    socket: Arc<dyn AsFd>,
    what: PollFlags,
    /// It is awaited by a read, which may as well block.
    is_read: bool,
}

impl Awaited {
    fn fd(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.socket.as_fd(), self.what)
    }
}

/// How long a read blocks at most.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_millis(20);
/// A sleep that is shorter is quick. Well below [`READ_TIMEOUT`], which the kernel rounds to its
/// ticks: a read that blocked in vain was not quick.
const QUICK: Duration = Duration::from_millis(8);
/// After so many quick sleeps in a row the next one is in a read.
const BUSY: u32 = 4;

/// Has this thread's next sleep end when `socket` is ready for `what`.
pub(crate) fn wait_for(socket: Arc<dyn AsFd>, what: PollFlags) {
    WAIT.with_borrow_mut(|wait| wait.sockets.push(Awaited { socket, what, is_read: false }));
}

/// Has this thread's next sleep end when `socket` can be read, or be in that read.
pub(crate) fn wait_for_read(socket: Arc<dyn AsFd>) {
    let what = PollFlags::IN;
    WAIT.with_borrow_mut(|wait| wait.sockets.push(Awaited { socket, what, is_read: true }));
}

/// Whether the read of `socket` that is about to be made is to block, for [`READ_TIMEOUT`].
pub(crate) fn read_blocks(socket: RawFd) -> bool {
    WAIT.with_borrow_mut(|wait| wait.in_read.take_if(|chosen| *chosen == socket).is_some())
}

/// Removes `socket`, which is to be closed, from the sockets that the thread waits for: otherwise
/// it would stay open during the next sleep.
pub(crate) fn forget(socket: RawFd) {
    // While the thread ends, it waits for nothing.
    let _ = WAIT.try_with(|wait| {
        let Wait { sockets, silent, .. } = &mut *wait.borrow_mut();
        sockets.retain(|awaited| awaited.socket.as_fd().as_raw_fd() != socket);
        silent.retain(|silent| *silent != socket);
    });
}

/// Takes note that a read has emptied `socket`. It holds until the next sleep.
pub(crate) fn silence(socket: RawFd) {
    WAIT.with_borrow_mut(|wait| wait.silent.push(socket));
}

/// Whether `socket` is known to have nothing to read. (Where that is wrong, `poll(2)` returns at
/// once.)
pub(crate) fn is_silent(socket: RawFd) -> bool {
    WAIT.with_borrow(|wait| wait.silent.contains(&socket))
}

impl Wait {
    fn sleep(&mut self, parker: &Arc<Parker>, patient: usize) {
        let mut sockets = mem::take(&mut self.sockets);
        let timeout = self.timeout.take();
        let now = SystemInstant::now();
        let quick = self.slept.replace(now).is_some_and(|last| now - last < QUICK);
        self.quick = if quick { self.quick.saturating_add(1) } else { 0 };
        self.silent.clear();
        // A read that was to block and was not made may not be made the next time either.
        let unused = self.in_read.take().is_some();
        // The future is polled once more, and its read blocks: a sleep less a request. Not for a
        // connection that is seldom heard of, which would hold a buffer all the while.
        if let [Awaited { socket, is_read: true, .. }] = &sockets[..]
            && !unused
            && self.quick >= BUSY
            && parker.kept() <= patient
            && timeout.is_none_or(|timeout| timeout > READ_TIMEOUT)
            && !parker.was_woken()
        {
            self.in_read = Some(socket.as_fd().as_raw_fd());
        } else {
            sleep(parker, &sockets, timeout, &mut self.silent);
        }
        // Keeps the list's memory for the next round.
        sockets.clear();
        self.sockets = sockets;
    }
}

/// Sleeps in `poll(2)`.
fn sleep(
    parker: &Arc<Parker>,
    sockets: &[Awaited],
    mut timeout: Option<Duration>,
    silent: &mut Vec<RawFd>,
) {
    if parker.kept() > 0 && !parker.can_be_woken() {
        timeout = Some(timeout.map_or(DEAF, |timeout| timeout.min(DEAF)));
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
        // A signal only makes the future look again.
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => panic!("poll(2): {error}"),
    }
    parker.unpark();
    for (awaited, fd) in sockets.iter().zip(&*fds) {
        if awaited.what == PollFlags::IN && fd.revents().is_empty() {
            silent.push(awaited.socket.as_fd().as_raw_fd());
        }
    }
    if let (Some(event), Some(fd)) = (event, fds.get(sockets.len()))
        && !fd.revents().is_empty()
    {
        // Only to empty it: that it could be read has said all there is to say.
        let _ = rustix::io::read(event, &mut [0; 8]);
    }
}

/// How long a thread sleeps that can't be woken, for want of a descriptor.
const DEAF: Duration = Duration::from_millis(50);

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// What wakes a thread in `poll(2)`: an eventfd, made when somebody keeps the waker.
#[derive(Default)]
struct Parker {
    state: AtomicU8,
    event: OnceLock<OwnedFd>,
}

/// The future is being polled.
const AWAKE: u8 = 0;
/// The thread sleeps, or is about to, and whoever wakes it writes to the eventfd.
const PARKED: u8 = 1;
/// It was woken, and does not go to sleep.
const WOKEN: u8 = 2;

impl Parker {
    /// How many others have a waker. `run` itself holds two handles.
    fn kept(self: &Arc<Self>) -> usize {
        Arc::strong_count(self) - 2
    }

    /// Makes the eventfd; false where there is no descriptor left for it.
    fn can_be_woken(&self) -> bool {
        if self.event.get().is_none()
            && let Ok(event) = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        {
            self.event.get_or_init(|| event);
        }
        self.event.get().is_some()
    }

    /// The future asks to be polled again at once.
    fn was_woken(&self) -> bool {
        self.state.load(SeqCst) == WOKEN
    }

    /// False where it was woken already.
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
            // It fails only if 2^64 - 1 wake-ups are pending: then there is one.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }
}

/// The clock of [`Threads`](crate::Threads): the system's monotonic one.
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
        // A deadline beyond the system's time never comes.
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
