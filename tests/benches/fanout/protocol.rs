//! The protocols of the servers: the framing of messages and the greetings.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The size of a message, in bytes.
pub(crate) const MESSAGE: usize = 1024;

/// A text protocol with constant framing.
#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    /// Whether the load connects to the server to publish. Otherwise the server connects to the
    /// load.
    pub(crate) publisher_connects: bool,
    pub(crate) published: Frame,
    pub(crate) delivered: Frame,
    /// Bytes that the server may send to a subscriber between two messages.
    pub(crate) ping: &'static [u8],
    publisher: Greeting,
    subscriber: Greeting,
}

/// The bytes before and behind a message.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) before: &'static [u8],
    pub(crate) behind: &'static [u8],
}

impl Frame {
    /// The size of a framed message in bytes.
    pub(crate) fn len(&self) -> usize {
        self.before.len() + MESSAGE + self.behind.len()
    }
}

/// The first bytes of a client, and the end of the server's answer.
#[derive(Clone, Copy)]
struct Greeting {
    request: &'static [u8],
    answer_suffix: &'static [u8],
}

const NONE: Frame = Frame { before: b"", behind: b"" };
const SILENCE: Greeting = Greeting { request: b"", answer_suffix: b"" };

impl Protocol {
    /// Messages without framing.
    pub(crate) fn raw() -> Self {
        Self {
            publisher_connects: false,
            published: NONE,
            delivered: NONE,
            ping: b"",
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
            // NATS tolerates two unanswered pings, which are minutes apart.
            ping: b"PING\r\n",
            publisher: Greeting {
                request: b"CONNECT {\"verbose\":false}\r\nPING\r\n",
                answer_suffix: b"PONG\r\n",
            },
            subscriber: Greeting {
                request: b"CONNECT {\"verbose\":false}\r\nSUB feed 1\r\nPING\r\n",
                answer_suffix: b"PONG\r\n",
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
            ping: b"",
            publisher: SILENCE,
            subscriber: Greeting {
                request: b"*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nfeed\r\n",
                answer_suffix: b"*3\r\n$9\r\nsubscribe\r\n$4\r\nfeed\r\n:1\r\n",
            },
        }
    }

    /// Sends the publisher's greeting.
    pub(crate) fn greet_as_publisher(&self, stream: &TcpStream) -> io::Result<()> {
        self.publisher.exchange(stream)
    }

    /// Sends the subscriber's greeting.
    pub(crate) fn greet_as_subscriber(&self, stream: &TcpStream) -> io::Result<()> {
        self.subscriber.exchange(stream)
    }
}

impl Greeting {
    /// Sends the request and reads the answer. `stream` must be blocking.
    fn exchange(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(self.request)?;
        stream.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        let mut answer = Vec::new();
        while !answer.ends_with(self.answer_suffix) {
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer)?;
            if n == 0 || answer.len() > MAX_ANSWER {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "the server does not answer the greeting as expected",
                ));
            }
            answer.extend_from_slice(&buffer[..n]);
        }
        Ok(())
    }
}

/// The longest wait for a part of an answer.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
