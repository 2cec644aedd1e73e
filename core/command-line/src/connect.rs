//! How clients connect.

use core::time::Duration;

use clap::Args;
use wirestate_core::runtime::connect_retrying;

use crate::{
    CommandError, CommandRuntime,
    values::{self, Timeout},
};

/// The flags of a client's connection.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ConnectFlags {
    /// How long the connection attempt may take, with retries; or `off`
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) connect_timeout: Timeout,
    /// How long to retry while no server listens; 0s: not at all. Retried are a refused connection,
    /// and a Unix socket that does not exist
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::time)]
    pub(crate) retry_for: Duration,
}

impl ConnectFlags {
    /// Connects to `address`.
    pub(crate) async fn connect<R: CommandRuntime>(
        self,
        runtime: &R,
        address: &str,
    ) -> Result<R::Socket, CommandError> {
        connect_retrying(runtime, address, self.connect_timeout.0, self.retry_for)
            .await
            .map_err(|error| CommandError::Connect { address: address.into(), error })
    }
}
