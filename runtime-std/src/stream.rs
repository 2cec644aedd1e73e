//! What is done alike with a connected stream, TCP or Unix.

use std::{
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
    ops::Deref,
    os::fd::AsFd,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send as send_one, sendmsg},
};
use socket2::SockRef;
use wirestate_core::drive::MAX_SLICES;

/// Receives into `buf`, without blocking; 0 is the peer's FIN.
///
/// # Errors
/// The operating system's; [`WouldBlock`](io::ErrorKind::WouldBlock) where there is nothing.
pub fn receive(socket: &impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket, buf, RecvFlags::DONTWAIT)?.0)
}

/// Sends from `bufs`, without blocking, and without a signal where the peer is gone.
///
/// # Errors
/// The operating system's; [`WouldBlock`](io::ErrorKind::WouldBlock) where there is no room.
pub fn send(socket: &impl AsFd, bufs: &[&[u8]]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(match bufs {
        // It is the common case, and send(2) is cheaper than sendmsg(2).
        [buf] => send_one(socket, buf, flags)?,
        bufs => sendmsg(socket, &slices(bufs), &mut SendAncillaryBuffer::default(), flags)?,
    })
}

/// Whether the connection that was begun was made, once the socket is writable.
///
/// # Errors
/// Why it was not (`SO_ERROR`; connect(2)).
pub fn connected(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).take_error()?.map_or(Ok(()), Err)
}

/// The address at this end (getsockname(2)); `None` where it is no IP address.
pub fn local_address(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(socket).local_addr().ok()?.as_socket()
}

/// Sends a FIN: shutdown(2) of the writing half. (Tokio's own hides that the connection is gone.)
///
/// # Errors
/// The operating system's.
pub fn finish(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).shutdown(Shutdown::Write)
}

/// Whether all that was written has been sent, or can't be any more. Only a TCP socket keeps what its peer
/// has no room for.
pub fn is_sent(socket: &impl AsFd) -> bool {
    // With this limit it is writable only if nothing is unsent (tcp(7), `tcp_stream_memory_free`).
    if SockRef::from(socket).set_tcp_notsent_lowat(1).is_err() {
        return true;
    }
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
}

/// Makes closing the socket's last descriptor send an RST (`SO_LINGER` of 0; socket(7)). On a Unix
/// socket it changes nothing: see [`Address`](wirestate_core::runtime::Address).
pub fn reset_on_close(socket: &impl AsFd) {
    // It fails only on a socket that is no longer connected, where there is nobody to tell.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// The first [`MAX_SLICES`] of `bufs` as the operating system wants them.
pub fn slices<'a>(bufs: &[&'a [u8]]) -> impl Deref<Target = [IoSlice<'a>]> {
    let mut slices = Slices { slices: [IoSlice::new(&[]); MAX_SLICES], len: 0 };
    for (slice, buf) in slices.slices.iter_mut().zip(bufs) {
        *slice = IoSlice::new(buf);
        slices.len += 1;
    }
    slices
}

struct Slices<'a> {
    slices: [IoSlice<'a>; MAX_SLICES],
    len: usize,
}

impl<'a> Deref for Slices<'a> {
    type Target = [IoSlice<'a>];

    fn deref(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.len]
    }
}
