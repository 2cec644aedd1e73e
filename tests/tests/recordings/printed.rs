//! Runs a printed test without a compiler.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use wirestate_core::{ConnectionError, Direction, Machine, record::Digest};
use wirestate_testkit::script::{self, CONNECTION_ERRORS, Op, Transcript};

/// Whether the test with this `source` passes for `machine`.
pub(crate) fn passes(source: &str, mut machine: impl Machine) -> bool {
    let (before, after) = source.split_once("    let ops").unwrap();
    let (ops, after) = after.split_once("script::play(&mut machine, &ops);\n").unwrap();
    let ops = Parser(ops).ops();
    let play = || {
        let transcript = script::play(&mut machine, &ops);
        after.split(";\n").all(|statement| holds(statement, &transcript))
    };
    let result = catch_unwind(AssertUnwindSafe(play));
    // After a panic, even its drop may panic.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(machine)));
    if before.contains("#[should_panic]") {
        result.ok() != Some(true)
    } else {
        result.ok() == Some(true)
    }
}

/// Whether an assertion holds.
fn holds(statement: &str, transcript: &Transcript) -> bool {
    let lines = statement.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let statement: String = lines.collect();
    if statement == "}" {
        return true;
    }
    let inner = statement.strip_prefix("assert_eq!(").and_then(|rest| rest.strip_suffix(')'));
    let inner = inner.unwrap_or_else(|| panic!("an unknown statement: {statement}"));
    let Transcript { input, output, ending, done, label, .. } = transcript;
    let digest = Digest::of(output) & 0xffff_ffff;
    let actual = [
        ("(transcript.label, transcript.ending)", format!("{:?}", (label, ending))),
        (
            "(transcript.input.len(), transcript.output.len())",
            format!("{:?}", (input.len(), output.len())),
        ),
        (
            "Digest::of(&transcript.output) & 0xffff_ffff",
            format!("0x{:04x}_{:04x}", digest >> 16, digest & 0xffff),
        ),
        ("transcript.ending", format!("{ending:?}")),
        ("(transcript.done, transcript.label)", format!("{:?}", (done, label))),
    ];
    let compared = actual.iter().find_map(|(expression, actual)| {
        let expected = inner.strip_prefix(expression)?.strip_prefix(", ")?;
        Some(expected.replace("Ending::", "") == *actual)
    });
    compared.unwrap_or_else(|| panic!("an unknown assertion: {statement}"))
}

/// A parser of printed ops.
struct Parser<'a>(&'a str);

impl<'a> Parser<'a> {
    fn ops(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        // The type of an empty list is not followed by anything that ends a name.
        while let Some(name) = self.0.split_once("Op::").map(|(_, rest)| rest) {
            self.0 = name;
            let name = self.word();
            ops.push(match name {
                "Receive" => Op::Receive(self.bytes()),
                "Eof" => Op::Eof,
                "Error" => Op::Error(self.direction(), self.error()),
                "Accept" => Op::Accept(self.number()),
                "Unacknowledged" => Op::Unacknowledged(self.number()),
                "Finished" => Op::Finished,
                "Advance" => Op::Advance(self.duration()),
                "Timeout" => Op::Timeout,
                "SpuriousTimeout" => Op::SpuriousTimeout,
                "ShutDown" => Op::ShutDown,
                name => panic!("an unknown op: {name}"),
            });
        }
        ops
    }

    /// The next word; skips what precedes it.
    fn word(&mut self) -> &'a str {
        let is_word = |char: char| char.is_alphanumeric() || char == '_';
        let start = self.0.find(is_word).unwrap();
        let end = self.0[start..].find(|char| !is_word(char)).unwrap() + start;
        let word = &self.0[start..end];
        self.0 = &self.0[end..];
        word
    }

    fn number(&mut self) -> usize {
        match self.word() {
            "usize" => {
                assert_eq!(self.word(), "MAX");
                usize::MAX
            }
            number => number.parse().unwrap(),
        }
    }

    fn duration(&mut self) -> Duration {
        assert_eq!(self.word(), "Duration");
        match self.word() {
            "from_secs" => Duration::from_secs(self.word().parse().unwrap()),
            "from_nanos" => Duration::from_nanos(self.word().parse().unwrap()),
            unit => panic!("an unknown unit: {unit}"),
        }
    }

    fn direction(&mut self) -> Direction {
        assert_eq!(self.word(), "Direction");
        match self.word() {
            "Read" => Direction::Read,
            "Write" => Direction::Write,
            direction => panic!("an unknown direction: {direction}"),
        }
    }

    fn error(&mut self) -> ConnectionError {
        assert_eq!(self.word(), "ConnectionError");
        match self.word() {
            "Other" => {
                assert_eq!(self.word(), "errno");
                let (_, rest) = self.0.split_once(": ").unwrap();
                let (number, rest) = rest.split_once(' ').unwrap();
                self.0 = rest;
                ConnectionError::Other { errno: number.parse().unwrap() }
            }
            name => {
                let is_it = |error: &&ConnectionError| format!("{error:?}") == name;
                *CONNECTION_ERRORS.iter().find(is_it).unwrap()
            }
        }
    }

    /// A byte string.
    fn bytes(&mut self) -> Vec<u8> {
        let mut rest = self.0.strip_prefix("(b\"").unwrap().bytes();
        let mut bytes = Vec::new();
        loop {
            match rest.next().unwrap() {
                b'"' => break,
                b'\\' => bytes.push(match rest.next().unwrap() {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'x' => {
                        let digits = [rest.next().unwrap(), rest.next().unwrap()];
                        u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
                    }
                    other => other,
                }),
                byte => bytes.push(byte),
            }
        }
        self.0 = &self.0[self.0.len() - rest.len()..];
        bytes
    }
}
