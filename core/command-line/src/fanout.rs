//! `fanout-source`, `fanout-server` and `fanout-client`.

use core::{num::NonZeroUsize, slice, task::Poll, time::Duration};
use std::{
    future::poll_fn,
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use wirestate_core::{
    Event, Instant, Machine,
    admission::Limits,
    dial::{Backoff, Dial},
    drive::{Clock, Drive, Ended},
    fanout::{
        Client, ClientReason, Config, Feed, Framing, LagPolicy, MessageSource, MessageSourceConfig,
        Subscriber, Upstream,
    },
    runtime::connect_within,
    serve,
};

use crate::{
    Failure, Host, ServerContext,
    log::{self, LiveLine},
    server,
    upstream::{self, SelfCheck},
    values::{self, Timeout},
};

/// Serves fixed-size, numbered messages at a rate, to one client at a time
///
/// A message is text: its number, the time at which it was made (nanoseconds since 1970), dots, and
/// a line feed. Each client gets them from number 0 on, also behind its own FIN; a second one is
/// closed at once.
#[derive(Args, Debug)]
pub(super) struct SourceFlags {
    /// Where to listen: HOST:PORT (on all addresses of a name; port 0 takes a free one), unix:PATH
    /// (unix:@NAME: an abstract one), or systemd[:NAME], the next socket that the service manager
    /// passes, or all of NAME
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:1234",
          value_parser = values::listen)]
    listen: String,
    /// The length of a message, in bytes
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_SIZE", default_value = "1024",
          value_parser = message_size)]
    size: NonZeroUsize,
    /// Messages a second; 0: as fast as they are taken
    #[arg(long, value_name = "N", env = "WIRESTATE_RATE", default_value = "1000",
          value_parser = values::number)]
    rate: u64,
    /// End a client's stream after so many messages
    #[arg(long, value_name = "N", env = "WIRESTATE_COUNT", value_parser = values::number)]
    count: Option<u64>,
    #[command(flatten)]
    common: server::CommonFlags,
}

/// The longest message, in bytes.
const MAX_LEN: usize = 1024 * 1024;

fn message_size(text: &str) -> Result<NonZeroUsize, String> {
    let size = values::bytes(text)?;
    NonZeroUsize::new(size)
        .filter(|size| size.get() <= MAX_LEN)
        .ok_or_else(|| format!("a message has at most {MAX_LEN} bytes"))
}

pub(super) async fn source<R: Host>(
    runtime: &R,
    flags: SourceFlags,
    around: &ServerContext,
) -> Result<(), Failure> {
    let SourceFlags { size, rate, count, .. } = flags;
    let epoch = unix_epoch(runtime);
    let config = MessageSourceConfig::default()
        .with_size(size)
        .with_rate(rate)
        .with_count(count)
        .with_epoch(epoch);
    let limits = Limits { connections: 1, per_address: None };
    let setup = flags.common.setup("fanout-source", serve::Config::default().with_limits(limits));
    server::run(runtime, &flags.listen, &setup, around, move |_, now| {
        MessageSource::new(config, now).expect("all timeouts are the defaults")
    })
    .await
}

/// How long after Unix' epoch the runtime's is.
pub(super) fn unix_epoch<R: Host>(runtime: &R) -> Duration {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    unix.saturating_sub(runtime.clock().now().since_epoch())
}

/// Reads messages from one upstream, and sends them to all who connect
///
/// Whoever connects gets whole messages, in order, from the next one on. While the upstream is away
/// it is dialled again, with growing pauses; subscribers stay connected. A message that the
/// upstream's end cut short is dropped. A stream of fixed-size messages can't be re-synchronised
/// from its middle: the upstream has to begin with a message whenever it is connected to.
#[derive(Args, Debug)]
pub(super) struct ServerFlags {
    /// Where the messages come from
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_UPSTREAM", default_value = "127.0.0.1:1234",
          value_parser = values::remote)]
    upstream: String,
    /// Where to listen: HOST:PORT (on all addresses of a name; port 0 takes a free one), unix:PATH
    /// (unix:@NAME: an abstract one), or systemd[:NAME], the next socket that the service manager
    /// passes, or all of NAME
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:1235",
          value_parser = values::listen)]
    listen: String,
    /// What a message is: so many bytes; `lines`; or `bytes`, if there are none
    #[arg(long, value_name = "N|lines|bytes", env = "WIRESTATE_FRAME", default_value = "1024",
          value_parser = framing)]
    frame: Framing,
    /// What becomes of a subscriber that falls out of the window
    #[arg(long, value_enum, env = "WIRESTATE_ON_LAG", default_value = "disconnect")]
    on_lag: Policy,
    /// How long the upstream is paused for laggards while another subscriber waits; 0: never
    ///
    /// This is the limit in any ten times that time, for all subscribers together that are about to
    /// fall out of the window. The upstream is paused only for subscribers that have caught up
    /// since they connected or skipped. Once the limit is reached, --on-lag applies. While no
    /// subscriber has read everything and waits, the upstream is paused without limit, at the pace
    /// of the slowest subscriber; one that acknowledges no byte for 10 s is reset. With --on-lag
    /// block there is no limit. The metric `wirestate_upstream_paused_waiting_seconds` shows the
    /// time that was used, `wirestate_fanout_never_caught_up` how many subscribers lagged without
    /// being waited for.
    #[arg(long, value_name = "TIME", env = "WIRESTATE_LAG_WAIT", default_value = "1s",
          value_parser = values::time)]
    lag_wait: Duration,
    /// How much is kept for those who are behind
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_WINDOW", default_value = "16MiB",
          value_parser = values::bytes)]
    window: usize,
    /// Send a new subscriber the last K messages first, as far as they are in the newer half of the
    /// window (with --on-lag block: in the window)
    #[arg(long, value_name = "K", env = "WIRESTATE_REPLAY", default_value = "0",
          value_parser = values::number)]
    replay: u64,
    /// Drop the upstream's connection when no byte comes for this long; or `off`
    #[arg(
        long,
        value_name = "TIME",
        env = "WIRESTATE_UPSTREAM_IDLE_TIMEOUT",
        default_value = "off"
    )]
    upstream_idle_timeout: Timeout,
    /// How long to wait for the connection to the upstream; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_CONNECT_TIMEOUT", default_value = "10s")]
    connect_timeout: Timeout,
    #[command(flatten)]
    server: server::Flags,
}

fn framing(text: &str) -> Result<Framing, String> {
    let max = const { NonZeroUsize::new(MAX_LEN).unwrap() };
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
enum Policy {
    /// It is disconnected: a stream of bytes can't show a gap
    Disconnect,
    /// It goes on with the next message; what it missed is counted
    Skip,
    /// The upstream is paused, without limit
    Block,
}

impl ServerFlags {
    /// What does not go together.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { listen, frame, on_lag, window, replay, .. } = self;
        let without = |flag| Err(format!("{flag}, and with --frame bytes there are none"));
        let longest = match frame {
            Framing::Fixed(size) => size.get(),
            Framing::Delimited { .. } | Framing::LengthPrefixed { .. } => MAX_LEN,
            Framing::None if *on_lag == Policy::Skip => {
                return without("--on-lag skip skips whole messages");
            }
            Framing::None if *replay > 0 => return without("--replay counts messages"),
            Framing::None => 1,
        };
        if *window < longest {
            return Err(format!(
                "--window {window} is smaller than a message, which may have {longest} bytes"
            ));
        }
        upstream::check(&self.upstream, listen)
    }
}

pub(super) async fn serve<R: Host>(
    runtime: &R,
    flags: ServerFlags,
    around: &ServerContext,
) -> Result<(), Failure> {
    let on_lag = match flags.on_lag {
        Policy::Disconnect => LagPolicy::Disconnect,
        Policy::Skip => LagPolicy::Skip,
        Policy::Block => LagPolicy::Block,
    };
    let config = Config::default()
        .with_framing(flags.frame)
        .with_window(flags.window)
        .with_on_lag(on_lag)
        .with_lag_wait(flags.lag_wait)
        .with_upstream_idle_timeout(flags.upstream_idle_timeout.0)
        .with_replay(flags.replay);
    let feed = Feed::new(config).map_err(Failure::Config)?;
    let setup = flags.server.setup::<R>("fanout-server").metrics_source(feed.clone());
    let dial = Dial::new(flags.upstream, Backoff::new(std::process::id().into()))
        .with_connect_timeout(flags.connect_timeout.0)
        .with_shutdown(setup.handle.shutdown().clone());
    let subscriber = {
        let feed = feed.clone();
        move |_: &_, now| Subscriber::new(&feed, now)
    };
    server::listening(runtime, &flags.listen, &setup, around, async |server| {
        let (upstreams, shutdown) = (slice::from_ref(&dial.address), setup.handle.shutdown());
        let check = SelfCheck::start(runtime, upstreams, &flags.listen, &server, shutdown)?;
        let reading = read_upstream(runtime, dial, &feed);
        runtime.spawn(reading).map_err(Failure::Spawn)?;
        let report = server::serve(server, &setup, subscriber).await;
        let counters = feed.counters();
        tracing::info!(
            messages = counters.messages_in,
            upstream_connects = counters.upstream_connects,
            upstream_failures = counters.upstream_failures,
            tail_bytes_dropped = counters.tail_bytes_dropped,
            delivered = counters.delivered,
            skipped = counters.skipped,
            lagged = counters.lagged,
            never_caught_up = counters.never_caught_up,
            paused = ?counters.paused,
            paused_waiting = ?counters.paused_waiting,
            "fan-out ended"
        );
        check.verdict()?;
        Ok(report)
    })
    .await
}

/// Keeps the upstream connected, until it is stopped.
pub(super) fn read_upstream<R: Host>(
    runtime: &R,
    dial: Dial,
    feed: &Feed,
) -> impl Future<Output = ()> + Send + 'static {
    let (runtime, feed) = (runtime.clone(), feed.clone());
    async move {
        let upstream = |now| Upstream::new(&feed, now);
        dial.keep_connected(&runtime, || feed.connect_failed(), upstream).await;
    }
}

/// Subscribes: messages to standard output, a live rate to standard error
///
/// The messages of a `fanout-source` carry a number and a time: gaps and lag are shown for them.
///
/// It exits with 0 when --count is reached or, without that, when the server ends the stream behind
/// a whole message; with 1 when the stream ends by a reset, within a message, or before there was
/// one (a server that is full does that).
#[derive(Args, Debug)]
pub(super) struct ClientFlags {
    /// The server
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:1235", value_parser = values::remote)]
    address: String,
    /// The length of a message, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1024", value_parser = message_size)]
    frame: NonZeroUsize,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = values::count::<u64>)]
    count: Option<u64>,
    /// How long to wait for the connection; or `off`
    #[arg(long, value_name = "TIME", default_value = "10s")]
    connect_timeout: Timeout,
}

pub(super) async fn subscribe<R: Host>(
    runtime: &R,
    flags: ClientFlags,
    log: &log::Flags,
) -> Result<(), Failure> {
    let ClientFlags { address, frame, count, connect_timeout } = flags;
    let socket = connect_within(runtime, &address, connect_timeout.0)
        .await
        .map_err(|error| Failure::Connect { address: address.clone(), error })?;
    let mut clock = runtime.clock();
    let mut drive = Drive::new(Client::new(), socket, runtime.clock());
    let mut inspector = Inspector::new(frame, unix_epoch(runtime));
    let mut rate = Rate::new(clock.now(), !log.quiet);
    // What is left of --count, in bytes.
    let mut left = count.map(|count| count.saturating_mul(frame.get() as u64));
    let ended = loop {
        let next = poll_fn(|cx| {
            if rate.is_shown && clock.poll_until(cx, rate.next).is_ready() {
                return Poll::Ready(None);
            }
            drive.poll_until(cx, |receiver, _| receiver.take()).map(Some)
        });
        match next.await {
            None => rate.show(clock.now(), &inspector),
            Some(Ok(mut bytes)) => {
                if let Some(left) = &mut left {
                    bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= bytes.len() as u64;
                }
                inspector.look(&bytes, clock.now());
                io::stdout().lock().write_all(&bytes).map_err(Failure::Output)?;
                if left == Some(0) {
                    let shut_down = |receiver: &mut Client, now| {
                        receiver.handle(now, Event::ShutDown);
                        None::<()>
                    };
                    if let Err(ended) = drive.until(shut_down).await {
                        break ended;
                    }
                }
            }
            Some(Err(ended)) => break ended,
        }
    };
    io::stdout().lock().flush().map_err(Failure::Output)?;
    rate.end(clock.now(), &inspector);
    let reason = match ended {
        Ended::Reason(ClientReason::ShutDown) => return Ok(()),
        Ended::Reason(ClientReason::Closed) => {
            match (inspector.offset, inspector.messages, count) {
                (0, 0, _) => format!("{ended} before there was a message"),
                (0, messages, None) => {
                    if rate.is_shown {
                        log::say(&format!(
                            "the server ended the stream; messages received: {messages}\n"
                        ));
                    }
                    return Ok(());
                }
                (0, messages, Some(count)) => {
                    format!("the server ended the stream; messages received: {messages} of {count}")
                }
                (have, ..) => {
                    format!("the server ended the stream after {have} of a message's {frame} bytes")
                }
            }
        }
        Ended::Reason(_) | Ended::Aborted => ended.to_string(),
    };
    Err(Failure::Ended { address, reason })
}

/// Looks at the numbers and times of a source's messages as they come by.
#[derive(Debug)]
pub(super) struct Inspector {
    frame: usize,
    epoch: Duration,
    /// How many bytes of the present message have come by, and the first of them.
    offset: usize,
    head: [u8; HEAD],
    /// Whole messages.
    pub(super) messages: u64,
    /// The number of the last message that has one.
    last: Option<u64>,
    /// How many times a number did not follow the one before.
    pub(super) gaps: u64,
    /// How old the last message was when its head came by.
    lag: Option<Duration>,
}

/// The number and the time, in twenty digits each, with a space between.
const HEAD: usize = 41;

impl Inspector {
    pub(super) fn new(frame: NonZeroUsize, epoch: Duration) -> Self {
        Self {
            frame: frame.get(),
            epoch,
            offset: 0,
            head: [0; HEAD],
            messages: 0,
            last: None,
            gaps: 0,
            lag: None,
        }
    }

    pub(super) fn look(&mut self, mut bytes: &[u8], now: Instant) {
        while !bytes.is_empty() {
            let n = bytes.len().min(self.frame - self.offset);
            if self.offset < HEAD {
                let m = n.min(HEAD - self.offset);
                self.head[self.offset..self.offset + m].copy_from_slice(&bytes[..m]);
            }
            self.offset += n;
            bytes = &bytes[n..];
            if self.offset == self.frame {
                self.offset = 0;
                self.messages += 1;
                self.read_head(now);
            }
        }
    }

    fn read_head(&mut self, now: Instant) {
        let digits = |range: core::ops::Range<usize>| {
            let text = core::str::from_utf8(self.head.get(range)?).ok()?;
            text.parse::<u64>().ok()
        };
        let Some(number) = digits(0..20) else { return };
        let made = digits(21..41);
        if self.last.is_some_and(|last| number != last + 1) {
            self.gaps += 1;
        }
        self.last = Some(number);
        self.lag = made.map(|made| {
            (self.epoch + now.since_epoch()).saturating_sub(Duration::from_nanos(made))
        });
    }
}

/// A line a second on standard error.
struct Rate {
    is_shown: bool,
    line: LiveLine,
    last: Instant,
    messages: u64,
    next: Instant,
}

impl Rate {
    fn new(now: Instant, is_shown: bool) -> Self {
        let line = LiveLine::new();
        Self { is_shown, line, last: now, messages: 0, next: now + Duration::from_secs(1) }
    }

    fn show(&mut self, now: Instant, inspector: &Inspector) {
        if !self.is_shown {
            return;
        }
        let elapsed = now.since(self.last).as_nanos().max(1);
        let news = inspector.messages - self.messages;
        let rate = u128::from(news) * 1_000_000_000 / elapsed;
        let lag = inspector.lag.map_or_else(String::new, |lag| format!(", lag {lag:.0?}"));
        let Inspector { messages, gaps, .. } = inspector;
        self.line.show(&format!("{messages} messages, {rate}/s, {gaps} gaps{lag}"));
        (self.last, self.messages) = (now, inspector.messages);
        self.next = now + Duration::from_secs(1);
    }

    /// Shows it once more, and leaves the line for good, where others would be written over it.
    fn end(&mut self, now: Instant, inspector: &Inspector) {
        self.show(now, inspector);
        if self.is_shown {
            self.line.keep();
        }
    }
}
