//! The limit of open files.

/// Raises the soft limit of open files to the hard limit, and returns it (getrlimit(2)).
pub(super) fn raise_limit() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024)
}

/// Open files that are not for connections: standard streams, listeners, and those of the runtime.
pub(super) const RESERVED_FILES: u64 = 64;
