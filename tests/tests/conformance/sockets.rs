//! Peers on real sockets.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use socket2::SockRef;
use wirestate_testkit::sim::Act;

use crate::{
    process::TEST_TIMEOUT,
    scene::{End, Peer, Scene, Transcript},
};

/// A program that runs.
pub(crate) struct Running {
    /// Where its clients connect.
    pub(crate) address: String,
    /// Where the scene's upstream connects, if the program does not connect to it.
    pub(crate) publish: Option<String>,
    /// Ends the program when it is dropped.
    pub(crate) _process: Box<dyn Send + Sync>,
}

impl Running {
    pub(crate) fn at(address: impl Into<String>, process: impl Send + Sync + 'static) -> Self {
        Self { address: address.into(), publish: None, _process: Box::new(process) }
    }

    /// Plays a scene, whose upstream accepts a connection on `listener`. Returns the transcripts.
    pub(crate) fn play(&self, scene: &Scene, listener: Option<&TcpListener>) -> Vec<Transcript> {
        thread::scope(|scope| {
            let connect = |peer| scope.spawn(move || play(connect(&self.address), peer));
            let clients: Vec<_> = scene.clients.iter().map(connect).collect();
            let upstream = scene.upstream.as_ref().map(|peer| match &self.publish {
                Some(address) => play(self::connect(address), peer),
                None => match listener.expect("such scenes come first").accept() {
                    Ok((stream, _)) => play(stream, peer),
                    Err(_) => Transcript { bytes: Vec::new(), end: End::Stuck },
                },
            });
            let clients = clients.into_iter().map(|client| client.join().expect("no panic"));
            clients.chain(upstream).collect()
        })
    }
}

fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).expect("the program listens")
}

/// A listener for the upstreams of scenes, one after the other.
pub(crate) fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    // It applies to accept(2) as well: socket(7).
    SockRef::from(&listener)
        .set_read_timeout(Some(TEST_TIMEOUT))
        .expect("a socket has this option");
    listener
}

/// Performs the acts of `peer` on `stream`, as [`sim::act`](wirestate_testkit::sim::act) does on a
/// simulated socket.
fn play(stream: TcpStream, peer: &Peer) -> Transcript {
    stream.set_nodelay(true).expect("a TCP socket has this option");
    stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("it is not 0");
    stream.set_write_timeout(Some(TEST_TIMEOUT)).expect("it is not 0");
    let mut playing = Playing { stream, bytes: Vec::new(), fin: false };
    let mut failed = None;
    for act in &peer.acts {
        failed = playing.perform(act).err().map(|error| error.kind());
        if failed.is_some() || *act == Act::Reset {
            break;
        }
    }
    let end = match failed {
        _ if playing.fin => End::Fin,
        None => End::Open,
        // What a timeout of a socket is: socket(7).
        Some(ErrorKind::WouldBlock) => End::Stuck,
        Some(_) => End::Rst,
    };
    Transcript { bytes: playing.bytes, end }
}

struct Playing {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// Whether the FIN was received.
    fin: bool,
}

impl Playing {
    fn perform(&mut self, act: &Act) -> io::Result<()> {
        match act {
            Act::Send(bytes) => self.stream.write_all(bytes),
            Act::Receive(n) => self.receive(*n as u64),
            Act::ReceiveUntil(end) => self.receive_until(end),
            Act::ReceiveLines(n) => (0..*n).try_for_each(|_| self.receive_until(b"\n")),
            Act::ReceiveAll => self.receive(u64::MAX),
            Act::Barrier(_) => unreachable!("only simulated peers have barriers"),
            Act::Wait(duration) => {
                thread::sleep(*duration);
                Ok(())
            }
            Act::Finish => self.stream.shutdown(Shutdown::Write),
            Act::Reset => SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)),
        }
    }

    fn receive(&mut self, max: u64) -> io::Result<()> {
        // At an error, `read_to_end` keeps what it has read before.
        let received = (&self.stream).take(max).read_to_end(&mut self.bytes)?;
        self.fin |= (received as u64) < max;
        Ok(())
    }

    fn receive_until(&mut self, end: &[u8]) -> io::Result<()> {
        let before = self.bytes.len();
        while !self.fin && !self.bytes[before..].ends_with(end) {
            self.receive(1)?;
        }
        Ok(())
    }
}
