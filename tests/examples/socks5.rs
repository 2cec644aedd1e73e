//! A SOCKS5 server (RFC 1928): the handshake as a straight line, then the relay of the proxy.
//!
//! ```sh
//! cargo run -p wirestate-testkit --example socks5 -- tokio 127.0.0.1:1080 [USER:PASSWORD]
//! curl --socks5-hostname [USER:PASSWORD@]127.0.0.1:1080 http://example.com
//! ```
//!
//! It connects to wherever its clients ask (`CONNECT`): to IPv4 addresses, IPv6 addresses and
//! names. With a third argument, a client must know the user name and the password (RFC 1929).
//! `BIND` and `UDP ASSOCIATE` are not supported. A request may take 10 s, and so may a dial. The
//! reserved byte of a request is ignored.
//!
//! It has no rules about targets: a client also reaches what only the server can reach, and the
//! server itself. Such a loop takes up a connection of the server for each handshake.
//!
//! The reply to a request is `05`, a code, `00`, and the address that the server connects from, or
//! `01 00000000 0000` if there is none. All bytes are hexadecimal.
//!
//! | request | code |
//! |---|---|
//! | the upstream is connected | `00`; the bytes of the relay follow |
//! | the network is unreachable | `03` |
//! | the host is unreachable, or does not answer in time | `04` |
//! | the connection is refused | `05` |
//! | any other failure, such as an unknown name | `01` |
//!
//! | bad input | last reply, after which the connection closes |
//! |---|---|
//! | `04`: not version 5 | `05ff` |
//! | `0500`: no method | `05ff` |
//! | `050101`: no method that is supported | `05ff` |
//! | `050100`: no password offered, but one is required | `05ff` |
//! | `050102 00`: not version 1 of RFC 1929 | `0101` |
//! | `050102 01 0161 0162`: a wrong user or password | `0101` |
//! | `050100 04`: a request that is not of version 5 | `05010001000000000000` |
//! | `050100 050001`: command 0 | `05070001000000000000` |
//! | `050100 050200`: `BIND` | `05070001000000000000` |
//! | `050100 050300`: `UDP ASSOCIATE` | `05070001000000000000` |
//! | `050100 05010002`: address type 2 | `05080001000000000000` |
//! | `050100 05010003 00`: an empty name | `05010001000000000000` |
//! | `050100 05010003 022f61 0050`: not a name, `/a` | `05010001000000000000` |
//! | `050100 05010003 04756e6978 0050`: the name `unix` | `05010001000000000000` |
//!
//! A client whose input ends, or that takes too long, gets no further reply.

#[cfg(not(test))]
mod runtimes;

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use wirestate_core::{
    Fault, Reason, Runtime,
    coroutine::{Error, Factory, Io},
    drive::{Clock as _, Drive},
    proxy::{ProxiedConnection, RelayFactory},
    runtime::connect_within,
    serve::{DrainReport, Server},
    shared::Shared,
};

/// The `USER:PASSWORD` that clients must know.
pub(crate) type Login = Option<Shared<str>>;

/// Serves each connection: the handshake, then the relay.
pub(crate) async fn serve<R: Runtime>(server: Server<R>, login: Login) -> DrainReport {
    let (handshakes, relays) = (Factory::default(), RelayFactory::default());
    let runtime = server.runtime().clone();
    server
        .accept(move |mut client, admitted, clock| {
            let (relays, relay_clock, runtime) = (relays.clone(), runtime.clock(), runtime.clone());
            let handshake = handshakes.handshake(clock.now(), |io| {
                handshake(io, login.clone(), |target| dial(runtime, target))
            });
            async move {
                let drive = Drive::new(handshake, &mut client, clock).admitted(admitted);
                let Ok((upstream, input, Some(admitted))) = drive.handshake().await else { return };
                ProxiedConnection::<R>::connected(&relays, client, upstream, input, relay_clock)
                    .admitted(admitted)
                    .await;
            }
        })
        .await
}

/// Connects to `target`, a `HOST:PORT`. Returns the reply and the socket.
async fn dial<R: Runtime>(runtime: R, target: String) -> Result<(Vec<u8>, R::Socket), SocksError> {
    match connect_within(&runtime, &target, Some(DIAL_TIMEOUT)).await {
        Ok(socket) => Ok((reply(0, runtime.local_address(&socket)), socket)),
        Err(error) => {
            let is = |kind| error.kind() == kind;
            let code = match () {
                () if is(ErrorKind::NetworkUnreachable) => 3,
                () if is(ErrorKind::HostUnreachable) || is(ErrorKind::TimedOut) => 4,
                () if is(ErrorKind::ConnectionRefused) => 5,
                () => 1,
            };
            let (reply, why) = (reply(code, None), format!("{target}: {error}"));
            Err(SocksError::Refused { reply, why, label: "no_upstream", fault: Fault::Lost })
        }
    }
}

/// The handshake. It returns what `dial` has connected, once the client has the reply.
pub(crate) async fn handshake<S, F>(
    mut io: Io,
    login: Login,
    dial: impl FnOnce(String) -> F,
) -> Result<S, SocksError>
where
    F: Future<Output = Result<(Vec<u8>, S), SocksError>>,
{
    let request = async {
        negotiate(&mut io, login.as_deref()).await?;
        let target = read_target(&mut io).await?;
        io.set_deadline(None); // the dial has its own
        dial(target).await
    };
    let connected = request.await;
    match &connected {
        Ok((reply, _)) | Err(SocksError::Refused { reply, .. }) => io.write(reply).await?,
        Err(SocksError::Io(_)) => {}
    }
    connected.map(|(_, socket)| socket)
}

/// Agrees on a method, and checks the login.
async fn negotiate(io: &mut Io, login: Option<&str>) -> Result<(), SocksError> {
    let method = if login.is_some() { 2 } else { 0 };
    let [version] = io.read_array().await?;
    if version != 5 || !read_short(io).await?.contains(&method) {
        return malformed(&[5, 0xff], "no method that is supported");
    }
    io.write(&[5, method]).await?;
    let Some(login) = login else { return Ok(()) };
    let [version] = io.read_array().await?;
    if version != 1
        || [read_short(io).await?, read_short(io).await?].join(&b':') != login.as_bytes()
    {
        return malformed(&[1, 1], "wrong user or password");
    }
    Ok(io.write(&[1, 0]).await?)
}

/// Reads a request. Returns the `HOST:PORT` to connect to.
async fn read_target(io: &mut Io) -> Result<String, SocksError> {
    let [version] = io.read_array().await?;
    if version != 5 {
        return malformed(&reply(1, None), "the request is not of version 5");
    }
    let [command, _reserved] = io.read_array().await?;
    if command != 1 {
        return malformed(&reply(7, None), "the command is not CONNECT");
    }
    let [address_type] = io.read_array().await?;
    // `unix:PATH` is the address of a Unix socket, so no name has a colon or is `unix`.
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let host = match address_type {
        1 => Ipv4Addr::from(io.read_array::<4>().await?).to_string(),
        3 => match String::from_utf8(read_short(io).await?) {
            Ok(name) if !["", "unix"].contains(&&*name) && name.bytes().all(is_of_name) => name,
            Ok(_) | Err(_) => return malformed(&reply(1, None), "not a name of a host"),
        },
        4 => format!("[{}]", Ipv6Addr::from(io.read_array::<16>().await?)),
        _ => return malformed(&reply(8, None), "the address type is unknown"),
    };
    let port = u16::from_be_bytes(io.read_array().await?);
    Ok(format!("{host}:{port}"))
}

/// Reads a length of one byte, and as many bytes.
async fn read_short(io: &mut Io) -> Result<Vec<u8>, Error> {
    let [length] = io.read_array().await?;
    let mut bytes = vec![0; length.into()];
    io.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The reply to a request, with the address that the server connects from.
fn reply(code: u8, address: Option<SocketAddr>) -> Vec<u8> {
    let address = address.unwrap_or(SocketAddr::from(([0; 4], 0)));
    let (address_type, ip) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (4, ip.octets().to_vec()),
    };
    [&[5, code, 0, address_type][..], &ip, &address.port().to_be_bytes()].concat()
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum SocksError {
    /// The client is sent `reply`.
    #[error("{why}")]
    Refused { reply: Vec<u8>, why: String, label: &'static str, fault: Fault },
    #[error(transparent)]
    Io(#[from] Error),
}

fn malformed<T>(reply: &[u8], why: &str) -> Result<T, SocksError> {
    let (reply, why) = (reply.into(), why.into());
    Err(SocksError::Refused { reply, why, label: "malformed", fault: Fault::Peer })
}

impl Reason for SocksError {
    fn label(&self) -> &'static str {
        match self {
            Self::Refused { label, .. } => label,
            Self::Io(error) => error.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Refused { fault, .. } => *fault,
            Self::Io(error) => error.fault(),
        }
    }
}

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The login of the command line.
#[cfg(not(test))]
struct Socks5(Login);

#[cfg(not(test))]
impl runtimes::Serve for Socks5 {
    async fn serve<R: Runtime>(self, server: Server<R>) -> DrainReport {
        serve(server, self.0).await
    }
}

#[cfg(not(test))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    runtimes::run(Socks5(std::env::args().nth(3).map(Shared::from)))
}
