//! The command line on tokio, with a worker thread per core.

use std::process::ExitCode;

use wirestate_core::command_line;
use wirestate_tokio::Tokio;

fn main() -> ExitCode {
    command_line::main("wirestate-tokio", |command| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let code = runtime.block_on(command.run(Tokio::new(runtime.handle().clone())));
        // Nothing is waited for that is stuck (a name that is still being looked up).
        runtime.shutdown_background();
        Ok(code)
    })
}
