//! Data on standard output.

use std::io::{self, IsTerminal, Write};

use crate::CommandError;

/// Writes a line of data to standard output. On a terminal, control characters are escaped, because
/// a terminal executes them.
pub(super) fn write_line(line: &[u8]) -> Result<(), CommandError> {
    let mut output = io::stdout().lock();
    let written = if output.is_terminal() {
        output.write_all(printable(line).as_bytes())
    } else {
        output.write_all(line)
    };
    let written = written.and_then(|()| output.write_all(b"\n"));
    written.and_then(|()| output.flush()).map_err(CommandError::Output)
}

/// Writes text that this program has made to standard output.
pub(super) fn write(text: &[u8]) -> Result<(), CommandError> {
    let mut output = io::stdout().lock();
    output.write_all(text).and_then(|()| output.flush()).map_err(CommandError::Output)
}

/// As [`printable`], on one line: line feeds are escaped as well.
pub(super) fn printable_line(text: &str) -> String {
    printable(text.as_bytes()).replace('\n', "\\n")
}

/// Escapes, as in Rust's strings, bytes that are not UTF-8 and control characters except line feed
/// and tab (C0 and C1, ECMA-48, section 5; DEL).
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() && !matches!(char, '\n' | '\t') {
                text.extend(char.escape_default());
            } else {
                text.push(char);
            }
        }
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    text
}
