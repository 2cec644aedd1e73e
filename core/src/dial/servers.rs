//! The servers of a cluster, any of which serves a client.

use alloc::{collections::VecDeque, string::String, vec::Vec};
use core::time::Duration;

use super::Backoff;

/// The servers of a cluster, any of which serves a client: which one to dial next, and when.
///
/// The order is random, so that the clients of a cluster are spread over its servers. A server
/// whose connection has ended, or cannot be dialled, becomes the last one. All share one
/// [`Backoff`], so that the clients of a server that dies do not dial the next one at once.
///
/// The addresses that were given stay. Learned ones are replaced by those that are learned next, at
/// most 1,024 of them.
///
/// ```
/// # use wirestate_core::dial::Servers;
/// # use std::time::Duration;
/// let mut servers = Servers::new(["a:4222", "b:4222"], 7).unwrap();
/// let first = servers.current().to_owned();
/// // Dial `first`. The attempt fails, or the connection ends after a time:
/// let wait = servers.ended(Duration::ZERO);
/// assert!(wait < Duration::from_millis(50));
/// assert_ne!(servers.current(), first);
///
/// // The connected server names a third one.
/// servers.learn(["a:4222", "b:4222", "c:4222"]);
/// assert_eq!(servers.addresses().count(), 3);
/// ```
#[derive(Clone, Debug)]
pub struct Servers {
    /// In the order in which they are dialled.
    servers: VecDeque<Server>,
    backoff: Backoff,
}

#[derive(Clone, Debug)]
struct Server {
    address: String,
    is_learned: bool,
}

impl Servers {
    /// The servers with these addresses, each `HOST:PORT`, in a random order. `None` without any.
    /// The same `seed` gives the same order and the same waits.
    pub fn new(addresses: impl IntoIterator<Item = impl Into<String>>, seed: u64) -> Option<Self> {
        let mut servers = Self { servers: VecDeque::new(), backoff: Backoff::new(seed) };
        for address in addresses {
            servers.add(address.into(), false);
        }
        (!servers.servers.is_empty()).then_some(servers)
    }

    /// Adds an address at a random position behind the current one, unless it is there.
    fn add(&mut self, address: String, is_learned: bool) {
        if self.servers.iter().any(|server| server.address == address) {
            return;
        }
        // The first one has any position: it is the first to be dialled.
        let behind = usize::from(is_learned);
        let positions = self.servers.len() + 1 - behind;
        let position = behind + self.backoff.below(positions);
        self.servers.insert(position, Server { address, is_learned });
    }

    /// The address of the server to dial now, or that is connected.
    pub fn current(&self) -> &str {
        &self.servers[0].address
    }

    /// The addresses, in the order in which they are dialled.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| &*server.address)
    }

    /// Records that the connection to the current server has ended after `lasted`, or that it
    /// cannot be dialled: zero. Returns how long to wait before the next one is dialled, which is
    /// now the current one.
    pub fn ended(&mut self, lasted: Duration) -> Duration {
        self.backoff.handle_end(lasted);
        self.skip();
        self.backoff.next()
    }

    /// Makes the current server the last one, because it is about to stop. Returns the address of
    /// the next one, which is the same one if there is no other.
    pub fn skip(&mut self) -> &str {
        self.servers.rotate_left(1);
        self.current()
    }

    /// Replaces the addresses that were learned before by these, from a connected server. Those
    /// that are not `HOST:PORT` are ignored. The current server stays.
    pub fn learn<'a>(&mut self, addresses: impl IntoIterator<Item = &'a str>) {
        let is_valid = |address: &&str| {
            let parts = address.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let learned: Vec<&str> = addresses.into_iter().filter(is_valid).take(MAX_LEARNED).collect();
        let current = self.servers.pop_front();
        self.servers.retain(|server| !server.is_learned || learned.contains(&&*server.address));
        if let Some(current) = current {
            self.servers.push_front(current);
        }
        for address in learned {
            self.add(address.into(), true);
        }
    }
}

/// The most addresses that are learned.
const MAX_LEARNED: usize = 1024;

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn sorted(servers: &Servers) -> Vec<&str> {
        let mut addresses: Vec<&str> = servers.addresses().collect();
        addresses.sort_unstable();
        addresses
    }

    #[test]
    fn every_server_is_dialled_before_one_is_dialled_again() {
        let mut servers = Servers::new(["a:1", "b:1", "c:1", "b:1"], 1).unwrap();
        for _ in 0..3 {
            let mut round = Vec::new();
            for _ in 0..3 {
                round.push(servers.current().to_owned());
                servers.ended(Duration::ZERO);
            }
            round.sort_unstable();
            assert_eq!(round, ["a:1", "b:1", "c:1"]);
        }
        assert!(Servers::new([""; 0], 1).is_none());
    }

    #[test]
    fn seeds_spread_the_clients_over_the_servers() {
        let mut first = vec![0; 3];
        for seed in 0..300 {
            let servers = Servers::new(["0:1", "1:1", "2:1"], seed).unwrap();
            first[usize::from(servers.current().as_bytes()[0] - b'0')] += 1;
        }
        assert!(first.iter().all(|count| *count > 60), "{first:?}");
    }

    #[test]
    fn learned_servers_are_replaced_and_the_given_and_the_current_one_stay() {
        let mut servers = Servers::new(["a:1", "b:1"], 1).unwrap();
        let current = servers.current().to_owned();
        servers.learn(["b:1", "c:1", "d:1", "", "x", ":1", "x:y", "x:99999"]);
        assert_eq!(sorted(&servers), ["a:1", "b:1", "c:1", "d:1"]);
        assert_eq!(servers.current(), current);
        while servers.current() != "c:1" {
            servers.skip();
        }
        servers.learn(["[::1]:4222"]);
        assert_eq!(sorted(&servers), ["[::1]:4222", "a:1", "b:1", "c:1"]);
        assert_eq!(servers.current(), "c:1");
        while servers.current() != "a:1" {
            servers.skip();
        }
        servers.learn([]);
        assert_eq!(sorted(&servers), ["a:1", "b:1"]);
    }

    #[test]
    fn the_wait_grows_with_each_failure_and_restarts_after_a_connection_that_lasted() {
        let mut servers = Servers::new(["a:1", "b:1"], 1).unwrap();
        let waits: Vec<Duration> = (0..50).map(|_| servers.ended(Duration::ZERO)).collect();
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(2)), "{waits:?}");
        assert!(servers.ended(Duration::from_secs(10)) < Duration::from_millis(50));
    }
}
