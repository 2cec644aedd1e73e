//! A listening socket of a simulated host.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use wirestate_core::{
    admission::Peer,
    runtime::{self, AcceptError, Address},
};

use super::{
    Faults, Side, Socket, TraceEvent, Value, World,
    connection::EndId,
    network::{Backlog, Network},
};

/// A listening socket of a simulated host. Dropping it resets the connections in its backlog.
#[derive(Debug)]
pub struct Listener {
    world: World,
    address: SocketAddr,
    id: u64,
}

impl Listener {
    pub(super) fn new(world: World, address: SocketAddr, id: u64) -> Self {
        Self { world, address, id }
    }
}

impl runtime::Listener for Listener {
    type Socket = Socket;

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.address.into())
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Socket, Peer), AcceptError>> {
        let accepted = self.world.network(|network| {
            let backlog = network.backlog(self);
            let host = backlog.host;
            if backlog.waiting.is_empty() {
                backlog.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // Connections in the backlog use no descriptor.
            let waiting: usize = network
                .listeners
                .values()
                .filter(|backlog| backlog.host == host)
                .map(|backlog| backlog.waiting.len())
                .sum();
            let max = network.hosts[host].max_sockets;
            if network.hosts[host].sockets - waiting >= max {
                let value = Some(Value::Number(max as u64));
                network.trace_host(host, TraceEvent::Fault("max_sockets", value));
                return Poll::Ready(Err(io::Error::from_raw_os_error(EMFILE)));
            }
            let Faults { accept_aborted: aborted, accept_order, .. } = network.hosts[host].faults;
            let backlog = network.backlog(self);
            let count = backlog.waiting.len();
            let is_reordered = count > 1 && backlog.dice.strikes("accept_order", accept_order);
            let index =
                if is_reordered { backlog.dice.up_to("accept_order_index", count) - 1 } else { 0 };
            let connection = backlog.waiting.remove(index).expect("the index is below the length");
            let end = EndId { connection, side: Side::Server };
            let is_aborted = backlog.dice.strikes("accept_aborted", aborted);
            if index > 0 {
                network.trace_fault(end, "accept_order", Some(Value::part(index + 1, count)));
            }
            if is_aborted {
                network.trace_fault(end, "accept_aborted", None);
                network.reset(end);
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            network.end(end).task = network.running;
            network.trace(end, TraceEvent::Accepted);
            Poll::Ready(Ok((end, network.end(end).record.remote)))
        });
        accepted.map(|accepted| match accepted {
            Ok((end, peer)) => Ok((Socket::new(self.world.clone(), end), Peer::Ip(peer))),
            Err(error) => Err(error.into()),
        })
    }

    fn shut_down(&mut self) {
        self.world.network(|network| network.backlog(self).is_shut_down = true);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.world.network(|network| {
            if network.listeners.get(&self.address).is_none_or(|backlog| backlog.id != self.id) {
                return; // the power of its host was cut
            }
            let backlog = network.listeners.remove(&self.address);
            for connection in backlog.into_iter().flat_map(|backlog| backlog.waiting) {
                network.reset(EndId { connection, side: Side::Server });
            }
        });
    }
}

impl Network {
    fn backlog(&mut self, listener: &Listener) -> &mut Backlog {
        let backlog = self.listeners.get_mut(&listener.address);
        let backlog = backlog.filter(|backlog| backlog.id == listener.id);
        backlog.expect("the listener is used after the power of its host was cut")
    }
}

/// Too many open files (errno(3)).
const EMFILE: i32 = 24;
