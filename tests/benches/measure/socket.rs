//! Non-blocking sockets.

use std::io::{self, ErrorKind};

/// Turns `WouldBlock` into `None`.
pub(crate) fn not_blocked<T>(moved: io::Result<T>) -> io::Result<Option<T>> {
    match moved {
        Ok(moved) => Ok(Some(moved)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
