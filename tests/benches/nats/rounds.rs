//! The rounds: the processes of a server, and its load.

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{
    broker,
    load::{Check, Extent, Load},
    measure::{
        costs::{Series, measure, side_by_side},
        cpu::CpuUsage,
        process::{ANY_PORT, Cores, Process},
        socket::not_blocked,
    },
    protocol::{MESSAGE, Protocol},
    report::{Plan, Workload},
    server::{Addresses, Role, Server},
};

/// Measures all figures.
pub(crate) fn run(plan: &Plan, cores: Cores) -> io::Result<Vec<Series<Plan>>> {
    measure(plan, cores, |workload, series| {
        side_by_side(
            plan,
            series,
            |server| start(plan, cores, workload, server),
            |process, running, window| running.take_turn(process, workload, window),
        )
    })
}

/// The load of a server, and the processes between them. They are killed in this order.
struct Running {
    load: AnyLoad,
    _ingest: Option<Process>,
    broker: Option<Process>,
}

enum AnyLoad {
    FanOut(Box<Load>),
    Ingest(Messages),
}

/// Starts a server and what it needs, and connects to it.
fn start(
    plan: &Plan,
    cores: Cores,
    workload: Workload,
    server: Server,
) -> io::Result<(Process, Running)> {
    let workers = plan.basics.workers;
    let start = |server: Server, addresses, cores| server.start(addresses, cores, workers);
    let listener = TcpListener::bind(ANY_PORT)?;
    let source = Some(listener.local_addr()?);
    let needs_broker = server.role() != Role::Raw;
    let broker = needs_broker
        .then(|| start(Server::Broker, Addresses { source: None, broker: None }, cores.of_load()))
        .transpose()?;
    let addresses = Addresses { source, broker: broker.as_ref().map(Process::address) };
    if let Some(address) = addresses.broker {
        broker::await_listening(address)?;
    }
    let mut ingest = None;
    if server.role() == Role::Edge {
        ingest = Some(start(Server::IngestTokio, addresses, cores.of_load())?);
    }
    let process = start(server, addresses, cores)?;
    let load = if server.role() == Role::Ingest {
        AnyLoad::Ingest(Messages::accept(&listener)?)
    } else {
        let (count, buffer) = (plan.subscribers(workload), Some(plan.receive_buffer));
        let load = Load::connect(Protocol::raw(), &listener, process.address(), count, buffer)?;
        AnyLoad::FanOut(Box::new(load))
    };
    Ok((process, Running { load, _ingest: ingest, broker }))
}

impl Running {
    fn take_turn(
        &mut self,
        process: &Process,
        workload: Workload,
        window: Duration,
    ) -> io::Result<CpuUsage> {
        let broker = self.broker.as_ref().map(Process::address);
        match (&mut self.load, workload) {
            (AnyLoad::Ingest(messages), _) => {
                let broker = broker.expect("an ingest has a broker");
                CpuUsage::on(process, || messages.send(window, broker))
            }
            (AnyLoad::FanOut(load), Workload::Paced) => {
                CpuUsage::on(process, || load.pace(window, EVERY, &mut Vec::new()))
            }
            (AnyLoad::FanOut(load), Workload::Saturated | Workload::Ingest) => {
                let max_ahead = Some(MAX_AHEAD);
                let compared = Extent { time: window / 10, messages: COMPARED, max_ahead };
                load.saturate(compared, Check::Bytes, || ())?;
                let extent = Extent { time: window, messages: u64::MAX / 2, max_ahead };
                let usage = CpuUsage::on(process, || load.saturate(extent, Check::Count, || ()))?;
                load.saturate(compared, Check::Bytes, || ())?;
                Ok(usage)
            }
        }
    }
}

/// A raw source for an ingest.
struct Messages {
    stream: TcpStream,
    batch: Vec<u8>,
    sent: u64,
}

impl Messages {
    fn accept(listener: &TcpListener) -> io::Result<Self> {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, batch: vec![b'.'; BATCH * MESSAGE], sent: 0 })
    }

    /// Sends whole messages for `time`, and waits until the stream has them. Returns their number.
    fn send(&mut self, time: Duration, broker: SocketAddr) -> io::Result<u64> {
        let before = self.sent / MESSAGE as u64;
        let end = Instant::now() + time;
        let mut offset = 0;
        while Instant::now() < end || offset > 0 {
            let Some(n) = not_blocked(self.stream.write(&self.batch[offset..]))? else {
                thread::sleep(PAUSE);
                continue;
            };
            offset = (offset + n) % self.batch.len();
            self.sent += n as u64;
        }
        let sent = self.sent / MESSAGE as u64;
        let end = Instant::now() + STORE_TIMEOUT;
        loop {
            let stored = broker::last_sequence(broker).unwrap_or(0);
            if stored == sent {
                return Ok(sent - before);
            }
            if stored > sent || Instant::now() >= end {
                let message = format!("the stream has {stored} of {sent} messages");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            thread::sleep(PAUSE);
        }
    }
}

/// The interval of the messages of `paced`.
const EVERY: Duration = Duration::from_millis(1);
/// The most messages that the load is ahead of the slowest subscriber: the stream holds as many.
const MAX_AHEAD: u64 = 2048;
/// Messages that are compared before and after the others are counted.
const COMPARED: u64 = 16;
/// Messages of one write to an ingest.
const BATCH: usize = 256;
/// How long the load waits for an ingest that does not read, and between two looks at the stream.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest wait until the stream has all messages.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
