//! The command line on threads.

use std::process::ExitCode;

use wirestate_core::command_line;
use wirestate_std::{Threads, block_on};

fn main() -> ExitCode {
    command_line::main("wirestate-std", |command| Ok(block_on(command.run(Threads::new()))))
}
