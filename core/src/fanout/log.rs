//! The window of published messages: pure data, without subscribers and locks.

use alloc::collections::VecDeque;

use bytes::Bytes;

use crate::Instant;

/// A bounded window of published chunks. A chunk is one or more complete messages.
///
/// Chunks have positions, and messages have numbers. Both are absolute: they count from 0 since the
/// log was created. The window holds the chunks from [`start`](Self::start) to
/// [`end`](Self::end).
///
/// Messages belong to epochs, which count from 0. Between two epochs, messages may be missing.
#[derive(Debug)]
pub struct Log {
    window: usize,
    chunks: VecDeque<Chunk>,
    start: u64,
    /// How many bytes of the window the chunks use.
    cost: usize,
    messages: u64,
    epoch: u64,
    epoch_start: u64,
}

/// Complete messages that were published together.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The messages, one after another.
    pub bytes: Bytes,
    /// The number of the first message.
    pub first_message: u64,
    /// How many messages there are.
    pub messages: u64,
    /// The epoch of the messages.
    pub epoch: u64,
    /// When the last byte was received.
    pub received_at: Instant,
}

impl Log {
    /// An empty log. Its chunks use at most `window` bytes: their messages, and 128 bytes for each
    /// chunk.
    pub fn new(window: usize) -> Self {
        let (start, cost, messages) = (0, 0, 0);
        Self { window, chunks: VecDeque::new(), start, cost, messages, epoch: 0, epoch_start: 0 }
    }

    /// An empty log without a limit, which begins at a position and a message. For replays.
    pub(super) fn unlimited_from(start: u64, messages: u64) -> Self {
        Self { start, messages, epoch_start: start, ..Self::new(usize::MAX) }
    }

    /// The position of the oldest chunk in the window.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The position of the next chunk that is published.
    pub fn end(&self) -> u64 {
        self.start + self.chunks.len() as u64
    }

    /// How many messages were published.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The present epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The position of the first chunk of the present epoch.
    pub fn epoch_start(&self) -> u64 {
        self.epoch_start
    }

    /// Begins an epoch with the next chunk, unless the present one has no chunk. Returns whether it
    /// has begun.
    pub fn begin_epoch(&mut self) -> bool {
        let begins = self.epoch_start < self.end();
        if begins {
            self.epoch += 1;
            self.epoch_start = self.end();
        }
        begins
    }

    /// The chunk at a position; `None` if it is not in the window.
    pub fn chunk(&self, position: u64) -> Option<&Chunk> {
        let index = usize::try_from(position.checked_sub(self.start)?).ok()?;
        self.chunks.get(index)
    }

    /// Publishes a chunk, and drops the oldest ones until the window's limit is met. A chunk
    /// that is larger than the window stays until the next publication.
    pub fn push(&mut self, bytes: Bytes, messages: u64, received_at: Instant) {
        let start = self.start_after(bytes.len());
        while self.start < start
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.cost -= cost(&chunk);
            self.start += 1;
        }
        let (first_message, epoch) = (self.messages, self.epoch);
        let chunk = Chunk { bytes, first_message, messages, epoch, received_at };
        self.messages += messages;
        self.cost += cost(&chunk);
        self.chunks.push_back(chunk);
    }

    /// The value of [`start`](Self::start) after a publication of a chunk of `bytes` bytes.
    pub fn start_after(&self, bytes: usize) -> u64 {
        let mut excess = (self.cost + bytes + CHUNK_OVERHEAD).saturating_sub(self.window);
        let mut start = self.start;
        for chunk in &self.chunks {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(cost(chunk));
            start += 1;
        }
        start
    }

    /// The first position, at least `from`, from which the chunks to the end of the log use at most
    /// `bytes` of the window.
    pub fn newest_within(&self, from: u64, bytes: usize) -> u64 {
        let mut available = bytes;
        let mut position = self.end();
        for chunk in self.chunks.iter().rev() {
            match available.checked_sub(cost(chunk)) {
                Some(rest) if position > from => available = rest,
                Some(_) | None => break,
            }
            position -= 1;
        }
        position
    }

    /// The position of the chunk in which the last `messages` messages begin, and how many of its
    /// messages precede them. Messages that have left the window do not count.
    pub fn position_of_last(&self, messages: u64) -> (u64, u64) {
        let first = self.messages.saturating_sub(messages);
        let is_before = |chunk: &Chunk| chunk.first_message + chunk.messages <= first;
        let index = self.chunks.partition_point(is_before);
        let chunk = self.chunks.get(index);
        let before = chunk.map_or(0, |chunk| first.saturating_sub(chunk.first_message));
        (self.start + index as u64, before)
    }
}

/// How many bytes of the window a chunk uses.
fn cost(chunk: &Chunk) -> usize {
    chunk.bytes.len() + CHUNK_OVERHEAD
}

/// How many bytes of the window a chunk uses beside its messages: its entry here, and its part of
/// the buffer's bookkeeping. It bounds the memory of a window of tiny chunks.
const CHUNK_OVERHEAD: usize = 128;

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn log(window: usize, chunks: &[(usize, u64)]) -> Log {
        let mut log = Log::new(window);
        for &(len, messages) in chunks {
            log.push(vec![0; len].into(), messages, Instant::EPOCH);
        }
        log
    }

    #[test]
    fn the_window_is_never_exceeded_and_positions_are_absolute() {
        let log = log(2 * (100 + CHUNK_OVERHEAD), &[(100, 10), (100, 10), (100, 10)]);
        assert_eq!((log.start(), log.end(), log.messages()), (1, 3, 30));
        assert!(log.chunk(0).is_none());
        assert_eq!(log.chunk(1).unwrap().first_message, 10);
        assert!(log.chunk(3).is_none());
        assert_eq!((log.start_after(100), log.start_after(101)), (2, 3));
        let cost = 100 + CHUNK_OVERHEAD;
        let newest = |from, bytes| log.newest_within(from, bytes);
        assert_eq!([newest(0, 0), newest(0, cost), newest(0, 3 * cost)], [3, 2, 1]);
        assert_eq!([newest(2, 3 * cost), newest(3, 3 * cost)], [2, 3]);
    }

    #[test]
    fn a_chunk_that_is_larger_than_the_window_stands_alone() {
        let mut log = log(500, &[(100, 1), (1000, 1)]);
        assert_eq!((log.start(), log.end()), (1, 2));
        log.push(vec![0; 10].into(), 1, Instant::EPOCH);
        assert_eq!((log.start(), log.end()), (2, 3));
    }

    #[test]
    fn an_epoch_begins_with_the_next_chunk_and_has_at_least_one() {
        let mut log = log(10_000, &[]);
        assert!(!log.begin_epoch());
        for (epoch, position) in [(0, 0), (1, 1), (2, 2)] {
            assert_eq!((log.epoch(), log.epoch_start()), (epoch, position));
            log.push(vec![0; 4].into(), 1, Instant::EPOCH);
            assert_eq!(log.chunk(position).unwrap().epoch, epoch);
            assert!(log.begin_epoch());
            assert!(!log.begin_epoch());
        }
    }

    #[test]
    fn the_last_messages_may_begin_inside_a_chunk() {
        let log = log(10_000, &[(100, 10), (100, 10)]);
        assert_eq!(log.position_of_last(0), (2, 0));
        assert_eq!(log.position_of_last(3), (1, 7));
        assert_eq!(log.position_of_last(10), (1, 0));
        assert_eq!(log.position_of_last(11), (0, 9));
        assert_eq!(log.position_of_last(1000), (0, 0));
    }
}
