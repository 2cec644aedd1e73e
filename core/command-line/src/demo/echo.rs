//! An echo server, a proxy in front of it with its status beside it, and clients that come through
//! the proxy.

use core::{num::NonZeroUsize, time::Duration};

use wirestate_core::{
    drive::Clock,
    echo::Server,
    proxy::{self, Balance, Proxy, Upstreams},
    serve::{DrainReport, ServerHandle},
    shared::Shared,
    status,
};

use super::{LiveLine, bind, named, say};
use crate::{
    Failure, Host,
    load::{LoadConfig, Pace},
    multiconn::{Progress, Report, Run, pattern},
    server::both,
};

/// How many connections echo at once.
pub(super) const CONNECTIONS: usize = 100;
/// How long they do.
const DURATION: Duration = Duration::from_secs(2);
/// The size of their messages, in bytes.
const MESSAGE: usize = 64;

pub(super) async fn run<R: Host>(runtime: &R) -> Result<(), Failure> {
    let (server, address) = bind(runtime, named("echo-server")).await?;
    let handle = server.handle();
    let echo = Server::default();
    let serving = server.serve(|_, now| echo.machine(now));

    let (server, through) = bind(runtime, named("proxy")).await?;
    let proxy_handle = server.handle();
    let upstreams = Upstreams::new([address.to_string()], Balance::RoundRobin, 0);
    let proxy = Proxy::new(proxy::Config::default(), upstreams).map_err(Failure::Config)?;
    let upstreams = Shared::new(proxy.upstreams().clone());
    let proxying = proxy::serve(server, proxy);

    let (server, status_address) = bind(runtime, named("status")).await?;
    let config = status::Config::new("proxy");
    let now = runtime.clock().now();
    let status = status::Server::new(config, &proxy_handle, Some(upstreams), now)
        .map_err(Failure::Config)?;
    let status_handle = status.handle().clone();
    let answering = status.serve(server);

    say(&format!(
        "An echo server on {address}, a proxy to it on {through}, and {CONNECTIONS} connections \
         through that, which verify every byte, for {} seconds. The proxy's status is on \
         http://{status_address}",
        DURATION.as_secs()
    ))?;
    let clients = async {
        let report = echo_for_a_while(runtime, &through.to_string()).await;
        proxy_handle.drain();
        handle.drain();
        status_handle.drain();
        report
    };
    let servers = both(both(serving, proxying), answering);
    let (((echoed, proxied), _), report) = both(servers, clients).await;
    let report = report?;
    say(&format!(
        "{report}proxy        {}\nserver       {}",
        describe_totals(&proxy_handle, proxied),
        describe_totals(&handle, echoed)
    ))?;
    report.verdict()
}

fn describe_totals(handle: &ServerHandle, report: DrainReport) -> String {
    let totals = handle.table().totals();
    let ended = totals.ended.iter().map(|(reason, count)| format!("{count} {reason}"));
    format!(
        "{} connections accepted: {}; {} bytes in, {} bytes out; {} cut short",
        totals.accepted,
        ended.collect::<Vec<_>>().join(", "),
        totals.bytes_in,
        totals.bytes_out,
        report.aborted,
    )
}

async fn echo_for_a_while<R: Host>(runtime: &R, address: &str) -> Result<Report, Failure> {
    let config = LoadConfig {
        messages: Shared::new([pattern(MESSAGE)]),
        rounds: u64::MAX,
        pace: Pace::Pipelined(const { NonZeroUsize::new(16).unwrap() }),
        ..LoadConfig::default()
    };
    let run = Run::start(runtime, address, CONNECTIONS, &config, Some(Duration::from_secs(5)))?;
    let line = LiveLine::new();
    run.finish(runtime, |progress| {
        line.show(&describe(progress));
        if progress.elapsed >= DURATION {
            run.stop();
        }
    })
    .await;
    line.clear();
    Ok(run.report(runtime))
}

fn describe(progress: &Progress) -> String {
    let Progress { open, failed, messages, elapsed } = progress;
    let rate = u128::from(*messages) * 1000 / elapsed.as_millis().max(1);
    format!(
        "{:.1} s  echo: {open} connections, {messages} messages verified, {rate}/s, {failed} failed",
        elapsed.as_secs_f64(),
    )
}
