//! Runs a printed test without a compiler.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use wirestate_core::{
    ConnectionError, Direction, Machine,
    proxy::{DialError, ProxyReason, Relay, Side},
    record::Digest,
};
use wirestate_testkit::script::{self, CONNECTION_ERRORS, Op, RelayOp, Transcript};

/// Whether the test with this `source` passes for `machine`.
pub(crate) fn passes(source: &str, mut machine: impl Machine) -> bool {
    let play = "script::play(&mut machine, &ops);\n";
    let result =
        holds(source, play, |mut ops| vec![("transcript", script::play(&mut machine, &ops.ops()))]);
    // After a panic, even its drop may panic.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(machine)));
    result
}

/// Whether the test with this `source` passes for `relay`.
pub(crate) fn passes_with_relay(source: &str, mut relay: Relay) -> bool {
    if let Some((_, header)) = source.split_once("relay.send_proxy_header") {
        relay.send_proxy_header(Parser(header).bytes());
    }
    holds(source, "script::play_relay(&mut relay, &ops);\n", |mut ops| {
        let [client, upstream] = script::play_relay(&mut relay, &ops.relay_ops());
        vec![("client", client), ("upstream", upstream)]
    })
}

/// Whether a test passes that plays its ops by the statement `play`.
fn holds(
    source: &str,
    play: &str,
    run: impl FnOnce(Parser<'_>) -> Vec<(&'static str, Transcript)>,
) -> bool {
    let (before, after) = source.split_once("    let ops").unwrap();
    let (ops, after) = after.split_once(";\n").unwrap();
    let (_, after) = after.split_once(play).unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let transcripts = run(Parser(ops));
        after.split(";\n").all(|statement| is_true(statement, &transcripts))
    }));
    let passes = result.ok() == Some(true);
    if before.contains("#[should_panic]") { !passes } else { passes }
}

/// Whether an assertion holds.
fn is_true(statement: &str, transcripts: &[(&str, Transcript)]) -> bool {
    let lines = statement.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let statement: String = lines.collect();
    if statement == "}" {
        return true;
    }
    let inner = statement.strip_prefix("assert_eq!(").and_then(|rest| rest.strip_suffix(')'));
    let inner = inner.unwrap_or_else(|| panic!("an unknown statement: {statement}"));
    let compares = |expression: &str, actual: String| {
        let expected = inner.strip_prefix(expression)?.strip_prefix(", ")?;
        Some(expected.replace("Ending::", "") == actual)
    };
    let of_one = transcripts.iter().find_map(|(name, transcript)| {
        let Transcript { input, output, ending, done, label, .. } = transcript;
        let digest = Digest::of(output) & 0xffff_ffff;
        let digest = format!("0x{:04x}_{:04x}", digest >> 16, digest & 0xffff);
        let lengths = format!("{:?}", (input.len(), output.len()));
        compares(&format!("({name}.label, {name}.ending)"), format!("{:?}", (label, ending)))
            .or_else(|| compares(&format!("({name}.input.len(), {name}.output.len())"), lengths))
            .or_else(|| compares(&format!("Digest::of(&{name}.output) & 0xffff_ffff"), digest))
            .or_else(|| compares(&format!("{name}.ending"), format!("{ending:?}")))
            .or_else(|| compares(&format!("{name}.label"), format!("{label:?}")))
            .or_else(|| {
                compares(&format!("({name}.done, {name}.label)"), format!("{:?}", (done, label)))
            })
    });
    let of_both = || {
        let endings: Vec<_> = transcripts.iter().map(|(_, transcript)| transcript.ending).collect();
        let [client, upstream] = endings[..] else { return None };
        compares("(client.ending, upstream.ending)", format!("{:?}", (client, upstream)))
    };
    of_one.or_else(of_both).unwrap_or_else(|| panic!("an unknown assertion: {statement}"))
}

/// A parser of printed ops.
struct Parser<'a>(&'a str);

impl<'a> Parser<'a> {
    fn ops(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        // The type of an empty list is not followed by anything that ends a name.
        while let Some((_, rest)) = self.0.split_once("Op::") {
            self.0 = rest;
            ops.push(self.op());
        }
        ops
    }

    fn relay_ops(&mut self) -> Vec<RelayOp> {
        let mut ops = Vec::new();
        while self.0.contains(['(', '{']) {
            ops.push(match self.word() {
                "Client" => RelayOp::Client(self.side_op()),
                "Upstream" => RelayOp::Upstream(self.side_op()),
                "Connected" => {
                    assert_eq!(self.word(), "has_another");
                    RelayOp::Connected { has_another: self.word() == "true" }
                }
                "Refused" => {
                    assert_eq!((self.word(), self.word()), ("proxy", "ProxyReason"));
                    RelayOp::Refused(self.refusal())
                }
                "InjectReset" => {
                    let words = [(); 4].map(|()| self.word());
                    let side = Side::BOTH.into_iter().find(|side| format!("{side:?}") == words[3]);
                    assert_eq!(self.word(), "after");
                    RelayOp::InjectReset { to: side.unwrap(), after: self.number() as u64 }
                }
                name => panic!("an unknown op: {name}"),
            });
        }
        ops
    }

    /// The reason why a client is refused.
    fn refusal(&mut self) -> ProxyReason {
        match self.word() {
            "NoUpstream" => {
                let words = [(); 4].map(|()| self.word());
                assert_eq!(words[..3], ["proxy", "DialError", "new"]);
                let timeout = (words[3] == "Some").then(|| self.duration());
                ProxyReason::NoUpstream(DialError::new(timeout))
            }
            "Loop" => {
                assert_eq!(self.word(), "upstream");
                let (_, rest) = self.0.split_once(": \"").unwrap();
                let (upstream, rest) = rest.split_once("\".into() }").unwrap();
                self.0 = rest;
                ProxyReason::Loop { upstream: upstream.into() }
            }
            name => panic!("an unknown reason: {name}"),
        }
    }

    fn side_op(&mut self) -> Op {
        assert_eq!(self.word(), "Op");
        self.op()
    }

    /// What follows `Op::`.
    fn op(&mut self) -> Op {
        match self.word() {
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
        }
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
        self.0 = self.0[self.0.len() - rest.len()..].strip_prefix(".to_vec()").unwrap();
        bytes
    }
}
