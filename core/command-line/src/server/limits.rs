//! How many connections a server admits, given the limit of open files.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tracing::warn;
use wirestate_core::{admission::Limits, status};

use super::flags::{Flags, Share};
use crate::{
    CommandRuntime,
    open_files::{self, RESERVED_FILES},
};

/// Returns the limits of a server. With too few open files for one connection, they admit none.
pub(super) fn limits(
    flags: &Flags,
    Share { servers, has_status }: Share,
    files_per_connection: u64,
    reserved_files: u64,
) -> Limits {
    let files = open_files::raise_limit();
    let possible = files.saturating_sub(reserved_files) / files_per_connection / servers;
    let each = if servers > 1 { format!(", divided by {servers} servers,") } else { String::new() };
    let default = Limits::default().connections as u64;
    let connections = if let Some(requested) = flags.max_connections {
        let note = if has_status { ", some of which are kept for --status," } else { "" };
        if requested > possible && (possible > 0 || !has_status) {
            warn!(
                "--max-connections {requested}: the limit of {files} open files{note}{each} \
                 allows {possible}"
            );
        }
        // With a status, some files stay free, so that the status answers when all connections are
        // open.
        if has_status { requested.min(possible) } else { requested }
    } else {
        // With half of the default or more, there is no warning.
        if (1..default / 2).contains(&possible) && !HAS_WARNED.swap(servers > 1, Relaxed) {
            warn!(
                "the limit of {files} open files (ulimit -n){each} allows {possible} \
                 connections; the default is {default}"
            );
        }
        possible.min(default)
    };
    Limits {
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
        per_address: flags.max_per_address.0,
    }
}

/// Returns how many open files are not for the server's connections.
pub(super) fn reserved_files<R: CommandRuntime>(share: Share) -> u64 {
    let status =
        if share.has_status { status::MAX_CONNECTIONS * R::FILES_PER_CONNECTION } else { 0 };
    RESERVED_FILES + status as u64
}

/// Whether several servers, which have the same default, were warned of a low limit of open files.
static HAS_WARNED: AtomicBool = AtomicBool::new(false);
