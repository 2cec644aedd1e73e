//! TCP sockets with the options that Wirestate's servers and clients set, alike on every runtime.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::listening::BACKLOG;

/// The addresses of a `host:port`. Blocks while a name is looked up.
///
/// # Errors
/// It has no such form, or the name is unknown.
pub fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// Listens on a `host:port`, without blocking.
///
/// The connections that it accepts have the options of [`tune`]: they inherit them from the
/// listening socket.
///
/// # Errors
/// The address has no such form, is not this machine's, or is in use.
pub fn listen(address: &str) -> io::Result<TcpListener> {
    let mut last = None;
    for address in resolve(address)? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A new socket for `address`: close-on-exec, without blocking, and tuned.
fn new(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    tune(&socket)?;
    Ok(socket)
}

/// Begins to connect to `address`, without blocking. The socket is writable when that is decided,
/// and `SO_ERROR` says how (connect(2), `EINPROGRESS`).
///
/// # Errors
/// The operating system's.
pub fn begin_connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new(address)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

/// `EINPROGRESS` has no kind of its own on stable Rust (errno(3)).
const EINPROGRESS: i32 = 115;

/// Tries one address after the other.
///
/// # Errors
/// The last address's.
pub async fn first_that_connects<S, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let mut last = None;
    for address in addresses {
        match connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// Sets what every TCP socket here has: no delay of small segments (`TCP_NODELAY`), and keepalive
/// probes after 60 s of silence, every 10 s, three of them (tcp(7)).
///
/// # Errors
/// The operating system's.
pub fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(10))
            .with_retries(3),
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_accepted_connection_inherits_the_options() {
        let listener = listen("127.0.0.1:0").unwrap();
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
}
