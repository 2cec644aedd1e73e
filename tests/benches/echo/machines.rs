//! This project's servers: the echo machine with its defaults.

use std::io;

use wirestate_core::{Runtime, echo, serve::Server};

use crate::measure::runtimes::ProjectServer;

/// The echo server.
pub(crate) struct Echo;

impl ProjectServer for Echo {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let echo = echo::Server::default();
        Server::new(runtime, listener).serve(|_, now| echo.machine(now)).await;
        Ok(())
    }
}
