//! The page of a timeline: its content security policy, and its content in a browser.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

#[path = "../browser/mod.rs"]
mod browser;
mod policy;
mod samples;

use std::{fs, path::Path};

/// The pages are in `target/timelines`, the screenshots in `target/screenshots/timeline`.
#[test]
fn a_browser_draws_moves_filters_and_links() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("timelines");
    fs::create_dir_all(&folder).unwrap();
    for (name, timeline) in samples::all() {
        fs::write(folder.join(name).with_extension("html"), samples::page(&timeline)).unwrap();
    }
    let words = [folder.to_str().unwrap(), samples::HOSTILE];
    browser::test(include_str!("page.py"), &words, &target.join("screenshots/timeline"));
}
