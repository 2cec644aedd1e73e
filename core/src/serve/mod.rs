//! Serving: accepting connections under limits, and a shutdown that loses no data.
//!
//! [`Runtime::bind`] makes a [`Server`]; [`Server::serve`] runs a machine on each connection. A
//! [`ServerHandle`] observes the server and shuts it down.
//!
//! ```no_run
//! use wirestate_core::{Runtime, admission::Limits, echo, serve};
//!
//! # async fn example<R: Runtime>(runtime: R) -> std::io::Result<()> {
//! let limits = Limits { connections: 100, per_address: None };
//! let handle = serve::ServerHandle::new(serve::Config::default().with_limits(limits));
//! let server = runtime.bind("localhost:7").await?.with_handle(&handle);
//! println!("listening on {:?}", server.addresses()?); // for example [::1]:7 and 127.0.0.1:7
//!
//! let echo = echo::Server::default();
//! runtime.spawn(server.serve(move |_, now| echo.machine(now)))?;
//! println!("{} connections", handle.table().totals().open);
//! handle.drain();
//! # Ok(())
//! # }
//! ```

mod accept;
mod drain;
mod listening;

pub use self::listening::Listening;

use std::{fmt, future::Future, io, time::Duration, vec::Vec};

use self::{
    accept::Accepting,
    drain::{drain, empty_or_drained},
};
use crate::{
    Instant, Machine,
    admission::{
        AccessList, Admitted, ConnectionEntry, ConnectionTable, EndObserver, Limits, Rates,
        TableConfig,
    },
    config::with_setters,
    drive::{Clock, Drive},
    idle::IdleConnections,
    listen::Listeners,
    runtime::{Address, Runtime},
    shared::{Lock, Shared},
    shutdown::ShutdownHandle,
};

/// The settings of a [`Server`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How many connections may be open. Default: [`Limits::default`].
    pub limits: Limits,
    /// How long connections may take to end after [`ServerHandle::drain`]; then they are reset.
    /// `None`: no limit. Time in which the process is stopped (SIGSTOP, a suspended machine) does
    /// not count. Default: 10 s.
    pub drain_timeout: Option<Duration>,
    /// The server's name, the field `server` of its log lines. Default: none.
    pub name: Option<Shared<str>>,
    /// Whether connections come through proxies and begin with a PROXY header. They count towards
    /// [`Limits::per_address`] under the address that the header names. Default: false.
    pub behind_proxies: bool,
    /// Is called at the end of each connection. Default: none.
    pub on_end: Option<EndObserver>,
    /// Which addresses may connect; with [`behind_proxies`](Self::behind_proxies), which addresses
    /// a header may name. Default: all.
    pub access: Shared<AccessList>,
    /// How many connections may be new, and how many bytes may move, in a second. Default: no
    /// limits.
    pub rates: Rates,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            drain_timeout: Some(Duration::from_secs(10)),
            name: None,
            behind_proxies: false,
            on_end: None,
            access: Shared::default(),
            rates: Rates::default(),
        }
    }
}

impl Config {
    with_setters! {
        with_limits(limits: Limits);
        with_drain_timeout(drain_timeout: impl Into<Option<Duration>>);
        with_behind_proxies(behind_proxies: bool);
        with_on_end(on_end: impl Into<Option<EndObserver>>);
        with_access(access: impl Into<Shared<AccessList>>);
        with_rates(rates: Rates);
    }

    /// Sets [`name`](Self::name).
    pub fn with_name(mut self, name: impl Into<Shared<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    fn into_table_config(self) -> TableConfig {
        let Self { limits, drain_timeout: _, name: _, behind_proxies, access, rates, on_end } =
            self;
        TableConfig { limits, behind_proxies, access, rates, on_end }
    }
}

/// A handle on a server: its settings, its table of connections, and its shutdown. Clones are
/// handles on the same server.
///
/// It can be made before the server ([`Server::with_handle`]), or taken from it
/// ([`Server::handle`]).
#[derive(Clone, Debug)]
pub struct ServerHandle {
    table: ConnectionTable,
    shutdown: ShutdownHandle,
    drain_timeout: Shared<Lock<Option<Duration>>>,
}

impl ServerHandle {
    /// A handle on a server with these settings.
    pub fn new(config: Config) -> Self {
        let (name, drain_timeout) = (config.name.clone(), config.drain_timeout);
        let table = ConnectionTable::with(name, config.into_table_config());
        let drain_timeout = Shared::new(Lock::new(drain_timeout));
        Self { table, shutdown: ShutdownHandle::new(), drain_timeout }
    }

    /// Changes the settings, apart from the name: the limits for connections from now on, and the
    /// timeout of later drains. Open connections stay.
    pub fn reconfigure(&self, config: &Config) {
        self.table.reconfigure(config.clone().into_table_config());
        self.drain_timeout.with(|timeout| *timeout = config.drain_timeout);
    }

    /// The same server, shut down by `shutdown`, which can be shared by several servers.
    ///
    /// Call it before the server is made: existing clones keep their own.
    pub fn with_shutdown(self, shutdown: ShutdownHandle) -> Self {
        Self { shutdown, ..self }
    }

    /// The table of open connections, with the counters of all connections.
    pub fn table(&self) -> &ConnectionTable {
        &self.table
    }

    /// The handle that shuts the server down.
    pub fn shutdown(&self) -> &ShutdownHandle {
        &self.shutdown
    }

    /// Requests that no further connection is accepted. [`Server::serve`] accepts the backlog and
    /// returns. Open connections continue: see [`ended`](Self::ended).
    pub fn soft_stop(&self) {
        self.shutdown.soft_stop();
    }

    /// Waits, after a soft stop, until all connections have ended. If a [`drain`](Self::drain) or
    /// an [`abort`](Self::abort) is requested meanwhile, carries it out.
    pub async fn ended(&self, clock: &mut impl Clock) -> DrainReport {
        let Self { table, shutdown, drain_timeout } = self;
        empty_or_drained(table, shutdown).await;
        let open = table.connections().len();
        let report = drain(clock, table, open, shutdown, drain_timeout).await;
        table.log_suppressed();
        report
    }

    /// Requests a graceful shutdown: the backlog is accepted, pending output is flushed, and
    /// connections that are still open after [`Config::drain_timeout`] are reset.
    pub fn drain(&self) {
        self.shutdown.drain();
    }

    /// Requests an immediate shutdown: all connections are reset.
    pub fn abort(&self) {
        self.shutdown.abort();
    }
}

impl Default for ServerHandle {
    /// A handle on a server with the default settings.
    fn default() -> Self {
        Self::new(Config::default())
    }
}

/// The outcome of a shutdown, for the connections that were open when it was requested, or were
/// accepted since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that ended before they were reset.
    pub drained: usize,
    /// Connections that were reset, after [`Config::drain_timeout`] or by an immediate shutdown.
    pub aborted: usize,
}

/// A server that listens and is ready to [`serve`](Self::serve).
///
/// From its creation on, the kernel completes handshakes; those connections wait in the backlog.
pub struct Server<R: Runtime> {
    runtime: R,
    listening: Listening<R>,
    handle: ServerHandle,
    idle: Option<IdleConnections>,
}

impl<R: Runtime> fmt::Debug for Server<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runtime: _, listening, handle, idle } = self;
        let mut server = f.debug_struct("Server");
        server.field("addresses", &listening.addresses()).field("handle", handle);
        server.field("idle", idle).finish_non_exhaustive()
    }
}

impl<R: Runtime> Server<R> {
    /// A server that accepts from `listener`, with the default settings. To listen on a name, use
    /// [`Runtime::bind`].
    pub fn new(runtime: R, listener: R::Listener) -> Self {
        Self::with_listeners(runtime, Listeners::new(vec![listener]))
    }

    pub(crate) fn with_listeners(runtime: R, listeners: Listeners<R::Listener>) -> Self {
        let listening = Listening::new(runtime.clone(), listeners);
        Self { runtime, listening, handle: ServerHandle::default(), idle: None }
    }

    /// A server that does not listen, for a program that only connects to others. It has no
    /// connections; it can be drained as any other.
    pub fn without_listener(runtime: R) -> Self {
        Self::with_listeners(runtime, Listeners::new(Vec::new()))
    }

    /// Adds a listener. The server accepts from all of them in turn.
    pub fn with_listener(self, listener: R::Listener) -> Self {
        self.listening.push(listener);
        self
    }

    /// Sets the handle, and with it the settings.
    pub fn with_handle(self, handle: &ServerHandle) -> Self {
        Self { handle: handle.clone(), ..self }
    }

    /// Evicts an idle connection for each new one when [`Limits::connections`] are open. The new
    /// connection waits for up to 1 s until the first of `idle` has ended. The server's machines
    /// must enter `idle` ([`IdleConnections::enter`]). Default: the new connection is refused.
    pub fn with_idle_connections(self, idle: IdleConnections) -> Self {
        Self { idle: Some(idle), ..self }
    }

    /// A handle on this server.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// A handle on its listeners, which can change while it accepts.
    pub fn listening(&self) -> Listening<R> {
        self.listening.clone()
    }

    /// The addresses that it listens on, with the ports that the kernel chose for port 0. At least
    /// one, except of a server [without a listener](Self::without_listener).
    ///
    /// # Errors
    /// The operating system cannot report an address (getsockname(2)).
    pub fn addresses(&self) -> io::Result<Vec<Address>> {
        self.listening.addresses()
    }

    /// The runtime that the server runs on.
    pub fn runtime(&self) -> &R {
        &self.runtime
    }

    /// Accepts connections and runs a machine on each, until a shutdown is requested and all
    /// connections have ended.
    ///
    /// `machine` makes the machine for a connection that was admitted. The accept loop calls it: a
    /// panic in it ends the server.
    pub async fn serve<M>(
        self,
        mut machine: impl FnMut(&Shared<ConnectionEntry>, Instant) -> M + Send,
    ) -> DrainReport
    where
        M: Machine + Unpin + Send + 'static,
        M::Reason: Send + 'static,
    {
        self.accept(|socket, admitted, clock| {
            let machine = machine(&admitted.entry(), clock.now());
            Drive::new(machine, socket, clock).admitted(admitted)
        })
        .await
    }

    /// Accepts connections and spawns a task for each, until a shutdown is requested and all
    /// connections have ended. For connections that are more than one machine on one socket;
    /// otherwise use [`serve`](Self::serve).
    ///
    /// `task` makes the future for a connection that was admitted. The future must apply the
    /// [commands](ConnectionEntry::command) to the connection, as [`Drive::admitted`] does.
    /// Otherwise a shutdown does not end it.
    ///
    /// A drain first accepts the backlog, and connections whose handshakes have begun and end
    /// within 50 ms, because their peers consider themselves connected. It accepts at most
    /// [`BACKLOG`](crate::runtime::BACKLOG) of them, for at most 1 s, and answers their requests. A
    /// peer whose handshake takes longer is reset. An immediate shutdown resets all of them.
    ///
    /// A drain requests the end of a connection at once, or after the backlog if the connection is
    /// younger than 50 ms: its first request may still be on its way.
    pub async fn accept<T>(
        self,
        mut task: impl FnMut(R::Socket, Admitted, R::Clock) -> T + Send,
    ) -> DrainReport
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let Self { runtime, listening, handle, idle } = self;
        let ServerHandle { table, shutdown, drain_timeout } = handle;
        let mut accepting = Accepting::new(runtime, &table, &shutdown, idle);
        accepting.run(&listening, &mut task).await;
        let (mut clock, open) = accepting.end();
        let report = drain(&mut clock, &table, open, &shutdown, &drain_timeout).await;
        table.log_suppressed();
        report
    }
}
