//! A simulated host: the runtime of its servers and clients.

use std::{
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use wirestate_core::{
    admission::Peer,
    drive::Clock as _,
    runtime::{self, AcceptError, Address, Runtime},
    shared::Lock,
};

use super::{
    Clock, Faults, Side, Socket, TraceEvent, World,
    connection::EndId,
    network::{Backlog, Event},
};

/// A host of a [`World`], with its own name, address, clock and tasks. Clones are the same host.
///
/// It is the [`Runtime`] of the servers and clients on it.
#[derive(Clone, Debug)]
pub struct Host {
    world: World,
    index: usize,
}

/// The future result of a task.
#[derive(Debug)]
pub struct Task<T> {
    output: Arc<Lock<Option<T>>>,
}

impl<T> Task<T> {
    /// Takes the result. `None` if the task has not ended, or the result was taken before.
    pub fn take(&self) -> Option<T> {
        self.output.with(Option::take)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.output.with(|output| output.is_some())
    }
}

impl Host {
    pub(super) fn new(world: World, index: usize) -> Self {
        Self { world, index }
    }

    /// The world of this host.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.world.network(|network| network.hosts[self.index].ip)
    }

    /// Spawns `task`, and keeps its result. A task that panics has no result.
    pub fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        self.spawn_task(None, task)
    }

    /// As [`run`](Self::run), with a name for messages about the task ([`Halted`](super::Halted)).
    pub fn run_named<T: Send + 'static>(
        &self,
        name: &str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        self.spawn_task(Some(name), task)
    }

    fn spawn_task<T: Send + 'static>(
        &self,
        name: Option<&str>,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let output = Arc::new(Lock::new(None));
        let slot = output.clone();
        let work = async move {
            let value = task.await;
            slot.with(|slot| *slot = Some(value));
        };
        self.world.executor().spawn(self.index, name, Box::pin(work));
        Task { output }
    }

    /// Sleeps for `duration`, by this host's clock.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        let mut clock = self.clock();
        let deadline = clock.now() + duration;
        poll_fn(move |cx| clock.poll_until(cx, deadline))
    }

    /// Replaces the plan of faults for the calls on this host's sockets.
    pub fn set_faults(&self, faults: Faults) {
        self.world.network(|network| network.hosts[self.index].faults = faults);
    }

    /// Limits the number of open sockets, without listeners. Default: no limit.
    ///
    /// At the limit, accepting fails with `EMFILE`, and the backlog stays as it is.
    pub fn set_max_sockets(&self, max: usize) {
        self.world.network(|network| network.hosts[self.index].max_sockets = max);
    }

    /// Stops the host's processes for `duration`, as `SIGSTOP` or a suspended VM does.
    ///
    /// No task runs and no alarm goes off, but the host's clock and kernel go on. Afterwards the
    /// tasks first see the alarms, then the readiness of their sockets.
    pub fn stop_for(&self, duration: Duration) {
        self.world.network(|network| {
            network.stopped.insert(self.index);
            network.after(duration, Event::Resume(self.index));
        });
    }

    /// Disconnects the host from the network (`true`), or connects it again.
    ///
    /// Segments to and from a disconnected host are lost silently.
    pub fn set_unplugged(&self, unplugged: bool) {
        self.world.network(|network| network.hosts[self.index].unplugged = unplugged);
    }

    /// Sets the host's clock ahead.
    pub fn set_clock_ahead(&self, by: Duration) {
        self.world.network(|network| network.hosts[self.index].clock.ahead += by);
    }

    /// Sets the host's clock back, as faulty monotonic clocks do.
    pub fn set_clock_back(&self, by: Duration) {
        self.world.network(|network| network.hosts[self.index].clock.behind += by);
    }

    /// Stops the host's clock for `duration`, and with it the alarms. It then continues from the
    /// same time.
    pub fn freeze_clock(&self, duration: Duration) {
        self.world.network(|network| {
            let shown = network.hosts[self.index].clock.at(network.now);
            network.hosts[self.index].clock.frozen = Some(shown);
            network.after(duration, Event::Thaw(self.index));
        });
    }
}

impl Runtime for Host {
    type Socket = Socket;
    type Listener = Listener;
    type Clock = Clock;

    fn clock(&self) -> Clock {
        Clock::new(self.world.clone(), self.index)
    }

    fn spawn<T>(&self, task: T) -> io::Result<()>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let work = async move { drop(task.await) };
        self.world.executor().spawn(self.index, None, Box::pin(work));
        Ok(())
    }

    fn listen(&self, address: &str) -> io::Result<Listener> {
        let mut address = self.world.resolve(address, self.index)?;
        self.world.network(|network| {
            let host = &mut network.hosts[self.index];
            if address.ip().is_unspecified() {
                address.set_ip(host.ip);
            }
            if address.ip() != host.ip {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            if address.port() == 0 {
                address.set_port(host.take_port());
            }
            if network.listeners.contains_key(&address) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let dice = network.dice(address);
            let (host, waiting, waker) = (self.index, [].into(), None);
            let backlog = Backlog { host, waiting, waker, is_shut_down: false, dice };
            network.listeners.insert(address, backlog);
            Ok(Listener { world: self.world.clone(), address })
        })
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        self.world.resolve_all(address, self.index)
    }

    async fn connect(&self, address: &str) -> io::Result<Socket> {
        let address = self.world.resolve(address, self.index)?;
        let id = self.world.network(|network| network.dial(self.index, address));
        let dialling = Dialling { world: self.world.clone(), id };
        let connection = poll_fn(|cx| dialling.poll(cx)).await?;
        let end = EndId { connection, side: Side::Client };
        self.world.network(|network| network.end(end).task = network.running);
        Ok(Socket::new(self.world.clone(), end))
    }

    fn local_address(&self, socket: &Socket) -> Option<SocketAddr> {
        Some(socket.local_address())
    }

    fn dialled_address(&self, socket: &Socket) -> Option<Address> {
        Some(Address::Ip(socket.remote_address()))
    }
}

/// A connection attempt. Dropping it abandons the attempt.
struct Dialling {
    world: World,
    id: u64,
}

impl Dialling {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<usize, io::ErrorKind>> {
        self.world.network(|network| {
            let dial = network.dials.get_mut(&self.id).expect("a dial is removed only by its drop");
            let outcome = dial.outcome.take();
            if outcome.is_none() {
                dial.waker = Some(cx.waker().clone());
            }
            outcome.map_or(Poll::Pending, Poll::Ready)
        })
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.world.network(|network| {
            if let Some(dial) = network.dials.remove(&self.id)
                && let Some(Ok(connection)) = dial.outcome
            {
                network.close(EndId { connection, side: Side::Client });
            }
        });
    }
}

/// A listening socket of a simulated host. Dropping it resets the connections in its backlog.
#[derive(Debug)]
pub struct Listener {
    world: World,
    address: SocketAddr,
}

impl runtime::Listener for Listener {
    type Socket = Socket;

    fn local_address(&self) -> io::Result<Address> {
        Ok(self.address.into())
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Socket, Peer), AcceptError>> {
        let accepted = self.world.network(|network| {
            let backlog = network
                .listeners
                .get_mut(&self.address)
                .expect("a backlog is removed only by its listener's drop");
            let (host, Some(&connection)) = (backlog.host, backlog.waiting.front()) else {
                backlog.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            // Connections in the backlog use no descriptor.
            let waiting: usize = network
                .listeners
                .values()
                .filter(|backlog| backlog.host == host)
                .map(|backlog| backlog.waiting.len())
                .sum();
            if network.open_sockets(host) - waiting >= network.hosts[host].max_sockets {
                return Poll::Ready(Err(io::Error::from_raw_os_error(EMFILE)));
            }
            let aborted = network.hosts[host].faults.accept_aborted;
            let backlog =
                network.listeners.get_mut(&self.address).expect("the backlog was found above");
            backlog.waiting.pop_front();
            let end = EndId { connection, side: Side::Server };
            if backlog.dice.strikes("accept_aborted", aborted) {
                network.trace(end, TraceEvent::Fault("accept_aborted"));
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
        self.world.network(|network| {
            let backlog = network.listeners.get_mut(&self.address);
            backlog.expect("a backlog is removed only by its listener's drop").is_shut_down = true;
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.world.network(|network| {
            let backlog = network.listeners.remove(&self.address);
            for connection in backlog.into_iter().flat_map(|backlog| backlog.waiting) {
                network.reset(EndId { connection, side: Side::Server });
            }
        });
    }
}

/// Too many open files (errno(3)).
const EMFILE: i32 = 24;
