//! The command `fanout-source`.

use core::{num::NonZeroUsize, time::Duration};

use clap::Args;
use wirestate_core::{
    admission::Limits,
    fanout::{MessageSource, MessageSourceConfig},
    serve,
};

use super::{message_size, unix_epoch};
use crate::{
    CommandError, CommandRuntime,
    server::{self, Prepared},
    values,
};

/// Sends numbered messages of a fixed size, at a rate, to one client at a time
///
/// A message is text: its number, the time at which it was made in nanoseconds since 1970, dots,
/// and a line feed. Each client gets the messages from number 0 on. A client that has sent its FIN
/// still gets messages. While a client is connected, further connections are closed at once.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:1234",
          value_delimiter = ',', value_parser = values::listen, help = values::LISTEN_HELP)]
    listen: Vec<String>,
    /// The size of a message, at most 1MiB
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_SIZE", default_value = "1KiB",
          value_parser = message_size)]
    size: NonZeroUsize,
    /// How many messages to send a second; 0: as many as the client accepts
    #[arg(long, value_name = "PER_SECOND", env = "WIRESTATE_RATE", default_value = "1000",
          value_parser = values::number)]
    rate: u64,
    /// End a client's stream after this many messages [default: no limit]
    #[arg(long, value_name = "MESSAGES", env = "WIRESTATE_COUNT", value_parser = values::number)]
    count: Option<u64>,
    #[command(flatten)]
    common: server::CommonFlags,
}

impl Flags {
    /// Returns an error if flags contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        server::check_listen(&self.listen)?;
        self.common.check()
    }

    /// The source code that makes the machine of a connection. `epoch` is the time from Unix'
    /// epoch to the clock's epoch.
    pub(crate) fn machine_source(&self, epoch: Duration) -> String {
        let Self { size, rate, count, .. } = self;
        let epoch = values::time_source(epoch);
        format!(
            "fanout::MessageSource::new(fanout::MessageSourceConfig::default()\
             .with_size({size}.try_into().unwrap()).with_rate({rate}).with_count({count:?})\
             .with_epoch({epoch}), Instant::EPOCH).unwrap()"
        )
    }

    /// The messages. `epoch` is the time from Unix' epoch to the clock's epoch.
    pub(crate) fn config(&self, epoch: Duration) -> MessageSourceConfig {
        MessageSourceConfig::default()
            .with_size(self.size)
            .with_rate(self.rate)
            .with_count(self.count)
            .with_epoch(epoch)
    }
}

/// The field of a recording that has the time from Unix' epoch to the clock's epoch, in
/// nanoseconds.
pub(crate) const UNIX_EPOCH: &str = "unix-epoch";

pub(crate) fn prepare<R: CommandRuntime>(
    runtime: &R,
    flags: Flags,
) -> Result<Prepared<R>, CommandError> {
    let epoch = unix_epoch(runtime);
    let config = flags.config(epoch);
    let limits = Limits { connections: 1, per_address: None };
    let settings = flags.common.settings(serve::Config::default().with_limits(limits))?;
    let settings = settings.with_recorded_field(UNIX_EPOCH, epoch.as_nanos());
    Ok(settings.run("source", flags.listen, move |_, now| {
        MessageSource::new(config, now).expect("the default timeouts are non-zero")
    }))
}
