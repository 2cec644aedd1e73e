//! The command line on tokio: with a worker thread per core, or, of one core, on one thread.

use std::{process::ExitCode, thread};

use tokio::runtime::Builder;
use wirestate_tokio::Tokio;

fn main() -> ExitCode {
    wirestate_command_line::main("wirestate-tokio", |command| {
        // A second thread would make each system call dearer, some hundredths of a round trip, for the table
        // of files that they share; and nothing here blocks.
        let one = thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
        let mut builder =
            if one { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        let runtime = builder.enable_all().build()?;
        let code = runtime.block_on(command.run(Tokio::new(runtime.handle().clone())));
        // Nothing is waited for that is stuck (a name that is still being looked up).
        runtime.shutdown_background();
        Ok(code)
    })
}
