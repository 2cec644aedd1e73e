//! A source, the fan-out of its messages, and subscribers, one of which never reads.

use core::{
    convert::Infallible, future::Future, mem, num::NonZeroUsize, pin::pin, task::Poll,
    time::Duration,
};
use std::future::poll_fn;

use wirestate_core::{
    dial::{Backoff, Dial},
    drive::{Clock, Drive},
    fanout::{Client, Config, Feed, Framing, MessageSource, MessageSourceConfig, Subscriber},
    quantity::Time,
    runtime::connect_within,
    serve::ServerHandle,
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
};

use super::{CONNECT_TIMEOUT, SHOW_INTERVAL, bind, named, print};
use crate::{
    CommandError, CommandRuntime,
    fanout::{MessageInspector, reading::read_upstream, unix_epoch},
    join::join,
    progress_line::ProgressLine,
};

/// What the subscribers have received so far.
#[derive(Debug)]
struct Received {
    /// How many messages each healthy subscriber has received.
    messages: [u64; HEALTHY],
    /// Gaps in the messages of all healthy subscribers.
    gaps: u64,
    /// Subscribers that have ended. Before the server is shut down, these are failed ones.
    ended: usize,
}

impl Received {
    /// The number of messages that each healthy subscriber has received at least.
    fn min(&self) -> u64 {
        self.messages.iter().copied().min().unwrap_or(0)
    }
}

pub(super) async fn run<R: CommandRuntime>(runtime: &R) -> Result<(), CommandError> {
    let (source, source_address) = bind(runtime, named("fanout-source")).await?;
    let config = named("fanout-server").with_drain_timeout(DRAIN_TIMEOUT);
    let (server, address) = bind(runtime, config).await?;
    let (source_handle, handle) = (source.handle(), server.handle());
    let feed_config = Config::default()
        .with_framing(Framing::Fixed(SIZE))
        .with_window(WINDOW)
        // The subscriber that never reads must fall out of the window before its write timeout,
        // also on a loaded machine.
        .with_write_timeout(TIME_LIMIT);
    let feed = Feed::new(feed_config).map_err(CommandError::Config)?;
    print(&format!(
        "Fan-out: {RATE} messages/s to {SUBSCRIBERS} subscribers, one of which never reads\n\
         listening    fanout-source {source_address}, fanout-server {address}"
    ))?;
    let source_config = MessageSourceConfig::default()
        .with_size(SIZE)
        .with_rate(RATE)
        .with_epoch(unix_epoch(runtime));
    let sourcing = source.serve(|_, now| {
        MessageSource::new(source_config, now).expect("the default timeouts are non-zero")
    });
    let serving = server.serve(|_, now| Subscriber::new(&feed, now));
    let received = Shared::new(Lock::new(Received { messages: [0; HEALTHY], gaps: 0, ended: 0 }));
    let dial = Dial::new(source_address.to_string(), Backoff::new(0))
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_shutdown(source_handle.shutdown().clone());
    let subscribing = async {
        let result = transfer(runtime, &address.to_string(), dial, &feed, &received, &handle).await;
        source_handle.drain();
        handle.drain();
        result?;
        let all_ended = || received.with(|received| received.ended == SUBSCRIBERS);
        wait_until(runtime, DRAIN_TIMEOUT, all_ended).await;
        Ok(())
    };
    let (_, (_, result)) = join(sourcing, join(serving, subscribing)).await;
    result?;
    let counters = feed.counters();
    let lagged = handle.table().totals().ended.get("lagged").copied().unwrap_or(0);
    let (min, gaps) = received.with(|received| (received.min(), received.gaps));
    let published = counters.messages_in;
    print(&format!(
        "subscribers  {HEALTHY} received at least {min} of {published} messages each, {gaps} gaps\n\
         stalled      {lagged} disconnected because it lagged; upstream paused for {}\n\
         delivered    {} messages; {} bytes of incomplete messages dropped",
        Time(counters.paused),
        counters.delivered,
        counters.tail_bytes_dropped,
    ))?;
    if min == published && published >= MIN_MESSAGES && gaps == 0 {
        return Ok(());
    }
    let reason = format!("a subscriber received {min} of {published} messages, {gaps} gaps");
    Err(CommandError::Ended { address: address.to_string(), reason })
}

/// Connects all subscribers and then the upstream, and returns when enough messages were published.
async fn transfer<R: CommandRuntime>(
    runtime: &R,
    address: &str,
    dial: Dial,
    feed: &Feed,
    received: &Shared<Lock<Received>>,
    handle: &ServerHandle,
) -> Result<(), CommandError> {
    for number in 0..SUBSCRIBERS {
        let task = subscribe(runtime.clone(), address.into(), number, received, handle.shutdown());
        runtime.spawn(task).map_err(CommandError::Spawn)?;
    }
    let all_connected = || feed.counters().subscribers == SUBSCRIBERS as u64;
    wait_until(runtime, TIME_LIMIT, all_connected).await;
    let shutdown = dial.shutdown.clone();
    let reading = read_upstream(runtime, dial, feed, None, None);
    let reading = while_subscribers_keep_up(runtime, reading, feed, received);
    let watching = async {
        watch(runtime, feed, received).await;
        shutdown.drain();
    };
    join(reading, watching).await;
    Ok(())
}

/// Polls `reading`, which reads the upstream, except while a healthy subscriber is more than
/// [`MAX_LAG`] messages behind.
async fn while_subscribers_keep_up<R: CommandRuntime>(
    runtime: &R,
    reading: impl Future<Output = ()>,
    feed: &Feed,
    received: &Lock<Received>,
) {
    let mut reading = pin!(reading);
    let mut clock = runtime.clock();
    let began = clock.now();
    let mut next = began;
    poll_fn(|cx| {
        loop {
            let (min, has_failed) = received.with(|received| (received.min(), received.ended > 0));
            let keeps_up = min + MAX_LAG >= feed.counters().messages_in;
            if keeps_up || has_failed || next.since(began) > TIME_LIMIT {
                return reading.as_mut().poll(cx);
            }
            if clock.poll_until(cx, next).is_pending() {
                return Poll::Pending;
            }
            next = clock.now() + CHECK_INTERVAL;
        }
    })
    .await;
}

/// Runs a subscriber to its end. The subscriber with the last number never reads.
fn subscribe<R: CommandRuntime>(
    runtime: R,
    address: String,
    number: usize,
    received: &Shared<Lock<Received>>,
    shutdown: &ShutdownHandle,
) -> impl Future<Output = ()> + Send + 'static {
    let (received, shutdown) = (received.clone(), shutdown.clone());
    async move {
        let receiving = async {
            let socket = connect_within(&runtime, &address, Some(CONNECT_TIMEOUT)).await.ok()?;
            if number >= HEALTHY {
                poll_fn(|cx| match shutdown.poll_requested(cx) {
                    Shutdown::None | Shutdown::SoftStop => Poll::Pending,
                    Shutdown::Drain | Shutdown::Immediate => Poll::Ready(()),
                })
                .await;
                drop(socket);
                return None;
            }
            let mut inspector = MessageInspector::new(SIZE, Duration::ZERO);
            let mut drive = Drive::new(Client::new(), socket, runtime.clock());
            loop {
                let bytes = drive.until(|client, _| client.take()).await.ok()?;
                let gaps = inspector.gaps;
                inspector.inspect(&bytes, runtime.clock().now());
                received.with(|received| {
                    received.messages[number] = inspector.messages;
                    received.gaps += inspector.gaps - gaps;
                });
            }
        };
        let _ended: Option<Infallible> = receiving.await;
        received.with(|received| received.ended += 1);
    }
}

/// Waits until `condition` is true, for at most `timeout`.
async fn wait_until<R: CommandRuntime>(
    runtime: &R,
    timeout: Duration,
    condition: impl Fn() -> bool,
) {
    let mut clock = runtime.clock();
    let began = clock.now();
    let mut next = began;
    while !condition() && next.since(began) <= timeout {
        next += CHECK_INTERVAL;
        poll_fn(|cx| clock.poll_until(cx, next)).await;
    }
}

/// Shows progress, and returns when enough messages were published and the stalled subscriber was
/// disconnected, when a subscriber has failed, or after [`TIME_LIMIT`].
async fn watch<R: CommandRuntime>(runtime: &R, feed: &Feed, received: &Lock<Received>) {
    let line = ProgressLine::new();
    let mut clock = runtime.clock();
    let began = clock.now();
    let mut next = began;
    let mut last_published = 0;
    loop {
        poll_fn(|cx| clock.poll_until(cx, next)).await;
        let now = clock.now();
        let counters = feed.counters();
        let published = counters.messages_in;
        let (min, has_failed) = received.with(|received| (received.min(), received.ended > 0));
        let has_progress = published > mem::replace(&mut last_published, published);
        if published > 0 {
            line.show(&format!(
                "{}  fan-out: {published} in, {min} received by all {HEALTHY}; stalled one {}",
                Time(now.since(began)),
                match (counters.lagged, has_progress) {
                    (0, false) => "pauses upstream",
                    (0, true) => "connected",
                    (_, _) => "disconnected",
                },
            ));
        }
        let is_complete = published >= MIN_MESSAGES && counters.lagged > 0;
        if is_complete || has_failed || now.since(began) > TIME_LIMIT {
            line.clear();
            return;
        }
        next = now + SHOW_INTERVAL;
    }
}

/// All subscribers.
const SUBSCRIBERS: usize = 100;
/// The subscribers that read.
const HEALTHY: usize = SUBSCRIBERS - 1;
/// The size of a message, in bytes.
const SIZE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// The minimum number of messages. It is large enough that the subscriber that never reads fills
/// the kernel's buffers and then falls out of the window.
const MIN_MESSAGES: u64 = 2000;
/// Messages a second.
const RATE: u64 = 400;
/// The window in bytes: 512 messages.
const WINDOW: usize = 2 * 1024 * 1024;
/// How many messages a healthy subscriber may be behind while the upstream is read: a quarter of
/// the window (docs/decisions.md).
const MAX_LAG: u64 = 128;
/// How long the transfer may take. On an idle machine it takes about 6 s.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// How long subscribers may take to receive the last messages and to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
