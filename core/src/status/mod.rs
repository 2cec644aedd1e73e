//! The status of servers over HTTP/1.1, for people, health checks and Prometheus.
//!
//! | page | content |
//! |---|---|
//! | `/` | the state and the counts of each server |
//! | `/healthz` | 200 while the process answers |
//! | `/readyz` | 200 while all servers accept connections, otherwise 503 |
//! | `/metrics` | all metrics, for Prometheus |
//! | `/connections` | the open connections, with `?server=NAME` those of one server |
//!
//! `/readyz` fails before the servers stop accepting, and while there is no server. `/` is JSON, or
//! a page for browsers, which computes rates between two refreshes. `/metrics` is Prometheus' text
//! format (`text/plain; version=0.0.4`), or `OpenMetrics`. `/connections` is a table as text, JSON,
//! or a page for browsers. Both pages refresh themselves every 2 s. The request selects the format
//! by `Accept`, or on `/` and `/connections` by `?format=json`, `html` or `text`.
//!
//! A [`Server`] is the state that the connections of one status server share. A [`Connection`] is
//! the machine of one connection. [`Services`] is the list of the servers that it shows, each of
//! them a [`Service`], which can be replaced at any time. A service with metrics beyond those of
//! its [`ConnectionTable`](crate::admission::ConnectionTable) implements [`MetricsSource`]. The
//! source folder `metrics` has the names of all metrics.
//!
//! A fan-out server without a connection to its upstream is ready: subscribers can wait for the
//! upstream, and otherwise a load balancer would remove all replicas at once. Alert on
//! `wirestate_upstream_up` instead.
//!
//! ```
//! use wirestate_core::{
//!     Instant, Machine, drive, serve::ServerHandle,
//!     status::{Config, Server, Service, Services},
//! };
//!
//! let echo = ServerHandle::default(); // the handle of the server whose status this is
//! let services = Services::from([Service::new("echo-server", &echo, None)]);
//! let now = Instant::EPOCH;
//! let status = Server::new(Config::default(), services, None, now)?;
//! let mut machine = status.machine(now); // `status.serve(server)` runs one on each connection
//!
//! let mut output = [0; 1024];
//! drive::deliver(&mut machine, &mut &b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], now);
//! let n = drive::collect_into(&mut machine, &mut output, now);
//! assert!(output[..n].starts_with(b"HTTP/1.1 200 OK\r\n"));
//!
//! echo.drain();
//! drive::deliver(&mut machine, &mut &b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], now);
//! let n = drive::collect_into(&mut machine, &mut output, now);
//! assert!(output[..n].starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
//! # Ok::<(), wirestate_core::ConfigError>(())
//! ```
//!
//! # Limits
//!
//! The status server has its own table of connections, so it answers when the service is full.
//!
//! | what | limit |
//! |---|---|
//! | open connections | 64 ([`MAX_CONNECTIONS`]) |
//! | answers | 5,000 per second, a burst of 64 ([`Config::answers_per_second`]) |
//! | expensive pages: `/`, `/metrics`, `/connections` | 100 per second, a burst of 10 |
//! | expensive pages that wait for their turn or are being sent | 48 ([`MAX_PAGES_IN_PROGRESS`]) |
//! | wait for an expensive page ([`Config::pages_per_second`]) | 1 s ([`MAX_PAGE_WAIT`]) |
//! | head of a request | 8 KiB, 64 fields, 5 s ([`Config::head_timeout`]) |
//! | time without a request | 30 s ([`Config::idle_timeout`]) |
//! | time without an acknowledged byte of a response | 10 s ([`Config::write_timeout`]) |
//! | listed connections | 1,000 ([`Config::listed`]) |
//!
//! Expensive pages beyond their limits are answered by 503 with `Retry-After: 1`, and counted in
//! `wirestate_status_pages_refused_total`. The connection stays usable. Other answers beyond the
//! rate wait for their turn. A connection waits for one turn at a time, so a client that sends
//! requests without pause delays the others by one answer. If a client leaves, its turn is given
//! back.
//!
//! When all 64 connections are open, one of them is closed for a new one
//! ([`StatusReason::Evicted`], counted as `evicted`). The first in this order is closed
//! ([`Activity`](crate::idle::Activity)). Of several with the same activity, the one that has had
//! that activity longest is closed.
//!
//! 1. a connection that lingers;
//! 2. one that was answered before and waits for its next answer;
//! 3. one without a complete request;
//! 4. one that sends a response. It is reset once the kernel accepts no more of the response.
//!
//! A connection that waits for its first answer is not evicted. Neither is a new one within 20 ms,
//! in which its first byte can arrive. Expensive pages occupy at most 48 of the 64 connections, and
//! the others are answered within 13 ms or can be evicted. So `/healthz` and `/readyz` are answered
//! regardless of other clients.
//!
//! A status server holds at most 64 × 9 KiB (a head and a short answer each) + 48 ×
//! [`Config::response_size`] (1,667,072 bytes with one service) = 80.6 MB, and 4 × 8 KiB of idle
//! buffers. The content of a request is not read: the request is answered, and the
//! connection is closed.
//!
//! # Security
//!
//! The status is not for the public. Do not listen on a public address. A web site can make
//! a browser request a page from a server on the browser's machine, by a name in the site's domain
//! that resolves to that machine (DNS rebinding). So a request is refused if its `Host` is a name
//! other than `localhost` and those in [`AllowedHosts`]. Addresses are always allowed.

mod config;
mod http;
mod links;
mod metrics;
mod pages;
mod protocol;
mod rate_limiter;
mod router;
mod server;
mod services;
mod state;

pub use self::{
    config::Config,
    http::{AllowedHosts, Refusal, StatusCode},
    links::{Link, LinkRole},
    metrics::{Metric, MetricValue, MetricsSource},
    protocol::{Connection, StatusProtocol, StatusReason},
    server::Server,
    services::{Service, Services},
    state::{MAX_CONNECTIONS, MAX_PAGE_WAIT, MAX_PAGES_IN_PROGRESS, ReadinessHandle},
};
