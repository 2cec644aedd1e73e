//! What a runtime brings, besides sockets and a clock for the [driver](crate::drive): it accepts,
//! connects, spawns.
//!
//! All that is built on it is written once: [`serve`](crate::serve::serve) and the commands of the
//! binaries run on tokio, smol, threads, and on the testkit's simulated network.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    admission::Peer,
    drive::{Clock, Sink, Source},
};

/// A runtime. Clones are the same runtime.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// A connected socket: no delay, and with keepalive probes.
    type Socket: Source + Sink + Unpin + Send + 'static;
    /// A listening socket.
    type Listener: Listener<Socket = Self::Socket>;
    /// A clock. All clocks of one runtime have one epoch.
    type Clock: Clock + Unpin + Send + 'static;

    /// A new clock.
    fn clock(&self) -> Self::Clock;

    /// Runs `task` to its end beside everything else. A panic in it ends that task alone.
    ///
    /// The wakers that a task is polled with must be the same from poll to poll
    /// ([`will_wake`](std::task::Waker::will_wake)), as they are on all common executors.
    ///
    /// # Errors
    /// There is no room for it (no thread could be started); `task` is dropped.
    fn spawn<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static;

    /// Runs the task of a connection that was admitted, as [`spawn`](Self::spawn) does. Commands from
    /// the table of connections may be noticed up to 20 ms late, which lets a thread wait in a read.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    fn spawn_connection<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        self.spawn(task)
    }

    /// Listens on `address`, an `IP:PORT` or a `unix:PATH`. (For a name, which can have several
    /// addresses, use [`listen`](crate::listen::listen).)
    ///
    /// Port 0 takes one that is free. Port and address can be used again at once after an earlier
    /// server's end (`SO_REUSEADDR`; socket(7)). The file of a Unix socket is removed when the
    /// listener is dropped. A file that exists already, to which no socket is bound, is replaced.
    /// Who may connect depends on the file's mode, which is 0777 less the umask (unix(7)).
    ///
    /// # Errors
    /// The address has no such form, is not this machine's, or is in use.
    fn listen(&self, address: &str) -> io::Result<Self::Listener>;

    /// The addresses of a `host:port`, at least one. A name is looked up off the event loop; the
    /// resolver determines how long that takes.
    ///
    /// # Errors
    /// The address does not have this form, or the name is unknown.
    fn resolve(&self, address: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Connects to `address`, a `host:port` or a `unix:PATH`. A name is resolved off the event
    /// loop, and each of its addresses is tried in turn. An attempt fails if the socket connects to
    /// itself (nobody listens there, and the kernel chose that very port as its own). There is no
    /// deadline: the caller sets one.
    ///
    /// # Errors
    /// The name is unknown, or the last of its addresses' errors.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Socket>> + Send;

    /// The address at this end of a connection, which for one that was accepted is the one that the
    /// peer connected to (getsockname(2)); `None` where it has none.
    fn local_address(&self, socket: &Self::Socket) -> Option<SocketAddr>;

    /// The address to which a connection was made (getpeername(2)); of a Unix socket only if this
    /// process listens on it (`SO_PEERCRED`; unix(7)). `None`, the default, if it is not known: a
    /// proxy then does not detect that an upstream is itself.
    fn dialled_address(&self, _socket: &Self::Socket) -> Option<Address> {
        None
    }
}

/// Connects within `limit`, of which `None` is the operating system's own (some two minutes).
///
/// # Errors
/// As [`Runtime::connect`], or [`io::ErrorKind::TimedOut`].
pub async fn connect_within<R: Runtime>(
    runtime: &R,
    address: &str,
    limit: Option<Duration>,
) -> io::Result<R::Socket> {
    within(&mut runtime.clock(), limit, runtime.connect(address)).await.unwrap_or_else(|limit| {
        let message = format!("no answer within {:?}", to_millis(limit));
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    })
}

/// Rounded to milliseconds, if it has some: what is left of a time is no round figure.
fn to_millis(time: Duration) -> Duration {
    const HALF: Duration = Duration::from_micros(500);
    match u64::try_from((time + HALF).as_millis()) {
        Ok(0) | Err(_) => time,
        Ok(millis) => Duration::from_millis(millis),
    }
}

/// Runs `future` to its end, for `limit` at most; `None`: without a limit.
///
/// # Errors
/// The limit, if it ran out; `future` is dropped.
pub async fn within<F: Future>(
    clock: &mut impl Clock,
    limit: Option<Duration>,
    future: F,
) -> Result<F::Output, Duration> {
    let deadline = limit.map(|limit| (limit, clock.now() + limit));
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if let Some((limit, deadline)) = deadline
            && clock.poll_until(cx, deadline).is_ready()
        {
            return Poll::Ready(Err(limit));
        }
        Poll::Pending
    })
    .await
}

/// Where a server listens. It displays as what [`Runtime::connect`] takes.
///
/// On a Unix socket, a peer has no address of its own ([`Peer::Local`]), and there are no resets:
/// the kernel shows a peer that closes as an end of the input, and as `ECONNRESET` only if it left
/// something unread (unix(7)). So where a machine resets such a connection, its peer may take that
/// for a clean end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// The file of a Unix socket; or `@` and a name in the abstract namespace (unix(7)), as systemd
    /// and ss(8) write it.
    Unix(PathBuf),
}

impl Address {
    /// The IP address and port; `None` where it is a file.
    pub fn ip(&self) -> Option<SocketAddr> {
        if let Self::Ip(address) = self { Some(*address) } else { None }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The path, if `address` is a `unix:PATH`. A `unix:@NAME` is in the abstract namespace.
///
/// ```
/// # use std::path::Path;
/// # use wirestate_core::runtime::unix_path;
/// assert_eq!(unix_path("unix:/run/echo.sock"), Some(Path::new("/run/echo.sock")));
/// assert_eq!(unix_path("127.0.0.1:7"), None);
/// ```
pub fn unix_path(address: &str) -> Option<&Path> {
    address.strip_prefix(UNIX).map(Path::new)
}

const UNIX: &str = "unix:";

/// A listening socket.
pub trait Listener: Send + 'static {
    /// What it accepts.
    type Socket;

    /// The address that it listens on, with the real port.
    ///
    /// # Errors
    /// The operating system's (getsockname(2)).
    fn local_address(&self) -> io::Result<Address>;

    /// All addresses that it listens on: several for [`Listeners`](crate::listen::Listeners).
    ///
    /// # Errors
    /// The operating system's (getsockname(2)).
    fn addresses(&self) -> io::Result<Vec<Address>> {
        Ok(vec![self.local_address()?])
    }

    /// The next connection.
    ///
    /// # Errors
    /// No connection this time; the listener is as good as before.
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Self::Socket, Peer), AcceptError>>;

    /// Takes no further connections, where the operating system can do that. Connections in the
    /// backlog are still accepted: from now on [`poll_accept`](Self::poll_accept) asks the kernel
    /// for them, whatever is known of the listener's readiness.
    ///
    /// A TCP peer that connects between now and the listener's drop gets no answer, and tries again
    /// (after 1 s, on Linux); on a Unix socket it is refused. A listener that another process may
    /// share goes on taking connections.
    fn shut_down(&mut self);
}

/// The backlog that is requested: how many connections may wait to be accepted. Linux limits it to
/// `net.core.somaxconn` (listen(2)).
pub const BACKLOG: u16 = 4096;

/// Why accepting came to nothing.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum AcceptError {
    /// That one connection was gone before it was accepted, or a signal came in between. The next
    /// call goes on with the next connection.
    Aborted(io::Error),
    /// Something has run out: descriptors, memory (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`). The
    /// next call would find the same, so wait for a moment before it.
    Exhausted(io::Error),
}

impl AcceptError {
    /// The name under which it is counted.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Aborted(_) => "aborted",
            Self::Exhausted(_) => "exhausted",
        }
    }
}

impl From<io::Error> for AcceptError {
    /// By accept(2), section "Error handling": network errors that are already pending on the new
    /// socket come out of `accept` and are to be treated like a retry.
    fn from(error: io::Error) -> Self {
        use io::ErrorKind;
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours, and open")]
        match error.kind() {
            ErrorKind::Interrupted
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown => Self::Aborted(error),
            _ if error.raw_os_error() == Some(EPROTO) => Self::Aborted(error),
            // An error that nobody knows is not worth a busy loop either.
            _ => Self::Exhausted(error),
        }
    }
}

/// `EPROTO` has no kind of its own (errno(3)).
const EPROTO: i32 = 71;
