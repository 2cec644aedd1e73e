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
    drive::Clock as _,
    runtime::{Address, Runtime},
    shared::Lock,
};

use super::{
    Clock, Listener, Side, Socket, World,
    connection::EndId,
    network::{Backlog, State},
};

/// A host of a [`World`], with its own name, address, clock and tasks. Clones are the same host.
///
/// It is the [`Runtime`] of the servers and clients on it.
#[derive(Clone, Debug)]
pub struct Host {
    pub(super) world: World,
    pub(super) index: usize,
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
    ///
    /// # Panics
    /// If the host was killed and not restarted.
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
        self.spawn_work(name, work);
        Task { output }
    }

    #[track_caller]
    fn spawn_work(&self, name: Option<&str>, work: impl Future<Output = ()> + Send + 'static) {
        let state = self.world.network(|network| network.hosts[self.index].state);
        assert_eq!(state, State::Running, "the host was killed, and must be restarted first");
        self.world.executor().spawn(self.index, name, Box::pin(work));
    }

    /// Sleeps for `duration`, by this host's clock.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        let mut clock = self.clock();
        let deadline = clock.now() + duration;
        poll_fn(move |cx| clock.poll_until(cx, deadline))
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
        self.spawn_work(None, work);
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
            network.listened += 1;
            let id = network.listened;
            let backlog = Backlog { id, host, waiting, waker, is_shut_down: false, dice };
            network.listeners.insert(address, backlog);
            Ok(Listener::new(self.world.clone(), address, id))
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
