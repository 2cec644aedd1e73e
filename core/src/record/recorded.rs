//! A machine around a machine, which records what happens to it.

use alloc::{boxed::Box, vec::Vec};
use core::task::Context;

use bytes::Bytes;

use super::Recorder;
use crate::{Event, Instant, Interest, Machine, Status};

/// A machine whose sessions can be recorded and replayed.
///
/// The events of a machine are all that happens to it, unless it shares state. A machine that uses
/// shared state reports what it has used, in an encoding of its own, so that a replay needs
/// neither that state nor the other machines. The defaults are for a machine that shares nothing.
pub trait Recordable: Machine {
    /// Begins a recording: from now on, the machine keeps what
    /// [`take_outside`](Self::take_outside) returns.
    fn begin_recording(&mut self) {}

    /// Appends what the machine has used from outside since the last call, apart from events.
    ///
    /// A recording has it at the start and after each event and each `poll_shared` that returned
    /// true.
    fn take_outside(&mut self, _out: &mut Vec<u8>) {}

    /// Before an event or `poll_shared` of a replay: prepares what it uses from outside, as
    /// [`take_outside`](Self::take_outside) has reported it afterwards. Before the first event, it
    /// is called for the start.
    ///
    /// # Errors
    /// `outside` is invalid, or something is missing.
    fn restore_outside(&mut self, outside: &[u8]) -> Result<(), &'static str> {
        if outside.is_empty() { Ok(()) } else { Err("the machine uses nothing from outside") }
    }
}

/// A machine that a [`Recorder`] observes, or one that is not recorded. It is the same machine to a
/// driver.
///
/// The recording ends when it is dropped.
///
/// ```
/// use wirestate_core::{
///     Event, Instant, Machine, drive, echo,
///     record::{self, BlockSink, Ended, Header, Recorded, Recorder, Recording, Stop},
/// };
/// # use std::sync::{Arc, Mutex};
///
/// #[derive(Clone, Debug, Default)]
/// struct Blocks(Arc<Mutex<Vec<u8>>>);
///
/// impl BlockSink for Blocks {
///     fn write(&mut self, block: Vec<u8>) -> Result<(), Stop> {
///         self.0.lock().unwrap().extend(block);
///         Ok(())
///     }
///     fn end(&mut self, block: Vec<u8>, _ended: Ended) {
///         self.0.lock().unwrap().extend(block);
///     }
/// }
///
/// let (now, blocks) = (Instant::EPOCH, Blocks::default());
/// let machine = || echo::Server::default().machine(now);
/// let recorder = Recorder::new(&Header::new(now), Box::new(blocks.clone()));
/// let mut recorded = Recorded::new(machine(), Some(recorder));
/// drive::deliver(&mut recorded, &mut &b"hello"[..], now);
/// drive::collect_into(&mut recorded, &mut [0; 64], now);
/// drop(recorded);
///
/// let bytes = blocks.0.lock().unwrap();
/// let recording = Recording::read(&bytes)?;
/// let replay = record::replay(&mut machine(), &recording);
/// assert_eq!((replay.difference, replay.sent), (None, [5, 0]));
/// # Ok::<(), record::ReadError>(())
/// ```
#[derive(Debug)]
pub struct Recorded<M: Recordable> {
    inner: M,
    recorder: Option<Box<Recording>>,
}

#[derive(Debug)]
struct Recording {
    recorder: Recorder,
    /// What the machine has used from outside in one call.
    outside: Vec<u8>,
}

impl<M: Recordable> Recorded<M> {
    /// Puts `inner` under observation; without a `recorder`, under none.
    pub fn new(mut inner: M, recorder: Option<Recorder>) -> Self {
        let recorder = recorder.map(|mut recorder| {
            let mut outside = Vec::new();
            inner.begin_recording();
            inner.take_outside(&mut outside);
            recorder.returned(&outside);
            Box::new(Recording { recorder, outside })
        });
        Self { inner, recorder }
    }

    /// The observed machine.
    pub fn inner(&self) -> &M {
        &self.inner
    }
}

impl Recording {
    fn returned<M: Recordable>(&mut self, machine: &mut M) {
        self.outside.clear();
        machine.take_outside(&mut self.outside);
        self.recorder.returned(&self.outside);
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl<M: Recordable> Machine for Recorded<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.inner.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.inner.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.inner.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.inner.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match &mut self.recorder {
            Some(recording) if event != Event::Release => {
                recording.recorder.event(now, 0, &mut self.inner, event);
                self.inner.handle(now, event);
                recording.returned(&mut self.inner);
            }
            Some(_) | None => self.inner.handle(now, event),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some(recording) = &mut self.recorder else { return self.inner.poll_shared(now, cx) };
        recording.recorder.polling(now);
        let has_changed = self.inner.poll_shared(now, cx);
        if has_changed {
            recording.recorder.shared(now);
            recording.returned(&mut self.inner);
        } else {
            recording.recorder.returned(&[]);
        }
        has_changed
    }

    fn work(&self) -> u64 {
        self.inner.work()
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn reason(&self) -> Option<M::Reason> {
        self.inner.reason()
    }
}

impl<M: Recordable> Drop for Recorded<M> {
    fn drop(&mut self) {
        if let Some(recording) = &mut self.recorder {
            // After a panic, the machine's state may be inconsistent.
            let has_ended = !recording.recorder.is_in_call() && self.inner.interest().is_done();
            let reason = if has_ended { self.inner.reason() } else { None };
            recording.recorder.end(reason.as_ref());
        }
    }
}
