//! A stream: its configuration, its messages, and what it accepts.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use wirestate_core::Instant;

use super::{
    Version,
    config::{Discard, Storage, StreamConfig},
    reply::ApiError,
    time::rfc3339,
};

/// A message that was published, and is not yet in a stream.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) subject: String,
    pub(super) headers: Bytes,
    pub(super) payload: Bytes,
}

impl Publication {
    /// The first value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let text = str::from_utf8(&self.headers).ok()?;
        let mut headers = text.split("\r\n").filter_map(|line| line.split_once(':'));
        headers.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
    }

    /// The number in a header. 0 if it is none, as the server takes it.
    fn number(&self, name: &str) -> Option<u64> {
        self.header(name).map(|value| value.parse().unwrap_or(0))
    }

    fn id(&self) -> Option<&str> {
        self.header("Nats-Msg-Id").filter(|id| !id.is_empty())
    }
}

/// A message in a stream.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) publication: Publication,
    pub(super) at: Instant,
}

impl Stored {
    fn size(&self, storage: Storage) -> u64 {
        let Publication { subject, headers, payload } = &self.publication;
        let overhead = match storage {
            Storage::File if headers.is_empty() => 30,
            Storage::File => 34,
            Storage::Memory => 16,
        };
        overhead + (subject.len() + headers.len() + payload.len()) as u64
    }
}

/// What became of a publication.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Stored(u64),
    Duplicate(u64),
    Refused(ApiError),
}

/// A publication that the leader has accepted, and a majority of the servers has not stored yet.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) publication: Publication,
    pub(super) reply: String,
    pub(super) due: Instant,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) config: StreamConfig,
    pub(super) created: Instant,
    /// The node that alone has the stream, if it has no replicas and there is a choice.
    pub(super) node: Option<String>,
    pub(super) messages: BTreeMap<u64, Stored>,
    pub(super) last_sequence: u64,
    last_at: Option<Instant>,
    /// The id of the last message, which may have been removed; empty if it had none.
    last_id: String,
    bytes: u64,
    by_subject: BTreeMap<String, VecDeque<u64>>,
    /// The ids of the last messages, and their sequences.
    ids: BTreeMap<String, (u64, Instant)>,
    recent: VecDeque<(Instant, String)>,
    pub(super) proposals: VecDeque<Proposal>,
}

impl Stream {
    pub(super) fn new(config: StreamConfig, node: Option<String>, now: Instant) -> Self {
        Self {
            config,
            created: now,
            node,
            messages: BTreeMap::new(),
            last_sequence: 0,
            last_at: None,
            last_id: String::new(),
            bytes: 0,
            by_subject: BTreeMap::new(),
            ids: BTreeMap::new(),
            recent: VecDeque::new(),
            proposals: VecDeque::new(),
        }
    }

    /// The sequence of the first message, or of the next one if there is none.
    pub(super) fn first_sequence(&self) -> u64 {
        let next = if self.last_sequence == 0 { 0 } else { self.last_sequence + 1 };
        self.messages.first_key_value().map_or(next, |(sequence, _)| *sequence)
    }

    /// How many messages there are from `sequence` on.
    pub(super) fn count_from(&self, sequence: u64) -> u64 {
        let first = self.first_sequence();
        if self.messages.len() as u64 == (self.last_sequence + 1).saturating_sub(first) {
            return (self.last_sequence + 1).saturating_sub(sequence.max(first));
        }
        self.messages.range(sequence..).count() as u64
    }

    pub(super) fn last_of(&self, subject: &str) -> Option<u64> {
        self.by_subject.get(subject)?.back().copied()
    }

    /// What the stream answers to `publication` without storing it. `proposed` is whether the
    /// proposals count as stored: the id of the last message is then checked only when a majority
    /// has stored them.
    pub(super) fn check(
        &self,
        publication: &Publication,
        version: Version,
        is_cluster: bool,
        proposed: bool,
    ) -> Option<Outcome> {
        if publication.headers.is_empty() {
            return self.check_size(publication);
        }
        if let Some(stream) = publication.header("Nats-Expected-Stream")
            && stream != self.config.name
        {
            let text = "expected stream does not match";
            return Some(Outcome::Refused(ApiError::new(400, 10060, text)));
        }
        // A single server of the newer version looks for duplicates last.
        let duplicates_first = is_cluster || version == Version::V2_9;
        let duplicate = || self.check_duplicate(publication, proposed);
        let expected = || self.check_expected(publication, proposed);
        let checked = if duplicates_first {
            duplicate().or_else(expected)
        } else {
            expected().or_else(duplicate)
        };
        let last_id = || if proposed { None } else { self.check_last_id(publication) };
        checked.or_else(last_id).or_else(|| self.check_size(publication))
    }

    fn check_duplicate(&self, publication: &Publication, proposed: bool) -> Option<Outcome> {
        let id = publication.id()?;
        if let Some((sequence, _)) = self.ids.get(id) {
            return Some(Outcome::Duplicate(*sequence));
        }
        let is_proposed = self.proposals.iter().any(|one| one.publication.id() == Some(id));
        (proposed && is_proposed).then(|| {
            Outcome::Refused(ApiError::new(409, 10158, "duplicate message id is in process"))
        })
    }

    fn check_expected(&self, publication: &Publication, proposed: bool) -> Option<Outcome> {
        let wrong = |last: u64| {
            let text = format!("wrong last sequence: {last}");
            Some(Outcome::Refused(ApiError::new(400, 10071, text)))
        };
        let proposals = if proposed { self.proposals.len() } else { 0 };
        if let Some(expected) = publication.number("Nats-Expected-Last-Subject-Sequence") {
            let index = self
                .proposals
                .iter()
                .take(proposals)
                .rposition(|one| one.publication.subject == publication.subject);
            let last = match index {
                Some(index) => self.last_sequence + 1 + index as u64,
                None => self.last_of(&publication.subject).unwrap_or(0),
            };
            if last != expected {
                return wrong(last);
            }
        }
        let last = self.last_sequence + proposals as u64;
        publication.number("Nats-Expected-Last-Sequence").filter(|one| *one != last)?;
        wrong(last)
    }

    pub(super) fn check_last_id(&self, publication: &Publication) -> Option<Outcome> {
        let expected = publication.header("Nats-Expected-Last-Msg-Id")?;
        (self.last_id != expected).then(|| {
            let text = format!("wrong last msg ID: {}", self.last_id);
            Outcome::Refused(ApiError::new(400, 10070, text))
        })
    }

    fn check_size(&self, publication: &Publication) -> Option<Outcome> {
        let StreamConfig { max_msg_size, max_msgs, max_bytes, discard, storage, .. } = self.config;
        let Publication { headers, payload, .. } = publication;
        let refused =
            |code, number, text: &str| Some(Outcome::Refused(ApiError::new(code, number, text)));
        if is_over(max_msg_size, (headers.len() + payload.len()) as u64) {
            return refused(400, 10054, "message size exceeds maximum allowed");
        }
        if discard == Discard::New && is_over(max_msgs, self.messages.len() as u64 + 1) {
            return refused(503, 10077, "maximum messages exceeded");
        }
        let stored = Stored { publication: publication.clone(), at: Instant::EPOCH };
        if discard == Discard::New && is_over(max_bytes, self.bytes + stored.size(storage)) {
            return refused(503, 10077, "maximum bytes exceeded");
        }
        None
    }

    /// Stores a publication that was checked. Returns its sequence.
    pub(super) fn store(&mut self, publication: Publication, now: Instant) -> u64 {
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        self.last_at = Some(now);
        publication.id().unwrap_or("").clone_into(&mut self.last_id);
        if let Some(id) = publication.id() {
            self.ids.insert(id.to_owned(), (sequence, now));
            self.recent.push_back((now, id.to_owned()));
        }
        let subject = publication.subject.clone();
        let is_rollup = publication.header("Nats-Rollup") == Some("sub");
        let stored = Stored { publication, at: now };
        self.bytes += stored.size(self.config.storage);
        self.messages.insert(sequence, stored);
        self.by_subject.entry(subject.clone()).or_default().push_back(sequence);
        let max = if is_rollup { 1 } else { self.config.max_msgs_per_subject };
        let sequences = &self.by_subject[&subject];
        let surplus = usize::try_from(max).map_or(0, |max| sequences.len().saturating_sub(max));
        for sequence in sequences.iter().take(surplus).copied().collect::<Vec<_>>() {
            self.remove(sequence);
        }
        while is_over(self.config.max_msgs, self.messages.len() as u64)
            || is_over(self.config.max_bytes, self.bytes)
        {
            self.remove(self.first_sequence());
        }
        sequence
    }

    pub(super) fn remove(&mut self, sequence: u64) {
        let Some(stored) = self.messages.remove(&sequence) else { return };
        self.bytes -= stored.size(self.config.storage);
        let subject = &stored.publication.subject;
        if let Some(sequences) = self.by_subject.get_mut(subject) {
            if sequences.pop_front_if(|first| *first == sequence).is_none() {
                sequences.retain(|one| *one != sequence);
            }
            if sequences.is_empty() {
                self.by_subject.remove(subject);
            }
        }
    }

    /// Removes the messages and the ids whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.config.max_age > 0
            && let Some((&sequence, stored)) = self.messages.first_key_value()
            && stored.at + Duration::from_nanos(self.config.max_age) <= now
        {
            self.remove(sequence);
        }
        let window = Duration::from_nanos(self.config.duplicate_window);
        while let Some((at, id)) = self.recent.front()
            && *at + window <= now
        {
            if self.ids.get(id).is_some_and(|(_, stored_at)| stored_at == at) {
                self.ids.remove(id);
            }
            self.recent.pop_front();
        }
    }

    /// Removes all messages. Returns how many there were.
    pub(super) fn purge(&mut self) -> u64 {
        let count = self.messages.len() as u64;
        self.messages.clear();
        self.by_subject.clear();
        self.bytes = 0;
        count
    }

    /// Forgets the messages behind `last`, as a server that has lost what it had not yet written.
    pub(super) fn truncate(&mut self, last: u64) {
        while let Some((&sequence, _)) = self.messages.last_key_value()
            && sequence > last
        {
            self.remove(sequence);
        }
        self.last_sequence = self.last_sequence.min(last);
        self.ids.retain(|_, (sequence, _)| *sequence <= last);
        self.find_last_id();
    }

    /// A server that has started reads the ids in the window, and so the last one.
    pub(super) fn restart(&mut self, now: Instant) {
        self.expire(now);
        self.find_last_id();
    }

    fn find_last_id(&mut self) {
        let mut ids = self.ids.iter();
        let last = ids.find(|(_, (sequence, _))| *sequence == self.last_sequence);
        self.last_id = last.map_or(String::new(), |(id, _)| id.clone());
    }

    pub(super) fn state(&self, consumer_count: usize) -> StreamState {
        StreamState {
            messages: self.messages.len(),
            bytes: self.bytes,
            first_seq: self.first_sequence(),
            first_ts: rfc3339(self.messages.first_key_value().map(|(_, stored)| stored.at)),
            last_seq: self.last_sequence,
            last_ts: rfc3339(self.last_at),
            num_subjects: Some(self.by_subject.len()).filter(|count| *count > 0),
            consumer_count,
        }
    }
}

/// What STREAM.INFO shows of a stream.
#[derive(Debug, Serialize)]
pub(super) struct StreamState {
    messages: usize,
    bytes: u64,
    first_seq: u64,
    first_ts: String,
    last_seq: u64,
    last_ts: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_subjects: Option<usize>,
    consumer_count: usize,
}

/// Whether a value is above a limit, of which -1 is none.
fn is_over(limit: i64, value: u64) -> bool {
    u64::try_from(limit).is_ok_and(|limit| value > limit)
}
