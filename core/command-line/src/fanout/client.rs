//! The command `fanout-client`.

use core::{
    ffi::c_int,
    num::NonZeroUsize,
    pin::pin,
    task::{Poll, ready},
    time::Duration,
};
use std::future::{Future as _, poll_fn};

use bytes::Bytes;
use clap::Args;
use wirestate_core::{
    Event, Instant, Machine,
    drive::{Clock, Drive, Ended},
    fanout::{Client, ClientReason},
    quantity::Time,
    runtime::within,
};
use wirestate_tls::{MaybeTls, TlsReason};

use super::{MessageInspector, message_size, unix_epoch};
use crate::{
    CommandError, CommandRuntime, connect::ConnectFlags, interrupt::interrupted, log,
    progress_line::ProgressLine, standard_output::StandardOutput, tls, values,
};

/// Writes the messages of a fan-out server to standard output, and shows their rate
///
/// The rate is shown on standard error, once a second. The messages of a fanout-source have a
/// number and a time, so that gaps and lag are shown as well.
#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// The server's address, HOST:PORT or unix:PATH
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:1235", value_parser = values::remote)]
    address: String,
    /// The size of a message, at most 1MiB
    #[arg(long, value_name = "BYTES", default_value = "1KiB", value_parser = message_size)]
    frame: NonZeroUsize,
    /// End after this many messages [default: no limit]
    #[arg(long, value_name = "MESSAGES", value_parser = values::count::<u64>)]
    count: Option<u64>,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    tls: tls::ClientTlsFlags,
}

pub(crate) async fn run<R: CommandRuntime>(
    runtime: &R,
    flags: Flags,
    log: &log::Flags,
) -> Result<(), CommandError> {
    let Flags { address, frame, count, connect, tls } = flags;
    let tls = tls.load(&address, connect.connect_timeout.0)?;
    let socket = connect.connect(runtime, &address).await?;
    let mut clock = runtime.clock();
    let mut drive =
        Drive::new(tls::around(tls.as_ref(), Client::new(), clock.now()), socket, runtime.clock());
    let mut inspector = MessageInspector::new(frame, unix_epoch(runtime));
    let mut rate = RateLine::new(clock.now(), !log.quiet);
    // How many more bytes --count allows.
    let mut remaining = count.map(|count| count.saturating_mul(frame.get() as u64));
    let mut output = StandardOutput::unchanged().map_err(CommandError::Output)?;
    let mut interrupted = pin!(interrupted(runtime)?);
    let ended = loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(signal) = interrupted.as_mut().poll(cx) {
                return Poll::Ready(Ok(Next::Interrupted(signal)));
            }
            if rate.is_shown && clock.poll_until(cx, rate.next).is_ready() {
                return Poll::Ready(Ok(Next::ShowRate));
            }
            if let Err(error) = ready!(output.poll_ready(cx)) {
                return Poll::Ready(Err(CommandError::Output(error)));
            }
            drive
                .poll_until(cx, |client, _| client.inner_mut().take())
                .map(|next| Ok(Next::Received(next)))
        });
        match next.await? {
            Next::Interrupted(signal) => break Err(signal),
            Next::ShowRate => rate.show(clock.now(), &inspector),
            Next::Received(Ok(mut bytes)) => {
                if let Some(remaining) = &mut remaining {
                    bytes.truncate(usize::try_from(*remaining).unwrap_or(usize::MAX));
                    *remaining -= bytes.len() as u64;
                }
                inspector.inspect(&bytes, clock.now());
                output.write(bytes);
                if remaining == Some(0) {
                    let shut_down = |client: &mut MaybeTls<Client>, now| {
                        client.handle(now, Event::ShutDown);
                        None::<()>
                    };
                    if let Err(ended) = drive.until(shut_down).await {
                        break Ok(ended);
                    }
                }
            }
            Next::Received(Err(ended)) => break Ok(ended),
        }
    };
    // After a signal, the reader of standard output may not read.
    let limit = ended.is_err().then_some(INTERRUPT_WAIT);
    let written = within(&mut clock, limit, output.finish()).await;
    rate.end(clock.now(), &inspector);
    let ended = ended.map_err(CommandError::Interrupted)?;
    written.unwrap_or(Ok(()))?;
    let reason = match ended {
        Ended::Reason(TlsReason::Inner(ClientReason::ShutDown)) => return Ok(()),
        Ended::Reason(TlsReason::Inner(ClientReason::Closed)) => {
            match (inspector.offset(), inspector.messages, count) {
                (0, 0, _) => format!("{ended} before the first message"),
                (0, messages, None) => {
                    if rate.is_shown {
                        log::write(&format!(
                            "the server ended the stream; messages received: {messages}\n"
                        ));
                    }
                    return Ok(());
                }
                (0, messages, Some(count)) => {
                    format!("the server ended the stream; messages received: {messages} of {count}")
                }
                (received, ..) => format!(
                    "the server ended the stream after {received} of a message's {frame} bytes"
                ),
            }
        }
        Ended::Reason(_) | Ended::Aborted => ended.to_string(),
    };
    Err(CommandError::Ended { address, reason })
}

/// What is next.
enum Next {
    Received(Result<Bytes, Ended<TlsReason<ClientReason>>>),
    ShowRate,
    /// By this signal.
    Interrupted(c_int),
}

/// Shows the rate of messages on standard error, once a second.
struct RateLine {
    is_shown: bool,
    line: ProgressLine,
    /// When the line was last shown.
    last: Instant,
    /// How many messages had been received when the line was last shown.
    last_messages: u64,
    /// When the line is shown next.
    next: Instant,
}

impl RateLine {
    fn new(now: Instant, is_shown: bool) -> Self {
        let line = ProgressLine::new();
        Self { is_shown, line, last: now, last_messages: 0, next: now + SHOW_INTERVAL }
    }

    fn show(&mut self, now: Instant, inspector: &MessageInspector) {
        if !self.is_shown {
            return;
        }
        let elapsed = now.since(self.last).as_nanos().max(1);
        let MessageInspector { messages, gaps, lag, .. } = inspector;
        let rate = u128::from(messages - self.last_messages) * 1_000_000_000 / elapsed;
        let lag = lag.as_ref().map_or_else(String::new, |lag| format!(", lag {}", Time(*lag)));
        self.line.show(&format!("{messages} messages, {rate}/s, {gaps} gaps{lag}"));
        (self.last, self.last_messages) = (now, *messages);
        self.next = now + SHOW_INTERVAL;
    }

    /// Shows the line once more and ends it, so that later output does not overwrite it.
    fn end(&mut self, now: Instant, inspector: &MessageInspector) {
        self.show(now, inspector);
        if self.is_shown {
            self.line.end();
        }
    }
}

/// How long the last block may take to be written after a signal.
const INTERRUPT_WAIT: Duration = Duration::from_secs(1);
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
