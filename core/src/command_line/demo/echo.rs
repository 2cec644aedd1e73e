//! An echo server and its clients.

use core::{num::NonZeroUsize, time::Duration};

use super::{LiveLine, say};
use crate::{
    command_line::{
        Failure,
        multiconn::{Progress, Report, Run, pattern},
        server::{self, both},
        systemd::Sockets,
    },
    echo::{Config, LoadConfig, Pace, Server},
    runtime::Runtime,
    serve::{Options, serve},
    shared::Shared,
};

/// How many connections echo at once.
const CONNECTIONS: usize = 100;
/// How long they do.
const DURATION: Duration = Duration::from_secs(2);
/// The size of their messages, in bytes.
const MESSAGE: usize = 64;

pub(super) async fn run<R: Runtime>(runtime: &R) -> Result<(), Failure> {
    let (listener, address) = server::listen(runtime, "127.0.0.1:0", &Sockets::default())?;
    let options = Options::default();
    let echo = Server::new(Config::default());
    let serving = serve(runtime, listener, &options, |_, now| echo.machine(now));
    let address = address.to_string();
    say(&format!(
        "An echo server on {address}, and {CONNECTIONS} connections to it that verify every byte, \
         for {} seconds.",
        DURATION.as_secs()
    ))?;
    let clients = async {
        let report = echo_for_a_while(runtime, &address).await;
        options.stop.drain();
        report
    };
    let (served, report) = both(serving, clients).await;
    let report = report?;
    let totals = options.table.totals();
    let ended = totals.ended.iter().map(|(reason, count)| format!("{count} {reason}"));
    say(&format!(
        "{report}server       {} connections accepted: {}; {} bytes in, {} bytes out; {} cut short",
        totals.accepted,
        ended.collect::<Vec<_>>().join(", "),
        totals.bytes_in,
        totals.bytes_out,
        served.aborted,
    ))?;
    report.verdict()
}

async fn echo_for_a_while<R: Runtime>(runtime: &R, address: &str) -> Result<Report, Failure> {
    let config = LoadConfig {
        messages: Shared::new([pattern(MESSAGE)]),
        rounds: u64::MAX,
        pace: Pace::Pipelined(const { NonZeroUsize::new(16).unwrap() }),
        ..LoadConfig::default()
    };
    let run = Run::start(runtime, address, CONNECTIONS, &config, Some(Duration::from_secs(5)))?;
    let line = LiveLine::new();
    run.finish(runtime, |progress| {
        line.show(describe(progress));
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
