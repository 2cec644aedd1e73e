//! System calls on a connected stream, TCP or Unix: receive, send, FIN, reset, addresses.

use std::{
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, recv, send as send_one, sendmsg,
    sockopt::socket_peercred,
};
use socket2::SockRef;
use wirestate_core::{drive::MAX_SLICES, runtime::Address};

/// Receives into `buf`, without blocking, and returns the number of bytes; 0 is the peer's FIN.
///
/// # Errors
/// The operating system's (recv(2)); [`WouldBlock`](io::ErrorKind::WouldBlock) if the socket is
/// empty.
pub fn receive(socket: &impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket, buf, RecvFlags::DONTWAIT)?.0)
}

/// Sends from `bufs`, without blocking, and returns the number of bytes. A closed connection causes
/// no SIGPIPE. Only the first [`MAX_SLICES`] buffers are sent.
///
/// # Errors
/// The operating system's (send(2)); [`WouldBlock`](io::ErrorKind::WouldBlock) if the send buffer
/// is full.
pub fn send(socket: &impl AsFd, bufs: &[&[u8]]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // One buffer is the common case, for which send(2) costs less than sendmsg(2).
    if let [buf] = bufs {
        return Ok(send_one(socket, buf, flags)?);
    }
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let filled = slices.iter_mut().zip(bufs).map(|(slice, buf)| *slice = IoSlice::new(buf));
    let count = filled.count();
    Ok(sendmsg(socket, &slices[..count], &mut SendAncillaryBuffer::default(), flags)?)
}

/// Sends a FIN: shutdown(2) of the writing half.
///
/// # Errors
/// The operating system's.
pub(crate) fn finish(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).shutdown(Shutdown::Write)
}

/// Makes close(2) of the socket's last descriptor send an RST. On a Unix socket it has no effect:
/// see [`Address`].
pub(crate) fn reset_on_close(socket: &impl AsFd) {
    // SO_LINGER with a time of 0 (socket(7)): close(2) discards unsent data and resets the
    // connection, so that the peer does not take an abort for a clean end (RFC 9293, section
    // 3.10.5). It fails only if the socket is no longer connected: then there is no peer to reset.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// The local address (getsockname(2)); `None` if it is not an IP address.
pub(crate) fn local_address(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(socket).local_addr().ok()?.as_socket()
}

/// The address to which a connection was made (getpeername(2)). For a Unix socket, only if this
/// process listens on it: in another process, the same relative path can name another file.
pub(crate) fn dialled_address(socket: &impl AsFd) -> Option<Address> {
    let peer = SockRef::from(socket).peer_addr().ok()?;
    if let Some(address) = peer.as_socket() {
        return Some(Address::Ip(address));
    }
    // SO_PEERCRED (unix(7)): the process that called listen(2).
    let listening = socket_peercred(socket).ok()?.pid.as_raw_nonzero().get();
    let is_own = u32::try_from(listening) == Ok(std::process::id());
    peer.as_pathname().filter(|_| is_own).map(|path| Address::Unix(path.to_owned()))
}
