//! The options of every TCP socket: `TCP_NODELAY` and keepalive.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// Sets the options of every TCP socket: no delay, and keepalive probes after 60 s without a
/// segment, then every 10 s, three in total.
///
/// An accepted connection inherits the options of its listening socket.
///
/// # Errors
/// The operating system's (setsockopt(2)).
pub(crate) fn set_tcp_options(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    // TCP_NODELAY (tcp(7)): the Nagle algorithm delays a small segment until the peer has
    // acknowledged earlier data, and the peer may delay the acknowledgement by 500 ms (RFC 9293,
    // sections 3.7.4 and 3.8.6.3). Machines already gather their output for one vectored write.
    socket.set_tcp_nodelay(true)?;
    // SO_KEEPALIVE (socket(7); RFC 9293, section 3.8.4): a peer that vanishes without a FIN or an
    // RST is detected after 90 s, even if the machine has no timeout.
    //
    // TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT (tcp(7)): with Linux's defaults, detection takes
    // more than two hours.
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(10))
            .with_retries(3),
    )
}
