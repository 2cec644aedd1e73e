//! Sockets whose readiness a thread awaits in poll(2).

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    task::{Context, Poll},
};

use rustix::{
    event::PollFlags,
    io::ioctl_fionbio,
    net::{
        RecvFlags, recv,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use wirestate_core::Direction;
use wirestate_sockets::{RegisteredFd, receive, send};

use crate::block_on::{
    READ_TIMEOUT, is_drained, mark_drained, next_read_blocks, unregister, wait_for, wait_for_read,
};

/// A socket whose readiness a thread awaits in poll(2). Use it inside
/// [`block_on`](crate::block_on()).
#[derive(Debug)]
pub struct ThreadFd {
    /// Shared with the list of sockets that the thread waits for.
    socket: Arc<OwnedFd>,
    /// The next read asks the kernel, even if the last sleep has found no bytes to read.
    recheck: bool,
    /// The socket is in blocking mode, for reads of at most [`READ_TIMEOUT`].
    is_blocking: bool,
    /// [`READ_TIMEOUT`] is set as the socket's receive timeout.
    has_timeout: bool,
}

impl ThreadFd {
    /// Receives into `buf`, and blocks until there are bytes, or for [`READ_TIMEOUT`].
    fn receive_blocking(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !mem::replace(&mut self.has_timeout, true) {
            // SO_RCVTIMEO (socket(7)): while a read blocks, the thread's waker cannot wake it.
            set_socket_timeout(&self.socket, Timeout::Recv, Some(READ_TIMEOUT))?;
        }
        if !mem::replace(&mut self.is_blocking, true) {
            // FIONBIO (ioctl(2)) clears O_NONBLOCK, since recv(2) has no flag to block.
            ioctl_fionbio(&self.socket, false)?;
        }
        Ok(recv(&self.socket, buf, RecvFlags::empty())?.0)
    }

    /// Waits for readiness in `direction` if `result` is [`WouldBlock`](io::ErrorKind::WouldBlock).
    fn poll_result<T>(&self, direction: Direction, result: io::Result<T>) -> Poll<io::Result<T>> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let events = match direction {
                    Direction::Read => PollFlags::IN,
                    Direction::Write => PollFlags::OUT,
                };
                wait_for(self.socket.clone(), events);
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }
}

impl RegisteredFd for ThreadFd {
    fn register(fd: OwnedFd) -> io::Result<Self> {
        let socket = Arc::new(fd);
        Ok(Self { socket, recheck: false, is_blocking: false, has_timeout: false })
    }

    fn get_ref(&self) -> &OwnedFd {
        &self.socket
    }

    fn poll_io<T>(
        &mut self,
        _cx: &mut Context<'_>,
        direction: Direction,
        mut call: impl FnMut(&OwnedFd) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        if mem::take(&mut self.is_blocking) {
            // FIONBIO (ioctl(2)) sets O_NONBLOCK, which `call` relies on.
            ioctl_fionbio(&self.socket, true)?;
        }
        self.poll_result(direction, call(&self.socket))
    }

    /// [`send`] does not block, even if the socket is in blocking mode.
    #[inline] // into the driver, which is compiled in the user's crate
    fn poll_write(&mut self, _cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<io::Result<usize>> {
        self.poll_result(Direction::Write, send(&self.socket, bufs))
    }

    #[inline] // into the driver, which is compiled in the user's crate
    fn poll_read(&mut self, _cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let recheck = mem::take(&mut self.recheck);
        if recheck || !is_drained(self.socket.as_raw_fd()) {
            let read = if !recheck && next_read_blocks(self.socket.as_raw_fd()) {
                self.receive_blocking(buf)
            } else {
                receive(&self.socket, buf)
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    if matches!(read, Ok(n) if 0 < n && n < buf.len()) {
                        mark_drained(self.socket.as_raw_fd());
                    }
                    return Poll::Ready(read);
                }
            }
        }
        wait_for_read(self.socket.clone());
        Poll::Pending
    }

    fn recheck(&mut self) {
        self.recheck = true;
    }
}

impl Drop for ThreadFd {
    fn drop(&mut self) {
        // The thread may have begun to wait for the socket in this poll.
        unregister(self.socket.as_raw_fd());
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::TcpStream};

    use wirestate_core::runtime::Listener;

    use super::*;
    use crate::{ThreadListener, block_on};

    #[test]
    fn a_listener_that_is_dropped_is_closed_although_it_was_waited_for() {
        let listener = ThreadListener::bind("127.0.0.1:0").unwrap();
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
