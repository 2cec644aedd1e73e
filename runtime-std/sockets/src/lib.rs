//! Sockets and listeners for runtimes over Unix file descriptors.
//!
//! [`Socket`] and [`SocketListener`] implement the traits of `wirestate_core` for TCP and for Unix
//! sockets: [`Source`](wirestate_core::drive::Source), [`Sink`](wirestate_core::drive::Sink),
//! [`Splice`](wirestate_core::drive::Splice) and
//! [`Listener`](wirestate_core::runtime::Listener). A runtime implements [`RegisteredFd`], which
//! waits until a descriptor is ready, and names the two types as its
//! [`Runtime::Socket`](wirestate_core::runtime::Runtime::Socket) and
//! [`Runtime::Listener`](wirestate_core::runtime::Runtime::Listener).
//!
//! The runtime in this example does not wait: it polls its task again at once.
//!
//! ```
//! use std::{future::poll_fn, io, os::fd::OwnedFd, task::{Context, Poll}};
//! use futures_lite::future::{block_on, try_zip};
//! use wirestate_core::{Direction, drive::{Sink, Source}, runtime::Listener};
//! use wirestate_sockets::{RegisteredFd, Socket, SocketListener};
//!
//! struct BusyFd(OwnedFd);
//!
//! impl RegisteredFd for BusyFd {
//!     fn register(fd: OwnedFd) -> io::Result<Self> {
//!         Ok(Self(fd))
//!     }
//!
//!     fn get_ref(&self) -> &OwnedFd {
//!         &self.0
//!     }
//!
//!     fn poll_io<T>(
//!         &mut self,
//!         cx: &mut Context<'_>,
//!         _direction: Direction,
//!         mut call: impl FnMut(&OwnedFd) -> io::Result<T>,
//!     ) -> Poll<io::Result<T>> {
//!         match call(&self.0) {
//!             Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
//!                 cx.waker().wake_by_ref();
//!                 Poll::Pending
//!             }
//!             result => Poll::Ready(result),
//!         }
//!     }
//!
//!     // Every call asks the kernel.
//!     fn recheck(&mut self) {}
//! }
//!
//! let mut listener = SocketListener::<BusyFd>::bind("127.0.0.1:0")?;
//! let address = listener.local_address()?.ip().unwrap();
//! let client = async {
//!     let resolve = async { Ok(vec![address]) };
//!     let mut socket = Socket::<BusyFd>::connect(&address.to_string(), resolve).await?;
//!     poll_fn(|cx| socket.poll_write(cx, &[b"hello"])).await?;
//!     Ok::<_, Box<dyn std::error::Error>>(socket)
//! };
//! let server = async {
//!     let (mut socket, _peer) = poll_fn(|cx| listener.poll_accept(cx)).await?;
//!     let mut buf = [0; 5];
//!     assert_eq!(poll_fn(|cx| socket.poll_read(cx, &mut buf)).await?, 5);
//!     assert_eq!(&buf, b"hello");
//!     Ok(())
//! };
//! block_on(try_zip(client, server)).unwrap();
//! # Ok::<(), std::io::Error>(())
//! ```

mod listener;
mod pipe;
mod registered_fd;
mod socket;
mod stream;
mod tcp;
mod tcp_options;
mod unacknowledged;
mod unix;

pub use self::{
    listener::SocketListener,
    pipe::Pipe,
    registered_fd::RegisteredFd,
    socket::Socket,
    stream::{receive, send},
    unacknowledged::unacknowledged,
};
