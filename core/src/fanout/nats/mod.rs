//! Fan-out beyond one machine: a stream of a NATS server between an ingest and edges.
//!
//! - [`Ingest`] reads a [`Feed`](super::Feed), and publishes its messages to a stream.
//! - [`Edge`] reads the stream, and publishes its messages to a feed.
//!
//! Both are sessions of a [`Connection`](crate::nats::Connection), and outlive their connections.

mod edge;
mod handle;
mod ingest;

pub use self::{
    edge::Edge,
    handle::{EdgeCounters, EdgeHandle, IngestCounters, IngestHandle, LeaseWatch},
    ingest::Ingest,
};
