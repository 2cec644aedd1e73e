//! Requests to shut down: gracefully, or at once.

use alloc::vec::Vec;
use core::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker},
};

use crate::shared::{Lock, Shared, wake};

/// A handle that shuts down one or more servers. Clones are the same handle.
///
/// ```
/// # use wirestate_core::shutdown::{ShutdownHandle, Shutdown};
/// let shutdown = ShutdownHandle::new();
/// assert_eq!(shutdown.requested(), Shutdown::None);
/// shutdown.drain();
/// assert_eq!(shutdown.requested(), Shutdown::Drain);
/// shutdown.abort();
/// shutdown.drain(); // without effect: requests only escalate
/// assert_eq!(shutdown.requested(), Shutdown::Immediate);
/// ```
#[derive(Clone, Debug, Default)]
pub struct ShutdownHandle {
    state: Shared<Lock<State>>,
}

#[derive(Debug, Default)]
struct State {
    requested: Shutdown,
    waiting: Vec<Waker>,
}

/// The shutdown that was requested. It only escalates, in the order of the variants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// None.
    #[default]
    None,
    /// A soft stop: accept the backlog and nothing after it, and leave open connections alone.
    SoftStop,
    /// A graceful one: accept the backlog, flush pending output, then end.
    Drain,
    /// An immediate one: reset all connections.
    Immediate,
}

impl ShutdownHandle {
    /// A handle without a request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests a soft stop.
    pub fn soft_stop(&self) {
        self.request(Shutdown::SoftStop);
    }

    /// Requests a graceful shutdown.
    pub fn drain(&self) {
        self.request(Shutdown::Drain);
    }

    /// Requests an immediate shutdown: pending output is discarded.
    pub fn abort(&self) {
        self.request(Shutdown::Immediate);
    }

    /// The shutdown that was requested so far.
    pub fn requested(&self) -> Shutdown {
        self.state.with(|state| state.requested)
    }

    /// The shutdown that was requested so far. The waker of `cx` is woken when that changes.
    pub fn poll_requested(&self, cx: &mut Context<'_>) -> Shutdown {
        self.state.with(|state| {
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            state.requested
        })
    }

    /// Runs `future` to its end. If a drain or an immediate shutdown is requested first, drops it
    /// and returns `None`.
    pub async fn unless_requested<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.poll_requested(cx) >= Shutdown::Drain {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    fn request(&self, requested: Shutdown) {
        let woken = self.state.with(|state| {
            if state.requested >= requested {
                return Vec::new();
            }
            state.requested = requested;
            core::mem::take(&mut state.waiting)
        });
        wake(woken);
    }
}
