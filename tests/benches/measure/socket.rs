//! Sockets that do not block.

use std::io::{self, ErrorKind};

/// `None` where a call would have had to wait.
pub(crate) fn not_blocked<T>(moved: io::Result<T>) -> io::Result<Option<T>> {
    match moved {
        Ok(moved) => Ok(Some(moved)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
