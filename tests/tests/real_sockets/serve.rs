//! `serve`: several servers in one process, and their configuration, which is loaded again.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixStream},
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    logging::with_hangup,
    process::{Server, TEST_TIMEOUT, eventually, is_listening, path, run, text, word_after},
    status,
    unix::Folder,
};

/// A process that runs `serve`, and its configuration file.
pub(crate) struct Process {
    pub(crate) server: Server,
    file: PathBuf,
    pub(crate) folder: Folder,
}

impl Process {
    /// Starts it, and waits until `servers` servers listen.
    pub(crate) fn start(name: &str, binary: &str, configuration: &str, servers: usize) -> Self {
        let folder = Folder::new(name, binary);
        let file = folder.path("servers.toml");
        fs::write(&file, configuration).unwrap();
        let words = ["serve", "--config", file.to_str().unwrap()];
        let server = Server::start_command(with_hangup("default", binary, &words));
        eventually("all servers listen", || server.logged("listening on ") == servers);
        Self { server, file, folder }
    }

    /// The address of the server `name`, where it listens now.
    fn address(&self, name: &str) -> String {
        let (log, name) = (self.server.log(), format!(" server=\"{name}\""));
        let line = log.lines().rfind(|line| line.contains("listening on ") && line.contains(&name));
        word_after("listening on ", line.expect("the server listens")).unwrap()
    }

    fn connect(&self, name: &str) -> TcpStream {
        connect(&self.address(name))
    }

    /// Loads the configuration again, and returns the lines that the log gets up to `expected`.
    pub(crate) fn load(&self, configuration: &str, expected: &str) -> String {
        fs::write(&self.file, configuration).unwrap();
        let before = self.server.log().len();
        self.server.signal(Signal::HUP);
        eventually(expected, || self.server.log()[before..].contains(expected));
        self.server.log()[before..].to_owned()
    }
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server is listening");
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream
}

pub(crate) fn converse(stream: &mut TcpStream, sent: &str, received: &str) {
    stream.write_all(sent.as_bytes()).unwrap();
    let mut reply = vec![0; received.len()];
    stream.read_exact(&mut reply).expect("the connection is open");
    assert_eq!(text(&reply), received);
}

/// A table of an echo server that puts `prefix` in front of what it sends back.
fn echo(name: &str, listen: &str, prefix: &str) -> String {
    format!(
        "[servers.{name}]\ncommand = \"echo-server\"\nlisten = \"{listen}\"\n\
         prefix = \"{prefix}\"\n"
    )
}

pub(crate) const LOADED: &str = "configuration loaded again";
const KEPT: &str = "; the configuration in use stays";

pub(crate) fn a_reload_changes_servers_and_keeps_their_connections(binary: &str) {
    let free = "127.0.0.1:0";
    let status = format!("status = \"{free}\"\n");
    let start = [status.clone(), echo("moves", free, "1"), echo("goes", free, "2")].concat();
    let process = Process::start("reload", binary, &start, 2);
    let mut open = [process.connect("moves"), process.connect("goes")];
    converse(&mut open[0], "a", "1a");
    converse(&mut open[1], "a", "2a");
    let old_address = process.address("moves");

    let moved = process.folder.address("moved");
    let next = [status, echo("moves", &moved, "3"), echo("comes", free, "4")].concat();
    let log = process.load(&next, "\"comes\"\n");
    assert!(log.contains(&format!("{LOADED} changed=\"comes, moves\" removed=\"goes\"")), "{log}");
    converse(&mut open[0], "b", "1b");
    converse(&mut open[1], "b", "2b");
    converse(&mut process.connect("comes"), "b", "4b");
    eventually("the old address is closed", || !is_listening(&old_address));
    let mut unix = UnixStream::connect(process.folder.path("moved")).unwrap();
    unix.write_all(b"b").unwrap();
    let mut reply = [0; 2];
    unix.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"3b");

    let metrics = status::get(&process.server, "/metrics").1;
    for (name, open) in [("comes", 0), ("goes", 1), ("moves", 2)] {
        let sample = format!("\nwirestate_connections_open{{server=\"{name}\"}} {open}\n");
        eventually(&sample, || status::get(&process.server, "/metrics").1.contains(&sample));
    }
    assert_eq!(metrics.matches("# TYPE wirestate_connections_open ").count(), 1);
    assert_eq!(status::get(&process.server, "/readyz").0, 200, "a server was removed on purpose");

    let [stays, leaves] = open;
    drop(leaves);
    let gone = "stopped server=\"goes\" connections=1 ";
    eventually("the removed server has ended", || process.server.logged(gone) == 1);
    assert!(!status::get(&process.server, "/metrics").1.contains("goes"));
    drop((stays, unix));
    let log = process.server.stop();
    assert!(log.contains("stopped server=\"moves\" connections=2 "), "{log}");
    assert!(log.contains("stopped server=\"comes\" connections=1 "), "{log}");
}

pub(crate) fn a_server_that_is_removed_and_added_again_has_its_connections(binary: &str) {
    let free = "127.0.0.1:0";
    let (stays, comes_and_goes) = (echo("stays", free, ""), echo("a", free, "1"));
    let both = [stays.clone(), comes_and_goes].concat();
    let process = Process::start("again", binary, &both, 2);
    let mut open = process.connect("a");
    converse(&mut open, "x", "1x");
    for round in 0..3 {
        let old_address = process.address("a");
        process.load(&stays, "removed=\"a\"");
        // In the first round, it is added again while it accepts the backlog.
        if round > 0 {
            eventually("the old address is closed", || !is_listening(&old_address));
        }
        process.load(&both, "listening on ");
        let mut ends = process.connect("a");
        converse(&mut ends, "x", "1x");
        ends.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ends.read(&mut [0]).unwrap(), 0, "a FIN");
        converse(&mut open, "x", "1x");
    }
    process.server.signal(Signal::TERM);
    // Besides the open connection, the last other one may still be counted.
    let draining = [1, 2].map(|n| format!("draining connections={n} server=\"a\""));
    let logged = || draining.iter().map(|line| process.server.logged(line)).sum::<usize>();
    eventually("it drains", || logged() > 0);
    drop(open);
    assert_eq!(logged(), 1);
    let (status, log) = process.server.wait();
    assert!(status.success(), "{log}");
    assert_eq!(log.matches("stopped server=\"a\" connections=4 ").count(), 1, "{log}");
}

pub(crate) fn no_connection_fails_while_configurations_are_loaded(binary: &str) {
    let configuration = |prefix: &str| echo("busy", "127.0.0.1:0", prefix);
    let process = Process::start("load", binary, &configuration("0"), 1);
    let (address, is_over) = (process.address("busy"), AtomicBool::new(false));
    let conversations = || {
        let mut count = 0;
        while !is_over.load(Relaxed) {
            let mut stream = connect(&address);
            stream.write_all(b"x").unwrap();
            let mut reply = [0; 2];
            stream.read_exact(&mut reply).expect("the connection is served");
            assert!(reply[0].is_ascii_digit() && reply[1] == b'x');
            count += 1;
        }
        count
    };
    thread::scope(|scope| {
        let clients = [(); 2].map(|()| scope.spawn(conversations));
        for round in 1..=9 {
            process.load(&configuration(&round.to_string()), LOADED);
            converse(&mut connect(&address), "y", &format!("{round}y"));
        }
        is_over.store(true, Relaxed);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    process.server.stop();
}

pub(crate) fn a_faulty_configuration_changes_nothing(binary: &str) {
    let good = echo("a", "127.0.0.1:0", "1");
    let process = Process::start("faulty", binary, &good, 1);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let changed = good.replace("\"1\"", "\"2\"");
    let file = process.file.display().to_string();
    for (faulty, expected) in [
        ("[servers.a", format!("{file}:1:11: ")),
        ("", format!("{file}:1:1: there is no server")),
        (
            &*format!("{changed}idle-timeout = \"soon\"\n"),
            format!("{file}:5:16: invalid value 'soon' for 'idle-timeout': expected a time"),
        ),
        (
            &*format!("{changed}[servers.b]\ncommand = \"app-server\"\ntable = \"/nowhere/t\"\n"),
            "cannot read the table /nowhere/t: ".into(),
        ),
        (
            &*[changed.clone(), echo("b", &taken, "3")].concat(),
            format!("cannot listen on {taken}: Address"),
        ),
    ] {
        let log = process.load(faulty, KEPT);
        assert!(log.contains(&expected), "{expected:?} in {log}");
        converse(&mut process.connect("a"), "x", "1x");
    }
    fs::remove_file(&process.file).unwrap();
    process.server.signal(Signal::HUP);
    let missing = format!("cannot read {file}: No such file");
    eventually("the missing file is named", || process.server.logged(&missing) == 1);
    process.load(&changed, LOADED);
    converse(&mut process.connect("a"), "x", "2x");
    process.server.stop();
}

pub(crate) fn a_configuration_is_checked_without_serving(binary: &str) {
    let folder = Folder::new("check", binary);
    let file = folder.path("servers.toml");
    let check = |configuration: &str| {
        fs::write(&file, configuration).unwrap();
        let output = run(binary, &["serve", "--config", file.to_str().unwrap(), "--check-config"]);
        (output.status.code(), text(&output.stderr))
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let good = echo("a", &taken.local_addr().unwrap().to_string(), "1");
    let valid = "the configuration is valid; servers: 1\n";
    assert_eq!(check(&good), (Some(0), valid.into()), "a check does not listen");
    let (code, error) = check(&good.replace("listen", "listn"));
    let expected =
        format!("{binary}: {}:3:1: unknown key `listn`; there is `listen`\n", file.display());
    assert_eq!((code, error), (Some(2), expected));
    let (code, error) = check(&good.replace("prefix = \"1\"", "tls-cert = \"/nowhere\""));
    assert!(code == Some(1) && error.contains("cannot use /nowhere: "), "{code:?}: {error}");
    let output = run(binary, &["serve", "--config", "/nowhere/servers.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot read /nowhere/servers.toml: No such file"));
}

pub(crate) fn a_replaced_fan_out_serves_its_subscribers_until_they_leave(binary: &str) {
    let source = TcpListener::bind("127.0.0.1:0").unwrap();
    let configuration = |replay| {
        format!(
            "[servers.news]\ncommand = \"fanout-server\"\nlisten = \"127.0.0.1:0\"\n\
             upstream = \"{}\"\nframe = \"lines\"\nreplay = {replay}\n",
            source.local_addr().unwrap()
        )
    };
    let process = Process::start("fan-out", binary, &configuration(0), 1);
    let mut first = source.accept().unwrap().0;
    let mut old = process.connect("news");
    first.write_all(b"1\n").unwrap();
    let mut line = [0; 2];
    // The subscriber may have come after the message.
    old.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while old.read_exact(&mut line).is_err() {
        first.write_all(b"1\n").unwrap();
    }
    old.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();

    process.load(&configuration(1), LOADED);
    let mut second = source.accept().unwrap().0;
    second.write_all(b"2\n").unwrap();
    let mut new = process.connect("news");
    converse(&mut new, "", "2\n");
    first.write_all(b"3\n").unwrap();
    while &line != b"3\n" {
        old.read_exact(&mut line).expect("the subscriber stays");
    }
    drop(old);
    first.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    assert_eq!(
        first.read(&mut line).unwrap(),
        0,
        "the upstream of a feed without subscribers ends"
    );
    second.write_all(b"4\n").unwrap();
    converse(&mut new, "", "4\n");

    // On another address, and then removed: the subscriber stays.
    let moved = process.folder.address("news");
    process.load(&configuration(1).replace("127.0.0.1:0", &moved), &moved);
    let mut third = source.accept().unwrap().0;
    process.load(&echo("other", "127.0.0.1:0", ""), LOADED);
    third.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    assert_eq!(third.read(&mut line).unwrap(), 0, "a removed server keeps its upstream");
    second.write_all(b"5\n").unwrap();
    converse(&mut new, "", "5\n");
    drop(new);
    second.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    assert_eq!(second.read(&mut line).unwrap(), 0, "a moved server keeps its upstream");
    process.server.stop();
}

/// A configuration that cannot be read yet delays nothing else.
pub(crate) fn a_reload_that_waits_delays_nobody(binary: &str) {
    let process = Process::start("waits", binary, &echo("a", "127.0.0.1:0", "1"), 1);
    fs::remove_file(&process.file).unwrap();
    let made = Command::new("mkfifo").arg(&process.file).status().unwrap();
    assert!(made.success());
    for _ in 0..10 {
        process.server.signal(Signal::HUP);
        converse(&mut process.connect("a"), "x", "1x");
    }
    fs::write(&process.file, echo("a", "127.0.0.1:0", "2")).unwrap();
    eventually("the reload ends", || process.server.logged(LOADED) == 1);
    converse(&mut process.connect("a"), "x", "2x");
    // The signals that came meanwhile are one reload, which waits for the next writer.
    let log = process.server.stop();
    assert_eq!(log.matches(LOADED).count(), 1, "{log}");
}

/// Passes standard input as the socket `two`, and executes the program, which keeps the number of
/// this process.
const LAUNCHER: &str = r#"
exec 3<&0 </dev/null
export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=two
exec env --default-signal=HUP "$@"
"#;

pub(crate) fn a_refused_reload_returns_the_sockets_that_it_took(binary: &str) {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = passed.local_addr().unwrap().to_string();
    let folder = Folder::new("passed", binary);
    let file = folder.path("servers.toml");
    let (first, second) = (echo("a", "127.0.0.1:0", "1"), echo("b", "systemd:two", "2"));
    fs::write(&file, &first).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", LAUNCHER, "sh"]).arg(path(binary)).args(["serve", "--config"]).arg(&file);
    command.stdin(OwnedFd::from(passed)).stdout(Stdio::null()).stderr(Stdio::piped());
    let server = Server::start_command(command);
    let load = |configuration: &str, expected: &str, count| {
        fs::write(&file, configuration).unwrap();
        server.signal(Signal::HUP);
        eventually(expected, || server.logged(expected) == count);
    };
    let taken = echo("c", &server.address, "3");
    load(&[&*first, &*second, &*taken].concat(), KEPT, 1);
    for round in 1..=2 {
        load(&[&*first, &*second].concat(), LOADED, 2 * round - 1);
        converse(&mut connect(&address), "x", "2x");
        load(&first, LOADED, 2 * round);
    }
    server.stop();
}

pub(crate) fn a_reload_refuses_a_server_that_is_its_own_upstream(binary: &str) {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let configuration = |upstream: &str| {
        format!(
            "[servers.x]\ncommand = \"proxy\"\nlisten = \"127.0.0.1:0\"\n\
             upstream = \"{upstream}\"\n"
        )
    };
    let good = configuration(&upstream.local_addr().unwrap().to_string());
    let process = Process::start("itself", binary, &good, 1);
    let mut client = process.connect("x");
    let mut relayed = upstream.accept().unwrap().0;
    let port = process.address("x").rsplit_once(':').unwrap().1.to_owned();
    let log = process.load(&configuration(&format!("localhost:{port}")), KEPT);
    assert!(log.contains("is this server itself"), "{log}");
    client.write_all(b"ab").unwrap();
    converse(&mut relayed, "c", "ab");
    converse(&mut client, "", "c");
    drop((client, relayed));
    process.server.stop();
}

pub(crate) fn reloads_leave_no_file_open_and_divide_the_open_files(binary: &str) {
    let source = TcpListener::bind("127.0.0.1:0").unwrap();
    let echo = |name| echo(name, "127.0.0.1:0", "");
    let configuration = |replay: usize, others: &str| {
        format!(
            "status = \"127.0.0.1:0\"\n[servers.news]\ncommand = \"fanout-server\"\n\
             listen = \"127.0.0.1:0\"\nupstream = \"{}\"\nreplay = {replay}\n{others}",
            source.local_addr().unwrap()
        )
    };
    let process = Process::start("files", binary, &configuration(0, &echo("a")), 2);
    let limit = || {
        let name = "wirestate_connections_limit{server=\"a\"} ";
        let metrics = status::get(&process.server, "/metrics").1;
        let limit = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
        limit.unwrap_or_else(|| panic!("no {name:?} in {metrics}"))
    };
    let (two, files): (u64, _) = (limit(), || process.server.open_files());
    let before = files();
    for replay in 1..=20 {
        process.load(&configuration(replay, &echo("a")), LOADED);
    }
    // Each replaced feed ends its upstream when it finds that it has no subscriber.
    eventually("no file is left open", || files() <= before + 1);

    let others = ["a", "b", "c", "d", "e", "f"].map(echo).concat();
    let top = "lame-duck = \"0s\"\n";
    let log = process.load(&[top, &configuration(20, &others)].concat(), "restart to apply them");
    assert!(log.contains("the keys at the top of the configuration have changed"), "{log}");
    eventually("the servers share the open files", || limit() <= two * 2 / 7 + 1 || two == 10_000);
    process.load(&configuration(20, &echo("a")), "removed=\"b, c, d, e, f\"");
    eventually("two servers share the open files again", || limit() == two);
    process.server.stop();
}

pub(crate) fn a_hangup_reads_the_table_again(binary: &str) {
    let folder = Folder::new("table", binary);
    let table = folder.path("table.json");
    fs::write(&table, r#"{"key": "old"}"#).unwrap();
    let words = ["app-server", "--listen", "127.0.0.1:0", "--table", table.to_str().unwrap()];
    let server = Server::start_command(with_hangup("default", binary, &words));
    let search = || text(&run(binary, &["app-client", &server.address, "search", "key"]).stdout);
    assert_eq!(search(), "old\n");
    fs::write(&table, "[]").unwrap();
    server.signal(Signal::HUP);
    eventually("the mistake is logged", || server.logged(KEPT) == 1);
    assert!(server.log().contains("expected a JSON object of strings: "), "{}", server.log());
    assert_eq!(search(), "old\n");
    fs::write(&table, r#"{"key": "new"}"#).unwrap();
    server.signal(Signal::HUP);
    eventually("the table is loaded", || server.logged("table loaded again") == 1);
    assert_eq!(search(), "new\n");
    server.stop();
}

pub(crate) fn the_service_manager_is_notified_of_a_reload(binary: &str) {
    let folder = Folder::new("reloading", binary);
    let manager = UnixDatagram::bind(folder.path("notify")).unwrap();
    manager.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let notification = || {
        let mut message = [0; 1024];
        let n = manager.recv(&mut message).expect("the manager is notified in time");
        text(&message[..n])
    };
    let words = ["echo-server", "--listen", "127.0.0.1:0"];
    let mut server = with_hangup("default", binary, &words);
    server.env("NOTIFY_SOCKET", folder.path("notify"));
    let server = Server::start_command(server);
    assert_eq!(notification(), "READY=1");
    server.signal(Signal::HUP);
    let reloading = notification();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
    assert!(time.trim_end().parse::<u64>().is_ok(), "{reloading}");
    assert_eq!(notification(), "READY=1");
    server.stop();
}

/// A proxy that balances by connections. The echo servers are upstreams.
pub(crate) fn a_reload_of_the_upstreams_keeps_connections_and_their_counts(binary: &str) {
    let echoes = [(); 3].map(|()| Server::start(binary, &[]));
    let [first, second, third] = echoes.each_ref().map(|echo| &*echo.address);
    let configuration = |upstreams: &[&str]| {
        format!(
            "status = \"127.0.0.1:0\"\n[servers.x]\ncommand = \"proxy\"\n\
             listen = \"127.0.0.1:0\"\nbalance = \"least-connections\"\n\
             check-interval = \"1s\"\nupstream = {upstreams:?}\n"
        )
    };
    let process = Process::start("upstreams", binary, &configuration(&[first, second]), 1);
    let open = |upstream: &str| {
        let name = format!(
            "wirestate_proxy_upstream_connections{{server=\"x\",upstream=\"{upstream}\"}} "
        );
        let metrics = status::get(&process.server, "/metrics").1;
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok())
    };
    let connect = || {
        let mut stream = process.connect("x");
        converse(&mut stream, "a", "a");
        stream
    };
    let mut kept: Vec<_> = (0..4).map(|_| connect()).collect();
    assert_eq!((open(first), open(second)), (Some(2), Some(2)));

    process.load(&configuration(&[first, third]), LOADED);
    assert_eq!((open(first), open(second), open(third)), (Some(2), None, Some(0)));
    kept.extend((0..2).map(|_| connect()));
    assert_eq!((open(first), open(third)), (Some(2), Some(2)), "the new one has the fewest");
    for stream in &mut kept {
        converse(stream, "b", "b");
    }

    process.load(&configuration(&[first]), LOADED);
    for stream in &mut kept {
        converse(stream, "c", "c");
    }
    assert_eq!(open(first), Some(2));
    drop(kept);
    eventually("the counts end with the connections", || open(first) == Some(0));
    let log = process.server.stop();
    assert!(log.contains("aborted=0"), "{log}");
}
