//! How a host is killed, and started again.

use std::sync::Arc;

use super::{
    Host, Side, TraceEvent, World,
    connection::EndId,
    network::{Network, State},
};

/// What a host runs when it is started.
pub(super) type Program = Arc<dyn Fn(&Host) + Send + Sync>;

/// A host that is killed loses its tasks, with all that they own.
///
/// ```
/// use std::time::Duration;
/// use wirestate_core::{echo, runtime::Runtime as _, serve};
/// use wirestate_testkit::sim::{Act, World, act};
///
/// let world = World::new(1);
/// let (server, client) = (world.host("server"), world.host("client"));
/// server.run_on_start(|server| {
///     let listener = server.listen("server:7").unwrap();
///     let serving = serve::Server::new(server.clone(), listener);
///     let echo = echo::Server::default();
///     server.run(serving.serve(move |_, now| echo.machine(now)));
/// });
///
/// let echoes = |message: &'static str| {
///     let runtime = client.clone();
///     client.run(async move {
///         let socket = runtime.connect("server:7").await.map_err(|error| error.kind())?;
///         Ok(act(runtime, socket, vec![Act::Send(message.into()), Act::Receive(5)]).await.bytes)
///     })
/// };
/// assert_eq!(world.run_until(&echoes("hello"))?, Ok(b"hello".to_vec()));
/// server.kill();
/// assert_eq!(world.run_until(&echoes("there"))?, Err(std::io::ErrorKind::ConnectionRefused));
/// server.restart();
/// assert_eq!(world.run_until(&echoes("again"))?, Ok(b"again".to_vec()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Host {
    /// Runs `program` now, and again each time that the host is restarted.
    ///
    /// The world keeps it: use its argument, since a program that owns a host keeps the world in
    /// memory until [`World::clear`].
    pub fn run_on_start(&self, program: impl Fn(&Self) + Send + Sync + 'static) {
        let program: Program = Arc::new(program);
        program(self);
        self.world.network(|network| network.hosts[self.index].programs.push(program));
    }

    /// Kills all processes of the host, as `kill -9` does. Its kernel goes on: it closes the
    /// sockets, with a FIN, or with an RST if unread bytes are left, and refuses connections.
    ///
    /// The tasks are dropped and never end: [`Task::take`](super::Task::take) returns `None`. It
    /// must not be called by one of them.
    pub fn kill(&self) {
        self.end(State::Killed);
    }

    /// Cuts the host's power. Its sockets are gone without a FIN or an RST, and segments to it are
    /// lost until it is restarted. Then its kernel answers segments of earlier connections with an
    /// RST, and after a minute their keepalive probes.
    ///
    /// The tasks are dropped, as with [`kill`](Self::kill).
    pub fn cut_power(&self) {
        self.end(State::Off);
    }

    /// Starts the host again, with the programs of [`run_on_start`](Self::run_on_start). A running
    /// host is killed before.
    pub fn restart(&self) {
        let (state, programs) = self.world.network(|network| {
            let host = &network.hosts[self.index];
            (host.state, host.programs.clone())
        });
        if state == State::Running {
            self.kill();
        }
        self.world.network(|network| {
            let fault =
                match std::mem::replace(&mut network.hosts[self.index].state, State::Running) {
                    State::Running | State::Killed => "killed",
                    State::Off => "power_cut",
                };
            network.trace_host(self.index, TraceEvent::Healed(fault, None));
            network.probe_all(self.index);
        });
        for program in programs {
            program(self);
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.world.network(|network| network.hosts[self.index].state != State::Running)
    }

    pub(super) fn has_program(&self) -> bool {
        self.world.network(|network| !network.hosts[self.index].programs.is_empty())
    }

    fn end(&self, state: State) {
        self.world.network(|network| network.kill(self.index, state));
        // The destructors' calls on sockets do nothing: a killed process runs none.
        self.world.executor().kill(self.index);
    }
}

impl World {
    /// Restarts all hosts that were killed.
    pub(super) fn restart_killed(&self) {
        let killed: Vec<usize> = self.network(|network| {
            let hosts = network.hosts.iter().enumerate();
            hosts.filter(|(_, host)| host.state != State::Running).map(|(index, _)| index).collect()
        });
        for index in killed {
            Host::new(self.clone(), index).restart();
        }
    }
}

impl Network {
    fn ends_of(&self, host: usize) -> Vec<EndId> {
        let ends = (0..self.connections.len()).flat_map(|connection| {
            [Side::Client, Side::Server].map(|side| EndId { connection, side })
        });
        let is_open = |id: &EndId| {
            let end = self.connections[id.connection].peek(id.side);
            end.host == host && !end.record.closed
        };
        ends.filter(is_open).collect()
    }

    fn kill(&mut self, host: usize, state: State) {
        self.hosts[host].state = state;
        let fault = if state == State::Off { "power_cut" } else { "killed" };
        self.trace_host(host, TraceEvent::Fault(fault, None));
        let listeners = self.listeners.extract_if(.., |_, backlog| backlog.host == host);
        let waiting: Vec<usize> = listeners.flat_map(|(_, backlog)| backlog.waiting).collect();
        for id in self.ends_of(host) {
            self.trace_fault(id, fault, None);
            if state == State::Off {
                self.vanish(id);
            } else if id.side == Side::Server && waiting.contains(&id.connection) {
                self.reset(id);
            } else {
                self.close(id);
            }
            self.end(id).record.killed = true;
        }
        self.resume(host);
    }
}
