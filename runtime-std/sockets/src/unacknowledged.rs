//! The number of written bytes that the peer has not acknowledged.

use std::{ffi::c_int, os::fd::AsFd};

use rustix::{
    ioctl::{Getter, Opcode, ioctl},
    net::{AddressFamily, getpeername, sockopt::socket_domain},
};

/// The number of bytes written to a TCP socket that its peer has not acknowledged (`SIOCOUTQ`;
/// tcp(7)). An unacknowledged FIN counts as one byte.
///
/// It is 0 for
/// - a Unix socket: written bytes reach the peer at once, and the kernel's number counts memory
///   (unix(7));
/// - a lost connection: no acknowledgement can follow, although Linux keeps the number.
pub fn unacknowledged(socket: &impl AsFd) -> usize {
    // SAFETY: ioctl(2) with this code stores one `int` where its argument points to, which is what
    // `Getter` provides, and does nothing else (tcp(7), unix(7)).
    #[expect(unsafe_code, reason = "no published library has a safe call for SIOCOUTQ")]
    let figure = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) };
    let figure = figure.ok().and_then(|figure| usize::try_from(figure).ok()).unwrap_or(0);
    // The figure is 0 most of the time. Then the ioctl is the only system call.
    let is_connected_tcp = || {
        // SO_DOMAIN (socket(7)).
        socket_domain(socket).is_ok_and(|domain| domain != AddressFamily::UNIX)
            && getpeername(socket).is_ok()
    };
    if figure > 0 && is_connected_tcp() { figure } else { 0 }
}

/// The number of the ioctl (linux/sockios.h; `TIOCOUTQ` of `ioctl_tty(2)`).
const SIOCOUTQ: Opcode = 0x5411;
