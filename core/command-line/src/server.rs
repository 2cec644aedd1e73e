//! What all servers have in common: limits, the ready line, signals, the drain.

use core::{ffi::c_int, future::Future, pin::pin, task::Poll, time::Duration};
use std::{
    fs,
    future::poll_fn,
    io::{self, Read},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use clap::{Args, builder::NonEmptyStringValueParser};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    flag,
    low_level::{pipe, signal_name},
};
use tracing::{info, warn};
use wirestate_core::{
    Instant, Machine,
    admission::{ConnectionEntry, Limits},
    drive::{Clock, Source},
    proxy_protocol,
    runtime::{Address, unix_path},
    serve::{self, DrainReport, Server, ServerHandle},
    shared::Shared,
    shutdown::ShutdownHandle,
    status::{self, AllowedHosts, Metric, MetricsSource, Readiness},
};

use crate::{
    Failure, Host, ServerContext,
    accept_proxy::AcceptProxyFlags,
    log,
    standard_error::{LogMetrics, STANDARD_ERROR},
    systemd,
    values::{self, Limit, Timeout},
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub(super) struct Flags {
    /// Open connections at most [default: 10000, or what the limit of open files allows]
    #[arg(long, value_name = "N", env = "WIRESTATE_MAX_CONNECTIONS",
          value_parser = values::count::<u64>)]
    max_connections: Option<u64>,
    /// Open connections from one IPv4 address or IPv6 /64 at most, loopback excepted; or `off`
    #[arg(long, value_name = "N", env = "WIRESTATE_MAX_PER_ADDRESS", default_value = "64")]
    max_per_address: Limit,
    #[command(flatten)]
    proxied: AcceptProxyFlags,
    #[command(flatten)]
    common: CommonFlags,
}

/// What also a server has that takes one client at a time.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits", after_help = SIGNALS)]
pub(super) struct CommonFlags {
    /// How long connections may take to end after SIGTERM, SIGINT or SIGHUP before they are reset;
    /// or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_DRAIN_TIMEOUT", default_value = "10s")]
    drain_timeout: Timeout,
    #[command(flatten)]
    status: StatusFlags,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Operation")]
struct StatusFlags {
    /// Answer HTTP here about the server: /, /healthz, /readyz, /metrics, /connections
    #[arg(long = "status", value_name = "ADDR", env = "WIRESTATE_STATUS",
          value_parser = values::listen)]
    address: Option<String>,
    /// A name by which the status may be asked, besides localhost and addresses; can be given
    /// several times
    #[arg(
        long = "status-host",
        value_name = "NAME",
        env = "WIRESTATE_STATUS_HOST",
        value_delimiter = ',',
        value_parser = NonEmptyStringValueParser::new(),
        requires = "address"
    )]
    hosts: Vec<String>,
    /// Go on accepting for this long after SIGTERM, SIGINT or SIGHUP, while /readyz already fails,
    /// so that load balancers send new connections elsewhere
    #[arg(long, value_name = "TIME", env = "WIRESTATE_LAME_DUCK", default_value = "0",
          value_parser = values::time)]
    lame_duck: Duration,
}

const SIGNALS: &str = "\
Signals:
  SIGTERM, SIGINT, SIGHUP  accept no more, let connections end, then exit; the second one exits at
                           once (SIGHUP is left alone if it is ignored at the start, as by nohup)
  SIGUSR1, SIGUSR2         are ignored";

impl Flags {
    /// For the server that is run by the command `name`.
    pub(super) fn setup<R: Host>(&self, name: &'static str) -> Setup {
        self.setup_of::<R>(name, R::FILES_PER_CONNECTION, 0)
    }

    /// The same, where a connection takes so many open files, and so many more are kept for all of them.
    pub(super) fn setup_of<R: Host>(
        &self,
        name: &'static str,
        files_per_connection: usize,
        shared_files: u64,
    ) -> Setup {
        let kept = kept_files::<R>(self.common.status.address.is_some()) + shared_files;
        let config = serve::Config::default()
            .with_limits(limits(self, files_per_connection as u64, kept))
            .with_behind_proxies(self.proxied.behind_proxies());
        Setup { accept: self.proxied.policy(), kept, ..self.common.setup(name, config) }
    }
}

impl CommonFlags {
    /// For the server that is run by the command `name`, with these settings.
    pub(super) fn setup(&self, name: &'static str, config: serve::Config) -> Setup {
        if self.drain_timeout.0.is_none() {
            warn!("--drain-timeout off: one connection can keep the server from ending");
        }
        Setup {
            name,
            handle: ServerHandle::new(
                config.with_name(name).with_drain_timeout(self.drain_timeout.0),
            ),
            status: self.status.address.clone().map(|address| (address, self.status.hosts.clone())),
            lame_duck: self.status.lame_duck,
            metrics_source: None,
            accept: None,
            kept: 0,
        }
    }
}

/// The idle timeout of a server's connections, with a warning if there is none.
pub(super) fn idle_timeout(timeout: Timeout) -> Option<Duration> {
    if timeout.0.is_none() {
        warn!("--idle-timeout off: connections whose peer is gone may stay");
    }
    timeout.0
}

/// How a server is run.
pub(super) struct Setup {
    name: &'static str,
    pub(super) handle: ServerHandle,
    /// The address of its status, and the names by which that may be asked.
    status: Option<(String, Vec<String>)>,
    lame_duck: Duration,
    metrics_source: Option<Shared<dyn MetricsSource>>,
    /// Connections begin with a PROXY header.
    pub(super) accept: Option<proxy_protocol::HeaderPolicy>,
    /// Open files that are not for connections.
    kept: u64,
}

impl Setup {
    /// Adds the server's metrics beyond those of its table of connections.
    pub(super) fn metrics_source(mut self, source: impl MetricsSource) -> Self {
        self.metrics_source = Some(Shared::new(source));
        self
    }

    /// Its status server, to listen on `address` and to answer for `hosts`.
    ///
    /// # Errors
    /// The configuration is invalid.
    fn status(
        &self,
        address: &str,
        hosts: &[String],
        now: Instant,
    ) -> Result<status::Server, Failure> {
        let hosts = match unix_path(address) {
            // No browser comes to a Unix socket, and a request there has to name some host.
            Some(_) => AllowedHosts::Any,
            None => AllowedHosts::Named(hosts.to_vec()),
        };
        let config = status::Config::new(self.name).with_hosts(hosts);
        let source = WithLog { server: self.metrics_source.clone() };
        status::Server::new(config, &self.handle, Some(Shared::new(source)), now)
            .map_err(Failure::Config)
    }
}

/// Adds the metrics of the log to a server's own.
#[derive(Debug)]
struct WithLog {
    server: Option<Shared<dyn MetricsSource>>,
}

impl MetricsSource for WithLog {
    fn metrics(&self) -> Vec<Metric> {
        let mut metrics = LogMetrics.metrics();
        metrics.extend(self.server.iter().flat_map(|server| server.metrics()));
        metrics
    }
}

/// Listens on `address`, says so, and serves until a signal asks for the end.
pub(super) async fn run<R, M>(
    runtime: &R,
    address: &str,
    setup: &Setup,
    around: &ServerContext,
    machine: impl FnMut(&ConnectionEntry, Instant) -> M + Clone + Send + 'static,
) -> Result<(), Failure>
where
    R: Host,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    let serve = async |server| Ok(serve(server, setup, machine).await);
    listening(runtime, address, setup, around, serve).await
}

/// Serves until a shutdown is requested.
pub(super) async fn serve<R, M>(
    server: Server<R>,
    setup: &Setup,
    machine: impl FnMut(&ConnectionEntry, Instant) -> M + Clone + Send + 'static,
) -> DrainReport
where
    R: Host,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    match setup.accept.clone() {
        None => server.serve(machine).await,
        Some(accept) => proxy_protocol::serve(server, accept, machine).await,
    }
}

/// Listens on `address`, says so, and only then has `serve` begin, which accepts until a signal asks
/// for the end; answers about it meanwhile, if it has a status.
pub(super) async fn listening<R: Host>(
    runtime: &R,
    address: &str,
    setup: &Setup,
    around: &ServerContext,
    serve: impl AsyncFnOnce(Server<R>) -> Result<DrainReport, Failure>,
) -> Result<(), Failure> {
    let Setup { handle, status, lame_duck, .. } = setup;
    let ServerContext { log, sockets } = around;
    if handle.table().limits().connections == 0 {
        return Err(Failure::NoRoom { files: open_files(), kept: setup.kept });
    }
    let status = match status {
        Some((address, hosts)) => {
            Some((address, setup.status(address, hosts, runtime.clock().now())?))
        }
        None => None,
    };
    let readiness = status.as_ref().map(|(_, server)| server.readiness());
    stop_on_signals(runtime, handle.shutdown().clone(), readiness, *lame_duck)?;
    // A stop also ends the wait for a resolver that does not answer.
    let opening = async {
        let server = bind(runtime, address, sockets).await?.with_handle(handle);
        let Some((address, status)) = status else { return Ok((server, None)) };
        let status_server = bind(runtime, address, sockets).await?;
        Ok((server, Some((status_server, status))))
    };
    let Some(opened) = handle.shutdown().unless_requested(opening).await else {
        info!("stopped before listening");
        return Ok(());
    };
    let (server, status) = opened?;
    let report = match status {
        None => {
            announce(log, &server)?;
            serve(server).await
        }
        Some((status_server, status)) => {
            for address in addresses(&status_server)? {
                log::status(log, &address);
            }
            announce(log, &server)?;
            let status_handle = status.handle().clone();
            let answering = status.serve(status_server);
            // It answers during the drain, and ends when that has.
            let serving = async {
                let drained = serve(server).await;
                status_handle.drain();
                drained
            };
            both(serving, answering).await.0
        }
    }?;
    let totals = handle.table().totals();
    info!(
        connections = totals.accepted,
        drained = report.drained,
        aborted = report.aborted,
        refused = totals.refused.values().sum::<u64>(),
        received = totals.bytes_in,
        sent = totals.bytes_out,
        "stopped"
    );
    Ok(())
}

/// Says that the server can be connected to, and goes on saying that it lives.
fn announce<R: Host>(log: &log::Flags, server: &Server<R>) -> Result<(), Failure> {
    for address in addresses(server)? {
        log::ready(log, &address);
    }
    systemd::ready();
    systemd::keep_watchdog(server.runtime())
}

/// Runs two futures side by side.
pub(super) async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let mut first = None;
    let second = poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(cx)
        {
            first = Some(output);
        }
        b.as_mut().poll(cx)
    })
    .await;
    let first = match first {
        Some(output) => output,
        None => a.await,
    };
    (first, second)
}

async fn bind<R: Host>(
    runtime: &R,
    address: &str,
    sockets: &systemd::Sockets,
) -> Result<Server<R>, Failure> {
    let server = match systemd::Passed::parse(address) {
        Some(meant) => sockets.take(meant).and_then(|sockets| {
            let mut listeners = sockets.into_iter().map(|socket| runtime.listen_inherited(socket));
            let first = listeners.next().expect("`take` returns at least one")?;
            let server = Server::new(runtime.clone(), first);
            listeners.try_fold(server, |server, listener| Ok(server.with_listener(listener?)))
        }),
        None => runtime.bind(address).await,
    };
    server.map_err(|error| Failure::Listen { address: address.to_string(), error })
}

/// The addresses that a server listens on.
pub(super) fn addresses<R: Host>(server: &Server<R>) -> Result<Vec<Address>, Failure> {
    let failed = |error| Failure::Listen { address: "a socket".into(), error };
    server.addresses().map_err(failed)
}

/// The limits of a server; without room for a connection, they admit none.
fn limits(flags: &Flags, files_per_connection: u64, kept: u64) -> Limits {
    let files = open_files();
    let has_status = flags.common.status.address.is_some();
    let room = files.saturating_sub(kept) / files_per_connection;
    let default = Limits::default().connections as u64;
    let connections = if let Some(wanted) = flags.max_connections {
        let note = if has_status { ", some of which are kept for --status," } else { "" };
        if wanted > room && (room > 0 || !has_status) {
            warn!(
                "--max-connections {wanted}: the limit of {files} open files{note} allows {room}"
            );
        }
        // The status is to answer also when all files are open: some are kept for it.
        if has_status { wanted.min(room) } else { wanted }
    } else {
        // A little less is not worth a line in every log.
        if (1..default / 2).contains(&room) {
            warn!(
                "{default} connections is the default; the limit of {files} open files \
                 (ulimit -n) allows {room} of them"
            );
        }
        room.min(default)
    };
    Limits {
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
        per_address: flags.max_per_address.0,
    }
}

/// Open files that are not connections of the service.
fn kept_files<R: Host>(has_status: bool) -> u64 {
    let status = if has_status { status::MAX_CONNECTIONS * R::FILES_PER_CONNECTION } else { 0 };
    RESERVED_FILES + status as u64
}

/// Raises the soft limit of open files to the hard one, and answers it (getrlimit(2)).
pub(super) fn open_files() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024)
}

/// Open files that are not connections: the standard streams, listeners, the runtime's own.
pub(super) const RESERVED_FILES: u64 = 64;

/// The first SIGTERM, SIGINT or SIGHUP asks for a graceful end, the second one ends the process.
/// SIGUSR1 and SIGUSR2 are ignored. (A SIGHUP that is ignored at the start stays ignored:
/// nohup(1).)
///
/// Readiness ends first; `lame_duck` later, connections are refused.
///
/// The first signal is received as a byte on a socket, so a process with one thread needs no second
/// one, which would make every system call slower (the table of files is then shared). The second
/// signal ends the process in the signal handler, even if the runtime is stuck. Signals that arrive
/// together count as one: timeout(1) sends its signal twice.
fn stop_on_signals<R: Host>(
    runtime: &R,
    shutdown: ShutdownHandle,
    readiness: Option<Readiness>,
    lame_duck: Duration,
) -> Result<(), Failure> {
    for signal in [SIGUSR1, SIGUSR2] {
        flag::register(signal, Arc::default()).map_err(Failure::Signals)?;
    }
    let signals =
        if ignores_hangup() { &[SIGTERM, SIGINT][..] } else { &[SIGTERM, SIGINT, SIGHUP] };
    let ends_process = Arc::new(AtomicBool::new(false));
    let handle = |&signal| {
        let (told, tells) = UnixStream::pair()?;
        pipe::register(signal, tells)?;
        flag::register_conditional_default(signal, ends_process.clone())?;
        Ok((signal_name(signal).unwrap_or("signal"), runtime.adopt(told)?))
    };
    let told = signals.iter().map(handle).collect::<io::Result<Vec<_>>>();
    let mut told = told.map_err(Failure::Signals)?;
    let mut clock = runtime.clock();
    let then_end = ends_process.clone();
    let wait = async move {
        let name = poll_fn(|cx| {
            let mut is_told = |socket: &mut R::Socket| socket.poll_read(cx, &mut [0]).is_ready();
            let name = told.iter_mut().find_map(|(name, socket)| is_told(socket).then_some(*name));
            name.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let now = clock.now();
        if let Some(readiness) = &readiness {
            readiness.end();
        }
        systemd::stopping();
        if lame_duck.is_zero() {
            info!("{name}: no connection is accepted any more; a second signal ends at once");
            shutdown.drain();
        } else {
            info!(
                "{name}: no connection is accepted after {lame_duck:?}; a second signal ends at once"
            );
        }
        poll_fn(|cx| clock.poll_until(cx, now + AT_ONCE)).await;
        then_end.store(true, Ordering::SeqCst);
        poll_fn(|cx| clock.poll_until(cx, now + lame_duck)).await;
        shutdown.drain();
    };
    runtime.spawn(wait).map_err(Failure::Signals)?;
    if has_threads() {
        arm_on_thread(signals, ends_process).map_err(Failure::Signals)?;
    }
    Ok(())
}

/// Arms the second signal from a thread, for a runtime that is stuck when the first one arrives.
fn arm_on_thread(signals: &[c_int], ends_process: Arc<AtomicBool>) -> io::Result<()> {
    let (mut first, tells) = UnixStream::pair()?;
    for &signal in signals {
        pipe::register(signal, tells.try_clone()?)?;
    }
    let wait = move || {
        if first.read_exact(&mut [0]).is_ok() {
            thread::sleep(AT_ONCE);
            ends_process.store(true, Ordering::SeqCst);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

/// Whether this process has more than one thread, not counting the log's, which is temporary
/// (proc(5)).
fn has_threads() -> bool {
    let of_log = usize::from(STANDARD_ERROR.has_writer());
    fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1 + of_log)
}

/// Whether this process was started with SIGHUP ignored (`SigIgn`, a mask; proc(5)).
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (SIGHUP - 1) != 0)
}

/// A signal that comes so soon after the first is not a second one.
const AT_ONCE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use signal_hook::low_level::raise;

    use super::*;

    #[test]
    fn the_second_signal_ends_the_process_although_no_runtime_has_heard_of_the_first() {
        let ends_process = Arc::new(AtomicBool::new(false));
        // A signal that nothing else sends to this process.
        arm_on_thread(&[SIGUSR2], ends_process.clone()).unwrap();
        assert!(!ends_process.load(Ordering::SeqCst));
        raise(SIGUSR2).unwrap();
        while !ends_process.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    }
}
