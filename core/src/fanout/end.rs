//! The end of a connection, the same for a source and a subscriber.

use crate::{Instant, Interest, Linger, Outbound, teardown::DiscardBudget};

/// How far the end of a connection has come.
#[derive(Clone, Debug)]
pub(super) enum End<R> {
    /// What is owed, then a FIN.
    Closing {
        reason: R,
        /// The peer's FIN has come: nothing is to be awaited behind ours.
        heard_fin: bool,
    },
    /// Our FIN is out: the peer's is awaited, and what it sends before is thrown away.
    Lingering {
        reason: R,
        until: Instant,
        discarded: usize,
    },
    Resetting(R),
    Over(R),
}

impl<R: Clone> End<R> {
    pub(super) fn interest(&self, owes: bool) -> Interest {
        match self {
            Self::Closing { .. } => {
                let write = if owes { Outbound::Flush } else { Outbound::Finish };
                Interest { read: false, write }
            }
            Self::Lingering { .. } => Interest { read: true, write: Outbound::Finished },
            Self::Resetting(_) => Interest { read: false, write: Outbound::Reset },
            Self::Over(_) => Interest::DONE,
        }
    }

    pub(super) fn handle_read(
        &mut self,
        now: Instant,
        n: usize,
        linger: Linger,
        budget: &DiscardBudget,
    ) {
        if let Self::Lingering { reason, discarded, .. } = self
            && !budget.discard(linger, discarded, n, now)
        {
            *self = Self::Over(reason.clone());
        }
    }

    pub(super) fn handle_eof(&mut self) {
        match self {
            Self::Lingering { reason, .. } => *self = Self::Over(reason.clone()),
            Self::Closing { .. } | Self::Resetting(_) | Self::Over(_) => {}
        }
    }

    /// The connection broke when nothing was owed any more.
    pub(super) fn handle_lost(&mut self) {
        *self = Self::Over(self.reason().clone());
    }

    pub(super) fn handle_finished(&mut self, now: Instant, linger: Linger) {
        *self = match self {
            Self::Closing { reason, heard_fin: false } => {
                let (reason, until) = (reason.clone(), now + linger.time);
                Self::Lingering { reason, until, discarded: 0 }
            }
            Self::Closing { reason, heard_fin: true } | Self::Resetting(reason) => {
                Self::Over(reason.clone())
            }
            Self::Lingering { .. } | Self::Over(_) => return,
        };
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Lingering { until, .. } => Some(*until),
            Self::Closing { .. } | Self::Resetting(_) | Self::Over(_) => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            *self = Self::Over(self.reason().clone());
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Closing { .. } => "closing",
            Self::Lingering { .. } => "lingering",
            Self::Resetting(_) => "resetting",
            Self::Over(_) => "over",
        }
    }

    /// The reason, once it is over.
    pub(super) fn over(&self) -> Option<R> {
        match self {
            Self::Over(reason) => Some(reason.clone()),
            Self::Closing { .. } | Self::Lingering { .. } | Self::Resetting(_) => None,
        }
    }

    fn reason(&self) -> &R {
        match self {
            Self::Closing { reason, .. }
            | Self::Lingering { reason, .. }
            | Self::Resetting(reason)
            | Self::Over(reason) => reason,
        }
    }
}
