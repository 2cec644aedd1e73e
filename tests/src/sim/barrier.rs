//! A barrier between tasks.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use wirestate_core::shared::Lock;

/// A barrier between tasks of a world: each waits until all have reached it. Clones are the same
/// barrier. It can be used again once all have passed.
///
/// For scripted peers it is [`Act::Barrier`](super::Act::Barrier):
///
/// ```
/// use wirestate_core::runtime::{Listener as _, Runtime as _};
/// use wirestate_testkit::sim::{Act, Barrier, World, act};
///
/// let world = World::new(1);
/// let (server, client) = (world.host("server"), world.host("client"));
/// let mut listener = server.listen("server:7")?;
/// let barrier = Barrier::new(2);
///
/// // The server sends no byte before the client has sent all of its own.
/// let acts = vec![Act::Barrier(barrier.clone()), Act::Send("bye\n".into())];
/// let runtime = server.clone();
/// server.run(async move {
///     let (socket, _) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
///     act(runtime, socket, acts).await
/// });
/// let acts = vec![Act::Send("hello\n".into()), Act::Barrier(barrier), Act::ReceiveLines(1)];
/// let runtime = client.clone();
/// let received = client.run(async move {
///     let socket = runtime.connect("server:7").await.unwrap();
///     act(runtime, socket, acts).await
/// });
/// assert_eq!(world.run_until(&received)?.bytes, b"bye\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Barrier {
    state: Arc<Lock<State>>,
}

#[derive(Debug)]
struct State {
    count: usize,
    /// How many have reached it since it was last passed.
    arrived: usize,
    /// How often it was passed.
    passed: u64,
    wakers: Vec<Waker>,
}

impl Barrier {
    /// A barrier between `count` tasks.
    ///
    /// # Panics
    /// If `count` is 0.
    #[track_caller]
    pub fn new(count: usize) -> Self {
        assert!(count > 0, "a barrier needs at least one task");
        let state = State { count, arrived: 0, passed: 0, wakers: Vec::new() };
        Self { state: Arc::new(Lock::new(state)) }
    }

    /// Waits until all tasks have reached the barrier.
    pub async fn wait(&self) {
        let before = self.arrive();
        poll_fn(|cx| self.poll_passed(before, cx)).await;
    }

    /// Reaches the barrier without waiting, and returns how often it was passed before.
    pub(super) fn arrive(&self) -> u64 {
        let (before, wakers) = self.state.with(|state| {
            let before = state.passed;
            state.arrived += 1;
            if state.arrived < state.count {
                return (before, Vec::new());
            }
            state.arrived = 0;
            state.passed += 1;
            (before, std::mem::take(&mut state.wakers))
        });
        wakers.into_iter().for_each(Waker::wake);
        before
    }

    fn poll_passed(&self, before: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.state.with(|state| {
            if state.passed > before {
                return Poll::Ready(());
            }
            if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// Clones of one barrier are equal.
impl PartialEq for Barrier {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }
}

impl Eq for Barrier {}
