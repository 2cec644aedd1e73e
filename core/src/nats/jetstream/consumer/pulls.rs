//! The pull requests of a consumer.

use alloc::{format, string::String};
use core::time::Duration;

/// The pull requests that the server has not served in full, and how much more to ask for.
///
/// All of them are counted together, as
/// [ADR-37](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md) does:
/// the server serves them by turns, and a message does not say to which of them it belongs. Bytes
/// are counted as by the server: subject, reply subject, headers and payload.
#[derive(Clone, Debug)]
pub(super) struct Pulls {
    max_bytes: usize,
    batch: u64,
    outstanding: Outstanding,
    /// The next message is longer than this, says the server.
    refused: usize,
}

/// What the server may still send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outstanding {
    Nothing,
    Bytes {
        messages: u64,
        bytes: usize,
    },
    /// One message, however long.
    One,
}

/// A pull request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pull {
    Bytes { batch: u64, bytes: usize },
    One,
}

impl Pulls {
    /// `max_batch`: the server's limit of messages in one request.
    pub(super) fn new(max_bytes: usize, max_batch: Option<u64>) -> Self {
        let batch = max_batch.unwrap_or(BATCH).clamp(1, BATCH);
        Self { max_bytes, batch, outstanding: Outstanding::Nothing, refused: 0 }
    }

    /// The next request, if it is time for one. `queued`: the bytes that were received and are not
    /// taken yet.
    pub(super) fn next(&self, queued: usize) -> Option<Pull> {
        let requested = match self.outstanding {
            Outstanding::Nothing => 0,
            Outstanding::Bytes { bytes, .. } => bytes,
            Outstanding::One => return None,
        };
        if requested.saturating_add(queued) > self.max_bytes / 2 {
            return None;
        }
        let bytes = self.max_bytes - requested - queued;
        if bytes > self.refused {
            Some(Pull::Bytes { batch: self.batch, bytes })
        } else {
            // As much was too little for the next message. It must not wait for ever.
            (requested == 0).then_some(Pull::One)
        }
    }

    /// Records that a request was sent.
    pub(super) fn sent(&mut self, pull: Pull) {
        self.outstanding = match (pull, self.outstanding) {
            (Pull::One, _) => Outstanding::One,
            (Pull::Bytes { batch, bytes }, Outstanding::Bytes { messages, bytes: before }) => {
                Outstanding::Bytes { messages: messages + batch, bytes: before + bytes }
            }
            (Pull::Bytes { batch, bytes }, Outstanding::Nothing | Outstanding::One) => {
                Outstanding::Bytes { messages: batch, bytes }
            }
        };
    }

    /// Whether the server has to send something: a message, a heartbeat, or the end of a request.
    pub(super) fn is_outstanding(&self) -> bool {
        self.outstanding != Outstanding::Nothing
    }

    /// Records a message of this size.
    pub(super) fn received(&mut self, size: usize) {
        self.refused = 0;
        match self.outstanding {
            Outstanding::One => self.outstanding = Outstanding::Nothing,
            Outstanding::Nothing | Outstanding::Bytes { .. } => self.subtract(1, size),
        }
    }

    /// Records the end of a request that was not served in full: this many messages and bytes will
    /// not come.
    pub(super) fn ended(&mut self, messages: u64, bytes: usize) {
        match self.outstanding {
            Outstanding::One if bytes == 0 => self.outstanding = Outstanding::Nothing,
            Outstanding::Nothing | Outstanding::One | Outstanding::Bytes { .. } => {
                self.subtract(messages, bytes);
            }
        }
    }

    /// Records that the next message is longer than `bytes`.
    pub(super) fn refused(&mut self, bytes: usize) {
        self.refused = self.refused.max(bytes);
    }

    fn subtract(&mut self, fewer_messages: u64, fewer_bytes: usize) {
        if let Outstanding::Bytes { messages, bytes } = &mut self.outstanding {
            *messages = messages.saturating_sub(fewer_messages);
            *bytes = bytes.saturating_sub(fewer_bytes);
            // The server ends a request without a word when it has used up its bytes or messages.
            if *messages == 0 || *bytes == 0 {
                self.outstanding = Outstanding::Nothing;
            }
        }
    }
}

impl Pull {
    /// The payload of the request.
    pub(super) fn to_json(self, heartbeat: Duration) -> String {
        let (expires, heartbeat) = (EXPIRES.as_nanos(), heartbeat.as_nanos());
        let (batch, limit) = match self {
            Self::Bytes { batch, bytes } => (batch, format!("\"max_bytes\":{bytes},")),
            Self::One => (1, String::new()),
        };
        format!("{{\"batch\":{batch},{limit}\"expires\":{expires},\"idle_heartbeat\":{heartbeat}}}")
    }
}

/// After how long the server ends a request.
pub(super) const EXPIRES: Duration = Duration::from_secs(30);
/// The messages of one request: bytes are the limit, and the server needs a number (ADR-37).
const BATCH: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn pulls() -> Pulls {
        let mut pulls = Pulls::new(1000, None);
        let first = pulls.next(0).unwrap();
        assert_eq!(first, Pull::Bytes { batch: BATCH, bytes: 1000 });
        pulls.sent(first);
        pulls
    }

    #[test]
    fn requests_are_replenished_at_half() {
        let mut pulls = pulls();
        pulls.received(499);
        assert_eq!(pulls.next(0), None);
        pulls.received(1);
        assert_eq!(pulls.next(0), Some(Pull::Bytes { batch: BATCH, bytes: 500 }));
        // What was received and not taken counts, too.
        assert_eq!(pulls.next(1), None);
        pulls.sent(Pull::Bytes { batch: BATCH, bytes: 500 });
        assert_eq!(pulls.next(0), None);
    }

    #[test]
    fn a_request_that_ended_is_asked_for_again() {
        let mut pulls = pulls();
        pulls.received(300);
        pulls.ended(BATCH - 1, 700);
        assert!(!pulls.is_outstanding());
        assert_eq!(pulls.next(0), Some(Pull::Bytes { batch: BATCH, bytes: 1000 }));
    }

    #[test]
    fn a_message_that_is_longer_than_all_space_is_asked_for_alone() {
        let mut pulls = pulls();
        pulls.refused(1000);
        pulls.ended(BATCH, 1000);
        assert_eq!(pulls.next(0), Some(Pull::One));
        pulls.sent(Pull::One);
        assert_eq!(pulls.next(0), None);
        pulls.received(5000);
        assert_eq!(pulls.next(5000), None);
        assert_eq!(pulls.next(0), Some(Pull::Bytes { batch: BATCH, bytes: 1000 }));
    }

    #[test]
    fn a_message_that_is_longer_than_the_space_left_waits_for_more_space() {
        let mut pulls = pulls();
        pulls.received(600);
        pulls.sent(Pull::Bytes { batch: BATCH, bytes: 500 });
        pulls.refused(400);
        pulls.ended(BATCH, 400);
        // The other request is live, and has more space.
        assert_eq!(pulls.next(100), None);
        assert_eq!(pulls.next(0), Some(Pull::Bytes { batch: BATCH, bytes: 500 }));
        pulls.refused(500);
        pulls.ended(BATCH, 500);
        assert_eq!(pulls.next(400), Some(Pull::Bytes { batch: BATCH, bytes: 600 }));
    }

    #[test]
    fn the_servers_limit_of_messages_is_kept() {
        let mut pulls = Pulls::new(1000, Some(2));
        let pull = pulls.next(0).unwrap();
        assert_eq!(pull, Pull::Bytes { batch: 2, bytes: 1000 });
        pulls.sent(pull);
        pulls.received(10);
        assert_eq!(pulls.next(0), None);
        pulls.received(10);
        assert_eq!(pulls.next(0), Some(Pull::Bytes { batch: 2, bytes: 1000 }));
    }
}
