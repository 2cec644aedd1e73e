//! Where to go on, by the last message of the stream.

use alloc::string::String;

use super::EpochEnd;
use crate::nats::jetstream::{MESSAGE_ID, MessageId, StoredMessage};

/// An epoch of a publisher, and what it knows of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Epoch {
    pub(super) number: u64,
    /// The first position that was never offered. The stream may have those before.
    pub(super) offered: u64,
    /// The message of the stream behind which the first unacknowledged one belongs. `None` until
    /// the stream was found in this epoch.
    pub(super) base: Option<Base>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// When the stream was created.
    pub(super) created: String,
    pub(super) sequence: u64,
    /// Whether it is the sequence of a message of this epoch.
    pub(super) is_own: bool,
}

/// What the stream has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) created: String,
    pub(super) last_sequence: u64,
}

/// The last message of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// There is none, or it was removed.
    None,
    /// It is none of a publisher.
    Foreign,
    Id(MessageId),
}

impl Last {
    pub(super) fn of(message: &StoredMessage) -> Self {
        let headers = message.headers().ok();
        let id = headers.and_then(|headers| MessageId::parse(headers.get(MESSAGE_ID)?));
        match id.filter(|id| id.epoch <= MAX_EPOCH) {
            Some(id) => Self::Id(id),
            None => Self::Foreign,
        }
    }
}

impl Epoch {
    pub(super) fn new(number: u64, from: u64) -> Self {
        Self { number, offered: from, base: None }
    }

    /// Sets the base by the stream's last message. `position` is the first one that is not
    /// acknowledged; returns the one to go on with.
    ///
    /// The result rests on two facts. A message is only stored behind the one before it in its
    /// epoch: so if the stream ends with message `n` of this epoch, it has all before. And what is
    /// sent after this expects the last sequence found here: so nothing is stored if another
    /// message comes first. (Unless the stream loses messages and stores as many others between
    /// this and the next message. Readers see these by their ids.)
    pub(super) fn resume(
        &mut self,
        position: u64,
        found: Found,
        last: Last,
    ) -> Result<u64, EpochEnd> {
        let Found { created, last_sequence: sequence } = found;
        let number = self.number;
        let own = match last {
            Last::Id(id) if id.epoch < number => None,
            Last::Id(id)
                if id.epoch == number && self.base.is_some() && id.position < self.offered =>
            {
                Some(id.position)
            }
            Last::Id(id) => {
                return Err(EpochEnd::HigherEpoch { sequence, found: id.epoch });
            }
            Last::Foreign | Last::None => None,
        };
        if let Some(base) = &self.base {
            let acknowledged = base.sequence;
            if base.created != created {
                return Err(EpochEnd::Replaced);
            }
            let Some(added) = sequence.checked_sub(acknowledged) else {
                return Err(EpochEnd::Lost { acknowledged, last: sequence });
            };
            // How many of the added messages are of this epoch.
            let own_added = own.map(|own| (own + 1).checked_sub(position));
            let is_plausible = match own_added {
                Some(Some(0)) => added == 0,
                Some(Some(own_added)) => own_added <= added,
                Some(None) => false,
                None => added > 0 || !base.is_own || last == Last::None,
            };
            if !is_plausible {
                return Err(EpochEnd::Changed { acknowledged });
            }
            if added == 0 {
                return Ok(position);
            }
            if own.is_none() {
                return Err(EpochEnd::Foreign { sequence });
            }
        }
        self.base = Some(Base { created, sequence, is_own: own.is_some() });
        Ok(own.map_or(position, |own| own + 1))
    }
}

/// The highest epoch that is taken for one. It leaves space for higher ones.
const MAX_EPOCH: u64 = u64::MAX / 2;
