//! Values as Rust source code.

use std::{
    any::type_name,
    fmt::{Debug, Write as _},
    ops::Range,
    time::Duration,
};

use crate::failure::{arguments, items, token};

/// Statements that bind `value` to `pattern`, and the expression that has its value then. A tuple
/// is bound part by part, if the pattern is a tuple.
///
/// The source code is the value's `Debug`, with what `Debug` leaves out of the standard library's
/// types and before the name of a variant.
pub(super) fn bind<T: Debug>(value: &T, pattern: &str, indent: &str) -> (String, String) {
    let mut statements = String::new();
    let expression =
        bind_part(type_name::<T>(), &format!("{value:?}"), pattern, indent, &mut statements);
    (statements, expression)
}

fn bind_part(
    ty: &str,
    debug: &str,
    pattern: &str,
    indent: &str,
    statements: &mut String,
) -> String {
    if pattern.starts_with('(')
        && let Some((patterns, _)) = arguments(pattern, 0)
        && let ("", types) = parts_of(ty)
        && let Some((values, _)) = arguments(debug, 0)
        && (patterns.len(), values.len()) == (types.len(), types.len())
    {
        let parts = types.iter().zip(values).zip(patterns);
        let parts = parts.map(|((ty, debug), part)| bind_part(ty, debug, part, indent, statements));
        return format!("({})", parts.collect::<Vec<_>>().join(", "));
    }
    let text = source(ty, debug);
    let name = pattern.trim_start_matches("mut ");
    let name = name.split_once(':').map_or(name, |(name, _)| name.trim());
    match name {
        "_" => return text,
        name if is_word(name) => statements.push_str(&statement(name, ty, &text, indent)),
        _ => return bind_part(ty, debug, "case", indent, statements),
    }
    name.to_owned()
}

/// A `let` statement with a value of the type `ty`.
fn statement(name: &str, ty: &str, text: &str, indent: &str) -> String {
    let ty = without_paths(ty);
    // Otherwise a number or an empty list may get another type.
    let is_number = |word: &str| {
        let digits = word.trim_start_matches(['u', 'i', 'f']);
        !word.is_empty() && (digits == "size" || digits.parse::<u8>().is_ok())
    };
    let has_number = ty.split(|char: char| !char.is_alphanumeric()).any(is_number);
    let is_open = has_number && !text.starts_with("b\"");
    let is_open = is_open || text.contains("vec![]") || text.contains("None");
    let ty = if is_open { format!(": {ty}") } else { String::new() };
    layout(indent, &format!("let {name}{ty} = "), text, ";")
}

/// The source code of a value of the type `ty`.
fn source(ty: &str, debug: &str) -> String {
    let each = |types: &mut dyn Iterator<Item = &str>| -> Option<String> {
        let (values, _) = arguments(debug, 0)?;
        let values = values.iter().zip(types).map(|(debug, ty)| source(ty, debug));
        Some(values.collect::<Vec<_>>().join(", "))
    };
    let (head, types) = parts_of(ty);
    let text = match (head, &types[..]) {
        ("alloc::vec::Vec", ["u8"]) => {
            let values = arguments(debug, 0).map(|(values, _)| values).unwrap_or_default();
            let values: Result<Vec<u8>, _> = values.iter().map(|value| value.parse()).collect();
            values.ok().map(|bytes| bytes_source(&bytes))
        }
        ("alloc::vec::Vec", [ty]) => {
            each(&mut std::iter::repeat(*ty)).map(|items| format!("vec![{items}]"))
        }
        ("[", [ty, ..]) => each(&mut std::iter::repeat(*ty)).map(|items| format!("[{items}]")),
        ("", [ty]) => each(&mut std::iter::once(*ty)).map(|item| format!("({item},)")),
        ("", types) => each(&mut types.iter().copied()).map(|items| format!("({items})")),
        ("core::option::Option", [ty]) => debug.strip_prefix("Some").map(|value| {
            let (values, _) = arguments(value, 0).unwrap_or_default();
            format!("Some({})", source(ty, values.first().unwrap_or(&"")))
        }),
        ("alloc::boxed::Box", [ty]) => Some(format!("Box::new({})", source(ty, debug))),
        ("alloc::string::String", []) => Some(format!("{debug}.to_owned()")),
        ("bytes::bytes::Bytes", []) => Some(format!("Bytes::from_static({debug})")),
        ("core::time::Duration", []) => duration(debug).map(duration_source),
        ("&str", []) => None,
        _ => Some(of_own_type(head, debug)),
    };
    text.unwrap_or_else(|| debug.to_owned())
}

/// As `Debug`, but a variant has the name of its type, a list is a `Vec`, and a text is converted.
fn of_own_type(path: &str, debug: &str) -> String {
    let name = path.rsplit("::").next().unwrap_or(path);
    let (first, rest) = debug.split_at(token(debug, 0).min(debug.len()));
    if first == name && rest.starts_with("::") {
        return debug.to_owned(); // it is source code already
    }
    let is_variant = first.starts_with(char::is_uppercase) && first != name;
    let mut text = if is_variant { format!("{name}::") } else { String::new() };
    let mut at = 0;
    while at < debug.len() {
        let mut end = token(debug, at);
        let part = &debug[at..end];
        if part == "[" {
            text.push_str("vec![");
        } else if part.starts_with('"') {
            let _ = write!(text, "{part}.into()");
        } else if let Some((len, time)) = duration_at(&debug[at..]) {
            text.push_str(&duration_source(time));
            end = at + len;
        } else {
            text.push_str(part);
        }
        at = end;
    }
    text
}

/// The `Debug` of a duration that `text` starts with, and its length.
fn duration_at(text: &str) -> Option<(usize, Duration)> {
    let unit =
        text.find(|char: char| char != '.' && !char.is_ascii_digit()).filter(|at| *at > 0)?;
    let rest = &text[unit..];
    let len = unit + rest.find(|char: char| !char.is_alphabetic()).unwrap_or(rest.len());
    Some((len, duration(&text[..len])?))
}

/// The head and the parameters of a type's name. The head of a tuple is empty, and the one of an
/// array is `[`.
fn parts_of(ty: &str) -> (&str, Vec<&str>) {
    let (head, inner) = if let Some(inner) = ty.strip_prefix('(') {
        ("", inner.strip_suffix(')'))
    } else if let Some(inner) = ty.strip_prefix('[') {
        ("[", inner.strip_suffix(']'))
    } else if let Some((head, inner)) = ty.split_once('<') {
        (head, inner.strip_suffix('>'))
    } else {
        (ty, None)
    };
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    let Some(inner) = inner else { return (head, parts) };
    for (at, char) in inner.char_indices() {
        match char {
            '(' | '[' | '<' => depth += 1,
            ')' | ']' | '>' => depth -= 1,
            ',' | ';' if depth == 0 => {
                parts.push(inner[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(inner[start..].trim());
    parts.retain(|part| !part.is_empty());
    (head, parts)
}

fn without_paths(ty: &str) -> String {
    let mut text = String::new();
    for part in
        ty.split_inclusive(|char: char| char != ':' && !char.is_alphanumeric() && char != '_')
    {
        text.push_str(part.rsplit("::").next().unwrap_or(part));
    }
    text
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_alphanumeric() || char == '_')
}

/// The duration that has this `Debug`.
fn duration(debug: &str) -> Option<Duration> {
    let unit = debug.find(|char: char| char != '.' && !char.is_ascii_digit())?;
    let (number, unit) = debug.split_at(unit);
    let digits = match unit {
        "s" => 9,
        "ms" => 6,
        "µs" => 3,
        "ns" => 0,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let nanos = format!("{whole}{fraction:0<digits$}").parse::<u128>().ok()?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// The source code of a duration.
pub(crate) fn duration_source(time: Duration) -> String {
    let nanos = time.as_nanos();
    for (unit, name) in [(1_000_000_000, "secs"), (1_000_000, "millis"), (1000, "micros")] {
        if nanos.is_multiple_of(unit) {
            return format!("Duration::from_{name}({})", nanos / unit);
        }
    }
    match u64::try_from(nanos) {
        Ok(nanos) => format!("Duration::from_nanos({nanos})"),
        Err(_) => format!("Duration::new({}, {})", time.as_secs(), time.subsec_nanos()),
    }
}

/// The source code of a `Vec` of bytes.
pub(crate) fn bytes_source(bytes: &[u8]) -> String {
    let run = |bytes: &[u8]| match bytes[0] {
        byte if byte.is_ascii_graphic() => format!("b'{}'; {}", byte.escape_ascii(), bytes.len()),
        byte => format!("{byte}; {}", bytes.len()),
    };
    // The frames of a flood repeat.
    let repeats = |len: &usize| {
        bytes.len().is_multiple_of(*len) && bytes[*len..] == bytes[..bytes.len() - len]
    };
    if bytes.len() >= LONG_RUN
        && let Some(len) = (2..=bytes.len() / 4).take(MAX_PERIOD).find(repeats)
        && bytes[..len] != [bytes[0]].repeat(len)
    {
        return format!("b\"{}\".repeat({})", bytes[..len].escape_ascii(), bytes.len() / len);
    }
    // What lies between two long runs is one piece.
    let mut pieces: Vec<(bool, Range<usize>)> = Vec::new();
    let mut end = 0;
    for equal in bytes.chunk_by(|one, other| one == other) {
        let start = end;
        end += equal.len();
        let is_run = equal.len() >= LONG_RUN;
        match pieces.last_mut().filter(|(was_run, _)| !was_run && !is_run) {
            Some((_, piece)) => piece.end = end,
            None => pieces.push((is_run, start..end)),
        }
    }
    let piece = |(is_run, piece): &(bool, Range<usize>)| {
        let bytes = &bytes[piece.clone()];
        if *is_run { format!("[{}]", run(bytes)) } else { format!("b\"{}\"", bytes.escape_ascii()) }
    };
    match &pieces[..] {
        [] => "b\"\".to_vec()".to_owned(),
        [(true, _)] => format!("vec!{}", piece(&pieces[0])),
        [(false, _)] => format!("{}.to_vec()", piece(&pieces[0])),
        _ => {
            let pieces: Vec<_> = pieces.iter().map(|one| format!("&{}[..]", piece(one))).collect();
            format!("[{}].concat()", pieces.join(", "))
        }
    }
}

/// Lines of source code: `head`, the expression `text`, and `tail`. An expression that is too long
/// for one line has a line for each item.
pub(crate) fn layout(indent: &str, head: &str, text: &str, tail: &str) -> String {
    let line = format!("{indent}{head}{text}{tail}\n");
    if line.chars().count() <= MAX_COLUMNS {
        return line;
    }
    let literal = text.trim_start_matches('&');
    if literal.trim_start_matches('b').starts_with('"') {
        let (literal, method) = text.split_at(text.len() - literal.len() + token(literal, 0));
        let literal = broken(indent, &format!("{indent}{head}{literal}"));
        return format!("{literal}{}{tail}\n", of_lines(indent, method));
    }
    match items(text) {
        Some((open, items, close)) if !items.is_empty() => {
            let deeper = format!("{indent}    ");
            let items = if items.iter().all(|item| item.len() <= SHORT_ITEM) {
                filled(&deeper, &items)
            } else {
                items.iter().map(|item| layout(&deeper, "", item, ",")).collect()
            };
            let (close, method) = close.split_at(1);
            let method = of_lines(indent, method);
            format!("{indent}{head}{open}\n{items}{indent}{close}{method}{tail}\n")
        }
        _ => line,
    }
}

/// The call of a method on an expression that has several lines.
fn of_lines(indent: &str, method: &str) -> String {
    if method.starts_with('.') { format!("\n{indent}{method}") } else { method.to_owned() }
}

/// Lines of short items.
fn filled(indent: &str, items: &[&str]) -> String {
    let (mut text, mut width) = (String::new(), MAX_COLUMNS);
    for item in items {
        if width + item.len() + 2 >= MAX_COLUMNS {
            let _ = write!(text, "\n{indent}{item},");
            width = indent.len() + item.len() + 1;
        } else {
            let _ = write!(text, " {item},");
            width += item.len() + 2;
        }
    }
    text.trim_start_matches('\n').to_owned() + "\n"
}

/// A line with a string that is too long, as lines that end within the string.
fn broken(indent: &str, line: &str) -> String {
    let (mut text, mut width) = (String::new(), 0);
    let (mut is_inside, mut rest) = (false, line);
    while let Some(char) = rest.chars().next() {
        // An escape is not broken.
        let len = match rest.as_bytes() {
            [b'\\', b'x', ..] => 4,
            [b'\\', b'u', ..] => rest.find('}').map_or(2, |end| end + 1),
            [b'\\', ..] => 2,
            _ => char.len_utf8(),
        };
        let (unit, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        let is_quote = char == '"';
        if is_inside && !is_quote && width + len.max(4) + 1 >= MAX_COLUMNS {
            let _ = write!(text, "\\\n{indent}    ");
            width = indent.len() + 4;
            // Spaces at the start of a line are not part of the string.
            let unit = if unit == " " { "\\x20" } else { unit };
            text.push_str(unit);
            width += unit.len();
            continue;
        }
        is_inside ^= is_quote;
        text.push_str(unit);
        width += len;
    }
    text
}

/// The longest line of source code, with its end.
const MAX_COLUMNS: usize = 101;
/// The most bytes that are searched for a repetition.
const MAX_PERIOD: usize = 100;
/// The longest item of which a line has several, as for rustfmt.
const SHORT_ITEM: usize = 10;
/// How many equal bytes are written as a number.
const LONG_RUN: usize = 24;

#[cfg(test)]
mod tests {
    use wirestate_core::{ConnectionError, Direction, proxy::Side};

    use super::*;
    use crate::script::Op;

    #[derive(Debug)]
    #[expect(dead_code, reason = "only `Debug` reads them")]
    enum Act {
        Leave,
        Say(&'static str),
        Move { by: Vec<u8>, to: String, within: Duration },
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "only `Debug` reads it")]
    struct Size {
        of: usize,
    }

    fn bound<T: Debug>(value: T, pattern: &str) -> String {
        bind(&value, pattern, "").0
    }

    #[test]
    fn values_are_source_code() {
        assert_eq!(bound(vec![Op::Eof], "ops"), "let ops = vec![Op::Eof];\n");
        assert_eq!(bound(Vec::<Op>::new(), "ops"), "let ops: Vec<Op> = vec![];\n");
        let sides = vec![(Side::Client, Op::Accept(usize::MAX))];
        let source = "let ops = vec![(Side::Client, Op::Accept(usize::MAX))];\n";
        assert_eq!(bound(sides, "ops"), source);
        let indexed = "let ops: Vec<(usize, Op)> = vec![(1, Op::Eof)];\n";
        assert_eq!(bound(vec![(1_usize, Op::Eof)], "ops"), indexed);
        assert_eq!(bound(b"a\"\n".to_vec(), "case"), "let case = b\"a\\\"\\n\".to_vec();\n");
        assert_eq!(bound(vec![7_u8; 40], "case"), "let case: Vec<u8> = vec![7; 40];\n");
        let repeated = "let case = b\"ab\\n\".repeat(20);\n";
        assert_eq!(bound(b"ab\n".repeat(20), "case"), repeated);
        assert_eq!(bound([1_u8, 2], "case"), "let case: [u8; 2] = [1, 2];\n");
        assert_eq!(bound("a, b", "case"), "let case = \"a, b\";\n");
        assert_eq!(bound("(".to_owned(), "case"), "let case = \"(\".to_owned();\n");
        assert_eq!(bound(Some(3_u64), "case"), "let case: Option<u64> = Some(3);\n");
        assert_eq!(bound(None::<bool>, "case"), "let case: Option<bool> = None;\n");
        let time = Duration::from_millis(1500);
        assert_eq!(bound(time, "case"), "let case = Duration::from_millis(1500);\n");
        let within = Duration::from_millis(20);
        let go = Act::Move { by: vec![1], to: "b".into(), within };
        let acts = vec![Act::Leave, Act::Say("a"), go];
        let source = "let case = vec![
    Act::Leave,
    Act::Say(\"a\".into()),
    Act::Move { by: vec![1], to: \"b\".into(), within: Duration::from_millis(20) },
];
";
        assert_eq!(bound(acts, "case"), source);
        assert_eq!(bound(Size { of: 1 }, "case"), "let case = Size { of: 1 };\n");
    }

    #[test]
    fn a_tuple_is_bound_part_by_part() {
        let (statements, expression) = bind(&(vec![Op::Eof], 2_u8, true), "(mut ops, n, _)", "  ");
        assert_eq!(statements, "  let ops = vec![Op::Eof];\n  let n: u8 = 2;\n");
        assert_eq!(expression, "(ops, n, true)");
        let nested = bind(&((1_u8, 2_u8), vec![3_u8]), "((a, b), c): ((u8, u8), _)", "");
        assert_eq!(nested.1, "((a, b), c)");
        let whole = bind(&(1_u8, true), "case", "");
        assert_eq!(whole, ("let case: (u8, bool) = (1, true);\n".to_owned(), "case".to_owned()));
        assert_eq!(bind(&[1_u8, 2], "[a, b]", "").1, "case");
    }

    #[test]
    fn durations_have_their_largest_unit() {
        for (time, source) in [
            (Duration::ZERO, "Duration::from_secs(0)"),
            (Duration::from_secs(90), "Duration::from_secs(90)"),
            (Duration::from_micros(1500), "Duration::from_micros(1500)"),
            (Duration::from_nanos(1), "Duration::from_nanos(1)"),
            (Duration::MAX, "Duration::new(18446744073709551615, 999999999)"),
        ] {
            assert_eq!(duration_source(time), source);
            assert_eq!(duration(&format!("{time:?}")), Some(time));
        }
    }

    #[test]
    fn long_lists_and_strings_have_several_lines() {
        let (numbers, _) = bind(&vec![None::<bool>; 30], "case", "");
        let lines: Vec<_> = numbers.lines().collect();
        assert_eq!(lines[0], "let case: Vec<Option<bool>> = vec![");
        assert_eq!((lines[1], lines.len()), (&*format!("   {}", " None,".repeat(16)), 4));

        let error = Op::Error(Direction::Read, ConnectionError::Other { errno: 5 });
        let ops = vec![Op::Receive([&b"head"[..], &[0; 99]].concat()), error, Op::Eof];
        let source = "    let ops = vec![
        Op::Receive([&b\"head\"[..], &[0; 99][..]].concat()),
        Op::Error(Direction::Read, ConnectionError::Other { errno: 5 }),
        Op::Eof,
    ];
";
        assert_eq!(bind(&ops, "ops", "    ").0, source);

        let bytes = [&b"a b\n".repeat(75)[..], b"!"].concat();
        let (source, _) = bind(&vec![Op::Receive(bytes)], "ops", "    ");
        assert!(source.lines().all(|line| line.len() <= 100), "{source}");
        // A continued line skips spaces.
        let joined: String = source.split("\\\n").map(str::trim_start).collect();
        assert_eq!(joined.matches("a b\\n").count() + joined.matches("a\\x20b").count(), 75);
    }
}
