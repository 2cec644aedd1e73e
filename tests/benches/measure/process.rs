//! The processes of measured servers. Each is pinned to one core.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Seek, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio, id},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::Serialize;

/// The address on which a server listens: any free port.
pub(crate) const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// Prints `address`, at which the server accepts connections, for [`Process::start`].
pub(crate) fn announce(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{address}")?;
    stdout.flush()
}

/// Finds a free port and announces it, for a server that does not report the port that it gets.
pub(crate) fn announce_a_free_port() -> io::Result<SocketAddr> {
    let address = TcpListener::bind(ANY_PORT)?.local_addr()?;
    announce(address)?;
    Ok(address)
}

/// The path of a program, if it is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    // Debian installs servers in a folder that is not in every PATH.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Replaces this process by `command`. Its standard input is the configuration, in a file that is
/// removed already.
pub(crate) fn exec_with(command: &mut Command, configuration: &str) -> io::Result<()> {
    let path = env::temp_dir().join(format!("wirestate-bench-{}", id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(path)?;
    file.write_all(configuration.as_bytes())?;
    file.rewind()?;
    Err(command.stdin(file).stdout(Stdio::null()).stderr(Stdio::null()).exec())
}

/// Prepares this process for measurement: pins it to `core`, and ends it when its parent ends.
pub(crate) fn become_server(core: Option<usize>) -> io::Result<()> {
    // The parent may end without killing this process.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Threads inherit the core, so pin before the first thread is started.
    core.map_or(Ok(()), pin_to)
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Runs this program again as a server, with `arguments` and `--core`, and waits until it calls
    /// [`announce`].
    pub(crate) fn start(arguments: &[&str], cores: Cores) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments);
        if let Some(core) = cores.server {
            command.args(["--core", &core.to_string()]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let address = line.trim().parse();
        match (read, address) {
            (Ok(_), Ok(address)) => Ok(Self { child, address }),
            (Err(error), _) => Err(error),
            (Ok(_), Err(_)) => {
                let status = child.wait()?;
                let arguments = arguments.join(" ");
                Err(io::Error::other(format!("the server did not start ({status}): {arguments}")))
            }
        }
    }

    /// The address at which it accepts connections.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CPU time of the server's threads, user and kernel, without threads that have ended. For
    /// sleeping threads it is exact to the nanosecond.
    fn cpu_time(&self) -> io::Result<Duration> {
        let mut sum = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            let field = stat.split_ascii_whitespace().next();
            let nanoseconds = field.and_then(|field| field.parse().ok());
            sum += Duration::from_nanos(nanoseconds.ok_or_else(|| unreadable("schedstat"))?);
        }
        Ok(sum)
    }

    /// Waits until the server sleeps, for at most 100 ms. Returns its CPU time, and whether it
    /// sleeps. No byte may be in flight.
    pub(crate) fn wait_until_asleep(&self) -> io::Result<(Duration, bool)> {
        let end = Instant::now() + SLEEP_TIMEOUT;
        let mut before = self.cpu_time()?;
        loop {
            thread::sleep(SLEEP_CHECK);
            let after = self.cpu_time()?;
            let sleeps = after.saturating_sub(before) < SLEEP_CHECK / 5;
            if sleeps || Instant::now() >= end {
                return Ok((after, sleeps));
            }
            before = after;
        }
    }

    /// Kills the server, and waits for its end.
    pub(crate) fn end(&mut self) {
        // Killing fails only if the server has ended. Its status must be fetched in any case.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Its resident anonymous memory (heap and stacks), in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| unreadable("smaps_rollup"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn unreadable(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/PID/{file} has an unknown format"))
}

/// The cores of the server and of the load.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cores {
    /// `None`: not pinned.
    server: Option<usize>,
    load: Option<usize>,
}

impl Cores {
    /// The first two cores that this process may use. With only one core, nothing is pinned.
    pub(crate) fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        let (first, second) = (cores.next(), cores.next());
        if second.is_none() {
            eprintln!("there is only one core, which the server and the load share");
            return Ok(Self { server: None, load: None });
        }
        Ok(Self { server: first, load: second })
    }

    /// For a process between the server and the load: on the load's core.
    pub(crate) fn of_load(self) -> Self {
        Self { server: self.load, ..self }
    }

    /// Pins this thread to the load's core.
    pub(crate) fn pin_load(self) -> io::Result<()> {
        self.load.map_or(Ok(()), pin_to)
    }
}

fn pin_to(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Raises the limit on open files to the hard limit. Servers inherit it.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// The time of one check. A server that uses less than a fifth of it on its core sleeps.
const SLEEP_CHECK: Duration = Duration::from_millis(5);
/// The longest wait for a server to sleep.
const SLEEP_TIMEOUT: Duration = Duration::from_millis(100);
