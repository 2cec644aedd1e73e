//! A slot that stores a reply until the future that waits for it is polled.

use core::{
    mem,
    task::{Context, Poll, Waker},
};

use crate::shared::Lock;

/// A slot for a reply: one side stores the reply, the other waits for it.
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
        // The replaced state, or the refused reply, is dropped outside the lock.
        let old = self.state.with(|state| match state {
            State::Waiting(_) => mem::replace(state, State::Ready(reply)),
            State::Ready(_) | State::Abandoned => State::Ready(reply),
        });
        if let State::Waiting(Some(waker)) = old {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<R> {
        let waker = cx.waker().clone();
        let old = self.state.with(|state| match state {
            State::Ready(_) => mem::replace(state, State::Abandoned),
            State::Waiting(_) | State::Abandoned => {
                mem::replace(state, State::Waiting(Some(waker)))
            }
        });
        match old {
            State::Ready(reply) => Poll::Ready(reply),
            State::Waiting(_) | State::Abandoned => Poll::Pending,
        }
    }

    /// Marks the slot as abandoned: nothing waits for the reply any more.
    pub(super) fn abandon(&self) {
        drop(self.state.with(|state| mem::replace(state, State::Abandoned)));
    }
}
