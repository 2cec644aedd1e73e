//! A failing case as a test in Rust.

use std::{
    any::type_name,
    fmt::{Debug, Write as _},
};

use super::{
    Found,
    literal::{bind, bytes_source, layout},
};
use crate::{
    failure::{Copy, Failure, Place, indented},
    script::{Ending, Op, Transcript},
};

/// A test that runs only the case of `found`.
///
/// If the call of `for_each_case` is in a test, this is a copy of that test. Otherwise its body is
/// left to the reader. `test_type`: the name of the closure's type, which begins with its crate.
pub(super) fn case<T: Debug>(place: &Place, found: &Found<T>, test_type: &str) -> String {
    let source = place.source().unwrap_or_default();
    let copy = Copy::of(&source, place, "for_each_case");
    let copy = copy.as_ref().and_then(|copy| Some((copy, *copy.arguments.last()?)));
    let Some((copy, test)) = copy else {
        let (statements, case) = bind(&found.case, "case", "    ");
        let body = format!(
            "{statements}    wirestate_testkit::replay_case({case}, |case| {{\n        \
             // as in `for_each_case`\n    }});\n"
        );
        return skeleton(place, &found.failure, &body);
    };
    // The parameter of the closure. There is none if the argument is a function.
    let closure = test.trim_start_matches("move ").strip_prefix('|');
    let pattern = closure.and_then(|closure| closure.split_once('|'));
    let pattern = pattern.map_or("case", |(pattern, _)| pattern.trim());
    let indent = copy.call_indent;
    let (statements, case) = bind(&found.case, pattern, indent);
    let mut items = imports(&source, &statements, copy.indent);
    items += &own_imports(&source, type_name::<T>(), test_type, copy.indent);
    let mut call = format!("replay_case({case}, {})", indented(test, indent));
    let first = call.lines().next().map_or(0, |line| line.chars().count());
    if indent.len() + "wirestate_testkit::".len() + first > 100 {
        let deeper = format!("{indent}    ");
        let test = indented(test, &deeper);
        call = format!("replay_case(\n{deeper}{case},\n{deeper}{test},\n{indent})");
    }
    let call = format!("wirestate_testkit::{call}");
    found.failure.comment(copy.indent) + &copy.with("case", &items, &statements, &call)
}

/// A test that plays `ops` to the machine that is the first argument of `callee`, with what is
/// `expected` of its transcript. `None` if the machine panics.
pub(crate) fn print_script(
    place: &Place,
    callee: &str,
    failure: &Failure,
    ops: &[Op],
    differs: Option<(&Transcript, &Transcript)>,
) -> String {
    let source = place.source().unwrap_or_default();
    let copy = Copy::of(&source, place, callee);
    let indent = copy.as_ref().map_or("    ", |copy| copy.call_indent);
    let (mut statements, _) = bind(&ops.to_vec(), "ops", indent);
    let machine = copy.as_ref().and_then(|copy| copy.arguments.first()).copied();
    let is_name = |text: &str| text.chars().all(|char| char.is_alphanumeric() || char == '_');
    let (binding, machine) = match machine {
        Some(name) if is_name(name) => (String::new(), name),
        Some(machine) => {
            (format!("{indent}let machine = {};\n", indented(machine, indent)), "machine")
        }
        None => (format!("{indent}let machine = || // as in `{callee}`\n"), "machine"),
    };
    statements.insert_str(0, &binding);
    let play = format!("wirestate_testkit::script::play_out(&mut {machine}(), &ops)");
    let mut lines = match differs {
        None => vec![play],
        Some((actual, expected)) => {
            let mut lines = vec![format!("let transcript = {play}")];
            if actual.output != expected.output {
                let output = bytes_source(&expected.output);
                let output = output.strip_suffix(".to_vec()").unwrap_or(&output);
                lines.push(format!("assert_eq!(transcript.output, {output})"));
            }
            if actual.ending != expected.ending {
                let ending = match expected.ending {
                    None => "None",
                    Some(Ending::Fin) => "Some(wirestate_testkit::script::Ending::Fin)",
                    Some(Ending::Rst) => "Some(wirestate_testkit::script::Ending::Rst)",
                };
                lines.push(format!("assert_eq!(transcript.ending, {ending})"));
            }
            if actual.reason != expected.reason {
                let reason = &expected.reason;
                lines.push(format!("assert_eq!(transcript.reason.as_deref(), {reason:?})"));
            }
            lines
        }
    };
    let last = lines.pop().unwrap_or_default();
    for line in lines {
        statements += &layout(indent, "", &line, ";");
    }
    // The call has a semicolon behind it.
    let last = layout(indent, "", &last, "");
    let Some(copy) = copy else {
        return skeleton(place, failure, &(statements + last.trim_end() + ";\n"));
    };
    let items = imports(&source, &statements, copy.indent);
    failure.comment(copy.indent) + &copy.with("case", &items, &statements, last.trim())
}

/// A test with this body.
fn skeleton(place: &Place, failure: &Failure, body: &str) -> String {
    let items = imports("", body, "");
    format!("{}#[test]\nfn {}_case() {{\n{items}{body}}}\n", failure.comment(""), place.function())
}

/// The `use` of each item in `text` that `source` does not import.
fn imports(source: &str, text: &str, indent: &str) -> String {
    let imported = imported(source, indent);
    let mut items = String::new();
    for (item, path) in [
        ("Bytes", "bytes"),
        ("ConnectionError", "wirestate_core"),
        ("Direction", "wirestate_core"),
        ("Duration", "std::time"),
        ("Op", "wirestate_testkit::script"),
    ] {
        if has_word(text, item) && !has_word(&imported, item) {
            let _ = writeln!(items, "{indent}    use {path}::{item};");
        }
    }
    items
}

/// The `use` of each type of the test's own crate in the type name `ty` that `source` neither
/// imports nor defines.
fn own_imports(source: &str, ty: &str, test_type: &str, indent: &str) -> String {
    let imported = imported(source, indent);
    let own = test_type.split("::").next().unwrap_or_default();
    let mut items = String::new();
    for path in ty.split(|char: char| !char.is_alphanumeric() && char != '_' && char != ':') {
        let Some((name, path)) = path.rsplit("::").next().zip(path.strip_prefix(own)) else {
            continue;
        };
        let is_defined = ["enum", "struct"].iter().any(|x| source.contains(&format!("{x} {name}")));
        if path.starts_with("::") && !is_defined && !has_word(&imported, name) {
            let _ = writeln!(items, "{indent}    use crate{path};");
        }
    }
    items
}

/// The imports of `source` that have this indent.
fn imported(source: &str, indent: &str) -> String {
    let mut imported = String::new();
    let mut is_import = false;
    for line in source.lines() {
        is_import |= line.strip_prefix(indent).is_some_and(|line| line.starts_with("use "));
        if is_import {
            imported.push_str(line);
            is_import = !line.contains(';');
        }
    }
    imported
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|char: char| !char.is_alphanumeric() && char != '_').any(|other| other == word)
}
