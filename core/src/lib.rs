//! Network protocols as state machines that never touch a socket, and the driver that does
//! everything but the system call.
//!
//! | module | what |
//! |---|---|
//! | [`machine`] | the contract: [`Machine`], what it wants, what it is told, why it ends |
//! | [`drive`] | moves bytes between a machine and a socket: [`drive::Seat`] for event loops, [`drive::Drive`] for async runtimes |
//! | [`echo`] | the echo server's machine and its clients' |
//! | [`fanout`] | one upstream to all who connect |
//! | [`message`] | requests and replies with a JSON header: codec, server, client (feature `message`) |
//! | [`proxy`] | a client relayed to an upstream |
//! | [`mod@proxy_protocol`] | who a proxy's client is: PROXY headers, read and written |
//! | [`dial`] | keeping a connection up |
//! | [`buffer`] | the ring and the pool that machines keep their bytes in |
//! | [`admission`] | who may connect, and the table of who is connected |
//! | [`shutdown`] | asking a server to stop |
//! | [`runtime`] | what a runtime brings to accept, connect and spawn (feature `std`) |
//! | [`mod@listen`] | listening on every address of a name (feature `std`) |
//! | [`mod@serve`] | accepting under admission, and the drain (feature `std`) |
//! | `status` | the status of a server over HTTP (feature `status`) |
//!
//! # Rules
//!
//! 1. No IO, clock, randomness, threads or globals: time comes in as an [`Instant`], jitter from a
//!    seed. The crate is `no_std` + `alloc` and forbids unsafe code.
//! 2. Bytes are not copied between kernel and kernel. A proxy's bulk does not leave the kernel
//!    ([`drive::Splice`]).
//! 3. Everything is bounded: each machine states the most memory it can hold, as a formula of its
//!    configuration. An idle connection holds no buffer.
//! 4. Backpressure is `interest().read == false`.
//! 5. Half-close is honoured in both directions; a reset is an input and an output of its own.
//! 6. [`Machine::poll_timeout`] covers all that a machine waits for.
//! 7. A [`Reason`] says whose [`Fault`] an end was, with the limit and the figure. A panic is a
//!    bug, never the result of what a peer sent.
//! 8. What comes out does not depend on how the input was cut up. (One exception, by definition:
//!    an echo that answers each chunk it receives, [`echo::Config::prefix`].)
//! 9. The same inputs give the same outputs, byte for byte.
//! 10. What crosses the contract is plain data, so it can be written down, and machines compose by
//!     wrapping.
//!
//! # Features
//!
//! - `std` (default): [`Shared`](shared::Shared) state is behind real locks, so handles may go
//!   from thread to thread. Without it they stay on one thread. Either way the target needs
//!   atomic compare-and-swap of pointers. Where it has no 64-bit atomics, counts are behind locks.
//! - `message` (default): [`message`], with libraries for JSON and character sets.
//! - `status` (off): the status of a server over HTTP, for people, probes and Prometheus.
//! - `command-line` (off): the binaries' command line. Never needed to embed the machines.
//!
//! # In an event loop of your own
//!
//! Implement [`drive::Source`] and [`drive::Sink`] for your socket and give each connection a
//! [`drive::Seat`]: `core/examples/foreign_loop.rs` does that with `poll(2)`, and `docs/embed.md`
//! explains it. As the context, pass one whose waker has that connection polled again
//! ([`Wake`](alloc::task::Wake)). [`Waker::noop`](core::task::Waker::noop) is enough only for
//! machines that share nothing; asynchronous handlers and subscribers would hang with it.

#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod admission;
pub mod buffer;
#[cfg(feature = "command-line")]
pub mod command_line;
mod config;
pub mod dial;
pub mod drive;
pub mod echo;
pub mod fanout;
pub mod idle;
#[cfg(feature = "std")]
pub mod listen;
mod log_limit;
pub mod machine;
#[cfg(feature = "message")]
pub mod message;
mod progress;
pub mod proxy;
pub mod proxy_protocol;
#[cfg(feature = "std")]
pub mod runtime;
#[cfg(feature = "std")]
pub mod serve;
pub mod shared;
pub mod shutdown;
#[cfg(feature = "status")]
pub mod status;
mod teardown;
mod time;
mod token_bucket;

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
