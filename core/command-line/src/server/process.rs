//! A process that runs servers: it listens, serves the status, loads the configuration again, and
//! drains.

use core::{
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll},
};
use std::io;

use tracing::{error, info, warn};
use wirestate_core::{
    drive::{Clock as _, Source as _},
    runtime::{Address, unix_path},
    serve::{DrainReport, Server, ServerHandle},
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
    status::{self, AllowedHosts, MetricsSource, Service, Services},
};

use super::{
    Definition, ProcessFlags, Source,
    prepared::{ConnectFn, End, EndFn, Prepared, ReloadFiles, Serving, Starting},
    reload::{self, Change, CurrentServer, Plan},
};
use crate::{
    CommandError, CommandRuntime, ServerContext,
    join::join,
    log,
    signals::handle_signals,
    standard_error::LogMetrics,
    systemd::{self, InheritedSockets, SocketSelector},
    tls::ServerTls,
};

/// Runs the servers of `source` until a signal shuts them down.
pub(crate) async fn run<R: CommandRuntime>(
    runtime: &R,
    source: &Source,
    context: &ServerContext,
) -> Result<(), CommandError> {
    let configuration = source.load()?;
    let (share, flags) = (configuration.share(), configuration.process);
    let prepared = configuration.servers.into_iter().map(|definition| {
        let prepared = definition.prepare(runtime, share)?;
        Ok((definition, prepared))
    });
    let prepared = prepared.collect::<Result<Vec<_>, _>>()?;
    let status_tls = match configuration.status_tls {
        _ if !flags.status_has_tls => None,
        Some(flags) => flags.load()?,
        None => prepared[0].1.settings.tls.clone(),
    };
    let services = Services::default();
    let status = match &flags.status {
        None => None,
        Some(address) => Some((address, status_server(runtime, &flags, &services)?)),
    };

    let shutdown = ShutdownHandle::new();
    let readiness = status.as_ref().map(|(_, status)| status.readiness());
    let hangup = handle_signals(runtime, shutdown.clone(), readiness, flags.lame_duck)?;
    // A signal also ends the wait for a resolver that does not answer.
    let binding = async {
        let mut bound = Vec::new();
        for (definition, prepared) in prepared {
            let server = bind(runtime, &prepared.listen, &context.sockets).await?;
            bound.push((definition, prepared, server));
        }
        let status = match status {
            None => None,
            Some((address, status)) => {
                Some((bind(runtime, address, &context.sockets).await?, status))
            }
        };
        Ok((bound, status))
    };
    let Some(bound) = shutdown.unless_requested(binding).await else {
        info!("stopped before listening");
        return Ok(());
    };
    let (bound, status) = bound?;
    if let Some((server, _)) = &status {
        for address in addresses(server)? {
            log::report_status(&context.log, &address, status_tls.is_some());
        }
    }
    let mut process = Process::new(runtime, source, context, services);
    process.status_tls.clone_from(&status_tls);
    for (definition, prepared, server) in bound {
        process.add(definition, prepared, server)?;
    }
    process.show_services();
    systemd::notify_ready();
    systemd::keep_watchdog(runtime)?;
    let serving = process.serve(&shutdown, hangup);
    let Some((server, status)) = status else { return serving.await };
    // The status is served during the drain, and ends after it.
    let status_handle = status.handle().clone();
    let serving = async {
        let result = serving.await;
        status_handle.drain();
        result
    };
    join(serving, serve_status(status, server, status_tls)).await.0
}

/// The servers of a process.
struct Process<'a, R: CommandRuntime> {
    runtime: &'a R,
    source: &'a Source,
    context: &'a ServerContext,
    servers: Vec<Running<R>>,
    /// The servers that the status shows.
    services: Services,
    /// The TLS of the status. Its files are loaded again with those of the servers.
    status_tls: Option<ServerTls>,
    /// The first failure of a server that has ended.
    failure: Option<CommandError>,
}

/// A server that accepts connections, or has accepted them.
struct Running<R: CommandRuntime> {
    definition: Definition,
    /// As configured.
    listen: String,
    addresses: Vec<Address>,
    handle: ServerHandle,
    metrics: Shared<dyn MetricsSource>,
    files: Vec<Shared<dyn ReloadFiles>>,
    /// Serves the connections from now on.
    connect: Shared<Lock<Box<ConnectFn<R>>>>,
    on_end: EndFn,
    accepting: Pin<Box<dyn Future<Output = DrainReport> + Send>>,
    state: State,
}

/// What a [`Running`] server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It accepts connections.
    Current,
    /// It was removed from the configuration. Its connections continue.
    Removed,
    /// Another server with the same table of connections listens in its place, on another address.
    Moved,
}

impl<'a, R: CommandRuntime> Process<'a, R> {
    fn new(
        runtime: &'a R,
        source: &'a Source,
        context: &'a ServerContext,
        services: Services,
    ) -> Self {
        let servers = Vec::new();
        Self { runtime, source, context, servers, services, status_tls: None, failure: None }
    }

    /// Starts a server that listens. If a server of that name was removed, or moves, the new one
    /// has its table of connections.
    fn add(
        &mut self,
        definition: Definition,
        prepared: Prepared<R>,
        server: Server<R>,
    ) -> Result<(), CommandError> {
        let Prepared { listen, settings, start } = prepared;
        let earlier = self.servers.iter_mut().find(|running| {
            running.definition.name == definition.name && running.state != State::Moved
        });
        let handle = match earlier {
            None => ServerHandle::new(settings.config.clone().with_name(definition.name.clone())),
            Some(earlier) => {
                earlier.state = State::Moved;
                earlier.handle.soft_stop();
                earlier.handle.reconfigure(&settings.config);
                earlier.handle.clone().with_shutdown(ShutdownHandle::new())
            }
        };
        let addresses = addresses(&server)?;
        let shown_name = self.source.has_names().then_some(&*definition.name);
        for address in &addresses {
            log::report_ready(&self.context.log, address, shown_name);
        }
        let starting = Starting {
            runtime: self.runtime,
            settings: &settings,
            handle: &handle,
            addresses: &addresses,
        };
        let Serving { connect, on_end } = start(&starting)?;
        let connect = Shared::new(Lock::new(connect));
        let accepting = {
            let connect = connect.clone();
            let server = server.with_handle(&handle);
            server.accept(move |socket, admitted, clock| {
                connect.with(|connect| connect(socket, admitted, clock))
            })
        };
        self.servers.push(Running {
            definition,
            listen,
            addresses,
            handle,
            metrics: Shared::new(settings.metrics),
            files: settings.files,
            connect,
            on_end,
            accepting: Box::pin(accepting),
            state: State::Current,
        });
        Ok(())
    }

    /// Serves until all servers have ended. `hangup` has a byte for each SIGHUP.
    async fn serve(
        mut self,
        shutdown: &ShutdownHandle,
        mut hangup: Option<R::Socket>,
    ) -> Result<(), CommandError> {
        let mut loading: Option<Pin<Box<dyn Future<Output = _> + Send>>> = None;
        poll_fn(|cx| {
            match shutdown.poll_requested(cx) {
                Shutdown::None | Shutdown::SoftStop => {}
                Shutdown::Drain => self.servers.iter().for_each(|running| running.handle.drain()),
                Shutdown::Immediate => {
                    self.servers.iter().for_each(|running| running.handle.abort());
                }
            }
            loop {
                if let Some(plan) = &mut loading {
                    let Poll::Ready(plan) = plan.as_mut().poll(cx) else { break };
                    loading = None;
                    self.load(plan);
                }
                // Nothing new starts during a drain.
                if shutdown.requested() >= Shutdown::Drain {
                    break;
                }
                let mut has_byte =
                    |socket: &mut R::Socket| socket.poll_read(cx, &mut [0]).is_ready();
                if !hangup.as_mut().is_some_and(&mut has_byte) {
                    break;
                }
                systemd::notify_reloading();
                loading = Some(Box::pin(self.plan()));
            }
            self.poll_servers(cx)
        })
        .await;
        self.failure.map_or(Ok(()), Err)
    }

    /// Reads the configuration again, and prepares what it changes.
    fn plan(&self) -> impl Future<Output = Result<Plan<R>, CommandError>> + use<'a, R> {
        let current = self.servers.iter().filter(|running| running.state == State::Current);
        let current = current.map(|running| CurrentServer {
            name: running.definition.name.clone(),
            words: running.definition.words.clone(),
            listen: running.listen.clone(),
            files: running.files.clone(),
        });
        let current = current.collect();
        reload::plan(self.runtime, self.source, self.context, current, self.status_tls.clone())
    }

    /// Carries a plan out. Everything that depends on files has succeeded.
    fn load(&mut self, plan: Result<Plan<R>, CommandError>) {
        match plan {
            Err(error) => warn!("SIGHUP: {error}; the configuration in use stays"),
            Ok(Plan { files, changes, removed }) => {
                if self.source.has_names() {
                    let (changed, removed) = (changes.len(), removed.len());
                    info!(changed, removed, "configuration loaded again");
                } else if files.is_empty() {
                    info!("SIGHUP: there is nothing to load again");
                }
                for put_to_use in files {
                    put_to_use();
                }
                for running in &mut self.servers {
                    if removed.contains(&running.definition.name) {
                        running.handle.soft_stop();
                        running.state = State::Removed;
                    }
                }
                for change in changes {
                    let name = change.name();
                    let changed = match change {
                        Change::Replace(definition, prepared) => self.replace(definition, prepared),
                        Change::Listen(definition, prepared, server) => {
                            self.add(definition, prepared, server)
                        }
                    };
                    if let Err(error) = changed {
                        error!(server = &*name, "{error}");
                    }
                }
                self.show_services();
            }
        }
        systemd::notify_ready();
    }

    /// Serves the connections of a server in another way from now on.
    fn replace(
        &mut self,
        definition: Definition,
        prepared: Prepared<R>,
    ) -> Result<(), CommandError> {
        let Prepared { settings, start, .. } = prepared;
        let running = self.servers.iter_mut().find(|running| {
            running.definition.name == definition.name && running.state == State::Current
        });
        // The server may have ended meanwhile.
        let Some(running) = running else { return Ok(()) };
        let starting = Starting {
            runtime: self.runtime,
            settings: &settings,
            handle: &running.handle,
            addresses: &running.addresses,
        };
        let Serving { connect, on_end } = start(&starting)?;
        running.handle.reconfigure(&settings.config);
        running.connect.with(|current| *current = connect);
        running.metrics = Shared::new(settings.metrics);
        running.files = settings.files;
        running.definition = definition;
        mem::replace(&mut running.on_end, on_end)(End::Replaced)
    }

    /// Polls all servers. Ready when all have ended.
    fn poll_servers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut index = 0;
        while let Some(running) = self.servers.get_mut(index) {
            let Poll::Ready(report) = running.accepting.as_mut().poll(cx) else {
                index += 1;
                continue;
            };
            let running = self.servers.remove(index);
            let name = running.definition.name.clone();
            if let Err(error) = running.end(report, self.source.has_names()) {
                if !self.servers.is_empty() {
                    error!(server = &*name, "{error}");
                }
                self.failure.get_or_insert(error);
            }
            self.show_services();
        }
        if self.servers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Shows the servers in the status.
    fn show_services(&self) {
        let shown = self.servers.iter().filter(|running| running.state != State::Moved);
        self.services.set(shown.map(|running| {
            let (name, metrics) = (running.definition.name.clone(), running.metrics.clone());
            Service::new(name, &running.handle, Some(metrics))
        }));
    }
}

impl<R: CommandRuntime> Running<R> {
    /// Logs the end of the server, with its name if `is_named`.
    fn end(self, report: DrainReport, is_named: bool) -> Result<(), CommandError> {
        if self.state == State::Moved {
            return (self.on_end)(End::Replaced);
        }
        let result = (self.on_end)(End::Stopped);
        let totals = self.handle.table().totals();
        info!(
            server = is_named.then_some(&*self.definition.name),
            connections = totals.accepted,
            drained = report.drained,
            aborted = report.aborted,
            refused = totals.refused.values().sum::<u64>(),
            received = totals.bytes_received,
            sent = totals.bytes_sent,
            "stopped"
        );
        result
    }
}

fn status_server<R: CommandRuntime>(
    runtime: &R,
    flags: &ProcessFlags,
    services: &Services,
) -> Result<status::Server, CommandError> {
    let hosts = match flags.status.as_deref().and_then(unix_path) {
        // A browser cannot connect to a Unix socket, so no web page can misuse the status.
        Some(_) => AllowedHosts::Any,
        None => AllowedHosts::Named(flags.status_hosts.clone()),
    };
    let config = status::Config::default().with_hosts(hosts);
    let (now, log) = (runtime.clock().now(), Shared::new(LogMetrics));
    status::Server::new(config, services.clone(), Some(log), now).map_err(CommandError::Config)
}

/// Serves the status, with TLS if `tls` is given.
async fn serve_status<R: CommandRuntime>(
    status: status::Server,
    server: Server<R>,
    tls: Option<ServerTls>,
) -> DrainReport {
    let Some(tls) = tls else { return status.serve(server).await };
    let server = server.with_handle(status.handle());
    let server = server.with_idle_connections(status.idle_connections().clone());
    server.serve(|entry, now| tls.machine(status.machine(now), entry, now)).await
}

/// Listens on `address`.
pub(super) async fn bind<R: CommandRuntime>(
    runtime: &R,
    address: &str,
    sockets: &InheritedSockets,
) -> Result<Server<R>, CommandError> {
    let server = match SocketSelector::parse(address) {
        Some(selector) => sockets.take(selector).and_then(|sockets| {
            let mut listeners = sockets.into_iter().map(|socket| runtime.listen_inherited(socket));
            let first = listeners.next().expect("`take` returns at least one")?;
            let server = Server::new(runtime.clone(), first);
            listeners.try_fold(server, |server, listener| Ok(server.with_listener(listener?)))
        }),
        None => runtime.bind(address).await,
    };
    server.map_err(|error: io::Error| CommandError::Listen { address: address.to_string(), error })
}

/// The addresses that a server listens on.
fn addresses<R: CommandRuntime>(server: &Server<R>) -> Result<Vec<Address>, CommandError> {
    let failed = |error| CommandError::Listen { address: "a socket".into(), error };
    server.addresses().map_err(failed)
}
