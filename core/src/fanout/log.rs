//! The window of what was published: pure, without readers and locks.

use alloc::collections::VecDeque;

use bytes::Bytes;

use crate::Instant;

/// A bounded window of published chunks, each of which is one or more whole messages.
///
/// Chunks and messages have absolute positions, counted from 0 since the log was made.
#[derive(Debug)]
pub struct Log {
    window: usize,
    chunks: VecDeque<Chunk>,
    /// The position of the first chunk that is still here.
    first: u64,
    /// What the chunks cost.
    cost: usize,
    /// Messages published.
    messages: u64,
}

/// Whole messages that were published together.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The messages, one behind the other.
    pub bytes: Bytes,
    /// The position of the first message.
    pub start: u64,
    /// How many messages there are.
    pub messages: u64,
    /// When the last byte came in.
    pub at: Instant,
}

/// What a chunk costs of the window beside its bytes, so that a window of tiny chunks is no larger
/// than one of large chunks. (Its entry here, and its part of the buffer's bookkeeping.)
const CHUNK: usize = 128;

impl Log {
    /// An empty log that keeps at most `window` bytes: of messages, plus 128 for each chunk.
    pub fn new(window: usize) -> Self {
        Self { window, chunks: VecDeque::new(), first: 0, cost: 0, messages: 0 }
    }

    /// The position of the first chunk that is still here.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The position that the next chunk will have.
    pub fn next(&self) -> u64 {
        self.first + self.chunks.len() as u64
    }

    /// How many messages were published.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The chunk at a position, if it is here.
    pub fn chunk(&self, position: u64) -> Option<&Chunk> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.chunks.get(index)
    }

    /// Up to which chunk the window would have to move for `bytes` more to fit: the position of the
    /// first chunk that would still be here.
    pub fn first_after(&self, bytes: usize) -> u64 {
        let mut excess = (self.cost + bytes + CHUNK).saturating_sub(self.window);
        let mut first = self.first;
        for chunk in &self.chunks {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(cost(chunk));
            first += 1;
        }
        first
    }

    /// The first position, not before `from`, from which the rest of the log costs at most `bytes`.
    pub fn newest(&self, from: u64, bytes: usize) -> u64 {
        let mut left = bytes;
        let mut position = self.next();
        for chunk in self.chunks.iter().rev() {
            match left.checked_sub(cost(chunk)) {
                Some(rest) if position > from => left = rest,
                Some(_) | None => break,
            }
            position -= 1;
        }
        position
    }

    /// Publishes a chunk, and moves the window. What is larger than the window by itself stays all
    /// the same until the next one.
    pub fn push(&mut self, bytes: Bytes, messages: u64, at: Instant) {
        let first = self.first_after(bytes.len());
        while self.first < first
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.cost -= cost(&chunk);
            self.first += 1;
        }
        let chunk = Chunk { bytes, start: self.messages, messages, at };
        self.messages += messages;
        self.cost += cost(&chunk);
        self.chunks.push_back(chunk);
    }

    /// Where the last `messages` messages begin, as far as they are here: a chunk's position, and
    /// how many of its messages come before.
    pub fn last(&self, messages: u64) -> (u64, u64) {
        let start = self.messages.saturating_sub(messages);
        let index = self.chunks.partition_point(|chunk| chunk.start + chunk.messages <= start);
        let before = self.chunks.get(index).map_or(0, |chunk| start.saturating_sub(chunk.start));
        (self.first + index as u64, before)
    }
}

fn cost(chunk: &Chunk) -> usize {
    chunk.bytes.len() + CHUNK
}

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
        let log = log(2 * (100 + CHUNK), &[(100, 10), (100, 10), (100, 10)]);
        assert_eq!((log.first(), log.next(), log.messages()), (1, 3, 30));
        assert!(log.chunk(0).is_none());
        assert_eq!(log.chunk(1).unwrap().start, 10);
        assert!(log.chunk(3).is_none());
        assert_eq!((log.first_after(100), log.first_after(101)), (2, 3));
        let cost = 100 + CHUNK;
        let newest = |from, bytes| log.newest(from, bytes);
        assert_eq!([newest(0, 0), newest(0, cost), newest(0, 3 * cost)], [3, 2, 1]);
        assert_eq!([newest(2, 3 * cost), newest(3, 3 * cost)], [2, 3]);
    }

    #[test]
    fn a_chunk_that_is_larger_than_the_window_stands_alone() {
        let mut log = log(500, &[(100, 1), (1000, 1)]);
        assert_eq!((log.first(), log.next()), (1, 2));
        log.push(vec![0; 10].into(), 1, Instant::EPOCH);
        assert_eq!((log.first(), log.next()), (2, 3));
    }

    #[test]
    fn the_last_messages_may_begin_inside_a_chunk() {
        let log = log(10_000, &[(100, 10), (100, 10)]);
        assert_eq!(log.last(0), (2, 0));
        assert_eq!(log.last(3), (1, 7));
        assert_eq!(log.last(10), (1, 0));
        assert_eq!(log.last(11), (0, 9));
        assert_eq!(log.last(1000), (0, 0));
    }
}
