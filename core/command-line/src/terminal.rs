//! What a terminal on an output stream can show: colours, and text that is overwritten in place.

use std::io::IsTerminal;

use anstyle_query::{clicolor_force, no_color, term_supports_color};

/// Whether text on `stream` has colours: if it is a terminal and `TERM` is set, and not to `dumb`.
/// A `NO_COLOR` that is not empty switches colours off (<https://no-color.org>). Otherwise a
/// `CLICOLOR_FORCE` that is not empty switches them on (<https://bixense.com/clicolors>).
pub(super) fn has_colours(stream: &impl IsTerminal) -> bool {
    !no_color() && (clicolor_force() || moves_cursor(stream))
}

/// Whether escape sequences that erase text and move the cursor work on `stream`: if it is a
/// terminal and `TERM` is set, and not to `dumb`.
pub(super) fn moves_cursor(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && term_supports_color()
}
