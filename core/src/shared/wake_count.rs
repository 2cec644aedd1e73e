//! Wakers for tests.

use alloc::{sync::Arc, task::Wake};
use core::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::Waker,
};

/// Counts how often its waker is woken.
#[derive(Debug, Default)]
pub(crate) struct WakeCount(AtomicUsize);

impl WakeCount {
    /// A count of zero, and its waker.
    pub(crate) fn new() -> (Arc<Self>, Waker) {
        let count = Arc::new(Self::default());
        (count.clone(), count.into())
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for WakeCount {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Polls until the result is ready, and sleeps in between until woken.
///
/// # Panics
/// It is not woken within 10 s.
#[cfg(feature = "std")]
pub(crate) fn block_on<R>(
    mut poll: impl FnMut(&mut core::task::Context<'_>) -> core::task::Poll<R>,
) -> R {
    use std::sync::mpsc::{SyncSender, sync_channel};

    struct Signal(SyncSender<()>);
    impl Wake for Signal {
        fn wake(self: Arc<Self>) {
            let _ = self.0.try_send(()); // it fails if a signal is pending
        }
    }
    let (sender, receiver) = sync_channel(1);
    let waker = Waker::from(Arc::new(Signal(sender)));
    loop {
        if let core::task::Poll::Ready(result) = poll(&mut core::task::Context::from_waker(&waker))
        {
            return result;
        }
        receiver.recv_timeout(core::time::Duration::from_secs(10)).expect("a wake-up is lost");
    }
}
