//! Publishing the messages of a feed to a stream: `--publish`.

use std::{fs, process};

use tracing::{info, warn};
use wirestate_core::{
    fanout::{Feed, Pace, nats::Ingest},
    nats::{Config, Session as _, jetstream::LeaseConfig},
    shared::Shared,
    shutdown::ShutdownHandle,
};

use crate::{
    CommandError, CommandRuntime,
    jitter::jitter_seed,
    nats::{Connector, Gate, LinkState, PublishOnLag, StreamFlags},
    server::{ServerSettings, Starting, Task},
    values::Timeout,
};

/// An ingest that is ready to connect.
pub(super) struct Publishing {
    connector: Connector,
    ingest: Ingest,
    link: LinkState,
    on_lag: PublishOnLag,
    feed: Feed,
    name: Option<Shared<str>>,
}

impl Publishing {
    /// The ingest that the flags ask for; `None` if they do not.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub(super) fn new(
        flags: &StreamFlags,
        connect_timeout: Timeout,
        feed: &Feed,
        name: Option<&Shared<str>>,
    ) -> Result<Option<Self>, CommandError> {
        let Some(address) = flags.publish.clone() else { return Ok(None) };
        let on_lag = flags.publish_on_lag();
        let pace = match on_lag {
            PublishOnLag::Block => Pace::Blocks,
            PublishOnLag::Skip => Pace::NeverBlocks,
        };
        let stream = address.stream.clone();
        let lease = LeaseConfig::new(format!("wirestate_{}", stream.name), holder(name))
            .with_storage(stream.storage)
            .with_replicas(stream.replicas);
        let link = LinkState::publishes_to(&address);
        let connector = flags.connector(address, connect_timeout)?;
        let ingest = Ingest::new(feed, pace, stream, &lease, jitter_seed());
        let ingest = ingest.map_err(CommandError::Config)?.with_name(name.cloned());
        let (feed, name) = (feed.clone(), name.cloned());
        Ok(Some(Self { connector, ingest, link, on_lag, feed, name }))
    }

    /// Adds the metrics and the files of the ingest, and what it does.
    pub(super) fn add_to(&self, settings: ServerSettings) -> ServerSettings {
        let settings = self.connector.add_files(settings);
        let settings = settings.with_metrics(self.ingest.handle()).with_metrics(self.link.clone());
        settings.with_purpose(format!("publish to {}", self.connector.address()))
    }

    /// Starts to publish until `shutdown` is requested and everything is acknowledged.
    ///
    /// # Errors
    /// The task cannot be started.
    pub(super) fn start<R: CommandRuntime>(
        self,
        starting: &Starting<'_, R>,
        shutdown: &ShutdownHandle,
    ) -> Result<Task, CommandError> {
        let Self { connector, ingest, link, feed, name, .. } = self;
        if !starting.addresses.is_empty() {
            info!(server = name.as_deref(), "publishing to {}", connector.address());
        }
        let config = Ingest::client_config(Config::default());
        let publishing = connector.keep_connected(
            starting.runtime,
            config,
            ingest,
            shutdown.clone(),
            name.clone(),
            link,
        )?;
        starting.spawn(shutdown, async move {
            let connection = publishing.await;
            let (ingest, server) = (connection.session(), name.as_deref());
            let unacknowledged = feed.counters().reader_lag;
            if !ingest.is_done() && unacknowledged > 0 {
                warn!(
                    server,
                    unacknowledged,
                    "the stream has not acknowledged all messages: they may be lost"
                );
            }
            let sequence = ingest.handle().counters().sequence;
            info!(server, sequence, "publishing ended");
        })
    }

    /// The gate of the source; `None` if it is always open.
    pub(super) fn gate(&self) -> Option<Gate> {
        match self.on_lag {
            PublishOnLag::Block => Some(Gate::new(self.ingest.handle().watch_lease())),
            PublishOnLag::Skip => None,
        }
    }
}

/// The name of this process, for those who wait for its lease.
fn holder(server: Option<&Shared<str>>) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = server.map(|server| format!(" {server}")).unwrap_or_default();
    format!("{} {}{name}", host.trim(), process::id())
}
