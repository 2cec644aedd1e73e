//! The publishers of a `fanout-server`: the clients of `--publishers`.

use core::{
    future::poll_fn,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Duration,
};
use std::sync::atomic::AtomicU64;

use clap::Args;
use wirestate_core::{
    admission::ConnectionEntry,
    drive::Clock,
    fanout::{Config, Feed, Publisher},
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
};

use super::server::ServerFlags;
use crate::{
    CommandError, CommandRuntime,
    server::{Prepared, Share, Stage, Starting},
    values::{self, Timeout},
};

/// The flags for publishers.
#[derive(Args, Clone, Debug)]
pub(super) struct PublisherFlags {
    /// Instead of --upstream, listen on this address for clients that publish messages: HOST:PORT,
    /// unix:PATH, or `systemd` or `systemd:NAME`
    ///
    /// The stream of each publisher is cut into messages (--frame), and only complete messages are
    /// passed on. The flags for TLS, PROXY headers and --max-per-address apply to publishers as
    /// they do to subscribers.
    #[arg(id = "publishers", long = "publishers", value_name = "ADDR", env = "WIRESTATE_PUBLISHERS",
          conflicts_with = "upstream", value_parser = values::listen)]
    pub(super) listen: Option<String>,
    /// How many publishers may be connected
    #[arg(long, value_name = "N", env = "WIRESTATE_MAX_PUBLISHERS", default_value = "100",
          value_parser = values::count::<u64>)]
    max_publishers: u64,
    /// Reset a publisher that sends no byte for this long; or `off`
    #[arg(
        long,
        value_name = "TIME",
        env = "WIRESTATE_PUBLISHER_IDLE_TIMEOUT",
        default_value = "10m"
    )]
    publisher_idle_timeout: Timeout,
    /// Reset a publisher whose message is not complete this long after its first byte; or `off`
    #[arg(
        long,
        value_name = "TIME",
        env = "WIRESTATE_PUBLISHER_MESSAGE_TIMEOUT",
        default_value = "30s"
    )]
    publisher_message_timeout: Timeout,
    /// The feed, which the listeners for publishers and for subscribers share, and its number.
    #[arg(skip)]
    feed: Shared<Lock<Option<(Feed, u64)>>>,
}

impl PublisherFlags {
    /// How many publishers may be connected.
    pub(super) fn max_connections(&self) -> u64 {
        if self.listen.is_some() { self.max_publishers } else { 0 }
    }

    /// The feed with this configuration, which is made at the first call.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub(super) fn feed(&self, config: Config) -> Result<Feed, CommandError> {
        self.feed.with(|shared| {
            if let Some((feed, _)) = shared {
                return Ok(feed.clone());
            }
            let feed = Feed::new(config).map_err(CommandError::Config)?;
            *shared = Some((feed.clone(), FEEDS.fetch_add(1, Relaxed)));
            Ok(feed)
        })
    }

    /// The number of the feed in this process, for recordings.
    pub(super) fn feed_number(&self) -> u64 {
        self.feed.with(|feed| feed.as_ref().map_or(0, |(_, number)| *number))
    }

    /// Adds the settings of a publisher.
    pub(super) fn add_to(&self, config: Config) -> Config {
        config
            .with_publisher_idle_timeout(self.publisher_idle_timeout.0)
            .with_publisher_message_timeout(self.publisher_message_timeout.0)
    }
}

/// The server of the publishers. That of the subscribers is prepared with the same `flags`.
pub(crate) fn prepare<R: CommandRuntime>(
    flags: &ServerFlags,
    share: Share,
) -> Result<Prepared<R>, CommandError> {
    let publishers = &flags.publishers;
    let feed = flags.feed()?;
    let server = flags.server.clone().with_max_connections(publishers.max_connections());
    let settings = server.settings::<R>(share)?;
    let settings = settings.with_recorded_field(FEED, publishers.feed_number().into());
    Ok(settings.start(publishers.listen.clone(), move |starting: &Starting<'_, R>| {
        let table = starting.handle.table().clone();
        let serving = starting.serve("publisher", move |_: &_, now| Publisher::new(&feed, now));
        Ok(serving.on_end(move |stage| match stage {
            // Publishers that connect again publish to the feed of the next server.
            Stage::Retired => table.shut_down(),
            Stage::Draining | Stage::Stopped => {}
        }))
    }))
}

/// Waits until `shutdown` is requested and all publishers have ended.
pub(super) async fn publishers_ended(mut clock: impl Clock, feed: Feed, shutdown: ShutdownHandle) {
    let requested = |cx: &mut Context<'_>| shutdown.poll_requested(cx) >= Shutdown::Drain;
    poll_fn(|cx| if requested(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    no_publishers(&mut clock, &feed).await;
}

/// Ends the `subscribers` of a feed that was replaced, once its publishers have ended.
pub(super) async fn end_subscribers(
    mut clock: impl Clock,
    feed: Feed,
    subscribers: Vec<Shared<ConnectionEntry>>,
) {
    no_publishers(&mut clock, &feed).await;
    for subscriber in subscribers {
        subscriber.shut_down();
    }
}

async fn no_publishers(clock: &mut impl Clock, feed: &Feed) {
    while feed.counters().publishers > 0 {
        let next = clock.now() + CHECK_INTERVAL;
        poll_fn(|cx| clock.poll_until(cx, next)).await;
    }
}

/// The field of a recording that has the number of the feed.
pub(crate) const FEED: &str = "feed";
/// How many feeds there were.
static FEEDS: AtomicU64 = AtomicU64::new(1);
/// How often it is checked whether all publishers have ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
