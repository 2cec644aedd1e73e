//! Runs the health checks of a proxy's upstreams.

use std::{
    boxed::Box,
    format,
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    string::ToString,
    task::Poll,
    vec::Vec,
};

use tracing::debug;

use super::{
    Config, DueCheck, Proxy,
    dialler::{is_exhausted, run_lookup},
};
use crate::{
    Instant,
    dial::{Check, CheckConfig, CheckReason},
    drive::{Clock, Drive, Ended},
    proxy_protocol,
    runtime::{Runtime, no_answer, within},
};

impl Proxy {
    /// Checks the upstreams as [`Config::check`] says, and looks up their names, until it is
    /// dropped. Without checks, it does nothing. [`serve`](super::serve()) runs it.
    ///
    /// A check connects to an endpoint as a client's connection does: with TLS if `runtime` has it.
    /// With [`Config::send_proxy`], it begins with a PROXY header that names no client. All checks
    /// of one endpoint come one after the other, and those of different ones at the same time.
    pub async fn check_upstreams<R: Runtime>(&self, runtime: &R) {
        let (upstreams, settings) = (self.upstreams(), self.relays().config());
        let Some(config) = &settings.check else { return pending().await };
        let mut clock = runtime.clock();
        let mut running: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = Vec::new();
        poll_fn(|cx| {
            loop {
                let now = clock.now();
                while let Some(lookup) = upstreams.poll_lookup(true, now) {
                    running.push(Box::pin(run_lookup(runtime, lookup, settings)));
                }
                while let Some(due) = upstreams.poll_check(now) {
                    running.push(Box::pin(run_check(runtime, due, settings, config)));
                }
                running.retain_mut(|task| task.as_mut().poll(cx).is_pending());
                let next = upstreams.next_check_or_lookup().unwrap_or(Instant::NEVER);
                if clock.poll_until(cx, next).is_pending() {
                    return Poll::<()>::Pending;
                }
            }
        })
        .await;
    }
}

/// Runs one check to its end, at most for [`CheckConfig::timeout`].
async fn run_check<R: Runtime>(
    runtime: &R,
    due: DueCheck,
    settings: &Config,
    config: &CheckConfig,
) {
    let mut clock = runtime.clock();
    let until = clock.now() + config.timeout;
    let connect = runtime.connect_named(due.endpoint().address(), due.endpoint().upstream());
    let connected = within(&mut clock, Some(config.timeout), connect).await;
    let now = clock.now();
    let socket = match connected.unwrap_or_else(|limit| Err(no_answer(limit))) {
        Ok(socket) => socket,
        Err(error) if is_exhausted(&error) => {
            debug!(upstream = %due.endpoint().upstream(), "no check: {error}");
            return due.postpone(config, now);
        }
        Err(error) => return due.finish(Err(error.to_string()), config, now),
    };
    let header = settings.send_proxy.map(proxy_protocol::encode_local).unwrap_or_default();
    let send = [&header[..], &config.send].concat();
    let check = Check::new(send, config.expect.clone(), now, until);
    let result = match Drive::new(check, socket, runtime.clock()).await {
        Ended::Reason(CheckReason::Passed) => Ok(()),
        Ended::Reason(CheckReason::Timeout { have, need }) => {
            let limit = no_answer(config.timeout);
            Err(format!("{limit}; bytes received: {have} of {need}"))
        }
        ended @ (Ended::Reason(_) | Ended::Aborted) => Err(ended.to_string()),
    };
    due.finish(result, config, clock.now());
}

/// Runs `main` to its end, and `beside` until then.
pub(super) async fn alongside<T>(
    main: impl Future<Output = T>,
    beside: impl Future<Output = ()>,
) -> T {
    let (mut main, mut beside) = (pin!(main), pin!(beside));
    let mut is_running = true;
    poll_fn(|cx| {
        is_running = is_running && beside.as_mut().poll(cx).is_pending();
        main.as_mut().poll(cx)
    })
    .await
}
