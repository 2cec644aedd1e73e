//! What is done alike with a connected stream, TCP or Unix.

use std::{
    ffi::c_int,
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use rustix::{
    ioctl::{Getter, Opcode, ioctl},
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, getpeername, recv,
        send as send_one, sendmsg,
        sockopt::{socket_domain, socket_peercred},
    },
};
use socket2::SockRef;
use wirestate_core::{drive::MAX_SLICES, runtime::Address};

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
    // It is the common case, and send(2) is cheaper than sendmsg(2).
    if let [buf] = bufs {
        return Ok(send_one(socket, buf, flags)?);
    }
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let filled = slices.iter_mut().zip(bufs).map(|(slice, buf)| *slice = IoSlice::new(buf));
    let count = filled.count();
    Ok(sendmsg(socket, &slices[..count], &mut SendAncillaryBuffer::default(), flags)?)
}

/// Whether a connection that was begun is made.
///
/// # Errors
/// Why it is not (`SO_ERROR`; connect(2)); [`WouldBlock`](io::ErrorKind::WouldBlock) while that is
/// not decided.
pub(crate) fn connected(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // It has a peer once it is connected (getpeername(2)).
    match socket.peer_addr() {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        peer => peer.map(drop),
    }
}

/// The address at this end (getsockname(2)); `None` where it is no IP address.
pub(crate) fn local_address(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(socket).local_addr().ok()?.as_socket()
}

/// The address to which a connection was made (getpeername(2)); of a Unix socket only if this
/// process listens on it: another process may listen on the same relative path in another folder.
pub(crate) fn dialled_address(socket: &impl AsFd) -> Option<Address> {
    let peer = SockRef::from(socket).peer_addr().ok()?;
    if let Some(address) = peer.as_socket() {
        return Some(Address::Ip(address));
    }
    let listening = socket_peercred(socket).ok()?.pid.as_raw_nonzero().get();
    let is_own = u32::try_from(listening) == Ok(std::process::id());
    peer.as_pathname().filter(|_| is_own).map(|path| Address::Unix(path.to_owned()))
}

/// Sends a FIN: shutdown(2) of the writing half. (Tokio's own hides that the connection is gone.)
///
/// # Errors
/// The operating system's.
pub(crate) fn finish(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).shutdown(Shutdown::Write)
}

/// The bytes written to a TCP socket that its peer has not acknowledged (`SIOCOUTQ`; tcp(7)). A FIN
/// that is not acknowledged counts as one byte.
///
/// 0 for a Unix socket: written bytes reach the peer at once, and the kernel's figure counts
/// memory, not bytes (unix(7)). 0 also for a connection that is lost: nothing will be acknowledged
/// any more, but Linux keeps the figure.
pub fn unacknowledged(socket: &impl AsFd) -> usize {
    // SAFETY: ioctl(2) with this code stores one `int` where its argument points to, which is what
    // `Getter` provides, and does nothing else (tcp(7), unix(7)).
    #[allow(unsafe_code, reason = "no library has a safe call for it")]
    let figure = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) };
    let figure = figure.ok().and_then(|figure| usize::try_from(figure).ok()).unwrap_or(0);
    // Most often it is 0, and one system call has said so.
    let counts = || {
        socket_domain(socket).is_ok_and(|domain| domain != AddressFamily::UNIX)
            && getpeername(socket).is_ok()
    };
    if figure > 0 && counts() { figure } else { 0 }
}

/// The number of the ioctl (linux/sockios.h; `TIOCOUTQ` of `ioctl_tty(2)`).
const SIOCOUTQ: Opcode = 0x5411;

/// Makes closing the socket's last descriptor send an RST (`SO_LINGER` of 0; socket(7)). On a Unix
/// socket it changes nothing: see [`Address`].
pub(crate) fn reset_on_close(socket: &impl AsFd) {
    // It fails only on a socket that is no longer connected, where there is nobody to tell.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
