//! An admitted connection, and the log line of its end.

use core::ops::Deref;

use tracing::{debug, error, info, warn};

use super::{ConnectionEntry, ConnectionTable};
use crate::{Fault, Instant, Reason, log_limit::LogDecision, quantity::Seconds, shared::Shared};

/// A connection that was admitted. It is open until this is dropped.
///
/// Its end is counted in [`Totals::ended`](super::Totals::ended) and logged. [`end`](Self::end)
/// logs the reason: at `error` for a bug, at `info` for another [fault](Fault), at `debug` if there
/// is none or the end was requested. A drop without `end` is logged at `warn`, as `aborted`.
///
/// A peer can cause any number of ends, so the lines at `info` and above are limited for each
/// reason and table: 50 at once, and 10 a second. The field `suppressed` of the next line is the
/// number of lines that were left out. No line is left out where `debug` is logged.
#[derive(Debug)]
pub struct Admitted {
    table: ConnectionTable,
    entry: Shared<ConnectionEntry>,
    has_ended: bool,
}

impl Admitted {
    pub(super) fn new(table: ConnectionTable, entry: Shared<ConnectionEntry>) -> Self {
        Self { table, entry, has_ended: false }
    }

    /// The entry, which outlives the connection.
    pub fn entry(&self) -> Shared<ConnectionEntry> {
        self.entry.clone()
    }

    /// The table.
    pub fn table(&self) -> &ConnectionTable {
        &self.table
    }

    /// Ends the connection for a reason: logs it, counts it, and removes the entry from the table.
    pub fn end(mut self, reason: &impl Reason, now: Instant) {
        let (server, id, peer) = (self.table.name(), self.entry.id(), self.entry.peer());
        let (identity, upstream) = (self.entry.identity(), self.entry.upstream());
        let endpoint = upstream.as_ref().map(|upstream| &*upstream.endpoint);
        let connect = upstream.as_ref().map(|it| Seconds(it.connect_time).to_field());
        let (received, sent) = (self.entry.bytes_received(), self.entry.bytes_sent());
        let (label, age) = (reason.label(), Seconds(now.since(self.entry.since())).to_field());
        macro_rules! closed {
            ($log:ident, $suppressed:expr) => {
                $log!(
                    id, %peer, identity = identity.as_deref(),
                    upstream = endpoint.map(|endpoint| &**endpoint.upstream()),
                    upstream_address = endpoint.map(|endpoint| &**endpoint.address()),
                    connect_seconds = connect, received, sent, age_seconds = age, reason = label,
                    suppressed = $suppressed, server,
                    "closed: {reason}"
                )
            };
        }
        let check = || self.table.check_log(label, Some(now));
        match reason.fault() {
            Fault::None | Fault::Requested => closed!(debug, None::<u64>),
            Fault::Peer | Fault::Limit | Fault::Time | Fault::Lost => {
                if let LogDecision::Log { suppressed } = check() {
                    closed!(info, suppressed);
                }
            }
            Fault::Bug => {
                if let LogDecision::Log { suppressed } = check() {
                    closed!(error, suppressed);
                }
            }
        }
        self.has_ended = true;
        self.table.remove(&self.entry, label, Some(now));
    }
}

impl Deref for Admitted {
    type Target = ConnectionEntry;

    fn deref(&self) -> &ConnectionEntry {
        &self.entry
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        if let LogDecision::Log { suppressed } = self.table.check_log(ABORTED, None) {
            let (server, id, peer) = (self.table.name(), self.entry.id(), self.entry.peer());
            warn!(id, %peer, reason = ABORTED, suppressed, server, "closed: aborted");
        }
        self.table.remove(&self.entry, ABORTED, None);
    }
}

/// The reason label of a connection that was dropped without a reason.
pub(crate) const ABORTED: &str = "aborted";
