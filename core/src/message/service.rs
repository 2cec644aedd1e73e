//! Services, which answer the requests of a server.

use alloc::{boxed::Box, collections::VecDeque};
use core::{
    fmt,
    future::{Future, Ready},
    ops::Deref,
    pin::Pin,
};

use super::{Delivery, Header, Message};
use crate::shared::{Promise, Promised, Shared, promise};

/// Answers requests. Each connection has its own clone.
///
/// [`function`] makes a service of a function, and [`asynchronous`] of an async function.
/// [`RequestQueue`] hands requests to an event loop. Implement this trait for a service that
/// streams the contents of requests.
pub trait Service {
    /// The future of a reply that is not ready.
    type Pending: Future<Output = Message<'static>> + Unpin;

    /// Answers a request, which borrows from the receive buffer. To keep it, call
    /// [`Message::into_owned`].
    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending>;

    /// How the content that follows `header` is delivered. Default: whole, with the request.
    fn delivery(&mut self, _header: &Header<'_>) -> Delivery {
        Delivery::Collect
    }

    /// The next bytes of a streamed content, at least one. After the last ones,
    /// [`call`](Self::call) gets the request with an empty content. A service cannot pause the
    /// sender. If the connection ends within the content, the service is dropped.
    fn chunk(&mut self, _chunk: &[u8]) {}
}

/// A service's reply.
#[derive(Debug)]
pub enum Reply<P> {
    /// The reply.
    Ready(Message<'static>),
    /// The future of the reply. It delays later replies, which are sent in the order of the
    /// requests.
    Pending(P),
}

/// A service that answers each request with the result of a function.
///
/// While the function runs, its connection waits. On an executor, the other connections of the same
/// thread wait as well.
pub fn function<F>(f: F) -> Function<F>
where
    F: FnMut(Message<'_>) -> Message<'static>,
{
    Function(f)
}

/// The service that [`function`] makes.
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
        Reply::Ready((self.0)(request))
    }
}

/// A service that answers each request by an async closure or function.
///
/// All connections share `f`, so the state that it captures needs no `Clone`:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use wirestate_core::message::{Message, Server, service};
///
/// let requests = AtomicU64::new(0);
/// let shout = service::asynchronous(async move |request| {
///     let number = requests.fetch_add(1, Relaxed) + 1;
///     // you can .await here: other requests continue, and replies keep their order
///     match request.text() {
///         Ok(text) => Message::json(format!("[{number}, {}]", text.to_uppercase())),
///         Err(error) => Message::error(error),
///     }
/// });
/// let server = Server::with_default_config(shout);
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
/// that changes needs an atomic or a lock: an async lock if it is held across an `.await`.
///
/// The connection's machine holds and polls the futures, at most
/// [`Config::max_in_flight`](super::Config::max_in_flight) at once. So they run concurrently on the
/// connection's task or thread, and end with it. In an event loop of your own, pass a waker that
/// makes the loop poll the connection again. With [`Waker::noop`](core::task::Waker::noop) the
/// futures would hang.
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
/// The type has no lifetime parameter, unlike [`Message`]. With one, the compiler could not tell
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

/// The service that [`asynchronous`] makes.
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
        Reply::Pending(Box::pin((self.0)(request.into_owned())))
    }
}

/// A service that queues its requests. You can answer them from any thread and in any order.
///
/// ```
/// use wirestate_core::{Instant, Machine, drive};
/// use wirestate_core::message::{Message, Server, service::RequestQueue};
/// # use core::task::{Context, Waker};
/// # let now = Instant::EPOCH;
/// # let cx = &mut Context::from_waker(Waker::noop());
/// let server = Server::with_default_config(RequestQueue::default());
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
/// # Ok::<(), wirestate_core::message::EncodeError>(())
/// ```
#[derive(Debug, Default)]
pub struct RequestQueue {
    requests: VecDeque<PendingRequest>,
}

impl RequestQueue {
    /// Removes and returns the next request.
    pub fn take(&mut self) -> Option<PendingRequest> {
        self.requests.pop_front()
    }
}

/// Each connection has its own queue, so a clone is empty.
impl Clone for RequestQueue {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service for RequestQueue {
    type Pending = Promised<Message<'static>>;

    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending> {
        let (promise, promised) = promise();
        let request = PendingRequest { request: request.into_owned(), promise: Some(promise) };
        self.requests.push_back(request);
        Reply::Pending(promised)
    }
}

/// A request that waits for its reply. If it is dropped, it is answered with an error.
#[derive(Debug)]
pub struct PendingRequest {
    request: Message<'static>,
    /// `None` once the request is answered.
    promise: Option<Promise<Message<'static>>>,
}

impl PendingRequest {
    /// The request.
    pub fn request(&self) -> &Message<'static> {
        &self.request
    }

    /// Answers the request. If the connection has ended, the reply is dropped.
    pub fn reply(mut self, reply: Message<'static>) {
        if let Some(promise) = self.promise.take() {
            let _ = promise.fulfil(reply);
        }
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if let Some(promise) = self.promise.take() {
            let _ = promise.fulfil(Message::error("the request was dropped"));
        }
    }
}
