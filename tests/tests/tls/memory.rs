//! What a connection holds.

use std::{cell::Cell, sync::Arc, task::Context};

use allocation_counter::measure;
use bytes::Bytes;
use wirestate_core::{Event, Instant, Interest, Machine, Status};
use wirestate_tls::{
    Client, Clients, Config, Server, Tls, client_config, rustls::server::NoServerSessionStorage,
    server_config,
};

use crate::{certificates::SERVERS, pair::Pair, talker::Talker};

/// A machine whose allocations are counted.
struct Counted<M> {
    inner: M,
    held: Cell<i64>,
    max: Cell<i64>,
}

impl<M: Machine> Counted<M> {
    fn new(make: impl FnOnce() -> M) -> Self {
        let mut inner = None;
        let info = measure(|| inner = Some(make()));
        let held = Cell::new(info.bytes_current);
        Self { inner: inner.unwrap(), max: held.clone(), held }
    }

    fn count<T>(&mut self, f: impl FnOnce(&mut M) -> T) -> T {
        let mut result = None;
        let info = measure(|| result = Some(f(&mut self.inner)));
        let max = self.held.get() + i64::try_from(info.bytes_max).unwrap();
        self.max.set(self.max.get().max(max));
        self.held.set(self.held.get() + info.bytes_current);
        result.unwrap()
    }
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded has no effect")]
impl<M: Machine> Machine for Counted<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.inner.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.count(|inner| assert!(!inner.read_buf().is_empty()));
        self.inner.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.inner.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.inner.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.count(|inner| inner.handle(now, event));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.count(|inner| inner.poll_shared(now, cx))
    }

    fn work(&self) -> u64 {
        self.inner.work()
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn reason(&self) -> Option<M::Reason> {
        self.inner.reason()
    }
}

type Counting = Counted<Tls<Talker>>;

fn pair(a: Talker, b: Talker) -> Pair<Counting, Counting> {
    let config = || Config::default().with_idle_buffers(0);
    let identity = SERVERS.sign(&["localhost"]);
    let mut credentials = server_config(vec![identity], Clients::Anonymous, &[]).unwrap();
    // The sessions that could be resumed belong to all connections.
    let sessions = Arc::new(NoServerSessionStorage {});
    Arc::get_mut(&mut credentials).expect("it is new").session_storage = sessions;
    let server = Server::new(config(), credentials).unwrap();
    let credentials = client_config(SERVERS.authorities(), None, &[]).unwrap();
    let client = Client::new(config(), credentials, "localhost".try_into().unwrap()).unwrap();
    let a = Counted::new(|| client.machine(a, Instant::EPOCH));
    let b = Counted::new(|| server.machine(b, Instant::EPOCH));
    Pair::new(a, b, 100_000, 1)
}

#[test]
fn an_idle_connection_holds_at_most_12_kilobytes() {
    let mut pair = pair(Talker::default(), Talker::default());
    for _ in 0..2 {
        pair.settle();
        for machine in [&mut pair.a, &mut pair.b] {
            machine.handle(pair.now, Event::Release);
            let held = machine.held.get() + i64::try_from(size_of::<Tls<Talker>>()).unwrap();
            assert!(!machine.inner.is_handshaking());
            assert!(held <= 12 * 1024, "{held} bytes");
        }
        // After an exchange as well. The inner machines keep what they have received: 1,000 bytes.
        pair.a.inner.inner_mut().output = vec![1; 10];
    }
}

/// Backpressure: no more ciphertext is taken than the buffers hold.
#[test]
fn a_reader_that_pauses_holds_two_buffers_and_a_record() {
    let (sender, reader) = (Talker::sending(vec![1; 1_000_000]), Talker::default().paused());
    let mut pair = pair(sender, reader);
    pair.capacity = 1000;
    pair.settle();
    let buffer = i64::try_from(Config::default().buffer).unwrap();
    let taken = pair.pipes[0].sent.len() - pair.pipes[0].bytes.len();
    assert!(taken <= Config::default().buffer, "{taken} bytes of ciphertext were taken");
    for machine in [&pair.a, &pair.b] {
        let (held, max) = (machine.held.get(), machine.max.get());
        // Besides, a few records of the handshake at once.
        assert!(held <= 2 * buffer + 16 * 1024 + 8192, "{held} bytes");
        assert!(max <= 2 * buffer + 5 * 16 * 1024, "{max} bytes for a moment");
    }
    assert!(pair.b.inner.inner().received.is_empty());
    // It receives everything once it reads.
    pair.b.inner.inner_mut().is_paused = false;
    pair.settle();
    assert_eq!(pair.b.inner.inner().received.len(), 1_000_000);
    assert_eq!(pair.b.inner.inner().ends, [Event::Eof]);
}
