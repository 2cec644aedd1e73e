//! Sockets whose readiness is awaited in `poll(2)`.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
    task::{Context, Poll},
};

use rustix::{
    event::PollFlags,
    io::ioctl_fionbio,
    net::{RecvFlags, recv},
};
use socket2::SockRef;
use wirestate_core::Direction;

use crate::{
    block_on::{READ_TIMEOUT, forget, is_silent, read_blocks, silence, wait_for, wait_for_read},
    socket::Registered,
    stream,
};

/// A socket that a thread waits for in `poll(2)`. To be used inside [`block_on`](crate::block_on).
#[derive(Debug)]
pub struct Polled<T: AsRawFd> {
    /// Shared with the list of what the thread waits for.
    socket: Arc<T>,
    /// The next read asks the kernel, whatever the last sleep has found.
    looks_again: bool,
    /// Calls block that do not say otherwise; a read does so for [`READ_TIMEOUT`].
    blocks: bool,
    has_timeout: bool,
}

impl<T: AsFd + AsRawFd + 'static> Polled<T> {
    /// Receives into `buf`, and waits for that.
    fn wait_in_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !mem::replace(&mut self.has_timeout, true) {
            SockRef::from(&self.socket).set_read_timeout(Some(READ_TIMEOUT))?;
        }
        if !mem::replace(&mut self.blocks, true) {
            ioctl_fionbio(&self.socket, false)?;
        }
        Ok(recv(&self.socket, buf, RecvFlags::empty())?.0)
    }

    /// Awaits `direction` if the call would block.
    fn poll_done<R>(&self, direction: Direction, done: io::Result<R>) -> Poll<io::Result<R>> {
        match done {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let what = match direction {
                    Direction::Read => PollFlags::IN,
                    Direction::Write => PollFlags::OUT,
                };
                wait_for(self.socket.clone(), what);
                Poll::Pending
            }
            done => Poll::Ready(done),
        }
    }
}

impl<T: AsFd + AsRawFd + 'static> Registered<T> for Polled<T> {
    type Stream = Polled<OwnedFd>;

    fn register(socket: T) -> io::Result<Self> {
        Ok(Self { socket: Arc::new(socket), looks_again: false, blocks: false, has_timeout: false })
    }

    fn get_ref(&self) -> &T {
        &self.socket
    }

    fn poll_io<R>(
        &mut self,
        _cx: &mut Context<'_>,
        direction: Direction,
        mut call: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        if mem::take(&mut self.blocks) {
            ioctl_fionbio(&self.socket, true)?;
        }
        self.poll_done(direction, call(&self.socket))
    }

    /// Whether it blocks is said in the call.
    fn poll_write(&mut self, _cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<io::Result<usize>> {
        self.poll_done(Direction::Write, stream::send(&self.socket, bufs))
    }

    fn poll_read(&mut self, _cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let looks_again = mem::take(&mut self.looks_again);
        if looks_again || !is_silent(self.socket.as_raw_fd()) {
            let read = if !looks_again && read_blocks(self.socket.as_raw_fd()) {
                self.wait_in_read(buf)
            } else {
                stream::receive(&self.socket, buf)
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    if matches!(read, Ok(n) if 0 < n && n < buf.len()) {
                        silence(self.socket.as_raw_fd());
                    }
                    return Poll::Ready(read);
                }
            }
        }
        wait_for_read(self.socket.clone());
        Poll::Pending
    }

    fn recheck(&mut self) {
        self.looks_again = true;
    }
}

/// The thread may have waited for the socket in this poll.
impl<T: AsRawFd> Drop for Polled<T> {
    fn drop(&mut self) {
        forget(self.socket.as_raw_fd());
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::TcpStream};

    use wirestate_core::runtime::Listener;

    use super::*;
    use crate::{Listening, ThreadListener, block_on};

    #[test]
    fn a_listener_that_is_dropped_is_closed_although_it_was_waited_for() {
        let listener = ThreadListener::new(Listening::new("127.0.0.1:0").unwrap()).unwrap();
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
