//! A test of a recorded session, and its source code.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt::Write as _;

use super::script::{Call, Facts, Op, Refusal, SideFacts, SideOp};

/// A test that shows the end of a recorded session, or where its replay differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShrunkTest {
    pub(super) ops: Vec<SideOp>,
    pub(super) shows: Shows,
    /// Of the test of a relay: the PROXY header for its upstream, or nothing.
    pub(super) header: Option<Vec<u8>>,
}

/// What the test shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    /// The machine panics.
    Panic(String),
    /// The machine ends: each side with an RST (true), with a FIN (false), or without either.
    End { label: String, endings: Vec<Option<bool>> },
    /// The recorded machine has done something else.
    Difference {
        /// What the recorded machine has done. `None`: it has panicked.
        recorded: Option<Facts>,
        /// What the machine does, or the message of its panic.
        actual: Result<Facts, String>,
        /// The output of each side.
        outputs: Vec<Vec<u8>>,
    },
}

impl ShrunkTest {
    /// The source code of the test. `items`: the items of `wirestate_core` that `machine`
    /// needs; `machine` is the expression that makes the machine at `Instant::EPOCH`.
    pub fn source(&self, items: &[&str], machine: &str) -> String {
        let has = |is: fn(&Op) -> bool| self.ops.iter().any(|(_, op)| is(op));
        let statements = self.statements();
        let mut core: Vec<&str> = items.to_vec();
        core.push("Instant");
        if has(|op| matches!(op, Op::Error(..))) {
            core.extend(["ConnectionError", "Direction"]);
        }
        if statements.contains("Digest::") {
            core.push("record::Digest");
        }
        // As rustfmt does: types first.
        core.sort_by_key(|item| (item.starts_with(char::is_lowercase), *item));
        let mut source = String::new();
        let has_time = |op: &Op| {
            matches!(op, Op::Advance(_) | Op::Call(Call::Refused(Refusal::ConnectTimeout)))
        };
        if has(has_time) {
            source.push_str("use std::time::Duration;\n\n");
        }
        let _ = writeln!(source, "use wirestate_core::{{{}}};", core.join(", "));
        let mut testkit = alloc::vec!["self"];
        if statements.contains("Ending::") {
            testkit.push("Ending");
        }
        if self.header.is_none() || has(|op| !matches!(op, Op::Call(_))) {
            testkit.push("Op");
        }
        let mut relay_ops: Vec<_> = self.ops.iter().map(relay_op).collect();
        relay_ops.sort_unstable();
        relay_ops.dedup();
        let testkit = testkit.join(", ");
        let testkit = match (&self.header, &relay_ops[..]) {
            (None, _) | (_, []) => format!("{{{testkit}}}"),
            (_, [one]) => format!("{{{testkit}, RelayOp::{one}}}"),
            (_, several) => {
                format!("{{\n    {testkit},\n    RelayOp::{{{}}},\n}}", several.join(", "))
            }
        };
        let _ = writeln!(source, "use wirestate_testkit::script::{testkit};\n");
        let (attribute, name) = match &self.shows {
            Shows::Panic(_) => ("", "a_session_does_not_panic".to_string()),
            Shows::End { label, .. } => ("", format!("a_session_ends_with_{label}")),
            Shows::Difference { recorded: None, .. } => {
                ("#[should_panic]\n", "a_session_panics_as_it_was_recorded".to_string())
            }
            Shows::Difference { .. } => ("", "a_session_is_as_it_was_recorded".to_string()),
        };
        let _ = writeln!(source, "#[test]\n{attribute}fn {name}() {{");
        let _ = writeln!(source, "    let mut {} = {machine};", self.variable());
        if let Some(header) = self.header.as_ref().filter(|header| !header.is_empty()) {
            let header = header.escape_ascii();
            let _ = writeln!(source, "    relay.send_proxy_header(b\"{header}\".to_vec());");
        }
        source.push_str(&self.ops());
        source.push_str(&statements);
        source.push_str("}\n");
        source
    }

    fn variable(&self) -> &'static str {
        if self.header.is_some() { "relay" } else { "machine" }
    }

    /// The statement that lists the ops.
    fn ops(&self) -> String {
        let ops = self.ops.iter().map(|side_op| match (&self.header, side_op) {
            (None, (_, op)) => op.to_string(),
            (Some(_), (side, Op::Call(call))) => call.source(*side),
            (Some(_), (_, op)) => format!("{}({op})", relay_op(side_op)),
        });
        let ops: Vec<_> = ops.collect();
        match format!("    let ops = [{}];\n", ops.join(", ")) {
            _ if ops.is_empty() && self.header.is_some() => "    let ops = [];\n".to_string(),
            _ if ops.is_empty() => "    let ops: [Op; 0] = [];\n".to_string(),
            line if line.len() <= MAX_COLUMNS => line,
            _ => format!("    let ops = [\n        {},\n    ];\n", ops.join(",\n        ")),
        }
    }

    /// The names of the transcripts.
    fn transcripts(&self) -> &'static [&'static str] {
        if self.header.is_some() { &["client", "upstream"] } else { &["transcript"] }
    }

    /// The statements of the test after its ops.
    fn statements(&self) -> String {
        let function = if self.header.is_some() { "play_relay" } else { "play" };
        let play = format!("script::{function}(&mut {}, &ops);\n", self.variable());
        let names = self.transcripts();
        let bound = match names {
            [name] => format!("    let {name} = {play}"),
            _ => format!("    let [{}] = {play}", names.join(", ")),
        };
        match &self.shows {
            Shows::Panic(message) => {
                format!("    // It has panicked: {}\n    {play}", first_line(message))
            }
            Shows::End { label, endings } => {
                let endings = endings.iter().copied().map(ending_source);
                let endings = endings.collect::<Vec<_>>().join(", ");
                let label = format!("Some({label:?})");
                if let [name] = names {
                    return format!(
                        "{bound}    assert_eq!(({name}.label, {name}.ending), ({label}, \
                         {endings}));\n"
                    );
                }
                let of: Vec<_> = names.iter().map(|name| format!("{name}.ending")).collect();
                format!(
                    "{bound}    assert_eq!({}.label, {label});\n    \
                     assert_eq!(({}), ({endings}));\n",
                    names[0],
                    of.join(", ")
                )
            }
            Shows::Difference { recorded: None, actual, outputs } => {
                let recorded = alloc::vec!["it panicked".to_string()];
                format!("{}    {play}", comment(&recorded, actual, outputs))
            }
            Shows::Difference { recorded: Some(recorded), actual, outputs } => {
                let mut text = comment(&sentences(recorded), actual, outputs);
                text.push_str(&bound);
                for (side, name) in recorded.sides.iter().zip(names) {
                    for assertion in side.assertions(name) {
                        let _ = writeln!(text, "    assert_eq!({assertion});");
                    }
                }
                if let Some(end) = &recorded.end {
                    let name = names[0];
                    let _ = writeln!(text, "    assert_eq!(({name}.done, {name}.label), {end:?});");
                }
                text
            }
        }
    }
}

/// The name of the `RelayOp` of an op.
fn relay_op((side, op): &SideOp) -> &'static str {
    match op {
        Op::Call(call) => call.name(),
        Op::Receive(_)
        | Op::Eof
        | Op::Error(..)
        | Op::Accept(_)
        | Op::Unacknowledged(_)
        | Op::Finished
        | Op::Advance(_)
        | Op::Timeout
        | Op::SpuriousTimeout
        | Op::ShutDown => ["Client", "Upstream"][*side],
    }
}

/// A comment that says how two machines differ.
fn comment(recorded: &[String], actual: &Result<Facts, String>, outputs: &[Vec<u8>]) -> String {
    let actual = match actual {
        Ok(facts) => sentences(facts),
        Err(message) => alloc::vec![format!("it panics: {}", first_line(message))],
    };
    let mut text = String::new();
    for (who, sentences) in [("Recorded", recorded), ("This program", &actual)] {
        for (sentence, side) in sentences.iter().zip([", client", ", upstream"]) {
            let side = if sentences.len() > 1 { side } else { "" };
            let _ = writeln!(text, "    // {who}{side}: {sentence}.");
        }
    }
    for (output, to) in outputs.iter().zip([" to the client", " to the upstream"]) {
        let to = if outputs.len() > 1 { to } else { "" };
        if (1..=MAX_SHOWN).contains(&output.len()) {
            let _ = writeln!(text, "    // It sends b\"{}\"{to}.", output.escape_ascii());
        }
    }
    text.push_str("    // If the recorded program was wrong, assert what is right instead.\n");
    text
}

/// What each side has done, in words. The last one also says how the machine has ended.
fn sentences(facts: &Facts) -> Vec<String> {
    let mut sentences: Vec<_> = facts.sides.iter().map(SideFacts::sentence).collect();
    if let (Some((is_done, label)), Some(last)) = (&facts.end, sentences.last_mut()) {
        last.push_str(if *is_done { ", ended" } else { ", not ended" });
        if let Some(label) = label {
            let _ = write!(last, ": {}", label.escape_debug());
        }
    }
    sentences
}

impl SideFacts {
    fn sentence(&self) -> String {
        let Self { input, output, ending, .. } = self;
        let digest =
            if *output == 0 { String::new() } else { format!(" ({})", self.digest_source()) };
        let ending = match ending {
            None => "no FIN or RST",
            Some(false) => "a FIN",
            Some(true) => "an RST",
        };
        format!("{input} bytes read, {output} bytes sent{digest}, {ending}")
    }

    fn digest_source(&self) -> String {
        format!("0x{:04x}_{:04x}", self.digest >> 16, self.digest & 0xffff)
    }

    /// The expressions that are equal for a machine that has done this. `name`: the
    /// variable of the transcript.
    fn assertions(&self, name: &str) -> Vec<String> {
        let Self { input, output, ending, .. } = self;
        let lengths = format!("({name}.input.len(), {name}.output.len())");
        let mut assertions = alloc::vec![format!("{lengths}, ({input}, {output})")];
        if *output > 0 {
            let digest = self.digest_source();
            assertions.push(format!("Digest::of(&{name}.output) & 0xffff_ffff, {digest}"));
        }
        assertions.push(format!("{name}.ending, {}", ending_source(*ending)));
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

/// The first line of the message of a panic, for a comment.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().escape_debug().to_string()
}

/// The longest line of source code, with its end.
const MAX_COLUMNS: usize = 101;
/// The longest output that a comment shows, in bytes.
const MAX_SHOWN: usize = 200;
