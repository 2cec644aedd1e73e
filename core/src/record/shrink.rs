//! The smallest test that shows what a recording shows.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt::Write as _;

use super::{
    Difference, DifferenceKind, Digest, Recordable, Recording, What, replay,
    script::{self, Op, Outcome},
};

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
    /// The machine has read and sent something else than the recorded one.
    Difference { input: usize, output: u64, digest: u32, label: Option<String> },
}

/// Why a recording has no test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShrinkError {
    /// It has no payloads, or is of a machine that shares state with others.
    #[error("the session is no script of one machine with all its input")]
    NoScript,
    /// The machine has not ended.
    #[error("the recording is the same and the machine has not ended, so there is nothing to show")]
    NothingToShow,
    /// The script does not lead to the same end.
    #[error("a script does not lead to the same end")]
    NotReproduced,
}

/// Finds the smallest script for the testkit that shows the same as `recording`, for the machine
/// that `machine` makes: a panic, or else a difference of the replay, or else the end.
///
/// It plays at most 20,000 scripts with at most 10 million ops together.
///
/// For a difference, it leaves out what is without effect. For an end or a panic, it also shortens
/// the input.
///
/// # Errors
/// There is no such script.
pub fn shrink<M: Recordable>(
    machine: impl Fn() -> M,
    recording: &Recording<'_>,
) -> Result<ShrunkTest, ShrinkError> {
    let replayed = replay(&mut machine(), recording);
    let all = recording.steps().count();
    let (steps, shows) = match (replayed.difference, replayed.panic) {
        (None, Some(message))
        | (Some(Difference { kind: DifferenceKind::Panicked(message), .. }), _) => {
            (all, Shows::Panic(message))
        }
        (None, None) => {
            let (label, _) = replayed.reason.ok_or(ShrinkError::NothingToShow)?;
            (all, Shows::End { label, ending: None })
        }
        (Some(Difference { kind, .. }), _) if kind.is_of_recording() => {
            return Err(ShrinkError::NoScript);
        }
        (Some(difference), _) => {
            let is_end = matches!(difference.kind, DifferenceKind::End { .. });
            let until = |offset| recording.steps().take_while(move |step| step.offset <= offset);
            let steps = if is_end { all } else { until(difference.offset).count() };
            (steps, expected(recording, steps, is_end))
        }
    };
    let ops = script::script(recording, steps).ok_or(ShrinkError::NoScript)?;
    let actual = script::play(machine(), &ops);
    let shows = match shows {
        Shows::End { label, .. } => Shows::End { label, ending: actual.ending },
        Shows::Panic(_) | Shows::Difference { .. } => shows,
    };
    let mut shrinking = Shrinking {
        shows: |ops: &[Op]| shows.is_shown_by(&script::play(machine(), ops), &actual),
        plays: MAX_PLAYS,
        ops: MAX_OPS,
    };
    if !(shrinking.shows)(&ops) {
        return Err(ShrinkError::NotReproduced);
    }
    let shortens = !matches!(shows, Shows::Difference { .. });
    let ops = shrinking.shrink(ops, shortens);
    Ok(ShrunkTest { ops, shows })
}

/// What the recorded machine had read and sent after `steps` steps.
fn expected(recording: &Recording<'_>, steps: usize, is_end: bool) -> Shows {
    let (mut input, mut output, mut digest) = (0, 0, Digest::default().short());
    for step in recording.steps().take(steps) {
        match step.what {
            What::Received { len, .. } => input += len,
            What::Sent { len, digest: after } => {
                output += len as u64;
                digest = after;
            }
            What::Start | What::Finished { .. } | What::Event(_) | What::Shared | What::Note(_) => {
            }
        }
    }
    let label = recording.end().filter(|_| is_end).map(|end| end.label.to_string());
    Shows::Difference { input, output, digest, label }
}

impl Shows {
    /// Whether a script with this `outcome` shows it. `actual` is the outcome of the whole script.
    fn is_shown_by(&self, outcome: &Outcome, actual: &Outcome) -> bool {
        match self {
            Self::Panic(message) => outcome.panic.as_ref() == Some(message),
            Self::End { label, ending } => {
                outcome.label == Some(&**label)
                    && outcome.ending == *ending
                    && outcome.interest.is_done()
            }
            Self::Difference { .. } => outcome == actual,
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
    fn shrink(&mut self, mut ops: Vec<Op>, shortens: bool) -> Vec<Op> {
        loop {
            let before = ops.clone();
            self.join(&mut ops);
            self.remove(&mut ops);
            for index in 0..ops.len() {
                for simpler in simpler(&ops[index]) {
                    self.try_instead(&mut ops, index, simpler);
                }
                if shortens {
                    self.shorten(&mut ops, index);
                }
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
            | Op::Buffer(_)
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
        Op::Buffer(n) => {
            let all = (*n != usize::MAX).then_some(Op::Buffer(usize::MAX));
            all.into_iter().chain([Op::Accept(usize::MAX)]).collect()
        }
        Op::Advance(time) if time.subsec_nanos() > 0 => {
            let seconds = core::time::Duration::from_secs(time.as_secs() + 1);
            alloc::vec![Op::Advance(seconds)]
        }
        Op::Receive(_)
        | Op::Eof
        | Op::Error(..)
        | Op::Accept(_)
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
        let mut core: Vec<&str> = imports.to_vec();
        core.push("Instant");
        if has(|op| matches!(op, Op::Error(..))) {
            core.extend(["ConnectionError", "Direction"]);
        }
        let is_difference = matches!(self.shows, Shows::Difference { .. });
        if is_difference {
            core.push("record::Digest");
        }
        // As rustfmt does: types first.
        core.sort_by_key(|item| (item.starts_with(char::is_lowercase), *item));
        let mut testkit = alloc::vec!["self", "Op"];
        if matches!(self.shows, Shows::End { ending: Some(_), .. }) {
            testkit.insert(1, "Ending");
        }
        let mut source = String::new();
        if has(|op| matches!(op, Op::Advance(_))) {
            source.push_str("use std::time::Duration;\n\n");
        }
        let _ = writeln!(source, "use wirestate_core::{{{}}};", core.join(", "));
        let _ = writeln!(source, "use wirestate_testkit::script::{{{}}};\n", testkit.join(", "));
        let name = match &self.shows {
            Shows::Panic(_) => "a_session_does_not_panic".to_string(),
            Shows::End { label, .. } => format!("a_session_ends_with_{label}"),
            Shows::Difference { .. } => "a_session_is_as_it_was_recorded".to_string(),
        };
        let _ = writeln!(source, "#[test]\nfn {name}() {{");
        let _ = writeln!(source, "    let mut machine = {machine};");
        let ops: Vec<_> = self.ops.iter().map(ToString::to_string).collect();
        let ops = match format!("    let ops = [{}];\n", ops.join(", ")) {
            _ if ops.is_empty() => "    let ops: [Op; 0] = [];\n".to_string(),
            line if line.len() <= MAX_COLUMNS => line,
            _ => format!("    let ops = [\n        {},\n    ];\n", ops.join(",\n        ")),
        };
        source.push_str(&ops);
        source.push_str(&self.shows.assertions());
        source.push_str("}\n");
        source
    }
}

impl Shows {
    fn assertions(&self) -> String {
        let play = "script::play(&mut machine, &ops)";
        match self {
            Self::Panic(message) => {
                let message = message.lines().next().unwrap_or_default();
                format!("    // It has panicked: {message}\n    {play};\n")
            }
            Self::End { label, ending } => {
                let ending = match ending {
                    None => "None",
                    Some(false) => "Some(Ending::Fin)",
                    Some(true) => "Some(Ending::Rst)",
                };
                format!(
                    "    let transcript = {play};\n    \
                     assert_eq!((transcript.label, transcript.ending), (Some({label:?}), \
                     {ending}));\n"
                )
            }
            Self::Difference { input, output, digest, label } => {
                let mut text = format!(
                    "    let transcript = {play};\n    \
                     assert_eq!((transcript.input.len(), transcript.output.len()), \
                     ({input}, {output}));\n    \
                     assert_eq!(Digest::of(&transcript.output) & 0xffff_ffff, {digest:#x});\n"
                );
                if let Some(label) = label {
                    let _ = writeln!(text, "    assert_eq!(transcript.label, Some({label:?}));");
                }
                text
            }
        }
    }
}

/// The longest line of source code, with its end.
const MAX_COLUMNS: usize = 101;
/// The most scripts that are played.
const MAX_PLAYS: usize = 20_000;
/// The most ops of all scripts together.
const MAX_OPS: usize = 10_000_000;
