//! Scenarios of TLS with `openssl`, Python and curl.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Signal, geteuid};
use socket2::SockRef;
use wirestate_testkit::message::golden;

use crate::{
    certificates::Certificates,
    logging::with_hangup,
    message::golden_reply,
    message_python::PYTHON_PROTOCOL,
    process::{Server, TEST_TIMEOUT, eventually, run, text, word_after},
    proxy::{proxy, upstream},
    status,
    third_party::program,
};

/// A process of `openssl`, killed when it is dropped. It sends what is written, and what it
/// receives can be read.
struct OpenSsl {
    child: Child,
    stream: UnixStream,
}

impl OpenSsl {
    /// Prints a line and returns `None` if it is not installed.
    fn start(words: &[&str]) -> Option<Self> {
        let (stream, its) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        let its = OwnedFd::from(its);
        let mut command = Command::new("openssl");
        command.args(words).stdin(its.try_clone().unwrap()).stdout(its).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Some(Self { child, stream }),
            Err(error) => {
                eprintln!("NOT TESTED: openssl: {error}");
                assert!(std::env::var_os("CI").is_none(), "CI installs openssl");
                None
            }
        }
    }

    /// Connects to a server whose certificate has to be for 127.0.0.1.
    fn connect(server: &Server, certificates: &Certificates, flags: &[&str]) -> Option<Self> {
        let words = ["s_client", "-quiet", "-connect", &server.address];
        let verify = ["-CAfile", &certificates.ca, "-verify_return_error"];
        Self::start(&[&words[..], &verify, &["-verify_ip", "127.0.0.1"], flags].concat())
    }

    /// Starts a server on a free port. Returns it and its address.
    fn listen(certificate: &str, flags: &[&str]) -> Option<(Self, String)> {
        let words = ["s_server", "-accept", "127.0.0.1:0", "-cert", certificate];
        let mut server = Self::start(&[&words, flags].concat())?;
        let mut shown = Vec::new();
        while !shown.ends_with(b"\n") || !text(&shown).contains("ACCEPT ") {
            let mut byte = [0];
            server.stream.read_exact(&mut byte).unwrap();
            shown.push(byte[0]);
        }
        let address = text(&shown).trim_end().rsplit_once(' ').unwrap().1.to_owned();
        Some((server, address))
    }

    /// Waits for its end. Returns its exit code.
    fn wait(mut self) -> Option<i32> {
        let mut status = None;
        eventually("openssl ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echoes(stream: &mut (impl Read + Write)) {
    stream.write_all(b"hello").unwrap();
    assert_eq!(receive(stream, 5), b"hello");
}

fn receive(stream: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The names of the versions for `openssl`.
const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

pub(crate) fn every_server_sends_the_same_bytes_through_openssl(binary: &str) {
    let certificates = Certificates::new();
    let echo = Server::start(binary, &[]);
    let to_echo = ["--upstream", &echo.address];
    let source = ["--size", "64", "--rate", "0", "--count", "5"];
    let bytes: Vec<u8> = (0..50_000_u16).flat_map(u16::to_be_bytes).collect();
    for (name, flags, request) in [
        ("echo-server", &[][..], &bytes[..]),
        ("app-server", &[], &[golden(), golden()].concat()),
        ("fanout-source", &source, b""),
        ("proxy", &to_echo, &bytes),
    ] {
        let plain = Server::start_as(binary, name, flags);
        let mut client = plain.connect();
        client.write_all(request).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let expected = read_to_end(client);
        assert!(!expected.is_empty(), "{name}");
        let flags = [flags, &certificates.server_flags()].concat();
        let server = Server::start_as(binary, name, &flags);
        for version in VERSIONS {
            let mut received = Vec::new();
            // A source closes a client that connects before it has noticed the end of the last one.
            eventually("the client is served", || {
                let client = OpenSsl::connect(&server, &certificates, &[version]);
                let Some(mut client) = client else { return true };
                client.stream.write_all(request).unwrap();
                let reply = (&client.stream).take(expected.len() as u64);
                received = read_to_end(reply);
                !received.is_empty()
            });
            let [received, expected] = [&received, &expected].map(|bytes| comparable(name, bytes));
            let lens = (received.len(), expected.len());
            assert!(received == expected, "{name} {version}: {lens:?} bytes");
        }
    }
}

/// What is equal in two runs: the messages of a source have the time.
fn comparable(server: &str, received: &[u8]) -> Vec<u8> {
    match server {
        "fanout-source" => {
            received.chunks(64).flat_map(|message| &message[..20]).copied().collect()
        }
        _ => received.to_vec(),
    }
}

/// The upstream is an `openssl s_server`.
pub(crate) fn subscribers_get_the_bytes_of_an_upstream_with_tls(binary: &str) {
    let certificates = Certificates::new();
    let Some((mut upstream, address)) = OpenSsl::listen(&certificates.server, &[]) else { return };
    let to_upstream = ["--upstream", &address, "--frame", "64", "-v", "--upstream-tls"];
    let server_flags = certificates.server_flags();
    // An upstream whose certificate is for another name is not used.
    let name = ["--upstream-tls-ca", &certificates.ca, "--upstream-tls-name", "other.example"];
    let flags = [&to_upstream[..], &name, &server_flags].concat();
    let server = Server::start_as(binary, "fanout-server", &flags);
    let expected = r#"certificate not valid for name "other.example""#;
    eventually("the upstream is not used", || server.logged(expected) > 0);
    drop(server);

    let flags = [&to_upstream[..], &name[..2], &server_flags].concat();
    let server = Server::start_as(binary, "fanout-server", &flags);
    let subscribers = VERSIONS.map(|version| OpenSsl::connect(&server, &certificates, &[version]));
    let client_flags = certificates.client_flags();
    let words = ["fanout-client", &server.address, "--frame", "64", "--count", "10"];
    let client = thread::scope(|scope| {
        let client = scope.spawn(|| run(binary, &[&words[..], &client_flags].concat()));
        eventually("all subscribe", || server.logged("TLS handshake complete") == 3);
        let messages: Vec<u8> = (0..10).flat_map(|i| format!("{i:063}\n").into_bytes()).collect();
        upstream.stream.write_all(&messages).unwrap();
        for subscriber in subscribers {
            assert!(receive(&mut subscriber.unwrap().stream, 640) == messages);
        }
        let output = client.join().unwrap();
        assert!(output.stdout == messages, "{}", text(&output.stderr));
        output
    });
    assert_eq!(client.status.code(), Some(0), "{}", text(&client.stderr));
}

/// A connection of Python's `ssl` without a socket, so that its directions end one by one.
const PYTHON_TLS: &str = r"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
class Connection:
    def __init__(self, address, version):
        host, port = address.rsplit(':', 1)
        context.minimum_version = context.maximum_version = version
        self.sock = socket.create_connection((host, int(port)), timeout=20)
        self.ins, self.outs = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.ins, self.outs, server_hostname=host)
        self.call(self.tls.do_handshake)
    def call(self, function, *arguments):
        while True:
            try:
                return function(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                self.ins.write(data) if data else self.ins.write_eof()
            finally:
                self.flush()
    def flush(self):
        if data := self.outs.read():
            self.sock.sendall(data)
    def send(self, data):
        self.call(self.tls.write, data)
    def receive(self):
        # Returns b'' at a close_notify, and raises SSLEOFError at a FIN without one.
        try:
            return self.call(self.tls.read, 65536)
        except ssl.SSLZeroReturnError:
            return b''
    def read_to_end(self):
        return b''.join(iter(self.receive, b''))
    def close_notify(self):
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()
versions = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
";

/// The client of Real Python's tutorial: a request on each connection, once with blocking sockets
/// and once with a selector.
pub(crate) fn python_clients_get_the_replies_of_the_app_server(binary: &str) {
    let certificates = Certificates::new();
    let server = Server::start_as(binary, "app-server", &certificates.server_flags());
    let source = r#"
import selectors, socket, ssl
context = ssl.create_default_context(cafile=sys.argv[1])
host, port = sys.argv[2].rsplit(':', 1)
def ask(request):
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        with context.wrap_socket(sock, server_hostname=host) as s:
            s.sendall(request)
            buffer = b''
            while True:
                message = unpack(buffer)
                if message:
                    assert message[2] == b'', message
                    return message[1]
                data = s.recv(4096)
                assert data, 'closed early'
                buffer += data
for version in [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]:
    context.minimum_version = context.maximum_version = version
    reply = ask(pack_json({'action': 'search', 'value': 'morpheus'}))
    assert reply == {'result': 'Shaper of dreams, son of sleep.'}, reply
    reply = ask(pack_json({'action': 'sleep', 'value': 1}))
    assert reply == {'result': "Error: invalid action 'sleep'."}, reply
    reply = ask(pack(b'binary' + bytes(range(128, 256)), 'binary/type', 'binary'))
    assert reply == b'First 10 bytes of request: binary\x80\x81\x82\x83', reply

sel = selectors.DefaultSelector()
class Connection:
    def __init__(self, sock, value):
        self.sock, self.value = sock, value
        self.send = pack_json({'action': 'search', 'value': value})
        self.received = b''
    def process(self):
        try:
            while self.send:
                self.send = self.send[self.sock.send(self.send[:50]):]
            while True:
                data = self.sock.recv(64)
                assert data, 'closed early'
                self.received += data
                message = unpack(self.received)
                if message:
                    expected = "No match for '%s'." % self.value
                    assert message[1] == {'result': expected}, message
                    return True
        except ssl.SSLWantReadError:
            sel.modify(self.sock, selectors.EVENT_READ, data=self)
        except ssl.SSLWantWriteError:
            sel.modify(self.sock, selectors.EVENT_WRITE, data=self)
        return False
for i in range(10):
    sock = socket.create_connection((host, int(port)))
    sock.setblocking(False)
    sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    sel.register(sock, selectors.EVENT_WRITE, data=Connection(sock, 'value %d' % i))
while sel.get_map():
    events = sel.select(timeout=20)
    assert events, 'stalled'
    for key, _ in events:
        if key.data.process():
            sel.unregister(key.fileobj)
            key.fileobj.close()
"#;
    python(&format!("{PYTHON_PROTOCOL}{source}"), &[&certificates.ca, &server.address]);
}

/// `close_notify` and a FIN are the end of one direction. A FIN alone is an error.
pub(crate) fn each_direction_ends_by_itself(binary: &str) {
    let certificates = Certificates::new();
    let flags = [&certificates.server_flags()[..], &["--status", "127.0.0.1:0"]].concat();
    let echo = Server::start(binary, &flags);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let through = proxy(binary, &listener.local_addr().unwrap().to_string(), &flags);
    let serving = thread::spawn(move || {
        let accept = || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            stream.write_all(b"early").unwrap();
            stream
        };
        for _ in VERSIONS {
            let stream = accept();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(stream), b"late");
            // What may be incomplete does not look complete.
            let error = accept().read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
    let source = r"
for version in versions:
    client = Connection(sys.argv[2], version)
    data = bytes(range(256)) * 1000
    client.send(data)
    client.close_notify()
    client.sock.shutdown(socket.SHUT_WR)
    assert client.read_to_end() == data
    assert client.sock.recv(1) == b'', 'a FIN after the close_notify'

    client = Connection(sys.argv[3], version)
    assert client.read_to_end() == b'early'
    client.send(b'late')
    client.close_notify()
    client.sock.shutdown(socket.SHUT_WR)
    assert client.sock.recv(1) == b'', 'a FIN after the close_notify'

    for address, expected in zip(sys.argv[2:], [b'hello', b'early']):
        client = Connection(address, version)
        client.send(b'hello')
        assert client.receive() == expected
        client.sock.shutdown(socket.SHUT_WR)
        try:
            while client.sock.recv(1000): pass
        except ConnectionResetError:
            pass
";
    let words = [&certificates.ca, &echo.address, &through.address];
    if python(&format!("{PYTHON_TLS}{source}"), &words.map(|word| &**word)).is_some() {
        serving.join().unwrap();
        await_ended(&echo, &[("finished", 2), ("tls_truncated", 2)]);
    }
}

/// Runs a program in Python.
fn python(source: &str, words: &[&str]) -> Option<()> {
    let output = program("python3", &[&["-"], words].concat(), source.as_bytes())?;
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    Some(())
}

/// Python's server echoes on its first address. On the second one it answers a request.
pub(crate) fn our_clients_verify_servers_of_python_and_openssl(binary: &str) {
    let certificates = Certificates::new();
    let tls = certificates.client_flags();
    let run = |words: &[&str]| {
        let output = run(binary, &[words, &tls].concat());
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    for version in VERSIONS {
        // It sends each line back in reverse.
        let openssl = OpenSsl::listen(&certificates.server, &["-rev", version]);
        let Some((_openssl, address)) = openssl else { return };
        let shown = run(&["echo-client", &address, "--message", "hello\n"]);
        assert_eq!(shown, "olleh\n\n");
    }
    let source = r"
import socketserver, ssl, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1024):
            self.request.sendall(data)
        self.request.unwrap()
class App(socketserver.BaseRequestHandler):
    def handle(self):
        received = b''
        while not unpack(received):
            received += self.request.recv(64)
        value = unpack(received)[1]['value']
        self.request.sendall(pack_json({'result': value.upper()}))
        self.request.unwrap()
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 100
    daemon_threads = True
    def finish_request(self, request, client):
        request = context.wrap_socket(request, server_side=True)
        super().finish_request(request, client)
servers = [Server(('127.0.0.1', 0), handler) for handler in (Echo, App)]
addresses = ['%s:%d' % server.server_address for server in servers]
print('listening on ' + ','.join(addresses), file=sys.stderr, flush=True)
threading.Thread(target=servers[0].serve_forever, daemon=True).start()
servers[1].serve_forever()
";
    let source = format!("{PYTHON_PROTOCOL}{source}");
    let mut python = Command::new("python3");
    python.args(["-c", &source, &certificates.server]);
    python.stdout(Stdio::null()).stderr(Stdio::piped());
    if program("python3", &["--version"], b"").is_none() {
        return;
    }
    let server = Server::start_command(python);
    let (echo, app) = server.address.split_once(',').unwrap();
    let shown = run(&["echo-client", echo, "--message", "hello", "--message", "bye"]);
    assert_eq!(shown, "hello\nbye\n");
    let report = run(&["multiconn-client", echo, "10", "--rounds", "2", "--size", "20000"]);
    assert!(report.contains("10 of 10 complete"), "{report}");
    assert_eq!(run(&["app-client", app, "search", "größe"]), "GRÖSSE\n");
}

pub(crate) fn a_peer_that_breaks_tls_ends_alone_with_its_reason(binary: &str) {
    let certificates = Certificates::new();
    let limit = ["--tls-handshake-timeout", "1s", "--status", "127.0.0.1:0"];
    let server = Server::start(binary, &[&certificates.server_flags()[..], &limit].concat());
    let connect = |flags: &[&str]| OpenSsl::connect(&server, &certificates, flags);
    let Some(mut healthy) = connect(&[]) else { return };
    echoes(&mut healthy.stream);

    // The first bytes of a TLS client.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let silent = server.connect();
    let mut slow = server.connect();
    let trickle = thread::spawn(move || {
        for byte in hello.into_iter().chain([0; 500]) {
            if slow.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the slow client is served");
    });
    for version in VERSIONS {
        let mut killed = connect(&[version]).unwrap();
        echoes(&mut killed.stream);
        echoes(&mut healthy.stream);
    }
    for bytes in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0xff; 3000]] {
        let mut peer = server.connect();
        peer.write_all(bytes).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let alert = read_to_end(peer);
        assert_eq!(&alert[..2], &[0x15, 3], "an alert and a FIN: {alert:?}");
        echoes(&mut healthy.stream);
    }
    let mut truncated = server.connect();
    truncated.write_all(&hello).unwrap();
    truncated.shutdown(Shutdown::Write).unwrap();
    let _ = read_to_end(truncated);
    let reset = server.connect();
    (&reset).write_all(&hello).unwrap();
    let its = format!(" {} ", reset.local_addr().unwrap());
    eventually("the bytes have arrived", || {
        let table = status::get(&server, "/connections").1;
        table.lines().any(|line| line.contains(&its) && line.contains(" 11B "))
    });
    SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    for flags in [
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM8"][..],
        &["-verify_ip", "127.0.0.2"],
        &["-verifyCAfile", &certificates.client_ca],
    ] {
        assert_eq!(connect(flags).unwrap().wait(), Some(1), "{flags:?}");
        echoes(&mut healthy.stream);
    }
    assert!(read_to_end(silent).is_empty());
    trickle.join().unwrap();
    let expected = [
        ("reset", 1),
        ("tls_alert_bad_certificate", 1),
        ("tls_alert_unknown_ca", 1),
        ("tls_handshake_timeout", 2),
        ("tls_handshake_truncated", 1),
        ("tls_incompatible", 1),
        ("tls_not_tls", 2),
        ("tls_truncated", 2),
    ];
    await_ended(&server, &expected);
    echoes(&mut healthy.stream);
    for line in [
        "closed: the peer does not speak TLS",
        "closed: the peer closed the connection without close_notify: its data may be incomplete",
        "closed: the TLS handshake was not complete after 1s; received 0 bytes",
        "closed: the peer closed the connection in the TLS handshake, after 11 bytes",
        "closed: the peer sent the TLS alert unknown_ca",
    ] {
        eventually(line, || server.logged(line) > 0);
    }
}

/// Waits until the server's connections have ended for these reasons, and for no others.
fn await_ended(server: &Server, expected: &[(&str, u64)]) {
    let expected = expected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    let what = format!("the connections have ended for these reasons: {expected:?}");
    eventually(&what, || status::ended(server) == expected);
}

/// Runs a command, which fails. Returns the line on standard error that says why: of a server's
/// log, or with the name of the binary.
fn fails(binary: &str, words: &[&str]) -> String {
    let output = run(binary, words);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {error}");
    let begin = format!("{binary}: ");
    let is_failure = |line: &&str| line.contains(" ERROR ") || line.starts_with(&begin);
    let mut failures = error.lines().filter(is_failure);
    let failure = failures.next().expect("a failure has a line");
    assert!(failures.next().is_none(), "one line: {error}");
    failure.to_owned()
}

pub(crate) fn a_client_reports_in_one_line_why_tls_failed(binary: &str) {
    let certificates = Certificates::new();
    let flags = [&certificates.server_flags()[..], &["--status", "127.0.0.1:0"]].concat();
    let server = Server::start(binary, &flags);
    let tls = certificates.client_flags();
    let to = &*server.address;
    let wrong_name = r#"is not valid: certificate not valid for name "other.example""#;
    for words in [
        &["echo-client", to, "--message", "hello"][..],
        &["app-client", to, "search", "ring"],
        &["fanout-client", to],
        &["multiconn-client", to, "1"],
    ] {
        let error = fails(binary, &[words, &tls, &["--tls-name", "other.example"]].concat());
        assert!(error.contains(to) && error.contains(wrong_name), "{error}");
    }
    let unknown = ["--tls", "--tls-ca", &certificates.client_ca];
    let echo = |address: &str, flags: &[&str], expected: &str| {
        let words = ["echo-client", address, "--message", "hello"];
        let error = fails(binary, &[&words, flags].concat());
        assert!(error.contains(address) && error.contains(expected), "{expected}: {error}");
    };
    echo(to, &unknown, "is not valid: none of the trusted authorities has signed it");
    await_ended(&server, &[("tls_alert_bad_certificate", 4), ("tls_alert_unknown_ca", 1)]);

    let plain = Server::start(binary, &[]);
    let answers = |answer: &'static [u8]| {
        upstream(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer).unwrap();
        })
    };
    let (http, _) = answers(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let (closes, _) = answers(b"");
    for (address, expected) in [
        (&plain.address, "received unexpected handshake message"),
        (&http, "the peer does not speak TLS"),
        (&closes, "the peer closed the connection in the TLS handshake, after 0 bytes"),
    ] {
        echo(address, &tls, expected);
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let flags = [&tls[..], &["--connect-timeout", "100ms"]].concat();
    echo(&address, &flags, "the TLS handshake was not complete after 100ms");
    let expired = certificates.server("expired.pem", &["127.0.0.1"], 2021);
    let Some((_openssl, address)) = OpenSsl::listen(&expired, &[]) else { return };
    echo(&address, &tls, "the peer's certificate is not valid: it expired ");
    // A proxy does not relay to such an upstream, and closes the client's connection.
    let flags = ["--upstream-tls", "--upstream-tls-ca", &certificates.ca];
    let through = proxy(binary, &address, &flags);
    echo(&through.address, &[], "closed the connection");
    let expected = "upstream down: the peer's certificate is not valid: it expired ";
    eventually(expected, || through.logged(expected) == 1);
}

pub(crate) fn the_certificate_of_a_client_is_its_identity(binary: &str) {
    let certificates = Certificates::new();
    let own = certificates.server_flags();
    let authority = ["--tls-client-ca", &certificates.client_ca, "-v"];
    let status = ["--status", "127.0.0.1:0", "--status-tls"];
    let with = |path| ["-cert", path];
    for is_optional in [false, true] {
        let optional: &[&str] = if is_optional { &["--tls-client-optional"] } else { &[] };
        let server = Server::start(binary, &[&own[..], &authority, &status, optional].concat());
        for version in VERSIONS {
            let connect = |flags: &[&str]| {
                OpenSsl::connect(&server, &certificates, &[&[version], flags].concat())
            };
            let Some(mut known) = connect(&with(&certificates.client)) else { return };
            echoes(&mut known.stream);
            let expected = if version == "-tls1_2" { r#"="TLSv1_2""# } else { r#"="TLSv1_3""# };
            eventually("the version is logged", || server.logged(expected) > 0);
            let page = curl(&server, &certificates, "/connections");
            assert!(page.is_none_or(|page| page.contains("CN=client")), "in the list");
            let mut anonymous = connect(&[]).unwrap();
            if is_optional {
                echoes(&mut anonymous.stream);
            } else {
                let _ = anonymous.stream.write_all(b"hello");
                assert_eq!(anonymous.wait(), Some(1));
            }
            // Another authority has signed it.
            let mut unknown = connect(&with(&certificates.server)).unwrap();
            let _ = unknown.stream.write_all(b"hello");
            assert_eq!(unknown.wait(), Some(1));
        }
        let words = ["echo-client", &server.address, "--message", "hello"];
        let tls = [&words[..], &certificates.client_flags()].concat();
        let output = run(binary, &[&tls[..], &["--tls-cert", &certificates.client]].concat());
        assert_eq!(text(&output.stdout), "hello\n", "{}", text(&output.stderr));
        if !is_optional {
            let error = fails(binary, &tls);
            assert!(error.contains("the peer sent the TLS alert certificate_required"), "{error}");
        }
        let missing = if is_optional { 0 } else { 3 };
        if let Some(metrics) = curl(&server, &certificates, "/metrics") {
            let reasons = status::reasons(&metrics);
            let count = |reason| reasons.get(reason).copied().unwrap_or(0);
            assert_eq!(count("tls_certificate_missing"), missing, "{reasons:?}");
            assert_eq!(count("tls_certificate_unknown_issuer"), 2, "{reasons:?}");
        }
        let closed = |line: &&str| line.contains(" closed: ") && line.contains("CN=client");
        eventually("the identity is logged", || server.log().lines().filter(closed).count() > 0);
    }
}

/// Gets a page of a status server with TLS.
fn curl(server: &Server, certificates: &Certificates, path: &str) -> Option<String> {
    let url = format!("{}{path}", server.status.as_ref().unwrap());
    assert!(url.starts_with("https://"), "{url}");
    let words = ["-sS", "--max-time", "20", "--cacert", &certificates.ca];
    let own = ["--cert", &certificates.client, &url];
    let output = program("curl", &[&words[..], &own].concat(), b"")?;
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(text(&output.stdout))
}

pub(crate) fn a_hangup_loads_certificates_for_new_connections(binary: &str) {
    let certificates = Certificates::new();
    let names = ["localhost", "127.0.0.1"];
    let path =
        certificates.server("reloaded.pem", &[&names[..], &["first.example"]].concat(), 2098);
    // The tests may run under nohup(1), which ignores SIGHUP.
    let listen = ["echo-server", "--listen", "127.0.0.1:0"];
    let words = [&listen[..], &["--tls-cert", &path, "--status", "127.0.0.1:0"]].concat();
    let server = Server::start_command(with_hangup("default", binary, &words));
    let connect = |name| OpenSsl::connect(&server, &certificates, &["-verify_hostname", name]);
    let expires = |time: &str| {
        let name = "wirestate_tls_certificate_expiry_timestamp_seconds";
        let metrics = status::get(&server, "/metrics").1;
        assert!(
            metrics.contains(&format!("\n{name}{{server=\"echo-server\"}} {time}")),
            "{metrics}"
        );
    };
    let Some(mut open) = connect("first.example") else { return };
    echoes(&mut open.stream);
    expires("4039372800");

    certificates.server("reloaded.pem", &[&names[..], &["second.example"]].concat(), 2099);
    server.signal(Signal::HUP);
    eventually("the certificate is loaded", || server.logged("certificates loaded again") == 1);
    echoes(&mut connect("second.example").unwrap().stream);
    assert_eq!(connect("first.example").unwrap().wait(), Some(1));
    expires("4070908800");

    certificates.server("reloaded.pem", &names, 2021);
    for (round, reason) in [(1, "it expired "), (2, "there is no certificate"), (3, "No such file")]
    {
        server.signal(Signal::HUP);
        let kept = "; the configuration in use stays";
        eventually("the certificate is kept", || server.logged(kept) == round);
        let log = server.log();
        let line = log.lines().rfind(|line| line.contains(kept)).unwrap();
        assert!(line.contains(&path) && line.contains(reason), "{reason}: {line}");
        echoes(&mut connect("second.example").unwrap().stream);
        match round {
            1 => fs::write(&path, "not PEM").unwrap(),
            _ => fs::remove_file(&path).unwrap_or_default(),
        }
    }
    expires("4070908800");
    echoes(&mut open.stream);
}

pub(crate) fn sigterm_lets_connections_with_tls_end(binary: &str) {
    let certificates = Certificates::new();
    for version in VERSIONS {
        let flags = [&certificates.server_flags()[..], &["--status", "127.0.0.1:0"]].concat();
        let server = Server::start_as(binary, "app-server", &flags);
        let connect = || OpenSsl::connect(&server, &certificates, &[version]);
        let Some(mut busy) = connect() else { return };
        busy.stream.write_all(&golden()).unwrap();
        let mut idle = connect().unwrap();
        idle.stream.write_all(&golden()).unwrap();
        let reply =
            [&mut busy, &mut idle].map(|client| receive(&mut client.stream, golden_reply().len()));
        assert_eq!(reply[0], reply[1]);
        let received = || {
            let metrics = status::get(&server, "/metrics").1;
            word_after("\nwirestate_received_bytes_total{server=\"app-server\"} ", &metrics)
                .unwrap()
        };
        let before = received();
        busy.stream.write_all(&golden()[..100]).unwrap();
        eventually("the request has begun", || received() != before);
        server.signal(Signal::TERM);
        assert!(read_to_end(&idle.stream).is_empty());
        assert_eq!(idle.wait(), Some(0), "a close_notify");
        busy.stream.write_all(&golden()[100..]).unwrap();
        assert_eq!(read_to_end(&busy.stream), reply[0]);
        assert_eq!(busy.wait(), Some(0), "a close_notify");
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("drained=2 aborted=0"), "{log}");
    }
}

pub(crate) fn a_file_that_is_not_usable_ends_the_start(binary: &str) {
    let certificates = Certificates::new();
    let server = &certificates.server;
    let expired = certificates.server("expired.pem", &["localhost"], 2021);
    let text_file = certificates.write("text.pem", "not PEM");
    let missing = certificates.path("missing.pem");
    let no_key = &certificates.ca;
    let unreadable = certificates.server("unreadable.pem", &["localhost"], 2099);
    fs::set_permissions(&unreadable, PermissionsExt::from_mode(0o000)).unwrap();
    let directory = certificates.path(".");
    let calls: [(&[&str], &str, &str); 10] = [
        (&["--tls-cert", &missing], &missing, "No such file or directory"),
        (&["--tls-cert", &directory], &directory, "Is a directory"),
        (&["--tls-cert", &text_file], &text_file, "there is no certificate"),
        (&["--tls-cert", &expired], &expired, "it expired "),
        (&["--tls-cert", no_key], no_key, "there is no private key"),
        (&["--tls-cert", server, "--tls-key", &missing], &missing, "No such file"),
        (&["--tls-cert", server, "--tls-key", no_key], no_key, "there is no private key"),
        (
            &["--tls-cert", server, "--tls-key", &certificates.client],
            &certificates.client,
            "the private key belongs to another certificate",
        ),
        (&["--tls-cert", server, "--tls-client-ca", &missing], &missing, "No such file"),
        (&["--tls-cert", &unreadable], &unreadable, "Permission denied"),
    ];
    // Root may read every file.
    let count = if geteuid().is_root() { calls.len() - 1 } else { calls.len() };
    for (flags, file, reason) in &calls[..count] {
        let words = ["echo-server", "--listen", "127.0.0.1:0"];
        let error = fails(binary, &[&words[..], flags].concat());
        let expected = format!("cannot use {file}: {reason}");
        assert!(error.contains(&expected), "{expected}: {error}");
    }
    for command in ["echo-client", "fanout-client"] {
        let error = fails(binary, &[command, "127.0.0.1:1", "--tls", "--tls-ca", &missing]);
        assert!(error.contains(&format!("cannot use {missing}: No such file")), "{error}");
    }
    let words = ["--upstream-tls", "--upstream-tls-ca", &text_file, "--listen", "127.0.0.1:0"];
    for command in ["proxy", "fanout-server"] {
        let error = fails(binary, &[&[command], &words[..]].concat());
        assert!(error.contains(&format!("cannot use {text_file}: there is no cert")), "{error}");
    }
}

pub(crate) fn contradicting_flags_are_wrong_usage(binary: &str) {
    for (words, expected) in [
        (
            &["echo-server", "--tls-cert", "a", "--tls-key", "b", "--tls-key", "c"][..],
            "--tls-key is given 2 times and --tls-cert 1 times",
        ),
        (&["echo-server", "--tls-key", "a"], "--tls-cert"),
        (&["app-server", "--tls-client-ca", "a"], "--tls-cert"),
        (&["app-server", "--tls-cert", "a", "--tls-client-optional"], "--tls-client-ca"),
        (&["echo-server", "--status-tls", "--tls-cert", "a"], "--status"),
        (&["echo-server", "--status-tls", "--status", "127.0.0.1:0"], "--tls-cert"),
        (&["echo-server", "--tls-handshake-timeout", "0"], "`off` means no limit"),
        (&["proxy", "--accept-proxy", "--tls-cert", "a"], "--accept-proxy with --tls-cert"),
        (&["proxy", "--send-proxy", "v2", "--upstream-tls"], "--send-proxy with --upstream-tls"),
        (&["proxy", "--upstream-tls-ca", "a"], "--upstream-tls"),
        (&["fanout-server", "--upstream-tls-cert", "a"], "--upstream-tls"),
        (&["echo-client", "--tls-ca", "a"], "--tls"),
        (&["fanout-client", "--tls-name", "a"], "--tls"),
        (&["app-client", "127.0.0.1:1", "a", "b", "--tls-cert", "a"], "--tls"),
        (&["multiconn-client", "--tls", "--tls-key", "a"], "--tls-cert"),
        (&["echo-client", "--tls", "--tls-name", "a b"], "expected a host name or an IP address"),
    ] {
        let output = run(binary, words);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
        assert!(error.contains(expected), "{words:?}: {error}");
    }
}
