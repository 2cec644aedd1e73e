//! Loading files again: reads and checks everything before anything changes.

use core::time::Duration;
use std::thread;

use wirestate_core::{
    runtime::within,
    serve::{Config, Server},
    shared::{Shared, promise},
};

use super::{
    Definition, Prepared, ReloadFiles, Share, Source,
    listening::{Bound, bind, keep},
};
use crate::{CommandError, CommandRuntime, ServerContext, self_upstream, systemd, tls::ServerTls};

/// What changes.
pub(super) struct Plan<R: CommandRuntime> {
    /// The files of servers that do not change otherwise, and of the status.
    pub(super) files: Vec<LoadedFiles>,
    pub(super) changes: Vec<Change<R>>,
    /// Servers that are unchanged, with the limits of their new share in the open files.
    pub(super) limits: Vec<(Shared<str>, Config)>,
    /// The names of servers that the configuration no longer has.
    pub(super) removed: Vec<Shared<str>>,
    /// The configuration has other flags for the process, which apply from the next start on.
    pub(super) process_differs: bool,
}

/// Files that were read.
pub(super) struct LoadedFiles {
    pub(super) server: Shared<str>,
    pub(super) description: &'static str,
    pub(super) put_to_use: Box<dyn FnOnce() + Send>,
}

/// A server that changes, or is new.
pub(super) struct Change<R: CommandRuntime> {
    pub(super) definition: Definition,
    pub(super) prepared: Prepared<R>,
    /// `None`: it is new.
    pub(super) stays: Option<Stays>,
    /// Listens on the addresses `added`.
    pub(super) server: Server<R>,
    pub(super) added: Vec<Bound>,
}

/// The addresses of a server that changes.
pub(super) struct Stays {
    pub(super) kept: Vec<Bound>,
    pub(super) removed: Vec<Bound>,
}

/// What the process serves.
pub(super) struct Current {
    pub(super) servers: Vec<CurrentServer>,
    pub(super) share: Share,
    pub(super) process_words: Vec<String>,
    pub(super) status_tls: Option<ServerTls>,
}

/// A server that is running.
pub(super) struct CurrentServer {
    pub(super) name: Shared<str>,
    pub(super) words: Vec<String>,
    pub(super) bound: Vec<Bound>,
    pub(super) files: Vec<Shared<dyn ReloadFiles>>,
}

/// What the files say.
struct Contents<R: CommandRuntime> {
    /// With the addresses of a server that is not new.
    changes: Vec<(Definition, Prepared<R>, Option<Vec<Bound>>)>,
    files: Vec<LoadedFiles>,
    limits: Vec<(Shared<str>, Config)>,
    removed: Vec<Shared<str>>,
    process_differs: bool,
}

/// Reads the configuration and all files, and listens on new addresses. The files are read on a
/// thread, because a read can take long, for example from a network.
///
/// # Errors
/// Something fails. Nothing has changed then.
pub(super) async fn plan<R: CommandRuntime>(
    runtime: &R,
    source: &Source,
    context: &ServerContext,
    current: Current,
) -> Result<Plan<R>, CommandError> {
    let (promise, contents) = promise();
    let (reading_runtime, source) = (runtime.clone(), source.clone());
    let read = move || {
        systemd::notify_reloading();
        // If it is no longer wanted, the process ends.
        let _ = promise.fulfil(read(&reading_runtime, &source, &current));
    };
    thread::Builder::new().name("reload".into()).spawn(read).map_err(CommandError::Spawn)?;
    let Contents { changes: contents, files, limits, removed, process_differs } = contents.await?;
    let (mut changes, mut clock) = (Vec::new(), runtime.clock());
    for (definition, prepared, earlier) in contents {
        let mut new = prepared.listen.clone();
        let stays = earlier.map(|earlier| {
            let (kept, removed) = keep(&earlier, &mut new);
            Stays { kept, removed }
        });
        let given_up = stays.iter().flat_map(|stays| &stays.removed);
        let mut given_up = given_up.flat_map(|bound| bound.inherited.clone()).collect();
        let (server, added) = bind(runtime, &new, &context.sockets, &mut given_up).await?;
        let kept = stays.iter().flat_map(|stays| &stays.kept);
        let own: Vec<_> = kept.chain(&added).cloned().collect();
        let check = self_upstream::find(runtime, &prepared.settings.upstreams, &own);
        // Without an answer, the proxy detects its own connections.
        if let Ok(Err(error)) = within(&mut clock, Some(RESOLVE_TIMEOUT), check).await {
            return Err(error);
        }
        changes.push(Change { definition, prepared, stays, server, added });
    }
    Ok(Plan { files, changes, limits, removed, process_differs })
}

fn read<R: CommandRuntime>(
    runtime: &R,
    source: &Source,
    current: &Current,
) -> Result<Contents<R>, CommandError> {
    let configuration = source.load()?;
    let share = Share { servers: configuration.share().servers, ..current.share };
    let is_kept = |name: &Shared<str>| configuration.servers.iter().any(|kept| kept.name == *name);
    let names = current.servers.iter().map(|server| server.name.clone());
    let removed = names.filter(|name| !is_kept(name)).collect();
    let process_differs = configuration.process_words != current.process_words;
    let (mut changes, mut files, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(tls) = current.status_tls.as_ref().filter(|_| !process_differs) {
        files.push(read_files(&"status".into(), tls)?);
    }
    for definition in configuration.servers {
        let earlier = current.servers.iter().find(|server| server.name == definition.name);
        let unchanged = earlier.filter(|earlier| earlier.words == definition.words);
        if let Some(unchanged) = unchanged {
            for file in &unchanged.files {
                files.push(read_files(&definition.name, &**file)?);
            }
            if share != current.share {
                let server = definition.prepare_to_serve(runtime, share)?;
                limits.push((definition.name, server.settings.config));
            }
        } else {
            let server = definition.prepare_to_serve(runtime, share)?;
            changes.push((definition, server, earlier.map(|earlier| earlier.bound.clone())));
        }
    }
    Ok(Contents { changes, files, limits, removed, process_differs })
}

fn read_files(server: &Shared<str>, files: &dyn ReloadFiles) -> Result<LoadedFiles, CommandError> {
    let (server, description) = (server.clone(), files.description());
    Ok(LoadedFiles { server, description, put_to_use: files.read()? })
}

/// How long the host names of a server's upstreams may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
