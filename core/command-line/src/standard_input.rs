//! Lines of standard input, while something else goes on.

use std::{
    io::{self, BufRead, Read},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    task::{Context, Poll, Waker},
    thread,
};

use wirestate_core::shared::{Lock, Shared};

/// The longest line, in bytes.
pub(super) const MAX_LINE: usize = 1024 * 1024;

/// Lines of standard input without their ends, read by a thread of its own, one ahead.
///
/// A blocking thread serves files, pipes and terminals alike, where readiness would not (epoll(7)
/// refuses files).
pub(super) struct Lines {
    lines: Receiver<io::Result<Vec<u8>>>,
    waiting: Shared<Lock<Option<Waker>>>,
}

impl Lines {
    pub(super) fn new() -> io::Result<Self> {
        let (sender, lines) = sync_channel(1);
        let waiting = Shared::new(Lock::new(None::<Waker>));
        let reader = Reader { waiting: waiting.clone() };
        thread::Builder::new().name("standard-input".into()).spawn(move || {
            let mut input = io::stdin().lock();
            while let Some(line) = read_line(&mut input).transpose() {
                if sender.send(line).is_err() {
                    return;
                }
                reader.wake();
            }
            drop(sender); // before `reader` wakes for the last time
            drop(reader);
        })?;
        Ok(Self { lines, waiting })
    }

    /// The next line; `None` at the end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Vec<u8>>>> {
        self.waiting.with(|waiting| *waiting = Some(cx.waker().clone()));
        match self.lines.try_recv() {
            Ok(line) => Poll::Ready(Some(line)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => Poll::Pending,
        }
    }
}

/// Wakes once more when it is dropped: the end is news as well.
struct Reader {
    waiting: Shared<Lock<Option<Waker>>>,
}

impl Reader {
    fn wake(&self) {
        if let Some(waker) = self.waiting.with(Option::take) {
            waker.wake();
        }
    }
}

impl Drop for Reader {
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
    fn a_line_without_end_is_refused() {
        let endless = vec![b'x'; MAX_LINE + 1];
        let error = read_line(&mut &endless[..]).unwrap_err();
        assert!(error.to_string().contains("1048576"), "{error}");
    }
}
