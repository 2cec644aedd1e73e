//! Finds a test that shows what a recording shows.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};

use bytes::Bytes;

use super::{
    Difference, DifferenceKind, Ended, Recording, Replay, Stop, What,
    script::{self, Call, Facts, Op, SideOp, Single, Subject, Translation},
    shrunk_test::{Shows, ShrunkTest},
};
use crate::{
    Machine, Outbound,
    proxy::{Relay, RelayCall},
};

/// Why a recording has no test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShrinkError {
    /// It has no payloads.
    #[error("the recording has no payloads, so a test would have no input")]
    NoPayloads,
    /// It is of a relay, so [`shrink_relay`] makes its test.
    #[error("the session is of a relay, which has two sides, and not of one machine")]
    OfRelay,
    /// A call of the relay cannot be read, or has a reason that is not known.
    #[error("there is no test of this session of a proxy: {0}")]
    Relay(&'static str),
    /// A method beyond the contract was called.
    #[error(
        "a method of the machine beyond the contract was called, and a script has no op for that"
    )]
    Call,
    /// The session depends on what comes from outside the machine.
    #[error(
        "the session depends on other machines or on a service (messages and capacity of a feed, \
         replies that came later), and a script has only what happens to one machine"
    )]
    Outside,
    /// The recording is cut, and there is no difference before.
    #[error(
        "the recording is cut before the machine has ended, and the replay is the same up to the \
         cut, so there is nothing to show"
    )]
    Cut,
    /// The recording has stopped, and there is no difference before.
    #[error(
        "the recording stops before the machine has ended ({0}), and the replay is the same up to \
         where it stops, so there is nothing to show"
    )]
    Stopped(Stop),
    /// The machine has not ended.
    #[error("the replay is the same and the machine has not ended, so there is nothing to show")]
    NothingToShow,
    /// A script of the session does not lead to the recorded end or difference.
    #[error("a script of the session does not lead to the recorded end or difference")]
    NotReproduced,
}

/// Makes a test for the testkit that shows what the `replay` of `recording` shows: a panic, or else
/// a difference, or else the end. `machine` makes the machine of the test, at
/// [`Instant::EPOCH`](crate::Instant::EPOCH).
///
/// The test of an end passes with that machine, and the test of a panic fails. Both are the
/// smallest ones that were found: after the session, it plays at most 20,000 scripts. The sum of
/// their ops and bytes of input is at most 50 million.
///
/// The test of a difference passes with the machine that was recorded, and fails with the one from
/// `machine`. Only the recording knows what the recorded machine does, so the test has all that
/// happened up to the difference.
///
/// # Errors
/// There is no such test.
pub fn shrink<M: Machine>(
    recording: &Recording<'_>,
    replay: Replay,
    machine: impl Fn() -> M,
) -> Result<ShrunkTest, ShrinkError> {
    if recording.steps().any(|step| step.side != 0) {
        return Err(ShrinkError::OfRelay);
    }
    shrink_subject(recording, replay, || Single(machine()))
}

/// As [`shrink`], for the recording of a relay ([`Relay::record`]). `make` makes one without an
/// upstream.
///
/// # Errors
/// There is no such test.
pub fn shrink_relay(
    recording: &Recording<'_>,
    replay: Replay,
    make: impl Fn() -> Relay,
) -> Result<ShrunkTest, ShrinkError> {
    let header = recording.steps().find_map(|step| {
        let What::Note(note) = step.what else { return None };
        let Some(RelayCall::Header(header)) = RelayCall::decode(note) else { return None };
        Some(header.to_vec())
    });
    let header = header.unwrap_or_default();
    let with_header = || {
        let mut subject = make();
        subject.send_proxy_header(header.clone());
        subject
    };
    let test = shrink_subject(recording, replay, with_header)?;
    Ok(ShrunkTest { header: Some(header), ..test })
}

fn shrink_subject<S: Subject>(
    recording: &Recording<'_>,
    replay: Replay,
    subject: impl Fn() -> S,
) -> Result<ShrunkTest, ShrinkError> {
    let panic = match replay.difference {
        None => replay.panic,
        Some(Difference { kind: DifferenceKind::Panicked(message), .. }) => Some(message),
        Some(difference) => return test_of_difference(recording, &difference, subject()),
    };
    let (mut translation, mut ops) = (Translation::new::<S>(recording), Vec::new());
    for step in recording.steps() {
        translation.add(&step, &mut ops)?;
    }
    let played = script::play(subject(), &ops);
    let shows = match (panic, replay.reason) {
        (Some(message), _) => Shows::Panic(message),
        (None, Some((label, _))) => {
            let endings = played.facts.as_ref().map(Facts::endings).unwrap_or_default();
            Shows::End { label, endings }
        }
        (None, None) => return Err(without_end(recording)),
    };
    if !shows.is_shown_by(&played.facts) {
        return Err(not_reproduced(recording));
    }
    let mut shrinking = Shrinking {
        shows: |ops: &[SideOp]| {
            let shorter = script::play(subject(), ops);
            let is_real = played.has_invented_bytes || !shorter.has_invented_bytes;
            is_real && shows.is_shown_by(&shorter.facts)
        },
        plays: MAX_PLAYS,
        size: MAX_SIZE,
        has_improved: false,
    };
    shrinking.shrink(&mut ops);
    Ok(ShrunkTest { ops, shows, header: None })
}

/// Why there is nothing to show although the replay is the same.
fn without_end(recording: &Recording<'_>) -> ShrinkError {
    match (recording.stop(), recording.end()) {
        (Some(stop), _) => ShrinkError::Stopped(stop),
        (None, None) => ShrinkError::Cut,
        (None, Some(_)) => ShrinkError::NothingToShow,
    }
}

fn not_reproduced(recording: &Recording<'_>) -> ShrinkError {
    let has_outside = recording.steps().any(|step| !step.outside.is_empty());
    if has_outside { ShrinkError::Outside } else { ShrinkError::NotReproduced }
}

/// Plays the steps to `subject`, until it differs from the recorded one in what a test can see.
fn test_of_difference<S: Subject>(
    recording: &Recording<'_>,
    difference: &Difference,
    subject: S,
) -> Result<ShrunkTest, ShrinkError> {
    let end = recording.end().filter(|_| recording.stop().is_none());
    let last = recording.steps().count() - 1;
    let has_more_output =
        matches!(difference.kind, DifferenceKind::Finish { wanted: Outbound::Flush, .. });
    let (mut translation, mut recorded) = (Translation::new::<S>(recording), Facts::new::<S>());
    let mut ops = Vec::new();
    script::with_player(subject, |player| {
        for (index, step) in recording.steps().enumerate() {
            let begin = ops.len();
            translation.add(&step, &mut ops)?;
            if !step.outside.is_empty() {
                return Err(ShrinkError::Outside);
            }
            let is_different = step.offset >= difference.offset;
            let differs_here = step.offset == difference.offset;
            if differs_here && has_more_output && matches!(step.what, What::Finished { .. }) {
                // The recorded machine has no output here, so it skips the op.
                ops.insert(ops.len() - 1, (step.side, Op::Accept(usize::MAX)));
            }
            recorded.add(&step);
            let ended = end.filter(|_| index == last);
            if let Some(Ended::Reason(_)) = ended.map(|end| end.ended) {
                recorded.end = ended.map(|end| (true, Some(end.label.to_string())));
            }
            let played = player.play(&ops[begin..]);
            let actual = played.and_then(|()| player.facts(recorded.end.is_some()));
            let panics_here = ended.is_some_and(|end| end.ended == Ended::Panicked);
            let is_same =
                if panics_here { actual.is_err() } else { actual.as_ref() == Ok(&recorded) };
            if is_same {
                continue;
            }
            // The script is not what was recorded if it differs before.
            if !is_different {
                break;
            }
            let recorded = (!panics_here).then_some(recorded);
            let shows = Shows::Difference { recorded, actual, outputs: player.outputs() };
            return Ok(ShrunkTest { ops, shows, header: None });
        }
        Err(ShrinkError::NotReproduced)
    })
}

impl Shows {
    /// Whether a script that was `played` shows it.
    fn is_shown_by(&self, played: &Result<Facts, String>) -> bool {
        match (self, played) {
            (Self::Panic(message), Err(panic)) => panic == message,
            (Self::End { label, endings }, Ok(facts)) => {
                let end = facts.end.as_ref().map(|(is_done, label)| (*is_done, label.as_deref()));
                facts.endings() == *endings && end == Some((true, Some(label)))
            }
            (Self::Panic(_) | Self::End { .. } | Self::Difference { .. }, _) => false,
        }
    }
}

struct Shrinking<F> {
    shows: F,
    /// How many more scripts may be played.
    plays: usize,
    /// How many ops and bytes of input they may have together.
    size: usize,
    /// Whether a script was found that reads better.
    has_improved: bool,
}

impl<F: FnMut(&[SideOp]) -> bool> Shrinking<F> {
    fn shrink(&mut self, ops: &mut Vec<SideOp>) {
        loop {
            self.has_improved = false;
            self.join(ops);
            self.remove(ops);
            for index in 0..ops.len() {
                for simpler in simpler(&ops[index].1) {
                    self.try_instead(ops, index, simpler);
                }
                self.shorten(ops, index);
                if self.plays == 0 {
                    return;
                }
            }
            if !self.has_improved {
                return;
            }
        }
    }

    /// Tries what `change`, which adds nothing, makes of `ops`. Returns whether it shows the same.
    fn try_change(&mut self, ops: &mut Vec<SideOp>, change: impl FnOnce(&mut Vec<SideOp>)) -> bool {
        if self.plays == 0 {
            return false;
        }
        let size = ops.iter().map(|(_, op)| 1 + input(op).len()).sum();
        let Some(rest) = self.size.checked_sub(size) else {
            self.plays = 0;
            return false;
        };
        self.size = rest;
        self.plays -= 1;
        let mut candidate = ops.clone();
        change(&mut candidate);
        let is_shown = (self.shows)(&candidate);
        if is_shown {
            *ops = candidate;
            self.has_improved = true;
        }
        is_shown
    }

    fn try_instead(&mut self, ops: &mut Vec<SideOp>, index: usize, op: Op) -> bool {
        self.try_change(ops, |candidate| candidate[index].1 = op)
    }

    /// Joins input that was received in pieces.
    fn join(&mut self, ops: &mut Vec<SideOp>) {
        let mut index = 1;
        while index < ops.len() && self.plays > 0 {
            if let [(side, Op::Receive(first)), (other, Op::Receive(second))] =
                &ops[index - 1..=index]
                && side == other
            {
                let joined = Bytes::from([&first[..], second].concat());
                let is_shown = self.try_change(ops, |candidate| {
                    candidate.remove(index);
                    candidate[index - 1].1 = Op::Receive(joined);
                });
                if is_shown {
                    continue;
                }
            }
            index += 1;
        }
    }

    /// Removes ops: halves, quarters, and so on.
    fn remove(&mut self, ops: &mut Vec<SideOp>) {
        let mut len = ops.len();
        while len > 0 {
            let mut at = 0;
            while at < ops.len() && self.plays > 0 {
                let end = ops.len().min(at + len);
                let is_shown = self.try_change(ops, |candidate| {
                    candidate.drain(at..end);
                });
                if !is_shown {
                    at += len;
                }
            }
            len /= 2;
        }
    }

    /// Shortens the input in the op `index`, as [`remove`](Self::remove), and makes it plain.
    fn shorten(&mut self, ops: &mut Vec<SideOp>, index: usize) {
        let mut len = input(&ops[index].1).len();
        while len > 0 {
            let mut at = 0;
            while at < input(&ops[index].1).len() && self.plays > 0 {
                let bytes = input(&ops[index].1);
                let shorter = [&bytes[..at], &bytes[bytes.len().min(at + len)..]].concat();
                if !self.try_instead(ops, index, Op::Receive(shorter.into())) {
                    at += len;
                }
            }
            len /= 2;
        }
        let bytes = input(&ops[index].1);
        if bytes.iter().any(|byte| *byte != b'a') {
            let plain = alloc::vec![b'a'; bytes.len()];
            self.try_instead(ops, index, Op::Receive(plain.into()));
        }
    }
}

/// The input that is received in `op`.
fn input(op: &Op) -> &[u8] {
    match op {
        Op::Receive(bytes) => bytes,
        Op::Eof
        | Op::Error(..)
        | Op::Accept(_)
        | Op::Unacknowledged(_)
        | Op::Finished
        | Op::Advance(_)
        | Op::Timeout
        | Op::SpuriousTimeout
        | Op::ShutDown
        | Op::Call(_) => &[],
    }
}

/// Ops that read better in place of `op`.
fn simpler(op: &Op) -> Vec<Op> {
    match op {
        Op::SpuriousTimeout => alloc::vec![Op::Timeout],
        Op::Accept(n) if *n != usize::MAX => alloc::vec![Op::Accept(usize::MAX)],
        Op::Call(Call::Connected { has_another: true }) => {
            alloc::vec![Op::Call(Call::Connected { has_another: false })]
        }
        Op::Unacknowledged(n) if *n != 1 => alloc::vec![Op::Unacknowledged(1)],
        Op::Advance(time) if time.subsec_nanos() > 0 => {
            let seconds = core::time::Duration::from_secs(time.as_secs() + 1);
            alloc::vec![Op::Advance(seconds)]
        }
        Op::Receive(_)
        | Op::Eof
        | Op::Error(..)
        | Op::Accept(_)
        | Op::Unacknowledged(_)
        | Op::Finished
        | Op::Advance(_)
        | Op::Timeout
        | Op::ShutDown
        | Op::Call(_) => Vec::new(),
    }
}

/// The most scripts that are played.
const MAX_PLAYS: usize = 20_000;
/// The most ops and bytes of input of all scripts together.
const MAX_SIZE: usize = 50_000_000;
