//! One client's connection, used by many.

use alloc::{collections::VecDeque, vec::Vec};
use core::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::{ClientReason, Message, RequestError};
use crate::shared::{Lock, Shared};

/// A handle by which many tasks or threads use one connection. Clones are the same connection.
///
/// The connection's [`Client`](super::Client) is driven elsewhere; it ends when all handles are
/// gone.
#[derive(Debug)]
pub struct Handle {
    commands: Shared<Commands>,
}

impl Handle {
    pub(super) fn new(commands: Shared<Commands>) -> Self {
        commands.state.with(|state| state.handles += 1);
        Self { commands }
    }

    /// Makes a request; the future answers with the reply. It waits while
    /// [`ClientConfig::queue`](super::ClientConfig::queue) requests wait already. Dropping it takes
    /// the request back, or if it was sent, throws its reply away.
    ///
    /// # Errors
    /// The request can't be sent, or the connection has ended without the reply. A request that may
    /// have been sent is never sent again.
    pub fn request(&self, request: Message<'static>) -> Request {
        Request { commands: self.commands.clone(), stage: Stage::New(request) }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(self.commands.clone())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let deserted = self.commands.state.with(|state| {
            state.handles -= 1;
            if state.handles == 0 { state.driver.take() } else { None }
        });
        if let Some(driver) = deserted {
            driver.wake();
        }
    }
}

/// A request that was made by a [`Handle`], as a future.
pub struct Request {
    commands: Shared<Commands>,
    stage: Stage,
}

enum Stage {
    New(Message<'static>),
    Queued(Shared<Slot>),
    Over,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl Future for Request {
    type Output = Result<Message<'static>, RequestError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let slot = match mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(request) => match self.commands.push(request, cx) {
                Pushed::Queued(slot) => slot,
                Pushed::Full(request) => {
                    self.stage = Stage::New(request);
                    return Poll::Pending;
                }
                Pushed::Ended(reason) => return Poll::Ready(Err(reason.into())),
            },
            Stage::Queued(slot) => slot,
            Stage::Over => panic!("polled again after it was ready"),
        };
        let outcome = slot.poll_outcome(cx);
        if outcome.is_pending() {
            self.stage = Stage::Queued(slot);
        }
        outcome
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Stage::Queued(slot) = &self.stage {
            slot.outcome.with(|outcome| *outcome = Outcome::Abandoned);
        }
    }
}

/// Where a reply comes to.
#[derive(Debug, Default)]
pub(super) struct Slot {
    outcome: Lock<Outcome>,
}

#[derive(Debug)]
enum Outcome {
    Awaited(Option<Waker>),
    Here(Result<Message<'static>, RequestError>),
    Abandoned,
}

impl Default for Outcome {
    fn default() -> Self {
        Self::Awaited(None)
    }
}

impl Slot {
    pub(super) fn fulfil(&self, result: Result<Message<'static>, RequestError>) {
        let before = self.outcome.with(|outcome| match outcome {
            Outcome::Awaited(_) => mem::replace(outcome, Outcome::Here(result)),
            Outcome::Here(_) | Outcome::Abandoned => Outcome::Abandoned,
        });
        if let Outcome::Awaited(Some(waker)) = before {
            waker.wake();
        }
    }

    fn is_abandoned(&self) -> bool {
        self.outcome.with(|outcome| matches!(outcome, Outcome::Abandoned))
    }

    fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<Result<Message<'static>, RequestError>> {
        self.outcome.with(|outcome| match mem::replace(outcome, Outcome::Abandoned) {
            Outcome::Here(result) => Poll::Ready(result),
            Outcome::Awaited(_) | Outcome::Abandoned => {
                *outcome = Outcome::Awaited(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
    }
}

/// What the handles of one connection have asked, and the connection has not taken yet.
#[derive(Debug)]
pub(super) struct Commands {
    limit: usize,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(Message<'static>, Shared<Slot>)>,
    handles: usize,
    /// The connection's, while the queue is empty.
    driver: Option<Waker>,
    /// Of those who wait for room in the queue.
    waiting: Vec<Waker>,
    over: Option<ClientReason>,
}

/// What came of putting a request into the queue.
enum Pushed {
    Queued(Shared<Slot>),
    Full(Message<'static>),
    Ended(ClientReason),
}

/// What the connection finds in the queue.
pub(super) enum Next {
    Command(Message<'static>, Shared<Slot>),
    Nothing,
    /// Nothing, and nobody is left to put something in.
    Deserted,
}

impl Commands {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Lock::default() }
    }

    fn push(&self, request: Message<'static>, cx: &mut Context<'_>) -> Pushed {
        let (pushed, driver) = self.state.with(|state| {
            if let Some(reason) = &state.over {
                return (Pushed::Ended(reason.clone()), None);
            }
            if state.queue.len() >= self.limit {
                if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.waiting.push(cx.waker().clone());
                }
                return (Pushed::Full(request), None);
            }
            let slot = Shared::new(Slot::default());
            state.queue.push_back((request, slot.clone()));
            (Pushed::Queued(slot), state.driver.take())
        });
        if let Some(driver) = driver {
            driver.wake();
        }
        pushed
    }

    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Next {
        let (next, waiting) = self.state.with(|state| {
            let mut waiting = Vec::new();
            while let Some((request, slot)) = state.queue.pop_front() {
                if state.queue.is_empty() {
                    // Many wait for room at once, so they are told of much of it at once.
                    waiting = mem::take(&mut state.waiting);
                }
                if !slot.is_abandoned() {
                    return (Next::Command(request, slot), waiting);
                }
            }
            if state.handles == 0 {
                return (Next::Deserted, waiting);
            }
            state.driver = Some(cx.waker().clone());
            (Next::Nothing, waiting)
        });
        for waker in waiting {
            waker.wake();
        }
        next
    }

    /// The connection takes no more: all that wait are told why.
    pub(super) fn end(&self, reason: &ClientReason) {
        let (queue, waiting) = self.state.with(|state| {
            state.over.get_or_insert_with(|| reason.clone());
            (mem::take(&mut state.queue), mem::take(&mut state.waiting))
        });
        for (_, slot) in queue {
            slot.fulfil(Err(RequestError::Ended(reason.clone())));
        }
        for waker in waiting {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Instant, Machine as _, Outbound,
        message::{Client, ClientConfig},
    };

    #[test]
    fn the_last_handle_may_go_with_a_request_that_was_not_sent() {
        let (mut client, handle) = Client::with_handle(ClientConfig::default());
        let cx = &mut Context::from_waker(Waker::noop());
        let mut request = handle.request(Message::binary("never mind"));
        assert!(Pin::new(&mut request).poll(cx).is_pending());
        drop((request, handle));
        while client.poll_shared(Instant::EPOCH, cx) {}
        assert_eq!(client.interest().write, Outbound::Finish, "nobody is left to ask");
    }
}
