//! The interface to a runtime: it listens, connects, spawns, and has a clock.
//!
//! Code above this interface is the same for all runtimes: [`Server::serve`] and the commands of
//! the binaries run on tokio, smol, threads, and the testkit's simulated network.
//!
//! [`Runtime`] and [`Listener`] are extension points: implement them, with the traits of
//! [`drive`](crate::drive) for the socket and the clock, to run machines on another runtime.

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

pub use crate::address_errors::AddressErrors;
use crate::{
    admission::Peer,
    drive::{Clock, Sink, Source},
    listen::listen,
    quantity::Time,
    serve::Server,
};

/// A runtime. Clones are the same runtime.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// A connected socket, with `TCP_NODELAY` and keepalive probes.
    type Socket: Source + Sink + Unpin + Send + 'static;
    /// A listening socket.
    type Listener: Listener<Socket = Self::Socket>;
    /// A clock. All clocks of one runtime have one epoch.
    type Clock: Clock + Unpin + Send + 'static;

    /// A new clock.
    fn clock(&self) -> Self::Clock;

    /// Runs `task` to its end, concurrently. A panic in it ends only that task.
    ///
    /// A task must be polled with the same waker each time
    /// ([`will_wake`](std::task::Waker::will_wake)), as all common executors do.
    ///
    /// # Errors
    /// The task cannot be started (no thread is available). `task` is dropped.
    fn spawn<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static;

    /// Runs the task of an admitted connection. Default: as [`spawn`](Self::spawn).
    ///
    /// A [`Command`](crate::admission::Command) to the connection may take effect up to 20 ms late:
    /// a runtime of threads may block that long in a read.
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

    /// Makes a server that listens on `address`: a `HOST:PORT`, on all addresses of a name, or a
    /// `unix:PATH`. It has the default settings, and accepts once [`Server::serve`] is called.
    ///
    /// With port 0, all addresses get the same free port. An address whose family this host lacks
    /// is left out if another one works. `[::]` accepts IPv4 as well, so `0.0.0.0` beside it is
    /// left out. [`listen`](Self::listen) makes each listener.
    ///
    /// # Errors
    /// The name is unknown, or listening on one of its addresses fails; the error names the
    /// address ([`AddressErrors`]).
    fn bind(&self, address: &str) -> impl Future<Output = io::Result<Server<Self>>> + Send {
        async move {
            let listeners = listen(self, address).await?;
            Ok(Server::with_listeners(self.clone(), listeners))
        }
    }

    /// Listens on one `address`, an `IP:PORT` or a `unix:PATH`. For a name, use
    /// [`bind`](Self::bind).
    ///
    /// Port 0 takes a free one. Port and address can be used again at once after an earlier
    /// server's end (`SO_REUSEADDR`; socket(7)). The file of a Unix socket is removed when the
    /// listener is dropped. An existing file to which no socket is bound is replaced. The file's
    /// mode decides who may connect; it is 0777 less the umask (unix(7)).
    ///
    /// # Errors
    /// The address has another form, is not this host's, or is in use.
    fn listen(&self, address: &str) -> io::Result<Self::Listener>;

    /// The addresses of a `HOST:PORT`, at least one. A name is looked up off the event loop. The
    /// resolver determines how long that takes.
    ///
    /// # Errors
    /// The address does not have this form, or the name is unknown.
    fn resolve(&self, address: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Connects to `address`, a `HOST:PORT` or a `unix:PATH`. A name is resolved off the event
    /// loop, and its addresses are tried in turn. An attempt fails if the socket connects to itself
    /// (no socket listens there, and the kernel chose that port as the local one). For a
    /// deadline, use [`connect_within`].
    ///
    /// # Errors
    /// The name is unknown, or every address failed. Then the error names each address
    /// ([`AddressErrors`]).
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Socket>> + Send;

    /// Connects to `address`, one of the addresses of `name`, which is a `HOST:PORT`. Default: as
    /// [`connect`](Self::connect).
    ///
    /// A runtime with TLS expects the host of `name` in the server's certificate.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    fn connect_named(
        &self,
        address: &str,
        _name: &str,
    ) -> impl Future<Output = io::Result<Self::Socket>> + Send {
        self.connect(address)
    }

    /// The local address of a connection (getsockname(2)); `None` if it has none. For an accepted
    /// connection, it is the address that the peer connected to.
    fn local_address(&self, socket: &Self::Socket) -> Option<SocketAddr>;

    /// The address to which a connection was made (getpeername(2)). For a Unix socket it is known
    /// only if this process listens on it (`SO_PEERCRED`; unix(7)). `None`, the default, if it is
    /// unknown: a proxy then does not detect that it is its own upstream.
    fn dialled_address(&self, _socket: &Self::Socket) -> Option<Address> {
        None
    }
}

/// A listening socket.
pub trait Listener: Send + 'static {
    /// The accepted sockets.
    type Socket;

    /// The address that it listens on, with the port that the kernel chose for port 0.
    ///
    /// # Errors
    /// The operating system cannot report the address (getsockname(2)).
    fn local_address(&self) -> io::Result<Address>;

    /// The next connection.
    ///
    /// # Errors
    /// Accepting failed. The listener can still be used.
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Self::Socket, Peer), AcceptError>>;

    /// Closes the backlog for new connections, where the operating system can do that. Connections
    /// in the backlog are still accepted: from now on, [`poll_accept`](Self::poll_accept) asks the
    /// kernel for them regardless of the listener's readiness.
    ///
    /// A TCP peer that connects between this call and the listener's drop gets no answer, and tries
    /// again (after 1 s on Linux). On a Unix socket it is refused.
    ///
    /// A listener that another process may share (systemd's socket activation) keeps its backlog
    /// open, and accepts nothing more: the other process accepts the backlog.
    fn shut_down(&mut self);
}

/// Why accepting failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum AcceptError {
    /// One connection ended before it was accepted, or a signal interrupted the call. The next call
    /// accepts the next connection.
    Aborted(io::Error),
    /// Descriptors or memory are exhausted (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`). The next call
    /// would fail likewise, so pause before it.
    Exhausted(io::Error),
}

impl AcceptError {
    /// The label under which the failure is counted.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Aborted(_) => "aborted",
            Self::Exhausted(_) => "exhausted",
        }
    }
}

impl From<io::Error> for AcceptError {
    /// Classifies the error by accept(2), section "Error handling": network errors that were
    /// pending on the new socket concern that connection only, so the caller tries again.
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
            // An unknown error must not cause a busy loop either.
            _ => Self::Exhausted(error),
        }
    }
}

/// The address of a listening socket. It displays in the form that [`Runtime::connect`] takes.
///
/// On a Unix socket, a peer has no address ([`Peer::Local`]), and there are no resets: the kernel
/// reports the end of the input when the peer closes, and `ECONNRESET` only if the peer left data
/// unread (unix(7)). So if a machine resets such a connection, its peer may see a clean end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// The file of a Unix socket; or `@` and a name in the abstract namespace (unix(7)), as systemd
    /// and ss(8) write it.
    Unix(PathBuf),
}

impl Address {
    /// The IP address and port; `None` for a Unix socket.
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

/// Connects within `limit`; `None`: within the operating system's limit (about two minutes on
/// Linux).
///
/// # Errors
/// As [`Runtime::connect`], or [`io::ErrorKind::TimedOut`].
pub async fn connect_within<R: Runtime>(
    runtime: &R,
    address: &str,
    limit: Option<Duration>,
) -> io::Result<R::Socket> {
    connect_retrying(runtime, address, limit, Duration::ZERO).await
}

/// As [`connect_within`], but while no socket listens at `address`, it tries again for `retry_for`,
/// and at most for `limit`. For a client that may be started before its server.
///
/// It pauses between attempts: 5 ms, doubling to 100 ms. Only these errors are retried: a refused
/// connection (`ECONNREFUSED`), and a Unix socket whose file does not exist (`ENOENT`; unix(7)).
///
/// # Errors
/// As [`connect_within`]. After `retry_for`, it is the error of the last attempt.
pub async fn connect_retrying<R: Runtime>(
    runtime: &R,
    address: &str,
    limit: Option<Duration>,
    retry_for: Duration,
) -> io::Result<R::Socket> {
    let mut clock = runtime.clock();
    let retry_until = clock.now() + limit.map_or(retry_for, |limit| limit.min(retry_for));
    let attempts = async {
        let mut clock = runtime.clock();
        let mut pause = MIN_RETRY_PAUSE;
        loop {
            let connected = runtime.connect(address).await;
            let next = clock.now() + pause;
            match connected {
                Err(error) if next <= retry_until && may_listen_later(&error, address) => {}
                connected => return connected,
            }
            poll_fn(|cx| clock.poll_until(cx, next)).await;
            pause = (pause * 2).min(MAX_RETRY_PAUSE);
        }
    };
    within(&mut clock, limit, attempts).await.unwrap_or_else(|limit| Err(no_answer(limit)))
}

/// The error of an attempt that has taken `limit`.
pub(crate) fn no_answer(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {}", Time(limit)))
}

/// Whether an attempt has failed because no socket listens at `address`.
fn may_listen_later(error: &io::Error, address: &str) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
        || error.kind() == io::ErrorKind::NotFound && unix_path(address).is_some()
}

/// Runs `future` to its end, for at most `limit`; `None`: without a limit.
///
/// # Errors
/// The limit, if it has elapsed. `future` is dropped.
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

/// The requested backlog: how many connections may wait to be accepted. Linux limits it to
/// `net.core.somaxconn` (listen(2)).
pub const BACKLOG: u16 = 4096;
/// The first pause between attempts to connect to an address where no socket listens.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(5);
/// The longest of these pauses.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The prefix of the address of a Unix socket.
const UNIX: &str = "unix:";
/// `EPROTO` on Linux (errno(3)). [`io::ErrorKind`] has no variant for it.
const EPROTO: i32 = 71;
