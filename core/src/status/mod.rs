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
//! [table of connections](crate::admission::ConnectionTable) counts, it says as a [`MetricsSource`].
//!
//! A fan-out whose upstream is away is ready: subscribers may wait for it, and to take every
//! replica away because what they all depend on is gone would help nobody. `wirestate_upstream_up`
//! is what to be alarmed by.
//!
//! # Limits
//!
//! The status has a table of its own, so it answers when the service is full. Its limits:
//!
//! | what | limit |
//! |---|---|
//! | open connections | [`CONNECTIONS`]: 64 |
//! | answers in all | 5,000 a second, 64 at once ([`Config::answers_per_second`]) |
//! | pages: `/`, `/metrics`, `/connections` | 100 a second, 10 at once |
//! | pages that wait for their turn or are being sent | [`PAGES_IN_PROGRESS`]: 48 |
//! | the wait for a page's turn ([`Config::pages_per_second`]) | [`MAX_PAGE_WAIT`]: 1 s |
//! | the head of a request | 8 KiB, 64 fields, 5 s |
//! | without a request | 30 s |
//! | without a byte taken of a response | 10 s |
//! | connections listed | 1,000 |
//!
//! A page beyond its limits is answered at once by 503 with `Retry-After: 1`, and the connection
//! can be used for the next request (`wirestate_status_pages_refused_total`). An answer beyond the
//! rate waits for its turn. A connection waits for one turn at a time, so a client that asks
//! without pause delays the others by one answer. The turn of a client that leaves is given back.
//!
//! When all 64 connections are open, a new one replaces the first in the order of
//! [`Activity`](crate::idle::Activity) ([`StatusReason::Evicted`], counted as `evicted`):
//!
//! 1. one that lingers;
//! 2. one that has had an answer and waits for the next;
//! 3. one without a request;
//! 4. one that sends (by a reset, if the kernel takes no more of its response).
//!
//! Of several in the same state, the one that has been in it longest is replaced. A connection that
//! waits for its first answer keeps its place, and so does a new one for 20 ms until its first
//! byte. So `/healthz` and `/readyz` are answered whatever other clients do: pages never take more
//! than 48 of the 64 connections, and the others are answered within 13 ms or give way.
//!
//! It holds at most 64 × 9 KiB (a head, and a short answer) + 48 × [`Config::response_size`]
//! (577,536 bytes by default) = 28.3 MB, and 4 × 8 KiB for later heads. A request with content is
//! answered, and its connection closed.
//!
//! Nothing of it is for strangers. A browser can be made to ask a server on its own machine for a
//! page by a name that somebody else's domain resolves to (DNS rebinding), so a request whose
//! `Host` is a name that is neither `localhost` nor in [`AllowedHosts`] is refused. Addresses are not
//! names, and are welcome.
//!
//! ```
//! use wirestate_core::{
//!     Instant, Machine, drive, serve::ServerHandle,
//!     status::{Config, Server},
//! };
//!
//! let service = ServerHandle::default(); // the handle of the server whose status this is
//! let now = Instant::EPOCH;
//! let status = Server::new(Config::new("echo-server"), &service, None, now);
//! let mut machine = status.machine(now); // `status.serve(server)` runs one on each connection
//!
//! let mut output = [0; 1024];
//! drive::deliver(&mut machine, &mut &b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], now);
//! let n = drive::collect_into(&mut machine, &mut output, now);
//! assert!(output[..n].starts_with(b"HTTP/1.1 200 OK\r\n"));
//!
//! service.drain();
//! drive::deliver(&mut machine, &mut &b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], now);
//! let n = drive::collect_into(&mut machine, &mut output, now);
//! assert!(output[..n].starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
//! ```

mod config;
mod connection;
mod http;
mod metrics;
mod pages;
mod rate_limiter;
mod reason;
mod router;
mod server;

pub use self::{
    config::Config,
    connection::Connection,
    http::{AllowedHosts, StatusCode},
    metrics::{Metric, MetricValue, MetricsSource},
    reason::StatusReason,
    server::{MAX_CONNECTIONS, MAX_PAGE_WAIT, MAX_PAGES_IN_PROGRESS, Readiness, Server},
};
