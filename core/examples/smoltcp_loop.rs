//! A loop without an operating system's sockets: the TCP stack of
//! [smoltcp](https://docs.rs/smoltcp) over its loopback device.
//!
//! The stack and the machines are polled in turn, by one thread. Time is virtual: when neither the
//! stack nor a machine can go on, the clock jumps to the next deadline. On a device without an
//! operating system, it is a timer instead.
//!
//! `cargo run -p wirestate-core --example smoltcp_loop` serves an echo, requests and a fan-out to
//! clients of its own, on the same stack, and ends. The page `docs/embed.md` explains the loop.

#[expect(dead_code, reason = "its clients use the sockets of the operating system")]
mod demonstration;

use std::{
    cell::RefCell,
    mem,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    phy::{Loopback, Medium},
    socket::tcp::{self, RecvError, State},
    time::Instant as StackInstant,
    wire::{HardwareAddress, IpAddress, IpCidr},
};
use wirestate_core::{
    ConnectionError, Instant,
    drive::{IoError, Seat, Seats, Sink, Source},
};

use self::demonstration::{FEW, Factory, MANY, Protocol, bytes, factories, frames};

/// The TCP stack. Sockets on both sides of a connection are in the same set.
struct Stack {
    device: Loopback,
    interface: Interface,
    sockets: SocketSet<'static>,
    /// Sockets that were dropped before the stack has finished with them.
    dropped: Vec<SocketHandle>,
}

impl Stack {
    fn new() -> Self {
        let mut device = Loopback::new(Medium::Ip);
        let (config, start) = (Config::new(HardwareAddress::Ip), StackInstant::ZERO);
        let mut interface = Interface::new(config, &mut device, start);
        let address = IpCidr::new(IpAddress::v4(127, 0, 0, 1), 8);
        interface.update_ip_addrs(|addresses| addresses.push(address).expect("it has room"));
        Self { device, interface, sockets: SocketSet::new(Vec::new()), dropped: Vec::new() }
    }

    fn add(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Sends and receives packets. Returns whether the state of a socket may have changed.
    fn poll(&mut self, now: Instant) -> bool {
        let Self { device, interface, sockets, dropped } = self;
        let now = StackInstant::ZERO + now.since_epoch().into();
        let changed = interface.poll(now, device, sockets) == PollResult::SocketStateChanged;
        dropped.retain(|handle| {
            let state = sockets.get::<tcp::Socket<'_>>(*handle).state();
            let has_ended = matches!(state, State::Closed | State::TimeWait);
            has_ended.then(|| sockets.remove(*handle)).is_none()
        });
        changed
    }
}

/// A connection of the stack.
struct Socket(Rc<RefCell<Stack>>, SocketHandle);

impl Source for Socket {
    fn poll_read(&mut self, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        match self.0.borrow_mut().tcp(self.1).recv_slice(buf) {
            Ok(0) => Poll::Pending,
            Ok(n) => Poll::Ready(Ok(n)),
            Err(RecvError::Finished) => Poll::Ready(Ok(0)),
            Err(RecvError::InvalidState) => Poll::Ready(Err(ConnectionError::Reset.into())),
        }
    }
}

impl Sink for Socket {
    fn poll_write(&mut self, _: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        match self.0.borrow_mut().tcp(self.1).send_slice(bufs[0]) {
            Ok(0) => Poll::Pending,
            Ok(n) => Poll::Ready(Ok(n)),
            Err(_) => Poll::Ready(Err(ConnectionError::Reset.into())),
        }
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        self.0.borrow_mut().tcp(self.1).close();
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {
        self.0.borrow_mut().tcp(self.1).abort();
    }

    fn unacknowledged(&self) -> usize {
        self.0.borrow_mut().tcp(self.1).send_queue()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut stack = self.0.borrow_mut();
        stack.tcp(self.1).close();
        stack.dropped.push(self.1);
    }
}

struct EventLoop {
    stack: Rc<RefCell<Stack>>,
    now: Instant,
    /// For each, the socket that listens, the port, and what makes the machines of its connections.
    listeners: Vec<(SocketHandle, u16, Factory)>,
    seats: Seats<Protocol, Socket>,
}

impl EventLoop {
    /// Polls the stack and the machines. Returns whether anything may have changed.
    fn round(&mut self) -> bool {
        let changed = self.stack.borrow_mut().poll(self.now);
        for (handle, port, machine) in &mut self.listeners {
            let mut stack = self.stack.borrow_mut();
            // In the stack, a socket that listens becomes the connection.
            if !matches!(stack.tcp(*handle).state(), State::Listen | State::SynReceived) {
                let socket = Socket(self.stack.clone(), mem::replace(handle, stack.add()));
                stack.tcp(*handle).listen(*port).expect("the port is not 0");
                self.seats.insert(Seat::new(machine(self.now), socket));
            }
        }
        self.seats.ready_all(); // the stack does not say which are
        self.seats.poll(self.now, |_, _, _| ());
        changed
    }

    /// Advances the time to the next deadline, unless there is something to do at once.
    fn wait(&mut self) {
        let Stack { interface, sockets, .. } = &mut *self.stack.borrow_mut();
        let now = StackInstant::ZERO + self.now.since_epoch().into();
        let stack = interface.poll_delay(now, sockets).map(Duration::from);
        self.now += self.seats.timeout(self.now).into_iter().chain(stack).min().unwrap_or_default();
    }
}

/// Serves all clients of the plans, and shuts down.
fn main() {
    let echoes = (0..100).map(|i| {
        let (output, end) =
            (bytes(i, 500 + i * 100), if i % 10 > 0 { End::HalfClose } else { End::Reset });
        Plan { port: ECHO, input: output.clone(), output, end }
    });
    let requests = Plan { port: REQUESTS, output: frames(), input: frames(), end: End::HalfClose };
    let messages = b"one\ntwo\n".to_vec();
    let publisher =
        Plan { port: PUBLISH, output: messages.clone(), input: Vec::new(), end: End::HalfClose };
    let subscribers = (0..20).map(|_| Plan {
        port: SUBSCRIBE,
        output: Vec::new(),
        input: messages.clone(),
        end: End::Reset,
    });
    let plans: Vec<_> = subscribers.chain(echoes).chain([requests, publisher]).collect();
    let clients = plans.len();
    let time = serve(plans);
    println!("{clients} clients are served, in {time:?} of virtual time");

    let heap = |count| {
        let idle = |_| Plan { port: ECHO, output: vec![1; 5], input: vec![1; 5], end: End::Idle };
        let plans: Vec<_> = (0..count).map(idle).collect();
        let measured = allocation_counter::measure(|| {
            serve(plans);
        });
        measured.bytes_max
    };
    let bytes = (heap(MANY) - heap(FEW)) / u64::try_from(MANY - FEW).expect("it is small");
    println!("memory of an idle connection: {bytes} bytes");
}

/// Returns how long it took, in virtual time.
fn serve(plans: Vec<Plan>) -> Duration {
    let stack = Rc::new(RefCell::new(Stack::new()));
    let seats = Seats::new(Waker::noop().clone()); // its wait is not interrupted by threads
    let servers = [ECHO, REQUESTS, PUBLISH, SUBSCRIBE].into_iter().zip(factories());
    let listen = |(port, machine)| {
        let mut stack = stack.borrow_mut();
        let handle = stack.add();
        stack.tcp(handle).listen(port).expect("the port is not 0");
        (handle, port, machine)
    };
    let listeners = servers.map(listen).collect();
    let mut event_loop = EventLoop { stack: stack.clone(), now: Instant::EPOCH, listeners, seats };
    let (mut plans, mut clients) = (plans.into_iter(), Vec::new());
    for round in 0.. {
        assert!(event_loop.now.since_epoch() < LIMIT, "clients that are not served");
        let changed = event_loop.round();
        let mut stack = stack.borrow_mut();
        // One socket listens on each port: connect one after the other.
        let next = if round % 8 == 0 { plans.next() } else { None };
        if let Some(plan) = next {
            let local_port = 10_000 + u16::try_from(clients.len()).expect("they are few");
            // The memory of clients is not the loop's.
            allocation_counter::opt_out(|| {
                clients.push(Client::new(&mut stack, local_port, plan));
            });
        }
        let are_done = clients
            .iter_mut()
            .map(|client| client.poll(&mut stack))
            .filter(|is_done| !is_done)
            .count()
            == 0;
        drop(stack);
        if are_done && plans.len() == 0 {
            break;
        }
        if !changed && plans.len() == 0 {
            event_loop.wait();
        }
    }
    event_loop.seats.shut_down(event_loop.now);
    while !event_loop.seats.is_empty() {
        if !event_loop.round() {
            event_loop.wait();
        }
    }
    event_loop.now.since_epoch()
}

/// A client on the same stack, with the raw sockets.
struct Client {
    handle: SocketHandle,
    /// What it sends, in pieces of 1 to 97 bytes. The number of bytes that it has sent.
    output: (Vec<u8>, usize),
    /// What it must receive. The number of bytes that it has received.
    input: (Vec<u8>, usize),
    end: End,
}

/// What a client sends to a port, and what it must receive.
struct Plan {
    port: u16,
    output: Vec<u8>,
    input: Vec<u8>,
    end: End,
}

/// What a client does once it has sent and received everything.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// It half-closes after its output, and must receive a FIN after its input.
    HalfClose,
    Reset,
    /// It stays, and does nothing.
    Idle,
}

impl Client {
    /// Connects to the port of `plan`, from `local_port`.
    fn new(stack: &mut Stack, local_port: u16, plan: Plan) -> Self {
        let Plan { port, output, input, end } = plan;
        let handle = stack.add();
        let Stack { interface, sockets, .. } = stack;
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        let server = (IpAddress::v4(127, 0, 0, 1), port);
        socket.connect(interface.context(), server, local_port).expect("the ports are free");
        Self { handle, output: (output, 0), input: (input, 0), end }
    }

    /// Goes on. Returns whether it is done.
    fn poll(&mut self, stack: &mut Stack) -> bool {
        let socket = stack.tcp(self.handle);
        let ((output, sent), (input, received)) = (&mut self.output, &mut self.input);
        if socket.can_send() && *sent < output.len() {
            let end = output.len().min(*sent + 1 + *sent % 97);
            *sent += socket.send_slice(&output[*sent..end]).expect("it can send");
        }
        let mut piece = [0; 1000];
        while socket.can_recv() {
            let n = socket.recv_slice(&mut piece).expect("it can receive");
            assert!(input[*received..].starts_with(&piece[..n]), "the right bytes");
            *received += n;
        }
        let is_done = *sent == output.len() && *received == input.len();
        match self.end {
            End::HalfClose => {
                if *sent == output.len() {
                    socket.close();
                }
                is_done && socket.state() == State::TimeWait
            }
            End::Reset => {
                if is_done {
                    socket.abort();
                }
                is_done
            }
            End::Idle => is_done,
        }
    }
}

const ECHO: u16 = 7;
const REQUESTS: u16 = 8;
const PUBLISH: u16 = 9;
const SUBSCRIBE: u16 = 10;
/// The size of a socket's receive buffer, and of its send buffer.
const BUFFER: usize = 4096;
/// How long all clients may take, in virtual time.
const LIMIT: Duration = Duration::from_secs(60);
