//! `multiconn-client`: many connections at once, every byte verified.

use core::{
    num::NonZeroUsize,
    task::{Poll, Waker},
    time::Duration,
};
use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, poll_fn},
    io::{self, Write},
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use wirestate_core::{
    Fault, Instant, Reason,
    admission::{Admitted, ConnectionTable, Limits, Peer},
    buffer::Pool,
    drive::{Clock, Drive},
    runtime::connect_within,
    shared::{Lock, Shared},
};

use crate::{
    Failure, Host,
    load::{Load, LoadConfig, Pace},
    log::LiveLine,
    server::{RESERVED_FILES, open_files},
    values::{self, Timeout},
};

/// Opens many connections at once, sends messages on each, and verifies every byte that comes back
///
/// Each connection is done, and closes its side, when as many bytes have come back as it sent. Ends
/// with 0 if all bytes came back on all connections, else with 1.
#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The server
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:65432", value_parser = values::remote)]
    address: String,
    /// How many connections
    #[arg(value_name = "N", default_value = "2", value_parser = values::count::<NonZeroUsize>)]
    connections: NonZeroUsize,
    /// A message; can be given several times [default: `Message 1 from client.` and
    /// `Message 2 from client.`]
    #[arg(long, value_name = "TEXT", conflicts_with = "size",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    message: Vec<String>,
    /// Send one message of this many bytes instead
    #[arg(long, value_name = "BYTES", value_parser = size)]
    size: Option<usize>,
    /// How many times each connection sends its messages
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::count::<u64>)]
    rounds: u64,
    /// Whether a message waits for the last one's echo
    #[arg(long, value_enum, default_value = "pipelined")]
    mode: Mode,
    /// Pipelined: how many messages of a connection are under way at most
    #[arg(long, value_name = "N", default_value = "1024",
          value_parser = values::count::<NonZeroUsize>)]
    in_flight: NonZeroUsize,
    /// How long to wait for a connection; or `off`
    #[arg(long, value_name = "TIME", default_value = "10s")]
    connect_timeout: Timeout,
    /// Give a connection up on which no byte moves for this long; or `off`
    #[arg(long, value_name = "TIME", default_value = "30s")]
    idle_timeout: Timeout,
    /// Report as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// It does
    Lockstep,
    /// They follow one another
    Pipelined,
}

fn size(text: &str) -> Result<usize, String> {
    const MOST: usize = 1 << 30;
    match text.parse() {
        Ok(size @ 1..=MOST) => Ok(size),
        _ => Err(format!("expected a number from 1 to {MOST}")),
    }
}

pub(super) async fn run<R: Host>(runtime: &R, flags: Flags) -> Result<(), Failure> {
    let mut config = LoadConfig {
        rounds: flags.rounds,
        pace: match flags.mode {
            Mode::Lockstep => Pace::Lockstep,
            Mode::Pipelined => Pace::Pipelined(flags.in_flight),
        },
        idle_timeout: flags.idle_timeout.0,
        ..LoadConfig::default()
    };
    if let Some(size) = flags.size {
        config.messages = Shared::new([pattern(size)]);
    } else if !flags.message.is_empty() {
        config.messages = flags.message.into_iter().map(Bytes::from).collect();
    }
    let messages = (config.messages.len() as u64)
        .saturating_mul(config.rounds)
        .saturating_mul(flags.connections.get() as u64);
    let run = Run::start(
        runtime,
        &flags.address,
        flags.connections.get(),
        &config,
        flags.connect_timeout.0,
    )?;
    let line = LiveLine::new();
    run.finish(runtime, |progress| {
        if line.is_terminal {
            let Progress { messages: verified, open, .. } = progress;
            line.show(&format!("{verified} of {messages} messages, {open} connections open"));
        }
    })
    .await;
    line.clear();
    let report = run.report(runtime);
    let shown = if flags.json {
        serde_json::to_string(&report).map_err(|error| Failure::Output(error.into()))? + "\n"
    } else {
        report.to_string()
    };
    let mut output = io::stdout().lock();
    let written = output.write_all(shown.as_bytes()).and_then(|()| output.flush());
    // A failed verification is one, whether somebody reads the report or not.
    report.verdict()?;
    written.map_err(Failure::Output)
}

/// Bytes in which a shift shows: no two neighbouring runs are alike.
pub(super) fn pattern(size: usize) -> Bytes {
    (0..size).map(|i| i.wrapping_mul(31).wrapping_add(i >> 8).to_le_bytes()[0]).collect()
}

/// Connections under way.
pub(super) struct Run {
    address: String,
    connections: usize,
    table: ConnectionTable,
    tally: Shared<Lock<Tally>>,
    began: Instant,
}

/// What the connections have counted together.
struct Tally {
    /// Round-trip times in nanoseconds, of each message that came back whole.
    round_trips: Histogram<u64>,
    complete: u64,
    failures: BTreeMap<&'static str, Failures>,
    /// Connections whose task is over, whatever became of it.
    over: usize,
    /// Who waits for the last of them.
    waiting: Option<Waker>,
}

/// A connection's task: over when this is dropped.
struct Running(Shared<Lock<Tally>>);

impl Drop for Running {
    fn drop(&mut self) {
        let waker = self.0.with(|tally| {
            tally.over += 1;
            tally.waiting.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Connections that failed in one way.
#[derive(Clone, Debug, Serialize)]
struct Failures {
    connections: u64,
    /// The first one, in words.
    first: String,
}

/// How far a [`Run`] is.
pub(super) struct Progress {
    /// Connections open, or being opened.
    pub(super) open: u64,
    pub(super) failed: u64,
    pub(super) messages: u64,
    pub(super) elapsed: Duration,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot connect to {address}: {error}")]
struct NotConnected {
    address: String,
    error: String,
}

impl Reason for NotConnected {
    fn label(&self) -> &'static str {
        "not_connected"
    }

    fn fault(&self) -> Fault {
        Fault::Lost
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            // Up to an hour, to three digits.
            round_trips: Histogram::new_with_max(3_600_000_000_000, 3)
                .expect("the bounds are in order"),
            complete: 0,
            failures: BTreeMap::new(),
            over: 0,
            waiting: None,
        }
    }

    fn ended(&mut self, reason: &impl Reason) {
        if reason.fault() == Fault::None {
            self.complete += 1;
            return;
        }
        let failures = self
            .failures
            .entry(reason.label())
            .or_insert_with(|| Failures { connections: 0, first: reason.to_string() });
        failures.connections += 1;
    }
}

impl Run {
    /// Starts all connections.
    pub(super) fn start<R: Host>(
        runtime: &R,
        address: &str,
        connections: usize,
        config: &LoadConfig,
        connect_timeout: Option<Duration>,
    ) -> Result<Self, Failure> {
        let limit = open_files();
        let files = (connections as u64)
            .saturating_mul(R::FILES_PER_CONNECTION as u64)
            .saturating_add(RESERVED_FILES);
        if files > limit {
            return Err(Failure::OpenFiles { wanted: connections, files, limit });
        }
        let run = Self {
            address: address.to_string(),
            connections,
            table: ConnectionTable::new(Limits { connections, per_address: None }),
            tally: Shared::new(Lock::new(Tally::new())),
            began: runtime.clock().now(),
        };
        let pool = Pool::new(READ, connections.min(64));
        for _ in 0..connections {
            let admitted = run
                .table
                .admit(Peer::Local, run.began)
                .expect("the table is as large as the number of connections");
            let connection = run.connection(
                runtime.clone(),
                admitted,
                config.clone(),
                pool.clone(),
                connect_timeout,
            );
            runtime.spawn(connection).map_err(Failure::Spawn)?;
        }
        Ok(run)
    }

    fn connection<R: Host>(
        &self,
        runtime: R,
        admitted: Admitted,
        config: LoadConfig,
        pool: Pool,
        connect_timeout: Option<Duration>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (address, running) = (self.address.clone(), Running(self.tally.clone()));
        async move {
            let connected = connect_within(&runtime, &address, connect_timeout).await;
            let clock = runtime.clock();
            let now = clock.now();
            match connected {
                Ok(socket) => {
                    let echoes = running.0.clone();
                    let load = Load::new(config, pool, now, move |time| {
                        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                        echoes.with(|tally| tally.round_trips.saturating_record(nanos));
                    });
                    let ended = Drive::new(load, socket, clock).admitted(admitted).await;
                    running.0.with(|tally| tally.ended(&ended));
                }
                Err(error) => {
                    let reason = NotConnected { address, error: error.to_string() };
                    running.0.with(|tally| tally.ended(&reason));
                    admitted.end(&reason, now);
                }
            }
        }
    }

    /// Asks all connections to send nothing more, and end when they have had everything back.
    pub(super) fn stop(&self) {
        self.table.shut_down();
    }

    /// Waits for the end of all connections, and says four times a second how far they are.
    pub(super) async fn finish<R: Host>(&self, runtime: &R, mut show: impl FnMut(&Progress)) {
        let mut clock = runtime.clock();
        let mut next = clock.now() + SHOW_EVERY;
        poll_fn(|cx| {
            while clock.poll_until(cx, next).is_ready() {
                let now = clock.now();
                show(&self.progress(now));
                next = now + SHOW_EVERY;
            }
            self.tally.with(|tally| {
                if tally.over == self.connections {
                    return Poll::Ready(());
                }
                tally.waiting = Some(cx.waker().clone());
                Poll::Pending
            })
        })
        .await;
    }

    fn progress(&self, now: Instant) -> Progress {
        let open = self.table.totals().open;
        self.tally.with(|tally| Progress {
            open,
            failed: tally.failures.values().map(|failures| failures.connections).sum(),
            messages: tally.round_trips.len(),
            elapsed: now.since(self.began),
        })
    }

    /// What it came to. To be called at the end.
    pub(super) fn report<R: Host>(&self, runtime: &R) -> Report {
        let elapsed = runtime.clock().now().since(self.began);
        let totals = self.table.totals();
        self.tally.with(|tally| {
            let micros = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e6;
            let at = |quantile| micros(tally.round_trips.value_at_quantile(quantile));
            Report {
                address: self.address.clone(),
                connections: self.connections,
                complete: tally.complete,
                failures: tally.failures.clone(),
                messages: tally.round_trips.len(),
                bytes_sent: totals.bytes_out,
                bytes_received: totals.bytes_in,
                seconds: elapsed.as_secs_f64(),
                latency_us: Latency {
                    p50: at(0.5),
                    p90: at(0.9),
                    p99: at(0.99),
                    p99_9: at(0.999),
                    max: micros(tally.round_trips.max()),
                },
            }
        })
    }
}

/// What a [`Run`] came to.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    address: String,
    connections: usize,
    /// Connections on which every byte came back.
    complete: u64,
    failures: BTreeMap<&'static str, Failures>,
    /// Messages that came back whole.
    messages: u64,
    bytes_sent: u64,
    bytes_received: u64,
    seconds: f64,
    latency_us: Latency,
}

/// Quantiles of the messages' round-trip times, in microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

impl Report {
    /// A failure unless every byte came back on every connection.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let failed = self.connections as u64 - self.complete;
        if failed == 0 {
            return Ok(());
        }
        let first = self.failures.values().next().map_or("a panic", |kind| &kind.first).to_string();
        let Self { address, connections, .. } = self;
        Err(Failure::Incomplete {
            address: address.clone(),
            failed,
            connections: *connections,
            first,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { complete, connections, messages, seconds, .. } = self;
        #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
        let (per_second, received) = (*messages as f64 / seconds, self.bytes_received as f64);
        let (mib, rate) = (received / MIB, received / MIB / seconds);
        let Latency { p50, p90, p99, p99_9, max } = self.latency_us;
        let verified = match *complete {
            0 => "",
            all if all == *connections as u64 => ", every byte verified",
            _ => ", every byte of these verified",
        };
        writeln!(f, "connections  {complete} of {connections} complete{verified}")?;
        for (label, kind) in &self.failures {
            writeln!(f, "failed       {} {label}: {}", kind.connections, kind.first)?;
        }
        writeln!(f, "messages     {messages} echoed, {mib:.1} MiB, in {seconds:.3} s")?;
        writeln!(f, "throughput   {per_second:.0} messages/s, {rate:.1} MiB/s")?;
        writeln!(
            f,
            "latency      p50 {p50:.0} µs, p90 {p90:.0} µs, p99 {p99:.0} µs, \
             p99.9 {p99_9:.0} µs, max {max:.0} µs"
        )
    }
}

/// The size of a connection's buffer for reading, in bytes.
const READ: usize = 64 * 1024;
const SHOW_EVERY: Duration = Duration::from_millis(250);
const MIB: f64 = 1024.0 * 1024.0;
