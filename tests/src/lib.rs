//! A simulated network, strategies and invariants to test Wirestate's machines with, and your own.
//!
//! | module | finds | how |
//! |---|---|---|
//! | [`contract`] | a machine, or a driver, that breaks its part of the contract | [`Checked`](contract::Checked) asserts it at every call |
//! | [`script`] | what goes wrong at a boundary: a full buffer, a late FIN, a cut in a bad place | drawn or exhaustive lists of what happens, played to one machine |
//! | [`message`] | what goes wrong in the JSON-header protocol, or in a variant of it | good and bad frames, drawn and by name |
//! | [`sim`] | what goes wrong between them: lost wake-ups, stalls, leaks, a reset taken for an end | servers and peers on a simulated network under seeded faults |
//!
//! # Testing a machine of your own
//!
//! First alone: any list of events must leave the contract whole, and the output must not depend on
//! how the input was cut. Then in a world: the same machine as a server, under faults.
//!
//! ```
//! use proptest::prelude::*;
//! use wirestate_core::{Instant, admission::Limits, echo, runtime::Runtime, serve};
//! use wirestate_testkit::{contract::Checked, for_each_seed, script, sim};
//!
//! // Put your own machine here, with the most bytes that it may queue. Small buffers find more.
//! let config = echo::Config::default().with_buffer(8.try_into()?);
//! let limit = config.buffer_size();
//! let server = echo::Server::new(config).unwrap();
//! let machine = move |now| Checked::new(server.machine(now), limit);
//!
//! // Alone.
//! script::split_invariant(|| machine(Instant::EPOCH), b"some input of your protocol's");
//! proptest!(|(ops in script::ops(50))| {
//!     script::play(&mut machine(Instant::EPOCH), &ops);
//! });
//!
//! // In a world, where its peer's reads and writes are cut, interrupted, late, and stalled.
//! for_each_seed(4, |seed| {
//!     let world = sim::World::new(seed);
//!     let (server, client) = (world.host("server"), world.host("client"));
//!     server.set_faults(sim::Faults::harmless(seed));
//!     client.set_faults(sim::Faults::harmless(seed + 1));
//!
//!     let options = serve::Options::new(Limits::default());
//!     let stop = options.stop.clone();
//!     let listener = server.listen("server:7").unwrap();
//!     let (runtime, machine) = (server.clone(), machine.clone());
//!     server.run(async move {
//!         serve::serve(&runtime, listener, &options, |_, now| machine(now)).await
//!     });
//!
//!     let runtime = client.clone();
//!     let heard = client.run(async move {
//!         let socket = runtime.connect("server:7").await.unwrap();
//!         let acts = [sim::Act::Send("hello".into()), sim::Act::Finish, sim::Act::ReceiveAll];
//!         sim::act(runtime, socket, acts.into()).await
//!     });
//!     assert_eq!(world.run_until(&heard).unwrap().bytes, b"hello");
//!     stop.drain();
//!     world.run().unwrap();
//!     assert_eq!(world.leftovers(), sim::Leftovers::default());
//! });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A failing world says which seed replays it: see [`for_each_seed`]. [`sim::Trace`] says, line by
//! line, what happened. `tests/planted_bugs.rs` in this crate shows which kinds of bug are found,
//! and by what.

#![forbid(unsafe_code)]

pub mod contract;
pub mod message;
pub mod script;
mod seeds;
pub mod sim;

pub use self::seeds::for_each_seed;

/// The README's examples, which run as tests here, where all crates are at hand.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The examples of the page on embedding.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embed.md")]
struct Embed;
