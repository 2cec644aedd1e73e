//! Subscribers that check what they get: whole messages, in order, and where numbers are missing.

use std::{
    io::{BufRead, BufReader, ErrorKind},
    net::TcpStream,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use crate::{
    process::{Server, eventually},
    source::{Number, parse},
};

/// Subscribers of one server, each with a thread.
pub(crate) struct Subscribers {
    received: Vec<Arc<Mutex<Received>>>,
    threads: Vec<JoinHandle<()>>,
}

/// What one subscriber has received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) first: Option<Number>,
    pub(crate) last: Option<Number>,
    /// Each pair of messages in which the second one is not the successor of the first.
    pub(crate) gaps: Vec<(Number, Number)>,
    pub(crate) end: Option<End>,
}

/// How a subscription has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A FIN after a whole message.
    Fin,
    Reset,
}

impl Subscribers {
    /// Connects subscribers, and waits until the server has admitted them. They must be the
    /// server's first ones.
    pub(crate) fn connect(server: &Server, count: usize) -> Self {
        let mut subscribers = Self { received: Vec::new(), threads: Vec::new() };
        for _ in 0..count {
            let received = Arc::new(Mutex::new(Received::default()));
            subscribers.received.push(received.clone());
            let stream = server.connect();
            // Whether the stream ends in time is checked by the test's own wait.
            stream.set_read_timeout(None).unwrap();
            let thread = thread::Builder::new().stack_size(128 * 1024);
            subscribers.threads.push(thread.spawn(move || read(stream, &received)).unwrap());
        }
        server.await_connected(count);
        subscribers
    }

    /// Waits until each has received a message.
    pub(crate) fn await_first(&self) {
        eventually("each subscriber gets a message", || self.all(|one| one.first.is_some()));
    }

    /// Waits until each has received this message or a later one.
    pub(crate) fn await_message(&self, message: Number) {
        let what = format!("each subscriber gets message {message:?}");
        eventually(&what, || self.all(|one| one.last >= Some(message)));
    }

    /// Waits until each has ended. Returns what they have received.
    pub(crate) fn await_end(self) -> Vec<Received> {
        eventually("each subscription ends", || self.all(|one| one.end.is_some()));
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.received.iter().map(|one| one.lock().unwrap().clone()).collect()
    }

    /// What the first one has received.
    pub(crate) fn sample(&self) -> Received {
        self.received[0].lock().unwrap().clone()
    }

    fn all(&self, condition: impl Fn(&Received) -> bool) -> bool {
        self.received.iter().all(|one| condition(&one.lock().unwrap()))
    }
}

/// Reads until the stream ends.
fn read(stream: TcpStream, received: &Mutex<Received>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = stream.read_until(b'\n', &mut line);
        let mut received = received.lock().unwrap();
        match read {
            Ok(0) => return received.end = Some(End::Fin),
            Ok(_) => {
                let line = line.strip_suffix(b"\n").expect("a FIN comes after a whole message");
                received.add(parse(line));
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return received.end = Some(End::Reset);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Received {
    fn add(&mut self, message: Number) {
        if let Some(last) = self.last
            && message != (last.0, last.1 + 1)
        {
            self.gaps.push((last, message));
        }
        self.first.get_or_insert(message);
        self.last = Some(message);
    }
}
