//! The header that C includes is the one that the sources give.

use std::{env, fs, path::Path};

/// Run it with `WIRESTATE_UPDATE_HEADER=1` after a change of the functions or their documentation.
#[test]
fn the_header_is_generated_from_the_sources() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = folder.join("include/wirestate.h");
    let header = generate(folder);
    if env::var_os("WIRESTATE_UPDATE_HEADER").is_some() {
        fs::write(&path, &header).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == header,
        "{} is not what the sources give. Update it with:\n\
         WIRESTATE_UPDATE_HEADER=1 cargo test -p wirestate-c --test header",
        path.display(),
    );
    let long: Vec<_> = header.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(long.is_empty(), "lines of more than 100 columns: {long:#?}");
}

fn generate(folder: &Path) -> String {
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml"));
    let sources = SOURCES.iter().fold(cbindgen::Builder::new(), |builder, source| {
        builder.with_src(folder.join("src").join(source).with_extension("rs"))
    });
    let mut header = Vec::new();
    let sources = sources.with_config(config.expect("cbindgen.toml is valid"));
    sources.generate().expect("the sources are valid").write(&mut header);
    let header = String::from_utf8(header).expect("the sources are UTF-8");
    // How Rust must call the functions does not concern C.
    header.replace(SAFETY, "")
}

/// In the order of the header.
const SOURCES: [&str; 10] = [
    "result", "pointer", "config", "wakes", "server", "machine", "message", "tls", "codec",
    "memory",
];
const SAFETY: &str = " *\n * # Safety\n * See [the rules](crate#safety).\n";
