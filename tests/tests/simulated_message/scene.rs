//! A server in a world, its clients, and the invariants at every step.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    time::Duration,
};

use wirestate_core::{
    Machine, Reason as _,
    admission::ConnectionTable,
    drive::{Drive, Ended},
    message::{
        ByteOrder, Client, ClientConfig, ClientReason, Config, Header, Message, RequestError,
        Server, service,
    },
    runtime::Runtime,
    serve::{self, DrainReport, ServerHandle},
    shutdown::ShutdownHandle,
};
use wirestate_testkit::{
    contract::Checked,
    message::frames,
    script::Ending,
    sim::{Act, Host, Leftovers, Received, Record, Side, Socket, Task, World, act},
};

/// The most bytes that a machine may queue in these scenes: 64 KiB and one message.
pub(crate) const MAX_QUEUED: usize = 64 * 1024 + 40_000;

/// A simulated message server.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) server: Host,
    pub(crate) table: ConnectionTable,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) serving: Task<DrainReport>,
}

/// A service that answers each request with the request itself.
pub(crate) fn itself(request: Message<'_>) -> Message<'static> {
    request.into_owned()
}

impl Scene {
    /// Answers each request with the request itself, at once.
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(World::new(seed), small(4096))
    }

    pub(crate) fn with(world: World, config: Config) -> Self {
        let server = world.host("server");
        Self::serving(world, server, config, service::function(itself), ServerHandle::default())
    }

    pub(crate) fn serving<S>(
        world: World,
        server: Host,
        config: Config,
        service: S,
        handle: ServerHandle,
    ) -> Self
    where
        S: service::Service + Clone + Send + Unpin + 'static,
        S::Pending: Send,
    {
        world.watch(output_is_requests());
        Self::unchecked(world, server, Server::new(config, service).unwrap(), handle)
    }

    /// A scene without invariants on the output, for any service.
    pub(crate) fn unchecked<S>(
        world: World,
        server: Host,
        messages: Server<S>,
        handle: ServerHandle,
    ) -> Self
    where
        S: service::Service + Clone + Send + Unpin + 'static,
        S::Pending: Send,
    {
        let (table, shutdown) = (handle.table().clone(), handle.shutdown().clone());
        let listener = server.listen("server:7").unwrap();
        let runtime = server.clone();
        let serving = server.run(async move {
            let machine = move |_: &_, now| Checked::new(messages.machine(now), MAX_QUEUED);
            serve::Server::new(runtime, listener).with_handle(&handle).serve(machine).await
        });
        Self { world, server, table, shutdown, serving }
    }

    /// Drains the server, and asserts that nothing is left in the world.
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

    pub(crate) fn run_for(&self, duration: Duration) {
        self.world.run_for(duration).unwrap();
    }
}

/// The result of a client's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answers {
    pub(crate) requests: Vec<Message<'static>>,
    pub(crate) replies: Vec<Message<'static>>,
    /// Why the client ended before it had all replies.
    pub(crate) ended: Option<&'static str>,
}

impl Answers {
    /// Whether each request has its reply.
    pub(crate) fn are_complete(&self) -> bool {
        self.ended.is_none() && self.replies == self.requests
    }

    /// Whether the replies are those to the first requests, in order.
    pub(crate) fn are_in_order(&self) -> bool {
        self.requests.starts_with(&self.replies)
    }
}

/// A client of the scene's server that is used inline, with as many requests in flight as possible.
pub(crate) fn ask(client: &Host, requests: Vec<Message<'static>>) -> Task<Answers> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        ask_on(&runtime, socket, requests).await
    })
}

/// The same, on a connection to the server.
pub(crate) async fn ask_on(
    runtime: &Host,
    socket: Socket,
    requests: Vec<Message<'static>>,
) -> Answers {
    let client = Checked::new(Client::new(patient()).unwrap(), MAX_QUEUED);
    let mut drive = Drive::new(client, socket, runtime.clock());
    let (mut rest, mut replies) = (VecDeque::from(requests.clone()), Vec::new());
    let outcome = drive
        .until(|client, now| {
            let client = client.machine_mut();
            replies.extend(std::iter::from_fn(|| client.take_reply()));
            while let Some(request) = rest.front() {
                match client.request(request, now) {
                    Ok(()) => drop(rest.pop_front()),
                    Err(RequestError::Encode(error)) => panic!("{error}"),
                    Err(_busy_or_ended) => break,
                }
            }
            (replies.len() == requests.len()).then_some(())
        })
        .await;
    let ended: Option<Ended<ClientReason>> = outcome.err();
    if ended.is_none() {
        let shut_down = |client: &mut Checked<Client>, now| {
            client.handle(now, wirestate_core::Event::ShutDown);
            None::<Infallible>
        };
        drive.until(shut_down).await.unwrap_err();
    }
    Answers { requests, replies, ended: ended.map(|ended| ended.label()) }
}

/// A client whose timeouts are all ten minutes.
pub(crate) fn patient() -> ClientConfig {
    let mut config = ClientConfig::default()
        .with_buffer(1.try_into().unwrap())
        .with_max_in_flight(8.try_into().unwrap())
        .with_reply_timeout(Some(seconds(600)))
        .with_write_timeout(Some(seconds(600)));
    config.frame_timeouts.header = Some(seconds(600));
    config.frame_timeouts.content = Some(seconds(600));
    config
}

/// A server whose timeouts are all ten minutes, for a network that holds 64 bytes and stalls.
pub(crate) fn patient_server(mut config: Config) -> Config {
    config.write_timeout = Some(seconds(600));
    config.frame_timeouts.header = Some(seconds(600));
    config.frame_timeouts.content = Some(seconds(600));
    config
}

/// A scripted client of the scene's server.
pub(crate) fn peer(client: &Host, acts: Vec<Act>) -> Task<Received> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        act(runtime, socket, acts).await
    })
}

/// Different requests with contents of `sizes` bytes. Their type differs from that of error
/// replies.
pub(crate) fn requests(sizes: &[usize]) -> Vec<Message<'static>> {
    let request = |(i, size): (usize, &usize)| {
        let content: Vec<u8> =
            (0..*size).map(|j| u8::try_from((i * 31 + j * 7) % 251).expect("below 251")).collect();
        Message {
            byteorder: ByteOrder::Little,
            content_type: format!("request {i}").into(),
            ..Message::new("", "binary", content)
        }
    };
    sizes.iter().enumerate().map(request).collect()
}

/// Sizes from 0 to several buffers.
pub(crate) const SIZES: [usize; 12] = [0, 1, 700, 22, 0, 5000, 4096, 3, 12_000, 30, 30_000, 2];

pub(crate) fn bytes(requests: &[Message<'static>]) -> Vec<u8> {
    frames(requests)
}

/// Checks at every step that the server has sent only whole requests that it has received, in
/// order, followed by at most one error reply.
pub(crate) fn output_is_requests() -> impl FnMut(&Record) + Send {
    #[derive(Default)]
    struct Output {
        /// How much of the output is checked, in bytes.
        len: usize,
        has_error: bool,
    }
    let mut all: BTreeMap<_, Output> = BTreeMap::new();
    move |record| {
        if record.side != Side::Server {
            return;
        }
        let output = all.entry((record.client.clone(), record.dial)).or_default();
        while let Some(length) = frame_length(&record.sent[output.len..]) {
            assert!(!output.has_error, "{record:?} has sent more than an error reply");
            let reply = output.len..output.len + length;
            if record.received.get(reply.clone()) != Some(&record.sent[reply.clone()]) {
                let text = String::from_utf8_lossy(&record.sent[reply.clone()]);
                assert!(text.contains(r#"{"result": "Error: "#), "{record:?} has sent {text}");
                output.has_error = true;
            }
            output.len = reply.end;
        }
    }
}

/// The length of the first frame in `bytes`, if it is complete.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk()?;
    let json = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    let header = Header::from_json(json).expect("the output is frames");
    let length = 2 + json.len() + usize::try_from(header.content_length).unwrap();
    (bytes.len() >= length).then_some(length)
}

/// Asserts that every whole request has its reply on each connection that has ended gracefully: the
/// peer's FIN was read, a FIN was sent, and no call has failed. Returns the number of these
/// connections.
pub(crate) fn graceful_ends_are_complete(world: &World) -> usize {
    let graceful = |record: &Record| {
        record.side == Side::Server
            && record.received_fin
            && record.ending == Some(Ending::Fin)
            && record.error.is_none()
            && !record.killed
    };
    let records: Vec<Record> = world.records().into_iter().filter(graceful).collect();
    for record in &records {
        let is_complete = record.received == record.sent;
        let has_error = String::from_utf8_lossy(&record.sent).contains(r#"{"result": "Error: "#);
        assert!(
            is_complete || has_error || record.received.is_empty(),
            "{} lacks replies",
            record.client
        );
    }
    records.len()
}

/// A configuration with a buffer that is small enough to fill up and to be compacted.
pub(crate) fn small(buffer: u64) -> Config {
    let buffer = usize::try_from(buffer).unwrap().try_into().unwrap();
    let mut config = Config::default().with_buffer(buffer);
    config.frame_limits.max_header = 128;
    config
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
