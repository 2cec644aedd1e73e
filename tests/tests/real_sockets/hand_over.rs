//! Scenarios of a hand-over: the service manager keeps the sockets, and the next server serves them
//! while the previous one drains.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
};

use rustix::process::Signal;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    certificates::Certificates,
    process::{Server, TEST_TIMEOUT, eventually, path},
    unix::Folder,
};

/// Passes standard input as the socket `main` and standard output as the socket `status`, and
/// executes the program, which keeps the number of this process.
const LAUNCHER: &str = r#"
exec 3<&0 4>&1 </dev/null >/dev/null
export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=main:status
exec "$@"
"#;

/// The stand-in for the service manager: it holds the sockets, and passes them to each server.
struct Manager {
    main: OwnedFd,
    status: OwnedFd,
    status_path: PathBuf,
    /// The program, the command and its flags.
    words: Vec<String>,
    _folder: Folder,
}

impl Manager {
    fn new(binary: &str, main: OwnedFd, name: &str, words: &[&str]) -> Self {
        let folder = Folder::new(name, binary);
        let status_path = folder.path("status");
        let status = UnixListener::bind(&status_path).unwrap().into();
        let mut all = vec![path(binary).to_str().unwrap().to_owned()];
        all.extend(words.iter().map(|&word| word.to_owned()));
        let sockets = ["--listen", "systemd:main", "--status", "systemd:status"];
        all.extend(sockets.map(str::to_owned));
        Self { main, status, status_path, words: all, _folder: folder }
    }

    fn start(&self) -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", LAUNCHER, "sh"]).args(&self.words).stderr(Stdio::piped());
        command.stdin(self.main.try_clone().unwrap()).stdout(self.status.try_clone().unwrap());
        Server::start_command(command)
    }

    /// Whether the status, which is read to its end, says that the server is ready.
    fn is_ready(&self) -> bool {
        let mut stream = UnixStream::connect(&self.status_path).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.ends_with('\n'), "{response:?}");
        let is_ready = response.starts_with("HTTP/1.1 200 ");
        assert!(is_ready || response.starts_with("HTTP/1.1 503 "), "{response:?}");
        is_ready
    }
}

/// A client's connection.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}
type Connect<'a> = &'a (dyn Fn() -> io::Result<Box<dyn Stream>> + Sync);

/// How one server replaces another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The next server starts, and the previous one is stopped.
    StartThenStop,
    /// The previous server ends, and the next one starts (`systemctl restart`).
    StopThenStart,
}

/// Replaces the server in each of these orders while clients connect. Each request is answered.
/// Connections that are open get a FIN after the last byte.
fn assert_handed_over(manager: &Manager, orders: &[Order], connect: Connect<'_>) {
    let (is_over, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let client = || -> io::Result<()> {
        while !is_over.load(Relaxed) {
            exchange(&mut connect()?, b"short")?;
            answered.fetch_add(1, Relaxed);
        }
        Ok(())
    };
    let await_answers = |count| {
        let before = answered.load(Relaxed);
        eventually("clients are served", || answered.load(Relaxed) >= before + count);
    };
    let last = thread::scope(|scope| {
        let mut server = manager.start();
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(client)).collect();
        let status = scope.spawn(|| {
            while !is_over.load(Relaxed) {
                manager.is_ready();
                thread::yield_now();
            }
        });
        for &order in orders {
            await_answers(20);
            let mut open = [connect().unwrap(), connect().unwrap()];
            for stream in &mut open {
                exchange(stream, b"long").unwrap(); // this server has accepted it
            }
            let [mut idle, mut pending] = open;
            let bytes: Vec<u8> = (0..=250).cycle().take(96 * 1024).collect();
            pending.write_all(&bytes).unwrap();
            let next = (order == Order::StartThenStop).then(|| manager.start());
            server.signal(Signal::TERM);
            assert_eq!(read_to_end(&mut pending), bytes, "{order:?}");
            assert_eq!(read_to_end(&mut idle), b"", "{order:?}");
            drop((idle, pending));
            let (status, log) = server.wait();
            assert!(status.success() && log.contains(" aborted=0"), "{order:?}: {log}");
            server = next.unwrap_or_else(|| manager.start());
            await_answers(20);
        }
        is_over.store(true, Relaxed);
        for client in clients {
            client.join().unwrap().expect("each request is answered");
        }
        status.join().expect("each request for the status is answered");
        server
    });
    assert!(manager.is_ready());
    last.stop();
}

fn exchange(stream: &mut dyn Stream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    let mut reply = vec![0; message.len()];
    stream.read_exact(&mut reply)?;
    assert_eq!(reply, message);
    Ok(())
}

fn read_to_end(stream: &mut dyn Stream) -> Vec<u8> {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("the connection ends with a FIN");
    received
}

fn bind() -> (OwnedFd, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener.into(), address)
}

fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TEST_TIMEOUT))?;
    Ok(stream)
}

pub(crate) fn no_connection_is_lost_on_tcp(binary: &str) {
    let (listener, address) = bind();
    let manager = Manager::new(binary, listener, "hand-over-tcp", &["echo-server"]);
    let orders = [Order::StartThenStop, Order::StopThenStart];
    assert_handed_over(&manager, &orders, &|| Ok(Box::new(tcp(&address)?)));
}

pub(crate) fn no_connection_is_lost_on_a_unix_socket(binary: &str) {
    let folder = Folder::new("hand-over", binary);
    let path = folder.path("main");
    let listener = UnixListener::bind(&path).unwrap();
    let manager = Manager::new(binary, listener.into(), "hand-over-unix", &["echo-server"]);
    let connect = || -> io::Result<Box<dyn Stream>> {
        let stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(TEST_TIMEOUT))?;
        Ok(Box::new(stream))
    };
    assert_handed_over(&manager, &[Order::StopThenStart], &connect);
    assert!(path.exists(), "the socket's file stays");
}

pub(crate) fn no_connection_is_lost_with_tls(binary: &str) {
    let certificates = Certificates::new();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificates.ca).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let config = Arc::new(config);
    let (listener, address) = bind();
    let words = [&["echo-server"][..], &certificates.server_flags()].concat();
    let manager = Manager::new(binary, listener, "hand-over-tls", &words);
    let connect = || -> io::Result<Box<dyn Stream>> {
        let name = "localhost".try_into().unwrap();
        let client = ClientConnection::new(config.clone(), name).unwrap();
        Ok(Box::new(StreamOwned::new(client, tcp(&address)?)))
    };
    assert_handed_over(&manager, &[Order::StartThenStop], &connect);
}
