//! An observer of the ends of connections.

use core::fmt;

use super::ConnectionEntry;
use crate::{Instant, shared::Shared};

/// A function that is called at the end of each connection of a table, for example to write an
/// access log. Clones are the same function.
///
/// The task of the connection calls it, so it must neither block nor panic.
#[derive(Clone)]
pub struct EndObserver(Shared<dyn Fn(&ConnectionEnd<'_>) + Send + Sync>);

/// The end of a connection.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ConnectionEnd<'a> {
    /// The server's name, if it has one.
    pub server: Option<&'a str>,
    /// The connection. Its bytes are final.
    pub connection: &'a ConnectionEntry,
    /// The label of the [reason](crate::Reason::label). Connections without a reason count as
    /// `aborted`, or as `panicked`.
    pub reason: &'static str,
    /// When it ended. Of a connection without a reason: the latest time that the table knows.
    pub at: Instant,
}

impl EndObserver {
    /// Calls `observe` at each end.
    pub fn new(observe: impl Fn(&ConnectionEnd<'_>) + Send + Sync + 'static) -> Self {
        Self(Shared::new(observe))
    }

    pub(super) fn observe(&self, end: &ConnectionEnd<'_>) {
        (self.0)(end);
    }
}

/// Whether both are the same function.
impl PartialEq for EndObserver {
    fn eq(&self, other: &Self) -> bool {
        Shared::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for EndObserver {}

impl fmt::Debug for EndObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndObserver").finish_non_exhaustive()
    }
}
