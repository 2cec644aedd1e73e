//! A ring of `io_uring(7)`, and streams on it. It knows nothing of Wirestate.
//!
//! The kernel owns a buffer from the submission of an operation to its completion.

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    mem,
    net::{Shutdown, TcpStream},
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    sync::Arc,
    task::{Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use io_uring::{
    IoUring,
    cqueue::more,
    opcode, squeue,
    types::{Fd, SubmitArgs, Timespec},
};
use rustix::{event::PollFlags, io::Errno};
use slab::Slab;

/// A ring. Clones are the same.
#[derive(Clone)]
pub(crate) struct Ring(Rc<RefCell<Inner>>);

struct Inner {
    uring: IoUring,
    /// What the kernel uses, by the key of the operation.
    operations: Slab<Operation>,
    /// Readable once `interrupt` was woken.
    interrupted: UnixStream,
    interrupt: Waker,
}

/// Interrupts the wait by one byte.
struct Interrupt(UnixStream);

impl Wake for Interrupt {
    fn wake(self: Arc<Self>) {
        let _ = (&self.0).write(&[0]);
    }
}

enum Operation {
    /// A socket becomes readable.
    Watch(usize, Fd),
    Receive(usize, Rc<Connection>, Vec<u8>),
    Send(usize, Rc<Connection>, Bytes),
}

impl Ring {
    /// Fails where the kernel refuses `io_uring`.
    pub(crate) fn new() -> io::Result<Self> {
        let (interrupted, stream) = UnixStream::pair()?;
        interrupted.set_nonblocking(true)?;
        stream.set_nonblocking(true)?;
        let interrupt = Waker::from(Arc::new(Interrupt(stream)));
        let (uring, operations, socket) = (IoUring::new(256)?, Slab::new(), fd(&interrupted));
        let mut inner = Inner { uring, operations, interrupted, interrupt };
        inner.start(Operation::Watch(LOOP, socket), watch(socket));
        Ok(Self(Rc::new(RefCell::new(inner))))
    }

    /// Interrupts the wait, from any thread.
    pub(crate) fn interrupt(&self) -> Waker {
        self.0.borrow().interrupt.clone()
    }

    /// Reports `id` whenever the socket becomes readable, until the result is dropped, which must
    /// come before the socket is closed.
    pub(crate) fn watch(&self, id: usize, socket: &impl AsFd) -> Watch {
        let socket = fd(socket);
        let key = self.0.borrow_mut().start(Operation::Watch(id, socket), watch(socket));
        Watch { key, ring: self.clone() }
    }

    /// Waits for completions, for at most `timeout`, and returns the ids of what they concern.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<usize>> {
        let inner = &mut *self.0.borrow_mut();
        let limit = timeout.unwrap_or(Duration::from_secs(3600));
        let limit = Timespec::new().sec(limit.as_secs()).nsec(limit.subsec_nanos());
        match inner.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit)) {
            Err(error) if ![Some(TIME), Some(INTR)].contains(&error.raw_os_error()) => {
                return Err(error);
            }
            Ok(_) | Err(_) => {}
        }
        let _ = inner.interrupted.read(&mut [0; 64]);
        let completed = inner.uring.completion();
        let completed = completed.map(|each| (each.user_data(), each.result(), more(each.flags())));
        let completed: Vec<_> = completed.collect();
        let mut ids = Vec::new();
        for (key, result, more) in completed {
            let Ok(key) = usize::try_from(key) else { continue };
            if more && let Some(Operation::Watch(id, _)) = inner.operations.get(key) {
                ids.push(*id);
                continue;
            }
            let Some(operation) = inner.operations.try_remove(key) else { continue };
            let length = usize::try_from(result);
            let length = length.map_err(|_| io::Error::from_raw_os_error(-result));
            ids.push(match operation {
                Operation::Watch(id, socket) => {
                    if length.is_ok() {
                        inner.start(Operation::Watch(id, socket), watch(socket));
                    }
                    id
                }
                Operation::Receive(id, connection, buffer) => {
                    let mut progress = connection.progress.borrow_mut();
                    progress.receive = None;
                    progress.received = Some(length.map(|length| (buffer, 0..length)));
                    id
                }
                Operation::Send(id, connection, bytes) => {
                    connection.progress.borrow_mut().send = None;
                    match length {
                        Ok(sent) if sent < bytes.len() => {
                            inner.send(id, &connection, bytes.slice(sent..));
                        }
                        Ok(_) => {}
                        Err(error) => connection.progress.borrow_mut().failed = Some(error),
                    }
                    id
                }
            });
        }
        Ok(ids)
    }
}

impl Inner {
    /// Submits an operation with the next wait, and returns its key.
    fn start(&mut self, operation: Operation, entry: squeue::Entry) -> usize {
        let key = self.operations.insert(operation);
        self.push(&entry.user_data(key as u64));
        key
    }

    fn cancel(&mut self, key: usize) {
        self.push(&opcode::AsyncCancel::new(key as u64).build().user_data(NOBODY));
    }

    fn send(&mut self, id: usize, connection: &Rc<Connection>, bytes: Bytes) {
        let (length, start) = (bytes.len(), bytes.as_ptr());
        let length_of_entry = u32::try_from(length).expect("it is at most MAX_SEND");
        let entry = opcode::Send::new(fd(&connection.stream), start, length_of_entry).build();
        let key = self.start(Operation::Send(id, connection.clone(), bytes), entry);
        connection.progress.borrow_mut().send = Some((key, length));
    }

    #[expect(unsafe_code, reason = "the kernel uses the memory that an entry points to")]
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: Each buffer that an entry points to is on the heap, and belongs to the element of
        // `operations` with the key of the entry. That stays until the kernel has reported the
        // completion, and is leaked if the ring is dropped before.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.uring.submit().expect("the kernel takes the entries, which makes room");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        mem::forget(mem::take(&mut self.operations));
    }
}

/// A socket that is watched.
pub(crate) struct Watch {
    key: usize,
    ring: Ring,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ring.0.borrow_mut().cancel(self.key);
    }
}

/// A stream whose operations complete later. [`Ring::wait`] reports its id after each completion.
///
/// If it is dropped, its operations are cancelled, and then the socket is closed.
pub(crate) struct Stream {
    id: usize,
    ring: Ring,
    connection: Rc<Connection>,
}

/// A socket. It stays open while an operation uses it.
struct Connection {
    stream: TcpStream,
    progress: RefCell<Progress>,
}

#[derive(Default)]
struct Progress {
    /// The key of the operation that receives.
    receive: Option<usize>,
    /// What was received, and which part of it was not read yet.
    received: Option<io::Result<(Vec<u8>, Range<usize>)>>,
    /// The key of the operation that sends, and the number of bytes.
    send: Option<(usize, usize)>,
    failed: Option<io::Error>,
}

impl Stream {
    pub(crate) fn new(id: usize, stream: TcpStream, ring: &Ring) -> Self {
        let connection = Rc::new(Connection { stream, progress: RefCell::default() });
        Self { id, ring: ring.clone(), connection }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.connection.stream
    }

    /// Copies received bytes to `buf`, or starts to receive. 0 is the peer's FIN.
    pub(crate) fn read(&self, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut progress = self.connection.progress.borrow_mut();
        if progress.receive.is_some() {
            return Poll::Pending;
        }
        let mut buffer = match progress.received.take() {
            Some(Ok((buffer, rest))) if rest.is_empty() && rest.start > 0 => buffer,
            Some(Ok((buffer, mut rest))) => {
                let n = buf.len().min(rest.len());
                buf[..n].copy_from_slice(&buffer[rest.start..rest.start + n]);
                rest.start += n;
                progress.received = Some(Ok((buffer, rest)));
                return Poll::Ready(Ok(n));
            }
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => vec![0; RECEIVE_BUFFER],
        };
        let length = u32::try_from(buffer.len()).expect("it is RECEIVE_BUFFER");
        let entry = opcode::Recv::new(fd(self.socket()), buffer.as_mut_ptr(), length).build();
        let operation = Operation::Receive(self.id, self.connection.clone(), buffer);
        progress.receive = Some(self.ring.0.borrow_mut().start(operation, entry));
        Poll::Pending
    }

    /// Starts to send `bytes`, at most [`MAX_SEND`]. Pending while it sends others.
    pub(crate) fn write(&self, bytes: Bytes) -> Poll<io::Result<usize>> {
        let length = bytes.len();
        self.flush().map_ok(|()| {
            self.ring.0.borrow_mut().send(self.id, &self.connection, bytes);
            length
        })
    }

    /// Ready once nothing is being sent.
    pub(crate) fn flush(&self) -> Poll<io::Result<()>> {
        let mut progress = self.connection.progress.borrow_mut();
        match progress.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None if progress.send.is_some() => Poll::Pending,
            None => Poll::Ready(Ok(())),
        }
    }

    /// The number of bytes that are being sent.
    pub(crate) fn held(&self) -> usize {
        self.connection.progress.borrow().send.map_or(0, |(_, length)| length)
    }

    /// Sends a FIN, once nothing is being sent.
    pub(crate) fn finish(&self) -> Poll<io::Result<()>> {
        match self.flush() {
            Poll::Ready(Ok(())) => Poll::Ready(self.socket().shutdown(Shutdown::Write)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let progress = self.connection.progress.borrow();
        let keys = progress.receive.into_iter().chain(progress.send.map(|(key, _)| key));
        for key in keys {
            self.ring.0.borrow_mut().cancel(key);
        }
    }
}

/// The entry that watches a socket, several times.
fn watch(socket: Fd) -> squeue::Entry {
    opcode::PollAdd::new(socket, PollFlags::IN.bits().into()).multi(true).build()
}

fn fd(socket: &impl AsFd) -> Fd {
    Fd(socket.as_fd().as_raw_fd())
}

/// The id of the loop's own events.
pub(crate) const LOOP: usize = usize::MAX;
/// The most bytes that are sent at once.
pub(crate) const MAX_SEND: usize = 64 * 1024;
/// The buffer with which a connection waits for input.
const RECEIVE_BUFFER: usize = 4096;
/// The key of an operation whose completion does not matter.
const NOBODY: u64 = u64::MAX;
const TIME: i32 = Errno::TIME.raw_os_error();
const INTR: i32 = Errno::INTR.raw_os_error();
