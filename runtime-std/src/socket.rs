//! Sockets whose readiness is awaited in `poll(2)`.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::Arc,
    task::{Context, Poll},
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg},
};
use wirestate_core::{
    Lost,
    admission::Peer,
    drive::{Failed, Sink, Source},
    runtime::{AcceptError, Listener},
};

use crate::{
    block_on::{READ_TIMEOUT, is_silent, read_blocks, round, wait_for, wait_for_read},
    tcp,
};

/// A connected TCP socket. To be used inside [`block_on`](crate::block_on).
#[derive(Debug)]
pub struct ThreadSocket {
    /// Nothing once it was reset. Shared with the list of what the thread waits for, which is
    /// empty while the future runs: so dropping this one closes the descriptor.
    stream: Option<Arc<TcpStream>>,
    /// The round in which a read found less than it had asked for, so that there is no more.
    drained: Option<u64>,
}

impl ThreadSocket {
    /// Takes over a stream.
    ///
    /// # Errors
    /// Its mode or options could not be set.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        tcp::tune(&stream)?;
        Self::tuned(Arc::new(stream))
    }

    fn tuned(stream: Arc<TcpStream>) -> io::Result<Self> {
        // Each call says for itself whether it blocks.
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Self { stream: Some(stream), drained: None })
    }

    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = Arc::new(tcp::begin_connect(address)?);
        poll_fn(|_| match stream.take_error() {
            Ok(Some(error)) | Err(error) => Poll::Ready(Err(error)),
            // It has a peer once it is connected (getpeername(2)).
            Ok(None) if stream.peer_addr().is_ok() => Poll::Ready(Ok(())),
            Ok(None) => {
                wait_for(stream.clone(), PollFlags::OUT);
                Poll::Pending
            }
        })
        .await?;
        Self::tuned(stream)
    }

    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.stream.as_ref()?.local_addr().ok()
    }

    fn stream(&self) -> Result<&Arc<TcpStream>, Failed> {
        self.stream.as_ref().ok_or(Failed::Lost(Lost::Reset))
    }
}

impl Source for ThreadSocket {
    fn poll_read(&mut self, _cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, Failed>> {
        let stream = self.stream()?;
        if self.drained != Some(round()) && !is_silent(stream.as_raw_fd()) {
            let flags = if read_blocks(stream.as_raw_fd()) {
                RecvFlags::empty()
            } else {
                RecvFlags::DONTWAIT
            };
            match recv(stream, &mut *buf, flags) {
                Err(Errno::AGAIN) => {}
                read => {
                    let read = read.map(|(n, _)| n);
                    let short = matches!(read, Ok(n) if 0 < n && n < buf.len());
                    self.drained = short.then(round);
                    return Poll::Ready(read.map_err(|error| io::Error::from(error).into()));
                }
            }
        }
        wait_for_read(stream.clone());
        Poll::Pending
    }
}

impl Sink for ThreadSocket {
    fn poll_write(&mut self, _cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, Failed>> {
        let stream = self.stream()?;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let written = match bufs {
            [buf] => send(stream, buf, flags),
            bufs => sendmsg(stream, &tcp::slices(bufs), &mut SendAncillaryBuffer::default(), flags),
        };
        match written {
            Err(Errno::AGAIN) => {
                wait_for(stream.clone(), PollFlags::OUT);
                Poll::Pending
            }
            written => Poll::Ready(written.map_err(|error| io::Error::from(error).into())),
        }
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(tcp::finish(self.stream()?).map_err(Failed::from))
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            tcp::reset_on_close(&*stream);
        }
    }
}

/// A listening TCP socket. To be used inside [`block_on`](crate::block_on).
#[derive(Debug)]
pub struct ThreadListener {
    listener: Arc<TcpListener>,
}

impl ThreadListener {
    /// Takes over a listener of [`tcp::listen`], or another one that does not block.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener: Arc::new(listener) }
    }
}

impl Listener for ThreadListener {
    type Socket = ThreadSocket;

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn poll_accept(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<(ThreadSocket, Peer), AcceptError>> {
        let accepted = self.listener.accept().and_then(|(stream, peer)| {
            Ok((ThreadSocket::tuned(Arc::new(stream))?, Peer::Ip(peer)))
        });
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(self.listener.clone(), PollFlags::IN);
                Poll::Pending
            }
            accepted => Poll::Ready(accepted.map_err(AcceptError::from)),
        }
    }
}
