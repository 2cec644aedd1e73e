//! A simulated world: hosts, a network between them, and virtual time.
//!
//! A [`Host`] is a [`Runtime`](wirestate_core::runtime::Runtime): servers, clients and machines run
//! on it unchanged. The world simulates the rest:
//!
//! - **Time** jumps to the next event when all tasks wait, so a timeout of a minute costs no real
//!   time. If no event is left, the run ends with [`Halted::Stalled`].
//! - **Wake-ups** are exact: a task is polled only after its waker was woken. A socket call
//!   that returned `Pending` returns it again until the socket reports a change, as with tokio's
//!   readiness. Before an alarm, input or a spurious wake-up reaches a task, the world polls the
//!   task once without a reason. If that poll makes progress, a wake-up was lost:
//!   [`Halted::LostWakeUp`]. A task that wakes itself without end is [`Halted::Spinning`]. To find
//!   a lost wake-up of a machine without a network, use a [`stage`](crate::stage).
//! - **Sockets** behave as on Linux: buffers are bounded, a FIN follows the queued data, a reset is
//!   reported once, and data that nobody will read is answered with an RST. [`Buffering`] adds a
//!   write buffer, as TLS has.
//! - **Faults** follow a plan, [`Faults`], and a seed. Each end of each connection has its own
//!   random numbers, so adding a faulty peer does not change the other connections.
//! - **The network** has a [`Latency`], partitions in one direction or both
//!   ([`Host::set_blocked`]), unplugged hosts, and a bandwidth for each host
//!   ([`Host::set_bandwidth`]). TCP repeats what is lost, so a partition delays bytes, and in the
//!   end breaks a connection, but never leaves a gap.
//! - **Hosts** can be stopped, killed ([`Host::kill`]), lose their power ([`Host::cut_power`]) and
//!   start again ([`Host::restart`]). Their clocks can be wrong, freeze, and drift.
//!
//! A test of a whole system has two phases. First a [`Swarm`] disturbs the hosts at random, and no
//! invariant may break. Then [`World::heal`] ends all faults, and [`World::finish_within`] asserts
//! that every healthy client finishes within a bound.
//!
//! The same seed gives the same run; [`Trace::hash`] identifies it. [`Decisions`] are the random
//! choices of a run as text, which can be edited and replayed.
//!
//! A run that fails shows the last 20 events of the connections involved: [`Halted`] has them in
//! its text, and a panic, of a task or of the test, prints them to standard error. A task is named
//! by its host, its number, and its name ([`Host::run_named`]) or connection, such as `server#3
//! (connection from client/0)`.
//!
//! The environment variable `WIRESTATE_TIMELINE` names a folder. A test that fails writes an HTML
//! page of all events of its last run to it. [`Trace::timeline`] makes the page of any run.
//!
//! ```
//! use wirestate_core::{drive::{Clock as _, Drive}, echo, runtime::{Listener as _, Runtime}};
//! use wirestate_testkit::sim::{Act, Faults, Leftovers, World, act};
//!
//! let world = World::new(42);
//! let (server, client) = (world.host("server"), world.host("client"));
//! client.set_faults(Faults::harmless(42));
//!
//! let mut listener = server.listen("server:7")?;
//! let (echo, clock) = (echo::Server::default(), server.clock());
//! let served = server.run(async move {
//!     let (socket, _peer) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
//!     Drive::new(echo.machine(clock.now()), socket, clock).await.to_string()
//! });
//!
//! let runtime = client.clone();
//! let received = client.run(async move {
//!     let socket = runtime.connect("server:7").await.unwrap();
//!     act(runtime, socket, vec![Act::Send("hello".into()), Act::Finish, Act::ReceiveAll]).await
//! });
//!
//! world.run()?;
//! assert_eq!(received.take().unwrap().bytes, b"hello");
//! assert_eq!(served.take().unwrap(), "finished");
//! assert_eq!(world.leftovers(), Leftovers::default());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alarms;
mod barrier;
mod buffering;
mod calls;
pub(crate) mod case;
mod clock;
mod connection;
pub(crate) mod decisions;
mod delivery;
mod dial;
mod disturb;
mod executor;
mod faults;
mod host;
mod latency;
mod life;
mod link;
mod listener;
mod network;
mod peer;
mod record;
mod report;
mod socket;
mod swarm;
mod timeline;
mod trace;
mod world;

pub use self::{
    barrier::Barrier,
    buffering::Buffering,
    clock::Clock,
    decisions::{Decisions, DecisionsError},
    faults::Faults,
    host::{Host, Task},
    latency::Latency,
    listener::Listener,
    peer::{Act, Received, act, misbehaving},
    record::Record,
    socket::Socket,
    swarm::{Disturbance, Swarm},
    trace::{Entry, Excerpt, Place, Side, Trace, TraceEvent, Value, digest},
    world::{Halted, Leftovers, Settings, World},
};
