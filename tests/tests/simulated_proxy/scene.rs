//! Clients, a proxy, and its upstreams.

use std::{future::poll_fn, num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use wirestate_command_line::load::{Load, LoadConfig, LoadReason, Pace};
use wirestate_core::{
    Machine as _,
    admission::ConnectionTable,
    buffer::Pool,
    drive::{Clock as _, Drive, Ended},
    echo,
    proxy::{self, Balance, Config, Proxy, ProxyReason, RelayFactory, UpstreamCounters, Upstreams},
    runtime::{Listener as _, Runtime as _},
    serve::{self, DrainReport, ServerHandle},
    shared::Shared,
    shutdown::ShutdownHandle,
};
use wirestate_testkit::{
    contract::Checked,
    coverage,
    sim::{Act, Host, Leftovers, Received, Record, Settings, Side, Task, World, act},
};

/// A proxy in a world.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) proxy: Host,
    pub(crate) table: ConnectionTable,
    pub(crate) upstreams: Upstreams,
    pub(crate) relays: RelayFactory,
    pub(crate) shutdown: ShutdownHandle,
    serving: Task<DrainReport>,
    /// Shuts down the echo servers.
    upstreams_shutdown: ShutdownHandle,
}

impl Scene {
    /// A proxy to port 7 of the hosts with these names. The test starts the listeners.
    pub(crate) fn new(seed: u64, upstreams: &[&str]) -> Self {
        Self::with(World::new(seed), Config::default(), upstreams)
    }

    pub(crate) fn with(world: World, config: Config, upstreams: &[&str]) -> Self {
        Self::with_handle(world, config, upstreams, ServerHandle::default())
    }

    pub(crate) fn with_handle(
        world: World,
        config: Config,
        upstreams: &[&str],
        handle: ServerHandle,
    ) -> Self {
        let addresses = upstreams.iter().map(|name| format!("{name}:7"));
        let upstreams = Upstreams::new(addresses, Balance::RoundRobin, 1);
        Self::serving(world, Proxy::new(config, upstreams).unwrap(), handle)
    }

    pub(crate) fn proxying(world: World, proxy: Proxy) -> Self {
        Self::serving(world, proxy, ServerHandle::default())
    }

    fn serving(world: World, proxy: Proxy, handle: ServerHandle) -> Self {
        let host = world.host("proxy");
        let (table, shutdown) = (handle.table().clone(), handle.shutdown().clone());
        let listener = host.listen("proxy:9500").unwrap();
        let (runtime, upstreams) = (host.clone(), proxy.upstreams().clone());
        let relays = proxy.relays().clone();
        let serving = host.run(async move {
            proxy::serve(serve::Server::new(runtime, listener).with_handle(&handle), proxy).await
        });
        Self {
            world,
            proxy: host,
            table,
            upstreams,
            relays,
            shutdown,
            serving,
            upstreams_shutdown: ShutdownHandle::new(),
        }
    }

    /// An echo server on a host of that name.
    pub(crate) fn echo(&self, name: &str) -> Host {
        let host = self.world.host(name);
        self.echo_on(&host, name);
        host
    }

    pub(crate) fn echo_on(&self, host: &Host, name: &str) {
        let handle = ServerHandle::default().with_shutdown(self.upstreams_shutdown.clone());
        let listener = host.listen(&format!("{name}:7")).unwrap();
        let echo = echo::Server::default();
        let runtime = host.clone();
        host.run(async move {
            serve::Server::new(runtime, listener)
                .with_handle(&handle)
                .serve(|_, now| echo.machine(now))
                .await
        });
    }

    /// A host of that name that accepts one connection and plays `acts` on it.
    pub(crate) fn upstream(&self, name: &str, acts: Vec<Act>) -> Task<Received> {
        upstream_on(&self.world.host(name), name, acts)
    }

    /// Drains all servers, and asserts that nothing is left in the world.
    pub(crate) fn end(&self) -> DrainReport {
        self.shutdown.drain();
        self.upstreams_shutdown.drain();
        self.world.run().unwrap();
        assert_eq!(self.world.leftovers(), Leftovers::default());
        // The other servers of a scene may be scripts that reset.
        let mut records = self.clients();
        records.retain(|record| record.local.port() == PORT);
        records.extend(self.dialled());
        assert_eq!(records.iter().find(|record| record.hides_failure()), None);
        let totals = self.table.totals();
        assert_eq!((totals.open, totals.accepted), (0, totals.ended.values().sum()));
        for label in totals.ended.keys() {
            coverage::record_reason::<ProxyReason>(label);
        }
        assert!(self.counters().iter().all(|upstream| upstream.open == 0));
        assert_eq!(self.relays.buffers_in_use(), 0);
        self.serving.take().expect("all tasks have ended")
    }

    /// How many connections have ended with the reason `label`.
    pub(crate) fn ended(&self, label: &str) -> u64 {
        self.table.totals().ended.get(label).copied().unwrap_or(0)
    }

    pub(crate) fn counters(&self) -> Vec<UpstreamCounters> {
        self.upstreams.counters()
    }

    pub(crate) fn run_for(&self, duration: Duration) {
        self.world.run_for(duration).unwrap();
    }

    /// The proxy's ends of its clients' connections.
    pub(crate) fn clients(&self) -> Vec<Record> {
        let mut records = self.world.records();
        records.retain(|record| &*record.client != "proxy" && record.side == Side::Server);
        records
    }

    /// The proxy's ends of its connections to upstreams.
    pub(crate) fn dialled(&self) -> Vec<Record> {
        let mut records = self.world.records();
        records.retain(|record| &*record.client == "proxy" && record.side == Side::Client);
        records
    }
}

/// Accepts one connection and plays `acts` on it.
pub(crate) fn upstream_on(host: &Host, name: &str, acts: Vec<Act>) -> Task<Received> {
    let mut listener = host.listen(&format!("{name}:7")).unwrap();
    let runtime = host.clone();
    host.run(async move {
        let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        act(runtime, socket, acts).await
    })
}

/// A client of the proxy that sends messages and verifies their echoes.
pub(crate) fn load(client: &Host, config: LoadConfig) -> Task<Ended<LoadReason>> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("proxy:9500").await.unwrap();
        let clock = runtime.clock();
        let load = Load::new(config, Pool::new(512, 1), clock.now(), |_| {}).unwrap();
        let load = Checked::new(load, PATIENT_OUTPUT);
        assert!(load.interest().read, "the load does not read its echoes");
        Drive::new(load, socket, clock).await
    })
}

/// A client of the proxy that plays `acts`.
pub(crate) fn peer(client: &Host, acts: Vec<Act>) -> Task<Received> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("proxy:9500").await.unwrap();
        act(runtime, socket, acts).await
    })
}

/// A load of `rounds` rounds, with a long idle timeout.
pub(crate) fn patient(rounds: u64) -> LoadConfig {
    let message = |(i, size): (usize, &usize)| -> Bytes {
        (0..*size).map(|j| u8::try_from((i * 31 + j * 7) % 251).expect("below 251")).collect()
    };
    let messages: Shared<[Bytes]> =
        [1_usize, 700, 22, 3000].iter().enumerate().map(message).collect();
    LoadConfig::default()
        .with_messages(messages)
        .with_rounds(rounds)
        .with_pace(Pace::Pipelined(NonZeroUsize::new(5).unwrap()))
        .with_idle_timeout(Some(Duration::from_secs(600)))
}

/// The most bytes that a load offers at once: five messages of [`patient`].
const PATIENT_OUTPUT: usize = 3000 + 1 + 700 + 22 + 3000;

/// The bytes of each round of [`patient`].
pub(crate) const ROUND: u64 = 3723;

/// A configuration with buffers that are small enough to fill up and wrap.
pub(crate) fn small(bytes: u64) -> Config {
    let bytes = usize::try_from(bytes).expect("it is small");
    Config::default().with_buffer(NonZeroUsize::new(bytes).expect("it is not 0"))
}

/// A world whose sockets have small buffers.
pub(crate) fn tight(seed: u64) -> World {
    World::with(seed, Settings { buffer: 1 << (4 + seed % 10), ..Settings::default() })
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The port on which the proxy listens.
const PORT: u16 = 9500;
