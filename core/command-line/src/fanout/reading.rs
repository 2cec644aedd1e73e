//! Reading the messages of a feed from its upstream.

use core::{
    future::{Future, poll_fn},
    pin::Pin,
    time::Duration,
};

use wirestate_core::{
    dial::{Backoff, Dial},
    drive::Clock,
    fanout::{self, Feed, nats::Edge},
    nats::{
        Config,
        jetstream::{ConsumerConfig, Start},
    },
    record::Recorded,
    shared::Shared,
    shutdown::ShutdownHandle,
};
use wirestate_tls::Client;

use super::{
    from_standard_input::read_standard_input, publishers::publishers_ended, upstream::Upstream,
};
use crate::{
    CommandError, CommandRuntime,
    jitter::jitter_seed,
    nats::{Connector, Gate, LinkState, StreamFlags},
    recording::Recordings,
    server::{ServerSettings, Starting},
    tls::{self, UpstreamTls, UpstreamTlsFlags},
    values::Timeout,
};

/// An upstream that is ready to be read.
pub(super) enum Reading {
    /// A server that is dialled.
    Server {
        address: String,
        connect_timeout: Timeout,
        tls: Option<UpstreamTls>,
    },
    StandardInput,
    Stream(Box<StreamReading>),
    Publishers,
}

/// An edge that is ready to connect.
pub(super) struct StreamReading {
    connector: Connector,
    edge: Edge,
    link: LinkState,
}

impl Reading {
    /// Reads the files of the upstream.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub(super) fn new(
        upstream: Upstream,
        connect_timeout: Timeout,
        tls: UpstreamTlsFlags,
        nats: &StreamFlags,
        feed: &Feed,
        name: Option<&Shared<str>>,
    ) -> Result<Self, CommandError> {
        Ok(match upstream {
            Upstream::Address(address) => {
                let tls = tls.load(&address, connect_timeout)?;
                Self::Server { address, connect_timeout, tls }
            }
            Upstream::StandardInput => Self::StandardInput,
            Upstream::Publishers => Self::Publishers,
            Upstream::Stream(address) => {
                let config =
                    ConsumerConfig::new(&*address.stream.name, &*address.stream.subjects[0])
                        .with_start(Start::Last(feed.config().replay))
                        .with_seed(jitter_seed());
                let edge = Edge::new(feed, config).map_err(CommandError::Config)?;
                let edge = edge.with_name(name.cloned());
                let link = LinkState::reads_from(&address, feed);
                let connector = nats.connector(*address, connect_timeout)?;
                Self::Stream(Box::new(StreamReading { connector, edge, link }))
            }
        })
    }

    /// Adds the metrics, files and addresses of the upstream.
    pub(super) fn add_to(&self, settings: ServerSettings) -> ServerSettings {
        match self {
            Self::Server { address, tls, .. } => {
                settings.with_files_of(tls.clone()).with_upstreams(vec![address.clone()])
            }
            Self::StandardInput | Self::Publishers => settings,
            Self::Stream(stream) => {
                let settings = stream.connector.add_files(settings);
                settings.with_metrics(stream.edge.handle()).with_metrics(stream.link.clone())
            }
        }
    }

    /// Makes the task that reads until `shutdown` is requested; with a `gate`, only while that is
    /// open.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start<R: CommandRuntime>(
        self,
        starting: &Starting<'_, R>,
        feed: &Feed,
        gate: Option<Gate>,
        shutdown: ShutdownHandle,
        name: Option<Shared<str>>,
    ) -> Result<Pin<Box<dyn Future<Output = ()> + Send>>, CommandError> {
        let (runtime, feed) = (starting.runtime.clone(), feed.clone());
        Ok(match self {
            Self::Server { address, connect_timeout, tls } => {
                let dial = Dial::new(address, Backoff::new(jitter_seed()))
                    .with_server(name)
                    .with_connect_timeout(connect_timeout.0);
                let tls = tls.map(|tls| tls.client);
                let recordings = starting.settings.recordings.clone();
                let read = move |shutdown| {
                    let dial = dial.clone().with_shutdown(shutdown);
                    read_upstream(&runtime, dial, &feed, tls.clone(), recordings.clone())
                };
                match gate {
                    None => Box::pin(read(shutdown)),
                    Some(mut gate) => Box::pin(async move { gate.run(&shutdown, read).await }),
                }
            }
            Self::StandardInput => {
                let (handle, failure) = (starting.handle.clone(), starting.failure.clone());
                let (shutdown_of_read, waits) = (shutdown.clone(), gate.is_some());
                let now = runtime.clock().now();
                let recordings = starting.settings.recordings.as_ref();
                let recorder = recordings.map(|it| it.of_other(RECORDED_UPSTREAM, now));
                let upstream = Recorded::new(fanout::Upstream::new(&feed, now), recorder);
                let read = read_standard_input(
                    &runtime,
                    feed,
                    upstream,
                    handle,
                    shutdown_of_read,
                    failure,
                    waits,
                )?;
                match gate {
                    None => Box::pin(read),
                    Some(mut gate) => Box::pin(async move { gate.pause(&shutdown, read).await }),
                }
            }
            // Their listener ends them. Any number of servers can have publishers.
            Self::Publishers => {
                Box::pin(publishers_ended(starting.runtime.clock(), feed, shutdown))
            }
            // Any number of edges can read a stream.
            Self::Stream(stream) => {
                let (config, StreamReading { connector, edge, link }) =
                    (Edge::client_config(Config::default()), *stream);
                let reading =
                    connector.keep_connected(&runtime, config, edge, shutdown, name, link)?;
                Box::pin(async move { drop(reading.await) })
            }
        })
    }
}

/// Publishes the upstream's messages, and reconnects to it, until a shutdown is requested.
pub(crate) fn read_upstream<R: CommandRuntime>(
    runtime: &R,
    dial: Dial,
    feed: &Feed,
    tls: Option<Client>,
    recordings: Option<Recordings>,
) -> impl Future<Output = ()> + Send + 'static + use<R> {
    let (runtime, feed) = (runtime.clone(), feed.clone());
    async move {
        let upstream = |now| {
            let recorder = recordings.as_ref().map(|it| it.of_other(RECORDED_UPSTREAM, now));
            let upstream = Recorded::new(fanout::Upstream::new(&feed, now), recorder);
            tls::around(tls.as_ref(), upstream, now)
        };
        dial.keep_connected(&runtime, || feed.connect_failed(), upstream).await;
    }
}

/// Ends the upstream of a feed that gets no further subscribers, once the last one has left.
pub(super) async fn drain_when_unused(mut clock: impl Clock, feed: Feed, shutdown: ShutdownHandle) {
    loop {
        // Before the first check, the subscribers in the backlog are accepted.
        let next = clock.now() + CHECK_INTERVAL;
        poll_fn(|cx| clock.poll_until(cx, next)).await;
        if feed.counters().subscribers == 0 {
            return shutdown.drain();
        }
    }
}

/// What recordings call the machine that reads from the upstream.
pub(crate) const RECORDED_UPSTREAM: &str = "upstream";
/// How often a feed that was replaced is checked for subscribers.
const CHECK_INTERVAL: Duration = Duration::from_millis(1500);
