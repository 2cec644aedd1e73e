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
    clients: impl FnOnce([SocketAddr; N], &Server) + Send + 'static,
) -> Duration {
    let server = Server { connections: Connections::default(), shutdown: ShutdownHandle::new() };
    let (factories, shutdown) = (factories(&server), server.shutdown.clone());
    let (listening, addresses) = mpsc::channel();
    let event_loop = spawn(format!("the loop of {scene:?}"), move || -> io::Result<Duration> {
        let mut event_loop = L::new()?;
        for factory in factories {
            // The scene may have failed.
            let _ = listening.send(event_loop.listen(factory)?);
        }
        let before = cpu_time();
        event_loop.run(&shutdown)?;
        Ok(cpu_time().saturating_sub(before))
    });
    let of_clients = server.clone();
    let clients = spawn(format!("the clients of {scene:?}"), move || {
        let address = |_| addresses.recv_timeout(TIMEOUT).expect("the loop listens");
        clients(std::array::from_fn(address), &of_clients);
    });

    let played = clients.recv_timeout(SCENE_TIMEOUT);
    server.shutdown.drain();
    let open = || server.connections.open();
    let failed = match played {
        Ok(Ok(())) => None,
        Ok(Err(panic)) => Some(text(&*panic)),
        Err(_) => Some(format!("its clients are not done after {SCENE_TIMEOUT:?}")),
    };
    // A loop that has ended early is the cause of what its clients missed.
    let ended = event_loop.recv_timeout(if failed.is_none() { TIMEOUT } else { GRACE });
    match (ended, failed) {
        (Ok(Err(panic)), _) => fail(scene, &format!("the loop has panicked: {}", text(&*panic))),
        (Ok(Ok(Err(error))), _) => fail(scene, &format!("the loop has failed: {error}")),
        (_, Some(failed)) => fail(scene, &failed),
        (Err(_), None) => fail(
            Scene::ShutdownWhileIdle,
            &format!(
                "at the end of {scene:?}, the loop still runs {TIMEOUT:?} after the shutdown \
                      was requested, with {} connections",
                open()
            ),
        ),
        (Ok(Ok(Ok(_))), None) if open() > 0 => {
            fail(scene, &format!("the loop has ended, and {} connections are not dropped", open()))
        }
        (Ok(Ok(Ok(cpu_time))), None) => cpu_time,
    }
}

/// Runs `f` on a thread, which is left to itself if the result is not awaited.
fn spawn<T: Send + 'static>(
    name: String,
    f: impl FnOnce() -> T + Send + 'static,
) -> mpsc::Receiver<thread::Result<T>> {
    let (sender, receiver) = mpsc::channel();
    let run = move || {
        let _ = sender.send(catch_unwind(AssertUnwindSafe(f)));
    };
    thread::Builder::new().name(name).spawn(run).expect("a thread can be started");
    receiver
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
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);
/// How long the clients of a scene may take.
const SCENE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the loop may take to end, after its clients have failed.
const GRACE: Duration = Duration::from_secs(1);
