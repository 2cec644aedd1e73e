//! Where and why a test panics, without printing it.

use std::{
    cell::{Cell, RefCell},
    panic::{self, Location},
    path::Path,
    sync::Once,
};

use crate::pages;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// A panic, as far as it says whether two runs fail for the same reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The place in the source.
    place: String,
    /// The first line of the message.
    message: String,
}

impl Failure {
    /// A panic at `place` with this message.
    pub(crate) fn at(place: &Location<'_>, message: &str) -> Self {
        let message = message.lines().next().unwrap_or_default().to_owned();
        Self { place: place.to_string(), message }
    }

    /// The place, and the first 90 characters of the message.
    pub(crate) fn text(&self) -> (&str, String) {
        let mut message: String = self.message.chars().take(90).collect();
        if message.len() < self.message.len() {
            message.push('…');
        }
        (&self.place, message)
    }

    /// A comment that says how a test fails.
    pub(crate) fn comment(&self, indent: &str) -> String {
        let (place, message) = self.text();
        // A place in this crate says nothing.
        let is_own = place.starts_with(file!().trim_end_matches("failure/panics.rs"));
        let at = if is_own || place.is_empty() { String::new() } else { format!(" at {place}") };
        format!("{indent}// Fails{at}:\n{indent}// {message}\n")
    }

    /// Whether `other` was raised at the same place, with the same text up to the first comma.
    ///
    /// Figures and what is in parentheses do not count: a smaller world has other times, lengths
    /// and connections. What follows the comma is a list or a detail.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.place == other.place && gist(&self.message) == gist(&other.message)
    }

    /// Whether it is in the directory `tests` that has the test's `source`. Without one, whether it
    /// is in `source` itself.
    pub(crate) fn is_of_test(&self, source: &str) -> bool {
        let source = Path::new(source);
        let tests = source.ancestors().find(|dir| dir.ends_with("tests")).unwrap_or(source);
        let file = self.place.rsplitn(3, ':').last();
        file.is_some_and(|file| Path::new(file).starts_with(tests))
    }
}

/// `message` up to the first comma, without figures and what is in parentheses.
fn gist(message: &str) -> String {
    let mut depth = 0_usize;
    let mut gist = String::new();
    for char in message.chars() {
        match char {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => break,
            '.' | '0'..='9' => {}
            _ if depth > 0 => {}
            _ => gist.push(char),
        }
    }
    gist
}

/// Keeps panics of quiet threads instead of printing them, and writes the pages of the others.
pub(crate) fn hook_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !is_quiet() {
                previous(info);
                return pages::panicked(info);
            }
            let message = info.payload_as_str().unwrap_or_default();
            LAST.set(info.location().map(|place| Failure::at(place, message)));
        }));
    });
}

/// Calls `run` without printing panics of this thread. Returns its result, and the last panic.
pub(crate) fn quietly<T>(run: impl FnOnce() -> T) -> (T, Option<Failure>) {
    hook_panics();
    LAST.set(None);
    let was_quiet = QUIET.replace(true);
    let result = run();
    QUIET.set(was_quiet);
    // An outer call of this function needs it too.
    (result, LAST.with_borrow(Clone::clone))
}

/// Whether nothing about failures is printed by this thread.
pub(crate) fn is_quiet() -> bool {
    QUIET.try_with(Cell::get).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_the_directory_of_the_tests_is_of_the_test() {
        let is_of_test = |place: &str, source| {
            Failure { place: place.to_owned(), message: String::new() }.is_of_test(source)
        };
        for source in ["tests/echo.rs", "tests/echo/main.rs", "tests/echo/faults/rare.rs"] {
            assert!(is_of_test("tests/echo/scene.rs:7:9", source), "{source}");
            assert!(!is_of_test("src/machine.rs:7:9", source), "{source}");
            assert!(!is_of_test("/elsewhere/tests/src/sim/calls.rs:7:9", source), "{source}");
        }
        assert!(is_of_test("src/machine/tests.rs:7:9", "src/machine/tests.rs"));
        assert!(!is_of_test("src/lib.rs:7:9", "src/machine/tests.rs"));
        assert!(is_of_test("src/lib.rs:7:9", "src/lib.rs"));
        assert!(!is_of_test("src/machine.rs:7:9", "src/lib.rs"));
    }

    #[test]
    fn the_gist_of_a_message_has_no_figures_and_no_lists() {
        let stalled = |at, tasks| format!("stalled at {at}s, unfinished tasks: {tasks}");
        assert_eq!(gist(&stalled("17.25", "a#1, b#2")), gist(&stalled("4", "b#2")));
        let not_woken =
            "server#2 (connection from client/0, b) was not woken by 1s, seed 3: polled";
        assert_eq!(gist(not_woken), "server#  was not woken by s");
        assert_ne!(gist("5 bytes are missing"), gist("5 bytes are too many"));
    }
}
