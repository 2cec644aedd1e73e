//! An echo server, a proxy in front of it with its status beside it, and clients that come through
//! the proxy.

use core::{num::NonZeroUsize, time::Duration};

use wirestate_core::{
    drive::Clock,
    echo::Server,
    proxy::{self, Balance, Proxy, RelayFactory, Upstreams},
    serve::{Options, Served, serve},
    shared::Shared,
    status,
};

use super::{LiveLine, listen, named, say};
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
    let (listener, address) = listen(runtime)?;
    let options = named("echo-server");
    let echo = Server::default();
    let serving = serve(runtime, listener, &options, |_, now| echo.machine(now));

    let (listener, through) = listen(runtime)?;
    let upstreams = Upstreams::new([address.to_string()], Balance::RoundRobin, 0);
    let proxy = Proxy::new(RelayFactory::new(proxy::Config::default()), upstreams);
    let proxy_options = named("proxy");
    let proxying = proxy::serve(runtime, listener, &proxy_options, &proxy);

    let (listener, status_address) = listen(runtime)?;
    let upstreams = Shared::new(proxy.upstreams.clone());
    let config = status::Config::new("proxy");
    let now = runtime.clock().now();
    let status = status::Server::new(config, &proxy_options, Some(upstreams), now);
    let answering = serve(runtime, listener, status.options(), |_, now| status.machine(now));

    say(&format!(
        "An echo server on {address}, a proxy to it on {through}, and {CONNECTIONS} connections \
         through that, which verify every byte, for {} seconds. The proxy's status is on \
         http://{status_address}",
        DURATION.as_secs()
    ))?;
    let clients = async {
        let report = echo_for_a_while(runtime, &through.to_string()).await;
        proxy_options.stop.drain();
        options.stop.drain();
        status.options().stop.drain();
        report
    };
    let servers = both(both(serving, proxying), answering);
    let (((served, proxied), _), report) = both(servers, clients).await;
    let report = report?;
    say(&format!(
        "{report}proxy        {}\nserver       {}",
        describe_totals(&proxy_options, proxied),
        describe_totals(&options, served)
    ))?;
    report.verdict()
}

fn describe_totals(options: &Options, served: Served) -> String {
    let totals = options.table.totals();
    let ended = totals.ended.iter().map(|(reason, count)| format!("{count} {reason}"));
    format!(
        "{} connections accepted: {}; {} bytes in, {} bytes out; {} cut short",
        totals.accepted,
        ended.collect::<Vec<_>>().join(", "),
        totals.bytes_in,
        totals.bytes_out,
        served.aborted,
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
