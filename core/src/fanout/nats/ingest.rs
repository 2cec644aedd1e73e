//! From a feed to a stream of a NATS server.

use alloc::collections::VecDeque;
use core::{num::NonZeroUsize, task::Context};

use tracing::{info, warn};

use super::handle::{IngestCounters, IngestHandle};
use crate::{
    ConfigError, Event, Instant, Machine as _,
    fanout::{Chunk, Feed, FetchOutcome, Pace, Reader},
    log_limit::{LogDecision, LogLimit},
    nats::{
        Client, Config, Incoming, Session,
        jetstream::{
            EpochEnd, Lease, LeaseConfig, LeaseEvent, LeaseLost, Publisher, PublisherEvent,
            StreamConfig,
        },
    },
    shared::Shared,
};

/// Publishes a feed's messages to a stream while it holds the stream's lease, over all connections.
/// It is the session of a [`Connection`](crate::nats::Connection).
///
/// A message of the feed is one message of the stream, with the epoch of the lease and the number
/// of the message in the feed as its id ([`MessageId`](crate::nats::jetstream::MessageId)). The
/// stream gets them in order and once, whatever connections and servers are lost
/// ([`Publisher`]).
///
/// # Epochs
///
/// An epoch begins where messages may be missing: when the lease is acquired, with an epoch of the
/// feed ([`Chunk::epoch`]), after messages that were skipped or refused, and when the stream has
/// lost acknowledged messages.
///
/// # Lease
///
/// One of several ingests publishes; the others wait ([`Lease`]).
/// [`IngestHandle::watch_lease`] says when to connect to the source. When the lease is lost,
/// nothing is published until it is acquired again. If another process has published meanwhile,
/// the messages that were not acknowledged are dropped and counted, because they are older, and
/// the source has to be connected to again ([`LeaseWatch`](super::LeaseWatch)).
/// Otherwise the epoch goes on, so that nothing is lost if the servers are away for longer than
/// the lease.
///
/// # Shutdown
///
/// It publishes what the feed has, waits for the acknowledgements, and gives the lease up. So end
/// the upstream first. If another process holds the lease, it ends at once.
///
/// # Memory
///
/// It holds what the [`Publisher`] and the [`Lease`] hold, and handles on at most 1,024 chunks in
/// the feed's window. With [`Pace::NeverBlocks`], these chunks may have left the window: then it
/// keeps as much as [`Config::window`](crate::fanout::Config::window) alive beside it, until the
/// next connection.
#[derive(Debug)]
pub struct Ingest {
    feed: Feed,
    reader: Reader,
    lease: Lease,
    publisher: Publisher,
    /// The chunks that are not acknowledged, oldest first.
    chunks: VecDeque<Chunk>,
    /// The first chunk that is not offered in full.
    next: usize,
    /// How many bytes of that chunk were offered.
    offset: usize,
    /// The number of the next message to offer.
    position: u64,
    /// The epoch of the feed to which the messages of the present epoch belong; `None` before the
    /// first one.
    feed_epoch: Option<u64>,
    pace: Pace,
    stage: Stage,
    /// Whether this ingest has held the lease, and no other process has it since. After one that
    /// has, not until it is known whether that one has published.
    is_active: bool,
    /// Another process may have published what the feed has, or newer messages: the lease was lost
    /// in the present epoch, or has not been held yet.
    was_lost: bool,
    is_draining: bool,
    log: LogLimit,
    name: Option<Shared<str>>,
    counters: IngestCounters,
    handle: IngestHandle,
}

/// What an ingest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The lease is not held.
    Standby,
    /// Messages are published in the present epoch.
    Publishing,
    /// The epoch ends once the messages in flight are acknowledged.
    EndingEpoch,
    /// The lease is renewed for a new epoch.
    BetweenEpochs,
    /// The lease was given up.
    Released,
}

impl Ingest {
    /// An ingest that waits for its first connection. It reads the feed from the next message on.
    ///
    /// With [`Pace::Blocks`], the feed is paused while messages wait for their acknowledgement.
    /// With [`Pace::NeverBlocks`], the ingest skips messages when it falls out of the window, and
    /// those that the feed got while another ingest held the lease.
    ///
    /// `seed` must be different in each process ([`Lease::new`]).
    ///
    /// # Errors
    /// [`LeaseConfig::ttl`] is below its minimum.
    pub fn new(
        feed: &Feed,
        pace: Pace,
        stream: StreamConfig,
        lease: &LeaseConfig,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            lease: Lease::new(lease, seed)?,
            publisher: Publisher::new(stream, seed).with_max_in_flight(MAX_IN_FLIGHT),
            reader: Reader::join(feed, pace),
            pace,
            chunks: VecDeque::new(),
            next: 0,
            offset: 0,
            position: 0,
            feed_epoch: None,
            stage: Stage::Standby,
            is_active: false,
            was_lost: false,
            is_draining: false,
            log: LogLimit::default(),
            name: None,
            counters: IngestCounters::default(),
            handle: IngestHandle::new(feed),
            feed: feed.clone(),
        })
    }

    /// The configuration of the clients of its connections: `config`, with what an ingest needs
    /// ([`Publisher`]).
    pub fn client_config(config: Config) -> Config {
        config.with_max_requests(MAX_REQUESTS)
    }

    /// Sets the name of the server, the field `server` of the log lines. Default: none.
    pub fn with_name(self, name: Option<Shared<str>>) -> Self {
        Self { name, ..self }
    }

    /// A handle, for the counters and the lease.
    pub fn handle(&self) -> IngestHandle {
        self.handle.clone()
    }

    /// Handles what has happened to the lease and to the publisher. Returns whether anything has.
    fn advance(&mut self, client: &mut Client, now: Instant) -> bool {
        let mut has_changed = false;
        loop {
            self.lease.pump(client, now);
            self.publisher.pump(client, now);
            if let Some(event) = self.lease.take_event() {
                self.apply_lease_event(event, client, now);
            } else if let Some(event) = self.publisher.take_event() {
                self.apply_publisher_event(event, now);
            } else {
                break;
            }
            has_changed = true;
        }
        has_changed
    }

    fn apply_lease_event(&mut self, event: LeaseEvent, client: &mut Client, now: Instant) {
        let server = self.name.as_deref();
        match event {
            LeaseEvent::BucketCreated => info!(server, "created the bucket of the lease"),
            LeaseEvent::Taken { holder } => {
                info!(server, holder, "another process holds the lease: standing by");
                self.is_active = false;
                // Without a pause, the feed goes on with the messages that the other one publishes.
                self.was_lost |= self.pace == Pace::NeverBlocks;
            }
            LeaseEvent::Acquired { epoch } => {
                if self.publisher.epoch().is_some() {
                    info!(server, "acquired the lease again");
                    self.publisher.resume();
                    self.stage = Stage::Publishing;
                } else {
                    info!(server, epoch, "acquired the lease: publishing");
                    self.begin_epoch(epoch, now);
                }
            }
            LeaseEvent::Renewed { epoch } => {
                if let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now) {
                    info!(server, epoch, suppressed, "a new epoch begins");
                }
                self.begin_epoch(epoch, now);
            }
            LeaseEvent::Lost(reason) => {
                warn!(server, "lost the lease: {reason}");
                self.is_active &= !matches!(reason, LeaseLost::Taken { .. });
                self.publisher.suspend();
                self.stage = Stage::Standby;
                self.was_lost = true;
                self.counters.leases_lost += 1;
            }
            LeaseEvent::Waiting(problem) => {
                if let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now) {
                    warn!(server, suppressed, "{problem}; the next attempt follows");
                }
            }
            LeaseEvent::Released => {
                self.stage = Stage::Released;
                client.handle(now, Event::ShutDown);
            }
        }
    }

    fn begin_epoch(&mut self, epoch: u64, now: Instant) {
        // Another process has held the lease meanwhile.
        if self.was_lost && !self.is_active {
            self.drop_outdated();
        }
        let from = self.publisher.position().max(self.reader.position());
        self.publisher.begin_epoch(epoch, from, now);
        self.stage = Stage::Publishing;
        self.is_active = true;
        self.feed_epoch = None;
        self.was_lost = false;
        self.counters.epochs += 1;
    }

    /// Renews the lease for an epoch above `above`.
    fn renew(&mut self, above: u64) {
        self.stage = Stage::BetweenEpochs;
        self.lease.renew(above);
    }

    fn apply_publisher_event(&mut self, event: PublisherEvent, now: Instant) {
        let server = self.name.as_deref();
        match event {
            PublisherEvent::StreamCreated => info!(server, "created the stream"),
            PublisherEvent::Acknowledged { before } => self.acknowledge(before),
            PublisherEvent::Resumed { from } => {
                self.counters.resumed += 1;
                // Not before: what the source sends from now on is not outdated.
                self.is_active |= self.stage == Stage::Publishing;
                self.seek(from);
                // The end of the epoch may have to be offered again.
                if self.stage == Stage::EndingEpoch {
                    self.stage = Stage::Publishing;
                }
            }
            PublisherEvent::Waiting(problem) => {
                if let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now) {
                    warn!(server, suppressed, "{problem}; the next attempt follows");
                }
            }
            PublisherEvent::EpochEnded(end) => {
                let above = end.above();
                if let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now) {
                    warn!(server, suppressed, "messages may be missing: {end}");
                }
                match end {
                    EpochEnd::Refused { .. } => {
                        self.counters.rejected += 1;
                        self.acknowledge(self.publisher.position());
                    }
                    // Another process has gone on with messages of its own. What the connection to
                    // the source still has may be older.
                    EpochEnd::HigherEpoch { .. } if self.was_lost => self.is_active = false,
                    EpochEnd::HigherEpoch { .. }
                    | EpochEnd::Lost { .. }
                    | EpochEnd::Changed { .. }
                    | EpochEnd::Replaced
                    | EpochEnd::Foreign { .. } => {}
                }
                self.renew(above);
            }
        }
    }

    /// Drops the chunks whose messages are acknowledged, all those before the message `before`.
    fn acknowledge(&mut self, before: u64) {
        while let Some(chunk) = self.chunks.front()
            && chunk.first_message + chunk.messages <= before
        {
            self.reader.acknowledge(chunk);
            self.chunks.pop_front();
            match self.next.checked_sub(1) {
                Some(next) => self.next = next,
                None => self.offset = 0,
            }
        }
        self.reader.acknowledge_before(before);
    }

    /// Offers the message with this number next.
    fn seek(&mut self, position: u64) {
        let is_before = |chunk: &Chunk| chunk.first_message + chunk.messages <= position;
        self.next = self.chunks.partition_point(is_before);
        self.offset = 0;
        self.position = position;
        if let Some(chunk) = self.chunks.get(self.next) {
            let index = position.saturating_sub(chunk.first_message);
            self.offset = self.feed.config().framing.message_start(&chunk.bytes, index);
        }
    }

    /// Drops everything that is not acknowledged, because another process has published since.
    fn drop_outdated(&mut self) {
        let skipped = self.skip();
        if skipped > 0 {
            let server = self.name.as_deref();
            warn!(server, skipped, "dropped messages: another process has published since");
        }
    }

    /// Drops everything that is not acknowledged. Returns how many messages that were.
    fn skip(&mut self) -> u64 {
        let skipped = self.reader.skip();
        self.chunks.clear();
        (self.next, self.offset) = (0, 0);
        skipped
    }

    /// Fetches from the feed, and offers messages to the publisher. Returns whether anything has
    /// changed.
    fn offer(&mut self, client: &mut Client, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut has_changed = false;
        match self.reader.fetch(&mut self.chunks, MAX_CHUNKS, cx) {
            FetchOutcome::Pending => {}
            FetchOutcome::Fetched => has_changed = true,
            FetchOutcome::Lagged => {
                // The messages in flight are given up: they can be offered no more.
                self.publisher.end_epoch();
                let skipped = self.skip();
                // A standby does so all the time.
                if self.is_active
                    && let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now)
                {
                    let server = self.name.as_deref();
                    warn!(server, skipped, suppressed, "fell out of the window: skipped messages");
                }
                match self.stage {
                    Stage::Publishing | Stage::EndingEpoch => self.renew(0),
                    Stage::Standby | Stage::BetweenEpochs | Stage::Released => {}
                }
                return true;
            }
        }
        while self.stage == Stage::Publishing
            && let Some(position) = self.publisher.next_position()
        {
            if position != self.position {
                self.seek(position);
            }
            let Some(chunk) = self.chunks.get(self.next) else { break };
            if self.feed_epoch.is_some_and(|epoch| epoch != chunk.epoch) {
                self.stage = Stage::EndingEpoch;
                break;
            }
            let end = self.feed.config().framing.message_end(&chunk.bytes[self.offset..], 0);
            let payload = chunk.bytes.slice(self.offset..self.offset + end);
            if self.publisher.publish(client, position, payload, now).is_err() {
                break;
            }
            has_changed = true;
            self.feed_epoch = Some(chunk.epoch);
            self.position += 1;
            self.offset += end;
            if self.offset == chunk.bytes.len() {
                self.next += 1;
                self.offset = 0;
            }
        }
        if self.stage == Stage::EndingEpoch && self.is_all_acknowledged() {
            self.renew(0);
            has_changed = true;
        }
        has_changed
    }

    /// Whether no message is in flight, or has to be offered again.
    fn is_all_acknowledged(&self) -> bool {
        self.publisher.next_position() == Some(self.position) && self.publisher.in_flight() == 0
    }

    /// Updates what the handle shows.
    fn report(&mut self, now: Instant) {
        self.counters.epoch = match self.stage {
            Stage::Standby | Stage::Released => None,
            Stage::Publishing | Stage::EndingEpoch | Stage::BetweenEpochs => self.lease.epoch(now),
        };
        self.counters.in_flight = self.publisher.in_flight() as u64;
        self.counters.sequence = self.publisher.sequence().unwrap_or(self.counters.sequence);
        self.handle.set(self.counters, self.is_active);
    }

    /// Whether all messages of the feed are acknowledged, or dropped. One that is not active
    /// publishes nothing any more, and may not wait for the lease.
    fn has_finished(&self) -> bool {
        !self.is_active || self.reader.lag() == 0
    }
}

impl Session for Ingest {
    fn connected(&mut self, client: &mut Client, now: Instant) {
        // It may have expired while there was no connection.
        self.lease.handle_timeout(now);
        self.lease.connected(client, now);
        self.publisher.connected(client, now);
        self.advance(client, now);
    }

    fn handle(&mut self, client: &mut Client, incoming: Incoming, now: Instant) {
        let rest = self.publisher.handle(client, incoming, now);
        let rest = rest.and_then(|incoming| self.lease.handle(client, incoming, now));
        if let Some(Incoming::Error(error)) = rest
            && let LogDecision::Log { suppressed } = self.log.check_unless_debugging(now)
        {
            warn!(server = self.name.as_deref(), suppressed, "the server reports: {error}");
        }
    }

    fn poll_shared(&mut self, client: &mut Client, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut has_changed = false;
        while self.advance(client, now) | self.offer(client, now, cx) {
            has_changed = true;
        }
        if self.is_draining && self.has_finished() && self.stage != Stage::Released {
            self.lease.release();
            has_changed |= self.advance(client, now);
        }
        self.report(now);
        has_changed
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.lease.poll_timeout(), self.publisher.poll_timeout()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, client: &mut Client, now: Instant) {
        self.lease.handle_timeout(now);
        self.publisher.handle_timeout(now);
        self.advance(client, now);
    }

    fn disconnected(&mut self, now: Instant) {
        self.lease.disconnected();
        self.publisher.disconnected();
        self.report(now);
        // Nothing shows when the lease expires.
        self.counters.epoch = None;
        self.handle.set(self.counters, self.is_active);
    }

    fn shut_down(&mut self, _client: Option<&mut Client>, _now: Instant) {
        self.is_draining = true;
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::Released || self.has_finished()
    }
}

/// The most chunks that are fetched.
const MAX_CHUNKS: usize = 1024;
/// The most messages without an acknowledgement.
const MAX_IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(1000).unwrap();
/// The most requests of a client: the messages in flight, and those about the lease and the stream.
const MAX_REQUESTS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
