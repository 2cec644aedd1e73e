//! The commands `app-server` and `app-client`.

use core::{fmt::Write as _, time::Duration};
use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::Args;
use wirestate_core::{
    drive::{Clock as _, Drive},
    message::{Client, ClientConfig, Config, FrameLimits, Server, service::Service},
    quantity::Time,
    runtime::within,
};
use wirestate_tls::MaybeTls;

use crate::{
    CommandError, CommandRuntime,
    connect::ConnectFlags,
    output,
    search::{self, SharedTable, Table},
    server::{self, Prepared, ReloadFiles, Share},
    tls,
    values::{self, Timeout, exact_size},
};

/// Answers requests with a JSON header: looks up values in a table
///
/// The reply to a JSON request with the action `search` is the table's entry. The reply to content
/// that is not JSON is its first ten bytes. Requests may be sent without waiting for replies, which
/// come in order.
#[derive(Args, Clone, Debug)]
pub(super) struct ServerFlags {
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:65433",
          value_delimiter = ',', value_parser = values::listen, help = values::LISTEN_HELP)]
    listen: Vec<String>,
    /// A file with the table, a JSON object of strings [default: a few built-in entries]
    #[arg(long, value_name = "FILE", env = "WIRESTATE_TABLE")]
    table: Option<PathBuf>,
    /// Close each connection after its first reply
    #[arg(long, env = "WIRESTATE_ONE_SHOT", value_parser = values::boolean)]
    one_shot: bool,
    /// The longest header of a request, from 128B to 65535B
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_HEADER", default_value = "4KiB",
          value_parser = header_limit)]
    max_header: u16,
    /// The longest content of a request
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_CONTENT", default_value = "1MiB",
          value_parser = values::bytes)]
    max_content: usize,
    /// Memory for large contents of all connections together: requests that are being received, and
    /// replies that wait to be sent. A request or reply for which it does not suffice is answered
    /// by an error. In addition, each connection has a buffer of 64 KiB [default: 256MiB, or
    /// --max-content if that is more]
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_MEMORY", value_parser = values::bytes)]
    max_memory: Option<usize>,
    /// Close a connection that sends no request for this long; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_IDLE_TIMEOUT", default_value = "1m")]
    idle_timeout: Timeout,
    #[command(flatten)]
    server: server::Flags,
}

impl ServerFlags {
    /// Returns an error if flags contradict each other.
    pub(super) fn check(&self) -> Result<(), String> {
        server::check_listen(&self.listen)?;
        self.server.check()?;
        match self.max_memory {
            Some(memory) if memory < self.max_content => {
                let (memory, content) = (exact_size(memory), exact_size(self.max_content));
                Err(format!("--max-memory {memory} is below --max-content {content}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn config(&self) -> Config {
        let limits = FrameLimits::new(self.max_header, self.max_content as u64);
        let default_memory = Config::default().max_memory.max(self.max_content);
        Config::default()
            .with_frame_limits(limits)
            .with_max_memory(self.max_memory.unwrap_or(default_memory))
            .with_idle_timeout(server::idle_timeout(self.idle_timeout))
            .with_one_shot(self.one_shot)
    }

    /// The source code that makes the machine of a connection, with the table as it is now.
    ///
    /// # Errors
    /// The table cannot be read.
    pub(super) fn machine_source(&self) -> Result<String, CommandError> {
        let (config, default) = (self.config(), Config::default());
        let mut settings = String::new();
        if config.one_shot {
            settings.push_str(".with_one_shot(true)");
        }
        if config.frame_limits != default.frame_limits {
            let (header, content) = (self.max_header, self.max_content);
            let limits = format!("message::FrameLimits::new({header}, {content})");
            let _ = write!(settings, ".with_frame_limits({limits})");
        }
        if config.max_memory != default.max_memory {
            let _ = write!(settings, ".with_max_memory({})", config.max_memory);
        }
        let idle = self.idle_timeout.setting_source("with_idle_timeout", default.idle_timeout);
        let table = match &self.table {
            None => "Table::default()".to_owned(),
            Some(path) => {
                let json = read_json(path)?;
                format!("Table::from_json(b\"{}\").unwrap()", json.escape_ascii())
            }
        };
        Ok(format!(
            "message::Server::new(message::Config::default(){settings}{idle}, \
             wirestate_command_line::search::service(\
             wirestate_command_line::search::{table})).unwrap().machine(Instant::EPOCH)"
        ))
    }

    /// The server of a replay, with the table as it is now.
    ///
    /// # Errors
    /// The table cannot be read, or the configuration is invalid.
    pub(super) fn app(&self) -> Result<Server<impl Service + Clone>, CommandError> {
        let table = self.table.as_deref().map(read_table).transpose()?.unwrap_or_default();
        Server::new(self.config(), search::service(table)).map_err(CommandError::Config)
    }
}

fn header_limit(text: &str) -> Result<u16, String> {
    let limit = values::bytes_within(MIN_HEADER..=u16::MAX.into(), text)?;
    u16::try_from(limit).map_err(|error| error.to_string())
}

pub(super) fn prepare<R: CommandRuntime>(
    flags: ServerFlags,
    share: Share,
) -> Result<Prepared<R>, CommandError> {
    let config = flags.config();
    let mut settings = flags.server.settings::<R>(share)?;
    let table = match flags.table {
        None => SharedTable::default(),
        Some(path) => {
            let file = TableFile { table: read_table(&path)?.into(), path };
            let table = file.table.clone();
            settings = settings.with_files(file);
            table
        }
    };
    let app = Server::new(config, search::service(table)).map_err(CommandError::Config)?;
    let settings = settings.with_metrics(app.clone());
    Ok(settings.run("message", flags.listen, move |_, now| app.machine(now)))
}

/// The file of a table that is in use.
struct TableFile {
    path: PathBuf,
    table: SharedTable,
}

impl ReloadFiles for TableFile {
    fn description(&self) -> &'static str {
        "table"
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + Send>, CommandError> {
        let (new, table) = (read_table(&self.path)?, self.table.clone());
        Ok(Box::new(move || table.replace(new)))
    }
}

fn read_table(path: &Path) -> Result<Table, CommandError> {
    let table = Table::from_json(&read_json(path)?).map_err(Box::from);
    table.map_err(|error| CommandError::Table { path: path.to_owned(), error })
}

fn read_json(path: &Path) -> Result<Vec<u8>, CommandError> {
    let json = fs::read(path).map_err(Box::from);
    json.map_err(|error| CommandError::Table { path: path.to_owned(), error })
}

/// Sends one request, and shows the result
///
/// The action `search` is sent as JSON. Any other action is sent as bytes: the action, directly
/// followed by the value. On a terminal, control characters in the result are escaped.
#[derive(Args, Debug)]
pub(super) struct ClientFlags {
    /// The server's address, HOST:PORT or unix:PATH
    #[arg(value_name = "ADDR", value_parser = values::remote)]
    address: String,
    /// The action: `search`, or any other text
    #[arg(value_name = "ACTION")]
    action: String,
    /// The value: for `search`, the key to look up
    #[arg(value_name = "VALUE")]
    value: String,
    #[command(flatten)]
    connect: ConnectFlags,
    /// How long the connection, the request and the reply may take together; or `off`. In addition,
    /// the header of a reply must be complete 5 s after its first byte, and its content within 30 s
    /// or at 1 KiB a second
    #[arg(long, value_name = "TIME", default_value = "30s")]
    timeout: Timeout,
    /// The longest content of a reply
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = values::bytes)]
    max_content: usize,
    #[command(flatten)]
    tls: tls::ClientTlsFlags,
}

pub(super) async fn run_client<R: CommandRuntime>(
    runtime: &R,
    flags: ClientFlags,
) -> Result<(), CommandError> {
    let replied = within(&mut runtime.clock(), flags.timeout.0, request(runtime, &flags)).await;
    let (mut drive, result) = replied.unwrap_or_else(|limit| {
        Err(CommandError::ended(&flags.address, &format!("no whole reply within {}", Time(limit))))
    })?;
    let is_found = flags.action != "search" || !search::is_no_match(&result, &flags.value);
    if is_found {
        output::write_line(&result)?;
    }
    // Sends a FIN. No reply is outstanding, so either side may close first.
    drive.shut_down().await;
    let ClientFlags { address, value, .. } = flags;
    if is_found { Ok(()) } else { Err(CommandError::NoMatch { address, value }) }
}

/// Connects, sends the request, and returns the connection and the result.
async fn request<R: CommandRuntime>(
    runtime: &R,
    flags: &ClientFlags,
) -> Result<(Drive<MaybeTls<Client>, R::Socket, R::Clock>, Bytes), CommandError> {
    let ClientFlags { address, action, value, connect, tls, .. } = flags;
    let tls = tls.load(address, connect.connect_timeout.0)?;
    // Retries end before --timeout does, so that the error is that of the last attempt.
    let retry_for = connect.retry_for.min(flags.timeout.0.unwrap_or(Duration::MAX));
    let connect = ConnectFlags { retry_for, ..*connect };
    let socket = connect.connect(runtime, address).await?;
    let limits = FrameLimits::default().with_max_content(flags.max_content as u64);
    let config = ClientConfig::default().with_frame_limits(limits).with_reply_timeout(None);
    let client = Client::new(config).map_err(CommandError::Config)?;
    let clock = runtime.clock();
    let client = tls::around(tls.as_ref(), client, clock.now());
    let mut drive = Drive::new(client, socket, clock);
    let mut request = Some(search::request(action, value));
    let reply = drive.until(|client, now| match request.take() {
        Some(request) => client.inner_mut().request(&request, now).err().map(Err),
        None => client.inner_mut().take_reply().map(Ok),
    });
    let reply = reply.await.map_err(|ended| CommandError::ended(address, &ended))?;
    let reply = reply.map_err(|error| CommandError::ended(address, &error))?;
    let result = search::result(&reply).map_err(|error| CommandError::ended(address, &error))?;
    Ok((drive, result))
}

/// The lowest limit of a header, in bytes. A header with the four required keys and a common
/// character set is shorter.
const MIN_HEADER: usize = 128;
