//! A proxy, which relays the connections of clients to upstreams.
//!
//! - [`Proxy`] and [`fn@serve`] are the whole proxy on a runtime (feature `std`): accepting,
//!   dialling, PROXY headers ([`crate::proxy_protocol`]) on either side.
//! - [`Upstreams`] selects the upstream that is dialled next, among all addresses of its name, and
//!   tracks the health of each. [`Proxy::check_upstreams`] checks it actively.
//! - [`RelayFactory`] makes a [`Relay`] for each client: the machine of two sides.
//!
//! An upstream is dialled as soon as a client has connected. Meanwhile the relay reads from the
//! client until its buffer is half full; the rest waits in the kernel. If the client's connection
//! is lost, the attempt is cancelled. Each endpoint is tried once, all of them together within
//! [`Config::connect_timeout`].
//!
//! If an upstream is lost before it has sent a byte and before a byte of the client was forwarded
//! to it, the next upstream is tried. After the first byte, or if no other upstream remains, the
//! loss of the upstream resets the client's connection. No byte is forwarded to two upstreams.
//!
//! ```no_run
//! use wirestate_core::{
//!     Runtime,
//!     drive::Splice,
//!     proxy::{self, Balance, Config, Proxy, Upstreams},
//! };
//!
//! # async fn example<R: Runtime<Socket: Splice>>(
//! #     runtime: R,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let upstreams = Upstreams::new(["10.0.0.1:9000", "10.0.0.2:9000"], Balance::RoundRobin, 7);
//! let proxy = Proxy::new(Config::default(), upstreams.clone())?;
//! proxy::serve(runtime.bind("127.0.0.1:9500").await?, proxy).await;
//! println!("{:?}", upstreams.counters());
//! # Ok(())
//! # }
//! ```
//!
//! # Loops
//!
//! A proxy whose upstream is the proxy itself would dial itself for each connection that it has
//! dialled. [`fn@serve`] detects the first such connection, for any address or path.
//! It ends that connection ([`ProxyReason::Loop`], or a failed attempt), and does not try that
//! upstream for the next 5 s.
//!
//! Indirect loops are not detected: two proxies that are each other's upstreams, an address that is
//! translated on the way, a Unix socket on which the service manager listens. Each client then
//! causes connections until [`Limits::connections`](crate::admission::Limits) of one proxy are
//! open. The next connection is refused, which is logged, and the client's connection is closed.
//! The others end when the client closes its side, or after [`Config::idle_timeout`].
//!
//! # Faults
//!
//! [`Proxy::with_faults`] makes a proxy that injects faults into its connections, to test the
//! programs on both sides of it: see [`faults`](crate::faults).
//!
//! # Resources
//!
//! A proxied connection takes two open files, and on the thread runtime also an eventfd. In
//! [`fn@serve`], bulk transfers pass through pipes and are not copied
//! ([`Splice`](crate::drive::Splice)). [`Config::pipes`] limits the number of pipes; each takes two
//! open files. For a runtime whose sockets cannot splice, use [`ProxiedConnection`]. It also relays
//! to an upstream that the client has named in a handshake ([`ProxiedConnection::connected`]): the
//! example `tests/examples/socks5.rs` is such a proxy.

#[cfg(feature = "std")]
mod checking;
mod config;
#[cfg(feature = "std")]
mod connection;
#[cfg(feature = "std")]
mod dialler;
#[cfg(feature = "std")]
mod faulty;
#[cfg(feature = "std")]
mod loop_detection;
#[cfg(feature = "std")]
mod pipes;
mod relay;
#[cfg(feature = "std")]
mod reset_wait;
#[cfg(feature = "std")]
mod serve;
mod upstreams;

pub use self::{
    config::{Config, MIN_BUFFER},
    relay::{
        ProxyReason, Relay, RelayCall, RelayFactory, RelaySide, Side, replay, replay_observed,
    },
    upstreams::{
        Balance, DialError, DueCheck, EndpointCounters, FailedAttempt, Lookup, Selection,
        UpstreamCounters, Upstreams,
    },
};
#[cfg(feature = "std")]
pub use self::{
    connection::ProxiedConnection,
    serve::{Proxy, Relays, serve, serve_after},
};
