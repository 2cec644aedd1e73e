//! Scenarios of the service manager, manual pages and completions.

use std::{
    ffi::OsStr,
    io::Write,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::{Command, Stdio},
};

use rustix::process::Signal;

use crate::{
    echo::exchange,
    process::{Server, TEST_TIMEOUT, command, eventually, path, run, text},
    third_party::program,
    unix::Folder,
};

/// Passes a listening TCP socket called `main` and a Unix socket called `status`, as systemd does,
/// and executes the program.
const LAUNCHER: &str = r"
import os, socket, sys
main = socket.create_server(('127.0.0.1', 0))
status = socket.socket(socket.AF_UNIX)
status.bind(sys.argv[1])
status.listen()
# Duplicated twice, because they may have the numbers 3 and 4 themselves.
main, status = os.dup2(main.fileno(), 60), os.dup2(status.fileno(), 61)
os.dup2(main, 3, inheritable=True)
os.dup2(status, 4, inheritable=True)
os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='main:status')
os.execv(sys.argv[2], sys.argv[2:])
";

pub(crate) fn inherited_sockets_are_served(binary: &str) {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("NOT TESTED: python3 is absent");
        assert!(std::env::var_os("CI").is_none(), "CI installs python3");
        return;
    }
    let calls: [&[&str]; 2] = [
        &["--listen", "systemd", "--status", "systemd"],
        &["--status", "systemd:status", "--listen", "systemd:main"],
    ];
    for (number, flags) in calls.iter().enumerate() {
        let folder = Folder::new(&format!("passed-{number}"), binary);
        let socket = folder.path("status");
        let mut command = Command::new("python3");
        command.args(["-c", LAUNCHER]).arg(&socket).arg(path(binary)).arg("echo-server");
        command.args(*flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let server = Server::start_command(command);
        assert_eq!(server.status, Some(folder.address("status")));
        exchange(&mut server.connect(), b"passed");
        let words = ["-sS", "--unix-socket", socket.to_str().unwrap(), "http://localhost/readyz"];
        if let Some(output) = program("curl", &words, b"") {
            assert_eq!(text(&output.stdout), "ready\n", "{}", text(&output.stderr));
        }
        server.stop();
        assert!(socket.exists(), "only the process that made the file removes it");
    }
}

/// Passes a socket for each kind in its first argument, all called `web`, and executes the program.
const PASS: &str = r"
import os, socket, sys
def make(kind):
    if kind == 'fifo':
        return os.pipe()[0]
    if kind in ('dgram', 'seqpacket', 'abstract', 'connected'):
        of = {'dgram': socket.SOCK_DGRAM, 'seqpacket': socket.SOCK_SEQPACKET}
        made = socket.socket(socket.AF_UNIX, of.get(kind, socket.SOCK_STREAM))
        if kind != 'connected':
            made.bind('\0wirestate/%d/%s' % (os.getpid(), kind))
        if kind in ('seqpacket', 'abstract'):
            made.listen()
    elif kind == 'udp':
        made = socket.socket(type=socket.SOCK_DGRAM)
    else:
        family = socket.AF_INET6 if ':' in kind else socket.AF_INET
        made = socket.create_server((kind, 0), family=family)
    return made.detach()
kinds, words = sys.argv[1].split(','), sys.argv[2:]
# Duplicated twice, because they may have the numbers from 3 on themselves.
made = [os.dup2(make(kind), 60 + i) for i, kind in enumerate(kinds)]
for i, fd in enumerate(made):
    os.dup2(fd, 3 + i, inheritable=True)
names = ':'.join('web' for _ in kinds)
os.environ.update(LISTEN_FDS=str(len(kinds)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execv(words[0], words)
";

/// The command of a server that inherits sockets of these kinds, or `None` without Python.
fn passed(binary: &str, kinds: &str, listen: &str) -> Option<Command> {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("NOT TESTED: python3 is absent");
        assert!(std::env::var_os("CI").is_none(), "CI installs python3");
        return None;
    }
    let mut command = Command::new("python3");
    command.args(["-c", PASS, kinds]).arg(path(binary)).args(["echo-server", "--listen", listen]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Some(command)
}

pub(crate) fn an_error_names_the_socket_that_does_not_listen(binary: &str) {
    for (kind, expected) in [
        ("dgram", "is a datagram socket"),
        ("udp", "is a datagram socket"),
        ("seqpacket", "is a seqpacket socket"),
        ("connected", "is a stream socket that does not listen"),
        ("fifo", "is not a TCP or Unix socket"),
    ] {
        let Some(mut server) = passed(binary, kind, "systemd") else { return };
        let output = server.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{kind}");
        let error = text(&output.stderr);
        assert!(error.contains("cannot listen on systemd: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let Some(server) = passed(binary, "abstract", "systemd") else { return };
    let server = Server::start_command(server);
    let name = server
        .address
        .strip_prefix("unix:@wirestate/")
        .expect("systemd's notation of an abstract name");
    assert!(name.ends_with("/abstract"), "{name}");
    // A client can connect to this address.
    let output = run(binary, &["echo-client", &server.address, "--message", "hi"]);
    assert_eq!(text(&output.stdout), "hi\n", "{}", text(&output.stderr));
    server.stop();
}

pub(crate) fn all_inherited_sockets_of_one_name_are_served(binary: &str) {
    let Some(server) = passed(binary, "127.0.0.1,::1,abstract", "systemd:web") else { return };
    let server = Server::start_command(server);
    eventually("each address is logged", || server.logged("listening on") == 3);
    let log = server.log();
    let addresses = log.lines().filter_map(|line| Some(line.split_once("listening on ")?.1));
    for address in addresses {
        let output = run(binary, &["echo-client", address, "--message", "hi"]);
        assert_eq!(text(&output.stdout), "hi\n", "{address}: {}", text(&output.stderr));
    }
    server.stop();
}

pub(crate) fn an_error_names_the_socket_that_was_not_inherited(binary: &str) {
    for (address, expected) in [
        ("systemd", "cannot listen on systemd: no socket was passed"),
        ("systemd:web", "cannot listen on systemd:web: no socket called `web` was passed"),
    ] {
        let output = run(binary, &["echo-server", "--listen", address]);
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{error}");
    }
}

/// systemd passes abstract socket names to services in a container.
pub(crate) fn a_service_manager_on_an_abstract_socket_is_notified(binary: &str) {
    let name = format!("wirestate-{}-{binary}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    assert_notified(
        binary,
        &UnixDatagram::bind_addr(&address).unwrap(),
        format!("@{name}").as_ref(),
    );
}

pub(crate) fn the_service_manager_is_notified(binary: &str) {
    let folder = Folder::new("notify", binary);
    let path = folder.path("notify");
    assert_notified(binary, &UnixDatagram::bind(&path).unwrap(), path.as_os_str());
}

fn assert_notified(binary: &str, manager: &UnixDatagram, address: &OsStr) {
    manager.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let notification = || {
        let mut message = [0; 1024];
        let n = manager.recv(&mut message).expect("the manager is notified in time");
        text(&message[..n]).trim().to_owned()
    };
    let mut server = command(binary);
    server.args(["echo-server", "--listen", "127.0.0.1:0"]);
    server.env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", "100000");
    let server = Server::start_command(server);
    assert_eq!(notification(), "READY=1");
    for _ in 0..3 {
        assert_eq!(notification(), "WATCHDOG=1");
    }
    let (mut stalled, _) = crate::echo::stall(&server);
    server.signal(Signal::TERM);
    // Further notifications of the watchdog may come first.
    let stopping = (0..100).map(|_| notification()).find(|message| message != "WATCHDOG=1");
    assert_eq!(stopping.as_deref(), Some("STOPPING=1"));
    assert_eq!(notification(), "WATCHDOG=1", "the watchdog is notified during the drain");
    std::io::copy(&mut stalled, &mut std::io::sink()).unwrap();
    drop(stalled);
    server.wait();
}

pub(crate) fn a_service_manager_that_does_not_read_delays_nothing(binary: &str) {
    let folder = Folder::new("unread", binary);
    let path = folder.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let fill = || {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sender.send_to(b"x", &path)
    };
    while fill().is_ok() {}
    for socket in [path.clone(), folder.path("nowhere")] {
        let mut server = command(binary);
        server.args(["echo-server", "--listen", "127.0.0.1:0"]);
        server.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "20000");
        let server = Server::start_command(server);
        exchange(&mut server.connect(), b"served");
        eventually("a notification of the watchdog has failed", || server.logged("WATCHDOG=1") > 0);
        exchange(&mut server.connect(), b"served");
        let log = server.stop();
        for notification in ["READY=1", "WATCHDOG=1"] {
            let expected = format!("cannot notify the service manager: {notification}");
            assert_eq!(log.matches(&expected).count(), 1, "{expected}: {log}");
        }
        assert!(log.contains(&format!("socket={}", socket.display())), "{log}");
    }
    drop(manager);
}

pub(crate) fn completions_and_manual_pages_are_written(binary: &str) {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(binary, &["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        let script = text(&output.stdout);
        assert!(script.contains("fanout-server") && script.contains("status"), "{shell}");
        if shell == "bash" {
            let checked = program("bash", &["-n"], script.as_bytes()).unwrap();
            assert!(checked.status.success(), "{}", text(&checked.stderr));
        }
    }
    for (words, title) in [
        (&["man"][..], format!("\n.TH {binary} 1 ")),
        (&["man", "fanout-server"], format!("\n.TH {binary}-fanout-server 1 ")),
    ] {
        let output = run(binary, words);
        assert_eq!(output.status.code(), Some(0));
        let page = text(&output.stdout);
        assert!(page.contains(&title), "{page}");
        let sections = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"EXIT STATUS\"", "SIGNALS"];
        for section in sections {
            assert!(page.contains(&format!(".SH {section}")), "{section} in {page}");
        }
        // It renders without warnings, if man is installed.
        if Command::new("man").arg("--version").output().is_ok_and(|man| man.status.success()) {
            let mut man = Command::new("man");
            man.args(["--warnings", "-l", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut man = man.stderr(Stdio::piped()).spawn().unwrap();
            man.stdin.take().unwrap().write_all(&output.stdout).unwrap();
            let rendered = man.wait_with_output().unwrap();
            assert!(rendered.status.success() && rendered.stderr.is_empty(), "{rendered:?}");
            assert!(!rendered.stdout.is_empty());
        }
    }
    let output = run(binary, &["man", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
}
