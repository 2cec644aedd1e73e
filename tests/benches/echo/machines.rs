//! This project's servers: the echo machine with its defaults.

use std::io;

use wirestate_core::{
    echo,
    runtime::Runtime,
    serve::{self, serve},
};

use crate::measure::runtimes::Ours;

/// The echo server.
pub(crate) struct Echo;

impl Ours for Echo {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let server = echo::Server::default();
        serve(&runtime, listener, &serve::Options::default(), |_, now| server.machine(now)).await;
        Ok(())
    }
}
