//! A panic in a connection's machine ends only that connection, on every runtime.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot continue has failed")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    pin::Pin,
    sync::Arc,
    thread,
    time::Duration,
};

use wirestate_core::{
    Event, Instant, Interest, Machine, Status,
    admission::Limits,
    echo::{Connection, EchoReason, Server},
    runtime::{Listener, Runtime},
    serve::{self, DrainReport, ServerHandle},
};

/// An echo that panics when it receives an exclamation mark.
struct Fragile(Connection);

impl Machine for Fragile {
    type Reason = EchoReason;

    fn interest(&self) -> Interest {
        self.0.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.0.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.0.write_bufs(out)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        let panics = matches!(event, Event::Read(n) if self.0.read_buf()[..n].contains(&b'!'));
        self.0.handle(now, event);
        assert!(!panics, "planted");
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    fn status(&self) -> Status {
        self.0.status()
    }

    fn reason(&self) -> Option<EchoReason> {
        self.0.reason()
    }
}

fn exchange(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(message).unwrap();
    let mut reply = vec![0; message.len()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply, message);
}

/// The future of a server.
type Serving = Pin<Box<dyn Future<Output = DrainReport> + Send>>;

/// Asserts that a panic ends one connection. `run` drives the server's future on the runtime.
fn a_panic_ends_its_connection_alone<R: Runtime>(
    runtime: R,
    run: impl FnOnce(Serving) -> DrainReport + Send + 'static,
) {
    let listener = runtime.listen("127.0.0.1:0").unwrap();
    let address = listener.local_address().unwrap().ip().unwrap();
    let handle = ServerHandle::new(serve::Config::default().with_limits(Limits::default()));
    let (table, shutdown) = (handle.table().clone(), handle.shutdown().clone());
    let server = thread::spawn(move || {
        run(Box::pin(async move {
            let echo = Server::default();
            serve::Server::new(runtime, listener)
                .with_handle(&handle)
                .serve(|_, now| Fragile(echo.machine(now)))
                .await
        }))
    });
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    };
    let mut healthy = connect();
    exchange(&mut healthy, b"before");
    for _ in 0..5 {
        let mut doomed = connect();
        exchange(&mut doomed, b"hello");
        doomed.write_all(b"panic!").unwrap();
        let error = doomed.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "a FIN would hide the panic");
        exchange(&mut healthy, b"meanwhile");
    }
    healthy.shutdown(Shutdown::Write).unwrap();
    assert_eq!(healthy.read(&mut [0; 8]).unwrap(), 0);
    shutdown.drain();
    server.join().expect("the server does not panic");
    let totals = table.totals();
    assert_eq!((totals.accepted, totals.open), (6, 0));
    assert_eq!(totals.ended.into_iter().collect::<Vec<_>>(), [("finished", 1), ("panicked", 5)]);
}

#[test]
fn on_tokio() {
    let tokio = Arc::new(tokio::runtime::Runtime::new().unwrap());
    let runtime = wirestate_tokio::Tokio::new(tokio.handle().clone());
    a_panic_ends_its_connection_alone(runtime, move |server| tokio.block_on(server));
}

#[test]
fn on_smol() {
    let executor = Arc::new(smol::Executor::new());
    let runtime = wirestate_smol::Smol::new(executor.clone());
    a_panic_ends_its_connection_alone(runtime, move |server| smol::block_on(executor.run(server)));
}

#[test]
fn on_threads() {
    a_panic_ends_its_connection_alone(wirestate_std::Threads::new(), wirestate_std::block_on);
}
