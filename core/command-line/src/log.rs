//! The log, on standard error.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io,
    panic::{self, PanicHookInfo},
};

use clap::{ArgAction, Args, ValueEnum};
use tracing::{Level, error, info, level_filters::LevelFilter};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};
use wirestate_core::runtime::Address;

use crate::{
    standard_error::{LogWriter, STANDARD_ERROR},
    terminal::has_colours,
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(super) struct Flags {
    /// Log each connection (-v), or everything (-vv)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log only warnings, errors, and the line `listening on`
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// The format of log lines
    #[arg(
        long,
        value_name = "FORMAT",
        global = true,
        value_enum,
        default_value = "text",
        env = "WIRESTATE_LOG_FORMAT"
    )]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text, for people
    Text,
    /// One JSON object per line
    Json,
}

/// Starts the log. Without flags, a server logs from INFO on, and a client from WARN on.
pub(super) fn start(flags: &Flags, is_server: bool) {
    let level = match (flags.quiet, flags.verbose) {
        (false, 0) if is_server => LevelFilter::INFO,
        (true, _) | (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    // Dependencies log from INFO on at most.
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_target("wirestate", level)
        .with_target(READY, Level::INFO);
    let registry = tracing_subscriber::registry().with(filter);
    // The layer would write its internal errors to standard error itself, which can block.
    let layer = fmt::layer().with_writer(LogWriter).with_target(false).log_internal_errors(false);
    // Fails if the program has set up a log already. That log is used then.
    let started = match flags.log_format {
        Format::Text => registry.with(layer.with_ansi(has_colours(&io::stderr()))).try_init(),
        Format::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    if started.is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
}

/// Logs a panic. The standard library's hook writes to standard error itself, which blocks while no
/// process reads it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("without a message");
    let at = panic.location().map(tracing::field::display);
    // Captures a backtrace only if `RUST_BACKTRACE` is set.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured)
        .then(|| tracing::field::display(backtrace));
    error!(at, backtrace, "panic: {message}");
}

/// Writes text that is not a log line to standard error.
pub(super) fn write(text: &str) {
    STANDARD_ERROR.push(text);
}

/// Writes a prompt to standard error, and waits until it is written, so that it comes before later
/// standard output.
pub(super) fn prompt(text: &str) {
    STANDARD_ERROR.push(text);
    STANDARD_ERROR.flush();
}

/// Logs the ready line: a server listens on `address`. `server` is its name, if the process has
/// several.
pub(super) fn report_ready(flags: &Flags, address: &Address, server: Option<&str>) {
    match flags.log_format {
        Format::Text => info!(target: READY, server, "listening on {address}"),
        Format::Json => info!(target: READY, server, %address, "listening on {address}"),
    }
}

/// Logs the address at which a server's status is served.
pub(super) fn report_status(flags: &Flags, address: &Address, has_tls: bool) {
    let scheme = match address {
        Address::Ip(_) if has_tls => "https://",
        Address::Ip(_) => "http://",
        // There are no URLs of Unix sockets.
        Address::Unix(_) => "",
    };
    match flags.log_format {
        Format::Text => info!("status on {scheme}{address}"),
        Format::Json => info!(status = %address, "status on {scheme}{address}"),
    }
}

/// The target of the ready line, which is logged at every level.
const READY: &str = "wirestate::ready";
