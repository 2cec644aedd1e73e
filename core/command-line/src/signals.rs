//! Signals: the first one starts a graceful shutdown, the second one ends the process.

use core::{ffi::c_int, task::Poll, time::Duration};
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

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    flag,
    low_level::{pipe, signal_name},
};
use tracing::info;
use wirestate_core::{
    drive::{Clock, Source},
    quantity::Time,
    shutdown::ShutdownHandle,
    status::ReadinessHandle,
};

use crate::{CommandError, CommandRuntime, standard_error::STANDARD_ERROR, systemd};

/// Help on signals, for servers.
pub(super) const HELP: [(&str, &str); 3] = [
    (
        "SIGTERM, SIGINT",
        "The server stops accepting, lets open connections end, and exits. A second signal ends \
         the process at once",
    ),
    (
        "SIGHUP",
        "Files are read again: the configuration, certificates, keys and credentials, the table; \
         access logs are opened again",
    ),
    ("SIGUSR1, SIGUSR2", "Ignored"),
];

/// Handles signals until the process ends: the first SIGTERM or SIGINT starts a graceful shutdown,
/// the second one ends the process. SIGUSR1 and SIGUSR2 are ignored. Returns a socket on which each
/// SIGHUP arrives as a byte; `None` if SIGHUP is ignored at the start (nohup(1)). It stays ignored
/// then.
///
/// On the first signal, `readiness` ends at once, and the drain begins after `lame_duck`. Signals
/// within 100 ms count as one: timeout(1) sends its signal twice.
///
/// The first signal arrives as a byte on a socket, so that a process with a single thread needs no
/// second one. A second thread makes every system call slower, because the threads share the table
/// of open files. The second signal ends the process in the signal handler, even if the runtime is
/// stuck.
pub(super) fn handle_signals<R: CommandRuntime>(
    runtime: &R,
    shutdown: ShutdownHandle,
    readiness: Option<ReadinessHandle>,
    lame_duck: Duration,
) -> Result<Option<R::Socket>, CommandError> {
    for signal in [SIGUSR1, SIGUSR2] {
        flag::register(signal, Arc::default()).map_err(CommandError::Signals)?;
    }
    let signals = &[SIGTERM, SIGINT];
    let ends_process = Arc::new(AtomicBool::new(false));
    let register = |&signal| {
        let (receiver, sender) = UnixStream::pair()?;
        pipe::register(signal, sender)?;
        flag::register_conditional_default(signal, ends_process.clone())?;
        Ok((signal_name(signal).unwrap_or("signal"), runtime.adopt(receiver)?))
    };
    let receivers = signals.iter().map(register).collect::<io::Result<Vec<_>>>();
    let mut receivers = receivers.map_err(CommandError::Signals)?;
    let hangup = if ignores_hangup() { None } else { Some(hangup(runtime)?) };
    let mut clock = runtime.clock();
    let ends_process_later = ends_process.clone();
    let wait = async move {
        let name = poll_fn(|cx| {
            let mut has_signal = |socket: &mut R::Socket| socket.poll_read(cx, &mut [0]).is_ready();
            let signalled =
                receivers.iter_mut().find_map(|(name, socket)| has_signal(socket).then_some(*name));
            signalled.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let now = clock.now();
        if let Some(readiness) = &readiness {
            readiness.end();
        }
        shutdown.soft_stop();
        systemd::notify_stopping();
        if lame_duck.is_zero() {
            info!("{name}: no connection is accepted any more; a second signal ends the process");
            shutdown.drain();
        } else {
            info!(
                "{name}: no connection is accepted after {}; a second signal ends the process",
                Time(lame_duck)
            );
        }
        poll_fn(|cx| clock.poll_until(cx, now + SAME_SIGNAL)).await;
        ends_process_later.store(true, Ordering::SeqCst);
        poll_fn(|cx| clock.poll_until(cx, now + lame_duck)).await;
        shutdown.drain();
    };
    runtime.spawn(wait).map_err(CommandError::Signals)?;
    if has_threads() {
        set_on_thread(signals, ends_process).map_err(CommandError::Signals)?;
    }
    Ok(hangup)
}

/// A socket with a byte for each SIGHUP.
fn hangup<R: CommandRuntime>(runtime: &R) -> Result<R::Socket, CommandError> {
    let register = || {
        let (receiver, sender) = UnixStream::pair()?;
        pipe::register(SIGHUP, sender)?;
        runtime.adopt(receiver)
    };
    register().map_err(CommandError::Signals)
}

/// Starts a thread that sets `ends_process` after the first signal, even if the runtime is stuck.
pub(super) fn set_on_thread(signals: &[c_int], ends_process: Arc<AtomicBool>) -> io::Result<()> {
    let (mut receiver, sender) = UnixStream::pair()?;
    for &signal in signals {
        pipe::register(signal, sender.try_clone()?)?;
    }
    let wait = move || {
        if receiver.read_exact(&mut [0]).is_ok() {
            thread::sleep(SAME_SIGNAL);
            ends_process.store(true, Ordering::SeqCst);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

/// Whether this process has more than one thread (proc(5)). The log's thread, which is temporary,
/// does not count.
pub(super) fn has_threads() -> bool {
    let log_threads = usize::from(STANDARD_ERROR.has_writer());
    fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1 + log_threads)
}

/// Whether this process was started with SIGHUP ignored (`SigIgn`, a mask; proc(5)).
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (SIGHUP - 1) != 0)
}

/// A signal within this time after the first one is not a second signal.
pub(super) const SAME_SIGNAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use signal_hook::low_level::raise;

    use super::*;

    #[test]
    fn the_second_signal_ends_the_process_although_the_runtime_has_not_seen_the_first() {
        let ends_process = Arc::new(AtomicBool::new(false));
        // A signal that nothing else sends to this process.
        set_on_thread(&[SIGUSR2], ends_process.clone()).unwrap();
        assert!(!ends_process.load(Ordering::SeqCst));
        raise(SIGUSR2).unwrap();
        while !ends_process.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    }
}
