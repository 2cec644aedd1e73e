//! Requests that have no reply yet.

use alloc::{collections::BTreeMap, string::String};
use core::time::Duration;

use super::{Subscription, operation::parse_number};
use crate::{Instant, quantity::Time};

/// A request of [`Client::request`](super::Client::request).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// Why a request has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Nobody has subscribed to its subject.
    #[error("no responders")]
    NoResponders,
    /// No reply arrived within [`Config::request_timeout`](super::Config::request_timeout).
    #[error("no reply within {}", Time(*limit))]
    Timeout {
        /// The limit.
        limit: Duration,
    },
}

/// The requests without a reply, and the subjects of their replies: the inbox, a dot, and the
/// request's number.
#[derive(Debug, Default)]
pub(super) struct Requests {
    inbox: String,
    /// The subscription to the inbox, made by the first request.
    subscription: Option<Subscription>,
    next: u64,
    /// When each was sent. All have one timeout, so the first one expires first.
    pending: BTreeMap<u64, Instant>,
}

impl Requests {
    pub(super) fn set_inbox(&mut self, inbox: String) {
        self.inbox = inbox;
    }

    pub(super) fn inbox(&self) -> &str {
        &self.inbox
    }

    pub(super) fn subscription(&self) -> Option<Subscription> {
        self.subscription
    }

    pub(super) fn set_subscription(&mut self, subscription: Subscription) {
        self.subscription = Some(subscription);
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// The number of the next request.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Records that the next request is sent.
    pub(super) fn sent(&mut self, now: Instant) -> RequestId {
        let id = self.next;
        self.next += 1;
        self.pending.insert(id, now);
        RequestId(id)
    }

    /// Removes and returns the request whose reply goes to `subject`.
    pub(super) fn take(&mut self, subject: &[u8]) -> Option<RequestId> {
        let rest = subject.strip_prefix(self.inbox.as_bytes())?.strip_prefix(b".")?;
        let id = parse_number(rest)?;
        self.pending.remove(&id).map(|_| RequestId(id))
    }

    /// Removes a request.
    pub(super) fn cancel(&mut self, id: RequestId) {
        self.pending.remove(&id.0);
    }

    /// When the first request expires.
    pub(super) fn deadline(&self, limit: Option<Duration>) -> Option<Instant> {
        Some(*self.pending.first_key_value()?.1 + limit?)
    }

    /// Removes and returns a request that has expired.
    pub(super) fn take_expired(&mut self, limit: Duration, now: Instant) -> Option<RequestId> {
        let (id, since) = self.pending.first_key_value()?;
        let id = *id;
        if *since + limit > now {
            return None;
        }
        self.pending.remove(&id);
        Some(RequestId(id))
    }
}
