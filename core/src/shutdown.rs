//! Asking servers to stop, once or twice.

use alloc::vec::Vec;
use core::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker},
};

use crate::shared::{Lock, Shared};

/// A handle by which one or more servers are asked to stop. Clones are the same handle.
///
/// ```
/// # use wirestate_core::shutdown::{ShutdownHandle, Shutdown};
/// let stop = ShutdownHandle::new();
/// assert_eq!(stop.requested(), Shutdown::None);
/// stop.drain();
/// assert_eq!(stop.requested(), Shutdown::Drain);
/// stop.abort();
/// stop.drain(); // no way back
/// assert_eq!(stop.requested(), Shutdown::Immediate);
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

/// What was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// Nothing: go on.
    #[default]
    None,
    /// Accept the backlog and no more, flush pending output, then end.
    Drain,
    /// End at once.
    Immediate,
}

impl ShutdownHandle {
    /// A handle on which nothing was asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a graceful end.
    pub fn drain(&self) {
        self.ask(Shutdown::Drain);
    }

    /// Asks for an end at once: what is owed is given up.
    pub fn abort(&self) {
        self.ask(Shutdown::Immediate);
    }

    /// What was asked so far.
    pub fn requested(&self) -> Shutdown {
        self.state.with(|state| state.requested)
    }

    /// What was asked so far; `cx` is woken when that changes.
    pub fn poll_requested(&self, cx: &mut Context<'_>) -> Shutdown {
        self.state.with(|state| {
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            state.requested
        })
    }

    /// Returns the output of `future`; `None` if a stop is requested first, which drops `future`.
    pub async fn unless_requested<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.poll_requested(cx) > Shutdown::None {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    fn ask(&self, requested: Shutdown) {
        let woken = self.state.with(|state| {
            if state.requested >= requested {
                return Vec::new();
            }
            state.requested = requested;
            core::mem::take(&mut state.waiting)
        });
        for waker in woken {
            waker.wake();
        }
    }
}
