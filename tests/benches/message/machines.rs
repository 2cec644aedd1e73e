//! This project's servers: the machine of `app-server` with its defaults.

use std::io;

use wirestate_command_line::search::{self, Table};
use wirestate_core::{message::Server, runtime::Runtime, serve};

use crate::{dialogue::table, measure::runtimes::ProjectServer};

/// The server that answers requests.
pub(crate) struct App;

impl ProjectServer for App {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let table = Table::from_json(&serde_json::to_vec(&table())?).map_err(io::Error::other)?;
        let app = Server::with_default_config(search::service(table));
        serve::Server::new(runtime, listener).serve(|_, now| app.machine(now)).await;
        Ok(())
    }
}
