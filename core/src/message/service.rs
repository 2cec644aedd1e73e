//! What a server does with a request.

use alloc::{boxed::Box, collections::VecDeque};
use core::{
    fmt,
    future::{Future, Ready},
    pin::Pin,
    task::{Context, Poll},
};

use super::{Delivery, Header, Message, handle::Slot};
use crate::shared::Shared;

/// Answers requests. Each connection has a clone of its own.
///
/// Most are made of a function: [`function`] of one that answers at once, [`asynchronous`] of one
/// that takes its time. An event loop that wants to see requests as events takes [`RequestQueue`]. To
/// implement this is for services that have contents streamed.
pub trait Service {
    /// A reply that takes its time.
    type Pending: Future<Output = Message<'static>> + Unpin;

    /// Answers a request. It borrows from the receive buffer: keep what is needed by
    /// [`Message::into_owned`].
    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending>;

    /// How the content that follows `header` is to be delivered. Default: whole, with the request.
    fn delivery(&mut self, _header: &Header<'_>) -> Delivery {
        Delivery::Collect
    }

    /// The next piece of a content that is streamed, never empty. Behind the last one,
    /// [`call`](Self::call) is called with the request, whose content is empty then. A service can't
    /// hold the sender back, and is dropped where the connection ends before.
    fn piece(&mut self, _piece: &[u8]) {}
}

/// A service's reply.
#[derive(Debug)]
pub enum Reply<P> {
    /// It is here.
    Now(Message<'static>),
    /// It comes later; replies are sent in the order of the requests all the same.
    Later(P),
}

/// A service that answers each request at once, by a function.
///
/// The function holds up its connection for as long as it takes, and on an executor the other
/// connections of that thread as well.
pub fn function<F>(f: F) -> Function<F>
where
    F: FnMut(Message<'_>) -> Message<'static>,
{
    Function(f)
}

/// See [`function`].
#[derive(Clone, Copy)]
pub struct Function<F>(F);

impl<F> fmt::Debug for Function<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Function")
    }
}

impl<F> Service for Function<F>
where
    F: FnMut(Message<'_>) -> Message<'static>,
{
    type Pending = Ready<Message<'static>>;

    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending> {
        Reply::Now((self.0)(request))
    }
}

/// A service that answers each request by a future.
///
/// The connection's machine holds the futures, at most
/// [`Config::in_flight`](super::Config::in_flight) of them, and polls them itself: they run on the
/// connection's task or thread, side by side, and end with it. In an event loop of your own they
/// need a waker that has the connection polled again: with
/// [`Waker::noop`](core::task::Waker::noop) they would hang.
pub fn asynchronous<F, R>(f: F) -> Asynchronous<F>
where
    F: FnMut(Message<'static>) -> R,
    R: Future<Output = Message<'static>>,
{
    Asynchronous(f)
}

/// See [`asynchronous`].
#[derive(Clone, Copy)]
pub struct Asynchronous<F>(F);

impl<F> fmt::Debug for Asynchronous<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asynchronous")
    }
}

impl<F, R> Service for Asynchronous<F>
where
    F: FnMut(Message<'static>) -> R,
    R: Future<Output = Message<'static>>,
{
    type Pending = Pin<Box<R>>;

    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending> {
        Reply::Later(Box::pin((self.0)(request.into_owned())))
    }
}

/// A service whose requests wait to be taken, and answered from anywhere, in any order.
///
/// ```
/// use wirestate_core::{Instant, Machine, drive, message::{self, Message, service::RequestQueue}};
/// # use core::task::{Context, Waker};
/// # let now = Instant::EPOCH;
/// # let cx = &mut Context::from_waker(Waker::noop());
/// let server = message::Server::new(message::Config::default(), RequestQueue::default());
/// let mut machine = server.machine(now);
///
/// let mut input = Vec::new();
/// Message::binary("ping").encode(&mut input)?;
/// drive::deliver(&mut machine, &mut &input[..], now);
///
/// // On a runtime this is `drive.until(|machine, _| machine.service_mut().take())`.
/// let asked = machine.service_mut().take().expect("a request has come");
/// assert_eq!(&*asked.request().content, b"ping");
/// asked.reply(Message::binary("pong"));
///
/// machine.poll_shared(now, cx);
/// let mut output = [0; 1024];
/// let n = drive::collect_into(&mut machine, &mut output, now);
/// assert!(output[..n].ends_with(b"pong"));
/// # Ok::<(), message::EncodeError>(())
/// ```
#[derive(Debug, Default)]
pub struct RequestQueue {
    asked: VecDeque<PendingRequest>,
}

impl RequestQueue {
    /// The next request.
    pub fn take(&mut self) -> Option<PendingRequest> {
        self.asked.pop_front()
    }
}

/// What a connection has is its own: a clone starts without requests.
impl Clone for RequestQueue {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service for RequestQueue {
    type Pending = PendingReply;

    fn call(&mut self, request: Message<'_>) -> Reply<PendingReply> {
        let slot = Shared::new(Slot::default());
        self.asked
            .push_back(PendingRequest { request: request.into_owned(), slot: Some(slot.clone()) });
        Reply::Later(PendingReply { slot })
    }
}

/// A request that waits for its reply. Dropping it answers it with an error.
#[derive(Debug)]
pub struct PendingRequest {
    request: Message<'static>,
    /// Until it is answered.
    slot: Option<Shared<Slot<Message<'static>>>>,
}

impl PendingRequest {
    /// The request.
    pub fn request(&self) -> &Message<'static> {
        &self.request
    }

    /// Answers it. Nothing happens where the connection has ended.
    pub fn reply(mut self, reply: Message<'static>) {
        if let Some(slot) = self.slot.take() {
            slot.fulfil(reply);
        }
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.fulfil(Message::error("the request was dropped"));
        }
    }
}

/// The reply to a request of [`RequestQueue`].
#[derive(Debug)]
pub struct PendingReply {
    slot: Shared<Slot<Message<'static>>>,
}

impl Future for PendingReply {
    type Output = Message<'static>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Message<'static>> {
        self.slot.poll(cx)
    }
}
