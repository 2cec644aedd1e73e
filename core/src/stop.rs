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
/// # use wirestate_core::stop::{Stop, Stopping};
/// let stop = Stop::new();
/// assert_eq!(stop.asked(), Stopping::No);
/// stop.drain();
/// assert_eq!(stop.asked(), Stopping::Drain);
/// stop.now();
/// stop.drain(); // no way back
/// assert_eq!(stop.asked(), Stopping::Now);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stop {
    state: Shared<Lock<State>>,
}

#[derive(Debug, Default)]
struct State {
    asked: Stopping,
    waiting: Vec<Waker>,
}

/// What was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stopping {
    /// Nothing: go on.
    #[default]
    No,
    /// Accept the backlog and no more, flush pending output, then end.
    Drain,
    /// End at once.
    Now,
}

impl Stop {
    /// A handle on which nothing was asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a graceful end.
    pub fn drain(&self) {
        self.ask(Stopping::Drain);
    }

    /// Asks for an end at once: what is owed is given up.
    pub fn now(&self) {
        self.ask(Stopping::Now);
    }

    /// What was asked so far.
    pub fn asked(&self) -> Stopping {
        self.state.with(|state| state.asked)
    }

    /// What was asked so far; `cx` is woken when that changes.
    pub fn poll_asked(&self, cx: &mut Context<'_>) -> Stopping {
        self.state.with(|state| {
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            state.asked
        })
    }

    /// Returns the output of `future`; `None` if a stop is requested first, which drops `future`.
    pub async fn unless_asked<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.poll_asked(cx) > Stopping::No {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    fn ask(&self, asked: Stopping) {
        let woken = self.state.with(|state| {
            if state.asked >= asked {
                return Vec::new();
            }
            state.asked = asked;
            core::mem::take(&mut state.waiting)
        });
        for waker in woken {
            waker.wake();
        }
    }
}
