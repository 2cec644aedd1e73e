//! Fan-out beyond one machine: the binaries as ingests and edges around real `nats-server`
//! processes with `JetStream`.
//!
//! Each scenario checks what subscribers get: whole messages, in order, and without a gap, except
//! where the scenario says that messages are lost. The three runtimes share the roles: each
//! scenario says which binary has which role.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod broker;
mod broker_faults;
mod credentials;
mod delay;
mod ingest_faults;
#[expect(dead_code, reason = "this program uses a part")]
#[path = "../real_sockets/process.rs"]
mod process;
#[path = "../nats/program.rs"]
mod program;
mod source;
mod stream_faults;
mod subscribers;
mod tiers;
