//! What a service manager gives to a server, and is told by it: sockets that listen already
//! (`sd_listen_fds(3)`), and how it goes (`sd_notify(3)`).

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

use crate::{Failure, Host};

/// The sockets that were passed and are not taken yet, with their names, in order. `None` is a
/// descriptor of another kind: a FIFO, a file.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    passed: Lock<Vec<(String, Option<OwnedFd>)>>,
}

impl Sockets {
    /// Takes them out of the environment, whose variables are removed: for the start of a program,
    /// when it has no other thread.
    pub(super) fn from_environment() -> Self {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut inherited = ListenFd::from_env();
        let mut passed = Vec::new();
        for index in 0..inherited.len() {
            let name = names.next().unwrap_or_default().to_owned();
            // A descriptor of another kind stays in its place. The listener's error names its kind.
            let socket = owned(inherited.take_tcp_listener(index))
                .or_else(|_| owned(inherited.take_unix_listener(index)))
                .or_else(|_| owned(inherited.take_udp_socket(index)))
                .or_else(|_| owned(inherited.take_unix_datagram(index)))
                .or_else(|_| inherited.take_custom(index, AF_UNIX, SOCK_SEQPACKET, "seqpacket"));
            passed.push((name, socket.ok().flatten()));
        }
        Self { passed: Lock::new(passed) }
    }

    /// Takes the sockets that `meant` selects, at least one.
    pub(super) fn take(&self, meant: Passed<'_>) -> io::Result<Vec<OwnedFd>> {
        let taken: Vec<_> = self.passed.with(|passed| match meant {
            Passed::Next => passed.drain(..passed.len().min(1)).collect(),
            Passed::Named(wanted) => passed.extract_if(.., |(name, _)| name == wanted).collect(),
        });
        if taken.is_empty() {
            let message = match meant {
                Passed::Next => "no socket was passed (LISTEN_FDS), or all are taken".into(),
                Passed::Named(name) => {
                    format!("no socket called `{name}` was passed (LISTEN_FDNAMES)")
                }
            };
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        let sockets = taken.into_iter().map(|(_, socket)| {
            let message = "the descriptor that was passed is no TCP or Unix socket";
            socket.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, message))
        });
        sockets.collect()
    }
}

fn owned<S: Into<OwnedFd>>(taken: io::Result<Option<S>>) -> io::Result<Option<OwnedFd>> {
    taken.map(|socket| socket.map(Into::into))
}

/// The values of Linux (socket(2)).
const AF_UNIX: i32 = 1;
const SOCK_SEQPACKET: i32 = 5;

/// Selects sockets that were passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed<'a> {
    /// `systemd`: the first one that is not taken.
    Next,
    /// `systemd:NAME`: all sockets of that name (`FileDescriptorName=`), which the sockets of one
    /// unit share.
    Named(&'a str),
}

impl<'a> Passed<'a> {
    /// What `address` means, where it means one of them.
    pub(super) fn parse(address: &'a str) -> Option<Self> {
        match address.strip_prefix("systemd")? {
            "" => Some(Self::Next),
            rest => rest.strip_prefix(':').map(Self::Named),
        }
    }
}

/// The server can be connected to. A manager that does not hear of it takes the start for failed.
pub(super) fn ready() {
    let _ = notify(&NotifyState::Ready, PATIENCE, true);
}

/// The server was asked to stop.
pub(super) fn stopping() {
    if notify(&NotifyState::Stopping, Duration::ZERO, false).is_err() {
        // The drain does not wait for it, and a second signal is heard.
        let again = || drop(notify(&NotifyState::Stopping, PATIENCE, true));
        let _ = thread::Builder::new().name("stopping".into()).spawn(again);
    }
}

/// For what is told once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells the service manager, where there is one; waits for so long at most where it does not take
/// its messages. (`sd_notify::notify` waits for ever.) Where it can't be told, which is logged if it
/// `is_news`, the server runs all the same.
fn notify(state: &NotifyState<'_>, patience: Duration, is_news: bool) -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let tell = || {
        let address = match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&socket),
        }?;
        let manager = UnixDatagram::unbound()?;
        manager.set_nonblocking(patience.is_zero())?;
        manager.set_write_timeout(Some(patience).filter(|patience| !patience.is_zero()))?;
        manager.send_to_addr(state.to_string().as_bytes(), &address).map(drop)
    };
    tell().inspect_err(|error| {
        if is_news {
            let socket = socket.display();
            warn!(%error, %socket, "cannot tell the service manager {state}");
        }
    })
}

/// Keeps telling the service manager that the server is alive, if it wants to know (`WatchdogSec=`).
/// It is told by a task among the others: where none is run any more, it is not.
pub(super) fn keep_watchdog<R: Host>(runtime: &R) -> Result<(), Failure> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    // In half of the time, as sd_watchdog_enabled(3) recommends.
    let interval = (limit / 2).max(Duration::from_millis(1));
    let mut clock = runtime.clock();
    let telling = async move {
        let mut is_heard = true;
        loop {
            is_heard = notify(&NotifyState::Watchdog, Duration::ZERO, is_heard).is_ok();
            // What was not heard is said again while there is time.
            let next = clock.now() + if is_heard { interval } else { interval / 4 };
            poll_fn(|cx| clock.poll_until(cx, next)).await;
        }
    };
    runtime.spawn(telling).map_err(Failure::Spawn)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_socket_is_meant_by_name_or_by_order() {
        let socket = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let passed = ["a", "b", "b", "a", "c"].map(|name| (name.to_owned(), Some(socket())));
        let passed = passed.into_iter().chain([("fifo".to_owned(), None)]).collect();
        let sockets = Sockets { passed: Lock::new(passed) };
        let nobody = sockets.take(Passed::Named("d")).unwrap_err();
        assert!(nobody.to_string().contains("`d`"), "{nobody}");
        let count = |meant| sockets.take(meant).unwrap().len();
        assert_eq!(count(Passed::Named("b")), 2, "a unit's sockets have one name");
        assert_eq!(count(Passed::Next), 1);
        assert_eq!(count(Passed::Named("a")), 1);
        let fifo = sockets.take(Passed::Named("fifo")).unwrap_err();
        assert_eq!(fifo.to_string(), "the descriptor that was passed is no TCP or Unix socket");
        assert_eq!(count(Passed::Next), 1);
        sockets.take(Passed::Next).unwrap_err();
        assert_eq!(Passed::parse("systemd"), Some(Passed::Next));
        assert_eq!(Passed::parse("systemd:web"), Some(Passed::Named("web")));
        assert_eq!(Passed::parse("systemd.example:80"), None);
    }
}
