//! A process that runs servers: it listens, serves the status, loads the configuration again, and
//! drains.

use core::{
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use tracing::{error, info, warn};
use wirestate_core::{
    drive::{self, Clock as _},
    runtime::unix_path,
    serve::{DrainReport, Server, ServerHandle},
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
    status::{self, AllowedHosts, Service, Services},
};

use super::{
    Definition, ProcessFlags, Share, Source,
    listening::{Bound, addresses, bind},
    prepared::{Prepared, Serving, Stage, Starting},
    reload::{self, Change, Current, CurrentServer, LoadedFiles, Plan, Stays},
    running::{Running, State, accept},
    tasks::Tasks,
};
use crate::{
    CommandError, CommandRuntime, ServerContext, join::join, log, self_upstream,
    signals::handle_signals, standard_error::ProcessMetrics, systemd, tls::ServerTls,
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
        let prepared = definition.prepare_to_serve(runtime, share)?;
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
        let (mut servers, sockets) = (Vec::new(), &context.sockets);
        for (definition, prepared) in prepared {
            let listening = bind(runtime, &prepared.listen, sockets, &mut Vec::new()).await?;
            servers.push((definition, prepared, listening));
        }
        let status = match status {
            None => None,
            Some((address, status)) => {
                let address = std::slice::from_ref(address);
                Some((bind(runtime, address, sockets, &mut Vec::new()).await?, status))
            }
        };
        Ok((servers, status))
    };
    let Some(bound) = shutdown.unless_requested(binding).await else {
        info!("stopped before listening");
        return Ok(());
    };
    let (servers, status) = bound?;
    let status_bound = status.iter().flat_map(|((_, bound), _)| bound);
    for address in status_bound.clone().flat_map(|bound| &bound.addresses) {
        log::report_status(&context.log, address, status_tls.is_some());
    }
    let mut process = Process {
        runtime,
        source,
        context,
        servers: Vec::new(),
        services,
        share,
        words: configuration.process_words,
        status_tls: status_tls.clone(),
        status_inherited: status_bound.flat_map(|bound| bound.inherited.clone()).collect(),
        failure: None,
    };
    for (definition, prepared, (server, bound)) in servers {
        process.add(definition, prepared, server, bound)?;
    }
    process.check_upstreams()?;
    process.show_services();
    systemd::notify_ready();
    systemd::keep_watchdog(runtime)?;
    let serving = process.serve(&shutdown, hangup);
    let Some(((server, _), status)) = status else { return serving.await };
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
    /// The share of each server in the open files.
    share: Share,
    /// The flags of the process.
    words: Vec<String>,
    /// The TLS of the status. Its files are loaded again with those of the servers.
    status_tls: Option<ServerTls>,
    /// The numbers of the inherited sockets of the status.
    status_inherited: Vec<usize>,
    /// The first failure of a server that has ended.
    failure: Option<CommandError>,
}

impl<'a, R: CommandRuntime> Process<'a, R> {
    /// Starts a server. If a server of that name was removed, the new one has its table of
    /// connections.
    fn add(
        &mut self,
        definition: Definition,
        prepared: Prepared<R>,
        server: Server<R>,
        bound: Vec<Bound>,
    ) -> Result<(), CommandError> {
        let Prepared { listen: _, settings, start } = prepared;
        let earlier =
            self.servers.iter().position(|running| running.definition.name == definition.name);
        let (handle, mut tasks, retiring) = match earlier {
            None => {
                let config = settings.config.clone().with_name(definition.name.clone());
                (ServerHandle::new(config), Tasks::default(), Vec::new())
            }
            Some(index) => {
                let Running { handle, tasks, retiring, .. } =
                    self.servers.remove(index).handed_over();
                handle.reconfigure(&settings.config);
                (handle.with_shutdown(ShutdownHandle::new()), tasks, retiring)
            }
        };
        self.report_ready(&definition, &bound);
        let addresses = addresses(&bound);
        if addresses.is_empty() {
            log::report_ready_to(&settings.purpose, definition.shown_name());
        }
        let failure = Shared::default();
        let starting = Starting {
            runtime: self.runtime,
            settings: &settings,
            handle: &handle,
            addresses: &addresses,
            failure: &failure,
        };
        let Serving { connect, on_end, tasks: new_tasks } = start(&starting)?;
        tasks.add(new_tasks);
        let connect = Shared::new(Lock::new(connect));
        self.servers.push(Running {
            definition,
            bound,
            listening: server.listening(),
            serving: accept(server, &handle, &connect),
            retiring,
            handle,
            upstreams: settings.upstreams,
            metrics: Shared::new(settings.metrics),
            files: settings.files,
            connect,
            on_end,
            report: None,
            tasks,
            clock: self.runtime.clock(),
            drain_timeout: settings.config.drain_timeout,
            is_draining: false,
            state: State::Current,
            failure,
        });
        Ok(())
    }

    /// Logs that a server listens on `bound`.
    fn report_ready(&self, definition: &Definition, bound: &[Bound]) {
        let name = definition.shown_name();
        for address in bound.iter().flat_map(|bound| &bound.addresses) {
            log::report_ready(&self.context.log, address, name);
        }
    }

    /// Checks in the background that no server is its own upstream, and ends it otherwise.
    fn check_upstreams(&self) -> Result<(), CommandError> {
        for running in &self.servers {
            let (runtime, upstreams) = (self.runtime.clone(), running.upstreams.clone());
            let (own, handle) = (running.bound.clone(), running.handle.clone());
            let failure = running.failure.clone();
            let check = async move {
                if let Err(error) = self_upstream::find(&runtime, &upstreams, &own).await {
                    failure.with(|failure| *failure = Some(error));
                    handle.abort();
                }
            };
            if !running.upstreams.is_empty() {
                self.runtime.spawn(check).map_err(CommandError::Spawn)?;
            }
        }
        Ok(())
    }

    /// Serves until all servers have ended. `hangup` has a byte for each SIGHUP.
    async fn serve(
        mut self,
        shutdown: &ShutdownHandle,
        mut hangup: Option<R::Socket>,
    ) -> Result<(), CommandError> {
        let mut loading: Option<Pin<Box<dyn Future<Output = _> + Send>>> = None;
        let mut is_draining = false;
        poll_fn(|cx| {
            let requested = shutdown.poll_requested(cx);
            if requested > Shutdown::None {
                // Nothing new starts.
                loading = None;
                hangup = None;
            }
            if requested >= Shutdown::Drain && !mem::replace(&mut is_draining, true) {
                for running in &mut self.servers {
                    running.begin_drain();
                    running.handle.drain();
                }
            }
            loop {
                if let Some(plan) = &mut loading {
                    let Poll::Ready(plan) = plan.as_mut().poll(cx) else { break };
                    loading = None;
                    self.load(plan);
                }
                if !hangup.as_mut().is_some_and(|socket| take_bytes(socket, cx)) {
                    break;
                }
                loading = Some(Box::pin(self.plan()));
            }
            self.poll_servers(cx)
        })
        .await;
        self.failure.map_or(Ok(()), Err)
    }

    /// Reads the configuration again, and prepares what it changes.
    fn plan(&self) -> impl Future<Output = Result<Plan<R>, CommandError>> + use<'a, R> {
        let servers = self.current().map(|running| CurrentServer {
            name: running.definition.name.clone(),
            words: running.definition.words.clone(),
            bound: running.bound.clone(),
            files: running.files.clone(),
        });
        let current = Current {
            servers: servers.collect(),
            share: self.share,
            process_words: self.words.clone(),
            status_tls: self.status_tls.clone(),
        };
        reload::plan(self.runtime, self.source, self.context, current)
    }

    fn current(&self) -> impl Iterator<Item = &Running<R>> {
        self.servers.iter().filter(|running| running.state == State::Current)
    }

    /// Carries a plan out. Everything that depends on files has succeeded.
    fn load(&mut self, plan: Result<Plan<R>, CommandError>) {
        match plan {
            Err(error) => warn!("SIGHUP: {error}; the configuration in use stays"),
            Ok(plan) => self.carry_out(plan),
        }
        let bound = self.current().flat_map(|running| &running.bound);
        let inherited = bound.flat_map(|bound| &bound.inherited).chain(&self.status_inherited);
        self.context.sockets.keep(&inherited.copied().collect::<Vec<_>>());
        systemd::notify_loaded();
    }

    fn carry_out(&mut self, plan: Plan<R>) {
        let Plan { files, changes, limits, removed, process_differs } = plan;
        let has_names = self.source.has_names();
        if has_names {
            let list = |names: Vec<Shared<str>>| names.join(", ");
            let names = changes.iter().map(|change| change.definition.name.clone());
            let changed = list(names.collect());
            let removed = list(removed.clone());
            info!(changed, removed, "configuration loaded again");
        } else if files.is_empty() {
            info!("SIGHUP: there is nothing to load again");
        }
        if process_differs {
            warn!("the keys at the top of the configuration have changed: restart to apply them");
        }
        for LoadedFiles { server, description, put_to_use } in files {
            put_to_use();
            info!(server = has_names.then_some(&*server), "{description} loaded again");
        }
        for running in &mut self.servers {
            let name = &running.definition.name;
            if running.state != State::Current {
                continue;
            }
            if removed.contains(name) {
                running.retire();
            } else if let Some((_, config)) = limits.iter().find(|(other, _)| other == name) {
                running.handle.reconfigure(config);
            }
        }
        for Change { definition, prepared, stays, server, added } in changes {
            let name = definition.name.clone();
            let changed = match stays {
                None => self.add(definition, prepared, server, added),
                Some(stays) => self.replace(definition, prepared, stays, server, added),
            };
            if let Err(error) = changed {
                error!(server = &*name, "{error}");
            }
        }
        let with_share = self.current().filter(|it| !it.definition.is_for_publishers());
        self.share.servers = with_share.count() as u64;
        self.show_services();
    }

    /// Serves the connections of a server in another way from now on, and listens on the addresses
    /// `added` as well, which `server` has.
    fn replace(
        &mut self,
        definition: Definition,
        prepared: Prepared<R>,
        Stays { kept, removed }: Stays,
        server: Server<R>,
        added: Vec<Bound>,
    ) -> Result<(), CommandError> {
        self.report_ready(&definition, &added);
        let Prepared { settings, start, .. } = prepared;
        let running = self.servers.iter_mut().find(|running| {
            running.definition.name == definition.name && running.state == State::Current
        });
        // The server may have ended meanwhile.
        let Some(running) = running else { return Ok(()) };
        running.bound = [kept, added].concat();
        let starting = Starting {
            runtime: self.runtime,
            settings: &settings,
            handle: &running.handle,
            addresses: &addresses(&running.bound),
            failure: &running.failure,
        };
        let Serving { connect, on_end, tasks } = start(&starting)?;
        running.tasks.add(tasks);
        running.drain_timeout = settings.config.drain_timeout;
        running.handle.reconfigure(&settings.config);
        running.connect.with(|current| *current = connect);
        running.listening.add(server);
        running.stop_listening(&addresses(&removed));
        running.metrics = Shared::new(settings.metrics);
        running.files = settings.files;
        running.upstreams = settings.upstreams;
        running.definition = definition;
        mem::replace(&mut running.on_end, on_end)(Stage::Retired);
        Ok(())
    }

    /// Polls all servers. Ready when all have ended.
    fn poll_servers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut index = 0;
        while let Some(running) = self.servers.get_mut(index) {
            let Poll::Ready(report) = running.poll_ended(self.runtime, cx) else {
                index += 1;
                continue;
            };
            let running = self.servers.remove(index);
            let name = running.definition.name.clone();
            if let Some(error) = running.end(report) {
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
        self.services.set(self.servers.iter().map(|running| {
            let (name, metrics) = (running.definition.name.clone(), running.metrics.clone());
            let listens = !running.bound.is_empty();
            Service::new(name, &running.handle, Some(metrics)).with_listener(listens)
        }));
    }
}

/// Takes all bytes that have arrived. Returns whether there were any.
fn take_bytes(socket: &mut impl drive::Source, cx: &mut Context<'_>) -> bool {
    let mut has_bytes = false;
    while let Poll::Ready(Ok(1..)) = socket.poll_read(cx, &mut [0; 64]) {
        has_bytes = true;
    }
    has_bytes
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
    let (now, process) = (runtime.clock().now(), Shared::new(ProcessMetrics));
    status::Server::new(config, services.clone(), Some(process), now).map_err(CommandError::Config)
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
