//! A connection to be used by many, on any runtime.

use std::{io, time::Duration};

use super::{Client, ClientConfig, Handle};
use crate::{
    drive::Drive,
    runtime::{Runtime, connect_within},
};

/// Connects to `address`, a `host:port`, within `timeout`, and has the connection driven by a task
/// or thread of its own until all handles are gone.
///
/// # Errors
/// As [`connect_within`], or there is no room for the task.
pub async fn connect<R: Runtime>(
    runtime: &R,
    address: &str,
    timeout: Option<Duration>,
    config: ClientConfig,
) -> io::Result<Handle> {
    let socket = connect_within(runtime, address, timeout).await?;
    let (client, handle) = Client::with_handle(config);
    runtime.spawn(Drive::new(client, socket, runtime.clock()))?;
    Ok(handle)
}
