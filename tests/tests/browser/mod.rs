//! Pages in Chromium.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Runs a Python script that tests a page by the class in `browser.py`. Its arguments are `words`,
/// the folder `screenshots`, and a folder for the profile of the browser.
///
/// Prints a line if Chromium or Python is not installed.
#[track_caller]
pub(crate) fn test(script: &str, words: &[&str], screenshots: &Path) {
    fs::create_dir_all(screenshots).unwrap();
    let profile = Folder(screenshots.join("profile"));
    let mut python = Command::new("python3");
    python.args(["-c", &[include_str!("browser.py"), script].concat()]).args(words);
    python.arg(screenshots).arg(&profile.0);
    for command in [Command::new("chromium").arg("--version"), &mut python] {
        let output = match command.output() {
            Ok(output) => output,
            Err(error) => {
                let name = command.get_program().display();
                eprintln!("NOT TESTED: {name}: {error}");
                assert!(std::env::var_os("CI").is_none(), "CI installs {name}");
                return;
            }
        };
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
