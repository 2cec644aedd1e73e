//! The tokens of Rust source code, as far as they tell where a bracket ends.

/// Where the token ends that starts at the byte `start` of `text`: a comment, a literal, a word, or
/// a single character.
pub(crate) fn token(text: &str, start: usize) -> usize {
    let rest = &text[start..];
    let len = if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        rest.find("*/").map_or(rest.len(), |end| end + 2)
    } else if rest.starts_with('"') {
        quoted(rest)
    } else if rest.starts_with('\'') {
        character(rest)
    } else {
        let word = rest.find(|char: char| !char.is_alphanumeric() && char != '_');
        match word.unwrap_or(rest.len()) {
            0 => rest.chars().next().map_or(0, char::len_utf8),
            len => len + literal(&rest[..len], &rest[len..]),
        }
    };
    start + len.max(1)
}

/// The length of the literal that `rest` begins with, behind its prefix `word`. 0 if it is a word.
fn literal(word: &str, rest: &str) -> usize {
    match word {
        "r" | "br" | "cr" => {
            let hashes = rest.len() - rest.trim_start_matches('#').len();
            let end = format!("\"{}", &rest[..hashes]);
            let body = rest[hashes..].strip_prefix('"').and_then(|body| body.find(&end));
            body.map_or(0, |len| hashes + 1 + len + end.len())
        }
        "b" | "c" if rest.starts_with('"') => quoted(rest),
        "b" if rest.starts_with('\'') => character(rest),
        _ => 0,
    }
}

fn quoted(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|(_, char)| {
        let ends = *char == '"' && !is_escaped;
        is_escaped = *char == '\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |(end, _)| end + 1)
}

/// The length of a character, or 1 for the quote of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        // The escaped character may be a quote.
        Some((_, '\\')) => {
            let after = chars.by_ref().skip(1).find(|(_, char)| *char == '\'');
            after.map_or(1, |(end, _)| end + 1)
        }
        _ => chars.next().filter(|(_, char)| *char == '\'').map_or(1, |(end, _)| end + 1),
    }
}

/// The arguments in the brackets that open at the byte `open` of `text`, and where these close.
pub(crate) fn arguments(text: &str, open: usize) -> Option<(Vec<&str>, usize)> {
    let (mut depth, mut start, mut at) = (0, open + 1, open);
    let mut arguments = Vec::new();
    loop {
        let end = token(text, at);
        match text.get(at..end)? {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            "," if depth == 1 => {
                arguments.push(text[start..at].trim());
                start = end;
            }
            "" => return None,
            _ => {}
        }
        if depth == 0 {
            arguments.push(text[start..at].trim());
            arguments.retain(|argument| !argument.is_empty());
            return Some((arguments, at));
        }
        at = end;
    }
}

/// What a literal of a struct, enum, tuple, list or macro consists of: what precedes its bracket,
/// its items, and the rest, with the closing bracket.
pub(crate) fn items(text: &str) -> Option<(&str, Vec<&str>, &str)> {
    let mut at = 0;
    while at < text.len() {
        let end = token(text, at);
        if matches!(&text[at..end], "(" | "[" | "{") {
            let (items, close) = arguments(text, at)?;
            return Some((&text[..end], items, &text[close..]));
        }
        at = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_literals_and_comments_do_not_count() {
        for argument in [
            r#""(""#,
            r#"b"\")""#,
            "')'",
            r"'\''",
            "b'('",
            "r\"(\"",
            "r#\"(\"#",
            "|x| { x(1, 2) }",
            "&'a str",
            "/* ( */ 1",
            "'static",
        ] {
            let call = format!("call({argument}, 2) // (");
            assert_eq!(arguments(&call, 4), Some((vec![argument, "2"], call.len() - 6)), "{call}");
        }
        assert_eq!(arguments("call(1, 2", 4), None);
        assert_eq!(items("Op::Accept(1)"), Some(("Op::Accept(", vec!["1"], ")")));
        let bytes = r#"b"(\"".to_vec()"#;
        assert_eq!(items(bytes), Some((&bytes[..14], vec![], ")")));
        assert_eq!(items("Op::Eof"), None);
    }
}
