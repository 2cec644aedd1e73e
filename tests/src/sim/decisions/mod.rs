//! The decisions of worlds as data: recorded, written down, edited and replayed.

mod stream;

use std::{
    collections::BTreeMap, fmt, num::NonZeroU64, panic::resume_unwind, str::FromStr, sync::Arc,
    time::Duration,
};

pub(crate) use self::stream::{Log, PerformedAct, SEND_ONLY, SKIP_ACT};
pub(super) use self::stream::{Stream, StreamKey, Streams};
use super::case::{self, Mode};

/// The decisions of one or more worlds that differ from the quiet world.
///
/// In the quiet world no fault strikes, each delay is the shortest, and of several tasks that are
/// woken, the one that was spawned first runs. A decision is a line of text:
///
/// ```text
/// client/0 Server: short_read 4 = 10    # the 5th read returns 10 bytes
/// client/0 Server: interrupted 0        # a signal interrupts the first call
/// client/0 Client: latency 0 = 20ms
/// client/1 Server: short_write * = 3    # each write takes 3 bytes
/// listener 10.0.0.1:7: accept_aborted 1
/// order: task 31 = 2                    # the second of the woken tasks runs
/// world 1 client/0 Client: reset 7      # in the second world that the test creates
/// ```
///
/// - Before the colon is who decides: an end of a connection, as in a [`Trace`](super::Trace); a
///   listener; or the `order` in which the tasks of the world run.
/// - A name follows, often that of a fault in [`Faults`](super::Faults), and a number: how often
///   the same one has decided on this name before. Only faults that the plan includes are counted.
///   `*` stands for each number that is not listed, and `*/3` for each third. If several include a
///   number, the longest period counts.
/// - A fault without a value has the least effect: 1 byte, the shortest delay. A value is a number,
///   or a time in `ns`, `µs` or `us`, `ms` or `s`. What exceeds the possible values is the largest.
///
/// Decisions are looked up one by one, so a recording applies to changed code as far as it asks for
/// them. Scripted peers ([`act`](super::act)) have two decisions that no seed makes: `skip_act 2`
/// leaves out their third act, and `send_only 0 = 5` shortens a [`Send`](super::Act::Send).
///
/// ```
/// use wirestate_testkit::sim::{Decisions, World};
///
/// let (hash, decisions) = Decisions::record(|| World::new(7).trace().hash());
/// assert_eq!(decisions.replay(|| World::new(7).trace().hash()), hash);
/// assert_eq!(decisions.to_string().parse(), Ok(decisions));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Decisions {
    /// By stream, name and number.
    streams: BTreeMap<String, BTreeMap<String, Choices>>,
}

type Choices = BTreeMap<Number, Choice>;

/// A decision: who decides, on what, how often it has done so before, and the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) stream: String,
    pub(crate) name: String,
    pub(crate) number: Number,
    pub(crate) choice: Choice,
}

/// Which decisions of a stream on a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Number {
    /// Each one, or each second, and so on, unless it is listed by its number.
    Each(NonZeroU64),
    /// The one with this number, counted from 0.
    Nth(u64),
}

/// A choice that the quiet world does not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Choice {
    /// The fault strikes, with the least effect.
    Strikes,
    Number(u64),
    Time(Duration),
}

impl Decisions {
    /// Runs `test`, and returns its result with the decisions of the worlds that it creates on this
    /// thread.
    pub fn record<T>(test: impl FnOnce() -> T) -> (T, Self) {
        let run = case::run(Mode::Record, None, test);
        match run.result {
            Ok(result) => (result, run.log.decisions),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Runs `test`. The worlds that it creates on this thread decide as listed here.
    ///
    /// With all decisions of a recording, the run is the same.
    pub fn replay<T>(&self, test: impl FnOnce() -> T) -> T {
        let run = case::run(Mode::Replay(Arc::new(self.clone())), None, test);
        run.result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The number of decisions.
    pub fn len(&self) -> usize {
        self.streams.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum()
    }

    /// Whether this is the quiet world.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// All decisions, sorted by stream, name and number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Decision> {
        self.streams.iter().flat_map(|(stream, names)| {
            names.iter().flat_map(move |(name, choices)| {
                choices.iter().map(move |(number, choice)| Decision {
                    stream: stream.clone(),
                    name: name.clone(),
                    number: *number,
                    choice: *choice,
                })
            })
        })
    }

    /// Adds a decision, and returns the choice that it replaces.
    pub(crate) fn insert(&mut self, decision: Decision) -> Option<Choice> {
        let Decision { stream, name, number, choice } = decision;
        self.streams.entry(stream).or_default().entry(name).or_default().insert(number, choice)
    }
}

impl FromIterator<Decision> for Decisions {
    fn from_iter<I: IntoIterator<Item = Decision>>(decisions: I) -> Self {
        let mut all = Self::default();
        for decision in decisions {
            all.insert(decision);
        }
        all
    }
}

impl fmt::Display for Decisions {
    /// Writes one line a decision.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|decision| writeln!(f, "{decision}"))
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, name, number, choice } = self;
        write!(f, "{stream}: {name} {number}")?;
        match choice {
            Choice::Strikes => Ok(()),
            Choice::Number(_) | Choice::Time(_) => write!(f, " = {choice}"),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each(NonZeroU64::MIN) => f.write_str("*"),
            Self::Each(period) => write!(f, "*/{period}"),
            Self::Nth(number) => write!(f, "{number}"),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strikes => f.write_str("1"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Time(time) => {
                let nanos = time.as_nanos();
                let fits = |(_, unit): &&(_, u128)| nanos.is_multiple_of(*unit);
                let (name, unit) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
                write!(f, "{}{name}", nanos / unit)
            }
        }
    }
}

/// An error in the text of [`Decisions`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct DecisionsError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl FromStr for Decisions {
    type Err = DecisionsError;

    /// Reads one decision a line. `#` begins a comment.
    fn from_str(text: &str) -> Result<Self, DecisionsError> {
        let mut all = Self::default();
        for (index, line) in text.lines().enumerate() {
            let error = |reason| DecisionsError { line: index + 1, reason };
            let line = line.split(" #").next().unwrap_or_default().trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let decision = decision(line).map_err(error)?;
            let text = decision.to_string();
            if all.insert(decision).is_some() {
                return Err(error(format!("`{text}` decides what an earlier line has decided")));
            }
        }
        Ok(all)
    }
}

/// Reads `stream: name number` or `stream: name number = value`.
fn decision(line: &str) -> Result<Decision, String> {
    let Some((stream, rest)) = line.rsplit_once(": ") else {
        return Err(format!("`{line}` must be `stream: name number`, or end with ` = value`"));
    };
    let (what, value) = match rest.split_once('=') {
        Some((what, value)) => (what, Some(value.trim())),
        None => (rest, None),
    };
    let mut words = what.split_whitespace();
    let (Some(name), Some(number), None) = (words.next(), words.next(), words.next()) else {
        return Err(format!("`{}` must be a name and a number", what.trim()));
    };
    let parsed = match number.strip_prefix('*') {
        Some("") => Some(Number::Each(NonZeroU64::MIN)),
        Some(rest) => rest.strip_prefix('/').and_then(|n| n.parse().ok()).map(Number::Each),
        None => number.parse().ok().map(Number::Nth),
    };
    let number = parsed.ok_or_else(|| {
        format!("`{number}` must be the number of the decision, `*`, or like `*/3`")
    })?;
    let choice = value.map_or(Some(Choice::Strikes), choice);
    let choice = choice.ok_or_else(|| {
        format!("`{}` must be a number, or a time such as 20ms", value.unwrap_or_default())
    })?;
    Ok(Decision { stream: stream.trim().to_owned(), name: name.to_owned(), number, choice })
}

/// Reads a number or a time.
fn choice(text: &str) -> Option<Choice> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    if unit.is_empty() {
        return Some(Choice::Number(number));
    }
    let unit = if unit == "us" { "µs" } else { unit };
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let nanos = u128::from(number).checked_mul(*nanos)?;
    Some(Choice::Time(Duration::from_nanos(nanos.try_into().ok()?)))
}

/// The units of time, in nanoseconds.
const UNITS: [(&str, u128); 4] =
    [("ns", 1), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_decisions_is_read_as_it_is_written() {
        let text = "\
client/0 Client: latency 0 = 20ms
client/0 Server: short_read * = 3
client/0 Server: short_read 4 = 10
client/0 Server: short_write */2
client/0 Server: stall 0 = 1500µs
client/0 Server: stall 1 = 1234567ns
listener 10.0.0.1:7: accept_aborted 1
order: task 31 = 2
world 1 client/0 Client: reset 7
";
        let decisions: Decisions = text.parse().unwrap();
        assert_eq!((decisions.to_string(), decisions.len()), (text.to_owned(), 9));
        let edited = text.replace("1500µs", "1500us   # a comment").replace(" = ", "=");
        assert_eq!(format!("# a title\n\n  {edited}").parse(), Ok(decisions));
        assert!("".parse::<Decisions>().unwrap().is_empty());
    }

    #[test]
    fn a_bad_line_is_named_with_its_reason() {
        for (line, reason) in [
            ("reset 7", "`reset 7` must be `stream: name number`, or end with ` = value`"),
            ("client/0: ", "`client/0:` must be `stream: name number`, or end with ` = value`"),
            ("client/0: reset", "`reset` must be a name and a number"),
            ("client/0: reset 7 8", "`reset 7 8` must be a name and a number"),
            ("client/0: reset -1", "`-1` must be the number of the decision, `*`, or like `*/3`"),
            ("client/0: reset */0", "`*/0` must be the number of the decision"),
            ("client/0: stall 1 = ", "`` must be a number, or a time such as 20ms"),
            ("client/0: stall 1 = 2h", "`2h` must be a number, or a time such as 20ms"),
            ("client/0: stall 1 = 99999999999s", "`99999999999s` must be a number, or a time"),
            ("client/0: stall 1 = -2", "`-2` must be a number, or a time such as 20ms"),
            ("order: task 1 = 3", "`order: task 1 = 3` decides what an earlier line has decided"),
        ] {
            let text = format!("# a comment\norder: task 1 = 2\n{line}");
            let error = text.parse::<Decisions>().unwrap_err();
            assert_eq!(error.line, 3, "{line}");
            assert!(error.reason.starts_with(reason), "{}", error.reason);
        }
    }
}
