//! The two tiers around the broker: ingests and edges, which are processes of the binaries.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::process::Server;

/// The name of the stream, and its subject.
pub(crate) const STREAM: &str = "feed";
/// The stream of the lease's bucket.
pub(crate) const LEASE_STREAM: &str = "KV_wirestate_feed";

pub(crate) const TOKIO: &str = "wirestate-tokio";
pub(crate) const SMOL: &str = "wirestate-smol";
pub(crate) const STD: &str = "wirestate-std";

/// The address of the stream at these brokers, `HOST:PORT[,HOST:PORT…]`.
pub(crate) fn url(brokers: &str) -> String {
    format!("nats://{brokers}/{STREAM}")
}

/// Starts a server that publishes what it reads from `source`. It is a fan-out as well.
pub(crate) fn ingest(binary: &str, source: &str, url: &str, flags: &[&str]) -> Server {
    start(binary, &["--upstream", source, "--publish", url], flags)
}

/// Starts a server that reads from the broker.
pub(crate) fn edge(binary: &str, url: &str, flags: &[&str]) -> Server {
    start(binary, &["--upstream", url], flags)
}

fn start(binary: &str, role: &[&str], flags: &[&str]) -> Server {
    let common = ["--frame", "lines", "--status", "127.0.0.1:0", "-v"];
    Server::start_as(binary, "fanout-server", &[role, &common, flags].concat())
}

/// The value of a metric, summed over its labels.
pub(crate) fn metric(server: &Server, name: &str) -> u64 {
    let mut stream = TcpStream::connect(server.status.as_ref().unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value =
            rest.strip_prefix(' ').or_else(|| Some(rest.strip_prefix('{')?.split_once("} ")?.1));
        value?.parse::<u64>().ok()
    });
    samples.reduce(|sum, value| sum + value).unwrap_or_else(|| panic!("no {name}: {page}"))
}
