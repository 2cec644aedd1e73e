//! Connects a client that several tasks share, on any runtime.

use std::{io, time::Duration};

use super::{Client, ClientConfig, Handle};
use crate::{
    drive::Drive,
    runtime::{Runtime, connect_within},
};

/// Connects to `address`, a `host:port`, within `timeout`; `None`: no limit.
///
/// A new task or thread drives the connection until all handles are dropped.
///
/// # Errors
/// - `config` is invalid: [`io::ErrorKind::InvalidInput`], with the
///   [`ConfigError`](crate::ConfigError) inside.
/// - The connection cannot be made: the error of [`connect_within`].
/// - The runtime cannot spawn the task.
pub async fn connect<R: Runtime>(
    runtime: &R,
    address: &str,
    timeout: Option<Duration>,
    config: ClientConfig,
) -> io::Result<Handle> {
    let (client, handle) = Client::with_handle(config)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let socket = connect_within(runtime, address, timeout).await?;
    runtime.spawn(Drive::new(client, socket, runtime.clock()))?;
    Ok(handle)
}
