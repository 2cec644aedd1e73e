//! Runs a server: listens, serves its status, logs the ready line, and drains.

mod flags;
mod limits;

use core::time::Duration;
use std::io;

use tracing::info;
use wirestate_core::{
    Instant, Machine,
    admission::ConnectionEntry,
    drive::Clock,
    proxy_protocol,
    runtime::{Address, unix_path},
    serve::{DrainReport, Server, ServerHandle},
    shared::Shared,
    status::{self, AllowedHosts, Metric, MetricsSource, Service, Services},
};

pub(super) use self::flags::{CommonFlags, Flags, idle_timeout};
use crate::{
    CommandError, CommandRuntime, ServerContext,
    join::join,
    log, open_files,
    signals::handle_signals,
    standard_error::LogMetrics,
    systemd::{self, InheritedSockets, SocketSelector},
    tls::ServerTls,
};

/// How a server is run.
pub(super) struct ServerSettings {
    name: &'static str,
    pub(super) handle: ServerHandle,
    pub(super) tls: Option<ServerTls>,
    status: Option<StatusSettings>,
    /// How long connections are still accepted after a signal.
    lame_duck: Duration,
    /// The server's own metrics, besides those of its table of connections.
    metrics: Option<Shared<dyn MetricsSource>>,
    /// For connections that begin with a PROXY header.
    pub(super) accept_proxy: Option<proxy_protocol::HeaderPolicy>,
    /// Open files that are not for connections.
    reserved_files: u64,
}

/// Where a server's status is served.
struct StatusSettings {
    address: String,
    /// The host names that requests may use.
    hosts: Vec<String>,
    has_tls: bool,
}

impl ServerSettings {
    /// Adds the server's own metrics to its status.
    pub(super) fn with_metrics(self, metrics: impl MetricsSource) -> Self {
        Self { metrics: Some(Shared::new(metrics)), ..self }
    }

    fn status_server(
        &self,
        settings: &StatusSettings,
        now: Instant,
    ) -> Result<status::Server, CommandError> {
        let hosts = match unix_path(&settings.address) {
            // A browser cannot connect to a Unix socket, so no web page can misuse the status.
            Some(_) => AllowedHosts::Any,
            None => AllowedHosts::Named(settings.hosts.clone()),
        };
        let config = status::Config::default().with_hosts(hosts);
        let service = Service::new(self.name, &self.handle, self.metrics.clone());
        let metrics = ProcessMetrics { tls: self.tls.clone() };
        let services = Services::from([service]);
        status::Server::new(config, services, Some(Shared::new(metrics)), now)
            .map_err(CommandError::Config)
    }
}

/// The metrics of the log and of the certificates.
#[derive(Debug)]
struct ProcessMetrics {
    tls: Option<ServerTls>,
}

impl MetricsSource for ProcessMetrics {
    fn metrics(&self) -> Vec<Metric> {
        let mut metrics = LogMetrics.metrics();
        metrics.extend(self.tls.iter().flat_map(MetricsSource::metrics));
        metrics
    }
}

/// Listens on `address`, logs the ready line, and runs a machine on each connection until a signal
/// shuts the server down.
pub(super) async fn run<R, M>(
    runtime: &R,
    address: &str,
    settings: &ServerSettings,
    context: &ServerContext,
    machine: impl FnMut(&Shared<ConnectionEntry>, Instant) -> M + Clone + Send + 'static,
) -> Result<(), CommandError>
where
    R: CommandRuntime,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    let serve = async |server| Ok(serve(server, settings, machine).await);
    listen_and_serve(runtime, address, settings, context, serve).await
}

/// Runs a machine on each connection until a shutdown is requested.
pub(super) async fn serve<R, M>(
    server: Server<R>,
    settings: &ServerSettings,
    machine: impl FnMut(&Shared<ConnectionEntry>, Instant) -> M + Clone + Send + 'static,
) -> DrainReport
where
    R: CommandRuntime,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    match settings.tls.clone() {
        None => serve_machines(server, settings, machine).await,
        Some(tls) => {
            let mut machine = machine;
            let with_tls = move |entry: &_, now| tls.machine(machine(entry, now), entry, now);
            serve_machines(server, settings, with_tls).await
        }
    }
}

async fn serve_machines<R, M>(
    server: Server<R>,
    settings: &ServerSettings,
    machine: impl FnMut(&Shared<ConnectionEntry>, Instant) -> M + Clone + Send + 'static,
) -> DrainReport
where
    R: CommandRuntime,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    match settings.accept_proxy.clone() {
        None => server.serve(machine).await,
        Some(accept) => proxy_protocol::serve(server, accept, machine).await,
    }
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

/// Listens on `address`, logs the ready line, and calls `serve`, which accepts until a signal shuts
/// the server down. Meanwhile it serves the status, if there is one.
pub(super) async fn listen_and_serve<R: CommandRuntime>(
    runtime: &R,
    address: &str,
    settings: &ServerSettings,
    context: &ServerContext,
    serve: impl AsyncFnOnce(Server<R>) -> Result<DrainReport, CommandError>,
) -> Result<(), CommandError> {
    let ServerSettings { handle, lame_duck, reserved_files: reserved, .. } = settings;
    let ServerContext { log, sockets } = context;
    if handle.table().limits().connections == 0 {
        let limit = open_files::raise_limit();
        return Err(CommandError::NoFilesLeft { limit, reserved: *reserved });
    }
    let status = match &settings.status {
        Some(status) => {
            Some((&status.address, settings.status_server(status, runtime.clock().now())?))
        }
        None => None,
    };
    let status_tls = settings
        .tls
        .clone()
        .filter(|_| settings.status.as_ref().is_some_and(|status| status.has_tls));
    let readiness = status.as_ref().map(|(_, server)| server.readiness());
    let tls = settings.tls.clone();
    handle_signals(runtime, handle.shutdown().clone(), readiness, *lame_duck, tls)?;
    // A signal also ends the wait for a resolver that does not answer.
    let binding = async {
        let server = bind(runtime, address, sockets).await?.with_handle(handle);
        let Some((address, status)) = status else { return Ok((server, None)) };
        let status_server = bind(runtime, address, sockets).await?;
        Ok((server, Some((status_server, status))))
    };
    let Some(bound) = handle.shutdown().unless_requested(binding).await else {
        info!("stopped before listening");
        return Ok(());
    };
    let (server, status) = bound?;
    let report = match status {
        None => {
            report_ready(log, &server)?;
            serve(server).await
        }
        Some((status_server, status)) => {
            for address in addresses(&status_server)? {
                log::report_status(log, &address, status_tls.is_some());
            }
            report_ready(log, &server)?;
            let status_handle = status.handle().clone();
            let serving_status = serve_status(status, status_server, status_tls);
            // The status is served during the drain, and ends after it.
            let serving = async {
                let report = serve(server).await;
                status_handle.drain();
                report
            };
            join(serving, serving_status).await.0
        }
    }?;
    let totals = handle.table().totals();
    info!(
        connections = totals.accepted,
        drained = report.drained,
        aborted = report.aborted,
        refused = totals.refused.values().sum::<u64>(),
        received = totals.bytes_received,
        sent = totals.bytes_sent,
        "stopped"
    );
    Ok(())
}

/// Reports that the server listens, to the log and to the service manager, and starts to notify
/// the service manager's watchdog.
fn report_ready<R: CommandRuntime>(
    log: &log::Flags,
    server: &Server<R>,
) -> Result<(), CommandError> {
    for address in addresses(server)? {
        log::report_ready(log, &address);
    }
    systemd::notify_ready();
    systemd::keep_watchdog(server.runtime())
}

async fn bind<R: CommandRuntime>(
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
pub(super) fn addresses<R: CommandRuntime>(
    server: &Server<R>,
) -> Result<Vec<Address>, CommandError> {
    let failed = |error| CommandError::Listen { address: "a socket".into(), error };
    server.addresses().map_err(failed)
}
