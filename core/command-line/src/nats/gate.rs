//! The gate of a source: it is read only while this server has the lease of the stream.

use core::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

use wirestate_core::{
    fanout::nats::LeaseWatch,
    shutdown::{Shutdown, ShutdownHandle},
};

/// A gate, open while this server has the lease of the stream.
///
/// A source serves one client, and a server that waits for the lease must not take its place.
pub(crate) struct Gate {
    /// Whether the lease is held. The context is woken when that changes.
    poll_lease: Box<dyn FnMut(&mut Context<'_>) -> bool + Send>,
}

impl Gate {
    /// The gate of the lease that `watch` observes.
    pub(crate) fn new(watch: LeaseWatch) -> Self {
        Self::when(move |cx| watch.poll(cx))
    }

    fn when(poll_lease: impl FnMut(&mut Context<'_>) -> bool + Send + 'static) -> Self {
        Self { poll_lease: Box::new(poll_lease) }
    }

    /// Runs the `source` that is made for each time that the gate is open, until it ends by itself
    /// or `shutdown` is requested. It is made with a handle that drains it when the gate closes.
    pub(crate) async fn run<F: Future<Output = ()>>(
        &mut self,
        shutdown: &ShutdownHandle,
        mut source: impl FnMut(ShutdownHandle) -> F,
    ) {
        loop {
            let lease =
                poll_fn(|cx| if (self.poll_lease)(cx) { Poll::Ready(()) } else { Poll::Pending });
            if shutdown.unless_requested(lease).await.is_none() {
                return;
            }
            let own = ShutdownHandle::new();
            let mut running = pin!(source(own.clone()));
            poll_fn(|cx| {
                let is_open = (self.poll_lease)(cx);
                match shutdown.poll_requested(cx) {
                    Shutdown::None | Shutdown::SoftStop if is_open => {}
                    Shutdown::None | Shutdown::SoftStop | Shutdown::Drain => own.drain(),
                    Shutdown::Immediate => own.abort(),
                }
                running.as_mut().poll(cx)
            })
            .await;
            if own.requested() == Shutdown::None || shutdown.requested() >= Shutdown::Drain {
                return;
            }
        }
    }

    /// Runs a source that cannot be made again, such as standard input. It makes no progress while
    /// the gate is closed, except after a request to `shutdown`.
    pub(crate) async fn pause<F: Future<Output = ()>>(
        &mut self,
        shutdown: &ShutdownHandle,
        source: F,
    ) {
        let mut source = pin!(source);
        poll_fn(|cx| {
            let is_requested = shutdown.poll_requested(cx) >= Shutdown::Drain;
            let is_open = (self.poll_lease)(cx);
            if is_open || is_requested { source.as_mut().poll(cx) } else { Poll::Pending }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use core::task::Waker;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    /// Counts the sources that run, and those that were made.
    #[derive(Default)]
    struct Sources {
        running: AtomicUsize,
        made: AtomicUsize,
    }

    impl Sources {
        fn source(self: &Arc<Self>, shutdown: ShutdownHandle) -> impl Future<Output = ()> + use<> {
            let sources = self.clone();
            sources.made.fetch_add(1, Relaxed);
            async move {
                sources.running.fetch_add(1, Relaxed);
                shutdown.unless_requested(core::future::pending::<()>()).await;
                sources.running.fetch_sub(1, Relaxed);
            }
        }

        fn counts(&self) -> (usize, usize) {
            (self.running.load(Relaxed), self.made.load(Relaxed))
        }
    }

    fn gate(lease: &Arc<AtomicBool>) -> Gate {
        let lease = lease.clone();
        Gate::when(move |_| lease.load(Relaxed))
    }

    #[test]
    fn a_source_runs_while_the_lease_is_held_and_ends_with_it() {
        let (lease, sources) = (Arc::new(AtomicBool::new(false)), Arc::new(Sources::default()));
        let shutdown = ShutdownHandle::new();
        let mut gate = gate(&lease);
        let mut running = pin!(gate.run(&shutdown, |shutdown| sources.source(shutdown)));
        let mut poll = || running.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        for (is_held, expected) in
            [(false, (0, 0)), (true, (1, 1)), (true, (1, 1)), (false, (0, 1)), (true, (1, 2))]
        {
            lease.store(is_held, Relaxed);
            assert!(poll().is_pending());
            assert_eq!(sources.counts(), expected);
        }
        shutdown.drain();
        assert!(poll().is_ready());
        assert_eq!(sources.counts(), (0, 2));
    }

    #[test]
    fn a_standby_ends_at_once_and_standard_input_waits_for_the_lease() {
        let (lease, shutdown) = (Arc::new(AtomicBool::new(false)), ShutdownHandle::new());
        let (mut one, mut two) = (gate(&lease), gate(&lease));
        let polls = AtomicUsize::new(0);
        let source = poll_fn(|_| {
            polls.fetch_add(1, Relaxed);
            if shutdown.requested() == Shutdown::None { Poll::Pending } else { Poll::Ready(()) }
        });
        let mut standby = pin!(one.run(&shutdown, |_| async { panic!("it has no lease") }));
        let mut paused = pin!(two.pause(&shutdown, source));
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || {
            let ready = [standby.as_mut().poll(&mut cx), paused.as_mut().poll(&mut cx)];
            ready.map(|poll| poll.is_ready())
        };
        assert_eq!((poll(), polls.load(Relaxed)), ([false; 2], 0));
        shutdown.drain();
        assert_eq!((poll(), polls.load(Relaxed)), ([true; 2], 1));
    }
}
