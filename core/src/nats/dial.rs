//! A session that is kept connected to one of the servers of a cluster.

use std::{
    convert::Infallible,
    format,
    future::{Future, poll_fn},
    mem,
    pin::pin,
    string::{String, ToString},
    task::Poll,
    time::Duration,
};

use tracing::{info, warn};

use super::{Client, Config, Connection, Credentials, Greeting, Info, Session};
use crate::{
    ConfigError, Event, Machine,
    config::with_setters,
    dial::{Layer, Servers},
    drive::{Clock, Drive},
    log_limit::{LogDecision, LogLimit},
    quantity::Time,
    runtime::{Runtime, connect_within},
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
};

/// Keeps a [`Session`] connected to one of the servers of a cluster.
///
/// It learns the cluster's servers from the one that is connected. When a connection ends, or the
/// server announces its end (lame-duck mode), it dials the next one after a back-off.
#[derive(Debug)]
#[non_exhaustive]
pub struct Dial {
    /// The servers.
    pub servers: Servers,
    /// The credentials of later connections, which can be replaced at any time. Default: those of
    /// the configuration.
    pub credentials: Shared<Lock<Credentials>>,
    /// How long one attempt to connect may take. `None`: the operating system's limit. Default:
    /// 10 s.
    pub connect_timeout: Option<Duration>,
    /// Whether the TLS handshake comes before INFO: `handshake_first` in the server's
    /// configuration. Default: false.
    pub tls_first: bool,
    /// A drain shuts the session down. An immediate shutdown drops the connection. Default: a new
    /// handle.
    pub shutdown: ShutdownHandle,
    /// The name of the server that dials, the field `server` of the log lines. Default: none.
    pub server: Option<Shared<str>>,
    config: Config,
}

/// What has happened to a session's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialEvent<'a> {
    /// The server cannot be connected to, or has not sent INFO before TLS.
    Failed {
        /// The server's address.
        address: &'a str,
        /// Why.
        error: &'a str,
    },
    /// The server has accepted the client.
    Connected {
        /// The server's address.
        address: &'a str,
    },
    /// The connection has ended.
    Ended {
        /// The server's address.
        address: &'a str,
        /// Why.
        reason: &'a str,
    },
}

impl Dial {
    /// Dials `servers`, with clients of this configuration.
    ///
    /// # Errors
    /// A timeout in `config` is zero, or a size is below its minimum.
    pub fn new(servers: Servers, config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            servers,
            credentials: Shared::new(Lock::new(config.credentials.clone())),
            connect_timeout: Some(Duration::from_secs(10)),
            tls_first: false,
            shutdown: ShutdownHandle::new(),
            server: None,
            config,
        })
    }

    with_setters! {
        with_credentials(credentials: Shared<Lock<Credentials>>);
        with_connect_timeout(connect_timeout: impl Into<Option<Duration>>);
        with_tls_first(tls_first: bool);
        with_shutdown(shutdown: ShutdownHandle);
        with_server(server: Option<Shared<str>>);
    }

    /// Keeps a session connected until [`shutdown`](Self::shutdown) is requested and the session
    /// needs no further connection ([`Session::is_done`]).
    ///
    /// Each connection has the `layer` around its machine. With one that encrypts, INFO is received
    /// in plain text before, unless [`tls_first`](Self::tls_first) is set. A server without TLS is
    /// a failed attempt then. `observe` is called for what happens to the connections.
    ///
    /// The back-off restarts after a connection that has lasted for 10 s. Connections, their ends
    /// and failed attempts are logged: 50 lines of each kind at once, then 10 a second.
    pub async fn keep_connected<R, L, S>(
        self,
        runtime: &R,
        layer: &L,
        connection: &mut Connection<S>,
        observe: impl FnMut(DialEvent<'_>),
    ) where
        R: Runtime,
        L: Layer,
        S: Session,
    {
        let (connect_log, is_shut_down) = (LogLimit::default(), false);
        let mut dialling =
            Dialling { dial: self, runtime, layer, connection, observe, connect_log, is_shut_down };
        dialling.run().await;
        let now = runtime.clock().now();
        dialling.connection.disconnect(now);
    }

    /// Connects, and makes the client. Before TLS, waits for INFO.
    async fn connect<R: Runtime>(
        &self,
        runtime: &R,
        is_encrypted: bool,
    ) -> Result<(R::Socket, Client), String> {
        let connected = connect_within(runtime, self.servers.current(), self.connect_timeout).await;
        let mut socket = connected.map_err(|error| format!("cannot connect: {error}"))?;
        let credentials = self.credentials.with(|credentials| credentials.clone());
        let config = self.config.clone().with_credentials(credentials).with_encrypted(is_encrypted);
        let clock = runtime.clock();
        if !is_encrypted || self.tls_first {
            return Ok((socket, Client::new(config, clock.now()).expect(IS_CHECKED)));
        }
        let greeting = Greeting::new(config.clone(), clock.now()).expect(IS_CHECKED);
        let mut drive = Drive::new(greeting, &mut socket, clock);
        let greeted = drive.until(|greeting, _| greeting.info().cloned()).await;
        let info = greeted.map_err(|ended| ended.to_string())?;
        drive.hand_over();
        if !info.tls_required && !info.tls_available {
            return Err("the server has no TLS".into());
        }
        let now = runtime.clock().now();
        Ok((socket, Client::after_greeting(config, info, now).expect(IS_CHECKED)))
    }
}

/// What [`Dial::keep_connected`] does.
struct Dialling<'a, R, L, S, F> {
    dial: Dial,
    runtime: &'a R,
    layer: &'a L,
    connection: &'a mut Connection<S>,
    observe: F,
    connect_log: LogLimit,
    /// The session was told of the shutdown.
    is_shut_down: bool,
}

impl<R: Runtime, L: Layer, S: Session, F: FnMut(DialEvent<'_>)> Dialling<'_, R, L, S, F> {
    async fn run(&mut self) {
        let (runtime, mut clock) = (self.runtime, self.runtime.clock());
        let mut end_log = LogLimit::default();
        loop {
            let address = self.dial.servers.current().to_owned();
            let connect = self.dial.connect(runtime, self.layer.is_encrypted());
            let stop = (&self.dial.shutdown, &mut self.is_shut_down, &mut *self.connection);
            let (outcome, lasted) = match unless_done(stop, runtime.clock(), connect).await {
                None => return,
                Some(Err(error)) => {
                    (self.observe)(DialEvent::Failed { address: &address, error: &error });
                    (error, Duration::ZERO)
                }
                Some(Ok((socket, client))) => {
                    let since = clock.now();
                    let Some(outcome) = self.drive(&address, socket, client).await else { return };
                    (outcome, clock.now().since(since))
                }
            };
            let now = clock.now();
            let wait = self.dial.servers.ended(lasted);
            if let LogDecision::Log { suppressed } = end_log.check_unless_debugging(now) {
                let (server, next) = (self.dial.server.as_deref(), self.dial.servers.current());
                let wait = Time(wait);
                warn!(
                    address,
                    suppressed, server, "{outcome}; the next attempt, to {next}, is in {wait}"
                );
            }
            let sleep = poll_fn(|cx| clock.poll_until(cx, now + wait));
            let stop = (&self.dial.shutdown, &mut self.is_shut_down, &mut *self.connection);
            if unless_done(stop, runtime.clock(), sleep).await.is_none() {
                return;
            }
        }
    }

    /// Runs one connection. Returns why it has ended; `None`: no further one is needed.
    async fn drive(&mut self, address: &str, socket: R::Socket, client: Client) -> Option<String> {
        let Self { dial, runtime, layer, connection, observe, connect_log, is_shut_down } = self;
        let Dial { servers, shutdown, server, .. } = dial;
        let clock = runtime.clock();
        let now = clock.now();
        connection.connect(client, now);
        let machine = layer.wrap(address, &mut **connection, now);
        let mut drive = Drive::new(machine, socket, clock);
        let mut is_connected = false;
        let ended = poll_fn(|cx| {
            let requested = shutdown.poll_requested(cx);
            if requested == Shutdown::Immediate {
                return Poll::Ready(None);
            }
            let polled = drive.poll_until(cx, |machine, now| {
                if requested == Shutdown::Drain && !mem::replace(is_shut_down, true) {
                    machine.handle(now, Event::ShutDown);
                }
                let connection = L::inner_mut::<&mut Connection<S>>(machine);
                // A server that is about to stop may name none.
                if let Some(urls) = connection.take_servers().filter(|urls| !urls.is_empty()) {
                    servers.learn(urls.iter().map(|url| &**url));
                }
                if connection.is_connected() && !mem::replace(&mut is_connected, true) {
                    observe(DialEvent::Connected { address });
                    if let LogDecision::Log { suppressed } = connect_log.check_unless_debugging(now)
                        && let Some(client) = connection.client()
                    {
                        let Info { server_name, version, .. } = client.info();
                        let server = server.as_deref();
                        info!(address, server_name, version, suppressed, server, "connected");
                    }
                }
                None::<Infallible>
            });
            polled.map(|Err(ended)| Some(ended.to_string()))
        });
        let ended = ended.await;
        drop(drive);
        let reason = match &ended {
            None => "aborted",
            Some(_) if connection.is_lame_duck() => "the server is about to stop",
            Some(reason) => reason,
        };
        observe(DialEvent::Ended { address, reason });
        let is_over = ended.is_none() || *is_shut_down && connection.session().is_done();
        (!is_over).then(|| reason.to_owned())
    }
}

/// Runs `future` to its end, between two connections. If no further connection is needed, drops it
/// and returns `None`.
async fn unless_done<F: Future, S: Session>(
    stop: (&ShutdownHandle, &mut bool, &mut Connection<S>),
    clock: impl Clock,
    future: F,
) -> Option<F::Output> {
    let (shutdown, is_shut_down, connection) = stop;
    let mut future = pin!(future);
    poll_fn(move |cx| {
        let requested = shutdown.poll_requested(cx);
        if requested == Shutdown::Drain && !mem::replace(is_shut_down, true) {
            connection.handle(clock.now(), Event::ShutDown);
        }
        let is_done = *is_shut_down && connection.session().is_done();
        if is_done || requested == Shutdown::Immediate {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

const IS_CHECKED: &str = "`new` has checked the configuration";
