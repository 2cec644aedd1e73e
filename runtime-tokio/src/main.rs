//! The command line on tokio, with a worker thread per core.

use std::{process::ExitCode, thread};

use tokio::runtime::Builder;
use wirestate_core::command_line;
use wirestate_tokio::Tokio;

fn main() -> ExitCode {
    command_line::main("wirestate-tokio", |command| {
        // Of one core there is nothing to be shared out; and each system call costs the more, some
        // hundredths of all, once a second thread shares the table of files.
        let mut builder = match thread::available_parallelism()?.get() {
            1 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let runtime = builder.enable_all().build()?;
        let code = runtime.block_on(command.run(Tokio::new(runtime.handle().clone())));
        // Nothing is waited for that is stuck (a name that is still being looked up).
        runtime.shutdown_background();
        Ok(code)
    })
}
