//! The id of a message: the epoch and the position.

use core::fmt;

use crate::nats::operation::parse_number;

/// The id of a message in the header `Nats-Msg-Id`: `EPOCH-POSITION`, both decimal.
///
/// Within an epoch, consecutive messages have consecutive positions. Between two epochs, messages
/// may be missing.
///
/// ```
/// use wirestate_core::nats::jetstream::MessageId;
///
/// let id = MessageId { epoch: 3, position: 17 };
/// assert_eq!(id.to_string(), "3-17");
/// assert_eq!(MessageId::parse("3-17"), Some(id));
/// assert_eq!(MessageId::parse("order-17"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The epoch.
    pub epoch: u64,
    /// The number of the message at its publisher.
    pub position: u64,
}

impl MessageId {
    /// The id in `text`; `None` if it is the id of another publisher.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, position) = text.split_once('-')?;
        let epoch = parse_number(epoch.as_bytes())?;
        Some(Self { epoch, position: parse_number(position.as_bytes())? })
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.position)
    }
}

/// The header that has the id.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
