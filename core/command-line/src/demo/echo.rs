//! An echo server, a proxy in front of it, the proxy's status, and clients that connect to the
//! proxy.

use core::{future::pending, num::NonZeroUsize, time::Duration};

use wirestate_core::{
    drive::Clock,
    echo::Server,
    proxy::{self, Balance, Proxy, Upstreams},
    quantity::{Size, Time},
    serve::ServerHandle,
    shared::Shared,
    status,
};

use super::{CONNECT_TIMEOUT, bind, named, print};
use crate::{
    CommandError, CommandRuntime,
    connect::ConnectFlags,
    join::join,
    load::{LoadConfig, LoadRun, Pace, Progress, Report, pattern},
    progress_line::ProgressLine,
    values::Timeout,
};

pub(super) async fn run<R: CommandRuntime>(runtime: &R) -> Result<(), CommandError> {
    let (server, address) = bind(runtime, named("echo-server")).await?;
    let handle = server.handle();
    let echo = Server::default();
    let serving = server.serve(|_, now| echo.machine(now));

    let (server, proxy_address) = bind(runtime, named("proxy")).await?;
    let proxy_handle = server.handle();
    let upstreams = Upstreams::new([address.to_string()], Balance::RoundRobin, 0);
    let proxy = Proxy::new(proxy::Config::default(), upstreams).map_err(CommandError::Config)?;
    let upstreams = Shared::new(proxy.upstreams().clone());
    let proxying = proxy::serve(server, proxy);

    let (server, status_address) = bind(runtime, named("status")).await?;
    let services = status::Services::from([
        status::Service::new("proxy", &proxy_handle, Some(upstreams)),
        status::Service::new("echo-server", &handle, None),
    ]);
    let now = runtime.clock().now();
    let status = status::Server::new(status::Config::default(), services, None, now)
        .map_err(CommandError::Config)?;
    let status_handle = status.handle().clone();
    let serving_status = status.serve(server);

    print(&format!(
        "Echo: {CONNECTIONS} connections send messages through a proxy for {}\n\
         listening    echo-server {address}, proxy {proxy_address}\n\
         status       of both: http://{status_address}",
        Time(DURATION)
    ))?;
    let clients = async {
        let report = run_clients(runtime, &proxy_address.to_string()).await;
        proxy_handle.drain();
        handle.drain();
        status_handle.drain();
        report
    };
    let servers = join(join(serving, proxying), serving_status);
    let (_, report) = join(servers, clients).await;
    let report = report?;
    print(&format!(
        "{report}proxy        {}\necho-server  {}",
        describe_totals(&proxy_handle),
        describe_totals(&handle)
    ))?;
    report.check()
}

fn describe_totals(handle: &ServerHandle) -> String {
    let totals = handle.table().totals();
    let ended = totals.ended.iter().map(|(reason, count)| format!("{count} {reason}"));
    format!(
        "{} connections: {}; received {}, sent {}",
        totals.accepted,
        ended.collect::<Vec<_>>().join(", "),
        Size(totals.bytes_received),
        Size(totals.bytes_sent),
    )
}

async fn run_clients<R: CommandRuntime>(
    runtime: &R,
    address: &str,
) -> Result<Report, CommandError> {
    let config = LoadConfig::default()
        .with_messages([pattern(MESSAGE)])
        .with_rounds(u64::MAX)
        .with_pace(Pace::Pipelined(const { NonZeroUsize::new(16).unwrap() }))
        .with_close_timeout(CLOSE_TIMEOUT);
    let connect =
        ConnectFlags { connect_timeout: Timeout(Some(CONNECT_TIMEOUT)), retry_for: Duration::ZERO };
    let run = LoadRun::start(runtime, address, CONNECTIONS, &config, connect, None)?;
    let line = ProgressLine::new();
    let show = |progress: &Progress| {
        line.show(&describe_progress(progress));
        Ok(())
    };
    run.finish(runtime, Some(DURATION), pending(), show).await?;
    line.clear();
    Ok(run.report(runtime, false))
}

fn describe_progress(progress: &Progress) -> String {
    let Progress { open, failed, messages, messages_per_second: rate, .. } = progress;
    format!(
        "{}  echo: {messages} messages verified, {rate}/s; {open} open, {failed} failed",
        Time(progress.seconds.0),
    )
}

/// How many connections send messages at the same time.
pub(super) const CONNECTIONS: usize = 100;
/// How long the connections send messages.
const DURATION: Duration = Duration::from_secs(2);
/// The size of a message, in bytes.
const MESSAGE: usize = 64;
/// Long, because the machine may be heavily loaded.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
