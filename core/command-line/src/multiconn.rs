//! The command `multiconn-client`: many connections at once, every byte verified.

use core::num::NonZeroUsize;
use std::io::{self, Write};

use bytes::Bytes;
use clap::{Args, ValueEnum};

use crate::{
    CommandError, CommandRuntime,
    load::{LoadConfig, LoadRun, Pace, Progress, pattern},
    progress_line::ProgressLine,
    tls,
    values::{self, Timeout},
};

/// Opens many connections to an echo server and verifies every byte that comes back
///
/// Each connection sends its messages, and closes when all bytes have come back.
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
    /// How many times each connection sends its messages
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::count::<u64>)]
    rounds: u64,
    /// Whether a message waits for the echo of the message before it
    #[arg(long, value_name = "MODE", value_enum, default_value = "pipelined")]
    mode: Mode,
    /// With --mode pipelined: how many messages each connection has in flight at most
    #[arg(long, value_name = "MESSAGES", default_value = "1024",
          value_parser = values::count::<NonZeroUsize>)]
    in_flight: NonZeroUsize,
    /// How long a connection attempt may take; or `off`
    #[arg(long, value_name = "TIME", default_value = "10s")]
    connect_timeout: Timeout,
    /// Reset a connection on which no byte moves for this long; or `off`
    #[arg(long, value_name = "TIME", default_value = "30s")]
    idle_timeout: Timeout,
    /// Write the report as a JSON object
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

pub(super) async fn run<R: CommandRuntime>(runtime: &R, flags: Flags) -> Result<(), CommandError> {
    let mut config = LoadConfig::default()
        .with_rounds(flags.rounds)
        .with_pace(match flags.mode {
            Mode::Lockstep => Pace::Lockstep,
            Mode::Pipelined => Pace::Pipelined(flags.in_flight),
        })
        .with_idle_timeout(flags.idle_timeout.0);
    if let Some(size) = flags.size {
        config = config.with_messages([pattern(size)]);
    } else if !flags.message.is_empty() {
        config =
            config.with_messages(flags.message.into_iter().map(Bytes::from).collect::<Vec<_>>());
    }
    let messages = (config.messages.len() as u64)
        .saturating_mul(config.rounds)
        .saturating_mul(flags.connections.get() as u64);
    let tls = flags.tls.load(&flags.address, flags.connect_timeout.0)?;
    let run = LoadRun::start(
        runtime,
        &flags.address,
        flags.connections.get(),
        &config,
        flags.connect_timeout.0,
        tls.as_ref(),
    )?;
    let line = ProgressLine::new();
    run.finish(runtime, |progress| {
        if line.is_terminal {
            let Progress { messages: verified, open, .. } = progress;
            line.show(&format!("{verified} of {messages} messages, {open} connections open"));
        }
    })
    .await;
    line.clear();
    let report = run.report(runtime);
    let text = if flags.json {
        serde_json::to_string(&report).map_err(|error| CommandError::Output(error.into()))? + "\n"
    } else {
        report.to_string()
    };
    let mut output = io::stdout().lock();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    // If the verification has failed, the exit code is 1 even if standard output is closed.
    report.check()?;
    written.map_err(CommandError::Output)
}
