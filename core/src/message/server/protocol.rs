//! The protocol of a server's connection: requests for the service, and its replies.

use core::{
    future::Future,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, ready},
};

use super::ServerState;
use crate::{
    buffer::Reservation,
    message::{
        Content, DecodeError, Inbox, Incoming, Message,
        service::{Reply, Service},
    },
    protocol::{self, MIN_SLICE, Output, Protocol, ProtocolReason, Replies, Step},
    shared::Shared,
};

/// One connection of a server.
///
/// The [layer for framed protocols](protocol::Connection) documents its behaviour. Invalid input, a
/// frame that does not arrive in time, and a service that does not reply in time are answered by
/// one error reply.
///
/// A content that is larger than the receive buffer has an allocation of its own ([`Inbox`]).
/// [`Config::max_memory`](super::Config::max_memory) bounds the large contents of all connections
/// together.
pub type Connection<S> = protocol::Connection<ServiceProtocol<S>>;

/// Why a server's connection ended.
pub type MessageReason = ProtocolReason<DecodeError>;

/// The [`Protocol`] of a [`Server`](super::Server)'s connections.
#[derive(Debug)]
pub struct ServiceProtocol<S> {
    server: Shared<ServerState>,
    service: S,
}

impl<S> ServiceProtocol<S> {
    pub(super) fn new(server: Shared<ServerState>, service: S) -> Self {
        Self { server, service }
    }
}

impl<S: Service> Connection<S> {
    /// The connection's clone of the service.
    pub fn service_mut(&mut self) -> &mut S {
        &mut self.protocol_mut().service
    }
}

impl<S: Service> Protocol for ServiceProtocol<S> {
    type Input = Inbox;
    type Error = DecodeError;
    type Answer = PendingReply<S::Pending>;

    fn receive(
        &mut self,
        input: &mut Inbox,
        replies: &mut Replies<Self::Answer>,
    ) -> Result<Step, DecodeError> {
        let request = loop {
            let service = &mut self.service;
            match input.next_incoming(|header| service.delivery(header))? {
                None => return Ok(Step::Incomplete { length: None }),
                // A chunk is a part of a frame, and does not extend the frame's time.
                Some(Incoming::Chunk(chunk)) => self.service.chunk(chunk),
                Some(Incoming::Message(request)) => break request,
            }
        };
        self.server.requests.fetch_add(1, Relaxed);
        let size = reserved_for(&request.content);
        let reply = self.service.call(request);
        let mut reservation = input.take_reservation();
        match reply {
            Reply::Ready(reply) => {
                // The reply takes its place in the quota.
                drop(reservation);
                append(reply, replies.output());
            }
            Reply::Pending(future) => {
                replies.reserve(&mut reservation, size);
                replies.defer(PendingReply { future, reservation });
            }
        }
        if self.server.one_shot {
            replies.close_after_one();
        }
        Ok(Step::Taken)
    }

    fn error_reply(&mut self, reason: &MessageReason, output: &mut Output) {
        if reason.is_error() {
            append(Message::error(reason), output);
        }
    }
}

/// A reply that is pending.
#[derive(Debug)]
pub struct PendingReply<F> {
    future: F,
    /// The reservation for the content of its request.
    #[expect(dead_code, reason = "its drop has the effect")]
    reservation: Reservation,
}

impl<F> Future for PendingReply<F>
where
    F: Future<Output = Message<'static>> + Unpin,
{
    type Output = Result<Output, DecodeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(Pin::new(&mut self.future).poll(cx));
        let mut output = Output::default();
        append(reply, &mut output);
        Poll::Ready(Ok(output))
    }
}

/// Appends `reply`, or an error reply if its header is too long.
fn append(reply: Message<'_>, output: &mut Output) {
    if let Err(error) = reply.append_to(output) {
        let appended = Message::error(error).append_to(output);
        debug_assert!(appended.is_ok(), "the header of an error reply is short");
    }
}

/// How many bytes of the quota the content of a request takes while its reply is pending. A short
/// content takes none, and neither does one that has another owner.
fn reserved_for(content: &Content<'_>) -> usize {
    match content {
        Content::Bytes(bytes) => Output::reserved_for(bytes),
        Content::Slice(slice) if slice.len() < MIN_SLICE => 0,
        Content::Slice(slice) => slice.len(),
    }
}
