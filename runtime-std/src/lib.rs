//! Runs Wirestate's machines on the standard library: one thread per connection.
//!
//! Each thread runs the same [`Drive`](wirestate_core::drive::Drive) as everywhere else, by
//! [`block_on`], and sleeps in `poll(2)` on exactly what the drive is waiting for: its socket, its
//! deadline, and an eventfd where somebody may want to wake it. So a thread notices what is
//! published, and a reset, at once, where one that is blocked in `read` would not. Only a server's
//! connection that waits for nothing but a request does so in `read`, for 20 ms at a time at most,
//! which saves waiting in `poll(2)`.
//!
//! ```
//! use wirestate_core::{drive::Drive, echo, runtime::{Listener, Runtime}, serve::{self, serve}};
//! use wirestate_std::{Threads, block_on};
//!
//! let threads = Threads::new();
//! let listener = threads.listen("127.0.0.1:0")?;
//! let address = listener.local_address()?.to_string();
//!
//! // An echo server on a thread of its own, with a thread for each connection.
//! let options = serve::Options::default();
//! let stop = options.stop.clone();
//! let server = std::thread::spawn({
//!     let threads = threads.clone();
//!     move || {
//!         let echo = echo::Server::default();
//!         block_on(serve(&threads, listener, &options, |_, now| echo.machine(now)))
//!     }
//! });
//!
//! // A client, inline.
//! let reply = block_on(async {
//!     let socket = threads.connect(&address).await?;
//!     let client = echo::Client::new(echo::ClientConfig::default());
//!     let mut drive = Drive::new(client, socket, threads.clock());
//!     drive.until(|client, now| client.say("hello".into(), now).then_some(())).await?;
//!     Ok::<_, Box<dyn std::error::Error>>(drive.until(|client, _| client.take_reply()).await?)
//! });
//! assert_eq!(reply.unwrap(), "hello");
//!
//! stop.drain();
//! server.join().expect("the server has not panicked");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A service that is a function, and one connection to it that threads share:
//!
//! ```
//! use std::time::Duration;
//! use wirestate_core::{message::{self, Message, service}, runtime::{Listener, Runtime}, serve::{self, serve}};
//! use wirestate_std::{Threads, block_on};
//!
//! let threads = Threads::new();
//! let listener = threads.listen("127.0.0.1:0")?;
//! let address = listener.local_address()?.to_string();
//!
//! let echo = service::function(|request| request.into_owned());
//! let server = message::Server::new(message::Config::default(), echo);
//! std::thread::spawn(move || {
//!     let options = serve::Options::default();
//!     block_on(serve(&threads, listener, &options, |_, now| server.machine(now)))
//! });
//!
//! let timeout = Some(Duration::from_secs(5));
//! let config = message::ClientConfig::default();
//! let handle = block_on(message::connect(&threads, &address, timeout, config))?;
//! std::thread::scope(|scope| {
//!     for text in ["one", "two", "three"] {
//!         let handle = &handle;
//!         scope.spawn(move || {
//!             let reply = block_on(handle.request(Message::binary(text))).unwrap();
//!             assert_eq!(&*reply.content, text.as_bytes());
//!         });
//!     }
//! });
//! # Ok::<(), std::io::Error>(())
//! ```

mod block_on;
mod listening;
pub mod pipe;
mod polled;
pub mod socket;
pub mod stream;
pub mod tcp;
mod unix;

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    task::{Poll, Waker},
    thread,
    time::Instant as SystemInstant,
};

pub use wirestate_core;
use wirestate_core::{
    runtime::{Address, Runtime},
    shared::Lock,
};

use self::block_on::block_on_connection;
use self::socket::{Acceptor, Socket};
pub use self::{
    block_on::{ThreadClock, block_on},
    listening::Listening,
    polled::Polled,
};
#[cfg(feature = "command-line")]
use {std::os::unix::net::UnixStream, wirestate_core::command_line::Host};

/// A connected socket, TCP or Unix. To be used inside [`block_on`].
pub type ThreadSocket = Socket<Polled<OwnedFd>>;
/// A listening socket, TCP or Unix. To be used inside [`block_on`].
pub type ThreadListener = Acceptor<Polled<Listening>>;

/// The runtime: a thread for each task.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    epoch: SystemInstant,
}

impl Threads {
    /// A runtime whose epoch is now.
    pub fn new() -> Self {
        Self { epoch: SystemInstant::now() }
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self::new()
    }
}

/// A task's stack. It is address space, and becomes memory where it is used; a machine's
/// turn needs some 4 KiB of it, the rest is for services.
const STACK: usize = 512 * 1024;

impl Runtime for Threads {
    type Socket = ThreadSocket;
    type Listener = ThreadListener;
    type Clock = ThreadClock;

    fn clock(&self) -> ThreadClock {
        ThreadClock::new(self.epoch)
    }

    fn spawn<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        start("task", || drop(block_on(task)))
    }

    fn spawn_connection<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        // On its way down a thread's start a task would be moved, and keep a place in each frame.
        let task = Box::pin(task);
        start("connection", || drop(block_on_connection(task)))
    }

    fn listen(&self, address: &str) -> io::Result<ThreadListener> {
        ThreadListener::new(Listening::new(address)?)
    }

    /// A name is looked up on a thread of its own, so that the caller can give up.
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        // An address that is no name needs no thread.
        match address.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => look_up(address.to_owned()).await,
        }
    }

    async fn connect(&self, address: &str) -> io::Result<ThreadSocket> {
        ThreadSocket::connect(address, self.resolve(address)).await
    }

    fn local_address(&self, socket: &ThreadSocket) -> Option<SocketAddr> {
        socket.local_address()
    }

    fn dialled_address(&self, socket: &ThreadSocket) -> Option<Address> {
        socket.dialled_address()
    }
}

#[cfg(feature = "command-line")]
impl Host for Threads {
    /// The socket, and the eventfd by which its thread is woken.
    const FILES_PER_CONNECTION: usize = 2;

    fn listen_inherited(&self, socket: OwnedFd) -> io::Result<ThreadListener> {
        ThreadListener::new(Listening::inherited(socket)?)
    }

    fn adopt(&self, stream: UnixStream) -> io::Result<ThreadSocket> {
        ThreadSocket::new(stream)
    }
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).stack_size(STACK).spawn(run).map(drop)
}

async fn look_up(address: String) -> io::Result<Vec<SocketAddr>> {
    let shared = Arc::new(Lock::new((None, None::<Waker>)));
    let found = shared.clone();
    start("resolver", move || {
        let addresses = tcp::resolve(&address);
        let waker = found.with(|(result, waker)| {
            *result = Some(addresses);
            waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    })?;
    poll_fn(|cx| {
        shared.with(|(result, waker)| {
            if let Some(addresses) = result.take() {
                return Poll::Ready(addresses);
            }
            *waker = Some(cx.waker().clone());
            Poll::Pending
        })
    })
    .await
}
