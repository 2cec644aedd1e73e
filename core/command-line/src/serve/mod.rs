//! The command `serve`: several servers in one process, from a configuration file.

mod configuration_file;

use std::path::PathBuf;

use clap::Args;

pub(super) use self::configuration_file::ConfigurationFile;
use crate::{
    CommandError, CommandRuntime, ServerContext, log,
    server::{self, Source},
};

/// Runs the servers of a configuration file in one process
///
/// The file is TOML. Each table `[servers.NAME]` is a server: the key `command` names its command,
/// and its other keys are the flags of that command, without the dashes. The keys `status`,
/// `status-host`, `status-tls` and `lame-duck`, and those of the status's certificate, stand at the
/// top, because they concern the process.
///
/// On SIGHUP, the file is read again, with all files that it names. Open connections continue. If
/// anything is wrong, the configuration in use stays.
#[derive(Args, Clone, Debug)]
pub(super) struct Flags {
    /// The configuration file
    #[arg(long = "config", value_name = "FILE", env = "WIRESTATE_CONFIG")]
    file: PathBuf,
    /// Check the configuration and the files that it names, and exit
    #[arg(long)]
    pub(super) check_config: bool,
}

pub(super) async fn run<R: CommandRuntime>(
    runtime: &R,
    flags: Flags,
    context: &ServerContext,
) -> Result<(), CommandError> {
    let source = Source::File(ConfigurationFile { path: flags.file });
    if !flags.check_config {
        return server::run(runtime, &source, context).await;
    }
    let servers = server::check(runtime, &source)?;
    log::write(&format!("the configuration is valid; servers: {servers}\n"));
    Ok(())
}
