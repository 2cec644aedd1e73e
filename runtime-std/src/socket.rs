//! The sockets of a runtime. Runtimes differ in how they wait until a socket is ready
//! ([`Registered`]), and in nothing else.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll},
};

use rustix::io::ioctl_fionbio;
use wirestate_core::{
    ConnectionError, Direction,
    admission::Peer,
    drive::{IoError, Sink, Source, Splice},
    runtime::{AcceptError, Address, Listener, unix_path},
};

use crate::{listening::Listening, pipe::Pipe, stream, tcp, unix};

/// A socket `T` that does not block, registered where a runtime finds out whether it is ready.
pub trait Registered<T: AsFd>: Sized {
    /// The same for a connected stream.
    type Stream: Registered<OwnedFd>;

    /// Registers a socket that does not block.
    ///
    /// # Errors
    /// The runtime does not accept it.
    ///
    /// # Panics
    /// If the caller does not run on the runtime (tokio).
    fn register(socket: T) -> io::Result<Self>;

    /// The socket.
    fn get_ref(&self) -> &T;

    /// Makes a call that does not block, and again whenever the socket is ready, until it returns
    /// something else than [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// # Errors
    /// The call's.
    fn poll_io<R>(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        call: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>>;

    /// [Receives](stream::receive) into `buf`. A read that fills less than `buf` has emptied the
    /// socket, which saves the next read.
    ///
    /// # Errors
    /// The operating system's.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// [Sends](stream::send) from `bufs`.
    ///
    /// # Errors
    /// The operating system's.
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Direction::Write, |socket| stream::send(socket, bufs))
    }

    /// The next call in each direction asks the kernel, whatever is known of the socket's readiness
    /// ([`Source::recheck`]).
    fn recheck(&mut self);
}

/// A connected socket, TCP or Unix.
#[derive(Debug)]
pub struct Socket<S> {
    /// `None` after a reset.
    stream: Option<S>,
}

impl<S: Registered<OwnedFd>> Socket<S> {
    /// Takes over a stream (`TcpStream` and `UnixStream` of the standard library), with its present
    /// options.
    ///
    /// # Errors
    /// The socket could not be made non-blocking, or the runtime did not accept it.
    ///
    /// # Panics
    /// As [`Registered::register`].
    pub fn new(stream: impl Into<OwnedFd>) -> io::Result<Self> {
        let stream = stream.into();
        ioctl_fionbio(&stream, true)?;
        Self::nonblocking(stream)
    }

    fn nonblocking(stream: OwnedFd) -> io::Result<Self> {
        S::register(stream).map(|stream| Self { stream: Some(stream) })
    }

    /// Connects as [`Runtime::connect`](wirestate_core::runtime::Runtime::connect) does. `resolve`
    /// looks `address` up; it is not polled for a `unix:PATH`.
    ///
    /// # Errors
    /// The name is unknown, or the last of its addresses' errors.
    pub async fn connect(
        address: &str,
        resolve: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    ) -> io::Result<Self> {
        if let Some(path) = unix_path(address) {
            return Self::nonblocking(unix::connect(path)?);
        }
        let connect = async |address| {
            let mut stream = S::register(tcp::begin_connect(address)?)?;
            poll_fn(|cx| stream.poll_io(cx, Direction::Write, stream::connected)).await?;
            tcp::reject_self_connection(stream.get_ref(), address)?;
            Ok(Self { stream: Some(stream) })
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in resolve.await? {
            match connect(address).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The address at this end (getsockname(2)); `None` where it is no IP address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        stream::local_address(self.stream.as_ref()?.get_ref())
    }

    /// The address to which a connection was made: see
    /// [`Runtime::dialled_address`](wirestate_core::runtime::Runtime::dialled_address).
    pub fn dialled_address(&self) -> Option<Address> {
        stream::dialled_address(self.stream.as_ref()?.get_ref())
    }

    fn stream(&mut self) -> Result<&mut S, IoError> {
        self.stream.as_mut().ok_or(IoError::Connection(ConnectionError::Reset))
    }

    fn poll_io<T>(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        call: impl FnMut(&OwnedFd) -> io::Result<T>,
    ) -> Poll<Result<T, IoError>> {
        self.stream()?.poll_io(cx, direction, call).map_err(IoError::from)
    }
}

impl<S: Registered<OwnedFd>> Source for Socket<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        self.stream()?.poll_read(cx, buf).map_err(IoError::from)
    }

    fn recheck(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.recheck();
        }
    }
}

impl<S: Registered<OwnedFd>> Sink for Socket<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        self.stream()?.poll_write(cx, bufs).map_err(IoError::from)
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Poll::Ready(stream::finish(self.stream()?.get_ref()).map_err(IoError::from))
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream::reset_on_close(stream.get_ref());
        }
    }

    fn unacknowledged(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream::unacknowledged(stream.get_ref()))
    }
}

impl<S: Registered<OwnedFd>> Splice for Socket<S> {
    type Pipe = Pipe;

    fn pipe() -> Option<Pipe> {
        Pipe::new()
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<Result<Option<usize>, IoError>> {
        self.poll_io(cx, Direction::Read, |stream| pipe.fill(stream, most))
    }

    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        held: usize,
    ) -> Poll<Result<usize, IoError>> {
        self.poll_io(cx, Direction::Write, |stream| pipe.drain(stream, held))
    }
}

/// A listening socket, TCP or Unix.
#[derive(Debug)]
pub struct Acceptor<L> {
    listening: L,
    is_shut_down: bool,
}

impl<L: Registered<Listening>> Acceptor<L> {
    /// Takes over a socket that listens; what it accepts inherits its options.
    ///
    /// # Errors
    /// The runtime did not accept it.
    ///
    /// # Panics
    /// As [`Registered::register`].
    pub fn new(listening: Listening) -> io::Result<Self> {
        Ok(Self { listening: L::register(listening)?, is_shut_down: false })
    }
}

impl<L: Registered<Listening> + Send + 'static> Listener for Acceptor<L> {
    type Socket = Socket<L::Stream>;

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.listening.get_ref().address().clone())
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Self::Socket, Peer), AcceptError>> {
        let accept = |listening: &Listening| -> io::Result<_> {
            let (stream, peer) = listening.accept()?;
            Ok((Socket::nonblocking(stream)?, peer))
        };
        let listening = self.listening.get_ref();
        if !listening.awaits_more() {
            return match accept(listening) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                accepted => Poll::Ready(accepted.map_err(AcceptError::from)),
            };
        }
        if self.is_shut_down {
            self.listening.recheck();
        }
        self.listening.poll_io(cx, Direction::Read, accept).map_err(AcceptError::from)
    }

    fn shut_down(&mut self) {
        self.listening.get_ref().shut_down();
        self.is_shut_down = true;
    }
}
