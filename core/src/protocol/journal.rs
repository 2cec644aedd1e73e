//! The answers of futures, as a recording has them.

use alloc::vec::Vec;

use bytes::Bytes;

use super::Output;
use crate::record::{put_number, take_number};

/// The answers that became ready in one call of `poll_shared`, while the connection is recorded or
/// replayed.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The answers since the last [`take`](Self::take), encoded.
    ready: Vec<u8>,
    /// In a replay: the next answers. The futures are not polled then.
    restored: Option<Vec<(usize, Bytes)>>,
}

impl Journal {
    /// Records that the answer in the slot `index` is ready.
    pub(super) fn push(&mut self, index: usize, output: &Output) {
        put_number(&mut self.ready, index as u64);
        put_number(&mut self.ready, output.len() as u64);
        for piece in output.pieces() {
            self.ready.extend_from_slice(piece);
        }
    }

    /// Appends the answers since the last call to `out`.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.ready);
    }

    /// Restores the answers of the next call. Returns false if `encoded` is invalid.
    pub(super) fn restore(&mut self, mut encoded: &[u8]) -> bool {
        let restored = self.restored.insert(Vec::new());
        while !encoded.is_empty() {
            let Some((index, output)) = take_answer(&mut encoded) else { return false };
            restored.push((index, Bytes::copy_from_slice(output)));
        }
        true
    }

    /// The answers of this call; `None` if this is no replay.
    pub(super) fn take_restored(&mut self) -> Option<Vec<(usize, Bytes)>> {
        self.restored.as_mut().map(core::mem::take)
    }
}

fn take_answer<'a>(encoded: &mut &'a [u8]) -> Option<(usize, &'a [u8])> {
    let index = usize::try_from(take_number(encoded).ok()?).ok()?;
    let len = usize::try_from(take_number(encoded).ok()?).ok()?;
    let (output, rest) = encoded.split_at_checked(len)?;
    *encoded = rest;
    Some((index, output))
}
