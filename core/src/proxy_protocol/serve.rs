//! A server whose connections begin with a header.

use super::{Header, HeaderPolicy, WithProxyHeader};
use crate::{
    Instant, Machine,
    admission::{ConnectionEntry, ConnectionTable, Peer, Refused},
    drive::{Clock, Drive},
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
            let (table, entry) = (handle.table().clone(), admitted.entry());
            let mut machine = machine.clone();
            let make = move |header, length, now| {
                identify(&table, &entry, header, length)?;
                Ok(machine(&entry, now))
            };
            let machine = WithProxyHeader::new(&policy, admitted.peer(), clock.now(), make);
            Drive::new(machine, socket, clock).admitted(admitted)
        })
        .await
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
