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

/// Listening sockets that the process has inherited, in order.
#[derive(Debug, Default)]
pub(super) struct InheritedSockets {
    sockets: Lock<Vec<InheritedSocket>>,
}

#[derive(Debug)]
struct InheritedSocket {
    name: String,
    /// `None`: the descriptor is not a socket, but a FIFO or a file.
    socket: Option<OwnedFd>,
    /// Whether a server listens on it.
    is_used: bool,
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
            sockets.push(InheritedSocket { name, socket: socket.ok().flatten(), is_used: false });
        }
        Self { sockets: Lock::new(sockets) }
    }

    /// Duplicates the sockets that `selector` selects, for a server: those of the numbers
    /// `given_up`, from which they are removed, otherwise unused ones. Returns at least one, with
    /// its number.
    ///
    /// # Errors
    /// No socket is selected, or a descriptor is not a socket.
    pub(super) fn take(
        &self,
        selector: SocketSelector<'_>,
        given_up: &mut Vec<usize>,
    ) -> io::Result<Vec<(usize, OwnedFd)>> {
        self.sockets.with(|sockets| {
            let unused = (0..sockets.len()).filter(|&number| !sockets[number].is_used);
            let available = given_up.iter().copied().chain(unused);
            let selected = available.filter(|&number| match selector {
                SocketSelector::Next => true,
                SocketSelector::Named(name) => sockets[number].name == name,
            });
            let count = if selector == SocketSelector::Next { 1 } else { usize::MAX };
            let selected: Vec<_> = selected.take(count).collect();
            if selected.is_empty() {
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
            given_up.retain(|number| !selected.contains(number));
            let duplicates = selected.into_iter().map(|number| {
                let message = "the descriptor that was passed is not a TCP or Unix socket";
                let inherited = &mut sockets[number];
                inherited.is_used = true;
                let socket = inherited.socket.as_ref();
                let socket =
                    socket.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, message));
                Ok((number, socket?.try_clone()?))
            });
            duplicates.collect()
        })
    }

    /// Makes all other sockets available.
    pub(super) fn keep(&self, used: &[usize]) {
        self.sockets.with(|sockets| {
            for (number, socket) in sockets.iter_mut().enumerate() {
                socket.is_used = used.contains(&number);
            }
        });
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

/// Notifies the service manager that files are loaded again; [`notify_loaded`] ends that
/// (`Type=notify-reload`, systemd.service(5)). May wait for the manager.
pub(super) fn notify_reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    let _ = notify(&[NotifyState::Reloading, now], NOTIFY_TIMEOUT, true);
}

/// Notifies the service manager that the files are loaded.
pub(super) fn notify_loaded() {
    notify_without_waiting("loaded", NotifyState::Ready);
}

/// Notifies the service manager that the server shuts down.
pub(super) fn notify_stopping() {
    notify_without_waiting("stopping", NotifyState::Stopping);
}

/// Notifies the service manager; on a thread if it does not read at once. So the servers do not
/// wait, and signals are handled.
fn notify_without_waiting(thread: &str, state: NotifyState<'static>) {
    let states = [state];
    if notify(&states, Duration::ZERO, false).is_err() {
        let retry = move || drop(notify(&states, NOTIFY_TIMEOUT, true));
        let _ = thread::Builder::new().name(thread.into()).spawn(retry);
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
        let sockets = ["a", "b", "b", "a", "c"].map(|name| (name, Some(socket())));
        let sockets = sockets.into_iter().chain([("fifo", None)]);
        let inherited = |(name, socket): (&str, _)| InheritedSocket {
            name: name.into(),
            socket,
            is_used: false,
        };
        let sockets =
            InheritedSockets { sockets: Lock::new(sockets.map(inherited).collect::<Vec<_>>()) };
        let take = |selector, given_up: &mut Vec<usize>| sockets.take(selector, given_up);
        let missing = take(SocketSelector::Named("d"), &mut vec![]).unwrap_err();
        assert!(missing.to_string().contains("`d`"), "{missing}");
        let numbers = |selector, given_up: &mut Vec<usize>| {
            let taken = take(selector, given_up).unwrap().into_iter();
            taken.map(|(number, _)| number).collect::<Vec<_>>()
        };
        let (next, named) = (SocketSelector::Next, SocketSelector::Named);
        assert_eq!(numbers(named("b"), &mut vec![]), [1, 2], "a unit's sockets have one name");
        assert_eq!(numbers(next, &mut vec![]), [0]);
        assert_eq!(numbers(named("a"), &mut vec![]), [3]);
        let fifo = take(named("fifo"), &mut vec![]).unwrap_err();
        assert_eq!(fifo.to_string(), "the descriptor that was passed is not a TCP or Unix socket");
        assert_eq!(numbers(next, &mut vec![]), [4]);
        take(next, &mut vec![]).unwrap_err();
        take(named("b"), &mut vec![]).unwrap_err();
        let mut given_up = vec![1, 2];
        assert_eq!(numbers(next, &mut given_up), [1], "the server itself has used it");
        assert_eq!(numbers(named("b"), &mut given_up), [2]);
        assert!(given_up.is_empty());
        sockets.keep(&[0, 3]);
        assert_eq!(numbers(named("b"), &mut vec![]), [1, 2]);
        assert_eq!(SocketSelector::parse("systemd"), Some(SocketSelector::Next));
        assert_eq!(SocketSelector::parse("systemd:web"), Some(SocketSelector::Named("web")));
        assert_eq!(SocketSelector::parse("systemd.example:80"), None);
    }
}
