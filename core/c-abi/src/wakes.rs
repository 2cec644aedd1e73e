//! Wake-ups: which machines to drive although nothing has happened on their sockets.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU8, Ordering},
    },
    task::Wake,
};

use crate::{pointer, result::ResultCode};

/// The queue of woken machines of one event loop.
///
/// Every machine belongs to one, with a token that you choose: an index, or the address of your
/// connection. When the machine is woken, its token enters the queue, at most once.
///
/// Any thread may use it at any time. It must outlive no machine: a machine whose queue was freed
/// is not woken.
#[derive(Debug, Default)]
pub struct Wakes {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    woken: VecDeque<Arc<Wakeable>>,
    /// Whether a token was added since the last interrupt was asked for or the queue was emptied.
    needs_interrupt: bool,
}

/// A machine's place in the queue: its waker.
#[derive(Debug)]
pub(crate) struct Wakeable {
    queue: Weak<Mutex<Queue>>,
    token: u64,
    state: AtomicU8,
}

const IDLE: u8 = 0;
const WOKEN: u8 = 1;
const FREED: u8 = 2;

impl Wakes {
    pub(crate) fn register(&self, token: u64) -> Arc<Wakeable> {
        let queue = Arc::downgrade(&self.queue);
        Arc::new(Wakeable { queue, token, state: AtomicU8::new(IDLE) })
    }

    fn next(&self) -> Option<u64> {
        let mut queue = lock(&self.queue);
        // What wakes a machine next needs an interrupt, because this loop may sleep then.
        queue.needs_interrupt = false;
        let wakeable = queue.woken.pop_front()?;
        wakeable.state.store(IDLE, Ordering::Relaxed);
        Some(wakeable.token)
    }

    fn take_interrupt(&self) -> bool {
        std::mem::take(&mut lock(&self.queue).needs_interrupt)
    }
}

impl Wakeable {
    /// Removes the machine from the queue. It is not woken any more.
    pub(crate) fn free(self: &Arc<Self>) {
        let Some(queue) = self.queue.upgrade() else { return };
        let mut queue = lock(&queue);
        if self.state.swap(FREED, Ordering::Relaxed) == WOKEN {
            queue.woken.retain(|woken| !Arc::ptr_eq(woken, self));
        }
    }
}

impl Wake for Wakeable {
    fn wake(self: Arc<Self>) {
        let Some(queue) = self.queue.upgrade() else { return };
        // The state changes only under the lock.
        let mut queue = lock(&queue);
        if self.state.load(Ordering::Relaxed) == IDLE {
            self.state.store(WOKEN, Ordering::Relaxed);
            queue.woken.push_back(self);
            queue.needs_interrupt = true;
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a queue. Each event loop (each thread) needs one.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_wakes_new(wakes: *mut *mut Wakes) -> ResultCode {
    // SAFETY: the caller's pointer is valid.
    ResultCode::of(unsafe { pointer::store_new(wakes, Wakes::default()) })
}

/// Removes the next token from the queue: drive its machine. Returns false if there is none.
///
/// Call it after you have driven machines, before you wait, until it returns false.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_wakes_next(wakes: *const Wakes, token: *mut u64) -> bool {
    // SAFETY: the caller's pointer is valid.
    let Ok(wakes) = (unsafe { pointer::shared(wakes) }) else { return false };
    if token.is_null() {
        return false;
    }
    let next = wakes.next();
    // SAFETY: the caller's pointer is valid.
    next.is_some_and(|next| unsafe { pointer::store(token, next) }.is_ok())
}

/// Whether to interrupt the wait of the loop that owns this queue, for example by `eventfd(2)`. The
/// library cannot do it, because it does no IO. Returns true once after tokens were added.
///
/// Only for programs with several threads. Call it for the queue of every other loop after you have
/// driven machines that share a server with it, and after you have replied to requests.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_wakes_interrupt(wakes: *const Wakes) -> bool {
    // SAFETY: the caller's pointer is valid.
    unsafe { pointer::shared(wakes) }.is_ok_and(Wakes::take_interrupt)
}

/// Frees the queue. NULL is ignored.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_wakes_free(wakes: *mut Wakes) {
    // SAFETY: the caller gives the pointer back.
    drop(unsafe { pointer::take(wakes) });
}
