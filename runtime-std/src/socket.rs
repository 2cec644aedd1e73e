//! Sockets whose readiness is awaited in `poll(2)`.

use std::{
    future::poll_fn,
    io, mem,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    task::{Context, Poll},
};

use rustix::event::PollFlags;
use socket2::SockRef;
use wirestate_core::{
    ConnectionError,
    admission::Peer,
    drive::{IoError, Sink, Source, Splice},
    runtime::{AcceptError, Address, Listener},
};

use crate::{
    block_on::{forget, is_silent, round, wait_for},
    listening::Listening,
    pipe::Pipe,
    stream, tcp,
};

/// A connected socket, TCP or Unix. To be used inside [`block_on`](crate::block_on).
#[derive(Debug)]
pub struct ThreadSocket {
    /// Nothing once it was reset. Shared with the list of what the thread waits for, which is
    /// empty while the future runs: so dropping this one closes the descriptor.
    stream: Option<Arc<OwnedFd>>,
    /// The round in which a read found less than it had asked for, so that there is no more.
    drained: Option<u64>,
    /// The next read asks the kernel, whatever the last sleep has found.
    looks_again: bool,
}

impl ThreadSocket {
    /// Takes over a stream (`TcpStream`, `UnixStream`), with the options that it has.
    ///
    /// # Errors
    /// Its mode could not be set.
    pub fn new(stream: impl Into<OwnedFd>) -> io::Result<Self> {
        let stream = stream.into();
        stream::set_nonblocking(&stream)?;
        Ok(Self::nonblocking(Arc::new(stream)))
    }

    fn nonblocking(stream: Arc<OwnedFd>) -> Self {
        Self { stream: Some(stream), drained: None, looks_again: false }
    }

    pub(crate) async fn connect(addresses: Vec<SocketAddr>) -> io::Result<Self> {
        tcp::first_that_connects(addresses, connect).await.map(Self::nonblocking)
    }

    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        stream::local_address(self.stream.as_ref()?)
    }

    pub(crate) fn dialled_address(&self) -> Option<Address> {
        stream::dialled_address(self.stream.as_ref()?)
    }

    fn stream(&self) -> Result<&Arc<OwnedFd>, IoError> {
        self.stream.as_ref().ok_or(IoError::Connection(ConnectionError::Reset))
    }
}

async fn connect(address: SocketAddr) -> io::Result<Arc<OwnedFd>> {
    let stream = Arc::new(tcp::begin_connect(address)?);
    poll_fn(|_| match SockRef::from(&stream).take_error() {
        Ok(Some(error)) | Err(error) => Poll::Ready(Err(error)),
        // It has a peer once it is connected (getpeername(2)).
        Ok(None) if SockRef::from(&stream).peer_addr().is_ok() => Poll::Ready(Ok(())),
        Ok(None) => {
            wait_for(stream.clone(), PollFlags::OUT);
            Poll::Pending
        }
    })
    .await?;
    Ok(stream)
}

impl Source for ThreadSocket {
    fn poll_read(&mut self, _cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        let looks_again = mem::take(&mut self.looks_again);
        let stream = self.stream()?;
        let is_silent = || self.drained == Some(round()) || is_silent(stream.as_raw_fd());
        if looks_again || !is_silent() {
            match stream::receive(stream, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    let short = matches!(read, Ok(n) if 0 < n && n < buf.len());
                    self.drained = short.then(round);
                    return Poll::Ready(read.map_err(IoError::from));
                }
            }
        }
        wait_for(stream.clone(), PollFlags::IN);
        Poll::Pending
    }

    fn recheck(&mut self) {
        self.looks_again = true;
    }
}

impl Sink for ThreadSocket {
    fn poll_write(
        &mut self,
        _cx: &mut Context<'_>,
        bufs: &[&[u8]],
    ) -> Poll<Result<usize, IoError>> {
        let stream = self.stream()?;
        match stream::send(stream, bufs) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(stream.clone(), PollFlags::OUT);
                Poll::Pending
            }
            written => Poll::Ready(written.map_err(IoError::from)),
        }
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Poll::Ready(stream::finish(self.stream()?).map_err(IoError::from))
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            forget(stream.as_raw_fd());
            stream::reset_on_close(&*stream);
        }
    }

    fn unacknowledged(&self) -> usize {
        self.stream.as_ref().map_or(0, stream::unacknowledged)
    }
}

impl Splice for ThreadSocket {
    type Pipe = Pipe;

    fn pipe() -> Option<Pipe> {
        Pipe::new()
    }

    fn poll_fill(
        &mut self,
        _cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<Result<Option<usize>, IoError>> {
        let stream = self.stream()?;
        match pipe.fill(stream, most) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(stream.clone(), PollFlags::IN);
                Poll::Pending
            }
            filled => Poll::Ready(filled.map_err(IoError::from)),
        }
    }

    fn poll_drain(
        &mut self,
        _cx: &mut Context<'_>,
        pipe: &mut Pipe,
        held: usize,
    ) -> Poll<Result<usize, IoError>> {
        let stream = self.stream()?;
        match pipe.drain(stream, held) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(stream.clone(), PollFlags::OUT);
                Poll::Pending
            }
            drained => Poll::Ready(drained.map_err(IoError::from)),
        }
    }
}

/// A listening socket, TCP or Unix. To be used inside [`block_on`](crate::block_on).
#[derive(Debug)]
pub struct ThreadListener {
    listening: Arc<Listening>,
}

impl ThreadListener {
    /// Takes over a socket that listens; what it accepts inherits its options.
    pub fn new(listening: Listening) -> Self {
        Self { listening: Arc::new(listening) }
    }
}

/// The thread may have waited for the socket in this poll.
impl Drop for ThreadListener {
    fn drop(&mut self) {
        forget(self.listening.as_raw_fd());
    }
}

impl Listener for ThreadListener {
    type Socket = ThreadSocket;

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.listening.address().clone())
    }

    fn poll_accept(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<(ThreadSocket, Peer), AcceptError>> {
        let accepted = self.listening.accept();
        let accepted =
            accepted.map(|(stream, peer)| (ThreadSocket::nonblocking(Arc::new(stream)), peer));
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.listening.awaits_more() {
                    wait_for(self.listening.clone(), PollFlags::IN);
                }
                Poll::Pending
            }
            accepted => Poll::Ready(accepted.map_err(AcceptError::from)),
        }
    }

    fn shut_down(&mut self) {
        self.listening.shut_down();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::block_on;

    #[test]
    fn a_listener_that_is_dropped_is_closed_although_it_was_waited_for() {
        let listener = ThreadListener::new(Listening::new("127.0.0.1:0").unwrap());
        let address = listener.local_address().unwrap().ip().unwrap();
        let mut listener = Some(listener);
        block_on(poll_fn(|cx| {
            assert!(listener.as_mut().unwrap().poll_accept(cx).is_pending());
            listener = None;
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            Poll::Ready(())
        }));
    }
}
