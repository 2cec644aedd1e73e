//! Third-party programs against the binaries.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use crate::process::{Server, run, text};

/// Runs a program with `input`. Prints a line and returns `None` if it is not installed.
pub(crate) fn program(name: &str, words: &[&str], input: &[u8]) -> Option<Output> {
    let mut command = Command::new(name);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("NOT TESTED: {name}: {error}");
            assert!(std::env::var_os("CI").is_none(), "CI installs {name}");
            return None;
        }
    };
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    Some(output)
}

/// Runs a program in Python with the server's host and port as its arguments.
pub(crate) fn python(source: &str, server: &Server) -> Option<()> {
    let (host, port) = server.address.rsplit_once(':').unwrap();
    let output = program("python3", &["-", host, port], source.as_bytes())?;
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    Some(())
}

pub(crate) fn netcat_gets_its_bytes_back(binary: &str) {
    let server = Server::start(binary, &[]);
    let (host, port) = server.address.rsplit_once(':').unwrap();
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    // -N: send a FIN at the end of the input, and continue to read.
    if let Some(output) = program("nc", &["-N", host, port], &input) {
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(output.stdout == input, "{} of {} bytes", output.stdout.len(), input.len());
    }
}

pub(crate) fn a_blocking_python_client_gets_its_bytes_back(binary: &str) {
    let server = Server::start(binary, &[]);
    python(
        r"
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as s:
    for message in [b'Hello, world', b'x' * 1000, bytes(range(256))]:
        s.sendall(message)
        reply = b''
        while len(reply) < len(message):
            data = s.recv(1024)
            assert data, 'closed early'
            reply += data
        assert reply == message
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b''
",
        &server,
    );
}

pub(crate) fn a_selectors_based_python_client_gets_its_bytes_back(binary: &str) {
    let server = Server::start(binary, &[]);
    python(
        r"
import selectors, socket, sys, types
sel = selectors.DefaultSelector()
messages = [b'Message 1 from client.', b'Message 2 from client.']
for connid in range(1, 51):
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex((sys.argv[1], int(sys.argv[2])))
    data = types.SimpleNamespace(
        total=sum(map(len, messages)), received=b'', messages=list(messages), out=b'')
    sel.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, data=data)
done = 0
while sel.get_map():
    events = sel.select(timeout=20)
    assert events, 'stalled'
    for key, mask in events:
        sock, data = key.fileobj, key.data
        if mask & selectors.EVENT_READ:
            got = sock.recv(1024)
            data.received += got
            if not got or len(data.received) == data.total:
                assert data.received == b''.join(messages), data.received
                sel.unregister(sock)
                sock.close()
                done += 1
                continue
        if mask & selectors.EVENT_WRITE:
            if not data.out and data.messages:
                data.out = data.messages.pop(0)
            if data.out:
                data.out = data.out[sock.send(data.out):]
assert done == 50
",
        &server,
    );
}

pub(crate) fn a_third_party_server_satisfies_our_clients(binary: &str) {
    let source = r"
import socketserver, sys, threading
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1024):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 100
    daemon_threads = True
server = Server(('127.0.0.1', 0), Echo)
print('listening on %s:%d' % server.server_address, file=sys.stderr, flush=True)
server.serve_forever()
";
    let mut command = Command::new("python3");
    command.args(["-c", source]).stdout(Stdio::null()).stderr(Stdio::piped());
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("NOT TESTED: python3 is absent");
        assert!(std::env::var_os("CI").is_none(), "CI installs python3");
        return;
    }
    let server = Server::start_command(command);
    let output = run(binary, &["multiconn-client", &server.address, "20", "--rounds", "20"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = run(binary, &["echo-client", &server.address, "--message", "hello"]);
    assert_eq!(text(&output.stdout), "hello\n");
}
