//! Non-blocking sockets.

use std::io::{self, ErrorKind};

/// The value of a non-blocking call; `None` if it would block.
pub(crate) fn not_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
