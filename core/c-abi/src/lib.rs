//! Wirestate's machines for C, and for every language that can call C.
//!
//! C includes `core/c-abi/include/wirestate.h`, which is generated from this crate and has its
//! documentation: the calls in their order, the turn of an event loop, who owns what, and which
//! thread may call what. `docs/embed.md` has commands that build and run the examples: a server in
//! C with `epoll(7)`, one in Python with `asyncio`, and the machines in WebAssembly.
//!
//! | module | content |
//! |---|---|
//! | [`result`] | result codes |
//! | [`config`] | the settings of servers and clients |
//! | [`server`] | servers, and the machines of their connections |
//! | [`machine`] | drives a machine: what it wants, what has happened |
//! | [`wakes`] | which machines to drive because another one, or another thread, has woken them |
//! | [`message`] | requests and replies |
//! | [`codec`] | encodes and decodes messages without a machine |
//! | `tls` | TLS around a machine (feature `tls`) |
//! | [`memory`] | allocates memory for a host that has no `malloc` |
//!
//! # What the layer checks
//!
//! - A pointer that must not be null is checked.
//! - An event is checked against the table of [`wirestate_core::machine`] before the machine sees
//!   it. An illegal event is an error, and changes nothing.
//! - A panic does not cross the border. The connection's machine is dropped. It is replaced by one
//!   that wants a reset, with the reason `panicked`. Other connections go on. (With
//!   `panic = "abort"`, and in WebAssembly, a panic ends the process.)
//! - Time that goes backwards counts as standing still.
//!
//! A use after free, a pointer to other memory, and two threads on one machine cannot be detected.
//!
//! # Safety
//!
//! The functions are unsafe to call from Rust. Each pointer must be null or valid:
//!
//! - A pointer to an opaque type comes from a function of this crate. It is valid until it is
//!   passed to the function that frees it.
//! - A pointer with a length refers to as many bytes, which nothing else changes during the call. A
//!   null pointer with the length 0 is valid.
//! - A pointer to a result refers to writable memory of that type.
//! - No other thread uses the object at the same time, except for the objects that may be shared: a
//!   [`Server`](server::Server), [`Wakes`](wakes::Wakes), and `Tls`.

#![allow(unsafe_code, reason = "pointers cross the border")]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]

pub mod codec;
pub mod config;
pub mod machine;
pub mod memory;
pub mod message;
mod pointer;
pub mod result;
pub mod server;
#[cfg(feature = "tls")]
pub mod tls;
pub mod wakes;

pub use self::pointer::Slice;

/// What the header says of threads.
const _: () = {
    const fn shareable<T: Send + Sync>() {}
    const fn movable<T: Send>() {}
    shareable::<server::Server>();
    shareable::<wakes::Wakes>();
    #[cfg(feature = "tls")]
    shareable::<tls::Tls>();
    movable::<config::Config>();
    movable::<machine::Machine>();
    movable::<message::Incoming>();
    movable::<codec::Decoder>();
};
