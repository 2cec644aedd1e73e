//! How many connections a server admits, given the limit of open files.

use tracing::warn;
use wirestate_core::{admission::Limits, status};

use super::flags::Flags;
use crate::{
    CommandRuntime,
    open_files::{self, RESERVED_FILES},
};

/// The limits of a server. They admit no connection if open files do not suffice for one.
pub(super) fn limits(flags: &Flags, files_per_connection: u64, reserved_files: u64) -> Limits {
    let files = open_files::raise_limit();
    let has_status = flags.has_status();
    let room = files.saturating_sub(reserved_files) / files_per_connection;
    let default = Limits::default().connections as u64;
    let connections = if let Some(wanted) = flags.max_connections {
        let note = if has_status { ", some of which are kept for --status," } else { "" };
        if wanted > room && (room > 0 || !has_status) {
            warn!(
                "--max-connections {wanted}: the limit of {files} open files{note} allows {room}"
            );
        }
        // With a status, the limit keeps files free: the status must answer when all connections
        // are open.
        if has_status { wanted.min(room) } else { wanted }
    } else {
        // Slightly fewer than the default is not worth a warning.
        if (1..default / 2).contains(&room) {
            warn!(
                "{default} connections is the default; the limit of {files} open files \
                 (ulimit -n) allows {room} of them"
            );
        }
        room.min(default)
    };
    Limits {
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
        per_address: flags.max_per_address.0,
    }
}

/// Open files that are not connections of the service.
pub(super) fn reserved_files<R: CommandRuntime>(has_status: bool) -> u64 {
    let status = if has_status { status::MAX_CONNECTIONS * R::FILES_PER_CONNECTION } else { 0 };
    RESERVED_FILES + status as u64
}
