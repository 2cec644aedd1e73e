//! Faults that a proxy injects into its connections, from a plan and a seed.
//!
//! A [`Plan`] says which faults a connection can have, how likely each is, and in which direction.
//! An [`Injector`] has the plan and the seed. For each direction of a connection it makes a
//! [`Gate`], which decides when bytes pass, and how the direction ends. A proxy with
//! [`Proxy::with_faults`](crate::proxy::Proxy::with_faults) does what the gates say.
//!
//! The number of a connection is the one of its entry in the table of connections
//! ([`ConnectionEntry::id`](crate::admission::ConnectionEntry::id)). The same seed, plan and number
//! give the same faults, on every runtime and in every version: the numbers are those of
//! `SplitMix64`, as `docs/faults.md` describes. What a connection gets does not depend on other
//! connections, nor on time. Where pieces end, and where a stall or an ending strikes, does not
//! depend either on how the input is divided into reads.

mod dice;
mod gate;
mod injector;
mod plan;

pub use self::{
    gate::{Decision, Ending, Gate, Strike, Wanted},
    injector::Injector,
    plan::{Faults, Kind, Plan, Slice, Sometimes, Stall},
};
