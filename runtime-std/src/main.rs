//! The command line on threads, one per connection.

use std::process::ExitCode;

use wirestate_std::{Threads, block_on};

fn main() -> ExitCode {
    wirestate_command_line::main("wirestate-std", |command| {
        Ok(block_on(command.run(Threads::new())))
    })
}
