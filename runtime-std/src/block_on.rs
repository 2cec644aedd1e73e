//! A thread that runs one future, and sleeps in `poll(2)` on what it waits for.

use std::{
    cell::RefCell,
    future::Future,
    mem,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst, fence},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant as SystemInstant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    time::Timespec,
};
use wirestate_core::{Instant, drive::Clock};

/// Runs `future` on this thread until it is done.
///
/// Sockets and clocks of this crate work only inside it; a future of another kind is woken by its
/// waker, as on any executor.
///
/// # Panics
/// If `poll(2)` fails for want of memory, which is its only failure that can happen here.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let parker = Arc::new(Parker::default());
    let waker = Waker::from(parker.clone());
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    // What an outer `block_on` of this thread waited for comes back at the end.
    let outer = WAIT.take();
    let output = loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            break output;
        }
        WAIT.with_borrow_mut(|wait| wait.sleep(&parker));
    };
    WAIT.replace(outer);
    output
}

thread_local! {
    static WAIT: RefCell<Wait> = RefCell::default();
}

/// What this thread's future waits for, as of its last poll.
#[derive(Default)]
struct Wait {
    /// Counts the sleeps.
    round: u64,
    sockets: Vec<(Arc<dyn AsFd>, PollFlags)>,
    deadline: Option<SystemInstant>,
}

/// Has this thread's next sleep end when `socket` is ready for `what`.
pub(crate) fn wait_for(socket: Arc<dyn AsFd>, what: PollFlags) {
    WAIT.with_borrow_mut(|wait| wait.sockets.push((socket, what)));
}

/// Which sleep of this thread comes next. What a socket has found about its readiness holds only
/// within one round.
pub(crate) fn round() -> u64 {
    WAIT.with_borrow(|wait| wait.round)
}

impl Wait {
    fn sleep(&mut self, parker: &Arc<Parker>) {
        let sockets = mem::take(&mut self.sockets);
        let deadline = self.deadline.take();
        self.round += 1;
        let mut deaf = false;
        if parker.is_kept() {
            deaf = !parker.listen();
        }
        if parker.woken.swap(false, SeqCst) {
            self.reuse(sockets);
            return;
        }
        let event = parker.event.get();
        let mut fds: Vec<_> = sockets
            .iter()
            .map(|(socket, what)| PollFd::from_borrowed_fd(socket.as_fd(), *what))
            .chain(event.map(|event| PollFd::new(event, PollFlags::IN)))
            .collect();
        let mut timeout = deadline.map(|deadline| deadline.duration_since(SystemInstant::now()));
        if deaf {
            timeout = Some(timeout.map_or(DEAF, |timeout| timeout.min(DEAF)));
        }
        let timeout = timeout.map(timespec);
        match poll(&mut fds, timeout.as_ref()) {
            // A signal only makes the future look again.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll(2): {error}"),
        }
        drop(fds);
        self.reuse(sockets);
        if parker.woken.swap(false, SeqCst)
            && let Some(event) = event
        {
            // Only to empty it; `woken` has said all there is to say.
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
    }

    /// Keeps the list's memory for the next round.
    fn reuse(&mut self, mut sockets: Vec<(Arc<dyn AsFd>, PollFlags)>) {
        sockets.clear();
        self.sockets = sockets;
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
    woken: AtomicBool,
    event: OnceLock<OwnedFd>,
}

impl Parker {
    /// Whether anybody else has a waker. `block_on` itself holds two handles.
    fn is_kept(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 2
    }

    /// From now on `wake` writes to the eventfd. The fence orders this against `wake`: either that
    /// finds the eventfd, or the caller, who looks at `woken` next, finds it set.
    ///
    /// False where there is no descriptor left for an eventfd.
    fn listen(&self) -> bool {
        if self.event.get().is_none()
            && let Ok(event) = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        {
            self.event.get_or_init(|| event);
        }
        fence(SeqCst);
        self.event.get().is_some()
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.swap(true, SeqCst) {
            return;
        }
        fence(SeqCst);
        if let Some(event) = self.event.get() {
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
        if SystemInstant::now() >= deadline {
            return Poll::Ready(());
        }
        WAIT.with_borrow_mut(|wait| {
            wait.deadline = Some(wait.deadline.map_or(deadline, |other| other.min(deadline)));
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
}
