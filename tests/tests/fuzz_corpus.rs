//! What the fuzz targets have found and kept is played again, by the same functions.

use std::{
    fs, io,
    panic::{catch_unwind, resume_unwind},
    path::Path,
};

use wirestate_testkit::fuzz;

/// Plays all files of the target's folder.
fn replay(target: &str, play: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
    let mut files = files.expect("the corpus can be read");
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.sort_unstable();
    for file in files {
        let bytes = fs::read(&file).expect("the corpus can be read");
        if let Err(panic) = catch_unwind(|| play(&bytes)) {
            eprintln!("failed with {}", file.display());
            resume_unwind(panic);
        }
    }
}

#[test]
fn headers() {
    replay("header", fuzz::header);
}

#[test]
fn decoders() {
    replay("decoder", fuzz::decoder);
}

#[test]
fn servers() {
    replay("server", fuzz::server);
}

#[test]
fn clients() {
    replay("client", fuzz::client);
}
