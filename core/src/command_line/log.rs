//! Logs, on standard error.

use std::io::{self, IsTerminal, Write};

use clap::{ArgAction, Args, ValueEnum};
use tracing::{Level, info, level_filters::LevelFilter};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::runtime::Address;

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(super) struct Flags {
    /// Log more: each connection (-v), everything (-vv)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log only what needs attention, and the line that says that a server is ready
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// How to log
    #[arg(long, global = true, value_enum, default_value = "text", env = "WIRESTATE_LOG_FORMAT")]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// A JSON object per line
    Json,
}

/// Where the ready line goes, which is never filtered out.
const READY: &str = "wirestate::ready";

/// Clients log less than servers: what they have to say goes to standard output.
pub(super) fn start(flags: &Flags, is_server: bool) {
    let level = match (flags.quiet, flags.verbose) {
        (false, 0) if is_server => LevelFilter::INFO,
        (true, _) | (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    // Debug and trace are of interest from ourselves, not from what the runtimes are made of.
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_target("wirestate", level)
        .with_target(READY, Level::INFO);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(io::stderr).with_target(false);
    // It fails where a program has set its own logging up already, which then serves.
    let _ = match flags.log_format {
        Format::Text => registry.with(layer.with_ansi(io::stderr().is_terminal())).try_init(),
        Format::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
}

/// Writes to standard error what is no log: a prompt, a live figure. Nobody may be there to read it.
pub(super) fn say(text: &str) {
    let mut error = io::stderr().lock();
    let _ = error.write_all(text.as_bytes()).and_then(|()| error.flush());
}

/// Says that a server can be connected to.
pub(super) fn ready(flags: &Flags, address: &Address) {
    match flags.log_format {
        Format::Text => info!(target: READY, "listening on {address}"),
        Format::Json => info!(target: READY, %address, "listening on {address}"),
    }
}

/// Says where a server's status is answered.
pub(super) fn status(flags: &Flags, address: &Address) {
    let scheme = match address {
        Address::Ip(_) => "http://",
        // There is no such URL.
        Address::Unix(_) => "",
    };
    match flags.log_format {
        Format::Text => info!("status on {scheme}{address}"),
        Format::Json => info!(status = %address, "status on {scheme}{address}"),
    }
}
