//! The service manager: sockets inherited from it (`sd_listen_fds(3)`), and notifications to it
//! (`sd_notify(3)`).

use core::time::Duration;
use std::{
    env,
    future::poll_fn,
    io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    thread,
};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::warn;
use wirestate_core::{drive::Clock, shared::Lock};

use crate::{CommandError, CommandRuntime};

/// Listening sockets that the process has inherited, with their names, in order. [`Self::take`]
/// removes the sockets that it returns. `None` is a descriptor that is not a socket: a FIFO, a
/// file.
#[derive(Debug, Default)]
pub(super) struct InheritedSockets {
    sockets: Lock<Vec<(String, Option<OwnedFd>)>>,
}

impl InheritedSockets {
    /// Reads the sockets from environment variables, and removes these variables. Call it while the
    /// process has a single thread.
    pub(super) fn from_environment() -> Self {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut inherited = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..inherited.len() {
            let name = names.next().unwrap_or_default().to_owned();
            // Sockets of other kinds are included: the error of the listener names the kind.
            let socket = owned(inherited.take_tcp_listener(index))
                .or_else(|_| owned(inherited.take_unix_listener(index)))
                .or_else(|_| owned(inherited.take_udp_socket(index)))
                .or_else(|_| owned(inherited.take_unix_datagram(index)))
                .or_else(|_| inherited.take_custom(index, AF_UNIX, SOCK_SEQPACKET, "seqpacket"));
            sockets.push((name, socket.ok().flatten()));
        }
        Self { sockets: Lock::new(sockets) }
    }

    /// Takes the sockets that `selector` selects. Returns at least one.
    ///
    /// # Errors
    /// No socket is selected, or a descriptor is not a socket.
    pub(super) fn take(&self, selector: SocketSelector<'_>) -> io::Result<Vec<OwnedFd>> {
        let taken: Vec<_> = self.sockets.with(|sockets| match selector {
            SocketSelector::Next => sockets.drain(..sockets.len().min(1)).collect(),
            SocketSelector::Named(selected) => {
                sockets.extract_if(.., |(name, _)| name == selected).collect()
            }
        });
        if taken.is_empty() {
            let message = match selector {
                SocketSelector::Next => {
                    "no socket was passed (LISTEN_FDS), or all are in use".into()
                }
                SocketSelector::Named(name) => {
                    format!("no socket called `{name}` was passed (LISTEN_FDNAMES)")
                }
            };
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        let sockets = taken.into_iter().map(|(_, socket)| {
            let message = "the descriptor that was passed is not a TCP or Unix socket";
            socket.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, message))
        });
        sockets.collect()
    }
}

fn owned<S: Into<OwnedFd>>(taken: io::Result<Option<S>>) -> io::Result<Option<OwnedFd>> {
    taken.map(|socket| socket.map(Into::into))
}

/// Which inherited sockets to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketSelector<'a> {
    /// `systemd`: the first socket that was not taken yet.
    Next,
    /// `systemd:NAME`: all sockets of that name (`FileDescriptorName=`). The sockets of one unit
    /// have the same name.
    Named(&'a str),
}

impl<'a> SocketSelector<'a> {
    /// Parses `address`. Returns `None` if it is another kind of address.
    pub(super) fn parse(address: &'a str) -> Option<Self> {
        match address.strip_prefix("systemd")? {
            "" => Some(Self::Next),
            rest => rest.strip_prefix(':').map(Self::Named),
        }
    }
}

/// Notifies the service manager that the server listens. Without this notification, the manager
/// treats the start as failed.
pub(super) fn notify_ready() {
    let _ = notify(&[NotifyState::Ready], NOTIFY_TIMEOUT, true);
}

/// Notifies the service manager that the configuration is loaded again; [`notify_ready`] ends that
/// (`Type=notify-reload`, systemd.service(5)).
pub(super) fn notify_reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    let _ = notify(&[NotifyState::Reloading, now], NOTIFY_TIMEOUT, true);
}

/// Notifies the service manager that the server shuts down.
pub(super) fn notify_stopping() {
    if notify(&[NotifyState::Stopping], Duration::ZERO, false).is_err() {
        // Retries on a thread: the drain does not wait, and a second signal is handled.
        let retry = || drop(notify(&[NotifyState::Stopping], NOTIFY_TIMEOUT, true));
        let _ = thread::Builder::new().name("stopping".into()).spawn(retry);
    }
}

/// Notifies the service manager, if there is one. Waits for at most `timeout` if its socket is
/// full. (`sd_notify::notify` waits without limit.)
///
/// # Errors
/// The notification was not sent. It is logged if `logs_failure`, and the server continues.
fn notify(states: &[NotifyState<'_>], timeout: Duration, logs_failure: bool) -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let message = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let send = || {
        let address = match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&socket),
        }?;
        let manager = UnixDatagram::unbound()?;
        manager.set_nonblocking(timeout.is_zero())?;
        manager.set_write_timeout(Some(timeout).filter(|timeout| !timeout.is_zero()))?;
        manager.send_to_addr(message.as_bytes(), &address).map(drop)
    };
    send().inspect_err(|error| {
        if logs_failure {
            let socket = socket.display();
            warn!(%error, %socket, "cannot notify the service manager: {message}");
        }
    })
}

/// Starts a task that notifies the service manager's watchdog at intervals, if the watchdog is
/// enabled (`WatchdogSec=`). If the runtime no longer runs tasks, the notifications end.
pub(super) fn keep_watchdog<R: CommandRuntime>(runtime: &R) -> Result<(), CommandError> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    // Half of the limit, as sd_watchdog_enabled(3) recommends.
    let interval = (limit / 2).max(Duration::from_millis(1));
    let mut clock = runtime.clock();
    let notifying = async move {
        let mut was_sent = true;
        loop {
            was_sent = notify(&[NotifyState::Watchdog], Duration::ZERO, was_sent).is_ok();
            // After a failure, notifies again before the watchdog's limit.
            let next = clock.now() + if was_sent { interval } else { interval / 4 };
            poll_fn(|cx| clock.poll_until(cx, next)).await;
        }
    };
    runtime.spawn(notifying).map_err(CommandError::Spawn)
}

/// How long a notification may take that is sent only once.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// The values of Linux (socket(2)).
const AF_UNIX: i32 = 1;
const SOCK_SEQPACKET: i32 = 5;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_socket_is_selected_by_name_or_by_order() {
        let socket = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let sockets = ["a", "b", "b", "a", "c"].map(|name| (name.to_owned(), Some(socket())));
        let sockets = sockets.into_iter().chain([("fifo".to_owned(), None)]).collect();
        let sockets = InheritedSockets { sockets: Lock::new(sockets) };
        let missing = sockets.take(SocketSelector::Named("d")).unwrap_err();
        assert!(missing.to_string().contains("`d`"), "{missing}");
        let count = |selector| sockets.take(selector).unwrap().len();
        assert_eq!(count(SocketSelector::Named("b")), 2, "a unit's sockets have one name");
        assert_eq!(count(SocketSelector::Next), 1);
        assert_eq!(count(SocketSelector::Named("a")), 1);
        let fifo = sockets.take(SocketSelector::Named("fifo")).unwrap_err();
        assert_eq!(fifo.to_string(), "the descriptor that was passed is not a TCP or Unix socket");
        assert_eq!(count(SocketSelector::Next), 1);
        sockets.take(SocketSelector::Next).unwrap_err();
        assert_eq!(SocketSelector::parse("systemd"), Some(SocketSelector::Next));
        assert_eq!(SocketSelector::parse("systemd:web"), Some(SocketSelector::Named("web")));
        assert_eq!(SocketSelector::parse("systemd.example:80"), None);
    }
}
