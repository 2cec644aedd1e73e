//! Connections that send requests without pause.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Instant,
};

use crate::{
    dialogue::{Dialogue, REQUEST, wrong},
    load::{RECEIVE_TIMEOUT, connect},
    measure::socket::not_blocked,
};

/// Connections to one server, which send requests without waiting for the replies.
pub(crate) struct Flood {
    clients: Vec<Client>,
    dialogue: Dialogue,
    /// The number of the connection that makes the next step.
    next: usize,
    buffer: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    /// Bytes of requests.
    sent: usize,
    /// Bytes of replies.
    received: usize,
}

impl Flood {
    pub(crate) fn connect(server: SocketAddr, count: usize) -> io::Result<Self> {
        let mut first = TcpStream::connect(server)?;
        first.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        let dialogue = Dialogue::learn(&mut first, MAX_BATCH)?;
        let client = |_| Ok(Client { stream: connect(server)?, sent: 0, received: 0 });
        let clients = (0..count).map(client).collect::<io::Result<_>>()?;
        Ok(Self { clients, dialogue, next: 0, buffer: vec![0; 256 * 1024] })
    }

    /// Lets the next connection read the replies that have arrived, and send requests unless too
    /// many are unanswered.
    pub(crate) fn step(&mut self) -> io::Result<()> {
        let number = self.next;
        self.next = (number + 1) % self.clients.len();
        self.receive(number)?;
        let client = &mut self.clients[number];
        if client.sent - self.dialogue.answered(client.received) < MAX_UNANSWERED {
            let first = client.sent / REQUEST;
            let requests = &self.dialogue.requests(first, MAX_BATCH)[client.sent % REQUEST..];
            client.sent += not_blocked(client.stream.write(requests))?.unwrap_or(0);
        }
        Ok(())
    }

    /// Completes the partially sent requests, and waits for all replies.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let end = Instant::now() + RECEIVE_TIMEOUT;
        for number in 0..self.clients.len() {
            loop {
                self.receive(number)?;
                let client = &mut self.clients[number];
                let partial = client.sent % REQUEST;
                if partial > 0 {
                    let rest = &self.dialogue.requests(client.sent / REQUEST, 1)[partial..];
                    client.sent += not_blocked(client.stream.write(rest))?.unwrap_or(0);
                } else if self.dialogue.answered(client.received) == client.sent {
                    break;
                }
                if Instant::now() >= end {
                    return Err(ErrorKind::TimedOut.into());
                }
                thread::yield_now();
            }
        }
        Ok(())
    }

    fn receive(&mut self, number: usize) -> io::Result<()> {
        let client = &mut self.clients[number];
        match not_blocked(client.stream.read(&mut self.buffer))? {
            Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Some(n) => client.received += n,
            None => {}
        }
        if self.dialogue.answered(client.received) > client.sent {
            return Err(wrong("there are more replies than requests"));
        }
        Ok(())
    }
}

/// The most requests in one write.
const MAX_BATCH: usize = 16 * 1024 / REQUEST;
/// The most bytes of requests without a reply.
const MAX_UNANSWERED: usize = 256 * 1024;
