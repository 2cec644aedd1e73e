//! The HTML page of a failed test, in the folder that an environment variable names.
//!
//! Each thread keeps its last run: a script, or a world that has halted. The page is written when
//! the thread panics. So a world that halts as the test expects leaves no page. A panic that the
//! test catches leaves one.

use std::{
    cell::RefCell,
    env,
    fs::{self, File},
    io,
    panic::PanicHookInfo,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
};

use wirestate_timeline::Timeline;

use crate::{
    failure::{hook_panics, is_quiet},
    script::timeline::Recording,
};

/// A run that may have failed.
#[derive(Clone)]
pub(crate) enum Run {
    Script(Recording),
    World {
        /// What its page has in its name besides the test.
        name: String,
        timeline: Timeline,
    },
}

thread_local! {
    /// The last run.
    static LAST: RefCell<Option<Run>> = const { RefCell::new(None) };
    /// The text of the last panic.
    static FAILURE: RefCell<Option<String>> = const { RefCell::new(None) };
    /// The last page that was written.
    static WRITTEN: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// Whether a failure of this thread has a page. Not an attempt at a smaller one.
pub(crate) fn are_on() -> bool {
    folder().is_some() && !is_quiet()
}

fn folder() -> Option<&'static Path> {
    static NAMED: OnceLock<Option<PathBuf>> = OnceLock::new();
    NAMED
        .get_or_init(|| {
            let folder = env::var_os(FOLDER).filter(|folder| !folder.is_empty())?;
            hook_panics();
            Some(folder.into())
        })
        .as_deref()
}

/// Replaces the last run.
pub(crate) fn keep(run: Option<Run>) {
    // In the drop of a thread-local, there is none.
    let _ = LAST.try_with(|last| last.replace(run));
}

/// The last run.
pub(crate) fn last() -> Option<Run> {
    LAST.try_with(|last| last.borrow().clone()).ok().flatten()
}

/// The name of the test, or `otherwise` on a thread without a name.
pub(crate) fn test_name(otherwise: &str) -> String {
    thread::current().name().unwrap_or(otherwise).to_owned()
}

/// Writes the page of the last run, because the thread panics.
pub(crate) fn panicked(info: &PanicHookInfo<'_>) {
    if !are_on() {
        return;
    }
    let message = info.payload_as_str().unwrap_or_default();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let failure = format!("{} ({place})", excerpt(message));
    let _ = FAILURE.try_with(|last| last.replace(Some(failure)));
    // The last case that proptest has run is not the one that has failed.
    if !message.starts_with("Test failed: ") {
        write_last();
    }
}

/// Writes the page of the last run, with the text of the last panic.
pub(crate) fn write_last() {
    let failure = FAILURE.try_with(|failure| failure.borrow().clone()).ok().flatten();
    if let (Some(failure), Some(run)) = (failure, last()) {
        match run {
            Run::Script(recording) => write("script", &recording.page(&failure)),
            Run::World { name, mut timeline } => {
                timeline.add_fact("failure", failure);
                write(&name, &timeline);
            }
        }
    }
}

/// Writes a page of this test, and prints its path to standard error.
pub(crate) fn write(name: &str, timeline: &Timeline) {
    let Some(folder) = folder().filter(|_| !is_quiet()) else { return };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let test = test_name("test").replace(|c| !is_plain(c), "-");
    let path = folder.join(format!("{test}-{name}.html"));
    let written = fs::create_dir_all(folder)
        .and_then(|()| File::create(&path))
        .and_then(|file| timeline.write_html(io::BufWriter::new(file)));
    if let Err(error) = written {
        eprintln!("{FOLDER}={}: {error}", folder.display());
    } else if WRITTEN.with_borrow(|written| written.as_ref() != Some(&path)) {
        eprintln!("the timeline is in {}", path.display());
        WRITTEN.set(Some(path));
    }
}

/// The start of a message, without the lists that the testkit appends.
fn excerpt(message: &str) -> String {
    let message = message.split("\nthe last ").next().unwrap_or_default();
    let mut excerpt: String = message.chars().take(MAX_FAILURE).collect();
    if excerpt.len() < message.len() {
        excerpt.push('…');
    }
    excerpt
}

const FOLDER: &str = "WIRESTATE_TIMELINE";
/// The most characters of a failure.
const MAX_FAILURE: usize = 300;
