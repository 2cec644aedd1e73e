//! A listening socket, TCP or Unix: bound by this process, or inherited.

use std::{
    ffi::OsStr,
    io,
    net::{Shutdown, SocketAddr},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::PathBuf,
    task::{Context, Poll},
};

use rustix::{
    io::ioctl_fionbio,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, getsockname,
        sockopt::{socket_acceptconn, socket_domain, socket_type},
    },
};
use socket2::SockRef;
use wirestate_core::{
    Direction,
    admission::Peer,
    runtime::{AcceptError, Address, Listener, unix_path},
};

use crate::{
    registered_fd::RegisteredFd,
    socket::Socket,
    tcp,
    tcp_options::set_tcp_options,
    unix::{self, SocketFile},
};

/// A listening socket, TCP or Unix. On drop, it removes the socket file that it has created, if
/// any.
#[derive(Debug)]
pub struct SocketListener<F> {
    /// Declared first, so that the file is removed before the socket is closed. After that, another
    /// server could replace the file, and its file must not be removed.
    _file: Option<SocketFile>,
    fd: F,
    address: Address,
    /// Another process may share the socket.
    is_inherited: bool,
    state: State,
}

/// How connections are accepted.
#[derive(Clone, Copy, Debug)]
enum State {
    /// As soon as the socket is ready.
    Open,
    /// After a shutdown: every accept asks the kernel, in order to empty the backlog.
    ShutDown,
    /// After shutdown(2) of a Unix socket: every accept asks the kernel, and none waits for
    /// readiness, since the socket stays readable and no further connection can arrive.
    Refusing,
    /// Never: connections wait for another process that shares the socket.
    Left,
}

impl<F: RegisteredFd> SocketListener<F> {
    /// Listens on `address`, an `IP:PORT` or a `unix:PATH`: see
    /// [`Runtime::listen`](wirestate_core::runtime::Runtime::listen).
    ///
    /// # Errors
    /// The address is malformed, is not an address of this machine, or is in use; or the runtime
    /// does not accept the socket.
    ///
    /// # Panics
    /// As [`RegisteredFd::register`].
    pub fn bind(address: &str) -> io::Result<Self> {
        let (socket, address, file) = if let Some(path) = unix_path(address) {
            let (socket, file) = unix::listen(path)?;
            (socket, Address::Unix(path.to_owned()), file)
        } else {
            let address = address.parse().map_err(|_| invalid("neither IP:PORT nor unix:PATH"))?;
            let listener = tcp::listen(address)?;
            let address = Address::Ip(listener.local_addr()?);
            (listener.into(), address, None)
        };
        let fd = F::register(socket)?;
        Ok(Self { _file: file, fd, address, is_inherited: false, state: State::Open })
    }

    /// Takes over a socket that already listens and that another process may share (systemd's
    /// socket activation). Its socket file, if any, is not removed.
    ///
    /// # Errors
    /// The socket is not a stream socket that listens (the error names its kind), or the runtime
    /// does not accept it.
    ///
    /// # Panics
    /// As [`RegisteredFd::register`].
    pub fn inherited(socket: OwnedFd) -> io::Result<Self> {
        let address = inherited_address(&socket)?;
        if let Address::Ip(_) = address {
            set_tcp_options(&socket)?;
        }
        // FIONBIO (ioctl(2)) sets O_NONBLOCK. Without it, accept(2) would block if another process
        // has accepted the connection first.
        ioctl_fionbio(&socket, true)?;
        let fd = F::register(socket)?;
        Ok(Self { _file: None, fd, address, is_inherited: true, state: State::Open })
    }
}

impl<F: RegisteredFd + Send + 'static> Listener for SocketListener<F> {
    type Socket = Socket<F>;

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.address.clone())
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Self::Socket, Peer), AcceptError>> {
        let Self { fd, address, state, .. } = self;
        let accept = |listener: &OwnedFd| accept(listener, address);
        match state {
            State::Open => {}
            State::ShutDown => fd.recheck(),
            State::Refusing => {
                return match accept(fd.get_ref()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                    accepted => Poll::Ready(accepted.map_err(AcceptError::from)),
                };
            }
            State::Left => return Poll::Pending,
        }
        fd.poll_io(cx, Direction::Read, accept).map_err(AcceptError::from)
    }

    /// An inherited socket continues to queue connections. The process that passed it, or the next
    /// server that it starts, accepts them.
    fn shut_down(&mut self) {
        let socket = self.fd.get_ref();
        self.state = match self.address {
            _ if self.is_inherited => State::Left,
            Address::Ip(_) => {
                tcp::drop_syns(socket);
                State::ShutDown
            }
            // After shutdown(2), Linux refuses new connections and keeps the backlog.
            Address::Unix(_) => match SockRef::from(socket).shutdown(Shutdown::Read) {
                Ok(()) => State::Refusing,
                Err(_) => State::ShutDown,
            },
        };
    }
}

/// Accepts the next connection, non-blocking and close-on-exec.
///
/// # Errors
/// The operating system's (accept(2)), or the runtime does not accept the socket.
fn accept<F: RegisteredFd>(listener: &OwnedFd, address: &Address) -> io::Result<(Socket<F>, Peer)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, name) = acceptfrom_with(listener, flags)?;
    let peer = match (address, name) {
        (Address::Ip(_), Some(name)) => Peer::Ip(SocketAddr::try_from(name)?),
        (Address::Ip(_), None) | (Address::Unix(_), _) => Peer::Local,
    };
    Ok((Socket::from_nonblocking(socket)?, peer))
}

/// The address of a stream socket that listens (getsockname(2)).
///
/// # Errors
/// `socket` is of another kind. The error names the kind.
fn inherited_address(socket: &OwnedFd) -> io::Result<Address> {
    let refused = |kind| {
        let expected = "a stream socket that listens (TCP or Unix)";
        invalid(&format!("the inherited socket is {kind}, expected {expected}"))
    };
    // SO_TYPE, SO_ACCEPTCONN, SO_DOMAIN (socket(7)): a unit file can pass a socket of any kind.
    // Every accept(2) on a socket of another kind would fail.
    match socket_type(socket)? {
        SocketType::STREAM if socket_acceptconn(socket)? => {}
        SocketType::STREAM => return Err(refused("a stream socket that does not listen")),
        SocketType::DGRAM => return Err(refused("a datagram socket")),
        SocketType::SEQPACKET => return Err(refused("a seqpacket socket")),
        _ => return Err(refused("a socket of another type")),
    }
    let name = getsockname(socket)?;
    match socket_domain(socket)? {
        AddressFamily::UNIX => {
            let name = SocketAddrUnix::try_from(name)?;
            let path = match (name.path_bytes(), name.abstract_name()) {
                (Some(path), _) => path.to_vec(),
                (None, Some(name)) => [b"@", name].concat(),
                (None, None) => Vec::new(),
            };
            Ok(Address::Unix(PathBuf::from(OsStr::from_bytes(&path))))
        }
        AddressFamily::INET | AddressFamily::INET6 => Ok(Address::Ip(SocketAddr::try_from(name)?)),
        _ => Err(refused("neither a TCP nor a Unix socket")),
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::{
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener, UnixStream},
        },
        task::Waker,
    };

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// A socket without a runtime: a task that waits for it is never woken.
    #[derive(Debug)]
    struct UnregisteredFd(OwnedFd);

    impl RegisteredFd for UnregisteredFd {
        fn register(fd: OwnedFd) -> io::Result<Self> {
            Ok(Self(fd))
        }

        fn get_ref(&self) -> &OwnedFd {
            &self.0
        }

        fn poll_io<T>(
            &mut self,
            _cx: &mut Context<'_>,
            _direction: Direction,
            mut call: impl FnMut(&OwnedFd) -> io::Result<T>,
        ) -> Poll<io::Result<T>> {
            match call(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                result => Poll::Ready(result),
            }
        }

        fn recheck(&mut self) {}
    }

    type TestListener = SocketListener<UnregisteredFd>;

    /// The peer of the next connection; `None` if there is none.
    fn accept(listener: &mut TestListener) -> Option<Peer> {
        match listener.poll_accept(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(accepted) => Some(accepted.unwrap().1),
            Poll::Pending => None,
        }
    }

    #[test]
    fn only_a_stream_socket_that_listens_can_be_inherited() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut inherited = TestListener::inherited(listener.into()).unwrap();
        assert_eq!(inherited.local_address().unwrap(), Address::Ip(address));
        assert_eq!(accept(&mut inherited), None, "it does not block");
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(accept(&mut inherited), Some(Peer::Ip(client.local_addr().unwrap())));

        let nameless = UnixAddress::from_abstract_name(format!("wirestate-{address}")).unwrap();
        let listener = UnixListener::bind_addr(&nameless).unwrap();
        let inherited = TestListener::inherited(listener.into()).unwrap();
        let name = inherited.local_address().unwrap().to_string();
        assert_eq!(name, format!("unix:@wirestate-{address}"));

        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        for (other, kind) in [
            (OwnedFd::from(client), "a stream socket that does not listen"),
            (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "a datagram socket"),
            (UnixDatagram::unbound().unwrap().into(), "a datagram socket"),
            (packets.into(), "a seqpacket socket"),
            (UnixStream::pair().unwrap().0.into(), "a stream socket that does not listen"),
        ] {
            let refused = TestListener::inherited(other).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
            let message = refused.to_string();
            let is_clear = message.contains(kind) && message.contains("expected a stream socket");
            assert!(is_clear, "{message}");
        }
        TestListener::inherited(std::fs::File::open("/dev/null").unwrap().into()).unwrap_err();
    }

    #[test]
    fn a_listener_binds_an_abstract_name_and_accepts_from_it() {
        let address = format!("unix:@wirestate-abstract-{}", std::process::id());
        let mut listener = TestListener::bind(&address).unwrap();
        assert_eq!(listener.local_address().unwrap().to_string(), address);
        let taken = TestListener::bind(&address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "{taken}");
        unix::connect(unix_path(&address).unwrap()).unwrap();
        assert_eq!(accept(&mut listener), Some(Peer::Local));
    }

    #[test]
    fn a_host_name_is_not_a_valid_address_to_listen_on() {
        let error = TestListener::bind("localhost:0").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }

    #[test]
    fn a_unix_socket_that_is_shut_down_accepts_only_its_backlog() {
        let address = format!("unix:@wirestate-shut-down-{}", std::process::id());
        let mut listener = TestListener::bind(&address).unwrap();
        let path = unix_path(&address).unwrap();
        let _waiting = unix::connect(path).unwrap();
        listener.shut_down();
        let refused = unix::connect(path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(accept(&mut listener), Some(Peer::Local));
        assert_eq!(accept(&mut listener), None);
    }

    /// The service manager owns the socket, and starts the next server for the next connection.
    #[test]
    fn an_inherited_socket_is_left_to_the_next_server() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut inherited = TestListener::inherited(listener.try_clone().unwrap().into()).unwrap();
        let _waiting = TcpStream::connect(address).unwrap();
        inherited.shut_down();
        assert_eq!(accept(&mut inherited), None, "the next server accepts what waits");
        drop(inherited);
        let _later = TcpStream::connect(address).unwrap();
        for _ in 0..2 {
            listener.accept().unwrap();
        }
    }
}
