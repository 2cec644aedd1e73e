//! Two futures side by side.

use core::{future::Future, pin::pin, task::Poll};
use std::future::poll_fn;

/// Runs two futures side by side, and returns the output of both.
pub(super) async fn join<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let mut first = None;
    let second = poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(cx)
        {
            first = Some(output);
        }
        b.as_mut().poll(cx)
    })
    .await;
    let first = match first {
        Some(output) => output,
        None => a.await,
    };
    (first, second)
}
