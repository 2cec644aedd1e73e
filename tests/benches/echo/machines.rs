//! This project's servers: the echo machine with its defaults.

use std::io;

use wirestate_core::{Runtime, echo, serve::Server};

use crate::measure::runtimes::ProjectServer;

/// The echo server.
pub(crate) struct Echo;

impl ProjectServer for Echo {
    async fn serve<R: Runtime>(self, server: Server<R>) -> io::Result<()> {
        let echo = echo::Server::default();
        server.serve(|_, now| echo.machine(now)).await;
        Ok(())
    }
}
