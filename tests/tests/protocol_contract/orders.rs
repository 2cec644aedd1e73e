//! A protocol for these tests. Each line is an order.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use wirestate_core::{
    protocol::{Buffer, Malformed, Output, Protocol, ProtocolReason, Replies, Step},
    shared::Lock,
};

/// The orders of one connection.
///
/// | line | answer |
/// |---|---|
/// | `say TEXT` | `TEXT` |
/// | `later TEXT` | `TEXT`, once [`Orders::answer`] was called |
/// | `fail` | an answer that fails, once [`Orders::answer`] was called |
/// | `wait MILLIS` | `waited`, that many milliseconds after it has arrived |
/// | `big BYTES` | so many bytes, as one piece |
/// | `raw BYTES`, and so many bytes | the number of bytes |
/// | `quiet` | nothing, once [`Orders::answer`] was called |
/// | `parts BYTES` | a line, so many bytes as one piece, and a line |
/// | `twice BYTES` | so many bytes as one piece, twice |
/// | `huge` | an error reply with a piece of 100,000 bytes |
/// | `bye` | `bye`, and the connection closes |
/// | anything else | an error reply |
///
/// `subscribe` makes a connection never idle.
#[derive(Clone, Default)]
pub(crate) struct Orders {
    later: Arc<Lock<Vec<Arc<Lock<Slot>>>>>,
    news: Arc<Lock<News>>,
    waiting: bool,
    is_subscribed: bool,
    is_huge: bool,
}

#[derive(Default)]
pub(crate) struct Slot {
    answer: Option<Result<String, Malformed>>,
    is_ready: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct News {
    lines: VecDeque<String>,
    waker: Option<Waker>,
}

pub(crate) struct Answer(Arc<Lock<Slot>>);

impl Future for Answer {
    type Output = Result<Output, Malformed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.with(|slot| match slot.answer.take_if(|_| slot.is_ready) {
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Ok(text)) if text.is_empty() => Poll::Ready(Ok(Output::default())),
            Some(answer) => Poll::Ready(answer.map(|text| Output::from(text + "\n"))),
        })
    }
}

impl Orders {
    /// Makes the answer of the deferred order `index` ready.
    pub(crate) fn answer(&self, index: usize) {
        let slot = self.later.with(|later| later[index].clone());
        let waker = slot.with(|slot| {
            slot.is_ready = true;
            slot.waker.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }

    /// How many orders were deferred.
    pub(crate) fn deferred(&self) -> usize {
        self.later.with(|later| later.len())
    }

    pub(crate) fn publish(&self, line: &str) {
        let waker = self.news.with(|news| {
            news.lines.push_back(line.to_owned());
            news.waker.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn unread_news(&self) -> usize {
        self.news.with(|news| news.lines.len())
    }

    fn defer(&self, answer: Result<String, Malformed>) -> Answer {
        let slot = Arc::new(Lock::new(Slot { answer: Some(answer), ..Slot::default() }));
        self.later.with(|later| later.push(slot.clone()));
        Answer(slot)
    }
}

impl Protocol for Orders {
    type Input = Buffer;
    type Error = Malformed;
    type Answer = Answer;

    fn receive(
        &mut self,
        input: &mut Buffer,
        replies: &mut Replies<Answer>,
    ) -> Result<Step, Malformed> {
        let bytes = input.bytes();
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return Ok(Step::Incomplete { length: None });
        };
        let line = str::from_utf8(&bytes[..end]).map_err(|_| "not UTF-8")?;
        let (order, argument) = line.split_once(' ').unwrap_or((line, ""));
        let number = || argument.parse::<u32>().map_err(|_| Malformed::from("not a number"));
        let mut length = end + 1;
        match order {
            "say" => writeln!(replies.output(), "{argument}"),
            "later" => replies.defer(self.defer(Ok(argument.to_owned()))),
            "fail" => replies.defer(self.defer(Err("the answer failed".into()))),
            "wait" if !self.waiting => {
                let time = Duration::from_millis(number()?.into());
                self.waiting = true;
                return Ok(Step::WaitUntil(replies.now() + time));
            }
            "wait" => {
                self.waiting = false;
                writeln!(replies.output(), "waited");
            }
            "big" => replies.output().push(vec![b'.'; number()? as usize]),
            "raw" => {
                length += number()? as usize;
                if bytes.len() < length {
                    return Ok(Step::Incomplete { length: Some(length) });
                }
                writeln!(replies.output(), "{argument}");
            }
            "bye" => {
                writeln!(replies.output(), "bye");
                replies.close();
            }
            "quiet" => replies.defer(self.defer(Ok(String::new()))),
            "parts" => {
                let output = replies.output();
                writeln!(output, "head");
                output.push(vec![b'.'; number()? as usize]);
                writeln!(output, "tail");
            }
            "twice" => {
                let piece = vec![b'.'; number()? as usize];
                replies.output().push(piece.clone());
                replies.output().push(piece);
            }
            "huge" => {
                self.is_huge = true;
                return Err("huge".into());
            }
            "subscribe" => self.is_subscribed = true,
            _ => return Err("an unknown order".into()),
        }
        input.take(length);
        Ok(Step::Taken)
    }

    fn poll_news(
        &mut self,
        replies: &mut Replies<Answer>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Malformed>> {
        let line = self.news.with(|news| {
            let line = news.lines.pop_front();
            if line.is_none() {
                news.waker = Some(cx.waker().clone());
            }
            line
        });
        let Some(line) = line else { return Poll::Pending };
        if line == "fail" {
            return Poll::Ready(Err("the news failed".into()));
        }
        writeln!(replies.output(), "news: {line}");
        Poll::Ready(Ok(()))
    }

    fn error_reply(&mut self, reason: &ProtocolReason, output: &mut Output) {
        if reason.is_error() {
            writeln!(output, "error: {reason}");
        }
        if self.is_huge {
            output.push(vec![b'.'; 100_000]);
        }
    }

    fn is_idle(&self) -> bool {
        !self.is_subscribed
    }
}
