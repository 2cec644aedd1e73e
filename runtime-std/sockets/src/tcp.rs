//! TCP sockets: listening, dropping SYNs, connecting, and rejecting a connection to itself.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
};

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use wirestate_core::runtime::BACKLOG;

use crate::{stream::reset_on_close, tcp_options::set_tcp_options};

/// A non-blocking socket that listens on `address`. `[::]` accepts IPv4 as well.
///
/// # Errors
/// The address is not an address of this machine, or is in use.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address)?;
    if address.is_ipv6() {
        // IPV6_V6ONLY (ipv6(7)): its default is `net.ipv6.bindv6only`, so `[::]` would accept IPv4
        // on one machine and not on another.
        socket.set_only_v6(false)?;
    }
    // SO_REUSEADDR (socket(7)): a server can restart at once, although connections of the previous
    // one are in TIME-WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG.into())?;
    Ok(socket.into())
}

/// Makes a listening socket drop every SYN, so that its backlog can only shrink. Handshakes that
/// have begun are completed. A peer repeats a SYN that is not answered (after 1 s on Linux). By
/// then, another server may listen; otherwise the peer is refused.
///
/// Without this filter, close(2) resets a connection that was made after the last accept(2). A
/// backlog of 0 does not prevent that, since it admits one connection.
pub(crate) fn drop_syns(listener: &impl AsFd) {
    // Classic BPF. The filter gets each segment from its TCP header on, and the flags are in byte
    // 13 (RFC 9293, section 3.1).
    const FILTER: [SockFilter; 5] = [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    // SO_ATTACH_FILTER (socket(7)): no other option stops new connections and keeps the backlog.
    // The error is ignored: a kernel without filters resets connections that arrive between the
    // last accept(2) and close(2).
    let _ = SockRef::from(listener).attach_filter(&FILTER);
}

/// A new socket for `address`, close-on-exec, non-blocking, with the options of every TCP socket.
fn new(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // O_NONBLOCK (fcntl(2)): connect(2) and accept(2) return at once.
    socket.set_nonblocking(true)?;
    set_tcp_options(&socket)?;
    Ok(socket)
}

/// Begins to connect to `address`, without blocking. When the socket is writable,
/// [`check_connected`] has the result (connect(2), `EINPROGRESS`).
///
/// # Errors
/// The operating system's.
pub(crate) fn begin_connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new(address)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

/// Checks that the connection attempt of [`begin_connect`] has succeeded.
///
/// # Errors
/// Why the attempt failed; [`WouldBlock`](io::ErrorKind::WouldBlock) while it is in progress.
pub(crate) fn check_connected(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    // SO_ERROR (socket(7)): connect(2) reports the result of a non-blocking attempt there.
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // Without an error, the attempt can still be in progress. Only a connected socket has a peer
    // (getpeername(2)).
    match socket.peer_addr() {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        peer => peer.map(drop),
    }
}

/// Rejects a socket that is connected to itself. If nobody listens on a port of this machine, the
/// kernel may assign that very port to a socket that connects to it. The socket then answers its
/// own SYN (simultaneous open; RFC 9293, section 3.5).
///
/// Such a socket is closed without `TIME-WAIT`, which would block the port for the missing server.
///
/// # Errors
/// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) if the socket is connected to itself;
/// the operating system's.
pub(crate) fn reject_self_connection(stream: &impl AsFd, dialled: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let local = socket.local_addr()?.as_socket();
    // The dialled address can be unspecified (`0.0.0.0`); the address of the peer is not.
    let is_itself = local.is_some_and(|local| local.port() == dialled.port())
        && socket.peer_addr().is_ok_and(|peer| peer.as_socket() == local);
    if is_itself {
        reset_on_close(stream);
        let message = format!("nobody listens on {dialled}: the connection has reached itself");
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, message));
    }
    Ok(())
}

/// `EINPROGRESS` has no [`io::ErrorKind`] on stable Rust (errno(3)).
const EINPROGRESS: i32 = 115;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        time::Duration,
    };

    use super::*;

    #[test]
    fn an_accepted_connection_inherits_the_options() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    }

    /// Binds the port explicitly, since the kernel chooses that port only by chance.
    #[test]
    fn a_socket_that_is_connected_to_itself_is_a_failed_attempt_and_frees_its_port() {
        for host in ["127.0.0.1", "0.0.0.0", "[::1]"] {
            let any_port: SocketAddr = format!("{host}:0").parse().unwrap();
            let socket = new(any_port).unwrap();
            socket.set_nonblocking(false).unwrap();
            socket.bind(&any_port.into()).unwrap();
            let port = socket.local_addr().unwrap().as_socket().unwrap().port();
            let itself = SocketAddr::new(any_port.ip(), port);
            socket.connect(&itself.into()).unwrap();
            let refused = reject_self_connection(&socket, itself).unwrap_err();
            drop(socket);
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{refused}");
            assert!(refused.to_string().contains("itself"), "{refused}");
            // Without SO_REUSEADDR, this fails if the port is still in use.
            new(itself).unwrap().bind(&itself.into()).unwrap();
        }
    }

    #[test]
    fn a_listener_that_drops_syns_accepts_only_its_backlog() {
        let listener = listen("[::1]:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = TcpStream::connect(address).unwrap();
        drop_syns(&listener);
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(100)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
        (&waiting).write_all(b"hi").unwrap();
        (&accepted).read_exact(&mut [0; 2]).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
