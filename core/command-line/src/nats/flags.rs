//! The flags of streams: where to publish, credentials, TLS.

use core::str::FromStr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use wirestate_core::nats::Credentials;

use super::{Connector, Redacting, StreamAddress, credentials::CredentialsFile};
use crate::{CommandError, tls::NatsTlsFlags, values::Timeout};

/// The flags of streams of NATS.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "NATS")]
pub(crate) struct StreamFlags {
    /// Publish the messages to a stream of NATS, `nats://HOST[:PORT]/SUBJECT`; with TLS, `tls://…`
    ///
    /// Several servers of one cluster are separated by commas. `USER:PASSWORD@` or `TOKEN@` before
    /// them authenticates; special characters in it are percent-encoded. Parameters follow a `?`
    /// and are separated by `&`: `stream=NAME`, by default SUBJECT with `_` for each dot. For a
    /// stream that does not exist and is created: `replicas=N`, `max-bytes=SIZE`, `max-age=TIME`,
    /// `storage=file` (default) or `storage=memory`. With `tls=first`, the TLS handshake comes
    /// before INFO (`handshake_first` in the configuration of the server).
    ///
    /// Without --listen, the server listens nowhere. Of several servers that publish to a stream,
    /// one does, and the others wait for its lease: a key in the bucket `wirestate_NAME` that lasts
    /// for 10 s. After SIGTERM or SIGINT, what was read from the upstream is published within
    /// --drain-timeout.
    #[arg(long, value_name = "NATS_ADDR", env = "WIRESTATE_PUBLISH", hide_env_values = true,
          value_parser = Redacting(StreamAddress::from_str))]
    pub(crate) publish: Option<StreamAddress>,
    /// What happens while the stream falls behind or cannot be reached [default: block]
    #[arg(
        long,
        value_name = "POLICY",
        value_enum,
        env = "WIRESTATE_PUBLISH_ON_LAG",
        requires = "publish"
    )]
    publish_on_lag: Option<PublishOnLag>,
    /// A .creds file with the JWT and the nkey of a user, for all connections to NATS. SIGHUP reads
    /// it again
    #[arg(
        id = "nats_creds",
        long = "nats-creds",
        value_name = "FILE",
        env = "WIRESTATE_NATS_CREDS",
        conflicts_with = "nats_nkey"
    )]
    creds: Option<PathBuf>,
    /// A file with the seed of a user's nkey, which begins with SU, for all connections to NATS.
    /// SIGHUP reads it again
    #[arg(id = "nats_nkey", long = "nats-nkey", value_name = "FILE", env = "WIRESTATE_NATS_NKEY")]
    nkey: Option<PathBuf>,
    #[command(flatten)]
    tls: NatsTlsFlags,
}

/// What happens while the stream falls behind or cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishOnLag {
    /// The source is paused, and nothing is lost. It is read only by the server that has the lease
    #[default]
    Block,
    /// Subscribers of this server go on. Messages that the stream misses are counted, and a new
    /// epoch begins
    Skip,
}

impl StreamFlags {
    pub(crate) fn publish_on_lag(&self) -> PublishOnLag {
        self.publish_on_lag.unwrap_or_default()
    }

    /// Returns an error if flags contradict each other. `upstream` is the stream that is read.
    pub(crate) fn check(&self, upstream: Option<&StreamAddress>) -> Result<(), String> {
        let Self { publish, creds, nkey, tls, .. } = self;
        if publish.is_some() && upstream.is_some() {
            let error =
                "--publish and --upstream are both streams: a server of NATS can mirror one";
            return Err(error.into());
        }
        let address = publish.as_ref().or(upstream);
        let file = match (creds, nkey) {
            (Some(_), _) => Some("--nats-creds"),
            (None, Some(_)) => Some("--nats-nkey"),
            (None, None) => None,
        };
        if let Some(flag) = file.or(tls.given())
            && address.is_none()
        {
            return Err(format!(
                "{flag} needs --publish, or --upstream with the address of a stream"
            ));
        }
        if let Some(flag) = file
            && let Some(address) = address.filter(|it| it.credentials != Credentials::None)
        {
            return Err(format!(
                "{flag} and the address {address} both have credentials, expected one of them"
            ));
        }
        if let Some(flag) = tls.given()
            && !address.is_some_and(|address| address.has_tls)
        {
            return Err(format!("{flag} needs an address that begins with tls://"));
        }
        Ok(())
    }

    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub(crate) fn connector(
        &self,
        address: StreamAddress,
        connect_timeout: Timeout,
    ) -> Result<Connector, CommandError> {
        let tls = if address.has_tls {
            self.tls.clone().load(&address.servers[0], connect_timeout)?
        } else {
            None
        };
        let file = match (&self.creds, &self.nkey) {
            (Some(path), _) => Some(CredentialsFile::Creds(path.clone())),
            (None, Some(path)) => Some(CredentialsFile::Nkey(path.clone())),
            (None, None) => None,
        };
        Connector::new(address, tls, file, connect_timeout)
    }
}
