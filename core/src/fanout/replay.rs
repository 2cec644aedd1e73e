//! The recorded uses of a feed, and their replay.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{Capacity, Chunk, Log, state::EndPosition, state::State};
use crate::{
    Instant,
    record::{put_number, take_number},
};

/// The part of a feed that is only for replays: what comes from the other machines of the feed.
#[derive(Debug)]
pub(super) struct Replayed {
    /// The answer to the upstream and to publishers.
    pub(super) capacity: Capacity,
    /// What was published, by position.
    chunks: BTreeMap<u64, Chunk>,
}

impl Default for Replayed {
    fn default() -> Self {
        Self { capacity: Capacity::Available, chunks: BTreeMap::new() }
    }
}

impl Replayed {
    pub(super) fn chunk(&self, position: u64) -> Option<&Chunk> {
        self.chunks.get(&position)
    }
}

impl State {
    /// Sets what the upstream or a publisher gets, and the position and the message of its next
    /// chunk.
    pub(super) fn restore(&mut self, capacity: Capacity, position: Option<(u64, u64)>) {
        if let Some(replayed) = &mut self.replayed {
            replayed.capacity = capacity;
            if let Some((position, message)) = position {
                self.log = Log::unlimited_from(position, message);
            }
        }
    }

    /// After a publication in a replay: keeps the chunk for subscribers.
    pub(super) fn keep_published(&mut self) {
        let Some(replayed) = &mut self.replayed else { return };
        let position = self.log.end() - 1;
        if let Some(chunk) = self.log.chunk(position) {
            replayed.chunks.insert(position, chunk.clone());
        }
    }

    /// Begins a log at a position, for a subscriber whose first message is `next_message`. Returns
    /// how many messages of the first chunk precede it; `None` if it is not in that chunk.
    pub(super) fn restore_start(&mut self, position: u64, next_message: u64) -> Option<u64> {
        let chunk = self.replayed.as_ref().and_then(|replayed| replayed.chunk(position));
        let first_message = chunk.map_or(next_message, |chunk| chunk.first_message);
        self.log = Log::unlimited_from(position, first_message);
        let messages = chunk.map_or(0, |chunk| chunk.messages);
        next_message.checked_sub(first_message).filter(|before| *before <= messages)
    }

    /// Publishes what the upstream has published up to the position `end`. Returns false if its
    /// recordings do not have all of it.
    pub(super) fn restore_log(&mut self, end: u64) -> bool {
        while self.log.end() < end {
            let replayed = self.replayed.as_ref();
            let chunk = replayed.and_then(|it| it.chunk(self.log.end())).cloned();
            let Some(chunk) = chunk.filter(|it| it.first_message == self.log.messages()) else {
                return false;
            };
            self.log.push(chunk.bytes, chunk.messages, chunk.received_at);
        }
        true
    }
}

/// What a subscriber notes of its feed while it is recorded or replayed.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) seen: Seen,
    /// What a recording has last; `None` before the subscriber's start is recorded.
    pub(super) recorded: Option<Seen>,
}

/// What a subscriber has seen of its feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The end of the log.
    pub(super) log_end: u64,
    /// It has fallen out of the window.
    pub(super) has_lagged: bool,
    /// The end of its subscription.
    pub(super) end: EndPosition,
}

impl Seen {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.has_lagged) | u8::from(!self.end.is_open()) << 1);
        put_number(out, self.log_end);
        if !self.end.is_open() {
            put_number(out, self.end.chunk);
            put_number(out, self.end.message);
        }
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (&flags, rest) = bytes.split_first().filter(|(flags, _)| **flags < 4)?;
        *bytes = rest;
        let log_end = take_number(bytes).ok()?;
        let end = if flags & 2 == 0 {
            EndPosition::OPEN
        } else {
            let (chunk, message) = take_position(bytes)?;
            EndPosition { chunk, message }
        };
        Some(Self { log_end, has_lagged: flags & 1 != 0, end })
    }
}

/// Appends whether the upstream or a publisher is paused, and until when.
pub(super) fn put_capacity(out: &mut Vec<u8>, capacity: Capacity) {
    match capacity {
        Capacity::Available => out.push(0),
        Capacity::Paused { until: None } => out.push(1),
        Capacity::Paused { until: Some(until) } => {
            out.push(2);
            put_number(out, until.nanos());
        }
    }
}

pub(super) fn take_capacity(bytes: &mut &[u8]) -> Option<Capacity> {
    let (&code, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(match code {
        0 => Capacity::Available,
        1 => Capacity::Paused { until: None },
        2 => Capacity::Paused { until: Some(Instant::from_nanos(take_number(bytes).ok()?)) },
        _ => return None,
    })
}

/// Why what comes from outside cannot be restored.
pub(super) const INVALID: &str = "it is not for this machine";

/// Takes a position in a log and a message. Both are below 2⁶², so that they cannot overflow.
pub(super) fn take_position(bytes: &mut &[u8]) -> Option<(u64, u64)> {
    let pair = (take_number(bytes).ok()?, take_number(bytes).ok()?);
    (pair.0.max(pair.1) < 1 << 62).then_some(pair)
}
