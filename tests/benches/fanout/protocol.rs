//! What stands around a message on the wire, to the server and from it; and the greetings.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The size of a message, in bytes.
pub(crate) const MESSAGE: usize = 1024;

/// A protocol for text, of which all that varies here is the message.
#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    /// Whether the load connects to publish. Else the server connects to the load.
    pub(crate) publisher_connects: bool,
    pub(crate) published: Frame,
    pub(crate) delivered: Frame,
    /// What the server may say between two messages to a subscriber, at its leisure.
    pub(crate) aside: &'static [u8],
    publisher: Greeting,
    subscriber: Greeting,
}

/// What comes before and behind a message.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) before: &'static [u8],
    pub(crate) behind: &'static [u8],
}

impl Frame {
    /// The size of a message with it, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.before.len() + MESSAGE + self.behind.len()
    }
}

/// What the client says first, and how the answer to that ends.
#[derive(Clone, Copy)]
struct Greeting {
    says: &'static [u8],
    answer_ends: &'static [u8],
}

const NONE: Frame = Frame { before: b"", behind: b"" };
const SILENCE: Greeting = Greeting { says: b"", answer_ends: b"" };

impl Protocol {
    /// Messages and nothing else.
    pub(crate) fn raw() -> Self {
        Self {
            publisher_connects: false,
            published: NONE,
            delivered: NONE,
            aside: b"",
            publisher: SILENCE,
            subscriber: SILENCE,
        }
    }

    /// The client protocol of NATS (docs.nats.io, "Client Protocol").
    pub(crate) fn nats() -> Self {
        Self {
            publisher_connects: true,
            published: Frame { before: b"PUB feed 1024\r\n", behind: b"\r\n" },
            delivered: Frame { before: b"MSG feed 1 1024\r\n", behind: b"\r\n" },
            // It tolerates two that are not answered, which come minutes apart.
            aside: b"PING\r\n",
            publisher: Greeting {
                says: b"CONNECT {\"verbose\":false}\r\nPING\r\n",
                answer_ends: b"PONG\r\n",
            },
            subscriber: Greeting {
                says: b"CONNECT {\"verbose\":false}\r\nSUB feed 1\r\nPING\r\n",
                answer_ends: b"PONG\r\n",
            },
        }
    }

    /// Publish and subscribe of Redis, in RESP2 (redis.io, "Redis serialization protocol").
    pub(crate) fn redis() -> Self {
        Self {
            publisher_connects: true,
            published: Frame {
                before: b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nfeed\r\n$1024\r\n",
                behind: b"\r\n",
            },
            delivered: Frame {
                before: b"*3\r\n$7\r\nmessage\r\n$4\r\nfeed\r\n$1024\r\n",
                behind: b"\r\n",
            },
            aside: b"",
            publisher: SILENCE,
            subscriber: Greeting {
                says: b"*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nfeed\r\n",
                answer_ends: b"*3\r\n$9\r\nsubscribe\r\n$4\r\nfeed\r\n:1\r\n",
            },
        }
    }

    /// Says what a publisher says first.
    pub(crate) fn greet_as_publisher(&self, stream: &TcpStream) -> io::Result<()> {
        self.publisher.exchange(stream)
    }

    /// Says what a subscriber says first.
    pub(crate) fn greet_as_subscriber(&self, stream: &TcpStream) -> io::Result<()> {
        self.subscriber.exchange(stream)
    }
}

impl Greeting {
    /// On a socket that blocks.
    fn exchange(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(self.says)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = Vec::new();
        while !answer.ends_with(self.answer_ends) {
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer)?;
            if n == 0 || answer.len() > LONGEST_ANSWER {
                return Err(io::Error::new(ErrorKind::InvalidData, "not the answer to a greeting"));
            }
            answer.extend_from_slice(&buffer[..n]);
        }
        Ok(())
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_ANSWER: usize = 64 * 1024;
