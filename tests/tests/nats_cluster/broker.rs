//! `nats-server` processes with `JetStream`, each with a port and a store that outlast a kill.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, id},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::{process::eventually, program};

/// A server with `JetStream`. Dropping it kills the process and removes the store.
pub(crate) struct Broker {
    /// `None` while it is killed.
    child: Option<Child>,
    port: Port,
    folder: Folder,
    words: Vec<String>,
    /// User and password.
    user: Option<[String; 2]>,
}

impl Broker {
    /// Starts a server alone. Returns `None` if none is installed.
    pub(crate) fn start() -> Option<Self> {
        Self::with_config("")
    }

    /// Starts a server with the content of a configuration file.
    pub(crate) fn with_config(config: &str) -> Option<Self> {
        let mut broker = Self::new(config);
        broker.restart()?;
        broker.await_jetstream();
        Some(broker)
    }

    /// Starts a server that has one user.
    pub(crate) fn with_user(user: &str, password: &str) -> Option<Self> {
        let config = format!("authorization {{ user: {user}, password: {password} }}");
        let mut broker = Self::new(&config);
        broker.user = Some([user.to_owned(), password.to_owned()]);
        broker.restart()?;
        broker.await_jetstream();
        Some(broker)
    }

    fn new(config: &str) -> Self {
        let folder = Folder::new();
        let file = folder.0.join("config");
        fs::write(&file, config).unwrap();
        let store = folder.0.join("store");
        let words = ["-js", "-sd", store.to_str().unwrap(), "-c", file.to_str().unwrap()];
        let words = words.map(str::to_owned).into();
        Self { child: None, port: Port::reserve(), folder, words, user: None }
    }

    /// Starts the process, with the store of the one before. Returns `None` if no server is
    /// installed.
    pub(crate) fn restart(&mut self) -> Option<()> {
        assert!(self.child.is_none(), "it runs");
        let log = self.folder.0.join("log");
        let mut command = program::command(&self.port.number().to_string());
        command.args(&self.words).stderr(File::create(&log).unwrap());
        self.child = Some(program::spawn(&mut command)?);
        eventually("the broker listens", || TcpStream::connect(self.port.address).is_ok());
        Some(())
    }

    /// Where clients connect, HOST:PORT.
    pub(crate) fn address(&self) -> String {
        self.port.address.to_string()
    }

    /// Ends the process by a SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops the process until [`resume`](Self::resume): the kernel accepts what clients send, and
    /// nobody answers.
    pub(crate) fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn await_jetstream(&self) {
        let is_up = |reply: Value| reply.get("error").is_none();
        eventually("JetStream is up", || self.request("INFO", "").is_some_and(is_up));
    }

    /// Calls the API of `JetStream` (docs.nats.io, "`JetStream` wire API"): sends a request
    /// to `$JS.API.` and `name`. Returns the reply, `None` if it takes a second.
    pub(crate) fn request(&self, name: &str, payload: &str) -> Option<Value> {
        self.try_request(name, payload).ok()
    }

    fn try_request(&self, name: &str, payload: &str) -> io::Result<Value> {
        let stream = TcpStream::connect(self.port.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let options = match &self.user {
            Some([user, password]) => serde_json::json!({ "user": user, "pass": password }),
            None => serde_json::json!({}),
        };
        let length = payload.len();
        write!(
            &stream,
            "CONNECT {options}\r\nSUB reply 1\r\nPUB $JS.API.{name} reply {length}\r\n{payload}\r\n"
        )?;
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some(length) = line.strip_prefix("MSG reply 1 ") else { continue };
            let mut reply = vec![0; length.trim().parse().unwrap()];
            stream.read_exact(&mut reply)?;
            return Ok(serde_json::from_slice(&reply)?);
        }
    }

    /// What `JetStream` says of a stream, `None` if there is no such stream.
    pub(crate) fn stream(&self, name: &str) -> Option<Value> {
        let reply = self.request(&format!("STREAM.INFO.{name}"), "")?;
        reply.get("error").is_none().then_some(reply)
    }

    /// The sequence of the stream's last message.
    pub(crate) fn last_sequence(&self, stream: &str) -> u64 {
        self.stream(stream).map_or(0, |info| info["state"]["last_seq"].as_u64().unwrap())
    }

    /// Deletes a stream's messages, except the last `keep`.
    pub(crate) fn purge(&self, stream: &str, keep: u64) {
        let options = serde_json::json!({ "keep": keep }).to_string();
        let reply = self.request(&format!("STREAM.PURGE.{stream}"), &options).unwrap();
        assert_eq!(reply["success"], true, "{reply}");
    }

    pub(crate) fn delete_stream(&self, stream: &str) {
        let reply = self.request(&format!("STREAM.DELETE.{stream}"), "").unwrap();
        assert_eq!(reply["success"], true, "{reply}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        if thread::panicking() {
            let log = fs::read_to_string(self.folder.0.join("log")).unwrap_or_default();
            eprintln!("the log of {}:\n{log}", self.address());
        }
    }
}

/// Three servers that replicate their streams.
pub(crate) struct Cluster(pub(crate) Vec<Broker>);

impl Cluster {
    /// Starts the servers. Returns `None` if none is installed.
    pub(crate) fn start() -> Option<Self> {
        let routes = [(); 3].map(|()| Port::reserve());
        let all = routes.each_ref().map(|port| format!("nats://{}", port.address)).join(",");
        let mut brokers = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            let mut broker = Broker::new("");
            let own = format!("nats://{}", route.address);
            broker.words.extend(["--name".into(), format!("n{number}")]);
            let cluster = ["--cluster_name", "c", "--cluster", &own, "--routes", &all];
            broker.words.extend(cluster.map(str::to_owned));
            broker.restart()?;
            brokers.push(broker);
        }
        brokers[0].await_jetstream();
        Some(Self(brokers))
    }

    /// Where clients connect, separated by commas: first to this one.
    pub(crate) fn addresses(&self, first: usize) -> String {
        let nodes = self.0.iter().cycle().skip(first).take(self.0.len());
        nodes.map(Broker::address).collect::<Vec<_>>().join(",")
    }

    /// The number of the server that leads the replication of a stream, once there is one.
    pub(crate) fn leader(&self, stream: &str) -> usize {
        let mut leader = None;
        eventually("the stream has a leader", || {
            let info = self.0.iter().find_map(|broker| broker.stream(stream));
            let name = info.and_then(|info| info["cluster"]["leader"].as_str().map(str::to_owned));
            leader = name.and_then(|name| name.strip_prefix('n')?.parse().ok());
            leader.is_some()
        });
        leader.unwrap()
    }
}

/// A port of loopback that no other process gets, although a server may listen on it.
///
/// The kernel assigns no port on which a socket is bound, and lets another one bind to it if both
/// have `SO_REUSEADDR` and none listens (socket(7)). `nats-server` sets it, as Go does.
struct Port {
    _bound: Socket,
    address: SocketAddr,
}

impl Port {
    fn reserve() -> Self {
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.set_reuse_address(true).unwrap();
        bound.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = bound.local_addr().unwrap().as_socket().unwrap();
        Self { _bound: bound, address }
    }

    fn number(&self) -> u16 {
        self.address.port()
    }
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let path = std::env::temp_dir().join(format!("wirestate-{}-broker-{number}", id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
