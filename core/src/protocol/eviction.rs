//! The eviction of a connection for a new one.

use core::{task::Context, time::Duration};

use super::ProtocolReason;
use crate::{
    Instant, Reason,
    idle::{Activity, IdleConnections, IdleSlot},
};

/// A connection's slot in the order of eviction. An evicted connection keeps its slot until it is
/// dropped, since the new connection can be admitted only then.
#[derive(Debug)]
pub(super) struct EvictionSlot {
    slot: IdleSlot,
    /// The server's limit of open connections.
    limit: usize,
    last: Phase,
    /// When the last phase began.
    since: Instant,
    eviction: Option<Eviction>,
}

/// What a connection does. A new phase begins with each activity and each frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) activity: Activity,
    /// The number of frames taken.
    pub(super) frames: u64,
    /// It is idle within a frame.
    pub(super) is_partial: bool,
}

/// The eviction of a connection, which ends at `until`, unless a new phase begins before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eviction {
    pub(super) until: Instant,
    waited: Duration,
    limit: usize,
}

impl Phase {
    const NEW: Self = Self { activity: Activity::Idle, frames: 0, is_partial: false };

    /// Whether this is the same phase as `last`.
    fn continues(self, last: Self) -> bool {
        (self.activity, self.frames) == (last.activity, last.frames)
    }
}

impl EvictionSlot {
    /// The slot of a new connection, which is idle.
    pub(super) fn new(idle: &IdleConnections, limit: usize, now: Instant) -> Self {
        let slot = idle.enter(Activity::Idle, now);
        Self { slot, limit, last: Phase::NEW, since: now, eviction: None }
    }

    /// Updates the slot. Returns the eviction of the connection, if that has not
    /// [begun](Self::begin) yet.
    ///
    /// Its end is `now`: before a driver handles a deadline, it reads the input that has arrived,
    /// and writes the output that the kernel accepts. A new connection has [`FIRST_BYTE_TIME`].
    pub(super) fn poll(
        &mut self,
        phase: Phase,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Option<Eviction> {
        // A part of a frame moves the connection back in the order, unless it is evicted.
        let is_partial = phase.is_partial && !self.last.is_partial && self.eviction.is_none();
        if is_partial || !phase.continues(self.last) {
            (self.last, self.since, self.eviction) = (phase, now, None);
            self.slot.update(phase.activity, now);
        }
        if !self.slot.poll_eviction(cx) || self.eviction.is_some() {
            return None;
        }
        let is_new = phase.activity == Activity::Idle && phase.frames == 0 && !phase.is_partial;
        let until = if is_new { now.max(self.since + FIRST_BYTE_TIME) } else { now };
        Some(Eviction { until, waited: now.since(self.since), limit: self.limit })
    }

    /// Begins an eviction.
    pub(super) fn begin(&mut self, eviction: Eviction) {
        self.eviction = Some(eviction);
    }

    /// The eviction that has begun, unless a new phase has begun since.
    pub(super) fn eviction(&self, phase: impl FnOnce() -> Option<Phase>) -> Option<Eviction> {
        self.eviction.filter(|_| phase().is_some_and(|phase| phase.continues(self.last)))
    }
}

impl Eviction {
    /// The reason of the connection.
    pub(super) fn reason<E: Reason>(self) -> ProtocolReason<E> {
        let Self { waited, limit, .. } = self;
        ProtocolReason::Evicted { waited, limit }
    }
}

/// How long a new connection is not evicted, so that its first byte, one round trip away, can
/// arrive.
const FIRST_BYTE_TIME: Duration = Duration::from_millis(20);
