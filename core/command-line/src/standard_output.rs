//! Standard output as a stream, written without blocking.

use std::{
    fs::File,
    future::poll_fn,
    io::{self, IsTerminal, Write},
    mem,
    os::fd::AsFd,
    sync::mpsc::{SyncSender, sync_channel},
    task::{Context, Poll, Waker},
    thread,
};

use bytes::Bytes;
use wirestate_core::shared::{Lock, Shared};

use crate::{CommandError, output::printable};

/// Standard output, in blocks of any size. A thread writes one block at a time.
///
/// The thread blocks in write(2), because epoll(7) does not support regular files.
pub(super) struct StandardOutput {
    blocks: SyncSender<Bytes>,
    shared: Shared<Lock<State>>,
}

struct State {
    last_write: LastWrite,
    waker: Option<Waker>,
}

/// The state of the last block.
enum LastWrite {
    Done,
    Pending,
    Failed(io::Error),
}

impl StandardOutput {
    /// Bytes are written as they are.
    pub(super) fn unchanged() -> io::Result<Self> {
        Self::new(false)
    }

    /// On a terminal, control characters are escaped, because a terminal executes them.
    pub(super) fn escaped_on_terminal() -> io::Result<Self> {
        Self::new(io::stdout().is_terminal())
    }

    fn new(escapes: bool) -> io::Result<Self> {
        let stdout = io::stdout();
        // Its own buffer would copy each block.
        let mut output = File::from(stdout.as_fd().try_clone_to_owned()?);
        let (blocks, received) = sync_channel::<Bytes>(1);
        let state = State { last_write: LastWrite::Done, waker: None };
        let shared = Shared::new(Lock::new(state));
        let thread_shared = shared.clone();
        thread::Builder::new().name("standard-output".into()).spawn(move || {
            let mut partial = Vec::new();
            for block in received {
                let written = if !escapes {
                    output.write_all(&block)
                } else if block.is_empty() {
                    output.write_all(printable(&mem::take(&mut partial)).as_bytes())
                } else {
                    partial.extend_from_slice(&block);
                    output.write_all(take_printable(&mut partial).as_bytes())
                };
                let waker = thread_shared.with(|state| {
                    state.last_write = match written {
                        Ok(()) => LastWrite::Done,
                        Err(error) => LastWrite::Failed(error),
                    };
                    state.waker.take()
                });
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        })?;
        Ok(Self { blocks, shared })
    }

    /// Ready when the last block is written.
    ///
    /// # Errors
    /// The last block could not be written.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|state| match mem::replace(&mut state.last_write, LastWrite::Done) {
            LastWrite::Done => Poll::Ready(Ok(())),
            LastWrite::Pending => {
                state.last_write = LastWrite::Pending;
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            LastWrite::Failed(error) => Poll::Ready(Err(error)),
        })
    }

    /// Writes what an incomplete character at the end has left, and waits until all is written.
    ///
    /// # Errors
    /// As [`poll_ready`](Self::poll_ready).
    pub(super) async fn finish(&mut self) -> Result<(), CommandError> {
        poll_fn(|cx| self.poll_ready(cx)).await.map_err(CommandError::Output)?;
        self.write(Bytes::new());
        poll_fn(|cx| self.poll_ready(cx)).await.map_err(CommandError::Output)
    }

    /// Writes a block; an empty one is the end. Call it only after
    /// [`poll_ready`](Self::poll_ready).
    pub(super) fn write(&mut self, block: Bytes) {
        self.shared.with(|state| state.last_write = LastWrite::Pending);
        // The thread waits for it, so this does not block.
        if self.blocks.send(block).is_err() {
            let error = io::Error::other("the thread that writes has ended");
            self.shared.with(|state| state.last_write = LastWrite::Failed(error));
        }
    }
}

/// Takes all bytes but an incomplete character at their end, as printable text.
fn take_printable(bytes: &mut Vec<u8>) -> String {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let is_incomplete = str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
    let rest = bytes.split_off(bytes.len() - if is_incomplete { last.len() } else { 0 });
    printable(&mem::replace(bytes, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_may_be_divided_between_blocks() {
        let mut bytes = Vec::new();
        let mut shown = String::new();
        for byte in "ä\u{1b}🐶".bytes().chain([0xff, 0xf0, b'x', 0xe2]) {
            bytes.push(byte);
            shown += &take_printable(&mut bytes);
        }
        assert_eq!(shown, "ä\\u{1b}🐶\\xff\\xf0x");
        assert_eq!(bytes, [0xe2], "it may become a character");
    }
}
