//! Runs Wirestate's machines on the standard library: one thread per connection.
//!
//! Each thread runs a [`Drive`](wirestate_core::drive::Drive), as on every runtime, in
//! [`block_on`]. It sleeps in poll(2) until its socket is ready, its deadline has passed, or its
//! waker writes to an eventfd. So a published message or a reset wakes it at once, unlike a thread
//! that blocks in recv(2). Only a busy connection that waits for nothing except its next request
//! blocks in recv(2), for at most 20 ms at a time. That saves a poll(2) for each request.
//!
//! ```no_run
//! use wirestate_std::{Runtime, Threads, block_on, echo};
//!
//! let server = block_on(Threads::new().bind("127.0.0.1:65432"))?;
//! let echo = echo::Server::default();
//! block_on(server.serve(move |_, now| echo.machine(now)));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A server in the background, a client, and a shutdown:
//!
//! ```
//! use std::thread;
//! use wirestate_std::{Runtime, Threads, block_on, drive::Drive, echo};
//!
//! let threads = Threads::new();
//! let server = block_on(threads.bind("127.0.0.1:0"))?;
//! let (address, handle) = (server.addresses()?[0].to_string(), server.handle());
//! let echo = echo::Server::default();
//! let serving = thread::spawn(|| block_on(server.serve(move |_, now| echo.machine(now))));
//!
//! block_on(async {
//!     let client = echo::Client::new(echo::ClientConfig::default());
//!     let mut drive = Drive::new(client, threads.connect(&address).await?, threads.clock());
//!     drive.until(|client, now| client.send("hello".into(), now).then_some(())).await?;
//!     assert_eq!(drive.until(|client, _| client.take_reply()).await?, "hello");
//!     assert_eq!(handle.table().totals().open, 1);
//!     drive.shut_down().await;
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! })
//! # .unwrap();
//!
//! handle.drain();
//! let report = serving.join().expect("the server does not panic");
//! assert_eq!(report.aborted, 0);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A service that is a function, and one connection to it that threads share (feature `message`):
//!
//! ```
//! # #[cfg(feature = "message")] {
//! use std::{thread, time::Duration};
//! use wirestate_std::{Runtime, Threads, block_on, message::{self, Message, service}};
//!
//! let threads = Threads::new();
//! let server = block_on(threads.bind("127.0.0.1:0"))?;
//! let address = server.addresses()?[0].to_string();
//! let echo = service::function(|request| request.into_owned());
//! let app = message::Server::with_default_config(echo);
//! thread::spawn(|| block_on(server.serve(move |_, now| app.machine(now))));
//!
//! let (timeout, config) = (Duration::from_secs(5), message::ClientConfig::default());
//! let handle = block_on(message::connect(&threads, &address, Some(timeout), config))?;
//! thread::scope(|scope| {
//!     for text in ["one", "two", "three"] {
//!         let handle = &handle;
//!         scope.spawn(move || {
//!             let reply = block_on(handle.request(Message::binary(text))).unwrap();
//!             assert_eq!(&*reply.content, text.as_bytes());
//!         });
//!     }
//! });
//! # }
//! # Ok::<(), std::io::Error>(())
//! ```

#![forbid(unsafe_code)]

mod block_on;
mod resolve;
mod thread_fd;

use std::{future::Future, io, net::SocketAddr, thread, time::Instant as SystemInstant};

use wirestate_core::runtime::Address;
pub use wirestate_core::{self, *};
use wirestate_sockets::{Socket, SocketListener};
#[cfg(feature = "command-line")]
use {
    std::os::{fd::OwnedFd, unix::net::UnixStream},
    wirestate_command_line::CommandRuntime,
};

use self::block_on::block_on_connection;
pub use self::{
    block_on::{ThreadClock, block_on},
    thread_fd::ThreadFd,
};

/// A connected socket, TCP or Unix. Use it inside [`block_on`].
pub type ThreadSocket = Socket<ThreadFd>;
/// A listening socket, TCP or Unix. Use it inside [`block_on`].
pub type ThreadListener = SocketListener<ThreadFd>;

/// The runtime: a thread for each task.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    epoch: SystemInstant,
}

impl Threads {
    /// A runtime. The time of its clocks starts now.
    pub fn new() -> Self {
        Self { epoch: SystemInstant::now() }
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self::new()
    }
}

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
        start_thread("task", || drop(block_on(task)))
    }

    fn spawn_connection<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        // Boxed: otherwise each stack frame from here to the thread's main function would hold a
        // copy of the task.
        let task = Box::pin(task);
        start_thread("connection", || drop(block_on_connection(task)))
    }

    fn listen(&self, address: &str) -> io::Result<ThreadListener> {
        ThreadListener::bind(address)
    }

    /// Resolves a name on a separate thread.
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        resolve::resolve(address).await
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
impl CommandRuntime for Threads {
    /// The socket, and the eventfd that wakes its thread.
    const FILES_PER_CONNECTION: usize = 2;

    fn listen_inherited(&self, socket: OwnedFd) -> io::Result<ThreadListener> {
        ThreadListener::inherited(socket)
    }

    fn adopt(&self, stream: UnixStream) -> io::Result<ThreadSocket> {
        ThreadSocket::new(stream)
    }
}

fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).stack_size(STACK_SIZE).spawn(run).map(drop)
}

/// The size of a thread's stack in bytes of address space; pages take memory once they are used. A
/// turn of a machine needs about 4 KiB, the rest is for services.
const STACK_SIZE: usize = 512 * 1024;
