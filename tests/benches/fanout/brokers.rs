//! The brokers that people install, as they come, with nothing written to a disk.

use std::{
    env, io,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::process::{ANY_PORT, announce};

/// A broker.
#[derive(Clone, Copy)]
pub(crate) enum Broker {
    Nats,
    Redis,
}

/// Where its program is, if it is installed.
pub(crate) fn program(broker: Broker) -> Option<PathBuf> {
    let name = match broker {
        Broker::Nats => "nats-server",
        Broker::Redis => "redis-server",
    };
    // Debian installs a server where not everyone's path leads.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Becomes that broker: this process keeps its core and its death signal. The port is announced
/// before anybody listens on it.
pub(crate) fn serve(broker: Broker) -> io::Result<()> {
    let program = program(broker).ok_or(io::ErrorKind::NotFound)?;
    // Neither tells which port it was given, so one is chosen that is free now.
    let address: SocketAddr = TcpListener::bind(ANY_PORT)?.local_addr()?;
    announce(address)?;
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match broker {
        Broker::Nats => command.args(["--addr", &host, "--port", &port]),
        Broker::Redis => {
            command.args(["--bind", &host, "--port", &port, "--save", "", "--appendonly", "no"]);
            // A subscriber that is behind is not disconnected.
            command.args(["--client-output-buffer-limit", "pubsub 0 0 0"])
        }
    };
    Err(command.exec())
}
