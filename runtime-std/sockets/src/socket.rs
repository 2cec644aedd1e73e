//! A connected socket, TCP or Unix.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    task::{Context, Poll},
};

use rustix::io::ioctl_fionbio;
use tracing::debug;
use wirestate_core::{
    ConnectionError, Direction,
    drive::{IoError, Sink, Source, Splice},
    runtime::{Address, AddressErrors, unix_path},
};

use crate::{
    pipe::Pipe, registered_fd::RegisteredFd, stream, tcp, unacknowledged::unacknowledged, unix,
};

/// A connected socket, TCP or Unix.
#[derive(Debug)]
pub struct Socket<F> {
    /// `None` after a reset.
    fd: Option<F>,
}

impl<F: RegisteredFd> Socket<F> {
    /// Takes over a connected stream, for example a `TcpStream` or `UnixStream` of the standard
    /// library. The options of the stream stay as they are.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking, or the runtime does not accept it.
    ///
    /// # Panics
    /// As [`RegisteredFd::register`].
    pub fn new(stream: impl Into<OwnedFd>) -> io::Result<Self> {
        let stream = stream.into();
        // FIONBIO (ioctl(2)) sets O_NONBLOCK in one system call; fcntl(2) needs two. recv(2) and
        // send(2) have a flag for a single call, but splice(2) has none that applies to the socket.
        ioctl_fionbio(&stream, true)?;
        Self::from_nonblocking(stream)
    }

    pub(crate) fn from_nonblocking(stream: OwnedFd) -> io::Result<Self> {
        F::register(stream).map(|fd| Self { fd: Some(fd) })
    }

    /// Connects to `address`, as [`Runtime::connect`](wirestate_core::runtime::Runtime::connect)
    /// does. `resolve` returns the addresses of `address`; it is not polled if `address` is a
    /// `unix:PATH`.
    ///
    /// # Errors
    /// The error of `resolve`, or the [errors of all addresses](AddressErrors) that were tried;
    /// [`NotFound`](io::ErrorKind::NotFound) if there is no address.
    ///
    /// # Panics
    /// As [`RegisteredFd::register`].
    pub async fn connect(
        address: &str,
        resolve: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    ) -> io::Result<Self> {
        if let Some(path) = unix_path(address) {
            let socket = Self::from_nonblocking(unix::connect(path)?)?;
            debug!("connected to {address}");
            return Ok(socket);
        }
        let connect = async |address: SocketAddr| {
            let mut fd = F::register(tcp::begin_connect(address)?)?;
            poll_fn(|cx| fd.poll_io(cx, Direction::Write, tcp::check_connected)).await?;
            tcp::reject_self_connection(fd.get_ref(), address)?;
            Ok(Self { fd: Some(fd) })
        };
        let mut errors = AddressErrors::default();
        for resolved in resolve.await? {
            match connect(resolved).await {
                Ok(socket) => {
                    debug!("connected to {resolved}");
                    return Ok(socket);
                }
                Err(error) => errors.push(resolved, error),
            }
        }
        Err(errors.into_error(address))
    }

    /// The local address (getsockname(2)); `None` if it is not an IP address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        stream::local_address(self.fd.as_ref()?.get_ref())
    }

    /// The address to which a connection was made: see
    /// [`Runtime::dialled_address`](wirestate_core::runtime::Runtime::dialled_address).
    pub fn dialled_address(&self) -> Option<Address> {
        stream::dialled_address(self.fd.as_ref()?.get_ref())
    }

    fn fd(&mut self) -> Result<&mut F, IoError> {
        self.fd.as_mut().ok_or(IoError::Connection(ConnectionError::Reset))
    }

    fn poll_io<T>(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        call: impl FnMut(&OwnedFd) -> io::Result<T>,
    ) -> Poll<Result<T, IoError>> {
        self.fd()?.poll_io(cx, direction, call).map_err(IoError::from)
    }
}

impl<F: RegisteredFd> Source for Socket<F> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        self.fd()?.poll_read(cx, buf).map_err(IoError::from)
    }

    fn recheck(&mut self) {
        if let Some(fd) = &mut self.fd {
            fd.recheck();
        }
    }
}

impl<F: RegisteredFd> Sink for Socket<F> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        self.fd()?.poll_write(cx, bufs).map_err(IoError::from)
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Poll::Ready(stream::finish(self.fd()?.get_ref()).map_err(IoError::from))
    }

    fn reset(&mut self) {
        if let Some(fd) = self.fd.take() {
            stream::reset_on_close(fd.get_ref());
        }
    }

    fn unacknowledged(&self) -> usize {
        self.fd.as_ref().map_or(0, |fd| unacknowledged(fd.get_ref()))
    }
}

impl<F: RegisteredFd> Splice for Socket<F> {
    type Pipe = Pipe;

    fn pipe() -> Option<Pipe> {
        Pipe::new()
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        max: usize,
    ) -> Poll<Result<Option<usize>, IoError>> {
        self.poll_io(cx, Direction::Read, |socket| pipe.fill(socket, max))
    }

    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        held: usize,
    ) -> Poll<Result<usize, IoError>> {
        self.poll_io(cx, Direction::Write, |socket| pipe.drain(socket, held))
    }
}
