//! The status of a server over HTTP/1.1: for people, probes and Prometheus.
//!
//! | page | says |
//! |---|---|
//! | `/` | JSON: a `message`, whether it accepts, its connections and counts, what the server itself counts |
//! | `/healthz` | 200, as long as anything is answered at all |
//! | `/readyz` | 200 while connections are accepted; 503 from the moment that it was asked to stop, before it accepts no more |
//! | `/metrics` | all counts, for Prometheus: `text/plain; version=0.0.4`, or `OpenMetrics` for whoever asks for it |
//! | `/connections` | the open connections: as a table; as JSON (`Accept: application/json`, or `?format=json`); as a page that renews itself (`text/html`) |
//!
//! [`Server`] is what the connections of one status server share, [`Connection`] is the machine of
//! one of them. What a server has to say beyond what its
//! [table of connections](crate::admission::Table) counts, it says as a [`Subject`].
//!
//! A fan-out whose upstream is away is ready: subscribers may wait for it, and to take every
//! replica away because what they all depend on is gone would help nobody. `wirestate_upstream_up`
//! is what to be alarmed by.
//!
//! # It can't hurt the service
//!
//! It has a table of its own, of at most [`CONNECTIONS`] connections, so it answers when the service
//! is full, and it takes no more memory than [`Config::response_size`] says for each. A head has
//! 8 KiB, 64 fields and 5 s; an idle connection 30 s; a response that nobody takes 10 s. Pages that cost
//! something to make are made [`Config::pages_per_second`] at most, over all connections: who asks
//! for more waits. Whoever holds connections without asking anything keeps nobody out: when it is
//! full, the one that has waited longest, for a request or for its turn to be answered, gives way to a new one
//! ([`Reason::GaveWay`]). Requests have no content, and the answer to one that has is the last.
//!
//! Nothing of it is for strangers. A browser can be made to ask a server on its own machine for a
//! page by a name that somebody else's domain resolves to (DNS rebinding), so a request whose
//! `Host` is a name that is neither `localhost` nor in [`Hosts`] is refused. Addresses are not
//! names, and are welcome.
//!
//! ```
//! use wirestate_core::{
//!     Instant, Machine, drive, serve::Options,
//!     status::{Config, Server},
//! };
//!
//! let service = Options::default(); // with it, `serve` runs the service
//! let now = Instant::EPOCH;
//! let status = Server::new(Config::new("echo-server"), &service, None, now);
//! let mut machine = status.machine(now); // and `serve` runs these under `status.options()`
//!
//! let mut output = Vec::new();
//! drive::feed(&mut machine, &mut &b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], now);
//! drive::collect(&mut machine, &mut output, now);
//! assert!(output.starts_with(b"HTTP/1.1 200 OK\r\n"));
//!
//! service.stop.drain();
//! output.clear();
//! drive::feed(&mut machine, &mut &b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], now);
//! drive::collect(&mut machine, &mut output, now);
//! assert!(output.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
//! ```

mod connection;
mod head;
mod metric;
mod negotiate;
mod page;
mod request;
mod response;
mod server;
mod subject;

pub use self::{
    connection::{Connection, Reason},
    metric::{Metric, Value},
    request::Hosts,
    response::Code,
    server::{CONNECTIONS, Config, Readiness, Server},
    subject::Subject,
};
