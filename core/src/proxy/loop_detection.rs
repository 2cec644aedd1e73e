//! Detects connections of a proxy to itself.

use std::{boxed::Box, collections::BTreeMap, net::SocketAddr, string::ToString};

use super::{Upstreams, upstreams::EndpointId};
use crate::{
    admission::Peer,
    runtime::{Address, Runtime, unix_path},
    shared::{Lock, Shared},
};

/// Detects connections of one proxy to itself. Clones are the same detector.
///
/// Each connection of a proxy to itself makes the proxy dial another one, until the limit of
/// connections is reached. The detector compares the connections that the proxy has accepted with
/// those that it has dialled.
///
/// A TCP connection is identified by the addresses of its two ends, so it does not matter which of
/// the proxy's addresses was dialled. A Unix socket is identified by its path and by the process
/// that listens on it. Indirect loops are not detected: through another proxy, or through an
/// address that is translated.
///
/// It holds an entry for each open connection.
#[derive(Clone, Debug)]
pub(super) struct LoopDetector {
    inner: Shared<Inner>,
}

#[derive(Debug)]
struct Inner {
    listening: Vec<Address>,
    open: Lock<Entries>,
}

/// The open connections by their endpoints, each with a number: the kernel can reuse a pair of
/// endpoints before the entry of the earlier connection is removed.
#[derive(Debug, Default)]
struct Entries {
    by_endpoints: BTreeMap<Endpoints, (Origin, u64)>,
    count: u64,
}

/// The addresses of the two ends of a connection: the dialling end, then the accepting end.
type Endpoints = (SocketAddr, SocketAddr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Accepted,
    /// To this endpoint.
    Dialled(EndpointId),
}

/// A connection of the proxy to itself, through this endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SelfConnection(pub(super) EndpointId);

/// The entry of an open connection. It is removed on drop.
#[derive(Debug)]
pub(super) struct TrackedConnection {
    detector: LoopDetector,
    endpoints: Endpoints,
    number: u64,
}

impl LoopDetector {
    /// A detector for a proxy that listens on `listening`. `None` if the port or the kind of each
    /// upstream's address shows that it is not the proxy.
    pub(super) fn new(listening: Vec<Address>, upstreams: &Upstreams) -> Option<Self> {
        let can_be_self = |own: &Address, upstream: &str| match (own, unix_path(upstream)) {
            (Address::Ip(own), None) => {
                upstream.rsplit_once(':').is_some_and(|(_, port)| port == own.port().to_string())
            }
            (Address::Unix(_), Some(_)) => true,
            (Address::Ip(_), Some(_)) | (Address::Unix(_), None) => false,
        };
        let is_needed = listening
            .iter()
            .any(|own| upstreams.addresses().iter().any(|upstream| can_be_self(own, upstream)));
        let inner = || Inner { listening, open: Lock::default() };
        is_needed.then(|| Self { inner: Shared::new(inner()) })
    }

    /// Tracks a connection that was accepted from `peer`.
    pub(super) fn accepted<R: Runtime>(
        &self,
        runtime: &R,
        peer: Peer,
        socket: &R::Socket,
    ) -> Result<Option<Box<TrackedConnection>>, SelfConnection> {
        match (peer, runtime.local_address(socket)) {
            (Peer::Ip(from), Some(to)) => self.track((from, to), Origin::Accepted).map(Some),
            (Peer::Ip(_), None) | (Peer::Local, _) => Ok(None),
        }
    }

    /// Tracks a connection that was made to `endpoint`.
    pub(super) fn dialled<R: Runtime>(
        &self,
        runtime: &R,
        endpoint: EndpointId,
        socket: &R::Socket,
    ) -> Result<Option<Box<TrackedConnection>>, SelfConnection> {
        match (runtime.local_address(socket), runtime.dialled_address(socket)) {
            (Some(from), Some(Address::Ip(to))) => {
                self.track((from, to), Origin::Dialled(endpoint)).map(Some)
            }
            (_, Some(path)) if self.inner.listening.contains(&path) => {
                Err(SelfConnection(endpoint))
            }
            (_, Some(_) | None) => Ok(None),
        }
    }

    /// Adds an entry. If the other end of the same connection has one already, this is a loop.
    fn track(
        &self,
        (from, to): Endpoints,
        origin: Origin,
    ) -> Result<Box<TrackedConnection>, SelfConnection> {
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let endpoints = (canonical(from), canonical(to));
        self.inner.open.with(|open| match (open.by_endpoints.get(&endpoints), origin) {
            (Some((Origin::Accepted, _)), Origin::Dialled(endpoint))
            | (Some(&(Origin::Dialled(endpoint), _)), Origin::Accepted) => {
                Err(SelfConnection(endpoint))
            }
            // An entry of the same origin belongs to a connection that has ended, since its
            // endpoints are in use again.
            (Some((Origin::Accepted, _)) | None, Origin::Accepted)
            | (Some((Origin::Dialled(_), _)) | None, Origin::Dialled(_)) => {
                open.count += 1;
                let number = open.count;
                open.by_endpoints.insert(endpoints, (origin, number));
                Ok(Box::new(TrackedConnection { detector: self.clone(), endpoints, number }))
            }
        })
    }
}

impl Drop for TrackedConnection {
    fn drop(&mut self) {
        self.detector.inner.open.with(|open| {
            let entry = open.by_endpoints.get(&self.endpoints);
            if entry.is_some_and(|(_, number)| *number == self.number) {
                open.by_endpoints.remove(&self.endpoints);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{format, path::PathBuf};

    use super::*;
    use crate::proxy::Balance;

    const FIRST: EndpointId = EndpointId::new(0, 1);

    fn detector(listening: Address, upstream: &str) -> Option<LoopDetector> {
        LoopDetector::new(vec![listening], &Upstreams::new([upstream], Balance::RoundRobin, 1))
    }

    fn endpoints(from: &str, to: &str) -> Endpoints {
        (from.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn the_end_that_is_recorded_second_detects_the_loop() {
        let detector =
            detector(Address::Ip("0.0.0.0:9500".parse().unwrap()), "10.0.0.1:9500").unwrap();
        let own = endpoints("10.0.0.1:40000", "10.0.0.1:9500");
        let mapped = endpoints("[::ffff:10.0.0.1]:40000", "[::ffff:10.0.0.1]:9500");
        let dialled = detector.track(own, Origin::Dialled(FIRST)).unwrap();
        assert_eq!(detector.track(mapped, Origin::Accepted).unwrap_err(), SelfConnection(FIRST));
        drop(dialled);
        let accepted = detector.track(mapped, Origin::Accepted).unwrap();
        assert_eq!(detector.track(own, Origin::Dialled(FIRST)).unwrap_err(), SelfConnection(FIRST));
        drop(accepted);
        assert!(detector.inner.open.with(|open| open.by_endpoints.is_empty()), "no entry is left");
    }

    /// Linux uses one local port for several destinations at once, so a client on this machine can
    /// have the same address and port as the proxy's connection to an upstream.
    #[test]
    fn two_connections_that_share_one_address_are_no_loop() {
        let detector =
            detector(Address::Ip("127.0.0.1:9500".parse().unwrap()), "10.0.0.1:9500").unwrap();
        let client =
            detector.track(endpoints("127.0.0.1:40000", "127.0.0.1:9500"), Origin::Accepted);
        let upstream =
            detector.track(endpoints("127.0.0.1:40000", "10.0.0.1:9500"), Origin::Dialled(FIRST));
        assert!(client.is_ok() && upstream.is_ok());
        // The client connects again from the same port before its last entry is removed.
        let again =
            detector.track(endpoints("127.0.0.1:40000", "127.0.0.1:9500"), Origin::Accepted);
        assert!(again.is_ok());
        drop(client);
        assert_eq!(
            detector.inner.open.with(|open| open.by_endpoints.len()),
            2,
            "the entry of the later connection stays"
        );
    }

    #[test]
    fn there_is_a_detector_only_if_an_upstream_can_be_the_proxy() {
        let tcp = || Address::Ip("127.0.0.1:9500".parse().unwrap());
        let unix = || Address::Unix(PathBuf::from("/run/proxy.sock"));
        for (listening, upstream, is_detected) in [
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
            assert_eq!(detector(listening, upstream).is_some(), is_detected, "{name}");
        }
    }
}
