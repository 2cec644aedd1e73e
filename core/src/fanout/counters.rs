//! The counters of a feed. The status module gives them their names as metrics.

use alloc::collections::BTreeMap;
use core::{mem, time::Duration};

use crate::Instant;

/// The counters of a feed since it was created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages published.
    pub messages_in: u64,
    /// Bytes of messages published.
    pub bytes_received: u64,
    /// Bytes that were dropped because the connection of the upstream or of a publisher ended
    /// before their message was complete and published.
    pub tail_bytes_dropped: u64,
    /// [Publishers](super::Publisher) now.
    pub publishers: u64,
    /// Whether the upstream is connected.
    pub upstream_up: bool,
    /// Connections made to the upstream.
    pub upstream_connects: u64,
    /// Attempts to connect to the upstream that failed.
    pub upstream_failures: u64,
    /// Connections to the upstream that ended, by [`Reason::label`](crate::Reason::label);
    /// `aborted`: the machine was dropped before its end.
    pub upstream_ended: BTreeMap<&'static str, u64>,
    /// The present epoch: how many have begun after the first one, epoch 0.
    pub epoch: u64,
    /// How long the upstream was paused because of slow subscribers or [readers](super::Reader).
    pub paused: Duration,
    /// The part of [`paused`](Self::paused) during which a subscriber had read everything and
    /// waited: [`Config::lag_wait`](super::Config::lag_wait) limits it.
    pub paused_waiting: Duration,
    /// The part of [`paused`](Self::paused) that was because of a reader that blocks
    /// ([`Pace::Blocks`](super::Pace::Blocks)).
    pub paused_for_readers: Duration,
    /// Subscribers now.
    pub subscribers: u64,
    /// Messages delivered to all subscribers together. A message is delivered once the kernel has
    /// accepted its last byte.
    pub delivered: u64,
    /// How many messages the slowest subscriber is behind now. All messages of a chunk count until
    /// the whole chunk is delivered.
    pub lag: u64,
    /// Messages that subscribers skipped ([`LagPolicy::Skip`](super::LagPolicy::Skip)).
    pub skipped: u64,
    /// Subscribers that were disconnected because they fell out of the window
    /// ([`LagPolicy::Disconnect`](super::LagPolicy::Disconnect)).
    pub lagged: u64,
    /// How often a subscriber fell out of the window before it had caught up since it joined or
    /// skipped. The upstream is not paused for such a subscriber while others wait.
    pub never_caught_up: u64,
    /// Subscribers that were disconnected because an epoch began
    /// ([`GapPolicy::Disconnect`](super::GapPolicy::Disconnect)).
    pub gap_ended: u64,
    /// [Readers](super::Reader) now. They do not count as subscribers.
    pub readers: u64,
    /// How many messages the slowest reader has not acknowledged now.
    pub reader_lag: u64,
    /// When the oldest message that the slowest reader has not acknowledged was published; `None`
    /// if there is none.
    pub reader_oldest: Option<Instant>,
    /// Messages that readers acknowledged.
    pub reader_acknowledged: u64,
    /// Messages that readers skipped.
    pub reader_skipped: u64,
    /// A histogram of delivery latencies: for each chunk and subscriber, the time from the receipt
    /// of its last byte until the kernel accepts it for the subscriber.
    ///
    /// Element `i` counts latencies below bound `i` of [`LATENCY_BOUNDS`], and not below the
    /// previous bound. The last element counts all others.
    pub latency: [u64; LATENCY_BOUNDS.len() + 1],
    /// The sum of all delivery latencies.
    pub latency_sum: Duration,
}

/// Deliveries to one subscriber that are not in the feed's counters yet.
///
/// A subscriber adds them when it locks the feed for another reason, so that a delivery takes no
/// lock.
#[derive(Debug, Default)]
pub(super) struct UncountedDeliveries {
    pub(super) messages: u64,
    /// As [`Counters::latency`]. A `u8` suffices: at most [`MAX_SLICES`](crate::drive::MAX_SLICES)
    /// chunks are delivered between two fetches.
    latency: [u8; LATENCY_BOUNDS.len() + 1],
    latency_sum: Duration,
}

impl UncountedDeliveries {
    pub(super) fn record_latency(&mut self, latency: Duration) {
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound <= latency);
        self.latency[bucket] += 1;
        self.latency_sum += latency;
    }

    pub(super) fn move_to(&mut self, counters: &mut Counters) {
        if self.messages == 0 {
            return;
        }
        counters.delivered += mem::take(&mut self.messages);
        counters.latency_sum += mem::take(&mut self.latency_sum);
        for (total, new) in counters.latency.iter_mut().zip(mem::take(&mut self.latency)) {
            *total += u64::from(new);
        }
    }
}

/// The bounds of [`Counters::latency`].
pub const LATENCY_BOUNDS: [Duration; 12] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
];
