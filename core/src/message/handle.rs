//! One client's connection, used by many.

use alloc::collections::BTreeMap;
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
/// gone, and all requests that were made by them have their replies.
#[derive(Debug)]
pub struct Handle {
    commands: Shared<Commands>,
}

impl Handle {
    pub(super) fn new(commands: Shared<Commands>) -> Self {
        commands.state.with(|state| state.handles += 1);
        Self { commands }
    }

    /// Makes a request when the future is first polled; it answers with the reply. Requests wait
    /// for their turn in the order in which they were made, while
    /// [`ClientConfig::in_flight`](super::ClientConfig::in_flight) others are out. Dropping the
    /// future takes the request back, or if it was sent, throws its reply away.
    ///
    /// # Errors
    /// The request can't be sent, or the connection has ended without the reply. A request that may
    /// have been sent is never sent again.
    pub fn request(&self, request: Message<'static>) -> Request {
        Request { handle: self.clone(), stage: Stage::New(request) }
    }

    /// Why the connection has ended, or takes no more requests; `None` while it does.
    pub fn reason(&self) -> Option<ClientReason> {
        self.commands.state.with(|state| state.over.clone())
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(self.commands.clone())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let upstream_lost = self.commands.state.with(|state| {
            state.handles -= 1;
            if state.handles == 0 { state.driver.take() } else { None }
        });
        if let Some(driver) = upstream_lost {
            driver.wake();
        }
    }
}

/// A request that is made by a [`Handle`], as a future.
pub struct Request {
    /// It keeps the connection, as every handle does.
    handle: Handle,
    stage: Stage,
}

enum Stage {
    New(Message<'static>),
    /// It is in the queue, by this number, or was sent.
    Made(u64, Shared<Slot<Outcome>>),
    Over,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl Future for Request {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (number, slot) = match mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(request) => match self.handle.commands.push(request) {
                Ok(made) => made,
                Err(reason) => return Poll::Ready(Err(reason.into())),
            },
            Stage::Made(number, slot) => (number, slot),
            Stage::Over => panic!("polled again after it was ready"),
        };
        let outcome = slot.poll(cx);
        if outcome.is_pending() {
            self.stage = Stage::Made(number, slot);
        }
        outcome
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Stage::Made(number, slot) = &self.stage {
            // What is given up is dropped outside the locks.
            let queued = self.handle.commands.state.with(|state| state.queue.remove(number));
            let outcome = slot.state.with(|slot| mem::replace(slot, SlotState::Abandoned));
            drop((queued, outcome));
        }
    }
}

/// A reply to a request that was made by a [`Handle`].
pub(super) type Outcome = Result<Message<'static>, RequestError>;

/// Where a reply comes to.
#[derive(Debug)]
pub(super) struct Slot<R> {
    state: Lock<SlotState<R>>,
}

#[derive(Debug)]
enum SlotState<R> {
    Awaited(Option<Waker>),
    Here(R),
    Abandoned,
}

impl<R> Default for Slot<R> {
    fn default() -> Self {
        Self { state: Lock::new(SlotState::Awaited(None)) }
    }
}

impl<R> Slot<R> {
    pub(super) fn fulfil(&self, reply: R) {
        let before = self.state.with(|state| match state {
            SlotState::Awaited(_) => mem::replace(state, SlotState::Here(reply)),
            // Nobody wants it.
            SlotState::Here(_) | SlotState::Abandoned => SlotState::Here(reply),
        });
        if let SlotState::Awaited(Some(waker)) = before {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<R> {
        let waker = cx.waker().clone();
        let before = self.state.with(|state| match state {
            SlotState::Here(_) => mem::replace(state, SlotState::Abandoned),
            SlotState::Awaited(_) | SlotState::Abandoned => {
                mem::replace(state, SlotState::Awaited(Some(waker)))
            }
        });
        match before {
            SlotState::Here(reply) => Poll::Ready(reply),
            SlotState::Awaited(_) | SlotState::Abandoned => Poll::Pending,
        }
    }
}

/// What the handles of one connection have asked, and the connection has not taken yet. There is a
/// place in it for each [`Request`] that was polled and is not over: no more than its users hold.
#[derive(Debug, Default)]
pub(super) struct Commands {
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they were made.
    queue: BTreeMap<u64, (Message<'static>, Shared<Slot<Outcome>>)>,
    made: u64,
    /// Handles, and requests.
    handles: usize,
    /// The connection's, while the queue is empty.
    driver: Option<Waker>,
    over: Option<ClientReason>,
}

/// What the connection finds in the queue.
pub(super) enum Next {
    Command(Message<'static>, Shared<Slot<Outcome>>),
    Nothing,
    /// Nothing, and nobody is left to put something in.
    Deserted,
}

impl Commands {
    fn push(
        &self,
        request: Message<'static>,
    ) -> Result<(u64, Shared<Slot<Outcome>>), ClientReason> {
        let slot = Shared::new(Slot::default());
        let (number, driver) = self.state.with(|state| {
            if let Some(reason) = &state.over {
                return Err(reason.clone());
            }
            let number = state.made;
            state.made += 1;
            state.queue.insert(number, (request, slot.clone()));
            Ok((number, state.driver.take()))
        })?;
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok((number, slot))
    }

    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Next {
        let waker = cx.waker().clone();
        let (next, before) = self.state.with(|state| match state.queue.pop_first() {
            Some((_, (request, slot))) => (Next::Command(request, slot), None),
            None if state.handles == 0 => (Next::Deserted, None),
            None => (Next::Nothing, state.driver.replace(waker)),
        });
        drop(before);
        next
    }

    /// The connection takes no more: all that wait are told why.
    pub(super) fn end(&self, reason: &ClientReason) {
        let (queue, driver) = self.state.with(|state| {
            state.over.get_or_insert_with(|| reason.clone());
            (mem::take(&mut state.queue), state.driver.take())
        });
        for (_, slot) in queue.into_values() {
            slot.fulfil(Err(RequestError::Ended(reason.clone())));
        }
        drop(driver);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::{
        Instant, Machine, Outbound, drive,
        message::{Client, ClientConfig},
    };

    const NOW: Instant = Instant::EPOCH;

    fn settle(client: &mut Client) {
        let cx = &mut Context::from_waker(Waker::noop());
        while client.poll_shared(NOW, cx) {}
    }

    fn poll(request: &mut Request) -> Poll<Result<Message<'static>, RequestError>> {
        Pin::new(request).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_client_whose_last_handle_goes_with_an_unsent_request_ends() {
        let (mut client, handle) = Client::with_handle(ClientConfig::default());
        let mut request = handle.request(Message::binary("x"));
        assert!(poll(&mut request).is_pending());
        drop((request, handle));
        settle(&mut client);
        assert_eq!(client.interest().write, Outbound::Finish);
    }

    #[test]
    fn a_request_keeps_its_connection_until_it_has_its_reply() {
        let (mut client, handle) = Client::with_handle(ClientConfig::default());
        let mut request = handle.request(Message::binary("x"));
        drop(handle);
        settle(&mut client);
        assert!(poll(&mut request).is_pending());
        settle(&mut client);
        let mut frame = [0; 1024];
        let n = drive::collect_into(&mut client, &mut frame, NOW);
        drive::deliver(&mut client, &mut &frame[..n], NOW);
        assert_eq!(poll(&mut request), Poll::Ready(Ok(Message::binary("x"))));
        drop(request);
        settle(&mut client);
        assert_eq!(client.interest().write, Outbound::Finish);
    }

    #[test]
    fn a_request_that_was_dropped_before_it_was_sent_is_not_sent() {
        let (mut client, handle) = Client::with_handle(ClientConfig::default());
        let mut requests = ["a", "b", "c"].map(|text| handle.request(Message::binary(text)));
        for request in &mut requests {
            assert!(poll(request).is_pending());
        }
        let [a, b, c] = requests;
        drop(b);
        settle(&mut client);
        let (mut expected, mut sent) = (Vec::new(), [0; 1024]);
        Message::binary("a").encode(&mut expected).unwrap();
        Message::binary("c").encode(&mut expected).unwrap();
        let n = drive::collect_into(&mut client, &mut sent, NOW);
        assert_eq!(sent[..n], expected);
        drop((a, c));
    }

    #[test]
    fn all_that_wait_are_told_why_there_is_no_reply() {
        let (client, handle) = Client::with_handle(ClientConfig::default());
        let mut request = handle.request(Message::binary("x"));
        assert!(poll(&mut request).is_pending());
        drop(client);
        let dropped = Poll::Ready(Err(RequestError::Ended(ClientReason::Dropped)));
        assert_eq!(poll(&mut request), dropped);
        assert_eq!(poll(&mut handle.request(Message::binary("y"))), dropped);
        assert_eq!(handle.reason(), Some(ClientReason::Dropped));
    }
}
