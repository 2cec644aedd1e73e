//! From a stream of a NATS server to a feed.

use alloc::collections::VecDeque;
use core::{mem, num::NonZeroUsize, task::Context, time::Duration};

use bytes::{Bytes, BytesMut};
use tracing::{info, warn};

use super::handle::{EdgeCounters, EdgeHandle};
use crate::{
    ConfigError, Instant,
    fanout::{Capacity, Feed},
    log_limit::{LogDecision, LogLimit},
    nats::{
        Client, Config, Incoming, Session,
        jetstream::{Consumer, ConsumerConfig, ConsumerEvent, Delivery, MessageId, StreamGap},
    },
    quantity::Time,
    shared::Shared,
};

/// Reads a stream and publishes its messages to a feed, over all connections. It is the session of
/// a [`Connection`](crate::nats::Connection).
///
/// Each payload must be one or more messages of the feed's
/// [`Framing`](crate::fanout::Framing), as an [`Ingest`](super::Ingest) publishes them. Another one
/// is dropped and counted ([`EdgeCounters::rejected`](super::EdgeCounters::rejected)).
///
/// # Gaps
///
/// A message follows the previous one if it has the next sequence of the stream, and the next
/// position of the same epoch ([`MessageId`]), or neither of them has an id. Anything else is a
/// gap: an epoch of the feed begins ([`Feed::begin_epoch`]), it is counted, and a line is logged.
///
/// The epoch and the position alone do not suffice: a process may give an epoch again if the
/// bucket of the lease was deleted ([`Lease`](crate::nats::jetstream::Lease)).
///
/// # Backpressure
///
/// While the feed has no capacity, no more messages are asked for.
///
/// # Memory
///
/// It holds what the [`Consumer`] holds, and two blocks of 256 KiB or a quarter of the window,
/// whichever is less, or the longest message where that is more. The feed's chunks are parts of
/// such blocks.
#[derive(Debug)]
pub struct Edge {
    feed: Feed,
    consumer: Consumer,
    /// The last message that was taken.
    last: Option<Last>,
    /// The gap that the consumer has reported before the next message.
    stream_gap: Option<StreamGap>,
    /// The messages that are not published yet, and space behind them.
    block: BytesMut,
    /// How many messages the block has.
    messages: u64,
    /// An epoch begins with the block, which may have no message yet.
    begins_epoch: bool,
    /// What comes before the block: it was full, or was followed by a gap, or waits for capacity.
    sealed: VecDeque<Batch>,
    /// When to ask the feed for capacity again at the latest.
    paused_until: Option<Instant>,
    is_up: bool,
    log: LogLimit,
    name: Option<Shared<str>>,
    counters: EdgeCounters,
    handle: EdgeHandle,
}

/// Messages that are published together.
#[derive(Debug)]
struct Batch {
    bytes: Bytes,
    messages: u64,
    begins_epoch: bool,
}

/// The last message that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    sequence: u64,
    id: Option<MessageId>,
}

impl Last {
    /// Whether a message with `id` follows. `has_gap`: the consumer has seen a gap before it.
    fn precedes(self, id: Option<MessageId>, has_gap: bool) -> bool {
        let continues = match (self.id, id) {
            (Some(last), Some(id)) => {
                last.epoch == id.epoch && last.position.checked_add(1) == Some(id.position)
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        continues && !has_gap
    }
}

impl Edge {
    /// An edge that waits for its first connection.
    ///
    /// # Errors
    /// A setting of `config` is zero, or out of its range.
    pub fn new(feed: &Feed, config: ConsumerConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            feed: feed.clone(),
            consumer: Consumer::new(config)?,
            last: None,
            stream_gap: None,
            block: BytesMut::new(),
            messages: 0,
            begins_epoch: false,
            sealed: VecDeque::new(),
            paused_until: None,
            is_up: false,
            log: LogLimit::default(),
            name: None,
            counters: EdgeCounters::default(),
            handle: EdgeHandle::default(),
        })
    }

    /// The configuration of the clients of its connections: `config`, with a receive buffer of
    /// 256 KiB and a request timeout of 2 s.
    ///
    /// What is received at once is published at once, and each publication wakes all subscribers
    /// that have caught up. So large reads are cheaper.
    ///
    /// A cluster in which a node has died does not answer until a leader is elected. Each request
    /// that is sent before delays the edge by its timeout.
    pub fn client_config(config: Config) -> Config {
        config.with_buffer(RECEIVE_BUFFER).with_request_timeout(REQUEST_TIMEOUT)
    }

    /// Sets the name of the server, the field `server` of the log lines. Default: none.
    pub fn with_name(self, name: Option<Shared<str>>) -> Self {
        Self { name, ..self }
    }

    /// A handle, for the counters.
    pub fn handle(&self) -> EdgeHandle {
        self.handle.clone()
    }

    fn block_size(&self) -> usize {
        // Subscribers that are only a little behind must stay in the window after one publication.
        BLOCK.min(self.feed.config().window / 4)
    }

    /// The number of bytes that are not published yet.
    fn queued(&self) -> usize {
        self.block.len() + self.sealed.iter().map(|batch| batch.bytes.len()).sum::<usize>()
    }

    /// Takes what the consumer has, as far as there is space. Returns whether there was anything.
    fn take(&mut self, client: &mut Client, now: Instant) -> bool {
        let (limit, mut has_changed) = (self.block_size(), false);
        while self.queued() < limit
            && let Some(event) = self.consumer.take_event()
        {
            has_changed = true;
            self.apply(event, now);
        }
        if has_changed {
            self.handle.set(self.counters);
        }
        self.consumer.pump(client, now);
        has_changed
    }

    fn apply(&mut self, event: ConsumerEvent, now: Instant) {
        let server = self.name.as_deref();
        match event {
            ConsumerEvent::Message(delivery) => self.append(&delivery, now),
            ConsumerEvent::Gap(gap) => self.stream_gap = Some(gap),
            ConsumerEvent::Reading { next, stream } => {
                self.counters.consumers += 1;
                self.counters.is_reading = true;
                info!(server, next, last = stream.last_sequence, "reading the stream");
                self.set_up(true, now);
            }
            ConsumerEvent::Waiting { reason, retry } => {
                self.counters.is_reading = false;
                if let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now) {
                    warn!(server, suppressed, "{reason}; the next attempt is in {}", Time(retry));
                }
            }
        }
    }

    /// Appends a message to those that are published next.
    fn append(&mut self, delivery: &Delivery, now: Instant) {
        let (sequence, id) = (delivery.sequence, delivery.id());
        let payload = delivery.message.payload();
        let complete = self.feed.config().framing.complete_messages(payload, 0);
        let gap = self.stream_gap.take();
        if self.last.is_some_and(|last| !last.precedes(id, gap.is_some())) {
            self.begin_epoch(sequence, id, gap, now);
        }
        self.last = Some(Last { sequence, id });
        self.counters.sequence = sequence;
        self.counters.epoch = id.map(|id| id.epoch);
        self.counters.messages += 1;
        self.counters.set_pending(delivery.pending, now);
        if complete.count == 0 || complete.bytes < payload.len() {
            return self.reject(sequence, payload.len(), now);
        }
        if self.block.capacity() - self.block.len() < payload.len() {
            self.seal();
            self.block = BytesMut::with_capacity(self.block_size().max(payload.len()));
        }
        self.block.extend_from_slice(payload);
        self.messages += complete.count;
    }

    /// Begins an epoch with the next message.
    fn begin_epoch(
        &mut self,
        sequence: u64,
        id: Option<MessageId>,
        gap: Option<StreamGap>,
        now: Instant,
    ) {
        let Some(last) = self.last else { return };
        let missing = match (last.id, id) {
            (Some(last), Some(id)) if last.epoch == id.epoch => {
                id.position.checked_sub(last.position).and_then(|n| n.checked_sub(1))
            }
            (Some(_), Some(_)) => None,
            (None | Some(_), None) | (None, Some(_)) => gap.and_then(|gap| gap.missing()),
        };
        self.break_off();
        self.counters.missing += missing.unwrap_or(0);
        if let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now) {
            let epoch = |id: Option<MessageId>| id.map(|id| id.epoch);
            warn!(
                server = self.name.as_deref(),
                last_sequence = last.sequence,
                sequence,
                last_epoch = epoch(last.id),
                epoch = epoch(id),
                missing,
                suppressed,
                "messages may be missing: a new epoch begins"
            );
        }
    }

    /// Begins an epoch with the next message, and counts it once.
    fn break_off(&mut self) {
        self.seal();
        self.counters.gaps += u64::from(!mem::replace(&mut self.begins_epoch, true));
    }

    /// Drops a message that is none of the feed's framing: the next one begins an epoch.
    fn reject(&mut self, sequence: u64, length: usize, now: Instant) {
        self.break_off();
        self.counters.rejected += 1;
        if let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now) {
            let limit = self.feed.config().framing.max_message_size();
            warn!(
                server = self.name.as_deref(),
                sequence,
                length,
                limit,
                suppressed,
                "dropped a message that is no whole message of --frame"
            );
        }
    }

    /// Completes the batch that the block has.
    fn seal(&mut self) {
        if self.messages > 0 {
            self.sealed.push_back(Batch {
                bytes: self.block.split().freeze(),
                messages: mem::take(&mut self.messages),
                begins_epoch: mem::take(&mut self.begins_epoch),
            });
        }
    }

    /// Publishes what was taken, as far as the feed has capacity. Returns whether there was
    /// anything.
    fn publish(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.paused_until = None;
        let mut has_changed = false;
        loop {
            // While the feed is paused, what follows becomes one batch.
            if self.sealed.is_empty() {
                self.seal();
            }
            let Some(batch) = self.sealed.front() else { break };
            match self.feed.poll_capacity(now, batch.bytes.len(), cx) {
                Capacity::Paused { until } => {
                    self.paused_until = until;
                    break;
                }
                Capacity::Available => {}
            }
            let Some(batch) = self.sealed.pop_front() else { break };
            if batch.begins_epoch {
                self.feed.begin_epoch();
            }
            self.feed.publish(batch.bytes, batch.messages, now);
            has_changed = true;
        }
        has_changed
    }

    fn set_up(&mut self, is_up: bool, now: Instant) {
        if mem::replace(&mut self.is_up, is_up) == is_up {
            return;
        }
        if is_up {
            self.feed.upstream_resumed();
        } else {
            self.feed.upstream_disconnected("disconnected", 0, now);
        }
    }
}

impl Session for Edge {
    fn connected(&mut self, client: &mut Client, now: Instant) {
        self.consumer.connected(client, now);
    }

    fn handle(&mut self, client: &mut Client, incoming: Incoming, now: Instant) {
        let rest = self.consumer.handle(client, incoming, now);
        if let Some(Incoming::Error(error)) = rest
            && let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now)
        {
            warn!(server = self.name.as_deref(), suppressed, "the server reports: {error}");
        }
    }

    fn poll_shared(&mut self, client: &mut Client, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut has_changed = false;
        while self.take(client, now) | self.publish(now, cx) {
            has_changed = true;
        }
        has_changed
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.consumer.poll_timeout(), self.paused_until].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, client: &mut Client, now: Instant) {
        self.paused_until.take_if(|until| *until <= now);
        self.consumer.handle_timeout(client, now);
    }

    fn disconnected(&mut self, now: Instant) {
        self.consumer.disconnected();
        self.counters.is_reading = false;
        self.handle.set(self.counters);
        self.set_up(false, now);
    }
}

/// The largest block, in bytes: as that of an [`Upstream`](crate::fanout::Upstream).
const BLOCK: usize = 256 * 1024;
/// The size of a client's receive buffer, in bytes.
const RECEIVE_BUFFER: NonZeroUsize = NonZeroUsize::new(BLOCK).unwrap();
/// How long an edge waits for an answer of the API of `JetStream`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
