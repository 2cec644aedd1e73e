//! A NATS server with streams in memory.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::measure::process::{announce_a_free_port, program};

/// The name of the stream and of its only subject.
pub(crate) const STREAM: &str = "feed";

/// Replaces this process by `nats-server`. The process keeps its core and its parent-death signal.
pub(crate) fn serve() -> io::Result<()> {
    let program = program("nats-server").ok_or(io::ErrorKind::NotFound)?;
    let address = announce_a_free_port()?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.args(["--addr", &address.ip().to_string(), "--port", &address.port().to_string()]);
    // Streams are in memory; the folder stays empty.
    command.args(["--jetstream", "--store_dir"]).arg(env::temp_dir());
    Err(command.exec())
}

/// The sequence of the last message in the stream; `None` if there is no stream, or no server yet.
pub(crate) fn last_sequence(broker: SocketAddr) -> Option<u64> {
    let reply = request(broker, &format!("STREAM.INFO.{STREAM}")).ok()?;
    reply["state"]["last_seq"].as_u64()
}

/// Waits until the server accepts connections, whose address is announced before.
pub(crate) fn await_listening(broker: SocketAddr) -> io::Result<()> {
    let end = Instant::now() + TIMEOUT;
    while let Err(error) = TcpStream::connect(broker) {
        if Instant::now() >= end {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Calls the API of `JetStream` (docs.nats.io, "`JetStream` wire API") without parameters.
fn request(broker: SocketAddr, name: &str) -> io::Result<serde_json::Value> {
    let stream = TcpStream::connect(broker)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(&stream, "CONNECT {{}}\r\nSUB reply 1\r\nPUB $JS.API.{name} reply 0\r\n\r\n")?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let length = loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(length) = line.strip_prefix("MSG reply 1 ") {
            break length.trim().parse().map_err(io::Error::other)?;
        }
    };
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply)?;
    Ok(serde_json::from_slice(&reply)?)
}

/// The longest wait for a reply and for the server.
const TIMEOUT: Duration = Duration::from_secs(5);
