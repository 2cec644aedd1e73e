//! A loop on a thread of its own, and the clients of a scene.

use std::{
    any::Any,
    io,
    net::{SocketAddr, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::mpsc,
    thread,
    time::{Duration, Instant as SystemInstant},
};

use rustix::{
    net::sockopt::set_socket_linger,
    time::{ClockId, clock_gettime},
};
use wirestate_core::{Erased, Instant, Machine, shutdown::ShutdownHandle};

use super::{
    EventLoop, Factory, Scene,
    observed::{Connections, Observed},
};
use crate::contract::Checked;

/// What the clients of a scene see of the loop, besides its sockets.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) connections: Connections,
    pub(super) shutdown: ShutdownHandle,
}

impl Server {
    /// A factory of machines.
    pub(super) fn factory<M: Machine + 'static>(
        &self,
        mut machine: impl FnMut(Instant) -> M + Send + 'static,
    ) -> Factory {
        let connections = self.connections.clone();
        Box::new(move |now| Box::new(Observed::new(Box::new(Erased(machine(now))), &connections)))
    }

    /// A factory of machines that share nothing. Each checks its driver. (A value that another
    /// thread gives can be seen before its wake-up, which [`Checked`] would take for a lost one.)
    pub(super) fn checked_factory<M: Machine + 'static>(
        &self,
        mut machine: impl FnMut(Instant) -> M + Send + 'static,
    ) -> Factory {
        self.factory(move |now| Checked::new(machine(now), usize::MAX))
    }
}

/// Runs a new loop that listens for each of the `factories`, and then the `clients`, with the
/// addresses. Shuts the loop down when they return. Returns how much CPU time the loop has used.
pub(super) fn serve<L: EventLoop, const N: usize>(
    scene: Scene,
    factories: impl FnOnce(&Server) -> [Factory; N],
    clients: impl FnOnce([SocketAddr; N], &Server),
) -> Duration {
    let server = Server { connections: Connections::default(), shutdown: ShutdownHandle::new() };
    let (factories, shutdown) = (factories(&server), server.shutdown.clone());
    let (listening, addresses) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let event_loop = move || -> io::Result<Duration> {
        let mut event_loop = L::new()?;
        for factory in factories {
            // The scene may have failed.
            let _ = listening.send(event_loop.listen(factory)?);
        }
        let before = cpu_time();
        event_loop.run(&shutdown)?;
        Ok(cpu_time().saturating_sub(before))
    };
    let thread = thread::Builder::new().name(format!("the loop of {scene:?}"));
    thread
        .spawn(move || {
            let _ = ended.send(catch_unwind(AssertUnwindSafe(event_loop)));
        })
        .expect("a thread can be started");

    let played = catch_unwind(AssertUnwindSafe(|| {
        let address = |_| addresses.recv_timeout(TIMEOUT).expect("the loop listens");
        clients(std::array::from_fn(address), &server);
    }));
    server.shutdown.drain();
    if played.is_err() {
        server.shutdown.abort();
    }
    // A loop that has ended early is the cause of what its clients missed.
    let failure = match end.recv_timeout(if played.is_ok() { TIMEOUT } else { GRACE }) {
        Ok(Err(panic)) => format!("the loop has panicked: {}", text(&*panic)),
        Ok(Ok(Err(error))) => format!("the loop has failed: {error}"),
        Ok(Ok(Ok(_))) | Err(_) if let Err(panic) = &played => text(&**panic),
        Err(_) => format!(
            "the loop still runs {TIMEOUT:?} after the shutdown was requested, with {} connections",
            server.connections.open(),
        ),
        Ok(Ok(Ok(cpu_time))) => {
            let open = server.connections.open();
            if open == 0 {
                return cpu_time;
            }
            format!("the loop has ended, and {open} connections are not dropped")
        }
    };
    fail(scene, &failure)
}

/// Fails the scene.
pub(super) fn fail(scene: Scene, failure: &str) -> ! {
    panic!("scene {scene:?}: {failure}\nlook at this: {}", scene.hint())
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// Runs `client` for each number below `count`, on a thread each. Continues the first panic.
pub(super) fn concurrently(count: usize, client: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..count).map(|i| scope.spawn(move || client(i))).collect();
        let ends: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        if let Some(panic) = ends.into_iter().find_map(Result::err) {
            resume_unwind(panic);
        }
    });
}

/// Waits until `condition` returns true.
#[track_caller]
pub(super) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = SystemInstant::now();
    while !condition() {
        assert!(began.elapsed() < TIMEOUT, "after {TIMEOUT:?} it is not true that {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the loop's listener can be connected to");
    stream.set_read_timeout(Some(TIMEOUT)).expect("the timeout is not 0");
    stream.set_write_timeout(Some(TIMEOUT)).expect("the timeout is not 0");
    stream.set_nodelay(true).expect("a TCP socket has this option");
    stream
}

/// Closes the connection with an RST.
pub(super) fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket has this option");
    drop(stream);
}

/// The CPU time that this thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a CPU time is not negative")
}

/// How long a scene waits for anything. Longer than it takes on a busy machine.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the loop may take to end, after its clients have failed.
const GRACE: Duration = Duration::from_secs(1);
