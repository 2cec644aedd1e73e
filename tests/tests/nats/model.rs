//! A model of a cluster of servers: what one node receives, all deliver.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Waker},
};

use wirestate_core::{
    AnyReason, ConnectionError, Event, Fault, Instant, Interest, Machine, Outbound, Reason,
    runtime::Runtime as _,
    serve::{self, ServerHandle},
    shared::Lock,
};
use wirestate_testkit::sim::Host;

/// A cluster. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    state: Arc<Lock<State>>,
}

#[derive(Debug, Default)]
struct State {
    connections: BTreeMap<u64, Connection>,
    next: u64,
    addresses: Vec<String>,
}

#[derive(Debug)]
struct Connection {
    node: String,
    subscriptions: BTreeMap<String, String>,
    outbox: Vec<u8>,
    waker: Option<Waker>,
}

impl Cluster {
    /// Serves as the node `address` on `host` until the handle is aborted.
    pub(crate) fn start(&self, host: &Host, address: &str) -> ServerHandle {
        let handle = ServerHandle::default();
        let listener = host.listen(address).unwrap();
        self.state.with(|state| {
            if !state.addresses.iter().any(|known| known == address) {
                state.addresses.push(address.to_owned());
            }
        });
        let (cluster, runtime, serving) = (self.clone(), host.clone(), handle.clone());
        let address = address.to_owned();
        host.run(async move {
            let machine = move |_: &_, _| cluster.machine(&address);
            serve::Server::new(runtime, listener).with_handle(&serving).serve(machine).await;
        });
        handle
    }

    /// Announces the end of a node to its clients.
    pub(crate) fn lame_duck(&self, address: &str) {
        self.state.with(|state| {
            for connection in state.connections.values_mut() {
                if connection.node == address {
                    connection.send(b"INFO {\"server_id\":\"S\",\"ldm\":true}\r\n");
                }
            }
        });
    }

    fn machine(&self, node: &str) -> Node {
        let id = self.state.with(|state| {
            let id = state.next;
            state.next += 1;
            let info = format!(
                "INFO {{\"server_id\":\"S\",\"client_id\":{id},\"headers\":true,\
                 \"max_payload\":10000,\"connect_urls\":{:?}}}\r\n",
                state.addresses
            );
            let connection = Connection {
                node: node.to_owned(),
                subscriptions: BTreeMap::new(),
                outbox: info.into_bytes(),
                waker: None,
            };
            state.connections.insert(id, connection);
            id
        });
        Node {
            cluster: self.clone(),
            id,
            buffer: vec![0; 512],
            input: Vec::new(),
            output: Vec::new(),
            end: None,
        }
    }
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A connection to a node.
#[derive(Debug)]
pub(crate) struct Node {
    cluster: Cluster,
    id: u64,
    buffer: Vec<u8>,
    input: Vec<u8>,
    output: Vec<u8>,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closing,
    Closed,
    Lost(ConnectionError),
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?}")]
pub(crate) struct Ended(End);

impl Reason for Ended {
    fn label(&self) -> &'static str {
        "ended"
    }

    fn fault(&self) -> Fault {
        Fault::None
    }
}

impl Node {
    /// Applies the whole operations in the input.
    fn apply(&mut self) {
        while let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
            let line = String::from_utf8(self.input[..end].to_vec()).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let mut length = end + 2;
            let state = &self.cluster.state;
            match words[..] {
                ["CONNECT", json] => assert!(json.ends_with('}'), "{json}"),
                ["PING"] => self.output.extend(b"PONG\r\n"),
                ["PONG"] => {}
                ["SUB", subject, id] => state.with(|state| {
                    let own = state.connections.get_mut(&self.id).unwrap();
                    own.subscriptions.insert(id.to_owned(), subject.to_owned());
                }),
                ["UNSUB", id] => state.with(|state| {
                    state.connections.get_mut(&self.id).unwrap().subscriptions.remove(id);
                }),
                ["PUB", subject, ref more @ ..] => {
                    let payload: usize = more.last().unwrap().parse().unwrap();
                    length += payload + 2;
                    if self.input.len() < length {
                        return;
                    }
                    assert_eq!(&self.input[length - 2..length], b"\r\n");
                    let body = &self.input[end + 2..length];
                    let rest = more.join(" ");
                    state.with(|state| {
                        for connection in state.connections.values_mut() {
                            let Connection { subscriptions, .. } = connection;
                            let mut bytes = Vec::new();
                            for (id, pattern) in &*subscriptions {
                                if matches(pattern, subject) {
                                    bytes.extend(format!("MSG {subject} {id} {rest}\r\n").bytes());
                                    bytes.extend(body);
                                }
                            }
                            if !bytes.is_empty() {
                                connection.send(&bytes);
                            }
                        }
                    });
                }
                _ => panic!("the client has sent {line:?}"),
            }
            self.input.drain(..length);
        }
    }
}

fn matches(pattern: &str, subject: &str) -> bool {
    pattern == subject
        || pattern.strip_suffix('*').is_some_and(|prefix| subject.starts_with(prefix))
}

impl Machine for Node {
    type Reason = AnyReason;

    fn interest(&self) -> Interest {
        match self.end {
            None if self.output.is_empty() => Interest { read: true, write: Outbound::Idle },
            None => Interest { read: true, write: Outbound::Flush },
            Some(End::Closing) => Interest { read: false, write: Outbound::Finish },
            Some(End::Closed | End::Lost(_)) => Interest::DONE,
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.output;
        1
    }

    fn handle(&mut self, _now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.input.extend_from_slice(&self.buffer[..n]);
                self.apply();
            }
            Event::Written(n) => drop(self.output.drain(..n)),
            Event::Eof | Event::ShutDown => self.end = self.end.or(Some(End::Closing)),
            Event::Finished => self.end = Some(End::Closed),
            Event::Error(_, error) => self.end = Some(End::Lost(error)),
            Event::Timeout { .. } | Event::Release => {}
        }
    }

    fn poll_shared(&mut self, _now: Instant, cx: &mut Context<'_>) -> bool {
        let more = self.cluster.state.with(|state| {
            let connection = state.connections.get_mut(&self.id).unwrap();
            connection.waker = Some(cx.waker().clone());
            std::mem::take(&mut connection.outbox)
        });
        let has_changed = !more.is_empty() && self.end.is_none();
        if has_changed {
            self.output.extend(more);
        }
        has_changed
    }

    fn reason(&self) -> Option<AnyReason> {
        match self.end {
            None | Some(End::Closing) => None,
            Some(end) => Some(AnyReason::of(&Ended(end))),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cluster.state.with(|state| state.connections.remove(&self.id));
    }
}
