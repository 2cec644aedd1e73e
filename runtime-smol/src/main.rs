//! The command line on smol, with an executor thread per core beside the main one.

use std::{future::pending, process::ExitCode, sync::Arc, thread};

use smol::{Executor, block_on};
use wirestate_smol::Smol;

fn main() -> ExitCode {
    wirestate_command_line::main("wirestate-smol", |command| {
        let executor = Arc::new(Executor::new());
        // This thread works too: with one to spare, tasks run while async-io looks for events, which costs
        // a twentieth less than without it.
        for number in 1..=thread::available_parallelism()?.get() {
            let executor = executor.clone();
            thread::Builder::new()
                .name(format!("smol-{number}"))
                .spawn(move || block_on(executor.run(pending::<()>())))?;
        }
        // A task, it is polled when it is woken itself, and not whenever this thread is.
        let command = executor.spawn(command.run(Smol::new(executor.clone())));
        Ok(block_on(executor.run(command)))
    })
}
