//! The log, on standard error.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io,
    panic::{self, PanicHookInfo},
};

use clap::{ArgAction, Args, ValueEnum};
use tracing::{Level, error, info, level_filters::LevelFilter, warn};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};
use wirestate_core::runtime::Address;

use crate::{
    output::printable,
    standard_error::{LogWriter, STANDARD_ERROR},
    terminal::has_colours,
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(super) struct Flags {
    /// Log each connection (-v), also each turn in which data moves or a deadline passes (-vv), or
    /// each line with its module and its place in the source (-vvv)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log only warnings, errors, and the line `listening on`
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Which lines to log: a level (off, error, warn, info, debug or trace) in place of -v and -q;
    /// or MODULE=LEVEL for one module; or several, separated by commas, for example
    /// `info,wirestate_core::serve=debug`. The line `listening on` is always logged. -vvv shows the
    /// modules
    #[arg(
        long = "log",
        value_name = "FILTER",
        global = true,
        env = "WIRESTATE_LOG",
        value_parser = filter
    )]
    filter: Option<Targets>,
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

fn filter(text: &str) -> Result<Targets, String> {
    // `Targets` takes a word that is not a level for a module, so it accepts a misspelt level.
    let is_valid = |part: &str| match part.split_once('=') {
        Some((module, _)) => !module.is_empty(),
        None => !part.is_empty() && part.parse::<LevelFilter>().is_ok(),
    };
    let parsed = text.parse().ok().filter(|_| text.split(',').all(is_valid));
    parsed.ok_or_else(|| {
        "expected LEVEL or MODULE=LEVEL, separated by commas; a level is off, error, warn, info, \
         debug or trace"
            .into()
    })
}

impl Flags {
    /// Which lines are logged. Without flags, a server logs from INFO on, and a client from WARN
    /// on.
    fn targets(&self, is_server: bool) -> Targets {
        let (of_dependencies, level) = match (self.quiet, self.verbose) {
            (false, 0) if is_server => (LevelFilter::INFO, LevelFilter::INFO),
            (true, _) | (false, 0) => (LevelFilter::WARN, LevelFilter::WARN),
            (false, 1) => (LevelFilter::INFO, LevelFilter::DEBUG),
            (false, 2) => (LevelFilter::INFO, LevelFilter::TRACE),
            (false, _) => (LevelFilter::TRACE, LevelFilter::TRACE),
        };
        let mut targets = match self.filter.as_ref().and_then(Targets::default_level) {
            Some(level) => Targets::new().with_default(level),
            None => Targets::new().with_default(of_dependencies).with_target("wirestate", level),
        };
        targets = targets.with_target(READY, Level::INFO);
        targets.extend(self.filter.iter().flat_map(Targets::iter));
        targets
    }

    /// Whether each line has its module and its place in the source.
    fn shows_source(&self) -> bool {
        self.verbose > 2
    }
}

/// Starts the log.
pub(super) fn start(flags: &Flags, is_server: bool) {
    let registry = tracing_subscriber::registry().with(flags.targets(is_server));
    let shows_source = flags.shows_source();
    let layer = fmt::layer()
        .with_writer(LogWriter)
        .with_target(shows_source)
        .with_file(shows_source)
        .with_line_number(shows_source)
        // The layer would write its internal errors to standard error itself, which can block.
        .log_internal_errors(false);
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

/// Tells the user of a command what is wrong, on standard error.
///
/// A server, and any command with `--log-format json`, writes a log line. A client writes its name
/// and the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reporter {
    program: &'static str,
    logs: bool,
}

impl Reporter {
    pub(super) fn new(program: &'static str, flags: &Flags, is_server: bool) -> Self {
        Self { program, logs: is_server || flags.log_format == Format::Json }
    }

    /// For a command line that was not parsed.
    pub(super) fn without_log(program: &'static str) -> Self {
        Self { program, logs: false }
    }

    pub(super) fn error(self, message: &str) {
        if self.logs {
            error!("{message}");
        } else {
            // It may have text of a peer.
            write(&format!("{}: {}\n", self.program, printable(message.as_bytes())));
        }
    }

    pub(super) fn warn(self, message: &str) {
        if self.logs {
            warn!("{message}");
        } else {
            write(&format!("{}: warning: {message}\n", self.program));
        }
    }
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

/// Logs the ready line of a server that does not listen: it is ready to do `what`.
pub(super) fn report_ready_to(what: &str, server: Option<&str>) {
    info!(target: READY, server, "ready to {what}");
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
