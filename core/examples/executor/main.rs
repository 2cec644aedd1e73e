//! Machines on an executor of your own, here one of 150 lines with `poll(2)`, and no runtime crate.
//!
//! A [`Drive`] is a future. It needs a socket that wakes the task after `Pending`, and a clock with
//! an alarm. A [`Drive`] whose budget is used up wakes itself: the executor must run the other
//! tasks, and look for events, before it polls that task again.
//!
//! `cargo run -p wirestate-core --example executor` serves an echo, requests and a fan-out to
//! clients of its own, and ends. The page `docs/embed.md` explains it.

#[path = "../demonstration/mod.rs"]
mod demonstration;
mod executor;

use std::{
    future::poll_fn,
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    pin::pin,
    task::{Context, Poll},
    time::{Duration, Instant as SystemInstant},
};

use rustix::net::sockopt::set_socket_linger;
use wirestate_core::{
    Instant,
    admission::{ConnectionTable, Peer},
    drive::{Clock, Drive, IoError, MAX_SLICES, Sink, Source},
    shutdown::{self, ShutdownHandle},
};

use self::{
    demonstration::Factory,
    executor::{Alarm, Async, Executor},
};

struct Socket(Async<TcpStream>);

impl Source for Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        self.0.poll(cx, false, |mut stream| stream.read(buf)).map_err(IoError::from)
    }
}

impl Sink for Socket {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        slices.iter_mut().zip(bufs).for_each(|(slice, buf)| *slice = IoSlice::new(buf));
        let slices = &slices[..bufs.len().min(MAX_SLICES)];
        self.0.poll(cx, true, |mut stream| stream.write_vectored(slices)).map_err(IoError::from)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        self.0.poll(cx, true, |stream| stream.shutdown(Shutdown::Write)).map_err(IoError::from)
    }

    fn reset(&mut self) {
        // The kernel sends the RST when the socket is closed, which the end of the task does.
        let _ = set_socket_linger(&self.0.socket, Some(Duration::ZERO));
    }
}

struct AlarmClock {
    epoch: SystemInstant,
    alarm: Alarm,
}

impl Clock for AlarmClock {
    fn now(&self) -> Instant {
        Instant::from_epoch(self.epoch.elapsed())
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.now() >= deadline {
            return Poll::Ready(());
        }
        self.alarm.set(self.epoch.checked_add(deadline.since_epoch()), cx.waker());
        Poll::Pending
    }
}

/// Serves the connections of all its listeners on one thread.
pub(crate) struct EventLoop {
    epoch: SystemInstant,
    table: ConnectionTable,
    executor: Executor,
    listeners: Vec<(TcpListener, Factory)>,
}

impl EventLoop {
    /// A loop whose connections are admitted by `table`.
    pub(crate) fn new(table: ConnectionTable) -> io::Result<Self> {
        let (epoch, executor) = (SystemInstant::now(), Executor::new()?);
        Ok(Self { epoch, table, executor, listeners: Vec::new() })
    }

    /// Listens on a free port of the loopback interface.
    pub(crate) fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.listeners.push((listener, machine));
        Ok(address)
    }

    /// Serves until a shutdown is requested and the last connection has ended.
    pub(crate) fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
        for (listener, machine) in self.listeners.drain(..) {
            let (executor, shutdown) = (self.executor.clone(), shutdown.clone());
            let (table, epoch) = (self.table.clone(), self.epoch);
            self.executor.spawn(async move {
                let mut accepting = pin!(accept(listener, machine, executor, &table, epoch));
                let accepted = poll_fn(|cx| {
                    let accepted = accepting.as_mut().poll(cx);
                    // The backlog is accepted.
                    let ends = shutdown.poll_requested(cx) > shutdown::Shutdown::None;
                    if ends && accepted.is_pending() { Poll::Ready(Ok(())) } else { accepted }
                });
                if let Err(error) = accepted.await {
                    eprintln!("cannot accept: {error}");
                }
                table.shut_down();
            });
        }
        self.executor.run()
    }
}

/// Accepts connections, and spawns a task for each.
async fn accept(
    listener: TcpListener,
    mut machine: Factory,
    executor: Executor,
    table: &ConnectionTable,
    epoch: SystemInstant,
) -> io::Result<()> {
    let listener = Async::new(listener, &executor);
    loop {
        let accept = |cx: &mut Context<'_>| listener.poll(cx, false, TcpListener::accept);
        let (stream, peer) = poll_fn(accept).await?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let clock = AlarmClock { epoch, alarm: Alarm::new(&executor) };
        let now = clock.now();
        // A connection that is not admitted is closed.
        let Ok(admitted) = table.admit(Peer::Ip(peer), now) else { continue };
        let socket = Socket(Async::new(stream, &executor));
        let drive = Drive::new(machine(now), socket, clock).admitted(admitted);
        executor.spawn(async move { drop(drive.await) });
    }
}

pub(crate) fn main() -> io::Result<()> {
    demonstration::run(|table, factories, addresses, shutdown| {
        let mut event_loop = EventLoop::new(table)?;
        for machine in factories {
            addresses.send(event_loop.listen(machine)?).map_err(io::Error::other)?;
        }
        event_loop.run(shutdown)
    })
}
