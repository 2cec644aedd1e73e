//! A socket that listens, of either kind, and is the same on every runtime.

use std::{
    ffi::OsStr,
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use rustix::{
    io::ioctl_fionbio,
    net::{
        AddressFamily, SocketFlags, SocketType, acceptfrom_with, getsockname,
        sockopt::{socket_acceptconn, socket_domain, socket_type},
    },
};
use wirestate_core::{
    admission::Peer,
    runtime::{Address, unix_path},
};

use crate::{
    tcp,
    unix::{self, SocketFile},
};

/// The backlog that is asked for; the kernel clamps it to `net.core.somaxconn` (listen(2)).
pub(crate) const BACKLOG: i32 = 4096;

/// A socket that listens, without blocking. Its file, if it made one, is removed when it is dropped.
#[derive(Debug)]
pub struct Listening {
    socket: OwnedFd,
    address: Address,
    _file: Option<SocketFile>,
}

impl Listening {
    /// Listens on `address`, a `host:port` or a `unix:PATH`.
    ///
    /// # Errors
    /// The address has no such form, is not this machine's, or is in use.
    pub fn new(address: &str) -> io::Result<Self> {
        if let Some(path) = unix_path(address) {
            let (socket, file) = unix::listen(path)?;
            Ok(Self { socket, address: Address::Unix(path.to_owned()), _file: Some(file) })
        } else {
            let listener = tcp::listen(address)?;
            let address = Address::Ip(listener.local_addr()?);
            Ok(Self { socket: listener.into(), address, _file: None })
        }
    }

    /// Takes over a socket that listens already. Its file, if it has one, is somebody else's.
    ///
    /// # Errors
    /// It is no stream socket that listens.
    pub fn inherited(socket: OwnedFd) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if socket_type(&socket)? != SocketType::STREAM || !socket_acceptconn(&socket)? {
            return Err(wrong("not a stream socket that listens"));
        }
        let name = getsockname(&socket)?;
        let address = match socket_domain(&socket)? {
            AddressFamily::UNIX => {
                let path = rustix::net::SocketAddrUnix::try_from(name)?;
                let path = path.path_bytes().map(|path| PathBuf::from(OsStr::from_bytes(path)));
                Address::Unix(path.unwrap_or_default())
            }
            AddressFamily::INET | AddressFamily::INET6 => {
                tcp::tune(&socket)?;
                Address::Ip(SocketAddr::try_from(name)?)
            }
            _ => return Err(wrong("neither a TCP nor a Unix socket")),
        };
        ioctl_fionbio(&socket, true)?;
        Ok(Self { socket, address, _file: None })
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
}

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
            unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream},
        },
    };

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
        assert!(matches!(inherited.address(), Address::Unix(_)));

        for other in [
            OwnedFd::from(client),
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            UnixStream::pair().unwrap().0.into(),
        ] {
            let refused = Listening::inherited(other).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
        }
        Listening::inherited(std::fs::File::open("/dev/null").unwrap().into()).unwrap_err();
    }
}
