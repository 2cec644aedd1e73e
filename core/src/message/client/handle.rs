//! The handle through which several tasks share a connection.

use core::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    ClientReason,
    queue::{HandleQueue, ReplyResult},
};
use crate::{
    message::Message,
    shared::{Promised, Shared},
};

/// A handle through which tasks or threads share one connection. Clones use the same connection.
///
/// A separate task or thread drives the connection's [`Client`](super::Client). The connection ends
/// when all handles are dropped and all their requests have replies.
#[derive(Debug)]
pub struct Handle {
    queue: Shared<HandleQueue>,
}

impl Handle {
    pub(super) fn new(queue: Shared<HandleQueue>) -> Self {
        queue.add_handle();
        Self { queue }
    }

    /// Returns a future that makes the request when it is first polled, and returns the reply.
    ///
    /// While [`ClientConfig::max_in_flight`](super::ClientConfig::max_in_flight) requests are in
    /// flight, further ones wait in the order in which they were made. If the future is dropped, a
    /// request that was not sent is withdrawn, and the reply to a request that was sent is
    /// discarded.
    ///
    /// # Errors
    /// The request cannot be encoded, or the connection ended before the reply. No request is sent
    /// twice.
    pub fn request(&self, request: Message<'static>) -> ReplyFuture {
        ReplyFuture { handle: self.clone(), state: State::New(request) }
    }

    /// Why the connection has ended or accepts no more requests; `None` while it accepts some.
    pub fn reason(&self) -> Option<ClientReason> {
        self.queue.reason()
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(self.queue.clone())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.remove_handle();
    }
}

/// The future of the reply to a request of a [`Handle`]. Like a handle, it keeps the connection
/// open.
pub struct ReplyFuture {
    handle: Handle,
    state: State,
}

enum State {
    /// The request is not in the queue yet.
    New(Message<'static>),
    /// The request has this id. It is in the queue, or was sent.
    Waiting(u64, Promised<ReplyResult>),
    Done,
}

impl fmt::Debug for ReplyFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyFuture").finish_non_exhaustive()
    }
}

impl Future for ReplyFuture {
    type Output = ReplyResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (id, mut promised) = match mem::replace(&mut self.state, State::Done) {
            State::New(request) => match self.handle.queue.push(request) {
                Ok(queued) => queued,
                Err(reason) => return Poll::Ready(Err(reason.into())),
            },
            State::Waiting(id, promised) => (id, promised),
            State::Done => panic!("a ReplyFuture was polled after it had returned"),
        };
        let reply = Pin::new(&mut promised).poll(cx);
        if reply.is_pending() {
            self.state = State::Waiting(id, promised);
        }
        reply
    }
}

impl Drop for ReplyFuture {
    fn drop(&mut self) {
        if let State::Waiting(id, _) = &self.state {
            self.handle.queue.remove(*id);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::task::Waker;

    use super::*;
    use crate::{
        Instant, Machine, Outbound, drive,
        message::{Client, ClientConfig, RequestError},
    };

    const NOW: Instant = Instant::EPOCH;

    fn settle(client: &mut Client) {
        let cx = &mut Context::from_waker(Waker::noop());
        while client.poll_shared(NOW, cx) {}
    }

    fn poll(request: &mut ReplyFuture) -> Poll<ReplyResult> {
        Pin::new(request).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_client_ends_when_its_last_handle_is_dropped_with_an_unsent_request() {
        let (mut client, handle) = Client::with_handle(ClientConfig::default()).unwrap();
        let mut request = handle.request(Message::binary("x"));
        assert!(poll(&mut request).is_pending());
        drop((request, handle));
        settle(&mut client);
        assert_eq!(client.interest().write, Outbound::Finish);
    }

    #[test]
    fn a_connection_stays_open_until_the_last_request_has_its_reply() {
        let (mut client, handle) = Client::with_handle(ClientConfig::default()).unwrap();
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
    fn a_request_that_is_dropped_before_it_was_sent_is_not_sent() {
        let (mut client, handle) = Client::with_handle(ClientConfig::default()).unwrap();
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
    fn all_pending_requests_fail_with_the_reason_when_the_client_is_dropped() {
        let (client, handle) = Client::with_handle(ClientConfig::default()).unwrap();
        let mut request = handle.request(Message::binary("x"));
        assert!(poll(&mut request).is_pending());
        drop(client);
        let dropped = Poll::Ready(Err(RequestError::Ended(ClientReason::Dropped)));
        assert_eq!(poll(&mut request), dropped);
        assert_eq!(poll(&mut handle.request(Message::binary("y"))), dropped);
        assert_eq!(handle.reason(), Some(ClientReason::Dropped));
    }
}
