//! This project's servers: the fan-out machines with their defaults, but with `LagPolicy::Block`.

use std::{io, net::SocketAddr};

use wirestate_core::{
    drive::{Clock, Drive},
    fanout::{Config, Feed, LagPolicy, Subscriber, Upstream},
    runtime::Runtime,
    serve::Server,
};

use crate::measure::runtimes::ProjectServer;

/// The fan-out of the messages of `upstream`.
pub(crate) struct FanOut(pub(crate) SocketAddr);

impl ProjectServer for FanOut {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let feed = Feed::new(Config::default().with_on_lag(LagPolicy::Block))
            .expect("the configuration is valid");
        let socket = runtime.connect(&self.0.to_string()).await?;
        let clock = runtime.clock();
        let machine = Upstream::new(&feed, clock.now());
        runtime.spawn(Drive::new(machine, socket, clock))?;
        Server::new(runtime, listener).serve(|_, now| Subscriber::new(&feed, now)).await;
        Ok(())
    }
}
