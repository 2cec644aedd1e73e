//! The source: numbered messages for one client at a time.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::process::eventually;

/// The number of a connection of the source, from 1, and of a message in it, from 0.
pub(crate) type Number = (u32, u64);

/// A message of `size` bytes, which is a line.
fn message((connection, number): Number, size: usize) -> Vec<u8> {
    let mut message = format!("{connection} {number} ").into_bytes();
    message.resize(size - 1, b'.');
    message.push(b'\n');
    message
}

/// Parses a message without its line feed. Panics if it is damaged.
pub(crate) fn parse(line: &[u8]) -> Number {
    let text = str::from_utf8(line).unwrap();
    let number = (|| {
        let (connection, rest) = text.split_once(' ')?;
        let (number, filler) = rest.split_once(' ')?;
        let is_whole = !filler.is_empty() && filler.bytes().all(|byte| byte == b'.');
        is_whole.then_some((connection.parse().ok()?, number.parse().ok()?))
    })();
    number.unwrap_or_else(|| panic!("no message: {text:?}"))
}

/// A server that sends messages to one client at a time, at a rate, until it is dropped.
///
/// Each client gets the messages from 0 on.
pub(crate) struct Source {
    pub(crate) address: String,
    control: Arc<Mutex<Control>>,
    thread: Option<JoinHandle<()>>,
}

struct Control {
    /// Of a message, in bytes.
    size: usize,
    /// Messages a second; 0: none.
    rate: u32,
    /// Messages to send at once.
    burst: u64,
    /// Bytes to send between two messages.
    extra: Vec<u8>,
    /// How many clients have connected.
    connections: u32,
    /// The last message of the last write that the kernel has accepted as a whole.
    last: Option<Number>,
    /// Whether a client has not got all of the last write.
    is_pending: bool,
    ends: bool,
}

impl Source {
    /// Starts a source of `rate` messages a second.
    pub(crate) fn start(rate: u32) -> Self {
        Self::with_size(rate, 64)
    }

    /// Starts a source of messages of `size` bytes.
    pub(crate) fn with_size(rate: u32, size: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let control = Arc::new(Mutex::new(Control {
            size,
            rate,
            burst: 0,
            extra: Vec::new(),
            connections: 0,
            last: None,
            is_pending: false,
            ends: false,
        }));
        let thread = thread::spawn({
            let control = control.clone();
            move || serve(&listener, &control)
        });
        Self { address, control, thread: Some(thread) }
    }

    fn control<T>(&self, call: impl FnOnce(&mut Control) -> T) -> T {
        call(&mut self.control.lock().unwrap())
    }

    /// Changes the rate, in messages a second; 0: none.
    pub(crate) fn set_rate(&self, rate: u32) {
        self.control(|control| control.rate = rate);
    }

    /// Sends this many messages as fast as the client reads them.
    pub(crate) fn burst(&self, messages: u64) {
        self.control(|control| control.burst += messages);
    }

    /// Sends these bytes between two messages.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.control(|control| control.extra.extend(bytes));
    }

    /// How many clients have connected.
    pub(crate) fn connections(&self) -> u32 {
        self.control(|control| control.connections)
    }

    /// The last message that the kernel has accepted.
    pub(crate) fn last(&self) -> Option<Number> {
        self.control(|control| control.last)
    }

    /// Ends the flow after a whole message, and returns it.
    pub(crate) fn pause(&self) -> Number {
        self.set_rate(0);
        eventually("the source has sent all", || {
            self.control(|control| {
                control.burst == 0 && control.extra.is_empty() && !control.is_pending
            })
        });
        self.last().expect("a message was sent")
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.control(|control| control.ends = true);
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            assert!(joined.is_ok() || thread::panicking(), "the source has panicked");
        }
    }
}

fn serve(listener: &TcpListener, control: &Mutex<Control>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => Client::new(stream, control).serve(control),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(TICK),
            Err(error) => panic!("accept: {error}"),
        }
        if control.lock().unwrap().ends {
            return;
        }
    }
}

/// The client that gets the messages.
struct Client {
    stream: TcpStream,
    connection: u32,
    /// The number of the next message.
    next: u64,
    /// Bytes of whole messages, of which `sent` are sent.
    pending: Vec<u8>,
    sent: usize,
    /// Messages that are due by the rate, in billionths.
    due: u128,
    filled: Instant,
}

impl Client {
    fn new(stream: TcpStream, control: &Mutex<Control>) -> Self {
        stream.set_nonblocking(true).unwrap();
        let mut control = control.lock().unwrap();
        control.connections += 1;
        let connection = control.connections;
        let (pending, filled) = (Vec::new(), Instant::now());
        Self { stream, connection, next: 0, pending, sent: 0, due: 0, filled }
    }

    /// Sends messages until the client leaves.
    fn serve(mut self, control: &Mutex<Control>) {
        loop {
            let written = {
                let mut control = control.lock().unwrap();
                if self.pending.is_empty() {
                    self.fill(&mut control);
                }
                let written = self.write();
                if self.pending.is_empty() && self.next > 0 {
                    control.last = Some((self.connection, self.next - 1));
                }
                control.is_pending = !self.pending.is_empty() && written.is_ok();
                if control.ends || written.is_err() {
                    return;
                }
                written.is_ok_and(|bytes| bytes > 0)
            };
            // The client sends nothing, and leaves by a FIN or a reset.
            let is_gone = !matches!(
                self.stream.read(&mut [0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock
            );
            if is_gone {
                return control.lock().unwrap().is_pending = false;
            }
            if !written {
                thread::sleep(TICK);
            }
        }
    }

    /// Adds the messages that are due.
    fn fill(&mut self, control: &mut Control) {
        let elapsed = self.filled.elapsed();
        self.filled += elapsed;
        self.due += elapsed.as_nanos() * u128::from(control.rate);
        let paced = u64::try_from(self.due / SECOND).unwrap().min(MAX_BATCH);
        self.due = if control.rate == 0 { 0 } else { self.due % SECOND };
        let burst = control.burst.min(MAX_BATCH);
        control.burst -= burst;
        self.pending.append(&mut control.extra);
        for _ in 0..paced + burst {
            self.pending.extend(message((self.connection, self.next), control.size));
            self.next += 1;
        }
    }

    /// Returns how many bytes the kernel has accepted.
    fn write(&mut self) -> io::Result<usize> {
        let n = match self.stream.write(&self.pending[self.sent..]) {
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.sent += n;
        if self.sent == self.pending.len() {
            (self.pending, self.sent) = (Vec::new(), 0);
        }
        Ok(n)
    }
}

/// How long the source waits until more is due or can be sent.
const TICK: Duration = Duration::from_millis(5);
const SECOND: u128 = 1_000_000_000;
/// The most messages of one write by the rate, and as many of a burst.
const MAX_BATCH: u64 = 1000;
