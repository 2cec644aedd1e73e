//! A real `nats-server` on loopback, on three runtimes.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::Child,
    sync::Arc,
    thread,
};

use wirestate_core::{
    dial::Servers,
    drive::Drive,
    nats::{
        Client, ClientReason, Config, Credentials, HeaderBlock, Incoming, Publish, RequestError,
        ServerErrorKind, Signer, Subscription,
    },
    runtime::Runtime,
};
use wirestate_testkit::contract::Checked;

use crate::program;

/// A server process, killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    /// Where it listens for other servers of its cluster.
    routes: Option<String>,
    /// Its log, read to the end.
    log: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Starts a server on a free port. Prints a line and returns `None` if none is installed.
    pub(crate) fn start(words: &[&str]) -> Option<Self> {
        let mut child = program::spawn(program::command("-1").args(words))?;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut address, mut routes) = (None, None);
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some((_, found)) = line.split_once("Listening for client connections on ") {
                address = Some(found.to_owned());
            }
            if let Some((_, found)) = line.split_once("Listening for route connections on ") {
                routes = Some(found.to_owned());
            }
            let is_cluster = words.contains(&"--cluster");
            if line.ends_with("Server is ready") && !is_cluster || routes.is_some() {
                break;
            }
        }
        let log = thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let address = address.expect("the server says where it listens");
        Some(Self { child, address, routes, log: Some(log) })
    }

    /// Starts a server with the content of a configuration file.
    pub(crate) fn with_config(name: &str, config: &str) -> Option<Self> {
        let path = env::temp_dir().join(format!("wirestate-{}-{name}.conf", std::process::id()));
        std::fs::File::create(&path).unwrap().write_all(config.as_bytes()).unwrap();
        let server = Self::start(&["-c", path.to_str().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        server
    }

    /// Starts the servers of a cluster of two.
    pub(crate) fn start_two() -> Option<[Self; 2]> {
        let cluster = ["--cluster_name", "c", "--cluster", "nats://127.0.0.1:-1"];
        let one = Self::start(&cluster)?;
        let routes = format!("nats://{}", one.routes.as_ref().unwrap());
        let two = Self::start(&[&cluster[..], &["--routes", &routes]].concat())?;
        Some([one, two])
    }

    /// Ends the process by a signal, without a word to its clients.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if let Some(log) = self.log.take() {
            log.join().unwrap();
        }
    }
}

pub(crate) type Driven<R> = Drive<Checked<Client>, <R as Runtime>::Socket, <R as Runtime>::Clock>;

async fn dial<R: Runtime>(runtime: &R, address: &str, config: Config) -> Driven<R> {
    use wirestate_core::drive::Clock as _;
    let socket = runtime.connect(address).await.unwrap();
    let clock = runtime.clock();
    let client = Client::new(config, clock.now()).unwrap();
    Drive::new(Checked::new(client, 8 << 20), socket, clock)
}

/// The next of what the server sends, or why the connection has ended.
pub(crate) async fn next<R: Runtime>(drive: &mut Driven<R>) -> Result<Incoming, ClientReason> {
    let taken = drive.until(|client, now| client.machine_mut().take_incoming(now)).await;
    taken.map_err(|_| {
        use wirestate_core::Machine as _;
        drive.machine().reason().expect("the client has ended")
    })
}

pub(crate) async fn connect<R: Runtime>(runtime: &R, address: &str, config: Config) -> Driven<R> {
    let mut drive = dial(runtime, address, config).await;
    let connected = next::<R>(&mut drive).await;
    assert!(matches!(connected, Ok(Incoming::Connected)), "{connected:?}");
    drive
}

pub(crate) async fn refused<R: Runtime>(
    runtime: &R,
    address: &str,
    config: Config,
) -> ServerErrorKind {
    match next::<R>(&mut dial(runtime, address, config).await).await {
        Err(ClientReason::Refused(error)) => error.kind,
        other => panic!("{other:?}"),
    }
}

/// Calls `call` with the client, and returns its result.
pub(crate) async fn call<R: Runtime, T>(
    drive: &mut Driven<R>,
    mut call: impl FnMut(&mut Client, wirestate_core::Instant) -> T,
) -> T {
    drive.until(|client, now| Some(call(client.machine_mut(), now))).await.unwrap()
}

async fn subscribe<R: Runtime>(drive: &mut Driven<R>, subject: &str) -> Subscription {
    let subscription =
        call::<R, _>(drive, |client, now| client.subscribe(subject, None, now).unwrap()).await;
    let flush = call::<R, _>(drive, |client, now| client.flush(now).unwrap()).await;
    let flushed = next::<R>(drive).await.unwrap();
    assert!(matches!(flushed, Incoming::Flushed(id) if id == flush), "{flushed:?}");
    subscription
}

/// Messages with and without headers, long ones, requests, and errors.
async fn exchange<R: Runtime>(runtime: R, address: String) {
    let runtime = &runtime;
    let mut subscriber = connect(runtime, &address, Config::default()).await;
    let subscription = subscribe::<R>(&mut subscriber, "a.>").await;
    let mut publisher = connect(runtime, &address, Config::default()).await;
    let info = call::<R, _>(&mut publisher, |client, _| client.info().clone()).await;
    assert_eq!(info.max_payload, Some(1 << 20));
    assert!(info.headers && info.client_id > 0 && !info.server_id.is_empty());

    // Numbered messages of all sizes, in order. The publisher waits for room.
    let size = |number: usize| number * 7919 % 40_000;
    let count = 500;
    let publish = async {
        let mut number = 0;
        let mut headers = HeaderBlock::new();
        let sending = publisher.until(|client, now| {
            while number < count {
                headers.clear();
                headers.push("Number", number).unwrap();
                let payload = vec![b'x'; size(number)];
                let message = Publish::new("a.b", payload).with_headers(&headers);
                if client.machine_mut().publish(&message, now).is_err() {
                    return None;
                }
                number += 1;
            }
            (client.machine().pending() == 0).then_some(())
        });
        sending.await.unwrap();
    };
    let receive = async {
        for number in 0..count {
            let Incoming::Message(message) = next::<R>(&mut subscriber).await.unwrap() else {
                panic!()
            };
            assert_eq!((message.subscription(), &*message.subject()), (subscription, "a.b"));
            let headers = message.headers().unwrap();
            assert_eq!(headers.get("Number"), Some(&*number.to_string()));
            assert_eq!(message.payload().len(), size(number));
        }
    };
    futures_join(publish, receive).await;

    // A request to nobody, and one with a reply.
    let ask = Publish::new("nobody", "?");
    let request =
        call::<R, _>(&mut publisher, |client, now| client.request(&ask, now)).await.unwrap();
    let incoming = next::<R>(&mut publisher).await.unwrap();
    let Incoming::Reply { request: id, reply } = incoming else { panic!("{incoming:?}") };
    assert_eq!((id, reply.unwrap_err()), (request, RequestError::NoResponders));
    let ask = Publish::new("a.time", "?");
    let request =
        call::<R, _>(&mut publisher, |client, now| client.request(&ask, now)).await.unwrap();
    let ask_and_answer = async {
        let Incoming::Message(message) = next::<R>(&mut subscriber).await.unwrap() else {
            panic!()
        };
        let reply = message.reply().unwrap().into_owned();
        let answer = Publish::new(&reply, "now");
        call::<R, _>(&mut subscriber, |client, now| client.publish(&answer, now)).await.unwrap();
        call::<R, _>(&mut subscriber, Client::flush).await.unwrap();
        next::<R>(&mut subscriber).await.unwrap();
    };
    let wait = async {
        let incoming = next::<R>(&mut publisher).await.unwrap();
        let Incoming::Reply { request: id, reply: Ok(reply) } = incoming else { panic!() };
        assert_eq!((id, reply.payload()), (request, &b"now"[..]));
    };
    futures_join(ask_and_answer, wait).await;
    subscriber.shut_down().await;
}

/// Polls two futures until both are ready.
pub(crate) async fn futures_join(one: impl Future<Output = ()>, two: impl Future<Output = ()>) {
    let (mut one, mut two) = (std::pin::pin!(one), std::pin::pin!(two));
    let mut ready = [false; 2];
    std::future::poll_fn(|cx| {
        if !ready[0] {
            ready[0] = one.as_mut().poll(cx).is_ready();
        }
        if !ready[1] {
            ready[1] = two.as_mut().poll(cx).is_ready();
        }
        if ready == [true; 2] { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

pub(crate) fn on_tokio<T>(test: impl AsyncFnOnce(wirestate_tokio::Tokio) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(wirestate_tokio::Tokio::current()).await })
}

#[test]
fn an_exchange_on_tokio() {
    let Some(server) = Server::start(&[]) else { return };
    on_tokio(async |runtime| exchange(runtime, server.address.clone()).await);
}

#[test]
fn an_exchange_on_smol() {
    let Some(server) = Server::start(&[]) else { return };
    let executor = Arc::new(smol::Executor::new());
    let runtime = wirestate_smol::Smol::new(executor.clone());
    smol::block_on(executor.run(exchange(runtime, server.address.clone())));
}

#[test]
fn an_exchange_on_threads() {
    let Some(server) = Server::start(&[]) else { return };
    wirestate_std::block_on(exchange(wirestate_std::Threads::new(), server.address.clone()));
}

#[test]
fn a_server_refuses_wrong_credentials() {
    let config = "authorization { users: [ { user: u, password: p,
        permissions: { publish: [\"a\", \"_INBOX.>\"], subscribe: [\"a\", \"_INBOX.>\"] } } ] }";
    let Some(server) = Server::with_config("user", config) else { return };
    let user = |password: &str| {
        let (user, password) = ("u".into(), password.into());
        Config::default().with_credentials(Credentials::User { user, password })
    };
    on_tokio(async |runtime| {
        type R = wirestate_tokio::Tokio;
        let kind = refused(&runtime, &server.address, user("wrong")).await;
        assert_eq!(kind, ServerErrorKind::Authorization);
        let kind = refused(&runtime, &server.address, Config::default()).await;
        assert_eq!(kind, ServerErrorKind::Authorization);
        let mut client = connect(&runtime, &server.address, user("p")).await;
        for is_publish in [true, false] {
            call::<R, _>(&mut client, |client, now| {
                if is_publish {
                    client.publish(&Publish::new("b", "x"), now).unwrap();
                } else {
                    client.subscribe("b", None, now).unwrap();
                }
            })
            .await;
            let Incoming::Error(error) = next::<R>(&mut client).await.unwrap() else { panic!() };
            let expected = if is_publish {
                ServerErrorKind::PublishPermission
            } else {
                ServerErrorKind::SubscribePermission
            };
            assert_eq!(error.kind, expected, "{error}");
        }
    });
    let Some(server) = Server::start(&["--auth", "secret"]) else { return };
    on_tokio(async |runtime| {
        let token =
            |token: &str| Config::default().with_credentials(Credentials::Token(token.into()));
        connect(&runtime, &server.address, token("secret")).await;
        let kind = refused(&runtime, &server.address, token("wrong")).await;
        assert_eq!(kind, ServerErrorKind::Authorization);
    });
}

#[test]
fn an_nkey_signs_the_nonce() {
    let config = "authorization { users: [
        { nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 } ] }";
    let Some(server) = Server::with_config("nkey", config) else { return };
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let credentials = wirestate_nats_credentials::nkey(seed).unwrap();
    let Credentials::Nkey { public_key, .. } = credentials.clone() else { panic!() };
    let wrong = Signer::new(|_| Ok("AAAA".into()));
    on_tokio(async |runtime| {
        let config = Config::default().with_credentials(credentials);
        connect(&runtime, &server.address, config).await;
        let wrong = Credentials::Nkey { public_key, signer: wrong };
        let config = Config::default().with_credentials(wrong);
        let kind = refused(&runtime, &server.address, config).await;
        assert_eq!(kind, ServerErrorKind::Authorization);
    });
}

#[test]
fn a_client_learns_the_other_servers_and_dials_one_when_its_own_is_killed() {
    let Some([mut one, two]) = Server::start_two() else { return };
    on_tokio(async |runtime| {
        type R = wirestate_tokio::Tokio;
        let mut servers = Servers::new([&*one.address], 7).unwrap();
        let mut client = connect(&runtime, servers.current(), Config::default()).await;
        loop {
            let urls = call::<R, _>(&mut client, |client, _| client.info().connect_urls.clone());
            servers.learn(urls.await.iter().map(|url| &**url));
            if servers.addresses().any(|address| address == two.address) {
                break;
            }
            let incoming = next::<R>(&mut client).await.unwrap();
            assert!(matches!(incoming, Incoming::Servers), "{incoming:?}");
        }
        one.kill();
        next::<R>(&mut client).await.unwrap_err();
        servers.ended(std::time::Duration::ZERO);
        while servers.current() != two.address {
            servers.skip();
        }
        connect(&runtime, servers.current(), Config::default()).await;
    });
}

/// The certificate of a server for `localhost`, in files that are removed when this is dropped.
pub(crate) struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    authority: String,
}

impl TlsFiles {
    pub(crate) fn new(name: &str) -> Self {
        let (issuer, authority) = {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = rcgen::KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            (rcgen::Issuer::new(params, key), pem)
        };
        let key_pair = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let pem = params.signed_by(&key_pair, &issuer).unwrap().pem();
        let path = |kind: &str| {
            env::temp_dir().join(format!("wirestate-{}-{name}-{kind}.pem", std::process::id()))
        };
        let (certificate, key) = (path("certificate"), path("key"));
        std::fs::write(&certificate, pem).unwrap();
        std::fs::write(&key, key_pair.serialize_pem()).unwrap();
        Self { certificate, key, authority }
    }

    /// The server's configuration, with more settings of TLS.
    pub(crate) fn config(&self, settings: &str) -> String {
        let [certificate, key] = [&self.certificate, &self.key].map(|path| path.to_str().unwrap());
        format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, {settings} }}")
    }

    /// A client that trusts the server.
    pub(crate) fn client(&self) -> wirestate_tls::Client {
        let authorities = wirestate_tls::Authorities::from_pem(self.authority.as_bytes()).unwrap();
        let credentials = wirestate_tls::client_config(authorities, None, &[]).unwrap();
        let name = "localhost".try_into().unwrap();
        wirestate_tls::Client::new(wirestate_tls::Config::default(), credentials, name).unwrap()
    }
}

impl Drop for TlsFiles {
    fn drop(&mut self) {
        for path in [&self.certificate, &self.key] {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Two machines in turn on one socket: INFO in plain text, then TLS around a client.
#[test]
fn a_server_with_tls_greets_in_plain_text() {
    let files = TlsFiles::new("greeting");
    let Some(server) = Server::with_config("tls", &files.config("")) else { return };
    let tls = files.client();
    on_tokio(async |runtime| {
        use wirestate_core::{drive::Clock as _, nats::Greeting};
        let reason = next::<wirestate_tokio::Tokio>(
            &mut dial(&runtime, &server.address, Config::default()).await,
        )
        .await
        .unwrap_err();
        assert_eq!(reason, ClientReason::TlsRequired);

        let config = Config::default().with_encrypted(true);
        let mut socket = runtime.connect(&server.address).await.unwrap();
        let clock = runtime.clock();
        let greeting = Greeting::new(config.clone(), clock.now()).unwrap();
        let mut drive = Drive::new(greeting, &mut socket, clock);
        let info = drive.until(|greeting, _| greeting.info().cloned()).await.unwrap();
        drive.hand_over();
        assert!(info.tls_required);

        let clock = runtime.clock();
        let client = Client::after_greeting(config, info, clock.now()).unwrap();
        let mut drive = Drive::new(tls.machine(client, clock.now()), socket, clock);
        let mut request = None;
        let reply = drive.until(|tls, now| match tls.inner_mut().take_incoming(now)? {
            Incoming::Connected => {
                let ask = Publish::new("nobody", "?");
                request = Some(tls.inner_mut().request(&ask, now).unwrap());
                None
            }
            Incoming::Reply { request: id, reply } => {
                assert_eq!(Some(id), request);
                Some(reply)
            }
            Incoming::Message(_)
            | Incoming::Flushed(_)
            | Incoming::Servers
            | Incoming::LameDuck
            | Incoming::Error(_) => panic!("the server has sent something else"),
        });
        assert_eq!(reply.await.unwrap().unwrap_err(), RequestError::NoResponders);
        drive.shut_down().await;
    });
}

#[test]
fn limits_lame_duck_mode_and_a_kill_are_reported() {
    let config = "max_payload: 1000\nmax_connections: 1";
    let Some(mut server) = Server::with_config("limits", config) else { return };
    on_tokio(async |runtime| {
        type R = wirestate_tokio::Tokio;
        let mut client = connect(&runtime, &server.address, Config::default()).await;
        let kind = refused(&runtime, &server.address, Config::default()).await;
        assert_eq!(kind, ServerErrorKind::MaxConnections);
        let long = Publish::new("a", vec![0; 1001]);
        let error = call::<R, _>(&mut client, |client, now| client.publish(&long, now)).await;
        assert_eq!(
            error.unwrap_err().to_string(),
            "a message of 1001B, above the server's limit of 1000B"
        );
        server.signal(rustix::process::Signal::USR2);
        let incoming = next::<R>(&mut client).await.unwrap();
        assert!(matches!(incoming, Incoming::LameDuck), "{incoming:?}");
        server.kill();
        let reason = next::<R>(&mut client).await.unwrap_err();
        let is_lost = matches!(reason, ClientReason::Closed { .. } | ClientReason::Lost { .. });
        assert!(is_lost, "{reason}");
    });
}
