//! A server whose connections begin with a header.

use super::{Config, Header, WithProxyHeader};
use crate::{
    Instant, Machine,
    admission::{Conn, ConnectionTable, Peer, Refused},
    drive::{Clock, Drive},
    runtime::{Listener, Runtime},
    serve::{Options, Served, accept},
};

/// [`serve`](crate::serve::serve) for connections that begin with a PROXY header: `machine` makes the
/// machine for a client once that has a name, which is the [`peer`](Conn::peer) of its connection
/// from then on.
///
/// `options.table` is to be [`behind_proxies`](crate::admission::ConnectionTable::behind_proxies), so that not
/// the proxies' own addresses are counted. A panic of `machine` ends that connection alone.
pub async fn serve<R, M>(
    runtime: &R,
    listener: impl Listener<Socket = R::Socket>,
    options: &Options,
    config: &Config,
    machine: impl FnMut(&Conn, Instant) -> M + Clone + Send + 'static,
) -> Served
where
    R: Runtime,
    M: Machine + Unpin + Send + 'static,
    M::Reason: Send + 'static,
{
    accept(runtime, listener, options, move |socket, admitted, clock| {
        let (table, conn) = (options.table.clone(), admitted.handle());
        let mut machine = machine.clone();
        let make = move |header, length, now| {
            identify(&table, &conn, header, length)?;
            Ok(machine(&conn, now))
        };
        let behind = WithProxyHeader::new(config, admitted.peer(), clock.now(), make);
        Drive::new(behind, socket, clock).admitted(admitted)
    })
    .await
}

/// Enters the client that a header of `length` bytes names in the table.
///
/// # Errors
/// As [`ConnectionTable::identify`].
pub(crate) fn identify(
    table: &ConnectionTable,
    conn: &Conn,
    header: Header,
    length: usize,
) -> Result<(), Refused> {
    conn.set_header(length);
    match header {
        Header::Local => Ok(()),
        Header::Tcp { source, .. } => table.identify(conn, Peer::Ip(source)),
    }
}
