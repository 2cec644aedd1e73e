//! Lines of standard input, read without blocking.

use std::{
    io::{self, BufRead, Read},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    task::{Context, Poll, Waker},
    thread,
};

use wirestate_core::shared::{Lock, Shared};

/// The longest line, in bytes.
pub(super) const MAX_LINE: usize = 1024 * 1024;

/// The lines of standard input, without their line ends. A thread reads one line ahead.
///
/// The thread blocks in read(2), because epoll(7) does not support regular files.
pub(super) struct StdinLines {
    lines: Receiver<io::Result<Vec<u8>>>,
    waker: Shared<Lock<Option<Waker>>>,
}

impl StdinLines {
    pub(super) fn new() -> io::Result<Self> {
        let (sender, lines) = sync_channel(1);
        let shared_waker = Shared::new(Lock::new(None::<Waker>));
        let waker = WakeOnDrop { waker: shared_waker.clone() };
        thread::Builder::new().name("standard-input".into()).spawn(move || {
            let mut input = io::stdin().lock();
            while let Some(line) = read_line(&mut input).transpose() {
                if sender.send(line).is_err() {
                    return;
                }
                waker.wake();
            }
            // In this order, so that the last wake-up finds the channel closed.
            drop(sender);
            drop(waker);
        })?;
        Ok(Self { lines, waker: shared_waker })
    }

    /// The next line, or `None` at the end of the input.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Vec<u8>>>> {
        self.waker.with(|waker| *waker = Some(cx.waker().clone()));
        match self.lines.try_recv() {
            Ok(line) => Poll::Ready(Some(line)),
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
