//! A server before it listens: its flags are checked, and its files are read.

use std::{future::poll_fn, mem, pin::Pin};

use wirestate_core::{
    Instant, Machine,
    admission::{Admitted, ConnectionEntry, ConnectionTable},
    drive::{Clock, Drive},
    proxy_protocol::{self, HeaderPolicy},
    record::{Recordable, Recorded},
    runtime::{Address, Runtime},
    serve::{self, ServerHandle},
    shared::{Lock, Shared},
    shutdown::ShutdownHandle,
    status::{Link, Metric, MetricsSource},
};

use crate::{
    CommandError, CommandRuntime,
    access_log::AccessLogFlags,
    recording::{RecordFlags, Recordings},
    server::tasks::Task,
    tls::{ServerTls, UpstreamTls},
};

/// A server that is ready to listen.
pub(crate) struct Prepared<R: CommandRuntime> {
    /// Empty: it listens nowhere.
    pub(super) listen: Vec<String>,
    pub(super) settings: ServerSettings,
    pub(super) start: Box<StartFn<R>>,
}

/// Starts to serve, on the addresses of a server that listens.
type StartFn<R> = dyn FnOnce(&Starting<'_, R>) -> Result<Serving<R>, CommandError> + Send;

/// A server that listens, if it has an address.
pub(crate) struct Starting<'a, R> {
    pub(crate) runtime: &'a R,
    pub(crate) settings: &'a ServerSettings,
    pub(crate) handle: &'a ServerHandle,
    pub(crate) addresses: &'a [Address],
    /// Why the server ends, if it fails.
    pub(crate) failure: &'a Shared<Lock<Option<CommandError>>>,
}

/// What serves the connections of a server.
pub(crate) struct Serving<R: Runtime> {
    pub(super) connect: Box<ConnectFn<R>>,
    pub(super) on_end: EndFn,
    pub(super) tasks: Vec<Task>,
}

/// Is called at each [`Stage`] of a server's end.
pub(super) type EndFn = Box<dyn FnMut(Stage) + Send>;

/// Makes the task of a connection that was admitted.
pub(crate) type ConnectFn<R> =
    dyn FnMut(<R as Runtime>::Socket, Admitted, <R as Runtime>::Clock) -> ConnectionTask + Send;
/// The task of a connection.
pub(crate) type ConnectionTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A stage of the end of a [`Serving`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// After a second at most, no further connection comes. The open ones continue.
    Retired,
    /// The connections are drained, and the tasks should end.
    Draining,
    /// The server has ended with all its tasks, and was not replaced.
    Stopped,
}

/// The settings of a server, apart from those of its protocol.
pub(crate) struct ServerSettings {
    pub(super) config: serve::Config,
    pub(crate) tls: Option<ServerTls>,
    /// For connections that begin with a PROXY header.
    pub(crate) accept_proxy: Option<HeaderPolicy>,
    /// Open files that are not for connections.
    pub(super) reserved_files: u64,
    /// `None`: the server can have none.
    pub(super) access_log: Option<AccessLogFlags>,
    pub(super) record: RecordFlags,
    /// What the server's recordings say about it.
    pub(super) recorded_fields: Vec<(String, String)>,
    /// `None`: nothing is recorded.
    pub(crate) recordings: Option<Recordings>,
    pub(super) metrics: ServerMetrics,
    pub(super) files: Vec<Shared<dyn ReloadFiles>>,
    /// The addresses that the server connects to.
    pub(super) upstreams: Vec<String>,
    /// What the server does if it does not listen, for its ready line.
    pub(super) purpose: String,
}

/// Files that a server has read, and can read again.
pub(crate) trait ReloadFiles: Send + Sync {
    /// What they are, for the log.
    fn description(&self) -> &'static str;

    /// Reads and checks the files. The function that is returned puts them to use.
    ///
    /// # Errors
    /// A file cannot be read or used.
    fn read(&self) -> Result<Box<dyn FnOnce() + Send>, CommandError>;
}

/// The metrics of a server beyond those of its table of connections.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerMetrics {
    sources: Vec<Shared<dyn MetricsSource>>,
}

impl ServerSettings {
    pub(super) fn new(config: serve::Config, record: RecordFlags, tls: Option<ServerTls>) -> Self {
        let settings = Self {
            config,
            tls: tls.clone(),
            accept_proxy: None,
            reserved_files: 0,
            access_log: None,
            record,
            recorded_fields: Vec::new(),
            recordings: None,
            metrics: ServerMetrics::default(),
            files: Vec::new(),
            upstreams: Vec::new(),
            purpose: String::new(),
        };
        match tls {
            None => settings,
            Some(tls) => settings.with_files(tls.clone()).with_metrics(tls),
        }
    }

    /// Adds metrics to the server's status.
    pub(crate) fn with_metrics(mut self, metrics: impl MetricsSource) -> Self {
        self.metrics.sources.push(Shared::new(metrics));
        self
    }

    /// Adds a field to the server's recordings.
    pub(crate) fn with_recorded_field(mut self, name: &str, value: u128) -> Self {
        self.recorded_fields.push((name.to_owned(), value.to_string()));
        self
    }

    /// Opens the directory of the recordings, if there is one. `words` are the command and the
    /// flags of the server called `name`, which runs on `runtime`.
    ///
    /// # Errors
    /// No file can be written in the directory.
    pub(super) fn open_recordings(
        &mut self,
        name: &str,
        words: &[String],
        runtime: &str,
    ) -> Result<(), CommandError> {
        let mut fields = mem::take(&mut self.recorded_fields);
        fields.push(("runtime".to_owned(), runtime.to_owned()));
        fields.extend(words.iter().map(|word| ("word".to_owned(), word.clone())));
        self.recordings = self.record.open(name, fields)?;
        Ok(())
    }

    /// Sets the addresses that the server connects to. None of them may be the server itself.
    pub(crate) fn with_upstreams(self, upstreams: Vec<String>) -> Self {
        Self { upstreams, ..self }
    }

    /// Sets what the server does if it does not listen, for its ready line.
    pub(crate) fn with_purpose(self, purpose: String) -> Self {
        Self { purpose, ..self }
    }

    /// Adds files that a reload reads again.
    pub(crate) fn with_files(mut self, files: impl ReloadFiles + 'static) -> Self {
        self.files.push(Shared::new(files));
        self
    }

    /// Adds the files of an upstream's TLS, if there is one.
    pub(crate) fn with_files_of(self, tls: Option<UpstreamTls>) -> Self {
        match tls {
            None => self,
            Some(tls) => self.with_files(tls),
        }
    }

    /// A server that listens on the addresses `listen` and runs a machine on each connection, which
    /// its recordings call `name`.
    pub(crate) fn run<R, M>(
        self,
        name: &'static str,
        listen: impl IntoIterator<Item = String>,
        machine: impl FnMut(&Shared<ConnectionEntry>, Instant) -> M + Clone + Send + 'static,
    ) -> Prepared<R>
    where
        R: CommandRuntime,
        M: Recordable<Reason: Send> + Unpin + Send + 'static,
    {
        self.start(listen, move |starting| Ok(starting.serve(name, machine)))
    }

    /// A server that listens on the addresses `listen`, if there are any, and then calls `start`.
    pub(crate) fn start<R: CommandRuntime>(
        self,
        listen: impl IntoIterator<Item = String>,
        start: impl FnOnce(&Starting<'_, R>) -> Result<Serving<R>, CommandError> + Send + 'static,
    ) -> Prepared<R> {
        Prepared { listen: listen.into_iter().collect(), settings: self, start: Box::new(start) }
    }
}

impl<R: CommandRuntime> Starting<'_, R> {
    /// Starts a task beside the connections, such as one that reads from an upstream. It ends after
    /// a request to `shutdown`, which `on_end` of [`Serving`] makes at [`Stage::Draining`].
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(
        &self,
        shutdown: &ShutdownHandle,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Task, CommandError> {
        Task::spawn(self.runtime, shutdown, task)
    }

    /// Runs a machine on each connection: after the PROXY header and within TLS, if the settings
    /// ask for them. Recordings call it `name`.
    pub(crate) fn serve<M>(
        &self,
        name: &'static str,
        mut machine: impl FnMut(&Shared<ConnectionEntry>, Instant) -> M + Clone + Send + 'static,
    ) -> Serving<R>
    where
        M: Recordable<Reason: Send> + Unpin + Send + 'static,
    {
        let recordings = self.settings.recordings.clone();
        let mut machine = move |entry: &Shared<ConnectionEntry>, now| {
            let recordings = recordings.as_ref();
            let recorder = recordings.map(|it| it.of_connection(name, entry, now));
            Recorded::new(machine(entry, now), recorder)
        };
        let (table, policy) = (self.handle.table(), self.settings.accept_proxy.clone());
        Serving::new(match self.settings.tls.clone() {
            None => after_header::<R, _>(policy, table, machine),
            Some(tls) => after_header::<R, _>(policy, table, move |entry, now| {
                tls.machine(machine(entry, now), entry, now)
            }),
        })
    }
}

fn after_header<R, M>(
    policy: Option<HeaderPolicy>,
    table: &ConnectionTable,
    mut machine: impl FnMut(&Shared<ConnectionEntry>, Instant) -> M + Clone + Send + 'static,
) -> Box<ConnectFn<R>>
where
    R: CommandRuntime,
    M: Machine<Reason: Send> + Unpin + Send + 'static,
{
    let Some(policy) = policy else {
        return Box::new(move |socket, admitted, clock| {
            let machine = machine(&admitted.entry(), clock.now());
            task(Drive::new(machine, socket, clock).admitted(admitted))
        });
    };
    let table = table.clone();
    Box::new(move |socket, admitted, clock| {
        let machine = machine.clone();
        task(proxy_protocol::connection(&policy, &table, machine, socket, admitted, clock))
    })
}

/// The task of a connection that `future` drives. (An `async` block would hold it twice.)
pub(crate) fn task(mut future: impl Future + Unpin + Send + 'static) -> ConnectionTask {
    Box::pin(poll_fn(move |cx| Pin::new(&mut future).poll(cx).map(drop)))
}

impl<R: Runtime> Serving<R> {
    pub(crate) fn new(connect: Box<ConnectFn<R>>) -> Self {
        Self { connect, on_end: Box::new(|_| {}), tasks: Vec::new() }
    }

    /// Adds a task that the server's end waits for.
    pub(crate) fn with_task(mut self, task: Task) -> Self {
        self.tasks.push(task);
        self
    }

    /// Calls `on_end` at each stage of the end.
    pub(crate) fn on_end(self, on_end: impl FnMut(Stage) + Send + 'static) -> Self {
        Self { on_end: Box::new(on_end), ..self }
    }
}

impl MetricsSource for ServerMetrics {
    fn metrics(&self, now: Instant) -> Vec<Metric> {
        self.sources.iter().flat_map(|source| source.metrics(now)).collect()
    }

    fn links(&self, now: Instant) -> Vec<Link> {
        self.sources.iter().flat_map(|source| source.links(now)).collect()
    }
}
