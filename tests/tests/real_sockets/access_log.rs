//! Scenarios of the access log.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::process::Signal;

use crate::{
    process::{Server, command, eventually, run, text},
    status,
};

/// A folder that is removed when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(binary: &str, name: &str) -> Self {
        let folder = format!("wirestate-{}-{binary}-{name}", std::process::id());
        let path = std::env::temp_dir().join(folder);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Sends `message` and a FIN, and reads the echo. Returns the local address.
fn echo(stream: &mut TcpStream, message: &[u8]) -> String {
    stream.write_all(message).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(reply, message);
    stream.local_addr().unwrap().to_string()
}

/// Waits until the file has `count` lines, and returns them.
fn lines(path: impl AsRef<Path>, count: usize) -> Vec<String> {
    let read = || fs::read_to_string(&path).unwrap_or_default();
    eventually("the lines are written", || read().matches('\n').count() >= count);
    read().lines().map(str::to_owned).collect()
}

pub(crate) fn each_connection_has_a_line_when_it_ends(binary: &str) {
    let folder = Folder::new(binary, "lines");
    let (text, json) = (folder.path("echo.log"), folder.path("proxy.log"));
    let upstream = Server::start(binary, &["--access-log", &text]);
    let flags = ["--upstream", &upstream.address, "--access-log", &json];
    let proxy = [&flags[..], &["--access-log-format", "json"]].concat();
    let proxy = Server::start_as(binary, "proxy", &proxy);
    let mut open = proxy.connect();
    let peer = echo(&mut proxy.connect(), b"hello");
    let line = &lines(&json, 1)[0];
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["server"], &line["reason"]), (&"proxy".into(), &"finished".into()));
    assert_eq!((&line["peer"], &line["id"]), (&peer.into(), &2.into()));
    assert_eq!((&line["received"], &line["sent"]), (&5.into(), &5.into()));
    let address = upstream.address.as_str();
    assert_eq!((&line["upstream"], &line["upstream_address"]), (&address.into(), &address.into()));
    assert!(line["connect_seconds"].as_f64().unwrap() < 30.0);
    assert!(line["duration_seconds"].as_f64().unwrap() < 30.0);
    let line = &lines(&text, 1)[0];
    assert!(line.contains("Z server=echo-server id="), "{line}");
    assert!(line.contains(" received=5 sent=5 duration_seconds="), "{line}");
    assert!(line.ends_with(" reason=finished identity=-"), "{line}");
    let mode = fs::metadata(&text).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & !0o640, 0, "{mode:o}");
    // A connection that is open at the end has its line as well.
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
    proxy.stop();
    upstream.stop();
    assert_eq!((lines(&json, 2).len(), lines(&text, 2).len()), (2, 2));
    assert!(lines(&json, 2)[1].contains("\"reason\":\"shut_down\""));
}

pub(crate) fn a_hangup_opens_the_access_log_again(binary: &str) {
    let folder = Folder::new(binary, "rotated");
    let (path, rotated) = (folder.path("access.log"), folder.path("access.log.1"));
    let server = Server::start(binary, &["--access-log", &path]);
    echo(&mut server.connect(), b"1");
    lines(&path, 1);
    fs::rename(&path, &rotated).unwrap();
    echo(&mut server.connect(), b"22");
    assert!(lines(&rotated, 2)[1].contains("received=2"), "no line is lost before the signal");
    server.signal(Signal::HUP);
    eventually("the file is opened", || server.logged("access log loaded again") == 1);
    echo(&mut server.connect(), b"333");
    assert!(lines(&path, 1)[0].contains("received=3"));
    // The folder is gone: the lines continue in the open file.
    let gone = folder.path("gone");
    fs::create_dir(&gone).unwrap();
    fs::remove_dir_all(&folder.0).unwrap();
    server.signal(Signal::HUP);
    let expected = format!("cannot open the access log {path}: No such file or directory");
    eventually("the error is logged", || server.logged(&expected) == 1);
    echo(&mut server.connect(), b"4444");
    server.stop();
}

pub(crate) fn an_access_log_that_cannot_be_written_blocks_nothing(binary: &str) {
    let flags = ["--access-log", "/dev/full", "--status", "127.0.0.1:0"];
    let server = Server::start(binary, &flags);
    for _ in 0..10 {
        echo(&mut server.connect(), b"hello");
    }
    let address = server.status.as_deref().unwrap();
    let dropped = "\nwirestate_access_log_dropped_lines_total 10\n";
    eventually("all are dropped", || status::get_at(address, "/metrics").1.contains(dropped));
    let log = server.stop();
    let named = "cannot write the access log /dev/full: No space left on device";
    assert_eq!(log.matches(named).count(), 1, "{log}");
}

pub(crate) fn an_access_log_that_cannot_be_opened_ends_the_start(binary: &str) {
    let folder = Folder::new(binary, "unusable");
    let path = folder.path("none/access.log");
    for server in ["echo-server", "proxy"] {
        let output = run(binary, &[server, "--listen", "127.0.0.1:0", "--access-log", &path]);
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        let expected = format!("cannot open the access log {path}: No such file or directory");
        assert!(error.contains(&expected) && error.lines().count() == 1, "{error}");
    }
    // A check of a configuration does not create the file.
    let (path, config) = (folder.path("access.log"), folder.path("config.toml"));
    let server = format!("[servers.a]\ncommand = \"proxy\"\naccess-log = \"{path}\"\n");
    fs::write(&config, server).unwrap();
    let output = run(binary, &["serve", "--config", &config, "--check-config"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!fs::exists(&path).unwrap());
}

pub(crate) fn an_access_log_on_standard_output_is_data(binary: &str) {
    let mut command = command(binary);
    command.args(["echo-server", "--listen", "127.0.0.1:0", "--access-log", "-"]);
    let file = Folder::new(binary, "output");
    command.stdout(fs::File::create(file.path("output")).unwrap());
    let server = Server::start_command(command);
    echo(&mut server.connect(), b"hello");
    let log = server.stop();
    let lines = lines(file.path("output"), 1);
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].contains(" reason=finished ") && !log.contains("reason=finished"),
        "{lines:?}"
    );
}
