//! The client of a NATS server: alone under any script, with servers that are none, in the
//! simulator against a model of a cluster, and on three runtimes against a real one. The model is
//! compared with a real server.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod bad_input;
mod consuming;
mod contract;
mod creds;
mod dial;
mod echo;
mod fan_out;
mod memory;
mod model;
mod operations;
mod program;
mod publishing;
mod real_server;
mod reasons;
mod simulated;
mod streams;
mod tiers;
mod wire;

/// What a server begins with.
const INFO: &str = "INFO {\"server_id\":\"S\",\"client_id\":7,\"max_payload\":100,\"headers\":true,\
                    \"nonce\":\"n\"}\r\n";
