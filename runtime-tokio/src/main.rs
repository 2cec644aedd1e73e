//! The command line on tokio: one worker thread per core; on a single core, only the main thread.

use std::{process::ExitCode, thread};

use tokio::runtime::Builder;
use wirestate_tokio::Tokio;

fn main() -> ExitCode {
    wirestate_command_line::main("wirestate-tokio", |command| {
        // On a single core, a second thread makes system calls slower (docs/decisions.md).
        let has_one_core = thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
        let mut builder =
            if has_one_core { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        let runtime = builder.enable_all().build()?;
        let code = runtime.block_on(command.run(Tokio::new(runtime.handle().clone())));
        // Does not wait for blocking tasks, for example for a resolver that does not answer.
        runtime.shutdown_background();
        Ok(code)
    })
}
