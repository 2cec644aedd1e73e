//! A message that a consumer delivers.

use super::super::{MESSAGE_ID, MessageId};
use crate::nats::{Message, operation::parse_number};

/// A message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the stream has stored it: nanoseconds since the Unix epoch.
    pub timestamp: u64,
    /// How many messages of the stream followed it when it was sent.
    pub pending: u64,
    /// The message.
    pub message: Message,
}

impl Delivery {
    /// The id that its publisher gave it; `None` if it has none, or the id of another kind of
    /// publisher. It parses the headers.
    pub fn id(&self) -> Option<MessageId> {
        MessageId::parse(self.message.headers().ok()?.get(MESSAGE_ID)?)
    }

    /// The size as the server counts it.
    pub(super) fn size(&self) -> usize {
        size(&self.message)
    }
}

/// The size as the server counts it (ADR-37).
pub(super) fn size(message: &Message) -> usize {
    let head = &message.head;
    head.subject.len() + head.reply.len() + head.total
}

/// What the reply subject of a delivered message says
/// ([ADR-15](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) sequence: u64,
    /// The number of the delivery by this consumer, from 1.
    pub(super) delivery: u64,
    pub(super) timestamp: u64,
    pub(super) pending: u64,
}

impl Metadata {
    /// Whether a message with this reply subject is a delivery.
    pub(super) fn is_in(reply: &[u8]) -> bool {
        reply.starts_with(PREFIX)
    }

    /// Parses a reply subject: `$JS.ACK.STREAM.CONSUMER.COUNT.SEQUENCE.DELIVERY.TIME.PENDING`, or
    /// with `DOMAIN.ACCOUNT.` behind the prefix and more tokens at the end.
    pub(super) fn parse(reply: &[u8]) -> Option<Self> {
        let rest = reply.strip_prefix(PREFIX)?;
        let mut ends = [rest.len(); MAX_TOKENS];
        let mut tokens = 1;
        for dot in memchr::memchr_iter(b'.', rest) {
            if let Some(end) = ends.get_mut(tokens - 1) {
                *end = dot;
            }
            tokens += 1;
        }
        // The position of COUNT.
        let count = match tokens {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        let token = |n: usize| parse_number(&rest[ends[n - 1] + 1..ends[n]]);
        token(count)?;
        let metadata = Self {
            sequence: token(count + 1)?,
            delivery: token(count + 2)?,
            timestamp: token(count + 3)?,
            pending: token(count + 4)?,
        };
        // Sequences begin at 1, and another one follows.
        let is_sequence = |number: u64| number > 0 && number < u64::MAX;
        (is_sequence(metadata.sequence) && is_sequence(metadata.delivery)).then_some(metadata)
    }
}

const PREFIX: &[u8] = b"$JS.ACK.";
/// The tokens behind the prefix that are used.
const MAX_TOKENS: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_subject_are_parsed() {
        let metadata = Metadata { sequence: 20, delivery: 3, timestamp: 170, pending: 4 };
        for reply in [
            "$JS.ACK.orders.c1.1.20.3.170.4",
            "$JS.ACK._.ACC.orders.c1.1.20.3.170.4",
            "$JS.ACK.hub.ACC.orders.c1.1.20.3.170.4.random",
            "$JS.ACK.hub.ACC.orders.c1.1.20.3.170.4.random.more",
        ] {
            assert_eq!(Metadata::parse(reply.as_bytes()), Some(metadata), "{reply}");
        }
    }

    #[test]
    fn another_reply_subject_is_none() {
        for reply in [
            "",
            "_INBOX.1",
            "$JS.ACK",
            "$JS.ACK.",
            "$JS.ACK.orders.c1.1.20.3.170",
            "$JS.ACK.A.orders.c1.1.20.3.170.4",
            "$JS.ACK.orders.c1.x.20.3.170.4",
            "$JS.ACK.orders.c1.1.x.3.170.4",
            "$JS.ACK.orders.c1.1.20..170.4",
            "$JS.ACK.orders.c1.1.20.3.-170.4",
            "$JS.ACK.orders.c1.1.20.3.170.99999999999999999999",
            "$JS.ACK.orders.c1.1.0.3.170.4",
            "$JS.ACK.orders.c1.1.20.0.170.4",
            "$JS.ACK.orders.c1.1.18446744073709551615.3.170.4",
            "$JS.ACK._.ACC.orders.c1.1.20.3.x.4",
        ] {
            assert_eq!(Metadata::parse(reply.as_bytes()), None, "{reply}");
        }
    }
}
