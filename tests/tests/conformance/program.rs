//! The programs that play scenes.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    process::{Server, eventually, is_listening},
    proxies::{HaProxy, Nginx, closed_port},
    simulated,
    sockets::Running,
};

/// A program under test.
pub(crate) struct Program {
    /// The name in the table of known differences.
    pub(crate) name: &'static str,
    pub(crate) plays: Plays,
}

pub(crate) enum Plays {
    /// Each scene has a simulated world of its own.
    Simulated(simulated::Start),
    OnSockets(Start),
}

/// Starts a program, with the address of its upstream. Returns `None` if it is not installed.
type Start = Box<dyn Fn(&str) -> Option<Running> + Send + Sync>;

impl Program {
    /// A program that `start` starts: see [`Start`].
    pub(crate) fn on_sockets(
        name: &'static str,
        start: impl Fn(&str) -> Option<Running> + Send + Sync + 'static,
    ) -> Self {
        Self { name, plays: Plays::OnSockets(Box::new(start)) }
    }

    pub(crate) fn simulated(start: simulated::Start) -> Self {
        Self { name: "simulator", plays: Plays::Simulated(start) }
    }
}

/// A server of the three binaries. `{}` in a flag stands for the address of its upstream.
pub(crate) fn binaries(server: &'static str, flags: &'static [&'static str]) -> Vec<Program> {
    let program = |binary| {
        Program::on_sockets(binary, move |upstream| {
            let flags: Vec<_> = flags.iter().map(|flag| flag.replace("{}", upstream)).collect();
            let flags: Vec<_> = flags.iter().map(String::as_str).collect();
            let server = Server::start_as(binary, server, &flags);
            Some(Running::at(server.address.clone(), server))
        })
    };
    ["wirestate-tokio", "wirestate-smol", "wirestate-std"].map(program).into()
}

/// nginx, with further `directives`.
pub(crate) fn nginx(name: &'static str, directives: &'static str) -> Program {
    Program::on_sockets(name, move |upstream| {
        let nginx = Nginx::in_front_of(upstream, directives)?;
        Some(Running::at(nginx.address.clone(), nginx))
    })
}

pub(crate) fn haproxy() -> Program {
    Program::on_sockets("HAProxy", |upstream| {
        // It would try again for three seconds.
        let haproxy = HaProxy::in_front_of(upstream, "\n retries 0")?;
        Some(Running::at(haproxy.address.clone(), haproxy))
    })
}

/// ncat, which runs a command for each connection. `{}` stands for host and port of the upstream.
pub(crate) fn ncat(command: &'static str) -> Program {
    Program::on_sockets("ncat", move |upstream| {
        let command = command.replace("{}", &upstream.replace(':', " "));
        Group::start("ncat", |host, port| {
            ["--listen", "--keep-open", host, port, "--sh-exec", &command].map(String::from).into()
        })
    })
}

/// socat, which relays each connection to `address`. `{}` stands for the upstream's address.
pub(crate) fn socat(address: &'static str) -> Program {
    Program::on_sockets("socat", move |upstream| {
        let address = address.replace("{}", upstream);
        Group::start("socat", |host, port| {
            vec![format!("TCP-LISTEN:{port},bind={host},reuseaddr,fork"), address]
        })
    })
}

/// A process and those that it has started, killed when it is dropped.
struct Group(Child);

impl Group {
    /// Starts a program that listens on an address. Prints a line and returns `None` if it is not
    /// installed.
    fn start(name: &str, words: impl FnOnce(&str, &str) -> Vec<String>) -> Option<Running> {
        let address = closed_port();
        let (host, port) = address.split_once(':').expect("it has a port");
        let mut command = Command::new(name);
        command.args(words(host, port)).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => {
                let group = Self(child);
                eventually("it listens", || is_listening(&address));
                Some(Running::at(address, group))
            }
            Err(error) => {
                eprintln!("NOT TESTED: {name}: {error}");
                assert!(std::env::var_os("CI").is_none(), "CI installs {name}");
                None
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}
