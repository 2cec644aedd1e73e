//! Progress on standard error.

use std::io;

use crate::{log, terminal::moves_cursor};

/// A line on standard error that is overwritten in place. If standard error is not a terminal that
/// obeys escape sequences, each text is written as a new line.
pub(super) struct ProgressLine {
    pub(super) is_terminal: bool,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self { is_terminal: moves_cursor(&io::stderr()) }
    }

    /// Replaces the line by `text`, cut to the terminal's width.
    pub(super) fn show(&self, text: &str) {
        if self.is_terminal {
            // Switches wrapping off and on (DECAWM), erases the rest of the line (EL), and returns
            // to its start.
            log::write(&format!("\x1b[?7l{text}\x1b[?7h\x1b[K\r"));
        } else {
            log::write(&format!("{text}\n"));
        }
    }

    /// Erases the line. Call it before writing to standard output.
    pub(super) fn clear(&self) {
        if self.is_terminal {
            log::prompt("\x1b[K");
        }
    }

    /// Ends the line, so that the next output does not overwrite it.
    pub(super) fn end(&self) {
        if self.is_terminal {
            log::write("\n");
        }
    }
}
