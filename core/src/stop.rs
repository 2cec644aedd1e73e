//! Asking servers to stop, once or twice.

use alloc::vec::Vec;
use core::task::{Context, Waker};

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
    /// Accept no more, flush what is owed, then end.
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
