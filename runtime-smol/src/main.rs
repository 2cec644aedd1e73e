//! The command line on smol: one executor thread per core, and the main thread.

use std::{future::pending, process::ExitCode, sync::Arc, thread};

use smol::{Executor, block_on};
use wirestate_smol::Smol;

fn main() -> ExitCode {
    wirestate_command_line::main("wirestate-smol", |command| {
        let executor = Arc::new(Executor::new());
        // The main thread runs the executor as well. With one thread more than cores, tasks run
        // while another thread waits for events.
        for number in 1..=thread::available_parallelism()?.get() {
            let executor = executor.clone();
            thread::Builder::new()
                .name(format!("smol-{number}"))
                .spawn(move || block_on(executor.run(pending::<()>())))?;
        }
        // A spawned task is polled only when it is woken. `block_on` would poll it whenever this
        // thread is.
        let command = executor.spawn(command.run(Smol::new(executor.clone())));
        Ok(block_on(executor.run(command)))
    })
}
