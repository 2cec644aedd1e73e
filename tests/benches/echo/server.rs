//! The servers, each a process of its own on a core of its own.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    process::{Child, Command, Stdio},
    time::Duration,
};

use clap::ValueEnum;
use rustix::{
    process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::Serialize;

use crate::{floor, hand_written, machines};

/// What is compared. An echo by hand comes right before ours on the same runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    /// One thread, epoll, one buffer
    Floor,
    /// tokio, a task per connection
    TokioHand,
    /// The echo machine on wirestate-tokio
    Tokio,
    /// smol, a task per connection
    SmolHand,
    /// The echo machine on wirestate-smol
    Smol,
    /// A thread per connection, blocking calls
    StdHand,
    /// The echo machine on wirestate-std
    Std,
}

impl Server {
    /// The same by hand, if this is one of ours.
    pub(crate) fn by_hand(self) -> Option<Self> {
        match self {
            Self::Tokio => Some(Self::TokioHand),
            Self::Smol => Some(Self::SmolHand),
            Self::Std => Some(Self::StdHand),
            Self::Floor | Self::TokioHand | Self::SmolHand | Self::StdHand => None,
        }
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("no server is hidden");
        value.get_name().to_owned()
    }

    /// Is that server until it is killed.
    pub(crate) fn serve(self, core: Option<usize>, workers: NonZeroUsize) -> io::Result<()> {
        // Whoever started it may end without having killed it.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if let Some(core) = core {
            // Threads inherit it, so before there are any.
            stay_on(core)?;
        }
        match self {
            Self::Floor => floor::serve(),
            Self::TokioHand => hand_written::tokio(workers),
            Self::SmolHand => hand_written::smol(),
            Self::StdHand => hand_written::threads(),
            Self::Tokio => machines::tokio(workers),
            Self::Smol => machines::smol(workers),
            Self::Std => machines::threads(),
        }
    }
}

/// Where a server listens: any free port.
pub(crate) const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// Tells [`Process::start`] that connections are accepted at `address`.
pub(crate) fn announce(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{address}")?;
    stdout.flush()
}

/// A server that runs; dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts this program again as `server`.
    pub(crate) fn start(server: Server, cores: Cores, workers: NonZeroUsize) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--serve", &server.name(), "--workers", &workers.to_string()]);
        if let Some(core) = cores.server {
            command.args(["--core", &core.to_string()]);
        }
        // What smol's own executor goes by.
        command.env("SMOL_THREADS", workers.to_string());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let address = line.trim().parse();
        match (read, address) {
            (Ok(_), Ok(address)) => Ok(Self { child, address }),
            (Err(error), _) => Err(error),
            (Ok(_), Err(_)) => {
                let status = child.wait()?;
                Err(io::Error::other(format!("{}: it did not start ({status})", server.name())))
            }
        }
    }

    /// Where it accepts connections.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The time that its threads have spent on a core, user and kernel; of a thread that is
    /// asleep, to the nanosecond. Threads that have ended are not in it.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let mut sum = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            let field = stat.split_ascii_whitespace().next();
            let nanoseconds = field.and_then(|field| field.parse().ok());
            sum += Duration::from_nanos(nanoseconds.ok_or_else(|| unreadable("schedstat"))?);
        }
        Ok(sum)
    }

    /// Its anonymous memory (heap and stacks) that is backed by a page, in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| unreadable("smaps_rollup"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails only if the server has ended already; then there is only the status to fetch.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn unreadable(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/PID/{what} has an unknown form"))
}

/// The core of the server and that of the load.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cores {
    /// `None`: wherever the kernel puts it.
    server: Option<usize>,
    load: Option<usize>,
}

impl Cores {
    /// The first two that this process may use. With only one, nothing is pinned.
    pub(crate) fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        let (first, second) = (cores.next(), cores.next());
        if second.is_none() {
            eprintln!("there is one core only: server and load are in each other's way");
            return Ok(Self { server: None, load: None });
        }
        Ok(Self { server: first, load: second })
    }

    /// Keeps this thread to the load's core.
    pub(crate) fn pin_load(self) -> io::Result<()> {
        self.load.map_or(Ok(()), stay_on)
    }
}

fn stay_on(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Allows as many open files as the hard limit does; servers inherit it.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
