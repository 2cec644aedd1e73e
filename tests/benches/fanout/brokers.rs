//! NATS and Redis with their default settings, but without writes to the disk.

use std::{
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::measure::process::{announce_a_free_port, program};

/// A message broker.
#[derive(Clone, Copy)]
pub(crate) enum Broker {
    Nats,
    Redis,
}

impl Broker {
    /// The path of its program, if it is installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        program(match self {
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
        })
    }
}

/// Replaces this process by the broker. The process keeps its core and its parent-death signal.
pub(crate) fn serve(broker: Broker) -> io::Result<()> {
    let program = broker.program().ok_or(io::ErrorKind::NotFound)?;
    let address = announce_a_free_port()?;
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match broker {
        Broker::Nats => command.args(["--addr", &host, "--port", &port]),
        Broker::Redis => {
            command.args(["--bind", &host, "--port", &port, "--save", "", "--appendonly", "no"]);
            // Do not disconnect slow subscribers.
            command.args(["--client-output-buffer-limit", "pubsub 0 0 0"])
        }
    };
    Err(command.exec())
}
