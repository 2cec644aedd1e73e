//! Where a reply is stored until the future that waits for it is polled.

use core::{
    mem,
    task::{Context, Poll, Waker},
};

use crate::shared::Lock;

/// A reply that one side stores and the other waits for.
#[derive(Debug)]
pub(super) struct ReplySlot<R> {
    state: Lock<State<R>>,
}

#[derive(Debug)]
enum State<R> {
    Waiting(Option<Waker>),
    Ready(R),
    /// The future that waited was dropped, or has returned the reply.
    Abandoned,
}

impl<R> Default for ReplySlot<R> {
    fn default() -> Self {
        Self { state: Lock::new(State::Waiting(None)) }
    }
}

impl<R> ReplySlot<R> {
    /// Stores the reply and wakes the future. If the slot is abandoned, the reply is dropped.
    pub(super) fn fulfil(&self, reply: R) {
        // What is replaced or refused is dropped outside the lock.
        let before = self.state.with(|state| match state {
            State::Waiting(_) => mem::replace(state, State::Ready(reply)),
            State::Ready(_) | State::Abandoned => State::Ready(reply),
        });
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<R> {
        let waker = cx.waker().clone();
        let before = self.state.with(|state| match state {
            State::Ready(_) => mem::replace(state, State::Abandoned),
            State::Waiting(_) | State::Abandoned => {
                mem::replace(state, State::Waiting(Some(waker)))
            }
        });
        match before {
            State::Ready(reply) => Poll::Ready(reply),
            State::Waiting(_) | State::Abandoned => Poll::Pending,
        }
    }

    /// Nothing waits for the reply any more.
    pub(super) fn abandon(&self) {
        drop(self.state.with(|state| mem::replace(state, State::Abandoned)));
    }
}
