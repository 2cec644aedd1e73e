//! A model of a cluster of servers with `JetStream`: what one node receives, all deliver.
//!
//! The replies and their texts are those of a real server ([`Version`]); the module `wire` compares
//! them. Time is the virtual time of the hosts. The cluster is one state: a node is a place where
//! connections end, where consumers live, and which may be the leader. So what depends on the
//! network between the nodes is set from outside: how long a publication is under way from its node
//! to the leader ([`Cluster::set_route_delay`]), and how long a majority takes to store it
//! ([`Cluster::set_commit_delay`]).
//!
//! If a node is down, its connections are reset, and its consumers say nothing. If it was the
//! leader, the end of what it had accepted is lost, no message is stored until another one is
//! elected, and the API is silent or says that it is unavailable.

mod api;
mod config;
mod consumer;
pub(crate) mod direct;
mod faults;
mod jetstream;
mod node;
mod reply;
mod state;
mod stream;
mod subjects;
mod time;

use std::{
    future::poll_fn,
    ops::RangeInclusive,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    Instant,
    drive::Clock as _,
    runtime::Runtime as _,
    serve::{self, ServerHandle},
    shared::Lock,
};
use wirestate_testkit::sim::Host;

pub(crate) use self::reply::Version;
use self::{node::Node, state::State, stream::Publication};

/// A cluster. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    state: Arc<Lock<State>>,
}

/// How a cluster behaves.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) version: Version,
    /// Chooses the nodes of consumers, the next leader, and what a leader has lost.
    pub(crate) seed: u64,
    /// The longest message in bytes, headers included. Default: 1 MiB.
    pub(crate) max_payload: usize,
    /// How long it takes to elect a leader. Default: 1 s to 4 s.
    pub(crate) election: RangeInclusive<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: Version::default(),
            seed: 0,
            max_payload: 1 << 20,
            election: Duration::from_secs(1)..=Duration::from_secs(4),
        }
    }
}

/// How `JetStream`'s API answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Api {
    Up,
    /// It says nothing.
    Silent,
    /// It answers, after a while, that it is temporarily unavailable: error 10008.
    Unavailable,
}

/// A message in a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamMessage {
    pub(crate) sequence: u64,
    pub(crate) id: Option<String>,
    pub(crate) payload: Bytes,
}

/// Nodes.
impl Cluster {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { state: Arc::new(Lock::new(State::new(settings))) }
    }

    /// Serves as the node `address` on `host` until the handle is aborted: then the node is down.
    pub(crate) fn start(&self, host: &Host, address: &str) -> ServerHandle {
        let handle = ServerHandle::default();
        let listener = host.listen(address).unwrap();
        let (cluster, runtime, serving) = (self.clone(), host.clone(), handle.clone());
        let address = address.to_owned();
        let mut clock = host.clock();
        self.node_up(&address, clock.now());
        host.run(async move {
            let node = address.clone();
            let nodes = cluster.clone();
            let machine = move |_: &_, _| nodes.connect(&node);
            let server = serve::Server::new(runtime, listener).with_handle(&serving);
            let mut server = pin!(server.serve(machine));
            poll_fn(|cx| {
                if server.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                loop {
                    let deadline = cluster.keep_time(&address, clock.now(), cx);
                    if clock.poll_until(cx, deadline).is_pending() {
                        return Poll::Pending;
                    }
                }
            })
            .await;
            cluster.node_down(&address, clock.now());
        });
        handle
    }

    /// Begins a node that has no host.
    pub(crate) fn node_up(&self, address: &str, now: Instant) {
        self.with(|state| {
            if !state.addresses.iter().any(|known| known == address) {
                state.addresses.push(address.to_owned());
            }
            state.now = state.now.max(now);
            state.timekeepers.insert(address.to_owned(), None);
            state.jetstream.node_up(address, now);
        });
    }

    /// Ends a node that has no host.
    pub(crate) fn node_down(&self, address: &str, now: Instant) {
        self.with(|state| {
            state.timekeepers.remove(address);
            state.now = state.now.max(now);
            state.jetstream.node_down(address, now);
        });
    }

    /// Whether the node `address` has begun and not ended.
    pub(crate) fn is_up(&self, address: &str) -> bool {
        self.state.with(|state| state.jetstream.is_up(address))
    }

    /// Does what is due `now`. Returns when something is due next.
    pub(crate) fn advance(&self, now: Instant) -> Instant {
        self.with(|state| state.now = state.now.max(now));
        self.state.with(|state| state.deadline())
    }

    fn keep_time(&self, address: &str, now: Instant, cx: &Context<'_>) -> Instant {
        self.state.with(|state| {
            state.timekeepers.insert(address.to_owned(), Some(cx.waker().clone()));
        });
        self.advance(now)
    }

    /// The machine of a connection to the node `address`.
    pub(crate) fn connect(&self, address: &str) -> Node {
        let id = self.state.with(|state| state.connect(address));
        Node::new(self.clone(), id)
    }

    /// Calls `f`, and delivers what comes of it.
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.state.with(|state| {
            let deadline = state.deadline();
            let value = f(state);
            state.settle();
            if state.deadline() < deadline {
                for waker in state.timekeepers.values_mut().filter_map(Option::take) {
                    waker.wake();
                }
            }
            value
        })
    }
}

/// What happens to a cluster.
impl Cluster {
    /// Announces the end of a node to its clients.
    pub(crate) fn lame_duck(&self, address: &str) {
        self.with(|state| {
            for connection in state.connections.values_mut() {
                if connection.node == address {
                    connection.send(b"INFO {\"server_id\":\"S\",\"ldm\":true}\r\n");
                }
            }
        });
    }

    /// Sets how the API answers; `None`: by whether there is a leader.
    pub(crate) fn set_api(&self, api: Option<Api>) {
        self.with(|state| state.jetstream.api = api);
    }

    /// Sets how long a majority takes to store a message from now on. Default: it is stored at
    /// once.
    pub(crate) fn set_commit_delay(&self, delay: Duration) {
        self.with(|state| state.jetstream.commit_delay = delay);
    }

    /// Sets how long a request or a publication to `JetStream` is under way, from now on, from the
    /// node `address` to the leader. It arrives even if its connection has ended.
    pub(crate) fn set_route_delay(&self, address: &str, delay: Duration) {
        self.with(|state| state.route_delays.insert(address.to_owned(), delay));
    }

    /// Sets the longest message that connections from now on may send.
    pub(crate) fn set_max_payload(&self, max: usize) {
        self.with(|state| state.settings.max_payload = max);
    }

    /// Removes all messages of a stream. Returns how many there were.
    pub(crate) fn purge(&self, stream: &str) -> u64 {
        self.with(|state| state.jetstream.purge(stream))
    }

    pub(crate) fn delete_stream(&self, stream: &str) {
        self.with(|state| state.jetstream.delete_stream(stream, state.now));
    }

    /// Forgets the messages behind `last`, acknowledged ones too.
    pub(crate) fn truncate(&self, stream: &str, last: u64) {
        self.with(|state| state.jetstream.streams.get_mut(stream).unwrap().truncate(last));
    }

    /// Publishes as a client that nobody has connected would. `headers`: each with its line end.
    pub(crate) fn publish(&self, subject: &str, headers: &str, payload: &str) {
        let headers = match headers {
            "" => Bytes::new(),
            lines => format!("NATS/1.0\r\n{lines}\r\n").into(),
        };
        let (subject, payload) = (subject.to_owned(), payload.to_owned().into());
        self.with(|state| {
            let publication = Publication { subject, headers, payload };
            let interest = &state.subscriptions;
            state.jetstream.publish(publication, "", interest, state.now);
        });
    }

    /// The messages of a stream; none if it does not exist.
    pub(crate) fn messages(&self, stream: &str) -> Vec<StreamMessage> {
        self.state.with(|state| {
            let messages = state.jetstream.streams.get(stream).map(|stream| &stream.messages);
            let messages = messages.into_iter().flatten().map(|(sequence, stored)| StreamMessage {
                sequence: *sequence,
                id: stored.publication.header("Nats-Msg-Id").map(str::to_owned),
                payload: stored.publication.payload.clone(),
            });
            messages.collect()
        })
    }

    /// The sequence of the last message that a stream has had; `None` if it does not exist.
    pub(crate) fn last_sequence(&self, stream: &str) -> Option<u64> {
        self.state.with(|state| Some(state.jetstream.streams.get(stream)?.last_sequence))
    }
}
