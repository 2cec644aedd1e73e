//! Standard input, read without blocking.

use std::{
    io::{self, BufRead, Read},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    task::{Context, Poll, Waker},
    thread,
};

use bytes::{Bytes, BytesMut};
use wirestate_core::shared::{Lock, Shared};

/// The longest line, in bytes.
pub(super) const MAX_LINE: usize = 1024 * 1024;

/// Standard input, in lines or in blocks. A thread reads one item ahead.
///
/// The thread blocks in read(2), because epoll(7) does not support regular files.
pub(super) struct StandardInput<T> {
    items: Receiver<io::Result<T>>,
    waker: Shared<Lock<Option<Waker>>>,
}

impl StandardInput<Vec<u8>> {
    /// The lines of standard input, without their line ends.
    pub(super) fn lines() -> io::Result<Self> {
        Self::new(read_line)
    }
}

impl StandardInput<Bytes> {
    /// The bytes of standard input, in blocks of at most 64 KiB, as they arrive.
    pub(super) fn blocks() -> io::Result<Self> {
        let mut block = BytesMut::new();
        Self::new(move |input| read_block(input, &mut block))
    }
}

impl<T: Send + 'static> StandardInput<T> {
    fn new(
        mut read: impl FnMut(&mut io::StdinLock<'static>) -> io::Result<Option<T>> + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, items) = sync_channel(1);
        let shared_waker = Shared::new(Lock::new(None::<Waker>));
        let waker = WakeOnDrop { waker: shared_waker.clone() };
        thread::Builder::new().name("standard-input".into()).spawn(move || {
            let mut input = io::stdin().lock();
            while let Some(item) = read(&mut input).transpose() {
                let has_failed = item.is_err();
                if sender.send(item).is_err() || has_failed {
                    break;
                }
                waker.wake();
            }
            // In this order, so that the last wake-up finds the channel closed.
            drop(sender);
            drop(waker);
        })?;
        Ok(Self { items, waker: shared_waker })
    }

    /// The next item, or `None` at the end of the input.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<T>>> {
        self.waker.with(|waker| *waker = Some(cx.waker().clone()));
        match self.items.try_recv() {
            Ok(item) => Poll::Ready(Some(item)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => Poll::Pending,
        }
    }
}

/// Wakes the polling task. Dropping it wakes the task as well, for the end of the input.
struct WakeOnDrop {
    waker: Shared<Lock<Option<Waker>>>,
}

impl WakeOnDrop {
    fn wake(&self) {
        if let Some(waker) = self.waker.with(Option::take) {
            waker.wake();
        }
    }
}

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.wake();
    }
}

fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    } else if line.len() > MAX_LINE {
        let message = format!("a line is longer than the limit of {MAX_LINE} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(Some(line))
}

/// Reads what is there, into `block` and its successors. Returns `None` at the end of the input.
fn read_block(input: &mut impl Read, block: &mut BytesMut) -> io::Result<Option<Bytes>> {
    if block.len() < MIN_READ {
        *block = BytesMut::zeroed(BLOCK);
    }
    loop {
        match input.read(block) {
            Ok(0) => return Ok(None),
            Ok(n) => return Ok(Some(block.split_to(n).freeze())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The size of a block, and the most that one read receives, in bytes.
const BLOCK: usize = 64 * 1024;
/// A new block is allocated when less space than this remains.
const MIN_READ: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_a_line_feed_or_the_input() {
        let mut input = &b"one\ntwo\r\n\nlast"[..];
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, [&b"one"[..], b"two", b"", b"last"]);
    }

    #[test]
    fn a_line_beyond_the_limit_is_an_error() {
        let endless = vec![b'x'; MAX_LINE + 1];
        let error = read_line(&mut &endless[..]).unwrap_err();
        assert!(error.to_string().contains("1048576"), "{error}");
    }
}
