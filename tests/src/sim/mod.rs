//! A world in memory: hosts, a network between them, and a time that only moves when everybody
//! waits.
//!
//! A [`Host`] is a [`Runtime`](wirestate_core::runtime::Runtime), so a server, a client or a
//! machine runs there as it does on tokio, not a line of it changed. What differs is what is below:
//!
//! - **Time** is virtual. It goes on exactly to the next thing that happens, so a minute's timeout
//!   takes no time, and a run in which nothing can ever happen again is found:
//!   [`Halted::Stalled`].
//! - **Wakers mean it.** A task that was not woken is not polled. A call that would have blocked
//!   goes on doing so until a change is reported, as with tokio's readiness. Before an alarm, input
//!   or a spurious wake-up reaches a task, the world polls that task while there is no reason to. If
//!   it then gets something done, a wake-up was lost: [`Halted::LostWakeUp`]. A task that wakes
//!   itself over and over is [`Halted::Spinning`].
//! - **Sockets** behave like Linux's: bounded buffers, a FIN behind what is queued, a reset that is
//!   reported once, an RST in answer to data that nobody will read. [`Buffering`] makes one hold
//!   output, as TLS does.
//! - **Faults** are drawn from a plan, [`Faults`], by a seed. Every end of every connection has
//!   dice of its own, so a run without the faulty peer is otherwise the same run.
//!
//! The same seed gives the same run: [`Trace::hash`] says so.
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
//! let heard = client.run(async move {
//!     let socket = runtime.connect("server:7").await.unwrap();
//!     act(runtime, socket, vec![Act::Send("hello".into()), Act::Finish, Act::ReceiveAll]).await
//! });
//!
//! world.run()?;
//! assert_eq!(heard.take().unwrap().bytes, b"hello");
//! assert_eq!(served.take().unwrap(), "finished");
//! assert_eq!(world.leftovers(), Leftovers::default());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod buffering;
mod clock;
mod connection;
mod executor;
mod faults;
mod host;
mod network;
mod peer;
mod socket;
mod trace;
mod world;

pub use self::{
    buffering::Buffering,
    clock::Clock,
    connection::Record,
    faults::Faults,
    host::{Host, Listener, Task},
    peer::{Act, Heard, act, rude},
    socket::Socket,
    trace::{Entry, Side, Trace, What, digest},
    world::{Halted, Leftovers, Settings, World},
};
