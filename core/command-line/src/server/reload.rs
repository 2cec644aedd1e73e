//! Loading the configuration again: reads and checks everything before anything changes.

use wirestate_core::{serve::Server, shared::Shared};

use super::{Definition, Prepared, ReloadFiles, Source, process::bind};
use crate::{CommandError, CommandRuntime, ServerContext, tls::ServerTls};

/// The changes that make a process serve another configuration.
pub(super) struct Plan<R: CommandRuntime> {
    /// Put the files of servers to use that do not change otherwise.
    pub(super) files: Vec<Box<dyn FnOnce() + Send>>,
    pub(super) changes: Vec<Change<R>>,
    /// The names of servers that the configuration no longer has.
    pub(super) removed: Vec<Shared<str>>,
}

/// A server that changes.
pub(super) enum Change<R: CommandRuntime> {
    /// It stays on its address.
    Replace(Definition, Prepared<R>),
    /// It is new, or listens on another address.
    Listen(Definition, Prepared<R>, Server<R>),
}

/// A server that is running.
pub(super) struct CurrentServer {
    pub(super) name: Shared<str>,
    pub(super) words: Vec<String>,
    pub(super) listen: String,
    pub(super) files: Vec<Shared<dyn ReloadFiles>>,
}

impl<R: CommandRuntime> Change<R> {
    pub(super) fn name(&self) -> Shared<str> {
        match self {
            Self::Replace(definition, _) | Self::Listen(definition, ..) => definition.name.clone(),
        }
    }
}

/// Reads the configuration and all files, and listens on new addresses.
///
/// # Errors
/// Something fails. Nothing has changed then.
pub(super) async fn plan<R: CommandRuntime>(
    runtime: &R,
    source: &Source,
    context: &ServerContext,
    current: Vec<CurrentServer>,
    status_tls: Option<ServerTls>,
) -> Result<Plan<R>, CommandError> {
    let configuration = source.load()?;
    let share = configuration.share();
    let is_kept = |name: &Shared<str>| configuration.servers.iter().any(|kept| kept.name == *name);
    let removed =
        current.iter().map(|server| server.name.clone()).filter(|name| !is_kept(name)).collect();
    let (mut files, mut prepared) = (Vec::new(), Vec::new());
    if let Some(tls) = status_tls {
        files.push(tls.read()?);
    }
    for definition in configuration.servers {
        let earlier = current.iter().find(|server| server.name == definition.name);
        match earlier {
            Some(earlier) if earlier.words == definition.words => {
                for file in &earlier.files {
                    files.push(file.read()?);
                }
            }
            Some(_) | None => {
                let server = definition.prepare(runtime, share)?;
                let stays = earlier.is_some_and(|earlier| earlier.listen == server.listen);
                prepared.push((definition, server, stays));
            }
        }
    }
    let mut changes = Vec::new();
    for (definition, server, stays) in prepared {
        changes.push(if stays {
            Change::Replace(definition, server)
        } else {
            let listening = bind(runtime, &server.listen, &context.sockets).await?;
            Change::Listen(definition, server, listening)
        });
    }
    Ok(Plan { files, changes, removed })
}
