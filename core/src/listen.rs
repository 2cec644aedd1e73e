//! Listening on all addresses of a name.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    string::ToString,
    task::{Context, Poll},
    vec::Vec,
};

use crate::{
    address_errors::AddressErrors,
    admission::Peer,
    runtime::{AcceptError, Address, Listener, Runtime, unix_path},
};

/// Listens on all addresses of `address`, as [`Runtime::bind`] documents.
pub(crate) async fn listen<R: Runtime>(
    runtime: &R,
    address: &str,
) -> io::Result<Listeners<R::Listener>> {
    if unix_path(address).is_some() {
        return Ok(Listeners::new(vec![runtime.listen(address)?]));
    }
    let addresses = runtime.resolve(address).await?;
    let listen = |address: SocketAddr| runtime.listen(&address.to_string());
    let listened = listen_on_all(&addresses, listen);
    listened.map(Listeners::new).map_err(|errors| errors.into_error(address))
}

/// Listens on the same port of each address. If the kernel chooses the port, tries up to
/// [`PORT_ATTEMPTS`] more.
fn listen_on_all<L: Listener>(
    addresses: &[SocketAddr],
    listen: impl Fn(SocketAddr) -> io::Result<L>,
) -> Result<Vec<L>, AddressErrors> {
    let mut attempts = 0;
    loop {
        let mut listeners: Vec<L> = Vec::new();
        match add_all(&mut listeners, addresses, &listen) {
            // The kernel chose a port that is free on the first address and in use on another one.
            Err(errors)
                if errors.kind() == Some(io::ErrorKind::AddrInUse)
                    && !listeners.is_empty()
                    && addresses.iter().any(|address| address.port() == 0)
                    && attempts < PORT_ATTEMPTS =>
            {
                attempts += 1;
            }
            listened => return listened.map(|()| listeners),
        }
    }
}

/// Listens on each address once, and adds the listeners, on the port of the first one.
fn add_all<L: Listener>(
    listeners: &mut Vec<L>,
    addresses: &[SocketAddr],
    listen: impl Fn(SocketAddr) -> io::Result<L>,
) -> Result<(), AddressErrors> {
    // `[::]` comes first, because it may cover `0.0.0.0`.
    let mut addresses = addresses.to_vec();
    addresses.sort_by_key(|address| address.ip() != Ipv6Addr::UNSPECIFIED);
    let (mut covers_ipv4, mut unavailable) = (false, AddressErrors::default());
    for (index, &address) in addresses.iter().enumerate() {
        let is_covered = covers_ipv4 && address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        if is_covered || addresses[..index].contains(&address) {
            continue;
        }
        let port = match listeners.first().map(Listener::local_address) {
            Some(Ok(first)) => first.ip().map_or(0, |first| first.port()),
            Some(Err(error)) => return Err(AddressErrors::one(address, error)),
            None => address.port(),
        };
        let address = SocketAddr::new(address.ip(), port);
        match listen(address) {
            Ok(listener) => {
                covers_ipv4 |= address.ip() == Ipv6Addr::UNSPECIFIED;
                listeners.push(listener);
            }
            Err(error) if is_unavailable(&error) => unavailable.push(address, error),
            Err(error) => return Err(AddressErrors::one(address, error)),
        }
    }
    // Also if the name has no address.
    if listeners.is_empty() { Err(unavailable) } else { Ok(()) }
}

/// Whether this host lacks the address or its family: `EADDRNOTAVAIL`, `EAFNOSUPPORT` (bind(2),
/// socket(2)).
fn is_unavailable(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// The listeners of one server. They accept in turn.
#[derive(Debug)]
pub(crate) struct Listeners<L> {
    listeners: Vec<L>,
    /// The index of the listener that is next.
    next: usize,
}

impl<L> Listeners<L> {
    pub(crate) fn new(listeners: Vec<L>) -> Self {
        Self { listeners, next: 0 }
    }

    pub(crate) fn push(&mut self, listener: L) {
        self.listeners.push(listener);
    }

    /// Removes the listeners that `is_taken` selects, and returns them.
    pub(crate) fn take(&mut self, is_taken: impl FnMut(&mut L) -> bool) -> Vec<L> {
        self.listeners.extract_if(.., is_taken).collect()
    }
}

impl<L: Listener> Listeners<L> {
    pub(crate) fn addresses(&self) -> io::Result<Vec<Address>> {
        self.listeners.iter().map(Listener::local_address).collect()
    }

    pub(crate) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(L::Socket, Peer), AcceptError>> {
        let count = self.listeners.len();
        for index in (self.next..self.next + count).map(|index| index % count) {
            if let Poll::Ready(accepted) = self.listeners[index].poll_accept(cx) {
                self.next = index + 1;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    pub(crate) fn shut_down(&mut self) {
        for listener in &mut self.listeners {
            listener.shut_down();
        }
    }
}

/// How many more ports are tried until one is free on every address.
const PORT_ATTEMPTS: usize = 16;
/// `EAFNOSUPPORT` on Linux (errno(3)). [`io::ErrorKind`] has no variant for it.
const EAFNOSUPPORT: i32 = 97;

#[cfg(test)]
mod tests {
    use std::{cell::Cell, task::Waker};

    use super::*;

    /// A listener with `waiting` connections. Each of their sockets is the listener's port.
    struct Fake {
        address: SocketAddr,
        waiting: usize,
    }

    impl Listener for Fake {
        type Socket = u16;

        fn local_address(&self) -> io::Result<Address> {
            Ok(self.address.into())
        }

        fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<Result<(u16, Peer), AcceptError>> {
            if self.waiting == 0 {
                return Poll::Pending;
            }
            self.waiting -= 1;
            Poll::Ready(Ok((self.address.port(), Peer::Local)))
        }

        fn shut_down(&mut self) {
            self.waiting = 0;
        }
    }

    /// Listens on `text`, where port 0 is 7000, 7001, …, and `error` says which addresses fail.
    fn try_on(
        text: &[&str],
        error: impl Fn(SocketAddr) -> Option<io::Error>,
    ) -> io::Result<Vec<String>> {
        let addresses: Vec<_> = text.iter().map(|text| text.parse().unwrap()).collect();
        let free = Cell::new(7000);
        let listened = listen_on_all(&addresses, |mut address| {
            if address.port() == 0 {
                address.set_port(free.replace(free.get() + 1));
            }
            error(address).map_or(Ok(Fake { address, waiting: 0 }), Err)
        });
        let listeners = listened.map_err(|errors| errors.into_error("name:0"))?;
        Ok(listeners.iter().map(|listener| listener.address.to_string()).collect())
    }

    fn in_use() -> io::Error {
        io::ErrorKind::AddrInUse.into()
    }

    #[test]
    fn all_addresses_get_the_same_port_which_is_free_on_all_of_them() {
        let both = ["[::1]:0", "127.0.0.1:0", "127.0.0.1:0"];
        assert_eq!(try_on(&both, |_| None).unwrap(), ["[::1]:7000", "127.0.0.1:7000"]);
        let taken = ["127.0.0.1:7000", "127.0.0.1:7001"].map(|text| text.parse().unwrap());
        let listened = try_on(&both, |address| taken.contains(&address).then(in_use));
        assert_eq!(listened.unwrap(), ["[::1]:7002", "127.0.0.1:7002"]);
        let never = try_on(&both, |address| address.is_ipv4().then(in_use));
        assert_eq!(never.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let given = try_on(&["[::1]:9", "127.0.0.1:9"], |address| address.is_ipv4().then(in_use));
        assert_eq!(given.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_address_family_that_the_host_lacks_is_left_out() {
        for errno in [97, 99] {
            let missing = || Some(io::Error::from_raw_os_error(errno));
            let both = ["[::1]:0", "127.0.0.1:0"];
            let listened = try_on(&both, |address| missing().filter(|_| address.is_ipv6()));
            assert_eq!(listened.unwrap(), ["127.0.0.1:7001"]);
            let listened = try_on(&both, |address| missing().filter(|_| address.is_ipv4()));
            assert_eq!(listened.unwrap(), ["[::1]:7000"]);
            let error = try_on(&both, |_| missing()).unwrap_err();
            assert_eq!(AddressErrors::raw_os_error(&error), Some(errno));
            let error = error.to_string();
            assert!(error.contains("[::1]:0: ") && error.contains("127.0.0.1:0: "), "{error}");
        }
    }

    #[test]
    fn the_unspecified_address_of_ipv6_is_that_of_ipv4_as_well() {
        let all = ["0.0.0.0:0", "[::]:0", "127.0.0.1:0"];
        assert_eq!(try_on(&all, |_| None).unwrap(), ["[::]:7000", "127.0.0.1:7000"]);
        assert_eq!(try_on(&all[..1], |_| None).unwrap(), ["0.0.0.0:7000"]);
    }

    #[test]
    fn listeners_accept_in_turn() {
        let fake = |port| Fake { address: ([127, 0, 0, 1], port).into(), waiting: 3 };
        let mut listeners = Listeners::new(vec![fake(1), fake(2)]);
        let mut cx = Context::from_waker(Waker::noop());
        let mut accept = || match listeners.poll_accept(&mut cx) {
            Poll::Ready(accepted) => accepted.unwrap().0,
            Poll::Pending => 0,
        };
        assert_eq!([(); 7].map(|()| accept()), [1, 2, 1, 2, 1, 2, 0]);
    }
}
