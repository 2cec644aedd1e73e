//! A server whose connections begin with a header.

use std::future::Future;

use super::{Header, HeaderPolicy, WithProxyHeader};
use crate::{
    Instant, Machine,
    admission::{Admitted, ConnectionEntry, ConnectionTable, Peer, Refused},
    drive::{Clock, Drive, Sink, Source},
    runtime::Runtime,
    serve::{DrainReport, Server},
    shared::Shared,
};

/// [`Server::serve`] for connections that begin with a PROXY header.
///
/// `machine` makes the machine for a client once the header is complete. From then on, the
/// [`peer`](ConnectionEntry::peer) of the connection is the client that the header names. A panic
/// of `machine` ends that connection alone.
///
/// Set [`serve::Config::behind_proxies`](crate::serve::Config::behind_proxies) for the server.
/// Otherwise the proxies' own addresses count towards the limit per address until the headers have
/// been read.
pub async fn serve<R, M>(
    server: Server<R>,
    policy: HeaderPolicy,
    machine: impl FnMut(&Shared<ConnectionEntry>, Instant) -> M + Clone + Send + 'static,
) -> DrainReport
where
    R: Runtime,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    let handle = server.handle();
    server
        .accept(move |socket, admitted, clock| {
            connection(&policy, handle.table(), machine.clone(), socket, admitted, clock)
        })
        .await
}

/// One connection of [`serve`], for a caller that accepts it itself ([`Server::accept`]). `table`
/// is the table that has admitted it.
pub fn connection<S, C, M, F>(
    policy: &HeaderPolicy,
    table: &ConnectionTable,
    machine: F,
    socket: S,
    admitted: Admitted,
    clock: C,
) -> impl Future<Output: Send> + Send + use<S, C, M, F>
where
    S: Source + Sink + Send + Unpin + 'static,
    C: Clock + Send + Unpin + 'static,
    M: Machine<Reason: Send> + Unpin + Send + 'static,
    F: FnOnce(&Shared<ConnectionEntry>, Instant) -> M + Send + 'static,
{
    let (table, entry) = (table.clone(), admitted.entry());
    let make = move |header, length, now| {
        identify(&table, &entry, header, length)?;
        Ok(machine(&entry, now))
    };
    let machine = WithProxyHeader::new(policy, admitted.peer(), clock.now(), make);
    Drive::new(machine, socket, clock).admitted(admitted)
}

/// Enters the client that `header` names into the table of connections. `length` is the length of
/// the header in bytes.
///
/// # Errors
/// As [`ConnectionTable::identify`].
pub(crate) fn identify(
    table: &ConnectionTable,
    entry: &ConnectionEntry,
    header: Header,
    length: usize,
) -> Result<(), Refused> {
    entry.set_header(length);
    match header {
        Header::Local => Ok(()),
        Header::Tcp { source, .. } => table.identify(entry, Peer::Ip(source)),
    }
}
