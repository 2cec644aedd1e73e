//! Logs, on standard error.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};

use clap::{ArgAction, Args, ValueEnum};
use tracing::{Level, error, info, level_filters::LevelFilter};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};
use wirestate_core::runtime::Address;

use crate::standard_error::{Log, STANDARD_ERROR};

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
    // Its own errors would be written to standard error directly.
    let layer = fmt::layer().with_writer(Log).with_target(false).log_internal_errors(false);
    // It fails where a program has set its own logging up already, which then serves.
    let started = match flags.log_format {
        Format::Text => registry.with(layer.with_ansi(io::stderr().is_terminal())).try_init(),
        Format::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    if started.is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
}

/// Logs a panic. The standard library's own hook writes to standard error, which blocks while
/// nobody reads it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("without a message");
    let at = panic.location().map(tracing::field::display);
    // A backtrace is taken only if `RUST_BACKTRACE` asks for one.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured)
        .then(|| tracing::field::display(backtrace));
    error!(at, backtrace, "panic: {message}");
}

/// Writes text that is not a log line to standard error.
pub(super) fn say(text: &str) {
    STANDARD_ERROR.push(text);
}

/// A line on standard error that is overwritten in place. Where that is no terminal, each text is a
/// line of its own.
pub(super) struct LiveLine {
    pub(super) is_terminal: bool,
}

impl LiveLine {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal() }
    }

    /// Replaces the line by `text`, cut to the terminal's width.
    pub(super) fn show(&self, text: &str) {
        if self.is_terminal {
            // Without wrapping (DECAWM), up to the end of the line (EL), back to its start.
            say(&format!("\x1b[?7l{text}\x1b[?7h\x1b[K\r"));
        } else {
            say(&format!("{text}\n"));
        }
    }

    /// Erases the line. Called before something is written to standard output.
    pub(super) fn clear(&self) {
        if self.is_terminal {
            prompt("\x1b[K");
        }
    }

    /// Ends the line, so that the next output does not overwrite it.
    pub(super) fn keep(&self) {
        if self.is_terminal {
            say("\n");
        }
    }
}

/// Writes a prompt to standard error, and waits until it is written: standard output must come
/// after it.
pub(super) fn prompt(text: &str) {
    STANDARD_ERROR.push(text);
    STANDARD_ERROR.flush();
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
