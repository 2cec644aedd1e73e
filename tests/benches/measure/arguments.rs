//! The command line that all benchmarks share, and the plan that it gives.

use std::{
    fmt::Display,
    io::{self, Write},
    num::NonZeroUsize,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use serde::Serialize;

use super::{other_build, process::raise_open_files};

/// A benchmark's `main`.
pub(crate) fn main<A: Parser>(run: impl FnOnce(&A) -> io::Result<()>) -> ExitCode {
    let arguments = A::parse();
    match raise_open_files().and_then(|()| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The arguments of every benchmark.
#[derive(Debug, clap::Args)]
pub(crate) struct Shared<S: Choice, W: Choice> {
    /// Rounds; each measures every figure, but memory has fewer rounds [default: 5; fanout: 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds of load for each server in a round [default: 1]
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Worker threads of the servers that can have several
    #[arg(long, default_value = "1")]
    pub(crate) workers: NonZeroUsize,
    /// Only these servers
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<S>,
    /// Only these workloads
    #[arg(long, value_enum, value_delimiter = ',')]
    workloads: Vec<W>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// Run this server: print its port to standard output, and serve until it is killed
    #[arg(long, value_enum, value_name = "SERVER")]
    pub(crate) serve: Option<S>,
    /// With `--serve`: the core to run on
    #[arg(long)]
    pub(crate) core: Option<usize>,
    /// Set by `cargo bench`, but not by `cargo test`
    #[arg(long, hide = true)]
    bench: bool,
}

/// A choice on the command line.
pub(crate) trait Choice:
    ValueEnum + Copy + PartialEq + Serialize + Send + Sync + 'static
{
    /// The name on the command line.
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no value is skipped");
        value.get_name().to_owned()
    }

    /// For a server from [another build](other_build): the name of the same server there.
    fn name_in_other_build(self) -> Option<String> {
        self.name().strip_prefix(OTHER_BUILD).map(str::to_owned)
    }

    /// The same server from [another build](other_build), if it is one of this build's.
    fn in_other_build(self) -> Option<Self> {
        Self::from_str(&[OTHER_BUILD, &self.name()].concat(), false).ok()
    }
}

/// The prefix of the names of servers from another build.
const OTHER_BUILD: &str = "other-";

impl<T: ValueEnum + Copy + PartialEq + Serialize + Send + Sync + 'static> Choice for T {}

/// The part of the plan that all benchmarks share.
#[derive(Debug, Serialize)]
pub(crate) struct Basics<S, W> {
    pub(crate) rounds: u32,
    /// How long each server is under load in a round.
    #[serde(skip)]
    pub(crate) window: Duration,
    pub(crate) workers: NonZeroUsize,
    pub(crate) servers: Vec<S>,
    pub(crate) workloads: Vec<W>,
}

impl<S: Choice, W: Choice> Shared<S, W> {
    /// Whether `cargo test` runs the benchmark, which needs only one short round.
    pub(crate) fn brief(&self) -> bool {
        !self.bench
    }

    /// The plan, with `rounds` as the default, and with the installed servers only.
    pub(crate) fn basics(&self, rounds: u32, is_installed: fn(S) -> bool) -> Basics<S, W> {
        let mut servers = or_all(&self.servers);
        servers.retain(|server| server.name_in_other_build().is_none() || other_build::is_given());
        servers.retain(|&server| {
            let installed = is_installed(server);
            if !installed {
                eprintln!("{} is not installed and is left out", server.name());
            }
            installed
        });
        let brief = self.brief();
        Basics {
            rounds: self.rounds.unwrap_or(if brief { 1 } else { rounds }),
            window: self.seconds.unwrap_or(Duration::from_millis(if brief { 50 } else { 1000 })),
            workers: self.workers,
            servers,
            workloads: or_all(&self.workloads),
        }
    }

    /// Prints the report as text or JSON; or `brief`, under `cargo test`.
    pub(crate) fn show(&self, report: &(impl Serialize + Display), brief: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut stdout, report)?;
            writeln!(stdout)
        } else if self.brief() {
            // The figures of an unoptimized build are misleading.
            writeln!(stdout, "{brief}")
        } else {
            write!(stdout, "{report}")
        }
    }
}

/// The chosen values, without duplicates, in the order of the report. Without a choice, all values.
fn or_all<T: Choice>(chosen: &[T]) -> Vec<T> {
    let all = T::value_variants().iter().copied();
    if chosen.is_empty() { all.collect() } else { all.filter(|one| chosen.contains(one)).collect() }
}

/// Parses a time in seconds, from 0.01 to 60.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|error| format!("{error}"))?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(10)..=Duration::from_mins(1);
    if allowed.contains(&duration) {
        Ok(duration)
    } else {
        Err("the time must be from 0.01 to 60 seconds".into())
    }
}
