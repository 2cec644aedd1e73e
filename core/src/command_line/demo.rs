//! `demo`: everything in one process, on real sockets.

use core::{future::Future, num::NonZeroUsize, pin::pin, task::Poll, time::Duration};
use std::{
    future::poll_fn,
    io::{self, IsTerminal, Write},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Failure, log,
    multiconn::{Progress, Report, Run, pattern},
    server,
};
use crate::{
    echo::{Config, LoadConfig, Pace, Server},
    runtime::Runtime,
    serve::{Options, serve},
    shared::Shared,
};

/// How many connections echo at once.
const CONNECTIONS: usize = 100;
/// How long they do.
const DURATION: Duration = Duration::from_secs(3);
/// The size of their messages, in bytes.
const MESSAGE: usize = 64;

pub(super) async fn run<R: Runtime>(runtime: &R) -> Result<(), Failure> {
    let (listener, address) = server::listen(runtime, "127.0.0.1:0")?;
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
        line.show(progress);
        if progress.elapsed >= DURATION {
            run.stop();
        }
    })
    .await;
    line.clear();
    Ok(run.report(runtime))
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{text}").map_err(Failure::Output)
}

/// Runs two futures side by side.
async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut a_is, mut b_is) = (None, None);
    poll_fn(|cx| {
        if a_is.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(cx)
        {
            a_is = Some(output);
        }
        if b_is.is_none()
            && let Poll::Ready(output) = b.as_mut().poll(cx)
        {
            b_is = Some(output);
        }
        match (a_is.take(), b_is.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (a_is, b_is) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

/// One line on standard error that is written over; where that is no terminal, a line each time.
struct LiveLine {
    bar: Option<ProgressBar>,
}

impl LiveLine {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{msg}").expect("the template is well formed");
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new_spinner().with_style(style));
        Self { bar }
    }

    fn show(&self, progress: &Progress) {
        let text = describe(progress);
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => log::say(&format!("{text}\n")),
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn describe(progress: &Progress) -> String {
    let Progress { open, failed, messages, elapsed } = progress;
    let rate = u128::from(*messages) * 1000 / elapsed.as_millis().max(1);
    format!(
        "{:.1} s  echo: {open} connections, {messages} messages verified, {rate}/s, {failed} failed",
        elapsed.as_secs_f64(),
    )
}
