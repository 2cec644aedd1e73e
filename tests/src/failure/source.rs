//! A copy of a test, in which one call is replaced.

use std::fmt::Write as _;

use super::{
    place::Place,
    tokens::{arguments, token},
};

/// A test, and a call in it.
pub(crate) struct Copy<'a> {
    /// From `#[test]` to the end of the function.
    text: &'a str,
    /// The function of the test.
    function: &'a str,
    /// Where the call starts in `text`: at the start of its statement, if it is a method.
    start: usize,
    /// Where it ends.
    end: usize,
    /// The indent of `#[test]`.
    pub(crate) indent: &'a str,
    /// The indent of the call.
    pub(crate) call_indent: &'a str,
    pub(crate) arguments: Vec<&'a str>,
}

impl<'a> Copy<'a> {
    /// The test in `source` that calls `callee` at `place`. `None` if there is none.
    pub(crate) fn of(source: &'a str, place: &'a Place, callee: &str) -> Option<Self> {
        let (line, column) = (place.location.line() as usize, place.location.column() as usize);
        let call = line.checked_sub(1)?;
        let mut starts = vec![0];
        starts.extend(source.match_indices('\n').map(|(end, _)| end + 1));
        let lines: Vec<&str> = source.lines().collect();

        let first = (0..=call).rev().find(|i| lines.get(*i).is_some_and(|x| x.trim() == "#[test]"));
        let first = first?;
        let indent = indent(lines[first]);
        let is_end = |i: &usize| lines[*i].strip_prefix(indent) == Some("}");
        let last = (first..lines.len()).find(is_end).filter(|last| *last > call)?;
        let text = &source[starts[first]..starts[last] + lines[last].len()];

        let chars: usize = lines[call].chars().take(column - 1).map(char::len_utf8).sum();
        let at = starts[call] + chars - starts[first];
        let open = at + text.get(at..)?.find(&format!("{callee}("))? + callee.len();
        let (arguments, close) = arguments(text, open)?;
        let before = text[..at].trim_end();
        let is_method = before.ends_with('.') || text[at..open].contains('.');
        let start = if is_method { statement(text, at) } else { at };
        let start = start + if text[start..].starts_with("return ") { 7 } else { 0 };
        let line_start = text[..start].rfind('\n').map_or(0, |end| end + 1);
        let call_indent = self::indent(&text[line_start..]);
        let function = place.function();
        Some(Self { text, function, start, end: close + 1, indent, call_indent, arguments })
    }

    /// The test with `suffix` at its name, and `call` in place of the call. `statements` come
    /// before it, and `items` at the start of the function. Each of them has whole lines.
    pub(crate) fn with(&self, suffix: &str, items: &str, statements: &str, call: &str) -> String {
        let Self { text, function, start, end, .. } = *self;
        let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
        let mut before = text[..line].to_owned();
        if let Some(at) = before.find(&format!("fn {function}(")) {
            before.insert_str(at + "fn ".len() + function.len(), &format!("_{suffix}"));
            if let Some(body) = before[at..].find("{\n").filter(|_| !items.is_empty()) {
                before.insert_str(at + body + 2, items);
            }
        }
        let mut copy = before + statements;
        let _ = writeln!(copy, "{}{call}{}", &text[line..start], &text[end..]);
        copy
    }
}

/// Where the statement starts that has the byte `at` of `text`.
fn statement(text: &str, at: usize) -> usize {
    let mut starts = vec![0];
    let mut i = 0;
    while i < at {
        let end = token(text, i);
        match &text[i..end] {
            "{" => starts.push(end),
            "(" | "[" => starts.push(starts.last().copied().unwrap_or(end)),
            "}" => {
                starts.pop();
                starts.pop();
                starts.push(end);
            }
            ")" | "]" => drop(starts.pop()),
            ";" => {
                starts.pop();
                starts.push(end);
            }
            text if text.starts_with("//") => {
                let is_before = starts.last().is_some_and(|start| *start == i);
                if is_before {
                    starts.pop();
                    starts.push(end);
                }
            }
            text if text.trim().is_empty() => {
                if let Some(start) = starts.last_mut().filter(|start| **start == i) {
                    *start = end;
                }
            }
            _ => {}
        }
        i = end;
    }
    starts.pop().unwrap_or(at)
}

/// `text`, for a line with the indent `to`.
pub(crate) fn indented(text: &str, to: &str) -> String {
    let from = text.lines().last().map_or("", indent);
    let line = |line: &str| match line.strip_prefix(from) {
        Some(rest) => format!("\n{to}{rest}"),
        None => format!("\n{line}"),
    };
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    first + &lines.map(line).collect::<String>()
}

fn indent(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}
