//! A socket that listens, of either kind, and is the same on every runtime.

use std::{
    ffi::OsStr,
    io,
    net::{Shutdown, SocketAddr},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::{
    io::ioctl_fionbio,
    net::{
        AddressFamily, SocketFlags, SocketType, acceptfrom_with, getsockname,
        sockopt::{socket_acceptconn, socket_domain, socket_type},
    },
};
use socket2::SockRef;
use wirestate_core::{
    admission::Peer,
    runtime::{Address, unix_path},
};

use crate::{
    tcp,
    unix::{self, SocketFile},
};

/// A socket that listens, without blocking. Its file, if it made one, is removed when it is
/// dropped.
#[derive(Debug)]
pub struct Listening {
    /// Dropped, and the file removed, before the socket is closed. Another server replaces a file
    /// to which no socket is bound; that server's file must not be removed.
    _file: Option<SocketFile>,
    socket: OwnedFd,
    address: Address,
    /// Another process may share the socket.
    is_inherited: bool,
    /// Nothing new comes into its backlog.
    is_final: AtomicBool,
}

impl Listening {
    /// Listens on `address`, an `IP:PORT` or a `unix:PATH`.
    ///
    /// # Errors
    /// The address has no such form, is not this machine's, or is in use.
    pub fn new(address: &str) -> io::Result<Self> {
        let (socket, address, file) = if let Some(path) = unix_path(address) {
            let (socket, file) = unix::listen(path)?;
            (socket, Address::Unix(path.to_owned()), file)
        } else {
            let address = address.parse().map_err(|_| invalid("neither IP:PORT nor unix:PATH"))?;
            let listener = tcp::listen(address)?;
            let address = Address::Ip(listener.local_addr()?);
            (listener.into(), address, None)
        };
        Ok(Self {
            _file: file,
            socket,
            address,
            is_inherited: false,
            is_final: AtomicBool::new(false),
        })
    }

    /// Takes over a socket that listens already. Its file, if it has one, is somebody else's.
    ///
    /// # Errors
    /// It is not a stream socket that listens; the error says what it is.
    pub fn inherited(socket: OwnedFd) -> io::Result<Self> {
        let listens = match socket_type(&socket)? {
            SocketType::STREAM if socket_acceptconn(&socket)? => Ok(()),
            SocketType::STREAM => Err("a stream socket that does not listen"),
            SocketType::DGRAM => Err("a datagram socket"),
            SocketType::SEQPACKET => Err("a seqpacket socket"),
            _ => Err("a socket of another type"),
        };
        listens.map_err(|what| {
            invalid(&format!("the socket that was passed is {what}: expected {EXPECTED}"))
        })?;
        let name = getsockname(&socket)?;
        let address = match socket_domain(&socket)? {
            AddressFamily::UNIX => {
                let name = rustix::net::SocketAddrUnix::try_from(name)?;
                let path = match (name.path_bytes(), name.abstract_name()) {
                    (Some(path), _) => path.to_vec(),
                    (None, Some(name)) => [b"@", name].concat(),
                    (None, None) => Vec::new(),
                };
                Address::Unix(PathBuf::from(OsStr::from_bytes(&path)))
            }
            AddressFamily::INET | AddressFamily::INET6 => {
                tcp::tune(&socket)?;
                Address::Ip(SocketAddr::try_from(name)?)
            }
            _ => {
                let what = "neither a TCP nor a Unix socket";
                let message = format!("the socket that was passed is {what}: expected {EXPECTED}");
                return Err(invalid(&message));
            }
        };
        ioctl_fionbio(&socket, true)?;
        Ok(Self {
            _file: None,
            socket,
            address,
            is_inherited: true,
            is_final: AtomicBool::new(false),
        })
    }

    /// The address that it listens on, with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection, which does not block either.
    ///
    /// # Errors
    /// The operating system's (accept(2)); [`WouldBlock`](io::ErrorKind::WouldBlock) where there is
    /// none.
    pub fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, name) = acceptfrom_with(&self.socket, flags)?;
        let peer = match (&self.address, name) {
            (Address::Ip(_), Some(name)) => Peer::Ip(SocketAddr::try_from(name)?),
            (Address::Ip(_), None) | (Address::Unix(_), _) => Peer::Local,
        };
        Ok((socket, peer))
    }

    /// Whether there are connections to wait for: not once a Unix socket is
    /// [shut down](Self::shut_down), which stays readable then.
    pub fn awaits_more(&self) -> bool {
        !self.is_final.load(Relaxed)
    }

    /// Takes no further connections into the backlog: see
    /// [`Listener::shut_down`](wirestate_core::runtime::Listener::shut_down). An inherited socket
    /// is left alone, since the process that passed it may continue to use it.
    pub fn shut_down(&self) {
        match self.address {
            _ if self.is_inherited => {}
            Address::Ip(_) => tcp::drop_syns(&self.socket),
            // Linux then refuses new connections; those in the backlog can still be accepted.
            Address::Unix(_) => {
                let shut_down = SockRef::from(&self.socket).shutdown(Shutdown::Read);
                self.is_final.store(shut_down.is_ok(), Relaxed);
            }
        }
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// The kind of socket that a server listens on.
const EXPECTED: &str = "a stream socket that listens (TCP or Unix)";

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listening {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::{
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener, UnixStream},
        },
    };

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn what_listens_can_be_inherited_and_nothing_else() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inherited = Listening::inherited(listener.into()).unwrap();
        assert_eq!(inherited.address(), &Address::Ip(address));
        let nobody = inherited.accept().unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock, "it does not block");
        let client = TcpStream::connect(address).unwrap();
        let (_, peer) = inherited.accept().unwrap();
        assert_eq!(peer, Peer::Ip(client.local_addr().unwrap()));

        let nameless = UnixAddress::from_abstract_name(format!("wirestate-{address}")).unwrap();
        let listener = UnixListener::bind_addr(&nameless).unwrap();
        let inherited = Listening::inherited(listener.into()).unwrap();
        assert_eq!(inherited.address().to_string(), format!("unix:@wirestate-{address}"));

        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        for (other, what) in [
            (OwnedFd::from(client), "a stream socket that does not listen"),
            (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "a datagram socket"),
            (UnixDatagram::unbound().unwrap().into(), "a datagram socket"),
            (packets.into(), "a seqpacket socket"),
            (UnixStream::pair().unwrap().0.into(), "a stream socket that does not listen"),
        ] {
            let refused = Listening::inherited(other).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
            let said = refused.to_string();
            assert!(said.contains(what) && said.contains("expected a stream socket"), "{said}");
        }
        Listening::inherited(std::fs::File::open("/dev/null").unwrap().into()).unwrap_err();
    }

    #[test]
    fn an_abstract_name_is_listened_on_and_connected_to() {
        let address = format!("unix:@wirestate-abstract-{}", std::process::id());
        let listening = Listening::new(&address).unwrap();
        assert_eq!(listening.address().to_string(), address);
        let taken = Listening::new(&address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "{taken}");
        unix::connect(unix_path(&address).unwrap()).unwrap();
        assert_eq!(listening.accept().unwrap().1, Peer::Local);
    }

    #[test]
    fn a_name_is_not_listened_on() {
        let error = Listening::new("localhost:0").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }

    #[test]
    fn after_its_shut_down_a_unix_socket_accepts_what_is_in_the_backlog_and_no_more() {
        let address = format!("unix:@wirestate-shut-down-{}", std::process::id());
        let listening = Listening::new(&address).unwrap();
        let path = unix_path(&address).unwrap();
        let _waiting = unix::connect(path).unwrap();
        listening.shut_down();
        let refused = unix::connect(path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        listening.accept().unwrap();
        assert_eq!(listening.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    /// The service manager owns it, and starts the next server for the next connection.
    #[test]
    fn an_inherited_socket_is_not_shut_down() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inherited = Listening::inherited(listener.try_clone().unwrap().into()).unwrap();
        inherited.shut_down();
        drop(inherited);
        TcpStream::connect(address).unwrap();
        listener.accept().unwrap();
    }
}
