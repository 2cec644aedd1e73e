//! The binaries as processes.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
};

/// How long a test waits for an event. Longer than it takes on a busy machine.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A command that runs one of the binaries, without this process' variables for it.
pub(crate) fn command(binary: &str) -> Command {
    let mut command = Command::new(path(binary));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("WIRESTATE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The path of a binary. The binaries are beside the folder of this test's executable.
pub(crate) fn path(binary: &str) -> PathBuf {
    let test = env::current_exe().expect("this test has an executable");
    let path =
        test.parent().and_then(|deps| deps.parent()).expect("its folder is `deps`").join(binary);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace`", path.display());
    path
}

/// Runs one of the binaries to its end.
pub(crate) fn run(binary: &str, words: &[&str]) -> Output {
    command(binary).args(words).output().expect("the binary starts")
}

/// Runs a command to its end, with a terminal as its standard output and standard error. Returns
/// what it has written.
pub(crate) fn on_terminal(command: &mut Command) -> (ExitStatus, Vec<u8>) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let ours = openpt(flags).unwrap();
    unlockpt(&ours).unwrap();
    let terminal = ioctl_tiocgptpeer(&ours, flags).unwrap();
    let mut child = command.stdout(terminal.try_clone().unwrap()).stderr(terminal).spawn().unwrap();
    // Closes this process' copies of the terminal.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut bytes = Vec::new();
    // At the end, the read fails (EIO), because no process has the terminal open.
    let _ = fs::File::from(ours).read_to_end(&mut bytes);
    (child.wait().unwrap(), bytes)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("our output is UTF-8")
}

/// A file that is removed when it is dropped.
pub(crate) struct TemporaryFile(PathBuf);

impl TemporaryFile {
    pub(crate) fn new(name: &str, content: &[u8]) -> Self {
        let path = env::temp_dir().join(format!("wirestate-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A server process, killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    /// The address of its status server, if it has one.
    pub(crate) status: Option<String>,
    /// Its log so far.
    log: Arc<Mutex<String>>,
    /// Reads the log to its end.
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts `binary echo-server` on a free port, and waits for its ready line.
    pub(crate) fn start(binary: &str, flags: &[&str]) -> Self {
        Self::start_as(binary, "echo-server", flags)
    }

    /// Starts one of `binary`'s servers on a free port, and waits for its ready line.
    pub(crate) fn start_as(binary: &str, name: &str, flags: &[&str]) -> Self {
        let mut command = command(binary);
        command.args([name, "--listen", "127.0.0.1:0"]).args(flags);
        Self::start_command(command)
    }

    /// Starts a server, and waits for its ready line.
    pub(crate) fn start_command(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let mut log = BufReader::new(child.stderr.take().expect("standard error is piped"));
        let mut before = String::new();
        let address = loop {
            let mut line = String::new();
            let n = log.read_line(&mut line).expect("the log is UTF-8");
            assert!(n > 0, "the server ended before it was ready: {before}");
            before += &line;
            if let Some(address) = word_after("listening on ", &line) {
                break address;
            }
            // A server that does not listen.
            if line.contains("ready to ") {
                break String::new();
            }
        };
        let status =
            word_after("status on http://", &before).or_else(|| word_after("status on ", &before));
        let shared = Arc::new(Mutex::new(before));
        let reader = thread::spawn({
            let shared = shared.clone();
            move || {
                for line in log.lines() {
                    let line = line.expect("the log is UTF-8") + "\n";
                    shared.lock().unwrap().push_str(&line);
                }
            }
        });
        Self { child, address, status, log: shared, reader: Some(reader) }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the server is listening");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream
    }

    /// Returns its log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Returns how often its log has `text` so far.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log.lock().unwrap().matches(text).count()
    }

    /// Waits until the server has admitted this many connections. It must log with `-v`.
    pub(crate) fn await_connected(&self, count: usize) {
        eventually("all are admitted", || self.logged(" connected id=") >= count);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the server runs");
    }

    /// Stops all threads of the process until it gets a SIGCONT.
    pub(crate) fn suspend(&self) {
        self.signal(Signal::STOP);
        eventually("all threads are stopped", || {
            let mut threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
            threads.all(|thread| {
                let status = fs::read_to_string(thread.unwrap().path().join("status"));
                status.is_ok_and(|status| status.contains("State:\tT"))
            })
        });
    }

    /// Limits its open files to this many more than now (prlimit(2)). Returns the limit before.
    pub(crate) fn limit_files(&self, more: usize) -> Rlimit {
        let folder = format!("/proc/{}/fd", self.child.id());
        let is_free = |number: &u64| !fs::exists(format!("{folder}/{number}")).unwrap();
        let limit = (0..).filter(is_free).nth(more).expect("numbers do not end");
        let maximum = getrlimit(Resource::Nofile).maximum;
        self.set_file_limit(Rlimit { current: Some(limit), maximum })
    }

    pub(crate) fn set_file_limit(&self, limit: Rlimit) -> Rlimit {
        let pid = Some(Pid::from_child(&self.child));
        prlimit(pid, Resource::Nofile, limit).expect("the process is a child")
    }

    /// Returns how many files it has open (proc(5)).
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Returns how many ends of pipes it has open (proc(5)).
    pub(crate) fn open_pipes(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let kinds = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
        kinds.filter(|kind| kind.to_string_lossy().starts_with("pipe:")).count()
    }

    /// Returns its memory, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        resident(self.child.id())
    }

    /// Waits for the end of the process. Returns its exit status and its log.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let began = Instant::now();
        while began.elapsed() < TEST_TIMEOUT {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut data = String::new();
                if let Some(mut output) = self.child.stdout.take() {
                    output.read_to_string(&mut data).expect("our output is UTF-8");
                }
                assert_eq!(data, "", "a server writes nothing to standard output");
                let reader = self.reader.take().expect("`wait` consumes the server");
                reader.join().expect("the log was read");
                return (status, self.log.lock().unwrap().clone());
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the server does not end within {TEST_TIMEOUT:?}");
    }

    /// Stops it with SIGTERM, and returns its log.
    pub(crate) fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.wait();
        assert!(status.success(), "{status}: {log}");
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the log of a server:\n{}", self.log());
        }
    }
}

/// Returns the memory of a process, in KiB (`VmRSS`; proc(5)).
pub(crate) fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status"));
    let status = status.expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    figure.and_then(|figure| figure.parse().ok()).expect("a figure in kB")
}

/// Returns the word after `prefix`.
pub(crate) fn word_after(prefix: &str, text: &str) -> Option<String> {
    let (_, rest) = text.split_once(prefix)?;
    let end = rest.find(|c: char| c == '"' || c.is_whitespace());
    Some(rest[..end.unwrap_or(rest.len())].to_owned())
}

/// Whether a socket listens on an IPv4 address (proc(5)). An attempt to connect could be accepted.
pub(crate) fn is_listening(address: &str) -> bool {
    let (_, port) = address.rsplit_once(':').unwrap();
    let listening = format!(":{:04X} 00000000:0000 0A ", port.parse::<u16>().unwrap());
    fs::read_to_string("/proc/net/tcp").unwrap().contains(&listening)
}

/// Waits until `condition` returns true.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < TEST_TIMEOUT, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
