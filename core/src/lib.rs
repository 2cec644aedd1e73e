//! Network protocols as state machines without IO, and the driver that moves their bytes.
//!
//! | module | content |
//! |---|---|
//! | [`machine`] | the contract: [`Machine`], its interest, its events, its reason |
//! | [`drive`] | moves bytes between a machine and a socket |
//! | [`coroutine`] | straight-line protocols: an `async fn` as a machine |
//! | [`echo`] | the machines of the echo server and its client |
//! | [`fanout`] | one upstream to every subscriber |
//! | `message` | requests and replies with a JSON header (feature `message`) |
//! | `nats` | the client of a NATS server (feature `nats`) |
//! | [`protocol`] | makes a machine of a framed protocol: requests and replies |
//! | [`proxy`] | relays a client to an upstream |
//! | [`faults`] | injects faults into the connections of a proxy, from a seed |
//! | [`mod@proxy_protocol`] | PROXY headers, in which a proxy names its client |
//! | [`dial`] | keeps a connection to an upstream open |
//! | [`buffer`] | bounded memory: a ring, a pool of buffers, a quota |
//! | [`admission`] | admits connections, counts them, and lists the open ones |
//! | [`idle`] | evicts idle connections when a server is full |
//! | [`teardown`] | how a machine ends a connection: FIN, lingering close, reset |
//! | [`shutdown`] | requests the shutdown of servers, graceful or immediate |
//! | [`shared`] | state that machines share with each other, or with their handles, and wake-ups |
//! | [`quantity`] | times and sizes as text |
//! | [`record`] | recordings of real sessions, and their replay |
//! | [`topic`] | items that machines publish and every subscriber gets |
//! | `runtime` | the interface to a runtime: listen, connect, spawn (feature `std`) |
//! | `serve` | servers: accept connections, and drain them at shutdown (feature `std`) |
//! | `status` | the status of a server over HTTP (feature `status`) |
//!
//! # Rules
//!
//! 1. No IO, clock, randomness, threads or globals. Time comes in as an [`Instant`], jitter from a
//!    seed. The crate is `no_std` + `alloc` and forbids unsafe code.
//! 2. Bytes are not copied in memory on their way from one socket to another. A proxy's bulk data
//!    stays in the kernel ([`drive::Splice`]).
//! 3. Everything has a limit. Each machine documents the most memory that it holds, as a formula of
//!    its configuration. An idle connection holds no buffer.
//! 4. Backpressure is `interest().read == false`.
//! 5. Half-close works in both directions. A reset is an event and an output of its own.
//! 6. [`Machine::poll_timeout`] covers everything that a machine waits for.
//! 7. A [`Reason`] says why a connection ended, with the limit and the figure, and whose [`Fault`]
//!    that was. A panic is a bug, never the result of what a peer sent.
//! 8. The output does not depend on how the input is divided into reads. The only exception is an
//!    echo that sends a prefix for each received chunk ([`echo::Config::prefix`]).
//! 9. The same inputs give the same outputs, byte for byte.
//! 10. Everything that crosses the contract is plain data, so it can be recorded, and machines
//!     compose by wrapping.
//!
//! # Features
//!
//! - `std` (default): [`Shared`](shared::Shared) state uses real locks, so handles can move between
//!   threads. Without it, handles stay on one thread. The target needs atomic compare-and-swap of
//!   pointers. On a target without 64-bit atomics, counters are behind locks.
//! - `message` (default): the module `message`, with libraries for JSON and character sets.
//! - `nats`: the module `nats`, with a library for JSON.
//! - `status`: the module `status`, with libraries for HTTP heads, JSON and metrics.
//!
//! # In your own event loop
//!
//! Implement [`drive::Source`] and [`drive::Sink`] for your socket, and give each connection a
//! [`drive::Seat`]. `drive::Seats` keeps those of a loop. The page `docs/embed.md` shows it step by
//! step, and `core/examples` has loops with `poll(2)`, mio, `io_uring` and smoltcp, and one without
//! wakers. Poll each seat with a waker that makes the loop poll it again
//! ([`Wake`](alloc::task::Wake)). With [`Waker::noop`](core::task::Waker::noop), machines that wait
//! for shared state hang, such as asynchronous services and subscribers, unless the loop polls them
//! all the time.

#![forbid(unsafe_code)]
#![cfg_attr(not(any(feature = "std", test)), no_std)]

extern crate alloc;

#[cfg(feature = "std")]
mod address_errors;
pub mod admission;
pub mod buffer;
mod config;
pub mod coroutine;
pub mod dial;
pub mod drive;
pub mod echo;
pub mod fanout;
pub mod faults;
pub mod idle;
#[cfg(feature = "std")]
mod listen;
mod log_limit;
pub mod machine;
#[cfg(feature = "message")]
pub mod message;
#[cfg(feature = "nats")]
pub mod nats;
mod progress;
pub mod protocol;
pub mod proxy;
pub mod proxy_protocol;
pub mod quantity;
mod random;
pub mod record;
#[cfg(feature = "std")]
pub mod runtime;
#[cfg(feature = "std")]
pub mod serve;
pub mod shared;
pub mod shutdown;
#[cfg(feature = "status")]
pub mod status;
pub mod teardown;
mod time;
mod token_bucket;
pub mod topic;

#[cfg(feature = "std")]
pub use self::runtime::Runtime;
pub use self::{
    config::ConfigError,
    machine::{
        AnyReason, ConnectionError, Direction, Erased, Event, Fault, Interest, Machine, Outbound,
        Reason, Status,
    },
    progress::WriteProgress,
    teardown::Linger,
    time::Instant,
};
