//! `app-server` and `app-client`.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use clap::{Args, builder::BoolishValueParser};
use wirestate_core::{
    drive::Drive,
    message::{Client, ClientConfig, Config, FrameLimits, Server},
    runtime::{connect_within, within},
};

use crate::{
    Failure, Host, ServerContext,
    search::{self, Table},
    server, show,
    values::{self, Timeout},
};

/// Answers requests with a JSON header: searches in a table
///
/// `search` in JSON is answered with the table's entry, anything that is not JSON with its first ten
/// bytes. Requests may be sent without waiting for replies; these come in order.
#[derive(Args, Debug)]
pub(super) struct ServerFlags {
    /// Where to listen: HOST:PORT (on all addresses of a name; port 0 takes a free one), unix:PATH
    /// (unix:@NAME: an abstract one), or systemd[:NAME], the next socket that the service manager
    /// passes, or all of NAME
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:65433",
          value_parser = values::listen)]
    listen: String,
    /// Search in this JSON object of strings instead of the few entries that are built in
    #[arg(long, value_name = "FILE", env = "WIRESTATE_TABLE")]
    table: Option<PathBuf>,
    /// Close each connection after its first reply
    #[arg(long, env = "WIRESTATE_ONE_SHOT", value_parser = BoolishValueParser::new())]
    one_shot: bool,
    /// The longest header of a request, up to 65535 bytes
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_HEADER", default_value = "4KiB",
          value_parser = header_limit)]
    max_header: u16,
    /// The longest content of a request
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_CONTENT", default_value = "1MiB",
          value_parser = values::bytes)]
    max_content: usize,
    /// Memory for large contents of all connections together: requests that are being received and
    /// replies that wait to be sent. A request or reply that exceeds it is answered by an error. In
    /// addition, each connection has a buffer of 64 KiB [default: 256MiB, or --max-content where
    /// that is more]
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_MEMORY", value_parser = values::bytes)]
    max_memory: Option<usize>,
    /// Close a connection that asks nothing for this long; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_IDLE_TIMEOUT", default_value = "1m")]
    idle_timeout: Timeout,
    #[command(flatten)]
    server: server::Flags,
}

impl ServerFlags {
    /// Refuses flags that contradict each other.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.max_memory {
            Some(memory) if memory < self.max_content => {
                Err(format!("--max-memory {memory} is below --max-content {}", self.max_content))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// With the longest names in wide use.
const SHORTEST_HEADER: u16 = 128;

fn header_limit(text: &str) -> Result<u16, String> {
    match u16::try_from(values::bytes(text)?) {
        Ok(limit @ SHORTEST_HEADER..) => Ok(limit),
        Ok(_) => Err(format!("a header has some 100 bytes: expected {SHORTEST_HEADER} or more")),
        Err(_) => Err(format!("two bytes of length allow {} bytes at most", u16::MAX)),
    }
}

pub(super) async fn serve<R: Host>(
    runtime: &R,
    flags: ServerFlags,
    around: &ServerContext,
) -> Result<(), Failure> {
    let table = flags.table.map_or_else(|| Ok(Table::default()), read_table)?;
    let limits = FrameLimits::new(flags.max_header, flags.max_content as u64);
    let default_memory = Config::default().max_memory.max(flags.max_content);
    let config = Config::default()
        .with_frame_limits(limits)
        .with_max_memory(flags.max_memory.unwrap_or(default_memory))
        .with_idle_timeout(server::idle_timeout(flags.idle_timeout))
        .with_one_shot(flags.one_shot);
    let app = Server::new(config, search::service(table)).map_err(Failure::Config)?;
    let setup = flags.server.setup::<R>("app-server").metrics_source(app.clone());
    let machine = move |_: &_, now| app.machine(now);
    server::run(runtime, &flags.listen, &setup, around, machine).await
}

fn read_table(path: PathBuf) -> Result<Table, Failure> {
    let json = fs::read(&path).map_err(Box::from);
    let table = json.and_then(|json| Table::from_json(&json).map_err(Box::from));
    table.map_err(|error| Failure::Table { path, error })
}

/// Makes one request, and shows the result
///
/// Action `search` is sent as JSON, any other as bytes: the action and the value, nothing between.
/// On a terminal, control characters in the result are escaped.
#[derive(Args, Debug)]
pub(super) struct ClientFlags {
    /// The server
    #[arg(value_name = "ADDR", value_parser = values::remote)]
    address: String,
    /// What to do: `search`, or anything else
    action: String,
    /// What with
    value: String,
    /// How long to wait for the connection; or `off`
    #[arg(long, value_name = "TIME", default_value = "10s")]
    connect_timeout: Timeout,
    /// How long all of it may take, from the connection to the last byte of the reply; or `off`. A
    /// reply that has begun has 5 s for its header, and 30 s or 1 KiB a second for its content, in
    /// any case
    #[arg(long, value_name = "TIME", default_value = "30s")]
    timeout: Timeout,
    /// The longest content of a reply
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = values::bytes)]
    max_content: usize,
}

pub(super) async fn ask<R: Host>(runtime: &R, flags: ClientFlags) -> Result<(), Failure> {
    let asked = within(&mut runtime.clock(), flags.timeout.0, request(runtime, &flags)).await;
    let (mut drive, result) = asked.unwrap_or_else(|limit| {
        Err(Failure::ended(&flags.address, &format!("no whole reply within {limit:?}")))
    })?;
    show(&result)?;
    // Our FIN. All was answered, so it does not matter who closes first.
    drive.shut_down().await;
    Ok(())
}

/// The connection, and the result that has come on it.
async fn request<R: Host>(
    runtime: &R,
    flags: &ClientFlags,
) -> Result<(Drive<Client, R::Socket, R::Clock>, Bytes), Failure> {
    let ClientFlags { address, action, value, connect_timeout, .. } = flags;
    let socket = connect_within(runtime, address, connect_timeout.0)
        .await
        .map_err(|error| Failure::Connect { address: address.clone(), error })?;
    let limits = FrameLimits::default().with_max_content(flags.max_content as u64);
    let config = ClientConfig::default().with_frame_limits(limits).with_reply_timeout(None);
    let client = Client::new(config).map_err(Failure::Config)?;
    let mut drive = Drive::new(client, socket, runtime.clock());
    let mut request = Some(search::request(action, value));
    let reply = drive.until(|client, now| match request.take() {
        Some(request) => client.request(&request, now).err().map(Err),
        None => client.take_reply().map(Ok),
    });
    let reply = reply.await.map_err(|ended| Failure::ended(address, &ended))?;
    let reply = reply.map_err(|error| Failure::ended(address, &error))?;
    let result = search::result(&reply).map_err(|error| Failure::ended(address, &error))?;
    Ok((drive, result))
}
