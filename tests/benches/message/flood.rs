//! Connections that send requests without pause.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Instant,
};

use crate::{
    dialogue::{Dialogue, REQUEST, wrong},
    load::{PATIENCE, connect},
    measure::socket::not_blocked,
};

/// Connections to one server, none of which waits for a reply before it sends the next request.
pub(crate) struct Flood {
    clients: Vec<Client>,
    dialogue: Dialogue,
    /// The connection that has the next step.
    next: usize,
    buffer: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    /// In bytes.
    sent: usize,
    received: usize,
}

impl Flood {
    pub(crate) fn connect(server: SocketAddr, count: usize) -> io::Result<Self> {
        let mut first = TcpStream::connect(server)?;
        first.set_read_timeout(Some(PATIENCE))?;
        let dialogue = Dialogue::learn(&mut first, AT_ONCE)?;
        let client = |_| Ok(Client { stream: connect(server)?, sent: 0, received: 0 });
        let clients = (0..count).map(client).collect::<io::Result<_>>()?;
        Ok(Self { clients, dialogue, next: 0, buffer: vec![0; 256 * 1024] })
    }

    /// The next connection sends some requests, if it may, and reads the replies that have arrived.
    pub(crate) fn step(&mut self) -> io::Result<()> {
        let number = self.next;
        self.next = (number + 1) % self.clients.len();
        self.receive(number)?;
        let client = &mut self.clients[number];
        if client.sent - self.dialogue.asked(client.received) < MAX_UNANSWERED {
            let first = client.sent / REQUEST;
            let requests = &self.dialogue.requests(first, AT_ONCE)[client.sent % REQUEST..];
            client.sent += not_blocked(client.stream.write(requests))?.unwrap_or(0);
        }
        Ok(())
    }

    /// Sends the rest of the requests that were begun, and waits for all replies.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        for number in 0..self.clients.len() {
            loop {
                self.receive(number)?;
                let client = &mut self.clients[number];
                let begun = client.sent % REQUEST;
                if begun > 0 {
                    let rest = &self.dialogue.requests(client.sent / REQUEST, 1)[begun..];
                    client.sent += not_blocked(client.stream.write(rest))?.unwrap_or(0);
                } else if self.dialogue.asked(client.received) == client.sent {
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
        if self.dialogue.asked(client.received) > client.sent {
            return Err(wrong("more came than was asked for"));
        }
        Ok(())
    }
}

/// The most requests in one write.
const AT_ONCE: usize = 16 * 1024 / REQUEST;
/// The most bytes of requests without a reply.
const MAX_UNANSWERED: usize = 256 * 1024;
