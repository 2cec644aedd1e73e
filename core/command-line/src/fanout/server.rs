//! The command `fanout-server`.

use core::{num::NonZeroUsize, time::Duration};

use clap::{Args, ValueEnum, builder::ArgPredicate};
use tracing::{info, warn};
use wirestate_core::{
    fanout::{Config, Counters, Feed, Framing, GapPolicy, LagPolicy, Subscriber},
    quantity::Seconds,
    shared::Shared,
    shutdown::ShutdownHandle,
};

use super::{
    MAX_MESSAGE, message_size,
    publishers::{FEED, PublisherFlags, end_subscribers},
    publishing::Publishing,
    reading::{Reading, drain_when_unused},
    upstream::Upstream,
};
use crate::{
    CommandError, CommandRuntime,
    nats::{Redacting, StreamFlags},
    self_upstream,
    server::{self, Prepared, Serving, Share, Stage, Starting},
    tls,
    values::{self, Timeout},
};

/// Reads messages from one upstream and sends them to all subscribers
///
/// A subscriber gets complete messages, in order, beginning with the next one that arrives. While
/// the upstream is away, subscribers stay connected, and the server dials again after a growing
/// delay. If the upstream ends within a message, that message is dropped. With a fixed message
/// size, the upstream must begin each connection with a complete message.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerFlags {
    /// The address that the messages come from, HOST:PORT or unix:PATH; a stream of NATS,
    /// `nats://HOST/SUBJECT`, as for --publish; or `-` for standard input
    ///
    /// At the end of standard input, each subscriber gets all that was published, and the server
    /// ends. From a stream, the server reads the messages that are published from now on, or also
    /// the last ones (--replay). It waits for a stream that does not exist.
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_UPSTREAM", default_value = "127.0.0.1:1234",
          hide_env_values = true, value_parser = Redacting(Upstream::parse))]
    upstream: Upstream,
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:1235",
          default_value_if("publish", ArgPredicate::IsPresent, None),
          value_delimiter = ',', value_parser = values::listen,
          help = format!("{}. With --publish, there is no default", values::LISTEN_HELP))]
    listen: Vec<String>,
    #[command(flatten)]
    pub(super) publishers: PublisherFlags,
    /// What a message is: a number of bytes, at most 1MiB; or a line (`lines`). With `bytes`, the
    /// stream has no messages, and bytes are passed on as they arrive
    #[arg(long, value_name = "BYTES|lines|bytes", env = "WIRESTATE_FRAME", default_value = "1KiB",
          value_parser = framing)]
    frame: Framing,
    /// What happens to a subscriber that falls out of the window
    #[arg(
        long,
        value_name = "POLICY",
        value_enum,
        env = "WIRESTATE_ON_LAG",
        default_value = "disconnect"
    )]
    on_lag: OnLag,
    /// What happens to subscribers where messages may be missing: at each new connection to the
    /// upstream, or where a stream has a gap [default: disconnect if --upstream is a stream,
    /// otherwise continue]
    ///
    /// With `disconnect`, a subscriber gets the messages before the gap, and a FIN. No connection
    /// carries messages from both sides of a gap, so a client that connects again knows of it.
    #[arg(long, value_name = "POLICY", value_enum, env = "WIRESTATE_ON_GAP")]
    on_gap: Option<OnGap>,
    /// How long the upstream is paused for slow subscribers while another one waits; 0s: never
    ///
    /// A subscriber that is about to fall out of the window pauses the upstream: the server stops
    /// reading from it. While another subscriber has read everything and waits, this flag limits
    /// the pauses within any ten times its value, for all subscribers together. Only subscribers
    /// that have caught up since they connected or skipped can pause the upstream then. After the
    /// limit, --on-lag applies. While no subscriber waits, and with --on-lag block, there is no
    /// limit. A subscriber that acknowledges no byte for 10 s is reset. The metric
    /// `wirestate_upstream_paused_waiting_seconds_total` is the time that this flag limits. The
    /// metric `wirestate_fanout_never_caught_up_total` counts how often a subscriber fell out of
    /// the window without a pause because it had not caught up.
    #[arg(long, value_name = "TIME", env = "WIRESTATE_LAG_WAIT", default_value = "1s",
          value_parser = values::time)]
    lag_wait: Duration,
    /// The window: the size of the messages that the server holds for slow subscribers
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_WINDOW", default_value = "16MiB",
          value_parser = values::bytes)]
    window: usize,
    /// Send a new subscriber this many of the last messages first, as far as they lie in the newer
    /// half of the window (with --on-lag block: in the whole window); 0: none
    #[arg(long, value_name = "MESSAGES", env = "WIRESTATE_REPLAY", default_value = "0",
          value_parser = values::number)]
    replay: u64,
    /// Reconnect to the upstream when it sends no byte for this long; or `off`
    #[arg(
        long,
        value_name = "TIME",
        env = "WIRESTATE_UPSTREAM_IDLE_TIMEOUT",
        default_value = "off"
    )]
    upstream_idle_timeout: Timeout,
    /// How long an attempt to connect to the upstream may take; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_CONNECT_TIMEOUT", default_value = "10s")]
    connect_timeout: Timeout,
    #[command(flatten)]
    upstream_tls: tls::UpstreamTlsFlags,
    #[command(flatten)]
    nats: StreamFlags,
    #[command(flatten)]
    pub(super) server: server::Flags,
}

fn framing(text: &str) -> Result<Framing, String> {
    let max = const { NonZeroUsize::new(MAX_MESSAGE).unwrap() };
    match text {
        "lines" => Ok(Framing::Delimited { delimiter: b'\n', max }),
        "bytes" => Ok(Framing::None),
        size if size.starts_with(|first: char| first.is_ascii_digit()) => {
            message_size(size).map(Framing::Fixed)
        }
        _ => Err("expected a number of bytes, `lines` or `bytes`".into()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnLag {
    /// Disconnect it: a stream of bytes cannot show a gap
    Disconnect,
    /// Continue with the next message, and count the messages that it missed
    Skip,
    /// Pause the upstream without limit, so that no subscriber falls out of the window
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnGap {
    /// Go on with the first message after the gap, which a stream of bytes does not show
    Continue,
    /// Send what came before the gap, and a FIN
    Disconnect,
}

impl ServerFlags {
    /// Returns an error if flags contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { listen, frame, on_lag, window, replay, .. } = self;
        let longest = match frame {
            Framing::Fixed(size) => size.get(),
            Framing::Delimited { .. } | Framing::LengthPrefixed { .. } => MAX_MESSAGE,
            Framing::None if *on_lag == OnLag::Skip => {
                return Err("--on-lag skip needs messages, and --frame bytes has none".into());
            }
            Framing::None if *replay > 0 => {
                return Err("--replay needs messages, and --frame bytes has none".into());
            }
            Framing::None if self.has_publishers() => {
                return Err("--publishers needs messages, and --frame bytes has none".into());
            }
            Framing::None => 1,
        };
        if *window < longest {
            let [window, longest] = [*window, longest].map(values::exact_size);
            return Err(format!(
                "--window {window} is smaller than a message, which may have {longest}"
            ));
        }
        server::check_listen(listen)?;
        self.server.check()?;
        let upstream = self.upstream();
        self.nats.check(upstream.stream())?;
        if self.nats.publish.is_some() && *frame == Framing::None {
            return Err("--publish needs messages, and --frame bytes has none".into());
        }
        let is_raw = "needs a server of raw bytes, and --upstream is the address of a stream";
        match &upstream {
            Upstream::Address(address) => self_upstream::check("--upstream", address, listen),
            Upstream::Stream(_) if self.upstream_tls.is_enabled() => {
                Err("--upstream-tls is for raw bytes, write tls:// as the scheme of a stream"
                    .into())
            }
            Upstream::Stream(_) if self.upstream_idle_timeout.0.is_some() => {
                Err(format!("--upstream-idle-timeout {is_raw}"))
            }
            Upstream::StandardInput if self.upstream_tls.is_enabled() => {
                Err("--upstream-tls needs a server, and --upstream - is standard input".into())
            }
            Upstream::StandardInput if self.upstream_idle_timeout.0.is_some() => {
                Err("--upstream-idle-timeout needs a server, and --upstream - is standard input"
                    .into())
            }
            Upstream::Publishers if self.upstream_tls.is_enabled() => {
                Err("--upstream-tls needs --upstream, and --publishers is instead of it".into())
            }
            Upstream::Publishers if self.upstream_idle_timeout.0.is_some() => {
                Err("--publishers has --publisher-idle-timeout, not --upstream-idle-timeout".into())
            }
            Upstream::Stream(_) | Upstream::StandardInput | Upstream::Publishers => Ok(()),
        }
    }

    /// Whether the server reads standard input, which a process has only once.
    pub(crate) fn reads_standard_input(&self) -> bool {
        self.upstream() == Upstream::StandardInput
    }

    /// Whether another listener is for publishers.
    pub(crate) fn has_publishers(&self) -> bool {
        self.publishers.listen.is_some()
    }

    /// Where the messages come from.
    fn upstream(&self) -> Upstream {
        if self.has_publishers() { Upstream::Publishers } else { self.upstream.clone() }
    }

    /// The feed, which the listeners for subscribers and for publishers share.
    ///
    /// # Errors
    /// Its configuration is invalid.
    pub(super) fn feed(&self) -> Result<Feed, CommandError> {
        self.publishers.feed(self.config())
    }

    /// A feed for replays.
    ///
    /// # Errors
    /// Its configuration is invalid.
    pub(crate) fn feed_for_replay(&self) -> Result<Feed, CommandError> {
        Feed::for_replay(self.config()).map_err(CommandError::Config)
    }

    /// A feed for a machine alone.
    ///
    /// # Errors
    /// Its configuration is invalid.
    pub(crate) fn feed_alone(&self) -> Result<Feed, CommandError> {
        Feed::new(self.config()).map_err(CommandError::Config)
    }

    /// The source code that makes a `machine` of such a feed.
    pub(crate) fn machine_source(&self, machine: &str) -> String {
        let framing = match self.frame {
            Framing::Fixed(size) => format!("Fixed({size}.try_into().unwrap())"),
            Framing::Delimited { delimiter, max } => {
                let delimiter = core::ascii::escape_default(delimiter);
                format!("Delimited {{ delimiter: b'{delimiter}', max: {max}.try_into().unwrap() }}")
            }
            Framing::LengthPrefixed { max } => {
                format!("LengthPrefixed {{ max: {max}.try_into().unwrap() }}")
            }
            Framing::None => "None".to_owned(),
        };
        let (config, default) = (self.config(), Config::default());
        let Config { window, on_lag, lag_wait, on_gap, replay, .. } = &config;
        let timeout = |setter: &str, timeout: Option<Duration>, default| {
            Timeout(timeout).setting_source(setter, default)
        };
        let settings = [
            (*window != default.window).then(|| format!(".with_window({window})")),
            (*on_lag != default.on_lag)
                .then(|| format!(".with_on_lag(fanout::LagPolicy::{on_lag:?})")),
            (*lag_wait != default.lag_wait)
                .then(|| format!(".with_lag_wait({})", values::time_source(*lag_wait))),
            (*on_gap != default.on_gap)
                .then(|| format!(".with_on_gap(fanout::GapPolicy::{on_gap:?})")),
            (*replay != default.replay).then(|| format!(".with_replay({replay})")),
            Some(timeout(
                "with_upstream_idle_timeout",
                config.upstream_idle_timeout,
                default.upstream_idle_timeout,
            )),
            Some(timeout(
                "with_publisher_idle_timeout",
                config.publisher_idle_timeout,
                default.publisher_idle_timeout,
            )),
            Some(timeout(
                "with_publisher_message_timeout",
                config.publisher_message_timeout,
                default.publisher_message_timeout,
            )),
        ];
        let settings: String = settings.into_iter().flatten().collect();
        format!(
            "fanout::{machine}::new(&fanout::Feed::new(fanout::Config::default()\
             .with_framing(fanout::Framing::{framing}){settings}).unwrap(), Instant::EPOCH)"
        )
    }

    fn config(&self) -> Config {
        let on_lag = match self.on_lag {
            OnLag::Disconnect => LagPolicy::Disconnect,
            OnLag::Skip => LagPolicy::Skip,
            OnLag::Block => LagPolicy::Block,
        };
        let on_gap = match self.on_gap {
            None if self.upstream().stream().is_some() => GapPolicy::Disconnect,
            None | Some(OnGap::Continue) => GapPolicy::Continue,
            Some(OnGap::Disconnect) => GapPolicy::Disconnect,
        };
        let config = Config::default()
            .with_framing(self.frame)
            .with_window(self.window)
            .with_on_lag(on_lag)
            .with_lag_wait(self.lag_wait)
            .with_on_gap(on_gap)
            .with_upstream_idle_timeout(self.upstream_idle_timeout.0)
            .with_replay(self.replay);
        self.publishers.add_to(config)
    }
}

pub(crate) fn prepare<R: CommandRuntime>(
    flags: ServerFlags,
    share: Share,
    name: Option<Shared<str>>,
) -> Result<Prepared<R>, CommandError> {
    let (feed, upstream) = (flags.feed()?, flags.upstream());
    let has_publishers = flags.has_publishers();
    let settings = flags.server.settings_beside::<R>(share, flags.publishers.max_connections())?;
    let settings = settings.with_metrics(feed.clone());
    let settings = settings.with_recorded_field(FEED, flags.publishers.feed_number().into());
    let (timeout, tls) = (flags.connect_timeout, flags.upstream_tls);
    let reading = Reading::new(upstream, timeout, tls, &flags.nats, &feed, name.as_ref())?;
    let publishing = Publishing::new(&flags.nats, timeout, &feed, name.as_ref())?;
    let settings = reading.add_to(settings);
    let settings = match &publishing {
        None => settings,
        Some(publishing) => publishing.add_to(settings),
    };
    Ok(settings.start(flags.listen, move |starting: &Starting<'_, R>| {
        let runtime = starting.runtime.clone();
        let [reads, publishes] = [ShutdownHandle::new(), ShutdownHandle::new()];
        let gate = publishing.as_ref().and_then(Publishing::gate);
        let is_publishing = publishing.is_some();
        let table = starting.handle.table().clone();
        let read = reading.start(starting, &feed, gate, reads.clone(), name.clone())?;
        let then = publishes.clone();
        let mut tasks = vec![starting.spawn(&reads, async move {
            read.await;
            // Everything that was read is in the feed.
            then.drain();
        })?];
        if let Some(publishing) = publishing {
            tasks.push(publishing.start(starting, &publishes)?);
        }
        let subscribed = feed.clone();
        let serving =
            starting.serve("subscriber", move |_: &_, now| Subscriber::new(&subscribed, now));
        let serving = tasks.into_iter().fold(serving, Serving::with_task);
        Ok(serving.on_end(move |stage| match stage {
            Stage::Draining => reads.drain(),
            // Another feed has the source or the publishers from now on.
            Stage::Retired if is_publishing || has_publishers => {
                reads.drain();
                let subscribers = table.connections();
                let ending = end_subscribers(runtime.clock(), feed.clone(), subscribers);
                if let Err(error) = runtime.spawn(ending) {
                    warn!(%error, "the subscribers of a fan-out without a source stay connected");
                }
            }
            Stage::Retired => {
                let unused = drain_when_unused(runtime.clock(), feed.clone(), reads.clone());
                if let Err(error) = runtime.spawn(unused) {
                    warn!(%error, "the upstream of a fan-out without subscribers stays connected");
                }
            }
            Stage::Stopped => log_end(&feed.counters(), name.as_deref()),
        }))
    }))
}

fn log_end(counters: &Counters, server: Option<&str>) {
    info!(
        server,
        messages = counters.messages_in,
        upstream_connects = counters.upstream_connects,
        upstream_failures = counters.upstream_failures,
        tail_bytes_dropped = counters.tail_bytes_dropped,
        delivered = counters.delivered,
        skipped = counters.skipped,
        lagged = counters.lagged,
        never_caught_up = counters.never_caught_up,
        epochs = counters.epoch,
        gap_ended = counters.gap_ended,
        paused_seconds = Seconds(counters.paused).to_field(),
        paused_waiting_seconds = Seconds(counters.paused_waiting).to_field(),
        "fan-out ended"
    );
}
