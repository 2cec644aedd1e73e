//! A scene: a server, its clients, and the invariants at every step.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use wirestate_command_line::load::{Load, LoadConfig, LoadReason, Pace};
use wirestate_core::{
    Instant, Machine,
    admission::ConnectionTable,
    buffer::Pool,
    drive::{Clock as _, Drive, Ended},
    echo::{Config, EchoReason, Server},
    runtime::Runtime,
    serve::{self, DrainReport, Listening, ServerHandle},
    shared::Shared,
    shutdown::ShutdownHandle,
};
use wirestate_testkit::{
    contract::Checked,
    script::Ending,
    sim::{Act, Host, Leftovers, Received, Record, Side, Task, World, act},
};

// The path counts from this file, which another test includes.
#[path = "log.rs"]
pub(crate) mod log;

/// An echo server in a world.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) server: Host,
    pub(crate) table: ConnectionTable,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) handle: ServerHandle,
    pub(crate) listening: Listening<Host>,
    pub(crate) serving: Task<DrainReport>,
}

impl Scene {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(World::new(seed), Config::default(), ServerHandle::default())
    }

    pub(crate) fn with(world: World, config: Config, handle: ServerHandle) -> Self {
        log::keep_callsites_open();
        let limit = config.buffer_size();
        let echo = Server::new(config).unwrap();
        Self::serving(world, handle, move |now| Checked::new(echo.machine(now), limit))
    }

    pub(crate) fn serving<M>(
        world: World,
        handle: ServerHandle,
        mut machine: impl FnMut(Instant) -> M + Send + 'static,
    ) -> Self
    where
        M: Machine<Reason = EchoReason> + Unpin + Send + 'static,
    {
        let server = world.host("server");
        world.watch(only_echoes());
        let (table, shutdown) = (handle.table().clone(), handle.shutdown().clone());
        let listener = server.listen("server:7").unwrap();
        let accepting = serve::Server::new(server.clone(), listener).with_handle(&handle);
        let listening = accepting.listening();
        let serving = server.run(async move { accepting.serve(|_, now| machine(now)).await });
        Self { world, server, table, shutdown, handle, listening, serving }
    }

    /// Drains the server, and asserts that nothing is left when all tasks have ended.
    pub(crate) fn end(&self) -> DrainReport {
        self.shutdown.drain();
        self.world.run().unwrap();
        assert_eq!(self.world.leftovers(), Leftovers::default());
        let mut records = self.world.records();
        records.retain(|record| record.side == Side::Server);
        assert_eq!(records.iter().find(|record| record.hides_failure()), None);
        let totals = self.table.totals();
        assert_eq!((totals.open, totals.accepted), (0, totals.ended.values().sum()));
        self.serving.take().expect("all tasks have ended")
    }

    /// How many connections have ended with the reason `label`.
    pub(crate) fn ended(&self, label: &str) -> u64 {
        self.table.totals().ended.get(label).copied().unwrap_or(0)
    }
}

/// A client of the scene's server that sends messages and verifies their echoes.
pub(crate) fn load(client: &Host, config: LoadConfig) -> Task<Ended<LoadReason>> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        let clock = runtime.clock();
        let load = Load::new(config, Pool::new(512, 1), clock.now(), |_| {}).unwrap();
        Drive::new(Checked::new(load, PATIENT_OUTPUT), socket, clock).await
    })
}

/// A client of the scene's server that performs `acts`.
pub(crate) fn peer(client: &Host, acts: Vec<Act>) -> Task<Received> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        act(runtime, socket, acts).await
    })
}

/// Asserts at every step that the server has sent a prefix of the bytes that it has received.
pub(crate) fn only_echoes() -> impl FnMut(&Record) + Send {
    let mut compared = BTreeMap::new();
    move |record| {
        if record.side == Side::Server {
            let from = compared.entry((record.client.clone(), record.dial)).or_insert(0);
            let new = *from..record.sent.len();
            assert_eq!(
                record.received.get(new.clone()),
                record.sent.get(new.clone()),
                "{record:?} has sent bytes that it has not received"
            );
            *from = new.end;
        }
    }
}

/// Asserts that the server has sent every byte back before it sent a FIN.
pub(crate) fn graceful_ends_are_complete(world: &World) {
    for record in world.records() {
        let is_graceful = record.ending == Some(Ending::Fin) && !record.killed;
        if record.side == Side::Server && is_graceful {
            assert_eq!(record.sent.len(), record.received.len(), "{} lacks bytes", record.client);
        }
    }
}

/// Messages of `sizes` bytes each, all different.
pub(crate) fn messages(sizes: &[usize]) -> Shared<[Bytes]> {
    let message = |(i, size): (usize, &usize)| {
        (0..*size).map(|j| u8::try_from((i * 31 + j * 7) % 251).expect("below 251")).collect()
    };
    sizes.iter().enumerate().map(message).collect()
}

/// The most bytes that a load offers at once: five messages of [`patient`].
const PATIENT_OUTPUT: usize = 3000 + 1 + 700 + 22 + 3000;

/// A load of `rounds` rounds, with an idle timeout of ten minutes.
pub(crate) fn patient(rounds: u64) -> LoadConfig {
    LoadConfig::default()
        .with_messages(messages(&[1, 700, 22, 3000]))
        .with_rounds(rounds)
        .with_pace(Pace::Pipelined(NonZeroUsize::new(5).unwrap()))
        .with_idle_timeout(Some(Duration::from_secs(600)))
}

/// A configuration with a buffer that is small enough to fill up and wrap.
pub(crate) fn small(bytes: u64) -> Config {
    let bytes = usize::try_from(bytes).expect("it is small");
    Config::default().with_buffer(NonZeroUsize::new(bytes).expect("it is not 0"))
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
