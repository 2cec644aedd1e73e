//! `HAProxy`, with one thread and otherwise default settings.

use std::{io, net::SocketAddr, process::Command};

use crate::measure::process::{announce_a_free_port, exec_with, program};

/// Replaces this process by `HAProxy`. The process keeps its core and its parent-death signal.
pub(crate) fn exec(upstream: SocketAddr) -> io::Result<()> {
    let address = announce_a_free_port()?;
    let configuration = format!(
        "global
            maxconn 9000
            nbthread 1
        defaults
            mode tcp
            timeout connect 10s
            timeout client 600s
            timeout server 600s
        listen relay
            bind {address} backlog 4096
            server upstream {upstream}\n"
    );
    let mut command = Command::new(program("haproxy").ok_or(io::ErrorKind::NotFound)?);
    exec_with(command.args(["-db", "-f", "/dev/stdin"]), &configuration)
}
