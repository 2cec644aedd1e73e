//! Detects connections of a proxy to itself.

use std::{boxed::Box, collections::BTreeMap, net::SocketAddr, string::ToString};

use super::Upstreams;
use crate::{
    admission::Peer,
    runtime::{Address, Runtime, unix_path},
    shared::{Lock, Shared},
};

/// The open connections of one proxy, both accepted and dialled. One that is both is a connection
/// to itself: each client would cause one connection after another until the limit is reached.
/// Clones are the same.
///
/// A TCP connection is identified by the addresses of its two ends, whichever of the proxy's
/// addresses was dialled. A Unix socket is identified by its path and by the process that listens
/// there. A proxy that reaches itself through others (two in a ring, an address that is translated)
/// is not detected.
///
/// It holds an entry for each open connection.
#[derive(Clone, Debug)]
pub(super) struct Loops {
    inner: Shared<Inner>,
}

#[derive(Debug)]
struct Inner {
    listening: Vec<Address>,
    open: Lock<Entries>,
}

/// The entries of the open connections, by their ends, each with a number of its own: a pair of ends
/// can be used again before the entry of its last connection is removed.
#[derive(Debug, Default)]
struct Entries {
    by_ends: BTreeMap<Ends, (Origin, u64)>,
    count: u64,
}

/// The addresses of the dialling and of the accepting end.
type Ends = (SocketAddr, SocketAddr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Accepted,
    /// To this upstream.
    Dialled(usize),
}

/// A connection of the proxy to itself, by the upstream of this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SelfConnection(pub(super) usize);

/// The entry of an open connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    loops: Loops,
    ends: Ends,
    number: u64,
}

impl Loops {
    /// For a proxy that listens on `listening`. `None` if none of `upstreams` can be the proxy,
    /// judging by their ports or kinds.
    pub(super) fn new(listening: Vec<Address>, upstreams: &Upstreams) -> Option<Self> {
        let may_be_own = |own: &Address, upstream: &str| match (own, unix_path(upstream)) {
            (Address::Ip(own), None) => {
                upstream.rsplit_once(':').is_some_and(|(_, port)| port == own.port().to_string())
            }
            (Address::Unix(_), Some(_)) => true,
            (Address::Ip(_), Some(_)) | (Address::Unix(_), None) => false,
        };
        let watches = listening
            .iter()
            .any(|own| upstreams.addresses().iter().any(|upstream| may_be_own(own, upstream)));
        let inner = || Inner { listening, open: Lock::default() };
        watches.then(|| Self { inner: Shared::new(inner()) })
    }

    /// Records a connection that was accepted from `peer`.
    pub(super) fn accepted<R: Runtime>(
        &self,
        runtime: &R,
        peer: Peer,
        socket: &R::Socket,
    ) -> Result<Option<Box<Open>>, SelfConnection> {
        match (peer, runtime.local_address(socket)) {
            (Peer::Ip(from), Some(to)) => self.open((from, to), Origin::Accepted).map(Some),
            (Peer::Ip(_), None) | (Peer::Local, _) => Ok(None),
        }
    }

    /// Records a connection that was made to `upstream`.
    pub(super) fn dialled<R: Runtime>(
        &self,
        runtime: &R,
        upstream: usize,
        socket: &R::Socket,
    ) -> Result<Option<Box<Open>>, SelfConnection> {
        match (runtime.local_address(socket), runtime.dialled_address(socket)) {
            (Some(from), Some(Address::Ip(to))) => {
                self.open((from, to), Origin::Dialled(upstream)).map(Some)
            }
            (_, Some(path)) if self.inner.listening.contains(&path) => {
                Err(SelfConnection(upstream))
            }
            (_, Some(_) | None) => Ok(None),
        }
    }

    /// Whichever of the two ends is recorded second finds the first.
    fn open(&self, (from, to): Ends, origin: Origin) -> Result<Box<Open>, SelfConnection> {
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let ends = (canonical(from), canonical(to));
        self.inner.open.with(|open| match (open.by_ends.get(&ends), origin) {
            (Some((Origin::Accepted, _)), Origin::Dialled(upstream))
            | (Some(&(Origin::Dialled(upstream), _)), Origin::Accepted) => {
                Err(SelfConnection(upstream))
            }
            // Two connections of one origin with the same ends: the first is over, and only its
            // entry is left.
            (Some((Origin::Accepted, _)) | None, Origin::Accepted)
            | (Some((Origin::Dialled(_), _)) | None, Origin::Dialled(_)) => {
                open.count += 1;
                let number = open.count;
                open.by_ends.insert(ends, (origin, number));
                Ok(Box::new(Open { loops: self.clone(), ends, number }))
            }
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.loops.inner.open.with(|open| {
            if open.by_ends.get(&self.ends).is_some_and(|(_, number)| *number == self.number) {
                open.by_ends.remove(&self.ends);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{format, path::PathBuf};

    use super::*;
    use crate::proxy::Balance;

    fn loops(listening: Address, upstream: &str) -> Option<Loops> {
        Loops::new(vec![listening], &Upstreams::new([upstream], Balance::RoundRobin, 1))
    }

    fn ends(from: &str, to: &str) -> Ends {
        (from.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn whichever_end_comes_second_finds_the_other() {
        let loops = loops(Address::Ip("0.0.0.0:9500".parse().unwrap()), "10.0.0.1:9500").unwrap();
        let own = ends("10.0.0.1:40000", "10.0.0.1:9500");
        let mapped = ends("[::ffff:10.0.0.1]:40000", "[::ffff:10.0.0.1]:9500");
        let dialled = loops.open(own, Origin::Dialled(0)).unwrap();
        assert_eq!(loops.open(mapped, Origin::Accepted).unwrap_err(), SelfConnection(0));
        drop(dialled);
        let accepted = loops.open(mapped, Origin::Accepted).unwrap();
        assert_eq!(loops.open(own, Origin::Dialled(3)).unwrap_err(), SelfConnection(3));
        drop(accepted);
        assert!(loops.inner.open.with(|open| open.by_ends.is_empty()), "nothing is left");
    }

    /// Linux uses one port for several destinations at once: a client on this machine can have the
    /// address and port that the proxy has towards an upstream.
    #[test]
    fn an_address_alone_is_no_loop() {
        let loops = loops(Address::Ip("127.0.0.1:9500".parse().unwrap()), "10.0.0.1:9500").unwrap();
        let client = loops.open(ends("127.0.0.1:40000", "127.0.0.1:9500"), Origin::Accepted);
        let upstream = loops.open(ends("127.0.0.1:40000", "10.0.0.1:9500"), Origin::Dialled(0));
        assert!(client.is_ok() && upstream.is_ok());
        // A client that connects again from the same port before its last connection was removed.
        let again = loops.open(ends("127.0.0.1:40000", "127.0.0.1:9500"), Origin::Accepted);
        assert!(again.is_ok());
        drop(client);
        assert_eq!(
            loops.inner.open.with(|open| open.by_ends.len()),
            2,
            "the later one has its own"
        );
    }

    #[test]
    fn only_upstreams_that_can_be_the_proxy_are_watched() {
        let tcp = || Address::Ip("127.0.0.1:9500".parse().unwrap());
        let unix = || Address::Unix(PathBuf::from("/run/proxy.sock"));
        for (listening, upstream, watched) in [
            (tcp(), "127.0.0.1:9500", true),
            (tcp(), "name.example:9500", true),
            (tcp(), "[::1]:9500", true),
            (tcp(), "127.0.0.1:9000", false),
            (tcp(), "127.0.0.1:19500", false),
            (tcp(), "unix:/run/9500", false),
            (unix(), "unix:proxy.sock", true),
            (unix(), "127.0.0.1:9500", false),
        ] {
            let name = format!("{upstream} from {listening}");
            assert_eq!(loops(listening, upstream).is_some(), watched, "{name}");
        }
    }
}
