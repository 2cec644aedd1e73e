//! The listeners of a server, which can change while it accepts.

use std::{
    fmt, io, mem,
    task::{Context, Poll, Waker},
    vec::Vec,
};

use super::Server;
use crate::{
    admission::Peer,
    listen::Listeners,
    runtime::{AcceptError, Address, Listener, Runtime},
    shared::{Lock, Shared, register_waker, wake},
};

/// The listeners of a [`Server`], which can be added and removed while it accepts. Clones are
/// handles on the same listeners.
///
/// They are closed when the server stops accepting, or with the server and all handles.
pub struct Listening<R: Runtime> {
    runtime: R,
    state: Shared<Lock<State<R::Listener>>>,
}

struct State<L> {
    /// `None`: the server accepts no more.
    listeners: Option<Listeners<L>>,
    /// Wakes the accept loop for a new listener.
    accepting: Option<Waker>,
}

impl<R: Runtime> Listening<R> {
    pub(super) fn new(runtime: R, listeners: Listeners<R::Listener>) -> Self {
        let state = State { listeners: Some(listeners), accepting: None };
        Self { runtime, state: Shared::new(Lock::new(state)) }
    }

    /// Adds the listeners of `server`, whose settings are dropped. If this server accepts no more,
    /// they are closed.
    pub fn add(&self, server: Server<R>) {
        let Server { listening, .. } = server;
        let added = listening.take(|_| true);
        let waker = self.state.with(|state| {
            if let Some(listeners) = &mut state.listeners {
                for listener in added {
                    listeners.push(listener);
                }
            }
            state.accepting.take()
        });
        wake(waker);
    }

    /// Removes the listeners on `addresses`, and returns them as a server of their own. It has the
    /// default settings.
    ///
    /// Connections that are complete wait in the backlog of their listener, which resets them when
    /// it is dropped. To serve them, let the server accept with the handle of this one and a
    /// shutdown of its own ([`ServerHandle::with_shutdown`](super::ServerHandle::with_shutdown)),
    /// for which a soft stop is requested.
    pub fn remove(&self, addresses: &[Address]) -> Server<R> {
        let is_removed = |address: &Address| addresses.contains(address);
        let removed =
            self.take(|listener| listener.local_address().is_ok_and(|own| is_removed(&own)));
        Server::with_listeners(self.runtime.clone(), Listeners::new(removed))
    }

    pub(super) fn push(&self, listener: R::Listener) {
        self.state.with(|state| {
            if let Some(listeners) = &mut state.listeners {
                listeners.push(listener);
            }
        });
    }

    /// The addresses that the server listens on. None once it accepts no more.
    ///
    /// # Errors
    /// The operating system cannot report an address (getsockname(2)).
    pub fn addresses(&self) -> io::Result<Vec<Address>> {
        let addresses = |listeners: &Listeners<_>| listeners.addresses();
        self.state.with(|state| state.listeners.as_ref().map_or(Ok(Vec::new()), addresses))
    }

    pub(super) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(R::Socket, Peer), AcceptError>> {
        let (accepted, replaced) = self.state.with(|state| {
            let listeners = state.listeners.as_mut();
            let accepted = listeners.map_or(Poll::Pending, |listeners| listeners.poll_accept(cx));
            (accepted, register_waker(&mut state.accepting, cx))
        });
        drop(replaced);
        accepted
    }

    pub(super) fn shut_down(&self) {
        self.state.with(|state| state.listeners.as_mut().map(Listeners::shut_down));
    }

    /// Closes the listeners, and those that are added later.
    pub(super) fn close(&self) {
        drop(self.state.with(|state| mem::take(&mut state.listeners)));
    }

    fn take(&self, is_taken: impl FnMut(&mut R::Listener) -> bool) -> Vec<R::Listener> {
        self.state.with(|state| {
            state.listeners.as_mut().map_or_else(Vec::new, |listeners| listeners.take(is_taken))
        })
    }
}

impl<R: Runtime> Clone for Listening<R> {
    fn clone(&self) -> Self {
        Self { runtime: self.runtime.clone(), state: self.state.clone() }
    }
}

impl<R: Runtime> fmt::Debug for Listening<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listening").field(&self.addresses()).finish()
    }
}
