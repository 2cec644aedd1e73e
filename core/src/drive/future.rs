//! A machine on a socket, as a future.

use core::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use super::{Clock, Ended, Seat, Sink, Source, timer::Timer};
use crate::{Event, Instant, Machine, admission::Admitted};

/// Drives a machine on a socket until the machine has ended: a [`Seat`] with a clock.
///
/// As a [`Future`] it returns why the machine ended. [`until`](Self::until) drives only until a
/// closure returns a value, and can be called again: use it for a client, or to take events from a
/// server's machine.
///
/// If it is dropped before the machine has ended, it closes the socket. If output is pending, it
/// resets the connection, so that the peer notices that output is missing.
///
/// ```no_run
/// # use wirestate_core::{drive::{Clock, Drive, Sink, Source}, echo, Machine};
/// # async fn example<S: Source + Sink + Unpin, C: Clock + Unpin>(socket: S, clock: C) {
/// let server = echo::Server::default();
/// let machine = server.machine(clock.now());
/// println!("{}", Drive::new(machine, socket, clock).await);
/// # }
/// ```
#[derive(Debug)]
pub struct Drive<M: Machine, S: Source + Sink, C: Clock> {
    seat: Seat<M, S>,
    timer: Timer<C>,
}

impl<M: Machine, S: Source + Sink, C: Clock> Drive<M, S, C> {
    /// Joins a machine, a socket and a clock.
    pub fn new(machine: M, socket: S, clock: C) -> Self {
        Seat::new(machine, socket).with_clock(clock)
    }

    /// As [`Seat::admitted`].
    pub fn admitted(self, admitted: Admitted) -> Self {
        Self { seat: self.seat.admitted(admitted), ..self }
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        self.seat.machine()
    }

    /// Drives the machine until `wanted` returns a value. `wanted` is called at the start and after
    /// every turn, and may change the machine: queue a request, take a reply.
    ///
    /// # Errors
    /// The machine ended or was aborted before.
    pub fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Poll<Result<T, Ended<M::Reason>>> {
        let Self { seat, timer } = self;
        timer.run(cx, |now, cx, was_woken| seat.take_turns(now, cx, was_woken, &mut wanted))
    }

    /// [`poll_until`](Self::poll_until) as a future.
    ///
    /// # Errors
    /// The machine ended or was aborted before.
    pub async fn until<T>(
        &mut self,
        mut wanted: impl FnMut(&mut M, Instant) -> Option<T>,
    ) -> Result<T, Ended<M::Reason>> {
        poll_fn(|cx| self.poll_until(cx, &mut wanted)).await
    }

    /// As [`Seat::hand_over`].
    pub fn hand_over(self) -> Option<Admitted> {
        self.seat.hand_over()
    }

    /// Requests a graceful end of the machine, and drives it until it has ended.
    pub async fn shut_down(&mut self) -> Ended<M::Reason> {
        let shut_down = |machine: &mut M, now| {
            machine.handle(now, Event::ShutDown);
            None::<Infallible>
        };
        let Err(ended) = self.until(shut_down).await;
        ended
    }
}

impl<M: Machine, S: Source + Sink> Seat<M, S> {
    /// Adds a clock, which makes a future for an async runtime.
    pub fn with_clock<C: Clock>(self, clock: C) -> Drive<M, S, C> {
        Drive { seat: self, timer: Timer::new(clock) }
    }
}

impl<M, S, C> Future for Drive<M, S, C>
where
    M: Machine + Unpin,
    S: Source + Sink + Unpin,
    C: Clock + Unpin,
{
    type Output = Ended<M::Reason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let never = |_: &mut M, _| None::<Infallible>;
        self.get_mut().poll_until(cx, never).map(|Err(ended)| ended)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use alloc::rc::Rc;
    use core::{
        cell::Cell,
        num::{NonZeroU64, NonZeroUsize},
        task::Waker,
        time::Duration,
    };

    use super::*;
    use crate::{
        admission::{ByteRates, ConnectionTable, Limits, Peer, Rates, TableConfig},
        drive::{Budget, IoError},
        echo, fanout,
    };

    /// A socket without readiness events: only the first read after `recheck` finds its input.
    #[derive(Default)]
    struct Mute {
        /// The first read shuts this table down. The input arrives after that read.
        table: Option<ConnectionTable>,
        input: &'static [u8],
        /// Whether the input arrives again and again.
        endless: bool,
        rechecked: bool,
        accepts_writes: bool,
        written: usize,
    }

    impl Source for Mute {
        fn poll_read(
            &mut self,
            _cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<Result<usize, IoError>> {
            if let Some(table) = self.table.take() {
                table.shut_down();
            }
            if !core::mem::take(&mut self.rechecked) || self.input.is_empty() {
                return Poll::Pending;
            }
            let n = self.input.len();
            buf[..n].copy_from_slice(self.input);
            if !self.endless {
                self.input = b"";
            }
            Poll::Ready(Ok(n))
        }

        fn recheck(&mut self) {
            self.rechecked = true;
        }
    }

    impl Sink for Mute {
        fn poll_write(
            &mut self,
            _cx: &mut Context<'_>,
            bufs: &[&[u8]],
        ) -> Poll<Result<usize, IoError>> {
            if !self.accepts_writes {
                return Poll::Pending;
            }
            self.written += bufs[0].len();
            Poll::Ready(Ok(bufs[0].len()))
        }

        fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
            Poll::Ready(Ok(()))
        }

        fn reset(&mut self) {}
    }

    /// A clock that advances by `step` with each reading.
    #[derive(Clone)]
    struct Steps {
        now: Rc<Cell<Instant>>,
        step: Duration,
        yields: Rc<Cell<u64>>,
    }

    impl Clock for Steps {
        fn now(&self) -> Instant {
            let now = self.now.get();
            self.now.set(now + self.step);
            now
        }

        fn poll_until(&mut self, _cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
            if self.now.get() >= deadline { Poll::Ready(()) } else { Poll::Pending }
        }

        fn yield_now(&mut self, _cx: &mut Context<'_>) {
            self.yields.set(self.yields.get() + 1);
        }
    }

    fn clock(step: Duration) -> Steps {
        let now = Rc::new(Cell::new(Instant::EPOCH));
        Steps { now, step, yields: Rc::default() }
    }

    fn poll<M: Machine>(
        drive: &mut Drive<M, Mute, Steps>,
    ) -> Poll<Result<Infallible, Ended<M::Reason>>> {
        drive.poll_until(&mut Context::from_waker(Waker::noop()), |_, _| None)
    }

    #[test]
    fn the_socket_is_read_once_more_after_a_shutdown_was_requested() {
        let table = ConnectionTable::new(Limits::default());
        let admitted = table.admit(Peer::Local, Instant::EPOCH).unwrap();
        let machine = echo::Server::default().machine(Instant::EPOCH);
        let socket =
            Mute { table: Some(table), input: b"hello", accepts_writes: true, ..Mute::default() };
        let mut drive = Drive::new(machine, socket, clock(Duration::ZERO)).admitted(admitted);
        assert!(poll(&mut drive).is_pending());
        assert_eq!(drive.seat.socket().written, 5);
    }

    #[test]
    fn the_socket_is_read_once_more_before_a_deadline_is_handled() {
        let config = echo::Config::default();
        let idle_timeout = config.idle_timeout.unwrap();
        let machine = echo::Server::default().machine(Instant::EPOCH);
        let socket = Mute { input: b"hello", accepts_writes: true, ..Mute::default() };
        let clock = clock(Duration::ZERO);
        let mut drive = Drive::new(machine, socket, clock.clone());
        assert!(poll(&mut drive).is_pending());
        for (passed, written) in [(idle_timeout, 5), (idle_timeout * 3 / 2, 5)] {
            clock.now.set(Instant::EPOCH + passed);
            assert!(poll(&mut drive).is_pending());
            assert_eq!(drive.seat.socket().written, written);
        }
        clock.now.set(Instant::EPOCH + idle_timeout * 2);
        let reason = echo::EchoReason::IdleTimeout { limit: idle_timeout, unsent: 0 };
        assert_eq!(poll(&mut drive), Poll::Ready(Err(Ended::Reason(reason))));
    }

    #[test]
    fn a_peer_whose_input_never_ends_does_not_escape_its_deadline() {
        let feed = fanout::Feed::new(
            fanout::Config::default().with_framing(fanout::Framing::Fixed(NonZeroUsize::MIN)),
        )
        .unwrap();
        let machine = fanout::Subscriber::new(&feed, Instant::EPOCH);
        feed.publish("m".into(), 1, Instant::EPOCH);
        let socket = Mute { input: b"x", endless: true, ..Mute::default() };
        let mut drive = Drive::new(machine, socket, clock(Duration::from_millis(20)));
        let ended = (0..1000).any(|_| poll(&mut drive).is_ready());
        assert!(ended, "the subscriber acknowledged no byte for 10 s");
    }

    #[test]
    fn a_peer_whose_input_waits_for_a_rate_does_not_escape_its_deadline() {
        let rate = ByteRates::default().with_per_connection(NonZeroU64::new(100));
        let config =
            TableConfig { rates: Rates::default().with_receive(rate), ..TableConfig::default() };
        let table = ConnectionTable::with(None, config);
        let admitted = table.admit(Peer::Local, Instant::EPOCH).unwrap();
        let feed = fanout::Feed::new(
            fanout::Config::default().with_framing(fanout::Framing::Fixed(NonZeroUsize::MIN)),
        )
        .unwrap();
        let machine = fanout::Subscriber::new(&feed, Instant::EPOCH);
        feed.publish("m".into(), 1, Instant::EPOCH);
        let socket = Mute { input: b"x", endless: true, ..Mute::default() };
        let clock = clock(Duration::from_millis(1));
        let mut drive = Drive::new(machine, socket, clock.clone()).admitted(admitted);
        while poll(&mut drive).is_pending() {
            let now = clock.now.get();
            assert!(now < Instant::EPOCH + Duration::from_secs(15), "the deadline is 10 s");
        }
    }

    #[test]
    fn a_poll_ends_although_a_deadline_passes_again_and_again() {
        let config = fanout::MessageSourceConfig::default().with_rate(500_000);
        let machine = fanout::MessageSource::new(config, Instant::EPOCH).unwrap();
        let socket = Mute { accepts_writes: true, ..Mute::default() };
        let clock = clock(Duration::from_micros(10));
        let mut drive = Drive::new(machine, socket, clock.clone());
        assert!(poll(&mut drive).is_pending());
        assert_eq!(clock.yields.get(), 1, "it yields to other tasks");
    }

    #[cfg(feature = "message")]
    mod flood {
        use alloc::vec::Vec;

        use super::*;
        use crate::message::{Message, Server, service};

        /// A socket that repeats these bytes as its input forever, and accepts all output.
        struct Flood(Vec<u8>);

        impl Source for Flood {
            fn poll_read(
                &mut self,
                _cx: &mut Context<'_>,
                buf: &mut [u8],
            ) -> Poll<Result<usize, IoError>> {
                let n = buf.len().min(self.0.len());
                buf[..n].copy_from_slice(&self.0[..n]);
                self.0.rotate_left(n);
                Poll::Ready(Ok(n))
            }
        }

        impl Sink for Flood {
            fn poll_write(
                &mut self,
                _cx: &mut Context<'_>,
                bufs: &[&[u8]],
            ) -> Poll<Result<usize, IoError>> {
                Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
            }

            fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
                Poll::Ready(Ok(()))
            }

            fn reset(&mut self) {}
        }

        #[test]
        fn a_poll_ends_once_its_budget_of_work_is_used_up() {
            let mut frames = Vec::new();
            Message::binary("").encode(&mut frames).unwrap();
            let flood = Flood(frames.repeat(1000));
            let echo = service::function(|request: Message<'_>| request.into_owned());
            let machine = Server::with_default_config(echo).machine(Instant::EPOCH);
            let clock = clock(Duration::ZERO);
            let mut drive = Drive::new(machine, flood, clock.clone());
            let work = u64::from(Budget::default().work);
            let mut before = 0;
            for polls in 1..100 {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(drive.poll_until(&mut cx, |_, _| None::<()>).is_pending());
                assert_eq!(clock.yields.get(), polls, "it yields to other tasks");
                let done = drive.machine().work() - before;
                before += done;
                assert!((work..2 * work).contains(&done), "{done} in poll {polls}");
            }
        }
    }
}
