//! Scenarios of Unix sockets.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    process::{Server, TEST_TIMEOUT, command, eventually, path, run, text},
    proxy::upstream,
    third_party::program,
};

/// A folder for sockets, removed when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str, binary: &str) -> Self {
        let name = format!("wirestate-{name}-{binary}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn address(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(binary: &str, words: &[&str]) -> Server {
    let mut command = command(binary);
    command.args(words);
    Server::start_command(command)
}

pub(crate) fn an_echo_on_a_unix_socket_serves_netcat_and_our_clients(binary: &str) {
    let folder = Folder::new("echo", binary);
    let address = folder.address("socket");
    let server = start(binary, &["echo-server", "--listen", &address]);
    assert_eq!(server.address, address, "the ready line has the address");
    let path = folder.path("socket");
    let input: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let words = ["-N", "-U", path.to_str().unwrap()];
    if let Some(output) = program("nc", &words, &input) {
        assert!(output.stdout == input, "{} of {} bytes", output.stdout.len(), input.len());
    }
    let output = run(binary, &["echo-client", &address, "--message", "hi"]);
    assert_eq!(text(&output.stdout), "hi\n", "{}", text(&output.stderr));
    let words = ["multiconn-client", &address, "50", "--size", "100000", "--rounds", "3", "--json"];
    let output = run(binary, &words);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let log = server.stop();
    assert!(log.contains("aborted=0 refused=0"), "{log}");
    assert!(!path.exists(), "the socket is removed at the end");
}

pub(crate) fn a_fan_out_goes_from_one_unix_socket_to_another(binary: &str) {
    let folder = Folder::new("fanout", binary);
    let (upstream, address) = (folder.address("upstream"), folder.address("downstream"));
    let words = ["fanout-source", "--listen", &upstream, "--rate", "2000"];
    let source = start(binary, &words);
    let words = ["fanout-server", "--upstream", &upstream, "--listen", &address];
    let server = start(binary, &words);
    let output = run(binary, &["fanout-client", &address, "--count", "500"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(output.stdout.len(), 500 * 1024);
    drop((server, source));

    let output = run(binary, &["fanout-server", "--upstream", &address, "--listen", &address]);
    assert_eq!(output.status.code(), Some(2), "the upstream is the server itself");
}

pub(crate) fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not(binary: &str) {
    let folder = Folder::new("stale", binary);
    let (address, path) = (folder.address("socket"), folder.path("socket"));
    let server = start(binary, &["echo-server", "--listen", &address]);
    let output = run(binary, &["echo-server", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let output_text = text(&output.stderr);
    let named = format!("cannot listen on {address}: Address already in use");
    assert!(output_text.contains(&named), "{output_text}");
    // With the usual umask of 022, only the server's user may connect.
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & 0o022, 0, "{mode:o}, with an umask of 022");

    server.signal(Signal::KILL);
    let _ = server.wait();
    assert!(path.exists(), "a killed server leaves its file");
    let words = ["echo-client", &address, "--message", "hi", "--retry-for", "0s"];
    let refused = run(binary, &words);
    let output_text = text(&refused.stderr);
    assert!(
        output_text.contains(&format!("cannot connect to {address}: Connection refused")),
        "{output_text}"
    );
    let server = start(binary, &["echo-server", "--listen", &address]);
    let output = run(binary, &["echo-client", &address, "--message", "hi"]);
    assert_eq!(text(&output.stdout), "hi\n");
    drop(server);

    // A file that is not a socket stays.
    fs::write(folder.path("file"), "precious").unwrap();
    let output = run(binary, &["echo-server", "--listen", &folder.address("file")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read(folder.path("file")).unwrap(), b"precious");
    // The socket of another server stays as well.
    let other = UnixListener::bind(folder.path("other")).unwrap();
    let output = run(binary, &["echo-server", "--listen", &folder.address("other")]);
    assert_eq!(output.status.code(), Some(1));
    drop(other);
}

pub(crate) fn the_umask_determines_the_mode_of_a_unix_socket(binary: &str) {
    let folder = Folder::new("umask", binary);
    for (umask, expected) in [("027", 0o750), ("117", 0o660)] {
        let mut command = Command::new("sh");
        let script = r#"umask "$1"; exec "$0" echo-server --listen "$2""#;
        command.args(["-c", script]).arg(path(binary)).args([umask, &folder.address(umask)]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let _server = Server::start_command(command);
        let mode = fs::metadata(folder.path(umask)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{mode:o} with umask {umask}");
    }
}

/// A reset of a Unix socket is visible only if sent bytes were unread (unix(7)).
pub(crate) fn a_reset_looks_like_an_end_on_a_unix_socket(binary: &str) {
    let folder = Folder::new("reset", binary);
    let (address, serving) = upstream(|mut stream| {
        stream.write_all(b"half of an ans").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let own = folder.address("socket");
    let server = start(binary, &["proxy", "--listen", &own, "--upstream", &address]);
    let mut client = UnixStream::connect(folder.path("socket")).unwrap();
    client.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    client.write_all(b"hello").unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("the end looks clean");
    assert_eq!(answer, b"half of an ans");
    serving.join().unwrap();
    drop(client);
    let log = server.stop();
    assert!(log.contains(r#"reason="upstream_lost""#), "{log}");
}

pub(crate) fn a_locked_folder_does_not_delay_the_start(binary: &str) {
    let folder = Folder::new("locked", binary);
    let (address, path) = (folder.address("socket"), folder.path("socket"));
    let locked = fs::File::open(folder.path("")).unwrap();
    locked.lock().unwrap();
    for left_behind in [false, true] {
        if left_behind {
            drop(UnixListener::bind(&path).unwrap());
        }
        let server = start(binary, &["echo-server", "--listen", &address]);
        let output = run(binary, &["echo-client", &address, "--message", "hi"]);
        assert_eq!(text(&output.stdout), "hi\n", "{}", text(&output.stderr));
        drop(server.stop());
    }
}

pub(crate) fn a_unix_socket_that_is_bound_but_does_not_listen_is_in_use(binary: &str) {
    let folder = Folder::new("bound", binary);
    let (address, path) = (folder.address("socket"), folder.path("socket"));
    // A datagram socket never listens.
    let bound = UnixDatagram::bind(&path).unwrap();
    let output = run(binary, &["echo-server", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains(&format!("cannot listen on {address}: Address already in use")),
        "{error}"
    );
    drop(bound);
    fs::remove_file(&path).unwrap();

    let bound = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    bound.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    let output = run(binary, &["echo-server", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1), "the bound socket may listen later");
    bound.listen(1).unwrap();
    UnixStream::connect(&path).expect("its file was not replaced");
}

pub(crate) fn a_status_on_a_unix_socket_or_ipv6_is_answered(binary: &str) {
    let folder = Folder::new("status", binary);
    let (address, path) = (folder.address("status"), folder.path("status"));
    let words = ["echo-server", "--listen", "[::1]:0", "--status", &address];
    let server = start(binary, &words);
    assert_eq!(server.status.as_ref(), Some(&address));
    assert!(server.address.starts_with("[::1]:"), "{}", server.address);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    // A browser cannot connect here, so any host is accepted.
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ready\n"), "{answer}");
    let words = ["-sS", "--unix-socket", path.to_str().unwrap(), "http://any/healthz"];
    if let Some(output) = program("curl", &words, b"") {
        assert_eq!(text(&output.stdout), "alive\n", "{}", text(&output.stderr));
    }
    server.signal(Signal::TERM);
    server.wait();
    eventually("the socket is removed", || !path.exists());

    let server = Server::start(binary, &["--status", "[::1]:0"]);
    let url = format!("http://{}/healthz", server.status.as_ref().unwrap());
    if let Some(output) = program("curl", &["-gsS", &url], b"") {
        assert_eq!(text(&output.stdout), "alive\n", "{}", text(&output.stderr));
    }
}
