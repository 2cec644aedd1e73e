//! A socket of the standard library as [`Source`] and [`Sink`], for the loops of the examples.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use wirestate_core::drive::{IoError, MAX_SLICES, Sink, Source};

/// A non-blocking socket.
pub(crate) struct Socket(pub(crate) TcpStream);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }
}

fn ready<T>(result: io::Result<T>) -> Poll<Result<T, IoError>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result.map_err(IoError::from)),
    }
}

impl Source for Socket {
    fn poll_read(&mut self, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        ready(self.0.read(buf))
    }
}

impl Sink for Socket {
    fn poll_write(&mut self, _: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        for (slice, buf) in slices.iter_mut().zip(bufs) {
            *slice = IoSlice::new(buf);
        }
        ready(self.0.write_vectored(&slices[..bufs.len().min(MAX_SLICES)]))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        ready(self.0.shutdown(Shutdown::Write))
    }

    fn reset(&mut self) {
        // The kernel sends the RST when the socket is closed. The seat returns `Next::Done` next,
        // and the loop drops the socket.
        let _ = set_socket_linger(&self.0, Some(Duration::ZERO));
    }
}
