//! Scenarios of the JSON-header protocol with peers in Python.

use std::{
    env,
    process::{Command, Stdio},
};

use crate::{
    process::{Server, run, text},
    third_party::python,
};

pub(crate) const PYTHON_PROTOCOL: &str = r#"
import io, json, struct, sys

def pack(content, kind, encoding):
    header = json.dumps({
        "byteorder": sys.byteorder,
        "content-type": kind,
        "content-encoding": encoding,
        "content-length": len(content),
    }, ensure_ascii=False).encode("utf-8")
    return struct.pack(">H", len(header)) + header + content

def pack_json(value, encoding="utf-8"):
    return pack(json.dumps(value, ensure_ascii=False).encode(encoding), "text/json", encoding)

def unpack(buffer):
    # The message that buffer begins with, and the rest; or None.
    if len(buffer) < 2:
        return None
    length = struct.unpack(">H", buffer[:2])[0]
    if len(buffer) < 2 + length:
        return None
    with io.TextIOWrapper(io.BytesIO(buffer[2:2 + length]), encoding="utf-8", newline="") as text:
        header = json.load(text)
    for key in ("byteorder", "content-length", "content-type", "content-encoding"):
        if key not in header:
            raise ValueError("missing header '%s'" % key)
    end = 2 + length + header["content-length"]
    if len(buffer) < end:
        return None
    content = buffer[2 + length:end]
    if header["content-type"] == "text/json":
        content = json.loads(content.decode(header["content-encoding"]))
    return header, content, buffer[end:]
"#;

/// The client sends one request per connection, and closes it after the reply.
pub(crate) fn a_blocking_python_client_gets_its_replies(binary: &str) {
    let server = Server::start_as(binary, "app-server", &[]);
    let client = r#"
import socket
def ask(request):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as s:
        s.sendall(request)
        buffer = b''
        while True:
            message = unpack(buffer)
            if message:
                assert message[2] == b'', message
                return message[:2]
            data = s.recv(4096)
            assert data, 'closed early'
            buffer += data

header, reply = ask(pack_json({'action': 'search', 'value': 'morpheus'}))
assert reply == {'result': 'Shaper of dreams, son of sleep.'}, reply
assert header['content-encoding'] == 'utf-8', header
assert list(header) == ['byteorder', 'content-type', 'content-encoding', 'content-length'], header
_, reply = ask(pack_json({'action': 'search', 'value': '\U0001f436'}))
assert reply['result'].startswith('A dog'), reply
_, reply = ask(pack_json({'action': 'search', 'value': 'ring'}, 'utf-16'))
assert reply['result'].startswith('Bent wire'), reply
_, reply = ask(pack_json({'action': 'sleep', 'value': 1}))
assert reply == {'result': "Error: invalid action 'sleep'."}, reply
binary = b'binary' + bytes(range(128, 256))
header, reply = ask(pack(binary, 'binary/custom-client-binary-type', 'binary'))
assert reply == b'First 10 bytes of request: binary\x80\x81\x82\x83', reply
assert header['content-type'] == 'binary/custom-server-binary-type', header
"#;
    python(&format!("{PYTHON_PROTOCOL}{client}"), &server);
}

/// The client has many connections on one selector.
pub(crate) fn a_selectors_based_python_client_gets_its_replies(binary: &str) {
    let server = Server::start_as(binary, "app-server", &[]);
    let client = r"
import selectors, socket
sel = selectors.DefaultSelector()
class Connection:
    def __init__(self, sock, value):
        self.sock, self.value = sock, value
        self.send = pack_json({'action': 'search', 'value': value})
        self.received = b''
    def process(self, mask):
        if mask & selectors.EVENT_READ:
            try:
                data = self.sock.recv(64)
            except BlockingIOError:
                data = None
            if data == b'':
                raise RuntimeError('peer closed')
            self.received += data or b''
            message = unpack(self.received)
            if message:
                expected = 'No match for \'%s\'.' % self.value
                assert message[1] == {'result': expected}, message
                return True
        if mask & selectors.EVENT_WRITE and self.send:
            self.send = self.send[self.sock.send(self.send[:50]):]
            if not self.send:
                sel.modify(self.sock, selectors.EVENT_READ, data=self)
        return False
for i in range(50):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.connect_ex((sys.argv[1], int(sys.argv[2])))
    events = selectors.EVENT_READ | selectors.EVENT_WRITE
    sel.register(sock, events, data=Connection(sock, 'value %d' % i))
done = 0
while sel.get_map():
    events = sel.select(timeout=20)
    assert events, 'stalled'
    for key, mask in events:
        if key.data.process(mask):
            sel.unregister(key.fileobj)
            key.fileobj.close()
            done += 1
assert done == 50
";
    python(&format!("{PYTHON_PROTOCOL}{client}"), &server);
}

/// The server answers one request per connection, and closes it after the reply.
pub(crate) fn a_python_server_satisfies_our_client(binary: &str) {
    let source = r"
import selectors, socket
sel = selectors.DefaultSelector()
listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(('127.0.0.1', 0))
listening.listen()
listening.setblocking(False)
sel.register(listening, selectors.EVENT_READ, data=None)
print('listening on %s:%d' % listening.getsockname(), file=sys.stderr, flush=True)
table = {'morpheus': 'Follow the white rabbit. \U0001f430', 'frodo': 'Nine fingers.'}
def answer(header, content):
    if header['content-type'] != 'text/json':
        first = b'First 10 bytes of request: ' + content[:10]
        return pack(first, 'binary/custom-server-binary-type', 'binary')
    if content.get('action') != 'search':
        return pack_json({'result': 'Error: invalid action'})
    value = content.get('value')
    return pack_json({'result': table.get(value) or 'No match for \'%s\'.' % value})
while True:
    for key, mask in sel.select():
        if key.data is None:
            sock, _ = listening.accept()
            sock.setblocking(False)
            sel.register(sock, selectors.EVENT_READ, data={'in': b'', 'out': b''})
            continue
        sock, data = key.fileobj, key.data
        if mask & selectors.EVENT_READ:
            got = sock.recv(4096)
            if not got:
                sel.unregister(sock)
                sock.close()
                continue
            data['in'] += got
            message = unpack(data['in'])
            if message:
                data['out'] = answer(*message[:2])
                sel.modify(sock, selectors.EVENT_WRITE, data=data)
        elif mask & selectors.EVENT_WRITE:
            data['out'] = data['out'][sock.send(data['out'][:20]):]
            if not data['out']:
                sel.unregister(sock)
                sock.close()
";
    let mut python = Command::new("python3");
    if python.arg("--version").output().is_err() {
        eprintln!("NOT TESTED: python3 is absent");
        assert!(env::var_os("CI").is_none(), "CI installs python3");
        return;
    }
    let mut python = Command::new("python3");
    let source = format!("{PYTHON_PROTOCOL}{source}");
    python.args(["-c", &source]).stdout(Stdio::null()).stderr(Stdio::piped());
    let server = Server::start_command(python);
    for (action, value, shown) in [
        ("search", "morpheus", "Follow the white rabbit. \u{1f430}\n"),
        ("search", "frodo", "Nine fingers.\n"),
        ("double", "2", "First 10 bytes of request: double2\n"),
    ] {
        let output = run(binary, &["app-client", &server.address, action, value]);
        assert_eq!(text(&output.stdout), shown, "{}", text(&output.stderr));
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    }
    let output = run(binary, &["app-client", &server.address, "search", "größe"]);
    let error = text(&output.stderr);
    assert!(error.contains("the table has no entry for `größe`"), "{error}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}
