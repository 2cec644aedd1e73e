//! Services that reply later, and one that streams.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use wirestate_core::{
    message::{
        Delivery, Header, Message,
        service::{Reply, Service},
    },
    shared::Lock,
};

/// Answers each request with the request itself: some at once, the others when [`Later::release`]
/// is called, out of order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Later {
    shared: Arc<Lock<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: usize,
    /// Requests without a reply.
    unreleased: VecDeque<usize>,
    /// Requests whose reply is ready.
    released: Vec<usize>,
    wakers: Vec<Waker>,
}

impl Later {
    /// Answers the oldest or the newest waiting request.
    pub(crate) fn release(&self, oldest: bool) {
        let wakers = self.shared.with(|waiting| {
            let next =
                if oldest { waiting.unreleased.pop_front() } else { waiting.unreleased.pop_back() };
            waiting.released.extend(next);
            std::mem::take(&mut waiting.wakers)
        });
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.with(|waiting| waiting.requests)
    }
}

impl Service for Later {
    type Pending = Answer;

    fn call(&mut self, request: Message<'_>) -> Reply<Answer> {
        let number = self.shared.with(|waiting| {
            waiting.requests += 1;
            waiting.requests - 1
        });
        let reply = request.into_owned();
        if number.is_multiple_of(3) {
            return Reply::Ready(reply);
        }
        self.shared.with(|waiting| waiting.unreleased.push_back(number));
        Reply::Pending(Answer { number, reply: Some(reply), shared: self.shared.clone() })
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    number: usize,
    reply: Option<Message<'static>>,
    shared: Arc<Lock<Waiting>>,
}

impl Future for Answer {
    type Output = Message<'static>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Message<'static>> {
        let number = self.number;
        let released = self.shared.with(|waiting| {
            let released = waiting.released.contains(&number);
            if !released {
                waiting.wakers.push(cx.waker().clone());
            }
            released
        });
        if released {
            Poll::Ready(self.reply.take().expect("it is not polled after it has returned"))
        } else {
            Poll::Pending
        }
    }
}

/// Streams contents, and answers with the number of bytes received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counting {
    bytes: u64,
}

impl Service for Counting {
    type Pending = std::future::Ready<Message<'static>>;

    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending> {
        assert!(request.content.is_empty(), "the content was not streamed");
        let bytes = std::mem::take(&mut self.bytes);
        Reply::Ready(Message::new("n", "", bytes.to_string()))
    }

    fn delivery(&mut self, _header: &Header<'_>) -> Delivery {
        assert_eq!(self.bytes, 0, "the last content has not ended");
        Delivery::Stream { max_content: 400 }
    }

    fn chunk(&mut self, chunk: &[u8]) {
        assert!(!chunk.is_empty(), "an empty chunk");
        self.bytes += chunk.len() as u64;
    }
}
