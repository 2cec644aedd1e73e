//! `JetStream` of a cluster: its streams and consumers, its leader, and its API.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use wirestate_core::Instant;

use super::{
    Api, Settings, Version,
    config::Storage,
    consumer::{Consumer, Pulling},
    reply::{acknowledgement, refusal},
    state::Delivery,
    stream::{Outcome, Proposal, Publication, Stream},
    subjects::{Subscriptions, matches},
};

/// The state of `JetStream`. Everything that it sends is appended to [`out`](Self::out).
#[derive(Debug)]
pub(super) struct JetStream {
    settings: Settings,
    pub(super) rng: XorShiftRng,
    pub(super) nodes: BTreeMap<String, NodeState>,
    pub(super) streams: BTreeMap<String, Stream>,
    /// By stream and name.
    pub(super) consumers: BTreeMap<(String, String), Consumer>,
    pub(super) leader: Leader,
    /// How the API answers; `None`: by whether there is a leader.
    pub(super) api: Option<Api>,
    /// How long a majority takes to store a message.
    pub(super) commit_delay: Duration,
    pub(super) names: u64,
    pub(super) out: Vec<Delivery>,
    /// What is sent later.
    later: BTreeMap<(Instant, u64), Delivery>,
    serial: u64,
    /// Nothing happens before this time.
    pub(super) deadline: Instant,
}

/// Who decides which messages a stream has, and in which order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Leader {
    Node(String),
    /// The last one is down.
    Elected {
        at: Instant,
        meanwhile: Api,
    },
    /// Less than a majority of the servers is up.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum NodeState {
    Up,
    Down,
}

impl JetStream {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            rng: XorShiftRng::seed_from_u64(settings.seed),
            commit_delay: Duration::ZERO,
            settings,
            nodes: BTreeMap::new(),
            streams: BTreeMap::new(),
            consumers: BTreeMap::new(),
            leader: Leader::None,
            api: None,
            names: 0,
            out: Vec::new(),
            later: BTreeMap::new(),
            serial: 0,
            deadline: Instant::NEVER,
        }
    }

    pub(super) fn version(&self) -> Version {
        self.settings.version
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.nodes.len() > 1
    }

    pub(super) fn is_up(&self, node: &str) -> bool {
        self.nodes.get(node) == Some(&NodeState::Up)
    }

    pub(super) fn live_nodes(&self) -> Vec<String> {
        let live = self.nodes.iter().filter(|(_, state)| **state == NodeState::Up);
        live.map(|(node, _)| node.clone()).collect()
    }

    pub(super) fn schedule(&mut self, at: Instant) {
        self.deadline = self.deadline.min(at);
    }

    pub(super) fn send_later(&mut self, at: Instant, delivery: Delivery) {
        self.serial += 1;
        self.later.insert((at, self.serial), delivery);
        self.schedule(at);
    }

    pub(super) fn node_up(&mut self, node: &str, now: Instant) {
        self.nodes.insert(node.to_owned(), NodeState::Up);
        let (version, is_cluster) = (self.version(), self.is_cluster());
        // It has kept its files, but not its memory.
        for stream in self.streams.values_mut() {
            if !is_cluster || stream.node.as_deref() == Some(node) {
                stream.restart(now);
            }
            if stream.node.as_deref() == Some(node) && stream.config.storage == Storage::Memory {
                let created = stream.created;
                *stream = Stream::new(stream.config.clone(), stream.node.clone(), now);
                stream.created = created;
            }
        }
        for ((stream, _), consumer) in &mut self.consumers {
            if consumer.node == node
                && let Some(stream) = self.streams.get(stream)
            {
                consumer.restart(stream, version, now);
                self.deadline = self.deadline.min(consumer.deadline());
            }
        }
        if self.leader == Leader::None && 2 * self.live_nodes().len() > self.nodes.len() {
            // The first one does not wait.
            if self.streams.is_empty() {
                self.leader = Leader::Node(node.to_owned());
            } else {
                self.begin_election(now);
            }
        }
    }

    pub(super) fn node_down(&mut self, node: &str, now: Instant) {
        self.nodes.insert(node.to_owned(), NodeState::Down);
        if !self.is_cluster() {
            self.consumers.clear();
            self.streams.retain(|_, stream| stream.config.storage == Storage::File);
        }
        let is_leader = self.leader == Leader::Node(node.to_owned());
        self.cut_proposals(|stream| match &stream.node {
            Some(only) => only == node,
            None => is_leader,
        });
        self.schedule(now);
        if is_leader {
            self.leader = Leader::None;
        }
        if 2 * self.live_nodes().len() <= self.nodes.len() {
            self.leader = Leader::None;
        } else if self.leader == Leader::None {
            self.begin_election(now);
        }
    }

    /// The leader of the streams that `is_lost` names is lost. Of what it had accepted, a majority
    /// has stored the first part; the rest is lost. Nothing of it is acknowledged.
    fn cut_proposals(&mut self, is_lost: impl Fn(&Stream) -> bool) {
        for stream in self.streams.values_mut().filter(|stream| is_lost(stream)) {
            let kept = self.rng.random_range(0..=stream.proposals.len());
            stream.proposals.truncate(kept);
            for proposal in &mut stream.proposals {
                proposal.due = Instant::EPOCH;
                proposal.reply.clear();
            }
        }
    }

    fn begin_election(&mut self, now: Instant) {
        let at = now + self.rng.random_range(self.settings.election.clone());
        let meanwhile = if self.rng.random() { Api::Silent } else { Api::Unavailable };
        self.leader = Leader::Elected { at, meanwhile };
        self.schedule(at);
    }

    /// Whether somebody has subscribed to `subject` for a stream.
    fn stream_of(&self, subject: &str) -> Option<&str> {
        let has_leader = matches!(self.leader, Leader::Node(_));
        let mut streams = self.streams.values().filter(|stream| match &stream.node {
            Some(node) => self.is_up(node),
            None => has_leader,
        });
        let stream = streams.find(|stream| {
            stream.config.subjects.iter().any(|pattern| matches(pattern, subject))
        })?;
        Some(&stream.config.name)
    }

    /// Publishes to the stream of the subject. Returns whether there is one.
    pub(super) fn publish(
        &mut self,
        publication: Publication,
        reply: &str,
        interest: &Subscriptions,
        now: Instant,
    ) -> bool {
        let Some(name) = self.stream_of(&publication.subject).map(str::to_owned) else {
            return false;
        };
        let (version, is_cluster) = (self.version(), self.is_cluster());
        let Some(stream) = self.streams.get_mut(&name) else { return false };
        stream.expire(now);
        let is_at_once = self.commit_delay.is_zero() && stream.proposals.is_empty();
        let due = now + self.commit_delay;
        // The newer version checks before a majority has stored what came before.
        let outcome = if is_at_once || version == Version::V2_15 {
            stream.check(&publication, version, is_cluster, !is_at_once)
        } else {
            None
        };
        match outcome {
            Some(outcome) => self.acknowledge(&name, reply, outcome),
            None if is_at_once => {
                let sequence = stream.store(publication, now);
                self.acknowledge(&name, reply, Outcome::Stored(sequence));
                self.deliver(&name, interest, now);
            }
            None => {
                let due = stream.proposals.back().map_or(due, |last| due.max(last.due));
                let reply = reply.to_owned();
                stream.proposals.push_back(Proposal { publication, reply, due });
                self.schedule(due);
            }
        }
        true
    }

    fn acknowledge(&mut self, stream: &str, reply: &str, outcome: Outcome) {
        if reply.is_empty() {
            return;
        }
        let version = self.version();
        let payload = match outcome {
            Outcome::Stored(sequence) => acknowledgement(version, stream, sequence, false),
            Outcome::Duplicate(sequence) => acknowledgement(version, stream, sequence, true),
            Outcome::Refused(error) => refusal(stream, error),
        };
        let is_internal = version == Version::V2_9;
        self.out.push(Delivery { is_internal, ..Delivery::new(reply, payload) });
    }

    /// Delivers what is new in a stream.
    fn deliver(&mut self, stream: &str, interest: &Subscriptions, now: Instant) {
        let version = self.version();
        let Some(stream) = self.streams.get(stream) else { return };
        let range = (stream.config.name.clone(), String::new())..;
        for ((name, _), consumer) in self.consumers.range_mut(range) {
            if *name != stream.config.name {
                break;
            }
            if self.nodes.get(&consumer.node) == Some(&NodeState::Up) {
                let out = &mut self.out;
                consumer.deliver(stream, &mut Pulling { version, now, interest, out });
            }
        }
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, interest: &Subscriptions, now: Instant) {
        if now < self.deadline {
            return;
        }
        let version = self.version();
        if let Leader::Elected { at, .. } = self.leader
            && at <= now
        {
            let live = self.live_nodes();
            let index = self.rng.random_range(0..live.len());
            self.leader = Leader::Node(live[index].clone());
        }
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            self.out.push(entry.remove());
        }
        for name in self.streams.keys().cloned().collect::<Vec<_>>() {
            self.commit(&name, now);
            self.deliver(&name, interest, now);
        }
        for ((_, _), consumer) in &mut self.consumers {
            if self.nodes.get(&consumer.node) == Some(&NodeState::Up) {
                let out = &mut self.out;
                consumer.advance(&mut Pulling { version, now, interest, out });
            }
        }
        self.consumers.retain(|_, consumer| !consumer.is_abandoned(now));
        let election = match self.leader {
            Leader::Elected { at, .. } => Some(at),
            Leader::Node(_) | Leader::None => None,
        };
        let later = self.later.first_key_value().map(|((at, _), _)| *at);
        let proposals = self.streams.values().filter_map(|one| Some(one.proposals.front()?.due));
        let consumers = self.consumers.values();
        let consumers = consumers.filter(|consumer| self.is_up(&consumer.node));
        let deadlines = consumers.map(Consumer::deadline).chain(proposals);
        let next = deadlines.chain(later).chain(election).min();
        self.deadline = next.unwrap_or(Instant::NEVER);
    }

    /// Stores and acknowledges the proposals that a majority has stored.
    fn commit(&mut self, name: &str, now: Instant) {
        let (version, is_cluster) = (self.version(), self.is_cluster());
        while let Some(stream) = self.streams.get_mut(name)
            && let Some(proposal) = stream.proposals.pop_front_if(|first| first.due <= now)
        {
            stream.expire(now);
            let checked = match version {
                Version::V2_9 => stream.check(&proposal.publication, version, is_cluster, false),
                Version::V2_15 => stream.check_last_id(&proposal.publication),
            };
            let outcome =
                checked.unwrap_or_else(|| Outcome::Stored(stream.store(proposal.publication, now)));
            self.acknowledge(name, &proposal.reply, outcome);
        }
    }

    pub(super) fn purge(&mut self, name: &str) -> u64 {
        let Some(stream) = self.streams.get_mut(name) else { return 0 };
        let purged = stream.purge();
        let next = stream.last_sequence + 1;
        for ((stream, _), consumer) in &mut self.consumers {
            if stream == name {
                consumer.purge(next);
            }
        }
        purged
    }

    /// Deletes a stream. Its consumers' requests are ended.
    pub(super) fn delete_stream(&mut self, name: &str, now: Instant) {
        self.streams.remove(name);
        let version = self.version();
        let interest = &Subscriptions::default();
        for ((stream, _), consumer) in &mut self.consumers {
            if stream == name && self.nodes.get(&consumer.node) == Some(&NodeState::Up) {
                let out = &mut self.out;
                consumer.delete(&mut Pulling { version, now, interest, out });
            }
        }
        self.consumers.retain(|(stream, _), _| stream != name);
    }
}
