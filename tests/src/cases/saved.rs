//! Failing cases of random tests, saved beside the test.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    panic::Location,
    path::{Path, PathBuf},
};

use proptest::test_runner::{Config, FailurePersistence as _, FileFailurePersistence};

use crate::failure::Place;

/// The default configuration of proptest, but a failing case is saved beside the test: the cases of
/// `tests/codec.rs` in `tests/codec.regressions`.
///
/// The next runs try the saved cases first. Commit the file. Nothing is written while all tests
/// pass, or with `PROPTEST_DISABLE_FAILURE_PERSISTENCE` set. (The default of proptest expects a
/// `lib.rs` or `main.rs` above the test, so it warns in a single-file integration test.)
///
/// ```
/// use proptest::prelude::*;
/// use wirestate_testkit::proptest_config;
///
/// proptest! {
///     #![proptest_config(proptest_config())]
///     fn addition_commutes(a in 0..100, b in 0..100) {
///         prop_assert_eq!(a + b, b + a);
///     }
/// }
/// addition_commutes();
/// ```
#[track_caller]
pub fn proptest_config() -> Config {
    let config = Config::default();
    let is_on = config.failure_persistence.is_some();
    let file = FileFailurePersistence::WithSource(EXTENSION);
    Config {
        failure_persistence: is_on.then(|| Box::new(file) as _),
        source_file: Some(Location::caller().file()),
        ..config
    }
}

/// The file for the cases of the tests in `source`.
pub(super) fn file(source: &Path) -> PathBuf {
    source.with_extension(EXTENSION)
}

/// The seeds in the file of `place`, the last one first. Proptest prints the lines that it cannot
/// read.
pub(super) fn read(place: &Place) -> Vec<[u8; 32]> {
    if place.file.is_none() {
        return Vec::new();
    }
    let file = FileFailurePersistence::WithSource(EXTENSION);
    let seeds = file.load_persisted_failures2(Some(place.location.file()));
    seeds.iter().rev().filter_map(|seed| parse(&seed.to_string())).collect()
}

/// The seed that is written like this.
fn parse(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("cc ")?.trim();
    let mut seed = [0; 32];
    for (i, byte) in seed.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(seed)
}

/// Adds a seed to a file.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn append(file: &Path, seed: &[u8; 32], place: &Place) -> io::Result<()> {
    let title = if file.exists() { "" } else { TITLE };
    let mut line = format!("{title}cc ").into_bytes();
    for byte in seed {
        write!(line, "{byte:02x}")?;
    }
    writeln!(line, " # {}", place.function())?;
    // One write, since other tests append to the file at the same time.
    OpenOptions::new().create(true).append(true).open(file)?.write_all(&line)
}

const EXTENSION: &str = "regressions";
const TITLE: &str = "\
# Seeds of cases with which tests of the source file of this name have failed. They are tried before
# other cases. Commit this file.
";

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        path::Path,
        process::{self, Command},
    };

    use proptest::prelude::*;
    use wirestate_core::{Instant, echo};

    use crate::script;

    /// Starts this test as a child process, with a planted failure, in a directory that has a file
    /// of this name.
    #[test]
    fn a_failing_script_is_saved_beside_the_test_and_tried_first() {
        const PLANTED: &str = "TEST_PLANTED_BUG";
        if let Some(bug) = env::var_os(PLANTED) {
            let server = echo::Server::default();
            let max = if bug == "1" { 2 } else { usize::MAX };
            let bytes = any::<u8>().prop_map(|byte| [byte]);
            return script::check(
                || server.machine(Instant::EPOCH),
                bytes,
                |frames| frames[..frames.len().min(max)].concat(),
            );
        }
        let source = Path::new(file!());
        assert!(source.is_relative(), "the sources of this crate are not written to");
        let dir = env::temp_dir().join(format!("wirestate-regressions-{}", process::id()));
        let saved = dir.join(source).with_extension("regressions");
        fs::create_dir_all(saved.parent().unwrap()).unwrap();
        fs::write(dir.join(source), "").unwrap();

        let run = |bug: &str, cases: &str| {
            let mut test = Command::new(env::current_exe().unwrap());
            let name = "a_failing_script_is_saved_beside_the_test_and_tried_first";
            test.args(["--exact", &format!("cases::saved::tests::{name}"), "--nocapture"]);
            test.env_remove("WIRESTATE_TIMELINE")
                .env_remove("PROPTEST_DISABLE_FAILURE_PERSISTENCE")
                .current_dir(&dir);
            let output = test.env(PLANTED, bug).env("PROPTEST_CASES", cases).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert_eq!((run("0", "64").0, saved.exists()), (true, false), "nothing has failed");
        let (passed, message) = run("1", "64");
        assert!(!passed && saved.exists(), "{message}");
        assert!(message.contains(&format!("panicked at {}", file!())), "{message}");
        let (passed, again) = run("1", "0");
        assert!(!passed && again.contains("the output differs at byte 2"), "{again}");
        fs::remove_dir_all(dir).unwrap();
    }
}
