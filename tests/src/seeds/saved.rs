//! Failing worlds, saved in a file beside the test.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::sim::Decisions;

/// A saved world.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// The test's name, with its modules.
    pub(super) test: String,
    pub(super) seed: u64,
    pub(super) decisions: Decisions,
}

/// The file for the worlds of the tests in `source`.
pub(super) fn file(source: &Path) -> PathBuf {
    source.with_extension("worlds")
}

/// Reads all worlds of a file. A file that does not exist has none.
///
/// # Errors
/// The line and what is wrong with it, or why the file cannot be read.
pub(super) fn read(path: &Path) -> Result<Vec<Case>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let starts: Vec<_> =
        text.lines().enumerate().filter(|(_, line)| line.starts_with('[')).collect();
    let mut cases = Vec::new();
    for (i, (first, header)) in starts.iter().enumerate() {
        let end = starts.get(i + 1).map_or(usize::MAX, |(next, _)| *next);
        let (name, seed) = parse_header(header)
            .ok_or_else(|| format!("line {}: `{header}` must be `[test seed 1]`", first + 1))?;
        // Empty lines keep the numbers of the lines in an error.
        let lines = text.lines().enumerate().take(end);
        let lines = lines.map(|(line, text)| if line > *first { text } else { "" });
        let decisions = lines.collect::<Vec<_>>().join("\n").parse();
        let decisions = decisions.map_err(|error: crate::sim::DecisionsError| error.to_string())?;
        cases.push(Case { test: name.to_owned(), seed, decisions });
    }
    Ok(cases)
}

fn parse_header(line: &str) -> Option<(&str, u64)> {
    let (test, seed) =
        line.trim_end().strip_prefix('[')?.strip_suffix(']')?.split_once(" seed ")?;
    Some((test, seed.parse().ok()?))
}

/// Adds a world to a file, unless the file has it.
///
/// # Errors
/// If the file cannot be read or written.
pub(super) fn append(path: &Path, case: &Case) -> Result<(), String> {
    if read(path)?.contains(case) {
        return Ok(());
    }
    let title = if path.exists() { "" } else { TITLE };
    let file = OpenOptions::new().create(true).append(true).open(path);
    // One write, since other tests append to the file at the same time.
    let written = file.and_then(|mut file| file.write_all(format!("{title}\n{case}").as_bytes()));
    written.map_err(|error| error.to_string())
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { test, seed, decisions } = self;
        write!(f, "[{test} seed {seed}]\n{decisions}")
    }
}

const TITLE: &str = "\
# Worlds in which tests of the source file of this name have failed. `for_each_seed` tries them
# before other seeds. Commit this file.
";
