//! A loop with edge-triggered `epoll(7)`, which keeps each [`Seat`] by itself. It polls only
//! connections that have an event.
//!
//! A socket is registered once, for both directions. An edge reports that a socket has become ready
//! since a call on it blocked. A seat makes calls until one blocks, so it misses no edge. If the
//! machine stops reading before a read blocks, the seat remembers that the socket is ready.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Wake, Waker},
    time::Instant as SystemInstant,
};

use rustix::{
    event::{
        EventfdFlags, Timespec,
        epoll::{self, EventData, EventFlags},
        eventfd,
    },
    io::Errno,
};
use wirestate_core::{
    Instant,
    admission::{ConnectionTable, Peer},
    drive::{Next, Seat},
    shutdown::{self, ShutdownHandle},
};

use wirestate_testkit::event_loop::{Factory, Protocol};

use super::tcp_socket::Socket;

pub(crate) struct EventLoop {
    epoch: SystemInstant,
    table: ConnectionTable,
    epoll: OwnedFd,
    listeners: Vec<(TcpListener, Factory)>,
    connections: BTreeMap<u64, Connection>,
    next_id: u64,
    woken: Arc<WokenIds>,
}

struct Connection {
    seat: Seat<Protocol, Socket>,
    /// When the connection is polled without an event.
    deadline: Option<Instant>,
}

/// The ids of the woken connections.
struct WokenIds {
    ids: Mutex<Vec<u64>>,
    /// Readable while `ids` is not empty.
    event: OwnedFd,
}

impl WokenIds {
    fn push(&self, id: u64) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.is_empty() {
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
        if !ids.contains(&id) {
            ids.push(id);
        }
    }

    fn take(&self) -> Vec<u64> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        std::mem::take(&mut ids)
    }
}

/// Wakes a connection, or the loop itself (`LOOP`).
struct Woken {
    id: u64,
    ids: Arc<WokenIds>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.ids.push(self.id);
    }
}

impl EventLoop {
    pub(crate) fn new(table: ConnectionTable) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &event, EventData::new_u64(LOOP), EventFlags::IN)?;
        Ok(Self {
            epoch: SystemInstant::now(),
            table,
            epoll,
            listeners: Vec::new(),
            connections: BTreeMap::new(),
            next_id: 0,
            woken: Arc::new(WokenIds { ids: Mutex::default(), event }),
        })
    }

    pub(crate) fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        epoll::add(&self.epoll, &listener, EventData::new_u64(LOOP), EventFlags::IN)?;
        let address = listener.local_addr()?;
        self.listeners.push((listener, machine));
        Ok(address)
    }

    pub(crate) fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
        while self.goes_on(shutdown)? {
            self.round()?;
        }
        Ok(())
    }

    /// Applies `shutdown`. Returns false once a shutdown was requested and the last connection has
    /// ended.
    fn goes_on(&mut self, shutdown: &ShutdownHandle) -> io::Result<bool> {
        let waker = Waker::from(Arc::new(Woken { id: LOOP, ids: self.woken.clone() }));
        let stops =
            shutdown.poll_requested(&mut Context::from_waker(&waker)) > shutdown::Shutdown::None;
        // Once, because it wakes every connection.
        if stops && !self.listeners.is_empty() {
            self.accept(self.now())?; // the backlog
            self.listeners.clear();
            self.table.shut_down();
        }
        Ok(!self.listeners.is_empty() || !self.connections.is_empty())
    }

    fn round(&mut self) -> io::Result<()> {
        let deadline = self.connections.values().filter_map(|each| each.deadline).min();
        let timeout = deadline.and_then(|at| Timespec::try_from(at.since(self.now())).ok());
        let mut events = Vec::with_capacity(64);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }

        let now = self.now();
        let mut due = self.woken.take();
        let is_due = |each: &Connection| each.deadline.is_some_and(|deadline| deadline <= now);
        due.extend(self.connections.iter().filter(|(_, each)| is_due(each)).map(|(id, _)| id));
        for event in events {
            let (id, flags) = (event.data.u64(), event.flags);
            if let Some(connection) = self.connections.get_mut(&id) {
                let broken = EventFlags::HUP | EventFlags::ERR;
                let read = flags.intersects(EventFlags::IN | broken);
                let write = flags.intersects(EventFlags::OUT | broken);
                connection.seat.ready(read, write);
                due.push(id);
            }
        }
        due.sort_unstable();
        due.dedup();
        for id in due {
            self.poll(id, now);
        }
        self.accept(now)
    }

    fn poll(&mut self, id: u64, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // `round` has reported all edges. Other readiness has not changed.
        connection.seat.ready(false, false);
        let waker = Waker::from(Arc::new(Woken { id, ids: self.woken.clone() }));
        match connection.seat.poll(now, &mut Context::from_waker(&waker)) {
            Next::Again => connection.deadline = Some(Instant::EPOCH),
            Next::Sleep { until, .. } => connection.deadline = until,
            // epoll(7) forgets a socket that is closed.
            Next::Done(_) => drop(self.connections.remove(&id)),
        }
    }

    fn accept(&mut self, now: Instant) -> io::Result<()> {
        let mut accepted = Vec::new();
        for (listener, protocol) in &mut self.listeners {
            loop {
                match listener.accept() {
                    Ok((stream, peer)) => accepted.push((stream, peer, protocol(now))),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        for (stream, peer, protocol) in accepted {
            let Ok(admitted) = self.table.admit(Peer::Ip(peer), now) else { continue };
            let socket = Socket::new(stream)?;
            let id = self.next_id;
            self.next_id += 1;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            epoll::add(&self.epoll, &socket.0, EventData::new_u64(id), flags)?;
            let seat = Seat::new(protocol, socket).admitted(admitted);
            self.connections.insert(id, Connection { seat, deadline: None });
            self.poll(id, now);
        }
        Ok(())
    }

    fn now(&self) -> Instant {
        Instant::from_epoch(self.epoch.elapsed())
    }
}

/// The id of the loop's own events: those of listeners and of `WokenIds`.
const LOOP: u64 = u64::MAX;
