//! A machine that has changed since the recording: the replay finds the first difference.

use core::task::Context;
use std::time::Duration;

use bytes::Bytes;
use wirestate_core::{
    Event, Instant, Interest, Machine, Status, echo,
    record::{DifferenceKind, Recordable, Recording, Step, What},
};
use wirestate_testkit::script::{self, Op};

use crate::{recorded, replay};

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// The seventh byte of the output is another one.
    Changes,
    /// A FIN counts as nothing.
    ForgetsEof,
    /// It stops reading after four bytes.
    StopsReading,
    /// It panics on a `!`.
    Panics,
}

/// An echo with a bug.
#[derive(Debug)]
pub(crate) struct Buggy {
    inner: echo::Connection,
    bug: Bug,
    received: usize,
}

impl Buggy {
    pub(crate) fn new(bug: Bug) -> Self {
        Self { inner: echo::Server::default().machine(Instant::EPOCH), bug, received: 0 }
    }
}

impl Recordable for Buggy {}

impl Machine for Buggy {
    type Reason = echo::EchoReason;

    fn interest(&self) -> Interest {
        let interest = self.inner.interest();
        let stops = self.bug == Bug::StopsReading && self.received >= 4;
        Interest { read: interest.read && !stops, ..interest }
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
        if let Event::Read(n) = event {
            let read = &mut self.inner.read_buf()[..n];
            assert!(self.bug != Bug::Panics || !read.contains(&b'!'), "a planted bug");
            let seventh = 6_usize.checked_sub(self.received).filter(|_| self.bug == Bug::Changes);
            if let Some(byte) = seventh.and_then(|index| read.get_mut(index)) {
                *byte = b'?';
            }
            self.received += n;
        }
        if event != Event::Eof || self.bug != Bug::ForgetsEof {
            self.inner.handle(now, event);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.inner.poll_shared(now, cx)
    }

    fn work(&self) -> u64 {
        self.inner.work()
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn reason(&self) -> Option<echo::EchoReason> {
        self.inner.reason()
    }
}

/// The recording of a session of a machine without a bug.
pub(crate) fn session() -> Vec<u8> {
    let (mut machine, blocks) = recorded(Buggy::new(Bug::None));
    let ops = [
        Op::Receive(b"four".to_vec()),
        Op::Accept(4),
        Op::Advance(Duration::from_secs(5)),
        Op::Receive(b"more!".to_vec()),
        Op::Accept(2),
        Op::Accept(3),
        Op::Eof,
        Op::Finished,
    ];
    script::play(&mut machine, &ops);
    drop(machine);
    blocks.bytes()
}

/// The step of a session.
fn step(bytes: &[u8], index: usize) -> Step<'_> {
    Recording::read(bytes).unwrap().steps().nth(index).unwrap()
}

#[test]
fn a_replay_names_the_first_event_that_differs_by_its_offset_and_time() {
    let bytes = session();
    assert_eq!(replay(&bytes, Buggy::new(Bug::None)).difference, None);
    let sent = What::Sent { len: 3, digest: 0 };
    for (bug, index, expected) in [
        (Bug::Changes, 5, "the output differs: one of the 3 bytes from byte 6 on"),
        (Bug::StopsReading, 3, "the recorded machine read, but this one wants"),
        (Bug::ForgetsEof, 7, "the recorded machine sent a FIN, but this one wants Idle"),
        (Bug::Panics, 3, "the machine panicked: a planted bug"),
    ] {
        let difference = replay(&bytes, Buggy::new(bug)).difference.unwrap();
        let step = step(&bytes, index);
        assert_eq!((difference.offset, difference.at), (step.offset, step.at), "{bug:?}");
        assert_eq!(difference.events, index as u64 - 1, "{bug:?}");
        assert!(difference.kind.to_string().starts_with(expected), "{difference}");
        let place = format!("at byte {} of the recording, at {}: ", step.offset, step.at);
        assert!(difference.to_string().starts_with(&place), "{difference}");
    }
    assert_eq!(core::mem::discriminant(&step(&bytes, 5).what), core::mem::discriminant(&sent));
}

#[test]
fn a_recorded_panic_replays_as_a_panic() {
    let (machine, blocks) = recorded(Buggy::new(Bug::Panics));
    let mut machine = machine;
    let ops = [Op::Receive(b"four".to_vec()), Op::Receive(b"!".to_vec())];
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        script::play(&mut machine, &ops);
    }));
    assert!(panic.is_err());
    drop(machine);
    let replayed = replay(&blocks.bytes(), Buggy::new(Bug::Panics));
    assert_eq!(replayed.difference, None);
    assert_eq!(replayed.panic.as_deref(), Some("a planted bug"));
    // Without the bug, the end differs.
    let difference = replay(&blocks.bytes(), Buggy::new(Bug::None)).difference.unwrap();
    assert!(matches!(difference.kind, DifferenceKind::End { .. }), "{difference}");
}
