//! The command line on smol, with an executor thread per core.

use std::{future::pending, process::ExitCode, sync::Arc, thread};

use smol::{Executor, block_on};
use wirestate_core::command_line;
use wirestate_smol::Smol;

fn main() -> ExitCode {
    command_line::main("wirestate-smol", |command| {
        let executor = Arc::new(Executor::new());
        for number in 1..=thread::available_parallelism()?.get() {
            let executor = executor.clone();
            thread::Builder::new()
                .name(format!("smol-{number}"))
                .spawn(move || block_on(executor.run(pending::<()>())))?;
        }
        Ok(block_on(command.run(Smol::new(executor))))
    })
}
