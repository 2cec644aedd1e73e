//! Clients without a machine: what they write and read is seen as it is.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    task::{Context, Waker},
    thread,
    time::Duration,
};

use wirestate_core::{Instant, Machine as _, drive};

use super::{Cluster, Node};

/// A client that writes and reads operations as they are. All its requests have a reply subject
/// below `_I`.
pub(crate) trait RawClient {
    fn send(&mut self, bytes: &[u8]);

    /// Waits until at least one byte was received, and returns it and all that came with it.
    fn receive(&mut self) -> Vec<u8>;

    /// Lets time pass.
    fn wait(&mut self, duration: Duration);
}

impl RawClient for TcpStream {
    fn send(&mut self, bytes: &[u8]) {
        self.write_all(bytes).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let n = self.read(&mut buffer).expect("the server answers");
        assert_ne!(n, 0, "the server has closed the connection");
        buffer.truncate(n);
        buffer
    }

    fn wait(&mut self, duration: Duration) {
        thread::sleep(duration);
    }
}

/// A client of a node of the model, without a network.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) cluster: Cluster,
    node: Node,
    pub(crate) now: Instant,
}

impl Direct {
    /// Connects to the node `address`, and subscribes to `_I.>`.
    pub(crate) fn connect(cluster: &Cluster, address: &str, now: Instant) -> Self {
        let mut direct = Self { cluster: cluster.clone(), node: cluster.connect(address), now };
        direct.send(CONNECT);
        direct.receive();
        direct
    }

    /// Publishes `payload`, and returns all that has been received since.
    pub(crate) fn request(&mut self, subject: &str, headers: &str, payload: &str) -> String {
        self.receive();
        self.send(&operation(subject, "_I.r", headers, payload));
        self.received()
    }

    pub(crate) fn received(&mut self) -> String {
        String::from_utf8(self.receive()).unwrap()
    }
}

impl RawClient for Direct {
    fn send(&mut self, mut bytes: &[u8]) {
        drive::deliver(&mut self.node, &mut bytes, self.now);
    }

    fn receive(&mut self) -> Vec<u8> {
        self.node.poll_shared(self.now, &mut Context::from_waker(Waker::noop()));
        let mut buffer = vec![0; 65_536];
        let n = drive::collect_into(&mut self.node, &mut buffer, self.now);
        buffer.truncate(n);
        buffer
    }

    fn wait(&mut self, duration: Duration) {
        let until = self.now + duration;
        loop {
            let next = self.cluster.advance(self.now);
            if next > until {
                break;
            }
            self.now = next;
        }
        self.now = until;
    }
}

/// `PUB` or `HPUB`. `headers`: each with its line end.
pub(crate) fn operation(subject: &str, reply: &str, headers: &str, payload: &str) -> Vec<u8> {
    if headers.is_empty() {
        return format!("PUB {subject} {reply} {}\r\n{payload}\r\n", payload.len()).into();
    }
    let headers = format!("NATS/1.0\r\n{headers}\r\n");
    let total = headers.len() + payload.len();
    format!("HPUB {subject} {reply} {} {total}\r\n{headers}{payload}\r\n", headers.len()).into()
}

pub(crate) const CONNECT: &[u8] =
    b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
                         \"no_responders\":true}\r\nSUB _I.> 1\r\nPING\r\n";
