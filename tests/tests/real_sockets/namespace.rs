//! Scenarios in a network namespace, with its own ports, names and resolver.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    process::{Server, command, eventually, path, text},
    unix::Folder,
};

/// A network namespace and a mount namespace, which end with their last process.
struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Creates both namespaces with a loopback device, and runs the shell script `setup` in them,
    /// with `folder` as `$1`. Returns `None` if the test lacks the rights.
    fn new(setup: &str, folder: &Path) -> Option<Self> {
        let script = format!("set -e; ip link set lo up; {setup}\necho ready; exec cat");
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        unshare.arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Ok(mut holder) = unshare.spawn() else {
            eprintln!("NOT TESTED: unshare is absent");
            return None;
        };
        let mut received = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut received).unwrap();
        if received == "ready\n" {
            return Some(Self { holder });
        }
        let output = holder.wait_with_output().unwrap();
        eprintln!("NOT TESTED: no namespaces: {}", text(&output.stderr).trim());
        None
    }

    /// A command that runs one of the binaries in the namespaces.
    fn command(&self, binary: &str, words: &[&str]) -> Command {
        let ours = command(binary);
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--mount", "--"]);
        command.arg(path(binary)).args(words);
        for (name, value) in ours.get_envs() {
            assert!(value.is_none(), "variables are only removed");
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, binary: &str, words: &[&str]) -> Server {
        Server::start_command(self.command(binary, words))
    }

    /// Runs a command to its end. Returns the exit code, standard output, and standard error.
    fn run(&self, binary: &str, words: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(binary, words).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn echoes(&self, binary: &str, address: &str) {
        let (code, reply, error) = self.run(binary, &["echo-client", address, "--message", "hi"]);
        assert_eq!((code, &*reply), (Some(0), "hi\n"), "{address}: {error}");
    }

    /// Whether a TCP socket is connected to itself, in any state (proc(5)).
    fn has_self_connection(&self) -> bool {
        let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", self.holder.id())).unwrap();
        sockets.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next() == words.next()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The kernel tries port 40002, which is dialled, as the first local port.
const ONE_PORT: &str = "sysctl -qw net.ipv4.ip_local_port_range='40002 40003'";

pub(crate) fn a_dial_that_reaches_itself_is_a_failed_attempt(binary: &str) {
    let folder = Folder::new("itself", binary);
    let Some(namespace) = Namespace::new(ONE_PORT, &folder.path("")) else { return };
    let upstream = "127.0.0.1:40002";
    let expected = format!("nobody listens on {upstream}: the connection has reached itself");
    let words = ["echo-client", upstream, "--message", "hi", "--retry-for", "0s"];
    let (code, reply, error) = namespace.run(binary, &words);
    assert_eq!((code, &*reply), (Some(1), ""), "{error}");
    assert!(error.contains(&format!("cannot connect to {upstream}: {expected}")), "{error}");

    // The client's connection is closed, and its bytes are not sent back.
    let words = ["proxy", "--listen", "127.0.0.1:9500", "--upstream", upstream];
    let proxy = namespace.start(binary, &words);
    let words = ["echo-client", "127.0.0.1:9500", "--message", "hi"];
    let (code, reply, error) = namespace.run(binary, &words);
    assert_eq!((code, &*reply), (Some(1), ""), "{error}");
    let log = proxy.stop();
    assert!(log.contains(&expected) && log.contains("connects=0"), "{log}");

    // The port stays free for the source, which the server reaches once it listens.
    let words = ["fanout-server", "--listen", "127.0.0.1:1235", "--upstream", upstream];
    let server = namespace.start(binary, &words);
    eventually("it has dialled itself", || server.logged(&expected) > 0);
    eventually("no socket holds the port", || !namespace.has_self_connection());
    let source = namespace.start(binary, &["fanout-source", "--listen", upstream]);
    let words = ["fanout-client", "127.0.0.1:1235", "--count", "3"];
    let (code, messages, error) = namespace.run(binary, &words);
    assert_eq!((code, messages.len()), (Some(0), 3 * 1024), "{error}");
    drop(source);
    drop(server);
}

/// `localhost` has an address of both families, as on most machines.
const BOTH_FAMILIES: &str = r#"
printf '127.0.0.1 localhost\n::1 localhost\n' > "$1/hosts"
mount --bind "$1/hosts" /etc/hosts
"#;

fn ports(addresses: &[&str]) -> Vec<u16> {
    let port = |address: &&str| address.rsplit_once(':').unwrap().1.parse().unwrap();
    addresses.iter().map(port).collect()
}

pub(crate) fn a_server_listens_on_all_addresses_of_a_name(binary: &str) {
    let folder = Folder::new("families", binary);
    let Some(namespace) = Namespace::new(BOTH_FAMILIES, &folder.path("")) else { return };
    let words = ["echo-server", "--listen", "localhost:0", "--status", "localhost:0"];
    let server = namespace.start(binary, &words);
    eventually("both addresses are logged", || server.logged("listening on") == 2);
    let log = server.stop();
    let logged = |prefix| log.lines().filter_map(|line| Some(line.split_once(prefix)?.1)).collect();
    for addresses in [logged("listening on "), logged("status on http://")] {
        let addresses: Vec<&str> = addresses;
        assert_eq!(addresses.len(), 2, "{log}");
        assert!(addresses.iter().any(|address| address.starts_with("127.0.0.1:")), "{log}");
        assert!(addresses.iter().any(|address| address.starts_with("[::1]:")), "{log}");
        let ports = ports(&addresses);
        assert!(ports[0] == ports[1] && ports[0] != 0, "{log}");
    }

    let name = ["echo-server", "--listen", "localhost:7000", "--log-format", "json"];
    let server = namespace.start(binary, &name);
    namespace.echoes(binary, "127.0.0.1:7000");
    namespace.echoes(binary, "[::1]:7000");
    eventually("both addresses are fields", || {
        server.logged(r#""address":"127.0.0.1:7000""#) + server.logged(r#""address":"[::1]:7000""#)
            == 2
    });
    drop(server);

    let other = namespace.start(binary, &["echo-server", "--listen", "127.0.0.1:7000"]);
    let (code, _, error) = namespace.run(binary, &name);
    assert_eq!(code, Some(1));
    let expected = "cannot listen on localhost:7000: 127.0.0.1:7000: Address already in use";
    assert!(error.contains(expected), "{error}");
    drop(other);

    // Every server, without IPv6.
    let no_ipv6 = format!("{BOTH_FAMILIES}\nsysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let namespace = Namespace::new(&no_ipv6, &folder.path("")).unwrap();
    for name in ["echo-server", "app-server", "fanout-source", "fanout-server", "proxy"] {
        let server = namespace.start(binary, &[name, "--listen", "localhost:0"]);
        assert!(server.address.starts_with("127.0.0.1:"), "{}", server.address);
        let log = server.stop();
        assert_eq!(log.matches("listening on").count(), 1, "{log}");
    }
}

/// The resolver never answers: packets to it are lost, and the C library waits for 30 s.
const SILENT_RESOLVER: &str = r#"
ip link add silent type veth peer name other
ip address add 10.99.99.1/24 dev silent
ip link set silent up
ip link set other up
ip neighbour add 10.99.99.53 lladdr 02:00:00:00:00:53 dev silent nud permanent
printf 'nameserver 10.99.99.53\noptions timeout:30 attempts:1\n' > "$1/resolv.conf"
mount --bind "$1/resolv.conf" /etc/resolv.conf
"#;

/// Well below the wait of the C library, and enough on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(20);

pub(crate) fn a_resolver_that_does_not_answer_delays_only_its_dial(binary: &str) {
    let folder = Folder::new("resolver", binary);
    let setup = format!("{BOTH_FAMILIES}{SILENT_RESOLVER}");
    let Some(namespace) = Namespace::new(&setup, &folder.path("")) else { return };
    let began = Instant::now();
    let echo = namespace.start(binary, &["echo-server", "--listen", "127.0.0.1:0"]);
    // The proxy dials the name first, and the other upstream after half of the connect timeout.
    let words = ["proxy", "--listen", "127.0.0.1:9500", "--connect-timeout", "200ms"];
    let upstreams = ["--upstream", "silent.test:7", "--upstream", &echo.address];
    let proxy = namespace.start(binary, &[&words[..], &upstreams].concat());
    namespace.echoes(binary, "127.0.0.1:9500");
    let words = ["fanout-server", "--listen", "127.0.0.1:0", "--upstream", "silent.test:7"];
    let fanout = namespace.start(binary, &words);
    drop(fanout.stop());
    drop(proxy.stop());

    // The server does not listen yet, but ends on SIGTERM.
    let mut waiting = namespace.command(binary, &["echo-server", "--listen", "silent.test:0"]);
    let mut waiting = waiting.spawn().unwrap();
    eventually("signals are handled", || handles_sigterm(waiting.id()));
    let pid = rustix::process::Pid::from_child(&waiting);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let status = waiting.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}

/// Whether the process handles SIGTERM (`SigCgt` in proc(5), a mask with signal 1 in its lowest
/// bit).
fn handles_sigterm(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    mask >> (Signal::TERM.as_raw() - 1) & 1 == 1
}

pub(crate) fn a_server_whose_upstream_name_is_its_own_exits(binary: &str) {
    let folder = Folder::new("by-name", binary);
    let Some(namespace) = Namespace::new(BOTH_FAMILIES, &folder.path("")) else { return };
    for (name, listen, upstream) in [
        ("fanout-server", "0.0.0.0:9", "localhost:9"),
        ("proxy", "localhost:9", "localhost:9"),
        ("proxy", "localhost:9", "[::1]:9"),
    ] {
        let words = [name, "--listen", listen, "--upstream", upstream];
        let server = namespace.start(binary, &words);
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(1), "{name} from {listen} to {upstream}");
        let expected = format!("--upstream {upstream} is this server itself");
        assert!(log.contains(&expected), "{log}");
    }
}

/// A name with two addresses, in a file that the test changes.
const NAMES: &str = r#"
printf '127.0.0.1 localhost\n127.0.0.2 cluster\n127.0.0.3 cluster\n' > "$1/hosts"
mount --bind "$1/hosts" /etc/hosts
"#;

pub(crate) fn the_addresses_of_an_upstreams_name_are_balanced_and_looked_up_again(binary: &str) {
    let folder = Folder::new("names", binary);
    let Some(namespace) = Namespace::new(NAMES, &folder.path("")) else { return };
    let words = ["proxy", "--listen", "127.0.0.1:9500", "--upstream", "cluster:9", "-v"];
    let flags = ["--resolve-interval", "100ms", "--status", "127.0.0.1:9501"];
    let proxy = namespace.start(binary, &[&words[..], &flags].concat());
    let servers = ["127.0.0.2:9", "127.0.0.3:9", "127.0.0.4:9"];
    let _servers = servers.map(|listen| {
        let words = ["echo-server", "--listen", listen];
        namespace.start(binary, &words)
    });
    let echo = || namespace.echoes(binary, "127.0.0.1:9500");
    let closed = |address: &str| {
        let log = proxy.log();
        let fields =
            format!("upstream=\"cluster:9\" upstream_address=\"{address}\" connect_seconds=");
        log.lines().filter(|line| line.contains("closed: ") && line.contains(&fields)).count()
    };
    (0..4).for_each(|_| echo());
    eventually("both addresses are used", || servers.map(closed) == [2, 2, 0]);

    fs::write(folder.path("hosts"), "127.0.0.1 localhost\n127.0.0.4 cluster\n").unwrap();
    eventually("the new address is used", || {
        echo();
        closed(servers[2]) > 0
    });
    let changed = "the name has other addresses upstream=cluster:9 addresses=\"127.0.0.4:9\"";
    eventually("the change is logged", || proxy.logged(changed) == 1);

    fs::write(folder.path("hosts"), "127.0.0.1 localhost\n").unwrap();
    let kept = "the name cannot be looked up, its last addresses stay in use: ";
    eventually("the failure is logged", || {
        echo();
        proxy.logged(kept) == 1
    });
    echo();
    let log = proxy.stop();
    assert!(!log.contains("no upstream reachable"), "{log}");
}
