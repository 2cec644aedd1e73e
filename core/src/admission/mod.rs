//! Admission of connections, and the table of those that are open.
//!
//! | file | subject |
//! |---|---|
//! | `access` | [`AccessList`]: which addresses may connect |
//! | `rates` | [`Rates`]: new connections and bytes in a second |
//! | `throttle` | the buckets that limit the bytes of a connection |
//! | `addresses` | the open connections and the rates of each address |
//! | `limits` | [`Limits`], in total and per address |
//! | `peer` | [`Peer`], and the network that its connections count under |
//! | `table` | [`ConnectionTable`]: admits, counts and lists connections |
//! | `entry` | [`ConnectionEntry`]: the bytes, the status and the pending [`Command`] of one |
//! | `admitted` | [`Admitted`]: an open connection, and the log line of its end |
//! | `observer` | `EndObserver`: a function that is called at each end |
//!
//! A [`ConnectionTable`] admits connections under its [`Limits`] and holds a [`ConnectionEntry`]
//! for each open one. [`Drive`](crate::drive::Drive) updates the entry and applies the commands
//! that it receives through it, so a machine does no accounting.
//!
//! ```
//! use wirestate_core::{Instant, admission::{ConnectionTable, Limits, Peer, Refused}};
//!
//! let table = ConnectionTable::new(Limits { connections: 1, ..Limits::default() });
//! let first = table.admit(Peer::Local, Instant::EPOCH)?;
//! assert_eq!(table.admit(Peer::Local, Instant::EPOCH).unwrap_err(), Refused::Full { limit: 1 });
//! drop(first); // its connection has ended
//! assert!(table.admit(Peer::Local, Instant::EPOCH).is_ok());
//! # Ok::<(), Refused>(())
//! ```

mod access;
mod addresses;
mod admitted;
mod entry;
mod limits;
mod observer;
mod peer;
mod rates;
mod table;
mod throttle;

#[cfg(feature = "std")]
pub(crate) use self::table::TableConfig;
pub use self::{
    access::AccessList,
    admitted::Admitted,
    entry::{Command, ConnectionEntry, UpstreamConnection},
    limits::{Limits, Refused},
    observer::{ConnectionEnd, EndObserver},
    peer::Peer,
    rates::{ByteRates, OnExcess, Rates},
    table::{ConnectionTable, Snapshot, Totals},
};
pub(crate) use self::{admitted::ABORTED, throttle::Throttle};
