//! The command line on smol: one executor thread per core, and the main thread.

use std::{future::pending, process::ExitCode, sync::Arc, thread};

use smol::{Executor, block_on};
use wirestate_smol::Smol;

fn main() -> ExitCode {
    wirestate_command_line::main("wirestate-smol", |command| {
        let executor = Arc::new(Executor::new());
        // The main thread runs the executor as well: one thread more than cores
        // (docs/decisions.md).
        for number in 1..=thread::available_parallelism()?.get() {
            let executor = executor.clone();
            thread::Builder::new()
                .name(format!("smol-{number}"))
                .spawn(move || block_on(executor.run(pending::<()>())))?;
        }
        // Spawned, because `block_on` polls its own future at each wake-up of this thread.
        let command = executor.spawn(command.run(Smol::new(executor.clone())));
        Ok(block_on(executor.run(command)))
    })
}
