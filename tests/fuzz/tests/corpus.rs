//! Replays the corpus: calls the function of each fuzz target with every file of its folder.

use std::{
    fs, io,
    panic::{catch_unwind, resume_unwind},
    path::Path,
};

use wirestate_fuzz::{client, decoder, header, nats, server};

/// Calls `check` with each file of the target's folder.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let files = fs::read_dir(&folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
    let mut files = files.expect("the corpus can be read");
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.sort_unstable();
    for file in files {
        let bytes = fs::read(&file).expect("the corpus can be read");
        if let Err(panic) = catch_unwind(|| check(&bytes)) {
            eprintln!("failed with {}", file.display());
            resume_unwind(panic);
        }
    }
}

#[test]
fn the_header_target_accepts_its_corpus() {
    replay("header", header);
}

#[test]
fn the_decoder_target_accepts_its_corpus() {
    replay("decoder", decoder);
}

#[test]
fn the_server_target_accepts_its_corpus() {
    replay("server", server);
}

#[test]
fn the_client_target_accepts_its_corpus() {
    replay("client", client);
}

#[test]
fn the_nats_target_accepts_its_corpus() {
    replay("nats", nats);
}
