//! The queue between the handles of a connection and its client.

use alloc::collections::BTreeMap;
use core::{
    mem,
    task::{Context, Waker},
};

use super::{ClientReason, RequestError};
use crate::{
    message::Message,
    shared::{Lock, Promise, Promised, promise, wake},
};

/// The result of a request.
pub(super) type ReplyResult = Result<Message<'static>, RequestError>;

/// The queue of requests that the client has not sent.
///
/// It has no limit: each request belongs to a [`ReplyFuture`](super::ReplyFuture) that waits for
/// its reply.
#[derive(Debug, Default)]
pub(super) struct HandleQueue {
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The requests by id, in the order in which they were made.
    requests: BTreeMap<u64, QueuedRequest>,
    next_id: u64,
    /// The number of handles and reply futures.
    handles: usize,
    /// The client's waker, while the queue is empty.
    client: Option<Waker>,
    ended: Option<ClientReason>,
}

/// A request, and the promise of its reply.
pub(super) type QueuedRequest = (Message<'static>, Promise<ReplyResult>);

/// The result of [`HandleQueue::poll_next`].
pub(super) enum NextRequest {
    Request(QueuedRequest),
    Empty,
    /// The queue is empty, and all handles are dropped.
    NoHandles,
}

impl HandleQueue {
    pub(super) fn add_handle(&self) {
        self.state.with(|state| state.handles += 1);
    }

    pub(super) fn remove_handle(&self) {
        let client = self.state.with(|state| {
            state.handles -= 1;
            if state.handles == 0 { state.client.take() } else { None }
        });
        wake(client);
    }

    /// Appends a request. Returns its id and the future of its reply.
    pub(super) fn push(
        &self,
        request: Message<'static>,
    ) -> Result<(u64, Promised<ReplyResult>), ClientReason> {
        let (promise, promised) = promise();
        let (id, client) = self.state.with(|state| {
            if let Some(reason) = &state.ended {
                return Err(reason.clone());
            }
            let id = state.next_id;
            state.next_id += 1;
            state.requests.insert(id, (request, promise));
            Ok((id, state.client.take()))
        })?;
        wake(client);
        Ok((id, promised))
    }

    /// Removes the request with this `id`, unless it was sent.
    pub(super) fn remove(&self, id: u64) {
        // The request is dropped outside the lock.
        drop(self.state.with(|state| state.requests.remove(&id)));
    }

    /// Removes the next request. If there is none, wakes `cx` when one is pushed or the last handle
    /// is dropped.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> NextRequest {
        let waker = cx.waker().clone();
        let (next, old_waker) = self.state.with(|state| match state.requests.pop_first() {
            Some((_, request)) => (NextRequest::Request(request), None),
            None if state.handles == 0 => (NextRequest::NoHandles, None),
            None => (NextRequest::Empty, state.client.replace(waker)),
        });
        drop(old_waker);
        next
    }

    /// Why the connection accepts no more requests; `None` while it accepts some.
    pub(super) fn reason(&self) -> Option<ClientReason> {
        self.state.with(|state| state.ended.clone())
    }

    /// Refuses all further requests, and fails those in the queue.
    pub(super) fn end(&self, reason: &ClientReason) {
        let (requests, client) = self.state.with(|state| {
            state.ended.get_or_insert_with(|| reason.clone());
            (mem::take(&mut state.requests), state.client.take())
        });
        for (_, promise) in requests.into_values() {
            let _ = promise.fulfil(Err(RequestError::Ended(reason.clone())));
        }
        drop(client);
    }
}
