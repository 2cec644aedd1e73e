//! A value that is promised, and given later from any thread.

use core::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::{Lock, Shared};

/// Makes a promise of a value, and the future that waits for the value.
///
/// For an answer that another connection, task or thread gives
/// ([`Replies::defer`](crate::protocol::Replies::defer)):
///
/// ```
/// use core::task::{Context, Poll, Waker};
/// use core::{future::Future, pin::pin};
/// use wirestate_core::shared::promise;
///
/// let (promise, mut promised) = promise();
/// let cx = &mut Context::from_waker(Waker::noop());
/// assert_eq!(pin!(&mut promised).poll(cx), Poll::Pending);
/// promise.fulfil("a job");
/// assert_eq!(pin!(&mut promised).poll(cx), Poll::Ready("a job"));
/// ```
pub fn promise<T>() -> (Promise<T>, Promised<T>) {
    let slot = Shared::new(Slot::default());
    (Promise { slot: slot.clone() }, Promised { slot })
}

/// The side of a [`promise`] that gives the value. If it is dropped instead, the future stays
/// pending.
#[derive(Debug)]
pub struct Promise<T> {
    slot: Shared<Slot<T>>,
}

impl<T> Promise<T> {
    /// Gives the value, and wakes the future.
    ///
    /// # Errors
    /// The future was dropped, for example because its connection has ended: the value comes back.
    pub fn fulfil(self, value: T) -> Result<(), T> {
        self.slot.fulfil(value)
    }

    /// Whether the future was dropped.
    pub fn is_abandoned(&self) -> bool {
        self.slot.is_abandoned()
    }
}

/// The future of a [`promise`]. Poll it no more once it has returned the value.
#[derive(Debug)]
pub struct Promised<T> {
    slot: Shared<Slot<T>>,
}

impl<T> Future for Promised<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.slot.poll(cx)
    }
}

impl<T> Drop for Promised<T> {
    fn drop(&mut self) {
        self.slot.abandon();
    }
}

/// A slot for a value: one side stores it, the other waits for it.
#[derive(Debug)]
struct Slot<T> {
    state: Lock<State<T>>,
}

#[derive(Debug)]
enum State<T> {
    Waiting(Option<Waker>),
    Ready(T),
    /// The future that waited was dropped, or has returned the value.
    Abandoned,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { state: Lock::new(State::Waiting(None)) }
    }
}

impl<T> Slot<T> {
    /// Stores the value and wakes the future. Returns the value if the future was dropped.
    fn fulfil(&self, value: T) -> Result<(), T> {
        let waker = self.state.with(|state| match state {
            State::Waiting(waker) => {
                let waker = waker.take();
                *state = State::Ready(value);
                Ok(waker)
            }
            State::Ready(_) | State::Abandoned => Err(value),
        })?;
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn is_abandoned(&self) -> bool {
        self.state.with(|state| matches!(state, State::Abandoned))
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<T> {
        let waker = cx.waker().clone();
        let old = self.state.with(|state| match state {
            State::Ready(_) => mem::replace(state, State::Abandoned),
            State::Waiting(_) | State::Abandoned => {
                mem::replace(state, State::Waiting(Some(waker)))
            }
        });
        match old {
            State::Ready(value) => Poll::Ready(value),
            State::Waiting(_) | State::Abandoned => Poll::Pending,
        }
    }

    /// Marks the slot as abandoned: nothing waits for the value any more.
    fn abandon(&self) {
        drop(self.state.with(|state| mem::replace(state, State::Abandoned)));
    }
}
