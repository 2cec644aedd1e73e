//! What holds at every edge and subscriber.

use std::collections::BTreeMap;

use wirestate_core::{fanout::GapPolicy, nats::jetstream::MessageId};

use super::{Message, STREAM, Tier};
use crate::model::StreamMessage;

/// The messages of one epoch of a feed.
pub(crate) type Epoch = Vec<Message>;

/// What a tier promises about the messages of its edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// One epoch: nothing is missing, and nothing comes twice.
    Everything,
    /// Nothing comes twice or out of order, and nothing is missing within an epoch.
    Ascending,
    /// Nothing is missing within an epoch. Messages may come twice: in two epochs. The bucket of
    /// the lease may have been deleted.
    Contiguous,
}

impl Tier {
    /// Asserts what every tier promises, and `promise`.
    pub(crate) fn check(&self, promise: Promise) {
        for number in 0..self.edges.len() {
            self.check_edge(number, promise);
        }
        for number in 0..self.subscribers.len() {
            self.check_subscriber(number);
        }
        self.check_stored(promise);
        for ingest in &self.ingests {
            let counters = ingest.feed.counters();
            if counters.readers > 0 {
                let done = counters.reader_acknowledged + counters.reader_skipped;
                assert_eq!(counters.messages_in, done + counters.reader_lag, "{counters:?}");
            }
            assert!(ingest.handle.counters().rejected <= counters.reader_acknowledged);
        }
    }

    /// Asserts that the epochs in the stream ascend. If the bucket of the lease was deleted,
    /// another ingest learns of the last epoch only from the message before its own first one.
    fn check_stored(&self, promise: Promise) {
        let stored = self.cluster.messages(STREAM);
        let epoch = |message: &StreamMessage| Some(MessageId::parse(message.id.as_ref()?)?.epoch);
        let epochs: Vec<Option<u64>> = stored.iter().map(epoch).collect();
        let is_ascending = match promise {
            Promise::Everything | Promise::Ascending => epochs.iter().flatten().is_sorted(),
            Promise::Contiguous => {
                epochs.windows(2).all(|pair| pair[1].is_none() || pair.is_sorted())
            }
        };
        assert!(is_ascending, "epochs of the stream: {epochs:?}");
    }

    /// What an edge's feed has had, by epoch.
    pub(crate) fn epochs(&self, edge: usize) -> Vec<Epoch> {
        let published = self.edges[edge].published.with(|published| published.clone());
        let mut epochs = BTreeMap::<u64, Epoch>::new();
        for (epoch, message) in published {
            epochs.entry(epoch).or_default().push(message);
        }
        epochs.into_values().collect()
    }

    fn check_edge(&self, number: usize, promise: Promise) {
        let (edge, epochs) = (&self.edges[number], self.epochs(number));
        for (epoch, messages) in epochs.iter().enumerate() {
            for pair in messages.windows(2) {
                assert!(pair[0].precedes(pair[1]), "edge {number}, epoch {epoch}: {pair:?}");
            }
        }
        let feed = edge.feed.counters();
        let counters = edge.handle.counters();
        let count = epochs.iter().map(Vec::len).sum::<usize>() as u64;
        assert_eq!((feed.messages_in, feed.reader_acknowledged), (count, count));
        assert_eq!(counters.messages, count + counters.rejected, "edge {number}");
        // An epoch without a message is none of the feed.
        assert!(feed.epoch <= counters.gaps, "edge {number}: {feed:?}, {counters:?}");
        assert_eq!(epochs.len() as u64, if count > 0 { feed.epoch + 1 } else { 0 });
        let (last, next) = (&epochs[..], &epochs[1.min(epochs.len())..]);
        let boundaries = last.iter().zip(next).map(|(a, b)| (a[a.len() - 1], b[0]));
        match promise {
            Promise::Everything => {
                assert_eq!((counters.gaps, epochs.len()), (0, 1), "edge {number}");
                assert_eq!(epochs[0][0], Message { connection: 1, number: 0 });
                let published: u64 =
                    self.ingests.iter().map(|one| one.feed.counters().messages_in).sum();
                assert_eq!(count, published, "edge {number}");
            }
            Promise::Ascending => boundaries.for_each(|(last, next)| {
                assert!(last < next, "edge {number}: {last:?} and then {next:?}");
                assert!(!last.precedes(next), "edge {number}: no gap at {last:?}");
            }),
            Promise::Contiguous => {}
        }
        assert_eq!(counters.sequence, self.cluster.last_sequence(STREAM).unwrap());
    }

    fn check_subscriber(&self, number: usize) {
        let subscriber = &self.subscribers[number];
        let edge = &self.edges[subscriber.edge];
        let published = edge.published.with(|published| published.clone());
        let is_disconnected = edge.feed.config().on_gap == GapPolicy::Disconnect;
        let mut from = 0;
        let subscriptions = subscriber.log.with(|log| log.clone());
        for (index, subscription) in subscriptions.iter().enumerate() {
            let name = format!("subscriber {number}, subscription {index}");
            let messages = &subscription.messages;
            let is_reset = matches!(subscription.end, Some(Err(_)));
            assert!(subscription.tail == 0 || is_reset, "{name}: {} bytes", subscription.tail);
            let Some(first) = messages.first() else { continue };
            // The subscriptions of one subscriber follow one another.
            let start = (from..published.len()).find(|index| published[*index].1 == *first);
            let start = start.unwrap_or_else(|| panic!("{name}: {first:?} comes from nowhere"));
            let end = start + messages.len();
            let equals = published.get(start..end).is_some_and(|published| {
                published.iter().zip(messages).all(|((_, published), own)| published == own)
            });
            assert!(equals, "{name} differs from its edge's feed: {messages:?}");
            if is_disconnected {
                assert_eq!(published[start].0, published[end - 1].0, "{name} has two epochs");
                if subscription.end == Some(Ok(())) {
                    let epoch = published[start].0;
                    let next = published.get(end).map(|(epoch, _)| *epoch);
                    assert_ne!(next, Some(epoch), "{name} was ended within an epoch");
                }
            } else {
                assert_ne!(subscription.end, Some(Ok(())), "{name} was ended");
            }
            if subscription.end.is_none() {
                assert_eq!(end, published.len(), "{name} has not everything");
            }
            from = end;
        }
        assert!(!subscriptions.is_empty());
    }
}
