//! Proxy: a client's connection relayed to an upstream's, and back.
//!
//! - [`RelayFactory`] is what the connections of one proxy share, and makes a [`Relay`], the machine of
//!   two sides, for each client.
//! - [`Upstreams`] says which upstream is dialled next, and knows how each of them is.
//! - [`Proxy`] and [`fn@serve`] are all of it on a runtime (feature `std`): accepting, dialling,
//!   PROXY headers ([`crate::proxy_protocol`]) on either side.
//!
//! A client's connection begins with dialling. What it sends meanwhile waits in the relay's buffer,
//! and with the kernel once that is half full; a client that breaks off cancels the attempt. Each
//! upstream is tried once, all of them together within [`Proxy::connect_timeout`]. One that is lost
//! before a byte of the client's was forwarded, and before it has sent anything, is one more
//! attempt that has failed, if there is another to be tried: no byte is repeated. From the first
//! byte on, and where it is the last one, an upstream is the client's only one: if it breaks, the
//! client is told, by a reset.
//!
//! ```no_run
//! use wirestate_core::{
//!     Runtime,
//!     drive::Splice,
//!     proxy::{self, Balance, Config, Proxy, RelayFactory, Upstreams},
//! };
//!
//! # async fn example<R: Runtime<Socket: Splice>>(runtime: R) -> std::io::Result<()> {
//! let upstreams = Upstreams::new(["10.0.0.1:9000", "10.0.0.2:9000"], Balance::RoundRobin, 7);
//! let proxy = Proxy::new(RelayFactory::new(Config::default()), upstreams.clone());
//! proxy::serve(runtime.bind("127.0.0.1:9500").await?, proxy).await;
//! println!("{:?}", upstreams.counters());
//! # Ok(())
//! # }
//! ```
//!
//! A proxy that is its own upstream would dial itself for each connection that it has dialled.
//! [`fn@serve`] detects the first such connection, whatever address or path was dialled. It ends
//! that connection ([`ProxyReason::Loop`], or a failed attempt), and does not try that upstream for the
//! next 5 s.
//!
//! A proxy that reaches itself indirectly is not detected: two proxies that are each other's
//! upstreams, an address that is translated on the way, a Unix socket on which the service manager
//! listens. Each client then takes up connections until
//! [`Limits::connections`](crate::admission::Limits) of one proxy are open. The next one is
//! refused, which is logged, and the client's connection is closed. They are free again when the
//! client closes its side, at the latest after [`Config::idle_timeout`].
//!
//! A proxied connection takes two open files, and on threads an eventfd more. In [`fn@serve`],
//! bytes that come in bulk pass through pipes and are not copied
//! ([`Splice`](crate::drive::Splice)); [`Config::pipes`] limits their number, and each takes two
//! open files. For a runtime without such sockets, see [`Connection`].

#[cfg(feature = "std")]
mod connection;
#[cfg(feature = "std")]
mod loops;
#[cfg(feature = "std")]
mod pipes;
mod relay;
mod upstreams;

#[cfg(feature = "std")]
pub use self::connection::{Connection, MIN_BUFFER, Proxy, serve};
pub use self::{
    relay::{Config, ProxyReason, Relay, RelayFactory, RelaySide, Side},
    upstreams::{Attempt, Balance, Choice, NoUpstream, UpstreamCounters, Upstreams},
};
