//! A test that shows what a recording shows.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt::Write as _;

use super::{
    Difference, DifferenceKind, Ended, Recording, Replay, Stop, What,
    script::{self, Facts, Op, Translation},
};
use crate::{Machine, Outbound};

/// A test that shows the end of a recorded session, or where its replay differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShrunkTest {
    ops: Vec<Op>,
    shows: Shows,
}

/// What the test shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shows {
    /// The machine panics.
    Panic(String),
    /// The machine ends: with an RST (true), with a FIN (false), or without either.
    End { label: String, ending: Option<bool> },
    /// The recorded machine has done something else.
    Difference {
        /// What the recorded machine has done. `None`: it has panicked.
        recorded: Option<Facts>,
        /// What the machine does, or the message of its panic.
        actual: Result<Facts, String>,
        /// The output of the machine.
        output: Vec<u8>,
    },
}

/// Why a recording has no test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShrinkError {
    /// It has no payloads.
    #[error("the recording has no payloads, so a test would have no input")]
    NoPayloads,
    /// It is of a relay.
    #[error("the session is of a proxy, which has two sides, and a script has one")]
    TwoSides,
    /// The session depends on what comes from outside the machine.
    #[error(
        "the session depends on other machines or on a service (messages and capacity of a feed, \
         replies that came later), and a script has only what happens to one machine"
    )]
    Outside,
    /// The recording is cut, and there is no difference up to there.
    #[error(
        "the recording is cut before the machine has ended, and the replay is the same up to \
         there, so there is nothing to show"
    )]
    Cut,
    /// The recording has stopped, and there is no difference up to there.
    #[error(
        "the recording has stopped before the machine has ended ({0}), and the replay is the same \
         up to there, so there is nothing to show"
    )]
    Stopped(Stop),
    /// The machine has not ended.
    #[error("the replay is the same and the machine has not ended, so there is nothing to show")]
    NothingToShow,
    /// A script of the session does not show the same.
    #[error("a script of the session does not show the same")]
    NotReproduced,
}

/// Makes a test for the testkit that shows what the `replay` of `recording` shows: a panic, or else
/// a difference, or else the end. `machine` makes the machine of the test, at
/// [`Instant::EPOCH`](crate::Instant::EPOCH).
///
/// The test of an end passes with that machine, and the test of a panic fails. Both are the smallest
/// ones that were found: it plays at most 20,000 scripts with at most 10 million ops together.
///
/// The test of a difference passes with the machine that was recorded, and fails with that of
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
    let panic = match replay.difference {
        None => replay.panic,
        Some(Difference { kind: DifferenceKind::Panicked(message), .. }) => Some(message),
        Some(difference) => return test_of_difference(recording, &difference, machine()),
    };
    let (mut translation, mut ops) = (Translation::new(recording), Vec::new());
    for step in recording.steps() {
        translation.add(&step, &mut ops)?;
    }
    let played = script::play(machine(), &ops);
    let shows = match (panic, replay.reason) {
        (Some(message), _) => Shows::Panic(message),
        (None, Some((label, _))) => {
            Shows::End { label, ending: played.as_ref().ok().and_then(|facts| facts.ending) }
        }
        (None, None) => return Err(without_end(recording)),
    };
    if !shows.is_shown_by(&played) {
        return Err(not_reproduced(recording));
    }
    let mut shrinking = Shrinking {
        shows: |ops: &[Op]| shows.is_shown_by(&script::play(machine(), ops)),
        plays: MAX_PLAYS,
        ops: MAX_OPS,
    };
    let ops = shrinking.shrink(ops);
    Ok(ShrunkTest { ops, shows })
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

/// Plays the steps to `machine`, until it differs from the recorded one in what a test can see.
fn test_of_difference<M: Machine>(
    recording: &Recording<'_>,
    difference: &Difference,
    machine: M,
) -> Result<ShrunkTest, ShrinkError> {
    let end = recording.end().filter(|_| recording.stop().is_none());
    let last = recording.steps().count() - 1;
    let has_more_output =
        matches!(difference.kind, DifferenceKind::Finish { wanted: Outbound::Flush, .. });
    let (mut translation, mut recorded) = (Translation::new(recording), Facts::default());
    let mut ops = Vec::new();
    script::with_player(machine, |player| {
        for (index, step) in recording.steps().enumerate() {
            let begin = ops.len();
            translation.add(&step, &mut ops)?;
            if !step.outside.is_empty() {
                return Err(ShrinkError::Outside);
            }
            let is_different = step.offset >= difference.offset;
            if is_different && has_more_output && matches!(step.what, What::Finished { .. }) {
                // The recorded machine has no output here, so it skips the op.
                ops.insert(ops.len() - 1, Op::Accept(usize::MAX));
            }
            recorded.add(step.what);
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
            let shows = Shows::Difference { recorded, actual, output: player.output().to_vec() };
            return Ok(ShrunkTest { ops, shows });
        }
        Err(ShrinkError::NotReproduced)
    })
}

impl Shows {
    /// Whether a script that was `played` shows it.
    fn is_shown_by(&self, played: &Result<Facts, String>) -> bool {
        match (self, played) {
            (Self::Panic(message), Err(panic)) => panic == message,
            (Self::End { label, ending }, Ok(facts)) => {
                let end = facts.end.as_ref().map(|(is_done, label)| (*is_done, label.as_deref()));
                facts.ending == *ending && end == Some((true, Some(label)))
            }
            (Self::Panic(_) | Self::End { .. } | Self::Difference { .. }, _) => false,
        }
    }
}

struct Shrinking<F> {
    shows: F,
    /// How many more scripts may be played.
    plays: usize,
    /// How many ops they may have together.
    ops: usize,
}

impl<F: FnMut(&[Op]) -> bool> Shrinking<F> {
    fn shrink(&mut self, mut ops: Vec<Op>) -> Vec<Op> {
        loop {
            let before = ops.clone();
            self.join(&mut ops);
            self.remove(&mut ops);
            for index in 0..ops.len() {
                for simpler in simpler(&ops[index]) {
                    self.try_instead(&mut ops, index, simpler);
                }
                self.shorten(&mut ops, index);
            }
            if ops == before {
                return ops;
            }
        }
    }

    /// Tries `candidate` in place of `ops`. Returns whether it shows the same.
    fn try_all(&mut self, ops: &mut Vec<Op>, candidate: Vec<Op>) -> bool {
        if self.plays == 0 || self.ops < candidate.len() {
            return false;
        }
        self.plays -= 1;
        self.ops -= candidate.len();
        let is_shown = (self.shows)(&candidate);
        if is_shown {
            *ops = candidate;
        }
        is_shown
    }

    fn try_instead(&mut self, ops: &mut Vec<Op>, index: usize, op: Op) -> bool {
        let mut candidate = ops.clone();
        candidate[index] = op;
        self.try_all(ops, candidate)
    }

    /// Joins input that was received in pieces.
    fn join(&mut self, ops: &mut Vec<Op>) {
        let mut index = 1;
        while index < ops.len() {
            if let [Op::Receive(first), Op::Receive(second)] = &ops[index - 1..=index] {
                let joined = [&first[..], second].concat();
                let mut candidate = ops.clone();
                candidate.remove(index);
                candidate[index - 1] = Op::Receive(joined);
                if self.try_all(ops, candidate) {
                    continue;
                }
            }
            index += 1;
        }
    }

    /// Removes ops: halves, quarters, and so on.
    fn remove(&mut self, ops: &mut Vec<Op>) {
        let mut len = ops.len();
        while len > 0 {
            let mut at = 0;
            while at < ops.len() {
                let mut candidate = ops.clone();
                candidate.drain(at..ops.len().min(at + len));
                if !self.try_all(ops, candidate) {
                    at += len;
                }
            }
            len /= 2;
        }
    }

    /// Shortens the input in the op `index`, as [`remove`](Self::remove), and makes it plain.
    fn shorten(&mut self, ops: &mut Vec<Op>, index: usize) {
        let bytes = |ops: &[Op]| match &ops[index] {
            Op::Receive(bytes) => bytes.clone(),
            Op::Eof
            | Op::Error(..)
            | Op::Accept(_)
            | Op::Unacknowledged(_)
            | Op::Finished
            | Op::Advance(_)
            | Op::Timeout
            | Op::SpuriousTimeout
            | Op::ShutDown => Vec::new(),
        };
        let mut len = bytes(ops).len();
        while len > 0 {
            let mut at = 0;
            while at < bytes(ops).len() {
                let mut shorter = bytes(ops);
                shorter.drain(at..shorter.len().min(at + len));
                if !self.try_instead(ops, index, Op::Receive(shorter)) {
                    at += len;
                }
            }
            len /= 2;
        }
        let plain = alloc::vec![b'a'; bytes(ops).len()];
        if !plain.is_empty() {
            self.try_instead(ops, index, Op::Receive(plain));
        }
    }
}

/// Ops that read better in place of `op`.
fn simpler(op: &Op) -> Vec<Op> {
    match op {
        Op::SpuriousTimeout => alloc::vec![Op::Timeout],
        Op::Accept(n) if *n != usize::MAX => alloc::vec![Op::Accept(usize::MAX)],
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
        | Op::ShutDown => Vec::new(),
    }
}

impl ShrunkTest {
    /// The source code of the test. `imports` are the items of `wirestate_core` that `machine`
    /// needs, and `machine` is the expression that makes the machine at `Instant::EPOCH`.
    pub fn source(&self, imports: &[&str], machine: &str) -> String {
        let has = |is: fn(&Op) -> bool| self.ops.iter().any(is);
        let assertions = self.shows.assertions();
        let mut core: Vec<&str> = imports.to_vec();
        core.push("Instant");
        if has(|op| matches!(op, Op::Error(..))) {
            core.extend(["ConnectionError", "Direction"]);
        }
        if assertions.contains("Digest::") {
            core.push("record::Digest");
        }
        // As rustfmt does: types first.
        core.sort_by_key(|item| (item.starts_with(char::is_lowercase), *item));
        let mut testkit = alloc::vec!["self", "Op"];
        if assertions.contains("Ending::") {
            testkit.insert(1, "Ending");
        }
        let mut source = String::new();
        if has(|op| matches!(op, Op::Advance(_))) {
            source.push_str("use std::time::Duration;\n\n");
        }
        let _ = writeln!(source, "use wirestate_core::{{{}}};", core.join(", "));
        let _ = writeln!(source, "use wirestate_testkit::script::{{{}}};\n", testkit.join(", "));
        let (attribute, name) = match &self.shows {
            Shows::Panic(_) => ("", "a_session_does_not_panic".to_string()),
            Shows::End { label, .. } => ("", format!("a_session_ends_with_{label}")),
            Shows::Difference { recorded: None, .. } => {
                ("#[should_panic]\n", "a_session_panics_as_it_was_recorded".to_string())
            }
            Shows::Difference { .. } => ("", "a_session_is_as_it_was_recorded".to_string()),
        };
        let _ = writeln!(source, "#[test]\n{attribute}fn {name}() {{");
        let _ = writeln!(source, "    let mut machine = {machine};");
        let ops: Vec<_> = self.ops.iter().map(ToString::to_string).collect();
        let ops = match format!("    let ops = [{}];\n", ops.join(", ")) {
            _ if ops.is_empty() => "    let ops: [Op; 0] = [];\n".to_string(),
            line if line.len() <= MAX_COLUMNS => line,
            _ => format!("    let ops = [\n        {},\n    ];\n", ops.join(",\n        ")),
        };
        source.push_str(&ops);
        source.push_str(&assertions);
        source.push_str("}\n");
        source
    }
}

impl Shows {
    /// The statements of the test after its ops.
    fn assertions(&self) -> String {
        let play = "script::play(&mut machine, &ops)";
        let transcript = format!("    let transcript = {play};\n");
        match self {
            Self::Panic(message) => {
                format!("    // It has panicked: {}\n    {play};\n", first_line(message))
            }
            Self::End { label, ending } => format!(
                "{transcript}    assert_eq!((transcript.label, transcript.ending), \
                 (Some({label:?}), {}));\n",
                ending_source(*ending)
            ),
            Self::Difference { recorded: None, actual, output } => {
                format!("{}    {play};\n", comment("it panicked", actual, output))
            }
            Self::Difference { recorded: Some(recorded), actual, output } => {
                let mut text = comment(&sentence(recorded), actual, output);
                text.push_str(&transcript);
                for assertion in recorded.assertions() {
                    let _ = writeln!(text, "    assert_eq!({assertion});");
                }
                text
            }
        }
    }
}

/// A comment that says how two machines differ.
fn comment(recorded: &str, actual: &Result<Facts, String>, output: &[u8]) -> String {
    let actual = match actual {
        Ok(facts) => sentence(facts),
        Err(message) => format!("it panics: {}", first_line(message)),
    };
    let mut text = format!("    // Recorded: {recorded}.\n    // This program: {actual}.\n");
    if (1..=MAX_SHOWN).contains(&output.len()) {
        let _ = writeln!(text, "    // It sends b\"{}\".", output.escape_ascii());
    }
    text.push_str("    // If the recorded program was wrong, assert what is right instead.\n");
    text
}

/// What a machine has done, in words.
fn sentence(facts: &Facts) -> String {
    let Facts { input, output, ending, end, .. } = facts;
    let digest = if *output == 0 { String::new() } else { format!(" ({})", facts.digest_source()) };
    let ending = match ending {
        None => "no FIN or RST",
        Some(false) => "a FIN",
        Some(true) => "an RST",
    };
    let label =
        |label: &Option<String>| label.as_ref().map_or(String::new(), |it| format!(": {it}"));
    let end = match end {
        None => String::new(),
        Some((true, reason)) => format!(", ended{}", label(reason)),
        Some((false, reason)) => format!(", not ended{}", label(reason)),
    };
    format!("{input} bytes read, {output} bytes sent{digest}, {ending}{end}")
}

impl Facts {
    fn digest_source(&self) -> String {
        format!("0x{:04x}_{:04x}", self.digest >> 16, self.digest & 0xffff)
    }

    /// The expressions that are equal for a machine that has done this.
    fn assertions(&self) -> Vec<String> {
        let Self { input, output, ending, end, .. } = self;
        let lengths = "(transcript.input.len(), transcript.output.len())";
        let mut assertions = alloc::vec![format!("{lengths}, ({input}, {output})")];
        if *output > 0 {
            let digest = self.digest_source();
            assertions.push(format!("Digest::of(&transcript.output) & 0xffff_ffff, {digest}"));
        }
        assertions.push(format!("transcript.ending, {}", ending_source(*ending)));
        if let Some(end) = end {
            assertions.push(format!("(transcript.done, transcript.label), {end:?}"));
        }
        assertions
    }
}

fn ending_source(ending: Option<bool>) -> &'static str {
    match ending {
        None => "None",
        Some(false) => "Some(Ending::Fin)",
        Some(true) => "Some(Ending::Rst)",
    }
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

/// The longest line of source code, with its end.
const MAX_COLUMNS: usize = 101;
/// The longest output that a comment shows, in bytes.
const MAX_SHOWN: usize = 64;
/// The most scripts that are played.
const MAX_PLAYS: usize = 20_000;
/// The most ops of all scripts together.
const MAX_OPS: usize = 10_000_000;
