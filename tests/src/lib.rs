//! A simulated network, proptest strategies and contract checks for Wirestate's machines and yours.
//!
//! - [`contract`]: [`Checked`](contract::Checked) wraps a machine and panics if the machine or its
//!   driver breaks the contract.
//! - [`script`] plays lists of events to one machine, hand-written, random or exhaustive. It finds
//!   errors at boundaries: a full buffer, a late FIN, an unlucky split of the input.
//!   [`script::check`] compares the output with a model of your protocol.
//! - [`stage`] plays scripts to several machines that share state, with exact wake-ups. It finds
//!   lost wake-ups.
//! - [`message`] has valid and invalid frames of the JSON-header protocol, random and by name, for
//!   its decoder or for a variant of your own.
//! - [`sim`] runs servers and peers on a simulated network under seeded faults. It finds lost
//!   wake-ups, stalls, leaks, and resets that are mistaken for an end of the stream.
//! - [`event_loop`] plays scenes on real sockets to an event loop of your own, which drives the
//!   machines. It finds a loop that misses a wake-up, a deadline or an event, or is busy.
//! - [`coverage`] records which faults, states and reasons a test has reached. It finds tests that
//!   no longer test what they should.
//!
//! # Testing a machine of your own
//!
//! Test the machine alone first: it must keep the contract under any list of events, and its output
//! must not depend on how the input is split. Then run it as a server in a simulated world with
//! faults.
//!
//! ```
//! use proptest::prelude::*;
//! use wirestate_core::{Instant, echo, runtime::Runtime, serve};
//! use wirestate_testkit::{contract::Checked, for_each_case, for_each_seed, script, sim};
//!
//! // Put your machine here, and the most bytes that it may queue. Small buffers find more errors.
//! let config = echo::Config::default().with_buffer(8.try_into()?);
//! let limit = config.buffer_size();
//! let server = echo::Server::new(config).unwrap();
//! let machine = move |now| Checked::new(server.machine(now), limit);
//!
//! // Alone.
//! let frames = || "[a-z]{0,12}\r\n".prop_map(String::into_bytes);
//! script::check(|| machine(Instant::EPOCH), frames(), |frames| frames.concat());
//! for_each_case(256, script::ops_of(frames(), 50), |ops| {
//!     script::play(&mut machine(Instant::EPOCH), &ops);
//! });
//!
//! // In a world, where reads and writes are short, interrupted, late and stalled.
//! for_each_seed(4, |seed| {
//!     let world = sim::World::new(seed);
//!     let (server, client) = (world.host("server"), world.host("client"));
//!     server.set_faults(sim::Faults::harmless(seed));
//!     client.set_faults(sim::Faults::harmless(seed + 1));
//!
//!     let echo = serve::Server::new(server.clone(), server.listen("server:7").unwrap());
//!     let (handle, machine) = (echo.handle(), machine.clone());
//!     server.run(echo.serve(move |_, now| machine(now)));
//!
//!     let runtime = client.clone();
//!     let received = client.run(async move {
//!         let socket = runtime.connect("server:7").await.unwrap();
//!         let acts = [sim::Act::Send("hello".into()), sim::Act::Finish, sim::Act::ReceiveAll];
//!         sim::act(runtime, socket, acts.into()).await
//!     });
//!     assert_eq!(world.run_until(&received).unwrap().bytes, b"hello");
//!     handle.drain();
//!     world.run().unwrap();
//!     assert_eq!(world.leftovers(), sim::Leftovers::default());
//! });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A failing world names the seed that replays it. The smallest world that fails alike is printed
//! as a test and saved beside the test: see [`for_each_seed`]. So is the smallest failing script:
//! see [`for_each_case`]. [`sim::Trace`] lists what happened, one line an event.
//! `tests/planted_bugs` in this crate shows which kinds of bug each module finds.

#![forbid(unsafe_code)]

mod cases;
pub mod contract;
pub mod coverage;
pub mod event_loop;
mod failure;
pub mod message;
mod pages;
pub mod script;
mod seeds;
pub mod sim;
pub mod stage;

pub use self::{
    cases::{for_each_case, proptest_config, replay_case},
    seeds::{for_each_seed, replay},
};

/// The README's examples, tested here because this crate depends on all the others.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The examples of `docs/embed.md`.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embed.md")]
struct Embed;

/// The example of `docs/tls.md`.
#[cfg(doctest)]
#[doc = include_str!("../../docs/tls.md")]
struct Tls;

/// The examples of `docs/write-a-machine.md`.
#[cfg(doctest)]
#[doc = include_str!("../../docs/write-a-machine.md")]
struct WriteAMachine;

/// The examples of `docs/test-a-protocol.md`.
#[cfg(doctest)]
#[doc = include_str!("../../docs/test-a-protocol.md")]
struct TestAProtocol;

/// The complete examples of `docs/write-a-protocol.md`. The test `scores` has the others.
#[cfg(doctest)]
#[doc = include_str!("../../docs/write-a-protocol.md")]
struct WriteAProtocol;
