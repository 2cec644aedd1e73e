//! What a server does with a request.

use alloc::{boxed::Box, collections::VecDeque};
use core::{
    fmt,
    future::{Future, Ready},
    ops::Deref,
    pin::Pin,
    task::{Context, Poll},
};

use super::{Delivery, Header, Message, handle::Slot};
use crate::shared::Shared;

/// Answers requests. Each connection has a clone of its own.
///
/// [`function`] makes one of a function that answers at once, [`asynchronous`] of an async one. An
/// event loop that handles requests as events takes [`RequestQueue`]. Implement the trait yourself
/// for a service that receives contents in pieces.
pub trait Service {
    /// The future of a reply that is not ready.
    type Pending: Future<Output = Message<'static>> + Unpin;

    /// Answers a request. It borrows from the receive buffer; [`Message::into_owned`] keeps it.
    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending>;

    /// How the content that follows `header` is delivered. Default: whole, with the request.
    fn delivery(&mut self, _header: &Header<'_>) -> Delivery {
        Delivery::Collect
    }

    /// Takes the next piece of a streamed content, which is never empty. After the last one,
    /// [`call`](Self::call) gets the request, with an empty content. A service cannot delay the
    /// sender, and is dropped if the connection ends earlier.
    fn piece(&mut self, _piece: &[u8]) {}
}

/// A service's reply.
#[derive(Debug)]
pub enum Reply<P> {
    /// The reply is ready.
    Now(Message<'static>),
    /// The reply comes later. Replies are sent in the order of the requests regardless.
    Later(P),
}

/// A service that answers each request at once, by a function.
///
/// While the function runs, its connection waits, and on an executor the other connections of that
/// thread as well.
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

/// A service that answers each request by an async closure or function.
///
/// All connections share `f`, so the state that it captures needs no `Clone`:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use wirestate_core::message::{self, Message, service};
///
/// let requests = AtomicU64::new(0);
/// let shout = service::asynchronous(async move |request| {
///     let number = requests.fetch_add(1, Relaxed) + 1;
///     // .await what you like: other requests go on, and replies keep their order
///     match request.text() {
///         Ok(text) => Message::json(format!("[{number}, {}]", text.to_uppercase())),
///         Err(error) => Message::error(error),
///     }
/// });
/// let server = message::Server::new(message::Config::default(), shout);
/// ```
///
/// A closure that returns a future is one as well:
///
/// ```
/// # use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
/// # use wirestate_core::message::service;
/// # let requests = Arc::new(AtomicU64::new(0));
/// let echo = service::asynchronous(move |request: service::Request| {
///     let requests = requests.clone();
///     async move {
///         requests.fetch_add(1, Relaxed);
///         request.into_message()
///     }
/// });
/// ```
///
/// On a runtime with several threads, `f` must be `Send` and `Sync`, and its futures `Send`. State
/// that changes is behind an atomic or a lock; an async lock if it is held across an `.await`.
///
/// The connection's machine holds the futures, at most
/// [`Config::in_flight`](super::Config::in_flight) of them, and polls them itself: they run
/// concurrently on the connection's task or thread, and end with it. In an event loop of your own
/// they need a waker that has the connection polled again. With
/// [`Waker::noop`](core::task::Waker::noop) they would hang.
pub fn asynchronous<F>(
    f: F,
) -> impl Service<Pending = Pin<Box<impl Future<Output = Message<'static>>>>> + Clone + fmt::Debug
where
    F: AsyncFn(Request) -> Message<'static>,
{
    let f = Shared::new(f);
    Asynchronous(move |request| {
        let (f, request) = (f.clone(), Request(request));
        async move { f(request).await }
    })
}

/// A request to an [asynchronous] service: a [`Message`] that the service owns.
///
/// It is a type of its own because it has no lifetime parameter. With one, the compiler cannot tell
/// that the future of an async closure is `Send`.
#[derive(Clone, Debug)]
pub struct Request(Message<'static>);

impl Request {
    /// The message.
    pub fn into_message(self) -> Message<'static> {
        self.0
    }
}

impl Deref for Request {
    type Target = Message<'static>;

    fn deref(&self) -> &Message<'static> {
        &self.0
    }
}

/// See [`asynchronous`].
#[derive(Clone, Copy)]
struct Asynchronous<F>(F);

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

/// A service whose requests are taken from a queue, and answered from anywhere, in any order.
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
/// let pending = machine.service_mut().take().expect("a request has arrived");
/// assert_eq!(&*pending.request().content, b"ping");
/// pending.reply(Message::binary("pong"));
///
/// machine.poll_shared(now, cx);
/// let mut output = [0; 1024];
/// let n = drive::collect_into(&mut machine, &mut output, now);
/// assert!(output[..n].ends_with(b"pong"));
/// # Ok::<(), message::EncodeError>(())
/// ```
#[derive(Debug, Default)]
pub struct RequestQueue {
    requests: VecDeque<PendingRequest>,
}

impl RequestQueue {
    /// The next request.
    pub fn take(&mut self) -> Option<PendingRequest> {
        self.requests.pop_front()
    }
}

/// Each connection has a queue of its own: a clone is empty.
impl Clone for RequestQueue {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service for RequestQueue {
    type Pending = PendingReply;

    fn call(&mut self, request: Message<'_>) -> Reply<PendingReply> {
        let slot = Shared::new(Slot::default());
        let request = PendingRequest { request: request.into_owned(), slot: Some(slot.clone()) };
        self.requests.push_back(request);
        Reply::Later(PendingReply { slot })
    }
}

/// A request that waits for its reply. Dropping it answers it with an error.
#[derive(Debug)]
pub struct PendingRequest {
    request: Message<'static>,
    /// `None` once it is answered.
    slot: Option<Shared<Slot<Message<'static>>>>,
}

impl PendingRequest {
    /// The request.
    pub fn request(&self) -> &Message<'static> {
        &self.request
    }

    /// Answers it. This has no effect if the connection has ended.
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
