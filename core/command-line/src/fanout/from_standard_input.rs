//! Standard input as the upstream of a feed.

use core::{
    convert::Infallible,
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};
use std::io;

use bytes::{Buf as _, Bytes};
use tracing::info;
use wirestate_core::{
    Event, Machine as _,
    drive::{Clock, Drive, Ended, IoError, Sink, Source},
    fanout::{Feed, Upstream, UpstreamReason},
    record::Recorded,
    serve::ServerHandle,
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
};

use crate::{CommandError, CommandRuntime, standard_input::StandardInput};

/// Publishes standard input to `feed`, by `upstream`. At its end, sends each subscriber all that
/// was published and a FIN, and ends the server. If `waits_for_readers`, it first waits until all
/// readers of the feed have acknowledged it, such as a stream. A `shutdown` ends it earlier.
///
/// If standard input cannot be read, or a message is too long, the server ends in the same way, and
/// the error is left in `failure`.
///
/// # Errors
/// The thread that reads cannot be started.
pub(super) fn read_standard_input<R: CommandRuntime>(
    runtime: &R,
    feed: Feed,
    upstream: Recorded<Upstream>,
    handle: ServerHandle,
    shutdown: ShutdownHandle,
    failure: Shared<Lock<Option<CommandError>>>,
    waits_for_readers: bool,
) -> Result<impl Future<Output = ()> + Send + 'static, CommandError> {
    let blocks = StandardInput::blocks().map_err(CommandError::Input)?;
    let (drive_clock, mut clock) = (runtime.clock(), runtime.clock());
    let mut input = Input { blocks, rest: Bytes::new(), error: None };
    Ok(async move {
        let mut drive = Drive::new(upstream, &mut input, drive_clock);
        let ended = poll_fn(|cx| {
            let is_requested = shutdown.poll_requested(cx) >= Shutdown::Drain;
            drive.poll_until(cx, |upstream, now| {
                if is_requested {
                    upstream.handle(now, Event::ShutDown);
                }
                None::<Infallible>
            })
        });
        let Err(ended) = ended.await;
        drop(drive);
        let error = match (input.error, ended) {
            (Some(error), _) => Some(CommandError::Input(error)),
            (None, Ended::Reason(UpstreamReason::ShutDown) | Ended::Aborted) => return,
            (None, Ended::Reason(UpstreamReason::Closed { tail })) => {
                let messages = feed.counters().messages_in;
                info!(messages, tail_bytes_dropped = tail, "standard input ended");
                None
            }
            (None, ended @ Ended::Reason(_)) => Some(CommandError::ended("standard input", &ended)),
        };
        failure.with(|failure| *failure = error);
        end_subscriptions(&handle, &mut clock).await;
        while waits_for_readers && feed.counters().reader_lag > 0 {
            let next = clock.now() + CHECK_INTERVAL;
            let sleep = poll_fn(|cx| clock.poll_until(cx, next));
            if shutdown.unless_requested(sleep).await.is_none() {
                return;
            }
        }
        handle.drain();
    })
}

/// Ends all subscriptions gracefully, and waits until all subscribers have got what was published.
/// There is no time limit: a subscriber that acknowledges no byte is reset.
async fn end_subscriptions(handle: &ServerHandle, clock: &mut impl Clock) {
    let table = handle.table();
    loop {
        table.shut_down();
        // Connections that are made meanwhile end as well.
        let next = clock.now() + CHECK_INTERVAL;
        let is_empty = poll_fn(|cx| match table.poll_empty(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => clock.poll_until(cx, next).map(|()| false),
        });
        if is_empty.await {
            return;
        }
    }
}

/// Standard input as a connection whose peer only sends.
struct Input {
    blocks: StandardInput<Bytes>,
    /// What the driver has not read of the last block.
    rest: Bytes,
    error: Option<io::Error>,
}

impl Source for Input {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        if self.rest.is_empty() {
            match ready!(self.blocks.poll_next(cx)) {
                Some(Ok(block)) => self.rest = block,
                Some(Err(error)) => {
                    let lost = io::Error::from(error.kind()).into();
                    self.error = Some(error);
                    return Poll::Ready(Err(lost));
                }
                None => return Poll::Ready(Ok(0)),
            }
        }
        let n = buf.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buf[..n]);
        Poll::Ready(Ok(n))
    }
}

impl Sink for Input {
    fn poll_write(&mut self, _: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        // An upstream sends nothing.
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {}
}

/// How often the subscriptions that were begun after the end of standard input are ended, and how
/// often the readers are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
