//! Makes the machine of a recording.

use core::time::Duration;
use std::{fs, io::Read as _, path::Path};

use clap::{FromArgMatches as _, Subcommand as _};
use wirestate_core::{
    Instant,
    fanout::{Feed, MessageSource, Publisher, Subscriber, Upstream},
    proxy::RelayFactory,
    record::{self, Header, Recordable, Recording},
};

use crate::{
    CommandError,
    fanout::{FEED, server::ServerFlags, source::UNIX_EPOCH},
    server::{ServerCommand, for_words},
};

/// Makes the machine of a recording.
pub(super) struct Maker<F, A> {
    /// Makes the recorded machine.
    pub(super) make: F,
    /// Makes one for a test, at [`Instant::EPOCH`], that shares nothing.
    pub(super) alone: A,
    /// The source code of `alone`, with items of `wirestate_core::MODULE`.
    pub(super) source: String,
    pub(super) module: &'static str,
}

/// What is done with the machine of a recording.
pub(super) trait Use {
    type Output;

    fn machine<M: Recordable>(self, maker: Maker<impl Fn() -> M, impl Fn() -> M>) -> Self::Output;

    /// `source` is the source code that makes a relay of `relays`.
    fn relay(self, relays: &RelayFactory, source: &str) -> Self::Output;
}

/// Uses the machine of `recording`, whose file is at `path`.
///
/// # Errors
/// The machine cannot be made.
pub(super) fn with_machine<U: Use>(
    recording: &Recording<'_>,
    path: &Path,
    to: U,
) -> Result<U::Output, String> {
    let header = recording.header();
    let machine = header.field("machine").unwrap_or_default();
    let now = header.started_at;
    let error = |error: CommandError| error.to_string();
    Ok(match (command(header)?, machine) {
        (ServerCommand::EchoServer(flags), "echo") => {
            let (echo, source) = (flags.echo().map_err(error)?, flags.machine_source());
            let (make, alone) = (|| echo.machine(now), || echo.machine(Instant::EPOCH));
            to.machine(Maker { make, alone, source, module: "echo" })
        }
        (ServerCommand::AppServer(flags), "message") => {
            let app = flags.app().map_err(error)?;
            let source = flags.machine_source().map_err(error)?;
            let (make, alone) = (|| app.machine(now), || app.machine(Instant::EPOCH));
            to.machine(Maker { make, alone, source, module: "message" })
        }
        (ServerCommand::FanoutSource(flags), "source") => {
            let epoch = header.field(UNIX_EPOCH).and_then(|nanos| nanos.parse().ok());
            let epoch = Duration::from_nanos(epoch.ok_or("its time since 1970 is missing")?);
            let config = flags.config(epoch);
            MessageSource::new(config, now).map_err(|error| error.to_string())?;
            let make = || MessageSource::new(config, now).expect("it is valid");
            // Its messages have the time, so the clock of a test has another epoch.
            let epoch = epoch.saturating_add(now.since_epoch());
            let config = config.with_epoch(epoch);
            let alone = || MessageSource::new(config, Instant::EPOCH).expect("it is valid");
            to.machine(Maker { make, alone, source: flags.machine_source(epoch), module: FANOUT })
        }
        (ServerCommand::FanoutServer(flags), "upstream") => {
            let feed = flags.feed_for_replay().map_err(error)?;
            let make = || Upstream::new(&feed, now);
            let alone = || Upstream::new(&feed_alone(&flags), Instant::EPOCH);
            let source = flags.machine_source("Upstream");
            to.machine(Maker { make, alone, source, module: FANOUT })
        }
        (ServerCommand::FanoutServer(flags), "publisher") => {
            let feed = flags.feed_for_replay().map_err(error)?;
            let make = || Publisher::new(&feed, now);
            let alone = || Publisher::new(&feed_alone(&flags), Instant::EPOCH);
            let source = flags.machine_source("Publisher");
            to.machine(Maker { make, alone, source, module: FANOUT })
        }
        (ServerCommand::FanoutServer(flags), "subscriber") => {
            let feed = flags.feed_for_replay().map_err(error)?;
            for source in sources(header, path)? {
                publish(&feed, &source);
            }
            let make = || Subscriber::new(&feed, now);
            let alone = || Subscriber::new(&feed_alone(&flags), Instant::EPOCH);
            let source = flags.machine_source("Subscriber");
            to.machine(Maker { make, alone, source, module: FANOUT })
        }
        (ServerCommand::Proxy(flags), "relay") => {
            let relays = flags.relays().map_err(error)?;
            to.relay(&relays, &flags.relay_source())
        }
        (_, machine) => {
            return Err(format!("this program has no machine `{machine}` for that command"));
        }
    })
}

/// A new feed, for a machine alone.
fn feed_alone(flags: &ServerFlags) -> Feed {
    flags.feed_alone().expect("the feed for the replay was made of the same flags")
}

/// The command of the server that has recorded.
fn command(header: &Header) -> Result<ServerCommand, String> {
    let words: Vec<_> = header.values("word").collect();
    let commands = ServerCommand::augment_subcommands(clap::Command::new("replay"));
    let matches = for_words(commands).try_get_matches_from(&words);
    let command = matches.and_then(|matches| ServerCommand::from_arg_matches(&matches));
    command.map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let reason = first.strip_prefix("error: ").unwrap_or(first);
        format!("this program does not accept the flags of the recording: {reason}")
    })
}

/// The recordings beside that of a subscriber that have what was published to its feed.
fn sources(subscriber: &Header, path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let directory = path.parent().filter(|path| *path != Path::new(""));
    let directory = directory.unwrap_or(Path::new("."));
    let error = |error: std::io::Error| format!("cannot list {}: {error}", directory.display());
    let mut sources = Vec::new();
    for entry in fs::read_dir(directory).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.extension().is_some_and(|extension| extension == "wsr")
            && let Some(bytes) = source(subscriber, &path)
        {
            sources.push(bytes);
        }
    }
    Ok(sources)
}

/// The recording at `path`, if it has what was published to the feed of `subscriber`.
fn source(subscriber: &Header, path: &Path) -> Option<Vec<u8>> {
    let mut file = fs::File::open(path).ok()?;
    let mut start = Vec::new();
    file.by_ref().take(MAX_HEADER).read_to_end(&mut start).ok()?;
    let (recording, _) = Recording::salvage(&start).ok()?;
    let header = recording.header();
    let is_same = |name| header.field(name) == subscriber.field(name);
    let publishes = matches!(header.field("machine"), Some("upstream" | "publisher"));
    if !publishes || !is_same("process") || !is_same(FEED) {
        return None;
    }
    file.read_to_end(&mut start).ok()?;
    Some(start)
}

/// Replays a recorded upstream or publisher, which publishes to `feed`.
fn publish(feed: &Feed, bytes: &[u8]) {
    let Ok((recording, _)) = Recording::salvage(bytes) else { return };
    let now = recording.header().started_at;
    if recording.header().field("machine") == Some("upstream") {
        record::replay(&mut Upstream::new(feed, now), &recording);
    } else {
        record::replay(&mut Publisher::new(feed, now), &recording);
    }
}

/// The module of the fan-out's machines.
const FANOUT: &str = "fanout";
/// The longest header of a recording, in bytes.
const MAX_HEADER: u64 = 64 * 1024;
