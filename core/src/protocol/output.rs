//! The send queue.

use alloc::{collections::VecDeque, vec::Vec};
use core::{fmt, iter, mem};

use bytes::{Buf, Bytes};

use crate::buffer::{Quota, QuotaExceeded, Reservation, fill_owned};

/// Output that is not written yet.
///
/// Short pieces are copied into one vector, so that many are written as one slice. [`Bytes`] of
/// 4 KiB or more are a slice of their own, and are not copied.
///
/// ```
/// use wirestate_core::protocol::Output;
///
/// let mut output = Output::default();
/// output.extend(b"$5\r\n");
/// output.push("hello");
/// write!(output, "\r\n:{}\r\n", 42);
/// assert_eq!(output.len(), 16);
/// ```
///
/// The copied pieces take at most 4 × [`len`](Self::len) bytes, or 256 KiB if that is more: written
/// bytes stay in the vector until they are half of it, and a vector doubles its capacity. A slice
/// of its own keeps all of its memory until its last byte is written.
///
/// Copied pieces do not count towards [`Config::max_memory`](super::Config::max_memory): the
/// protocol bounds their length. Neither do bytes that have another owner when they are pushed.
#[derive(Debug, Default)]
pub struct Output {
    /// Slices in the order in which they are written, each with its reservation under the quota.
    queue: VecDeque<(Bytes, Reservation)>,
    /// The copied pieces that follow the queue. The first `written` bytes are written.
    tail: Vec<u8>,
    written: usize,
    /// The bytes of the queue.
    queued: usize,
    /// What the slices of the queue are reserved under.
    quota: Quota,
    exceeded: Option<QuotaExceeded>,
    /// The number of pending bytes when the last reply began.
    before: usize,
}

impl Output {
    pub(crate) fn with_quota(quota: Quota) -> Self {
        Self { quota, ..Self::default() }
    }

    /// How many bytes of a quota `bytes` takes while it is pending. Bytes that are copied take
    /// none, and neither do bytes that have another owner.
    pub(crate) fn reserved_for(bytes: &Bytes) -> usize {
        if bytes.len() < MIN_SLICE || !bytes.is_unique() { 0 } else { bytes.len() }
    }

    /// The number of pending bytes.
    pub fn len(&self) -> usize {
        self.queued + self.tail.len() - self.written
    }

    /// Whether no byte is pending.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether fewer than [`HIGH_WATER_MARK`] bytes are pending.
    #[cfg(feature = "message")]
    pub(crate) fn has_room(&self) -> bool {
        self.len() < HIGH_WATER_MARK
    }

    /// Appends a copy of `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Appends text, for `write!` and `writeln!`, which return nothing here.
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) {
        // Only a `Display` implementation can fail here. Its text ends early then.
        let _ = fmt::write(&mut Text(&mut self.tail), text);
    }

    /// Appends `bytes`. If they are shorter than 4 KiB, they are copied.
    ///
    /// Longer ones that have no other owner count towards
    /// [`Config::max_memory`](super::Config::max_memory) until they are written. If they exceed it,
    /// the connection ends with [`ProtocolReason::Memory`](super::ProtocolReason::Memory).
    pub fn push(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if bytes.len() < MIN_SLICE { self.extend(&bytes) } else { self.push_slice(bytes) }
    }

    /// As [`push`](Self::push), but bytes of any length are a slice of their own, and not copied.
    ///
    /// Use it for bytes with an owner whose drop has an effect ([`Bytes::from_owner`]). The owner
    /// is dropped when its last byte is written, or the connection ends.
    pub fn push_slice(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return; // no slice of an offer is empty
        }
        let mut reservation = Reservation::default();
        match self.quota.resize(&mut reservation, Self::reserved_for(&bytes)) {
            Ok(()) => self.push_reserved(bytes, reservation),
            Err(exceeded) => self.exceeded = Some(exceeded),
        }
    }

    /// Appends `bytes` of which the caller remains an owner. If they are shorter than 4 KiB, they
    /// are copied. Longer ones do not count towards
    /// [`Config::max_memory`](super::Config::max_memory).
    pub fn push_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < MIN_SLICE {
            self.extend(bytes);
        } else {
            self.push_reserved(bytes.clone(), Reservation::default());
        }
    }

    fn push_reserved(&mut self, bytes: Bytes, reservation: Reservation) {
        if self.written < self.tail.len() {
            let mut head = Bytes::from(mem::take(&mut self.tail));
            head.advance(mem::take(&mut self.written));
            self.queued += head.len();
            self.queue.push_back((head, Reservation::default()));
        }
        self.queued += bytes.len();
        self.queue.push_back((bytes, reservation));
    }

    /// The vector of copied pieces, to append to.
    #[cfg(feature = "message")]
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Appends the whole of `other`, with its reservations.
    pub(super) fn append(&mut self, other: Self) {
        for (bytes, reservation) in other.queue {
            self.push_reserved(bytes, reservation);
        }
        self.extend(&other.tail[other.written..]);
    }

    /// Reserves the slices of output that was made without a quota.
    pub(super) fn set_quota(&mut self, quota: &Quota) {
        for (bytes, reservation) in &mut self.queue {
            if let Err(exceeded) = quota.resize(reservation, Self::reserved_for(bytes)) {
                self.exceeded = Some(exceeded);
            }
        }
        self.quota = quota.clone();
    }

    /// Begins a reply.
    pub(super) fn begin(&mut self) {
        self.before = self.len();
    }

    /// Returns the error if the reply that has [begun](Self::begin) exceeds the quota, and removes
    /// the reply: an incomplete reply would change what the peer parses next.
    pub(super) fn take_exceeded(&mut self) -> Option<QuotaExceeded> {
        let exceeded = self.exceeded.take()?;
        self.truncate(self.before);
        Some(exceeded)
    }

    /// Removes all but the first `len` bytes.
    fn truncate(&mut self, len: usize) {
        if let Some(rest) = len.checked_sub(self.queued) {
            return self.tail.truncate(self.written + rest);
        }
        self.tail.clear();
        self.written = 0;
        while self.queued > len
            && let Some((last, _)) = self.queue.back_mut()
        {
            let surplus = last.len().min(self.queued - len);
            last.truncate(last.len() - surplus);
            self.queued -= surplus;
            self.queue.pop_back_if(|(last, _)| last.is_empty());
        }
    }

    /// The pending bytes, in pieces that are not empty.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let tail = Some(&self.tail[self.written..]).filter(|tail| !tail.is_empty());
        self.queue.iter().map(|(bytes, _)| &bytes[..]).chain(tail)
    }

    /// The offer of [`Machine::write_bufs`](crate::Machine::write_bufs).
    pub(crate) fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out.iter_mut().zip(self.pieces()).map(|(out, slice)| *out = slice).count()
    }

    /// Like `write_bufs`, as [`Bytes`]. Slices of their own are not copied.
    pub(crate) fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        let tail = &self.tail[self.written..];
        let tail = iter::once_with(|| Bytes::copy_from_slice(&tail[..tail.len().min(max)]));
        fill_owned(out, max, self.queue.iter().map(|(bytes, _)| bytes.clone()).chain(tail))
    }

    /// Removes the first `n` bytes, which were written.
    pub(crate) fn consume(&mut self, mut n: usize) {
        while let Some((first, _)) = self.queue.front_mut() {
            if n < first.len() {
                first.advance(n);
                self.queued -= n;
                return;
            }
            n -= first.len();
            self.queued -= first.len();
            self.queue.pop_front();
        }
        self.written += n;
        if self.written == self.tail.len() {
            self.tail.clear();
            self.written = 0;
        } else if self.written >= self.tail.len() - self.written {
            // This moves no more bytes than were written.
            self.tail.drain(..mem::take(&mut self.written));
        }
        if self.tail.capacity() > MAX_TAIL.max(4 * self.tail.len()) {
            self.tail.shrink_to(2 * self.tail.len());
        }
    }

    /// Discards all output.
    pub(crate) fn clear(&mut self) {
        *self = Self::with_quota(mem::take(&mut self.quota));
    }

    /// Frees the memory if no output is pending.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            self.clear();
        }
    }
}

/// The output of one piece, for a future's answer ([`Replies::defer`](super::Replies::defer)).
impl<T: Into<Bytes>> From<T> for Output {
    fn from(bytes: T) -> Self {
        let mut output = Self::default();
        output.push(bytes);
        output
    }
}

/// Appends text to a vector.
pub(crate) struct Text<'a>(pub(crate) &'a mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// The number of pending bytes at which no further frame is answered, unless
/// [`Config::high_water_mark`](super::Config::high_water_mark) says otherwise: enough for an
/// efficient write.
pub const HIGH_WATER_MARK: usize = 64 * 1024;
/// The most memory that the vector of copied pieces keeps for later ones, in bytes: what it grows
/// to if the output is always full.
const MAX_TAIL: usize = 4 * HIGH_WATER_MARK;
/// The shortest piece, in bytes, that is a slice of its own. Shorter ones are cheaper to copy.
pub(crate) const MIN_SLICE: usize = 4096;

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use super::*;

    /// Bytes whose owner has a clone of `owner`.
    fn owned(bytes: &'static [u8], owner: &Arc<()>) -> Bytes {
        struct Owner(&'static [u8], #[expect(dead_code, reason = "it is counted")] Arc<()>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                self.0
            }
        }
        Bytes::from_owner(Owner(bytes, owner.clone()))
    }

    #[test]
    fn the_owner_of_a_slice_is_dropped_when_its_last_byte_is_written() {
        let owner = Arc::new(());
        let mut output = Output::default();
        output.extend(b"a");
        output.push_slice(owned(b"bc", &owner));
        output.extend(b"d");
        let mut appended = Output::default();
        appended.append(output);
        appended.push_slice(Bytes::new());
        let mut bufs = [&[][..]; 8];
        let count = appended.write_bufs(&mut bufs);
        assert_eq!(bufs[..count], [&b"a"[..], b"bc", b"d"]);
        appended.consume(2);
        assert_eq!(Arc::strong_count(&owner), 2);
        appended.consume(1);
        assert_eq!((Arc::strong_count(&owner), appended.len()), (1, 1));

        appended.push_slice(owned(b"e", &owner));
        appended.clear();
        assert_eq!(Arc::strong_count(&owner), 1);
        appended.push(owned(b"f", &owner));
        assert_eq!(Arc::strong_count(&owner), 1, "short bytes are copied");
    }

    #[test]
    fn the_memory_of_a_long_piece_is_freed_as_it_is_written() {
        let mut output = Output::default();
        output.extend(&alloc::vec![0; 10 * MAX_TAIL]);
        while output.len() > 1 {
            output.consume(output.len().div_ceil(3));
            let (capacity, limit) = (output.tail.capacity(), MAX_TAIL.max(4 * output.len()));
            assert!(capacity <= limit, "{capacity} bytes for {}", output.len());
        }
        let capacity = output.tail.capacity();
        output.consume(1);
        assert_eq!(output.tail.capacity(), capacity, "it is kept for the next pieces");
    }

    #[test]
    fn output_is_truncated_to_any_length() {
        for len in 0..=7 {
            let mut output = Output::default();
            output.extend(b"xab");
            output.push_slice(Bytes::from_static(b"cd"));
            output.extend(b"e");
            output.push_slice(Bytes::from_static(b"f"));
            output.extend(b"g");
            output.consume(1);
            output.truncate(len);
            output.extend(b"!");
            let mut bufs = [&[][..]; 8];
            let count = output.write_bufs(&mut bufs);
            let rest = [&b"abcdefg"[..len], b"!"].concat();
            assert_eq!((bufs[..count].concat(), output.len()), (rest, len + 1));
        }
        let mut output = Output::default();
        output.extend(b"xab");
        output.consume(1);
        output.truncate(1);
        output.extend(b"!");
        let mut bufs = [&[][..]; 8];
        assert_eq!((output.write_bufs(&mut bufs), bufs[0], output.len()), (1, &b"a!"[..], 2));
    }
}
