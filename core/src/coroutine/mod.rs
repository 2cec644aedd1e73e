//! Straight-line protocols: an `async fn` over an [`Io`] as a [`Machine`](crate::Machine).
//!
//! For handshakes and clients, where each step waits for the one before. The function reads and
//! writes through its [`Io`], and [`Connection`] is the machine made of it. The machine runs on
//! every runtime, in the simulator and in your own event loop.
//!
//! This protocol has one request: a line with a name, which is answered by a greeting.
//!
//! ```
//! use std::task::{Context, Waker};
//! use wirestate_core::{
//!     Instant, Machine, Outbound,
//!     coroutine::{Config, Error, Factory, Io},
//!     drive,
//! };
//!
//! async fn greet(mut io: Io) -> Result<(), Error> {
//!     io.write(b"name?\n").await?;
//!     let mut name = match io.read_until(b"\n", 64).await {
//!         Ok(name) => name,
//!         Err(error) => {
//!             io.write(format!("{error}\n").as_bytes()).await?;
//!             return Err(error);
//!         }
//!     };
//!     name.splice(..0, *b"hello, ");
//!     io.write(&name).await
//! }
//!
//! // One for all connections of a server.
//! let greeter = Factory::new(Config::default())?;
//!
//! // A server passes the machine to `Server::serve`, a client to `Drive::new`. Without a driver:
//! let (now, cx) = (Instant::EPOCH, &mut Context::from_waker(Waker::noop()));
//! let mut machine = greeter.connection(now, greet);
//! machine.poll_shared(now, cx);
//! drive::deliver(&mut machine, &mut &b"world\n"[..], now);
//! machine.poll_shared(now, cx);
//! let mut output = [0; 64];
//! let n = drive::collect_into(&mut machine, &mut output, now);
//! assert_eq!(&output[..n], b"name?\nhello, world\n");
//! assert_eq!(machine.interest().write, Outbound::Finish);
//! # Ok::<(), wirestate_core::ConfigError>(())
//! ```
//!
//! # How it works
//!
//! 1. The connection owns an input and an output buffer. An event fills or empties one of them, or
//!    passes a deadline. It never runs the coroutine.
//! 2. A driver begins each turn with [`poll_shared`](crate::Machine::poll_shared). There the
//!    connection lends the buffers to the [`Io`], polls the coroutine once, and takes them back.
//! 3. A poll runs the coroutine until it waits: for input that has not arrived, for space in the
//!    output buffer, for a time, or for another future. It sees the time only through [`Io::now`],
//!    so the same events at the same times give the same output.
//! 4. The [`Context`](core::task::Context) of the poll is the driver's. A future that is not an
//!    operation of the [`Io`] (a channel, a dial) stores its waker, which makes the driver take a
//!    turn. The operations store none, because their events are turns already; only a combinator
//!    that polls them with a waker of its own has that waker woken.
//! 5. After each read, the connection reads again only once the coroutine was polled. A poll ends
//!    after 32 operations, and the next turn continues, so that no connection delays the others.
//!
//! # The end
//!
//! | the coroutine | the connection |
//! |---|---|
//! | returns `Ok` | sends the pending output and a FIN, then lingers ([`Linger`](crate::Linger)) |
//! | returns `Err` | does the same, so write an error reply before |
//! | waits beyond its deadline | the waiting operation fails; it may still write an error reply |
//! | still waits after that | drops the coroutine, then as above |
//! | never waits, and has read all input at its deadline | the same, after up to 32 operations |
//!
//! The [reason](CoroutineReason) has the coroutine's error. If the connection is lost, or the peer
//! acknowledges no output within [`Config::write_timeout`], the coroutine is dropped at once.
//!
//! # Shutdown
//!
//! After [`Event::ShutDown`](crate::Event::ShutDown), a coroutine starts nothing new.
//! [`Io::has_more`] and [`Io::read`] still deliver input that is on its way. Once none has arrived
//! for 10 ms, they fail with [`Error::ShutDown`]. The other operations continue, since they belong
//! to something that has begun; only a read that waits for the first byte of the connection fails
//! likewise. A coroutine that waits for another future gets no error. The server's drain timeout
//! ([`serve`](crate::serve)) bounds the wait.
//!
//! # Handshakes
//!
//! [`Factory::handshake`] makes a connection that stays open when its coroutine returns `Ok`. The
//! value and the input that followed the handshake go to the next machine, on the same socket:
//!
//! ```
//! use wirestate_core::{
//!     admission::Admitted,
//!     coroutine::{Error, Factory, Io},
//!     drive::{Clock, Drive, Sink, Source, deliver},
//!     echo,
//! };
//!
//! async fn magic(mut io: Io) -> Result<u8, Error> {
//!     let [version] = io.read_array().await?;
//!     io.write(b"welcome\n").await?;
//!     Ok(version)
//! }
//!
//! async fn serve<S: Source + Sink + Unpin, C: Clock + Clone + Unpin>(
//!     factory: Factory, echo: echo::Server, mut socket: S, admitted: Admitted, clock: C,
//! ) {
//!     let handshake = factory.handshake(clock.now(), magic);
//!     let drive = Drive::new(handshake, &mut socket, clock.clone()).admitted(admitted);
//!     let Ok((_version, input, Some(admitted))) = drive.handshake().await else { return };
//!
//!     let mut machine = echo.machine(clock.now());
//!     deliver(&mut machine, &mut &input[..], clock.now());
//!     Drive::new(machine, socket, clock).admitted(admitted).await;
//! }
//! ```
//!
//! In your own event loop, call [`Connection::take_output`] and [`Connection::take_input`], and
//! [`Seat::hand_over`](crate::drive::Seat::hand_over).

mod config;
mod connection;
mod factory;
mod io;
mod reason;
mod state;

pub use self::{
    config::Config,
    connection::Connection,
    factory::Factory,
    io::Io,
    reason::{CoroutineReason, Error},
};
