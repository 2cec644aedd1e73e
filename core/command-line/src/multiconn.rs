//! The command `multiconn-client`: many connections at once, every byte verified.

use core::{
    num::{NonZeroU64, NonZeroUsize},
    time::Duration,
};
use std::io::{self, IsTerminal as _};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde::Serialize;
use wirestate_core::quantity::{Size, Time};

use crate::{
    CommandError, CommandRuntime,
    connect::ConnectFlags,
    interrupt::interrupted,
    load::{LoadConfig, LoadRun, Pace, Progress, Schedule, pattern},
    output,
    progress_line::ProgressLine,
    tls,
    values::{self, Timeout},
};

/// Opens many connections to an echo server and verifies every byte that comes back
///
/// Each connection sends its messages, and closes when all bytes have come back.
///
/// Without --rate, each connection sends as many messages as --mode allows (a closed loop), and a
/// message's latency counts from when it was sent. With --rate, each message is sent when it is due
/// (an open loop), and its latency counts from that time: while the server stalls, messages are due
/// nevertheless, and the time that they wait is measured.
#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The echo server's address, HOST:PORT or unix:PATH
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:65432", value_parser = values::remote)]
    address: String,
    /// How many connections to open
    #[arg(value_name = "CONNECTIONS", default_value = "2",
          value_parser = values::count::<NonZeroUsize>)]
    connections: NonZeroUsize,
    /// A message to send; can be given several times [default: `Message 1 from client.` and
    /// `Message 2 from client.`]
    #[arg(long, value_name = "TEXT", conflicts_with = "size",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    message: Vec<String>,
    /// Send one message of this size, at most 1GiB, instead of --message
    #[arg(long, value_name = "BYTES", value_parser = size)]
    size: Option<usize>,
    /// How many times each connection sends its messages [default: 1, with --duration no limit]
    #[arg(long, value_name = "N", value_parser = values::count::<u64>)]
    rounds: Option<u64>,
    /// Send no more messages after this time. Messages in flight may then still come back, for at
    /// most 10s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// How many messages a second are due, of all connections together. Each connection sends its
    /// share, as far as --mode allows; later messages wait
    #[arg(long, value_name = "PER_SECOND", value_parser = values::count::<NonZeroU64>)]
    rate: Option<NonZeroU64>,
    /// Whether a message waits for the echo of the message before it
    #[arg(long, value_name = "MODE", value_enum, default_value = "pipelined")]
    mode: Mode,
    /// With --mode pipelined: how many messages each connection has in flight at most
    #[arg(long, value_name = "MESSAGES", default_value = "1024",
          value_parser = values::count::<NonZeroUsize>)]
    in_flight: NonZeroUsize,
    #[command(flatten)]
    connect: ConnectFlags,
    /// Reset a connection on which no byte moves for this long, although a message is due or in
    /// flight; or `off`
    #[arg(long, value_name = "TIME", default_value = "30s")]
    idle_timeout: Timeout,
    /// Write a JSON object a second, and the report as the last one
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: tls::ClientTlsFlags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// Each message waits for the echo of the message before it
    Lockstep,
    /// Messages are sent without waiting, up to --in-flight
    Pipelined,
}

fn size(text: &str) -> Result<usize, String> {
    values::bytes_within(1..=1 << 30, text)
}

fn duration(text: &str) -> Result<Duration, String> {
    match values::time(text)? {
        Duration::ZERO => Err("a duration must be non-zero".into()),
        duration => Ok(duration),
    }
}

pub(super) async fn run<R: CommandRuntime>(runtime: &R, flags: Flags) -> Result<(), CommandError> {
    let rounds = flags.rounds.unwrap_or(if flags.duration.is_some() { u64::MAX } else { 1 });
    let connections = flags.connections;
    let mut config = LoadConfig::default()
        .with_rounds(rounds)
        .with_pace(match flags.mode {
            Mode::Lockstep => Pace::Lockstep,
            Mode::Pipelined => Pace::Pipelined(flags.in_flight),
        })
        .with_schedule(flags.rate.map(|rate| Schedule { rate, connections, index: 0 }))
        .with_idle_timeout(flags.idle_timeout.0);
    if let Some(size) = flags.size {
        config = config.with_messages([pattern(size)]);
    } else if !flags.message.is_empty() {
        config =
            config.with_messages(flags.message.into_iter().map(Bytes::from).collect::<Vec<_>>());
    }
    let tls = flags.tls.load(&flags.address, flags.connect.connect_timeout.0)?;
    let interrupted = interrupted(runtime)?;
    let run = LoadRun::start(
        runtime,
        &flags.address,
        connections.get(),
        &config,
        flags.connect,
        tls.as_ref(),
    )?;
    let line = ProgressLine::new();
    let shows_line = line.is_terminal && !(flags.json && io::stdout().is_terminal());
    let show = |progress: &Progress| {
        if shows_line {
            line.show(&describe(progress));
        }
        if flags.json { output::write(json(progress)?.as_bytes()) } else { Ok(()) }
    };
    let finished = run.finish(runtime, flags.duration, interrupted, show).await;
    if shows_line {
        line.clear();
    }
    let signal = finished?;
    let report = run.report(runtime, signal.is_some());
    let text = if flags.json { json(&report)? } else { report.to_string() };
    let written = output::write(text.as_bytes());
    // If the verification has failed, the exit code is 1 even if standard output is closed.
    report.check()?;
    written?;
    signal.map_or(Ok(()), |signal| Err(CommandError::Interrupted(signal)))
}

/// Returns, for example, `12s  5000 messages/s, 1.2MiB/s; 50 open, 0 failed; 18s left`.
fn describe(progress: &Progress) -> String {
    let Progress { messages_per_second, open, failed, .. } = progress;
    let elapsed = Time(Duration::from_secs(progress.seconds.0.as_secs()));
    let rate = Size(progress.bytes_per_second);
    let rates = format!(
        "{elapsed}  {messages_per_second} messages/s, {rate}/s; {open} open, {failed} failed"
    );
    let Some(left) = progress.seconds_left else { return rates };
    let seconds = u64::try_from(left.0.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
    format!("{rates}; {} left", Time(Duration::from_secs(seconds)))
}

fn json(object: &impl Serialize) -> Result<String, CommandError> {
    let json = serde_json::to_string(object);
    Ok(json.map_err(|error| CommandError::Output(error.into()))? + "\n")
}
