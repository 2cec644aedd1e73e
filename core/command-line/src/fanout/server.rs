//! The command `fanout-server`.

use core::{
    future::{Future, poll_fn},
    num::NonZeroUsize,
    time::Duration,
};

use clap::{Args, ValueEnum};
use tracing::{info, warn};
use wirestate_core::{
    dial::{Backoff, Dial},
    drive::Clock,
    fanout::{self, Config, Feed, Framing, GapPolicy, LagPolicy, Subscriber},
    quantity::Seconds,
    shared::Shared,
    shutdown::ShutdownHandle,
};
use wirestate_tls::Client;

use super::{
    MAX_MESSAGE, from_standard_input::read_standard_input, message_size, upstream::Upstream,
};
use crate::{
    CommandError, CommandRuntime,
    jitter::jitter_seed,
    self_upstream,
    server::{self, Prepared, Share, Stage, Starting},
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
    /// The address that the messages come from, HOST:PORT or unix:PATH; or `-` for standard input
    ///
    /// At the end of standard input, each subscriber gets all that was published, and the server
    /// ends.
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_UPSTREAM", default_value = "127.0.0.1:1234",
          value_parser = Upstream::parse)]
    upstream: Upstream,
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:1235",
          value_parser = values::listen, help = values::LISTEN_HELP)]
    listen: String,
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
    /// upstream
    ///
    /// With `disconnect`, a subscriber gets the messages before the gap, and a FIN. No connection
    /// carries messages from both sides of a gap, so a client that connects again knows of it.
    #[arg(
        long,
        value_name = "POLICY",
        value_enum,
        env = "WIRESTATE_ON_GAP",
        default_value = "continue"
    )]
    on_gap: OnGap,
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
    server: server::Flags,
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
            Framing::None => 1,
        };
        if *window < longest {
            let [window, longest] = [*window, longest].map(values::exact_size);
            return Err(format!(
                "--window {window} is smaller than a message, which may have {longest}"
            ));
        }
        self.server.check()?;
        match &self.upstream {
            Upstream::Address(address) => self_upstream::check(address, listen),
            Upstream::StandardInput if self.upstream_tls.is_enabled() => {
                Err("--upstream-tls needs a server, and --upstream - is standard input".into())
            }
            Upstream::StandardInput if self.upstream_idle_timeout.0.is_some() => {
                Err("--upstream-idle-timeout needs a server, and --upstream - is standard input"
                    .into())
            }
            Upstream::StandardInput => Ok(()),
        }
    }

    /// Whether the server reads standard input, which a process has only once.
    pub(crate) fn reads_standard_input(&self) -> bool {
        self.upstream == Upstream::StandardInput
    }
}

pub(crate) fn prepare<R: CommandRuntime>(
    flags: ServerFlags,
    share: Share,
    name: Option<Shared<str>>,
) -> Result<Prepared<R>, CommandError> {
    let on_lag = match flags.on_lag {
        OnLag::Disconnect => LagPolicy::Disconnect,
        OnLag::Skip => LagPolicy::Skip,
        OnLag::Block => LagPolicy::Block,
    };
    let on_gap = match flags.on_gap {
        OnGap::Continue => GapPolicy::Continue,
        OnGap::Disconnect => GapPolicy::Disconnect,
    };
    let config = Config::default()
        .with_framing(flags.frame)
        .with_window(flags.window)
        .with_on_lag(on_lag)
        .with_lag_wait(flags.lag_wait)
        .with_on_gap(on_gap)
        .with_upstream_idle_timeout(flags.upstream_idle_timeout.0)
        .with_replay(flags.replay);
    let feed = Feed::new(config).map_err(CommandError::Config)?;
    let settings = flags.server.settings::<R>(share)?.with_metrics(feed.clone());
    let address = flags.upstream.address();
    let upstream_tls = match address {
        Some(address) => flags.upstream_tls.load(address, flags.connect_timeout)?,
        None => None,
    };
    let settings = settings.with_files_of(upstream_tls.clone());
    let subscriber = {
        let feed = feed.clone();
        move |_: &_, now| Subscriber::new(&feed, now)
    };
    let settings = settings.with_upstreams(address.map(Into::into).into_iter().collect());
    Ok(settings.start(flags.listen, move |starting: &Starting<'_, R>| {
        let (runtime, shutdown) = (starting.runtime.clone(), ShutdownHandle::new());
        match flags.upstream {
            Upstream::Address(address) => {
                let dial = Dial::new(address, Backoff::new(jitter_seed()))
                    .with_server(name.clone())
                    .with_connect_timeout(flags.connect_timeout.0)
                    .with_shutdown(shutdown.clone());
                let tls = upstream_tls.map(|tls| tls.client);
                runtime.spawn(read_upstream(&runtime, dial, &feed, tls))
            }
            Upstream::StandardInput => {
                let (handle, failure) = (starting.handle.clone(), starting.failure.clone());
                let (feed, shutdown) = (feed.clone(), shutdown.clone());
                runtime.spawn(read_standard_input(&runtime, feed, handle, shutdown, failure)?)
            }
        }
        .map_err(CommandError::Spawn)?;
        Ok(starting.serve(subscriber).on_end(move |stage| match stage {
            Stage::Draining => shutdown.drain(),
            Stage::Retired => {
                let unused = drain_when_unused(runtime.clock(), feed.clone(), shutdown.clone());
                if let Err(error) = runtime.spawn(unused) {
                    warn!(%error, "the upstream of a fan-out without subscribers stays connected");
                }
            }
            Stage::Stopped => {
                let counters = feed.counters();
                info!(
                    server = name.as_deref(),
                    messages = counters.messages_in,
                    upstream_connects = counters.upstream_connects,
                    upstream_failures = counters.upstream_failures,
                    tail_bytes_dropped = counters.tail_bytes_dropped,
                    delivered = counters.delivered,
                    skipped = counters.skipped,
                    lagged = counters.lagged,
                    epochs = counters.epoch,
                    gap_ended = counters.gap_ended,
                    never_caught_up = counters.never_caught_up,
                    paused_seconds = Seconds(counters.paused).to_field(),
                    paused_waiting_seconds = Seconds(counters.paused_waiting).to_field(),
                    "fan-out ended"
                );
            }
        }))
    }))
}

/// Ends the upstream of a feed that gets no further subscribers, once the last one has left.
async fn drain_when_unused(mut clock: impl Clock, feed: Feed, shutdown: ShutdownHandle) {
    loop {
        // Before the first check, the subscribers in the backlog are accepted.
        let next = clock.now() + CHECK_INTERVAL;
        poll_fn(|cx| clock.poll_until(cx, next)).await;
        if feed.counters().subscribers == 0 {
            return shutdown.drain();
        }
    }
}

/// Publishes the upstream's messages, and reconnects to it, until a shutdown is requested.
pub(crate) fn read_upstream<R: CommandRuntime>(
    runtime: &R,
    dial: Dial,
    feed: &Feed,
    tls: Option<Client>,
) -> impl Future<Output = ()> + Send + 'static {
    let (runtime, feed) = (runtime.clone(), feed.clone());
    async move {
        let upstream = |now| tls::around(tls.as_ref(), fanout::Upstream::new(&feed, now), now);
        dial.keep_connected(&runtime, || feed.connect_failed(), upstream).await;
    }
}

/// How often a feed that was replaced is checked for subscribers.
const CHECK_INTERVAL: Duration = Duration::from_millis(1500);
